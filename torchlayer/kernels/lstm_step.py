"""One step of an LSTM without gradients, for text that is written word by word."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _library
from ._sampled_loss import check_dense

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_NAMES = ("x", "h", "c", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
_NO_GRADIENT = "lstm_step has no gradient; call it in torch.no_grad(), or train with torch.nn.LSTM"


def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Read one ``x`` of each sequence and return ``(y, h', c')``: the outputs, and the state in memory of its own.

    Equals::

        i, f, g, o = (x @ weight_ih.T + h @ weight_hh.T + bias_ih + bias_hh).chunk(4, 1)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        y = h' = sigmoid(o) * tanh(c')

    On CUDA this is one launch, which reads the weights once for every eight sequences: for one its time is that of the
    reading, for more than four cuDNN is faster. It has no gradient.

    Shape:
        x ``(N, D)``, h and c ``(N, H)``, weight_ih ``(4H, D)``, weight_hh ``(4H, H)``, biases ``(4H,)``, all of one
        floating dtype (sixteen bits are summed in float32); returns three of ``(N, H)``.

    Raises:
        RuntimeError: a gradient is asked for.
        TypeError: not a dense tensor, or not all of one floating dtype.
        ValueError: shapes that do not fit, or several devices.

    >>> x, h, c = torch.ones(2, 3), torch.zeros(2, 1), torch.ones(2, 1)
    >>> y, h, c = lstm_step(x, h, c, torch.zeros(4, 3), torch.zeros(4, 1))
    >>> c.tolist()  # half forgotten
    [[0.5], [0.5]]
    """
    given = (x, h, c, weight_ih, weight_hh, bias_ih, bias_hh)
    _check(*given)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _library.tensors(given)):
        raise RuntimeError(_NO_GRADIENT)
    _library.check_no_tangents(_op, given)
    return _op(*given)


def _check(*given: Any) -> None:
    for name, tensor in zip(_NAMES, given):
        check_dense("lstm_step", name, tensor, optional=name.startswith("bias"))
    x, h = given[:2]
    if x.dtype not in _DTYPES:
        raise TypeError(f"lstm_step needs x in float32, float64, float16 or bfloat16, got {x.dtype}; call x.float()")
    if x.dim() != 2 or h.dim() != 2:
        shapes = f"{tuple(x.shape)} and {tuple(h.shape)}"
        raise ValueError(f"lstm_step needs x (N, D) and h (N, H), got {shapes}; one step, without an axis of time")
    (n, n_in), n_units = x.shape, h.shape[1]
    states, biases = [(n, n_units)] * 2, [(4 * n_units,)] * 2
    shapes = [(n, n_in), *states, (4 * n_units, n_in), (4 * n_units, n_units), *biases]
    for name, tensor, shape in zip(_NAMES, given, shapes):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            raise TypeError(f"lstm_step needs {name} in x's dtype, {x.dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"lstm_step needs {name} on {x.device}, where x is, got {tensor.device}")
        if tensor.shape != shape:
            raise ValueError(f"lstm_step needs {name} {shape}, got {tuple(tensor.shape)}")


def _reference(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    given = (x, h, c, weight_ih, weight_hh, bias_ih, bias_hh)
    _library.check_layouts("torchlayer::lstm_step", given)
    _check(*given)
    dtype = x.dtype
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, h, c, weight_ih, weight_hh = (t.to(real) for t in (x, h, c, weight_ih, weight_hh))
    bias_ih, bias_hh = (None if b is None else b.to(real) for b in (bias_ih, bias_hh))
    sums = F.linear(x, weight_ih, bias_ih) + F.linear(h, weight_hh, bias_hh)
    i, f, g, o = sums.chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    y = (torch.sigmoid(o) * torch.tanh(c)).to(dtype)
    return y, y.clone(), c.to(dtype)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    _check(*arguments)
    y, h, c = (torch.empty_like(arguments[1], memory_format=torch.contiguous_format) for _ in range(3))
    return y, h, c


def _example(device: torch.device) -> tuple:
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(2, 40), (2, 36), (2, 36), (144, 40), (144, 36), (144,), (144,)]
    return tuple(torch.randn(shape, device=device, generator=generator) / 4 for shape in shapes)


_op = _library.define(
    "lstm_step(Tensor x, Tensor h, Tensor c, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh) "
    "-> (Tensor, Tensor, Tensor)",
    _reference,
    _fake,
    _example,
    _library.refuse(_NO_GRADIENT),
)
