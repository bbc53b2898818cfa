"""Drawing the next word from what a network says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..kernels import _library
from ..kernels.draw_top_k import MOST

Probabilities = Tensor | np.ndarray | Sequence[float]
Rng = int | np.random.Generator | np.random.RandomState | torch.Generator | None

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_CLASSES = 2**16  # which one block of threads reads faster than torch sorts them


@overload
def sample(a: Tensor, temperature: float | None = 1.0, rng: Rng = None) -> Tensor: ...
@overload
def sample(a: np.ndarray | Sequence[float], temperature: float | None = 1.0, rng: Rng = None) -> int: ...
def sample(a: Any, temperature: float | None = 1.0, rng: Rng = None) -> Any:
    """Draw an index from probabilities, or from any weights: they are normalised.

    The chance of index ``i`` is proportional to ``a[i] ** (1 / temperature)``: below 1 the likely ones become likelier.
    If the network's logits are at hand, :func:`sample_logits` is more exact.

    Args:
        a: an array or a list gives an int, drawn in float64. A tensor is drawn from on its device, row by row.
        temperature: 0 or ``None`` takes the largest.
        rng: ``None`` is the global NumPy stream, as in TensorLayer, and for tensors torch's global one of the device.
            An int is a seed.
    Shape:
        a ``(V,)``, as a tensor ``(..., V)``, which returns ``(...)`` int64.
    Raises:
        ValueError: there is nothing to draw from: no weight above zero, a negative one, or NaN. (A CUDA tensor is not
            looked at: there such a row gives -1.)

    >>> np.random.seed(0)
    >>> [sample([0.1, 0.2, 0.7]) for _ in range(10)]
    [2, 2, 2, 1, 0, 1, 2, 0, 2, 1]
    """
    if isinstance(a, Tensor):
        return sample_logits(_logs(a), temperature, rng=torch_stream(rng, a.device))
    p = _weights("sample", a)
    if _is_greedy(temperature):
        return int(p.argmax())
    if temperature != 1:
        with np.errstate(divide="ignore"):  # the log of 0 is as good as any number
            logs = np.log(p) / temperature
        p = np.exp(logs - logs.max())
    return int(np.argmax(_numpy_stream(rng).multinomial(1, p / p.sum())))


@overload
def sample_top(a: Tensor, top_k: int = 10, temperature: float | None = 1.0, rng: Rng = None) -> Tensor: ...
@overload
def sample_top(
    a: np.ndarray | Sequence[float], top_k: int = 10, temperature: float | None = 1.0, rng: Rng = None
) -> int: ...
def sample_top(a: Any, top_k: int = 10, temperature: float | None = 1.0, rng: Rng = None) -> Any:
    """Draw an index from the ``top_k`` largest probabilities, or from all if there are fewer. See :func:`sample`.

    Shape:
        a ``(V,)``, as a tensor ``(..., V)``, which returns ``(...)`` int64.
    Raises:
        ValueError: as in :func:`sample`, or ``top_k`` is less than 1.

    >>> np.random.seed(0)
    >>> [sample_top([0.05, 0.1, 0.15, 0.3, 0.4], top_k=2) for _ in range(10)]
    [4, 4, 4, 4, 3, 4, 4, 4, 4, 3]
    """
    if isinstance(a, Tensor):
        return sample_logits(_logs(a), temperature, top_k, rng=torch_stream(rng, a.device))
    p = _weights("sample_top", a)
    k = min(_top_k(top_k), len(p))
    best = np.argpartition(p, -k)[-k:]
    if _is_greedy(temperature):
        return int(best[p[best].argmax()])
    weights = p[best]
    if temperature != 1:
        with np.errstate(divide="ignore"):
            logs = np.log(weights) / temperature
        weights = np.exp(logs - logs.max())
    return int(_numpy_stream(rng).choice(best, p=weights / weights.sum()))


def sample_logits(
    logits: Tensor,
    temperature: float | Tensor | None = 1.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    rng: int | torch.Generator | None = None,
) -> Tensor:
    """Draw an index from each row of logits, on their device and without waiting for it.

    Args:
        temperature: divides the logits; 0 or ``None`` takes the largest. A tensor gives each row its own, above 0.
        top_k: draw from the ``top_k`` largest only. A tensor gives each row its own.
        top_p: draw from the nucleus only: the largest ones, as few as together have the probability ``top_p``. A tensor
            gives each row its own, above 0.
        rng: ``None`` is torch's global stream of the device, an int a seed.
    Shape:
        logits ``(..., V)``; a tensor of temperatures, ``top_k`` or ``top_p`` ``(...)``; returns ``(...)`` int64.
    Raises:
        ValueError: a row has NaN or infinity, or nothing above minus infinity. (On CUDA such a row gives -1.)
    Reference:
        Holtzman et al. 2020, The curious case of neural text degeneration, arXiv:1904.09751 (the nucleus).

    >>> logits = torch.tensor([[0.0, 1.0, 9.0], [0.0, 9.0, 1.0]])
    >>> sample_logits(logits, temperature=0)
    tensor([2, 1])
    >>> sample_logits(logits, top_k=2, top_p=0.5)
    tensor([2, 1])
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"sample_logits takes a tensor, got {type(logits).__name__}; convert it with torch.as_tensor")
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"sample_logits needs logits of shape (..., V), got {tuple(logits.shape)}")
    if top_p is not None and not isinstance(top_p, Tensor) and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie above 0 and not above 1, got {top_p!r}")
    if _draws_by_kernel(logits, temperature, top_k, top_p):
        return _drawn_by_kernel(logits.detach(), float(temperature), _top_k(top_k), rng)  # type: ignore[arg-type]
    values = logits.detach()
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    # A maximum that is not finite is NaN, infinity, or a row where nothing is possible.
    nothing = ~values.amax(-1).isfinite()
    if values.device.type == "cpu" and bool(nothing.any()):
        row = int(nothing.flatten().nonzero()[0])
        raise ValueError(f"row {row} is no distribution to draw from: it has NaN, infinity, or nothing possible in it")
    return torch.where(nothing, -1, _drawn(values, temperature, top_k, top_p, rng))


def _draws_by_kernel(logits: Tensor, temperature: Any, top_k: Any, top_p: Any) -> bool:
    """Whether one launch draws: on CUDA, from the ``top_k`` largest of every row at one temperature."""
    if not logits.is_cuda or logits.dtype not in _DTYPES or logits.shape[-1] > _MOST_CLASSES or not logits.numel():
        return False
    if top_k is None or top_p is not None or isinstance(top_k, Tensor) or isinstance(temperature, Tensor):
        return False
    if torch.compiler.is_compiling() or _is_greedy(temperature) or min(_top_k(top_k), logits.shape[-1]) > MOST:
        return False
    return _library.load("cuda").name == "cuda"


def _drawn_by_kernel(logits: Tensor, temperature: float, k: int, rng: int | torch.Generator | None) -> Tensor:
    rows = logits.reshape(-1, logits.shape[-1])
    noise = torch.empty(len(rows), min(k, rows.shape[1]), device=rows.device)
    noise.exponential_(generator=torch_stream(rng, rows.device))
    draw = torch.ops.torchlayer.draw_top_k.default
    return _library.below_autograd(draw, rows, noise, temperature).view(logits.shape[:-1])


def _drawn(
    values: Tensor,
    temperature: float | Tensor | None,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    rng: int | torch.Generator | None,
) -> Tensor:
    if isinstance(temperature, Tensor):
        values = values / temperature.to(values).unsqueeze(-1)
    elif temperature is None or _is_greedy(temperature):
        return values.argmax(-1)
    else:
        values = values / temperature
    index = None
    if top_p is not None or isinstance(top_k, Tensor):
        values, index = values.sort(-1, descending=True)
    if isinstance(top_k, Tensor):
        rank = torch.arange(values.shape[-1], device=values.device)
        values = values.masked_fill(rank >= top_k.clamp(min=1).unsqueeze(-1), -math.inf)
    elif top_k is not None:
        k = min(_top_k(top_k), values.shape[-1])
        if index is None:
            values, index = values.topk(k, -1)
        else:
            values, index = values[..., :k], index[..., :k]
    if top_p is not None:
        p, top_p = values.softmax(-1), top_p.to(values).unsqueeze(-1) if isinstance(top_p, Tensor) else top_p
        values = values.masked_fill(p.cumsum(-1) - p >= top_p, -math.inf)  # what comes before has enough already
    # The largest of logit + Gumbel noise is a draw from the softmax; torch.multinomial would assert on the device.
    noise = torch.empty_like(values).exponential_(generator=torch_stream(rng, values.device)).log_()
    choice = (values - noise).argmax(-1, keepdim=True)
    return (choice if index is None else index.gather(-1, choice)).squeeze(-1)


def _weights(owner: str, a: Any) -> np.ndarray:
    p = np.asarray(a, np.float64)
    if p.ndim != 1:
        raise ValueError(f"{owner} draws from one row of an array, got shape {p.shape}; pass a tensor for several rows")
    total = p.sum()
    if not len(p) or not (p >= 0).all() or not 0 < total < math.inf:
        what = "nothing" if not len(p) else "NaN, infinity, a negative weight, or no weight above zero"
        raise ValueError(f"{owner} needs weights to draw from, got {what}")
    return p / total


def _logs(a: Tensor) -> Tensor:
    return (a if a.dtype in (torch.float32, torch.float64) else a.float()).log()  # NaN where negative


def _is_greedy(temperature: Any) -> bool:
    if temperature is None:
        return True
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0, None or a positive number, got {temperature!r}")
    return temperature == 0


def _top_k(top_k: Any) -> int:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k!r}")
    return int(top_k)


def _numpy_stream(rng: Any) -> Any:
    if rng is None:
        return np.random
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng))
    raise TypeError(f"rng must be None, an int, or a NumPy Generator or RandomState to draw from an array, got {rng!r}")


def torch_stream(rng: Any, device: torch.device) -> torch.Generator | None:
    if rng is None or isinstance(rng, torch.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return torch.Generator(device).manual_seed(int(rng))
    raise TypeError(f"rng must be None, an int or a torch.Generator to draw from a tensor, got {rng!r}")
