"""A draw from the largest of each row's logits, the noise brought along."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import _library
from ._sampled_loss import check_dense

MOST = 1024  # candidates of the CUDA kernel: a thread each
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def draw_top_k(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw from each row's ``K`` largest logits, as many as there is noise for; of equal ones the first count.

    Equals::

        best, index = logits.sort(dim=1, descending=True, stable=True)
        choice = (best[:, :K] / temperature - noise.log()).argmax(1)        # Gumbel's way to draw from a softmax
        index.gather(1, choice[:, None])[:, 0]                              # -1 where the largest is not finite

    On CUDA this is one launch, a block a row. It follows no generator, so that a CUDA graph which fills ``noise`` by
    ``exponential_()`` draws afresh at every replay. Ids have no gradient.

    Shape:
        logits ``(N, V)`` of a floating dtype (on CUDA not float64), noise ``(N, K)`` above zero, float32 (float64 for
        logits in float64), ``K`` at most ``V`` and on CUDA at most 1024; returns ``(N,)`` int64.

    Raises:
        TypeError: not dense tensors of a floating dtype, noise in another one, or ``temperature`` is no number.
        ValueError: shapes that do not fit, several devices, or ``temperature`` is not above 0.

    >>> draw_top_k(torch.tensor([[0.0, 1.0, 9.0], [0.0, 9.0, torch.nan]]), torch.ones(2, 2))
    tensor([ 2, -1])
    """
    _check(logits, noise, temperature)
    _library.check_no_tangents(_op, (logits, noise))
    return _op(logits.detach(), noise.detach(), temperature)


def _check(logits: Tensor, noise: Tensor, temperature: float) -> None:
    for name, tensor in (("logits", logits), ("noise", noise)):
        check_dense("draw_top_k", name, tensor)
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"draw_top_k needs floating-point {name}, got {tensor.dtype}; call {name}.float()")
    real = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if noise.dtype != real:
        raise TypeError(f"draw_top_k needs noise in {real} for logits in {logits.dtype}, got {noise.dtype}")
    if noise.device != logits.device:
        raise ValueError(f"draw_top_k needs noise on {logits.device}, where logits is, got {noise.device}")
    shapes = f"{tuple(logits.shape)} and {tuple(noise.shape)}"
    if logits.dim() != 2 or noise.dim() != 2 or len(logits) != len(noise):
        raise ValueError(f"draw_top_k needs logits (N, V) and noise (N, K), got {shapes}")
    if not 1 <= noise.shape[1] <= logits.shape[1]:
        raise ValueError(f"draw_top_k needs noise (N, K) with K from 1 to V, got logits and noise {shapes}")
    try:
        positive = temperature > 0
    except TypeError:
        raise TypeError(f"draw_top_k needs temperature as a number, got {type(temperature).__name__}") from None
    if not positive:
        raise ValueError(f"draw_top_k needs a temperature above 0, got {temperature}")


def _reference(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    _library.check_layouts("torchlayer::draw_top_k", (logits, noise))
    _check(logits, noise, temperature)
    info = torch.finfo(noise.dtype)
    values, index = logits.to(noise.dtype).sort(dim=1, descending=True, stable=True)
    k = noise.shape[1]
    values, index, top = values[:, :k], index[:, :k], values[:, :1]
    scaled = (values - top) / min(max(temperature, info.tiny), info.max)
    choice = (scaled - noise.log()).argmax(1, keepdim=True)
    return torch.where(top.isfinite(), index.gather(1, choice), -1).squeeze(1)


def _fake(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    _check(logits, noise, temperature)
    return logits.new_empty(len(logits), dtype=torch.int64)


def _example(device: torch.device) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(16, 3000, device=device, generator=generator)
    return logits, torch.empty(16, 10, device=device).exponential_(generator=generator), math.e


_op = _library.define(
    "draw_top_k(Tensor logits, Tensor noise, float temperature) -> Tensor",
    _reference,
    _fake,
    _example,
    _library.refuse("draw_top_k gives ids, and those have no gradient"),
)
