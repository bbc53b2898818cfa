"""A linear layer and softmax cross-entropy in one, some rows at a time, so that the ``(N, V)`` logits never exist.

No compiled kernel: each chunk is three matrix products, which the vendor's library does best, and a softmax between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import bad_ids
from ._library import refuse
from ._sampled_loss import DTYPES, autocasting, check_dense, check_ids, sum_dtype

# Logits held at a time: 16 MB of float32.
_CHUNK = 1 << 22
# Every chunk also adds to the whole of the weight's gradient, so chunks of few rows would do little else.
_FEWEST_ROWS = 128
# F.cross_entropy skips the rows whose target is its ignore_index, -100 by default. We skip none, so this is an id that
# no label has; not the smallest int64, which is what a NaN turns into when it is cast.
NO_TARGET = -(2**62)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Softmax cross-entropy of the logits ``hidden @ weight.T + bias``, of which few are held at a time.

    Equals ``F.cross_entropy(F.linear(hidden, weight, bias), target)``, without its two or three ``(N, V)`` tensors: the
    gradients are computed in the forward pass, chunk by chunk, while the chunk's logits are there. Beside its results
    the call needs one chunk. (With ``reduction="none"`` the logits are computed again in the backward pass.) Softmax
    and sums are in float32 at least; under autocast the products are in its dtype. It can be differentiated once.

    Args:
        weight: a row for each class. For a :class:`torchlayer.layers.DenseLayer` pass ``dense.W.T`` and ``dense.b``;
            for an embedding that shares its weights, ``embedding.embeddings``.
        reduction: "mean", "sum", or "none" for one loss a target.
        ignore_index: targets of this value count for nothing, neither in the sum nor in the mean.
        chunk_size: rows of ``hidden`` at a time; by default as many as make four million logits, at least 128.

    Shape:
        hidden ``(N, D)`` or ``(..., D)``, weight ``(V, D)``, target ``(N,)`` or ``(...)`` of any integer type (ids
        ``(B, T)`` fit ``(B * T, D)`` too), bias ``(V,)``; returns a scalar, or the target's shape.

    Raises:
        TypeError, ValueError: dtypes, shapes or devices do not fit; the text says which.
        IndexError: a target lies outside ``[0, V)``, on a CPU. On CUDA torch's own device assertion fails, unless
            ``TORCHLAYER_CHECK=1`` asks for a look before.

    Reference:
        Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, which also computes the gradients in the forward pass.

    >>> hidden, weight = torch.eye(3), torch.tensor([[2.0, 0.5, 0.0], [1.0, 2.5, 0.0]])
    >>> linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 0]))
    tensor(0.3778)
    """
    dtype = _check(hidden, weight, target, bias, reduction, ignore_index, chunk_size)
    rows = hidden.reshape(-1, hidden.shape[-1])
    ids = target.reshape(-1).long()
    kept = None if ignore_index is None else ids != ignore_index
    if bad_ids.may_look_at(ids) and not torch.compiler.is_compiling():
        check_ids("linear_cross_entropy", "targets", ids if kept is None else torch.where(kept, ids, 0), len(weight))
    n_rows = _rows(len(rows), len(weight), chunk_size)
    settings = (ids, kept, NO_TARGET if ignore_index is None else ignore_index, n_rows, dtype)
    if reduction == "none":
        return _Each.apply(rows, weight, bias, *settings).reshape(target.shape)  # type: ignore[union-attr]
    total = _Summed.apply(rows, weight, bias, *settings, torch.is_grad_enabled())
    if reduction == "sum":
        return total  # type: ignore[return-value]
    return total / (len(rows) if kept is None else kept.sum())  # type: ignore[operator]


class _Summed(torch.autograd.Function):
    """The sum of the losses; its gradients are made in the forward pass and scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        kept: Tensor | None,
        ignored: int,
        n_rows: int,
        dtype: torch.dtype,
        with_gradients: bool,
    ) -> Tensor:
        real = sum_dtype(weight.dtype)
        total = hidden.new_zeros((), dtype=real)
        wanted = [with_gradients and needed for needed in ctx.needs_input_grad[:3]]
        # in the weight's own layout, so that the gradient of a transposed one is not copied later
        d_hidden = torch.empty_like(hidden) if wanted[0] else None
        d_weight = torch.zeros_like(weight, dtype=real) if wanted[1] else None
        d_bias = torch.zeros_like(bias, dtype=real) if wanted[2] and bias is not None else None
        for part, logits, h, w in _chunks(hidden, weight, bias, n_rows, dtype):
            logs = logits.log_softmax(1, dtype=real)
            # not in place: compiled by torch 2.11, what is returned would get no gradient then
            total = total + F.nll_loss(logs, ids[part], ignore_index=ignored, reduction="sum")
            if not any(wanted):
                continue
            slope = _less_the_true(logs.exp_(), ids[part], None if kept is None else kept[part])
            low = slope.to(dtype)
            if d_hidden is not None:
                d_hidden[part] = low @ w
            if d_weight is not None:
                _add_product(d_weight, low, h, first=part.start == 0)
            if d_bias is not None:
                d_bias += slope.sum(0)
        ctx.save_for_backward(hidden, weight, bias, d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        inputs, slopes = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        scaled = [None if d is None else (d * d_total).to(x.dtype) for d, x in zip(slopes, inputs)]
        return (*_once(scaled, d_total, *inputs), *[None] * 6)


class _Each(torch.autograd.Function):
    """Each row's loss. How much each will count is not known yet, so the backward pass computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        kept: Tensor | None,
        ignored: int,
        n_rows: int,
        dtype: torch.dtype,
    ) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=sum_dtype(weight.dtype))
        for part, logits, _, _ in _chunks(hidden, weight, bias, n_rows, dtype):
            logs = logits.log_softmax(1, dtype=losses.dtype)
            losses[part] = F.nll_loss(logs, ids[part], ignore_index=ignored, reduction="none")
        ctx.save_for_backward(hidden, weight, bias, ids, kept)
        ctx.n_rows, ctx.dtype = n_rows, dtype
        return losses

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, kept = ctx.saved_tensors
        real = sum_dtype(weight.dtype)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if need_hidden else None
        d_weight = torch.zeros_like(weight, dtype=real) if need_weight else None
        d_bias = torch.zeros_like(bias, dtype=real) if need_bias else None
        for part, logits, h, w in _chunks(hidden, weight, bias, ctx.n_rows, ctx.dtype):
            slope = _less_the_true(logits.softmax(1, dtype=real), ids[part], None if kept is None else kept[part])
            slope *= d_losses[part, None]
            low = slope.to(ctx.dtype)
            if d_hidden is not None:
                d_hidden[part] = low @ w
            if d_weight is not None:
                _add_product(d_weight, low, h, first=part.start == 0)
            if d_bias is not None:
                d_bias += slope.sum(0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return (*_once([d_hidden, d_weight, d_bias], d_losses, hidden, weight, bias), *[None] * 5)


class _Once(torch.autograd.Function):
    """A gradient as it is, whose own gradient is refused rather than left out."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *inputs: Tensor | None) -> Tensor:
        return gradient.clone()

    backward = staticmethod(refuse("linear_cross_entropy can be differentiated once, not twice"))


def _once(gradients: list[Tensor | None], *inputs: Tensor | None) -> list[Tensor | None]:
    if not torch.is_grad_enabled():  # nobody asked for create_graph
        return gradients
    return [None if g is None else _Once.apply(g, *inputs) for g in gradients]  # type: ignore[misc]


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, n_rows: int, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """For some rows after the other: which, their logits, and the factors of the product."""
    w = weight.to(dtype)
    b = None if bias is None else bias.to(dtype)
    for first in range(0, len(hidden), n_rows):
        part = slice(first, first + n_rows)
        h = hidden[part].to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):  # dtype says it all
            logits = F.linear(h, w, b)
        yield part, logits, h, w


def _less_the_true(p: Tensor, ids: Tensor, kept: Tensor | None) -> Tensor:
    """The loss's gradient for the logits: the probabilities ``p``, which are written over, less 1 at the true class."""
    at = (ids if kept is None else torch.where(kept, ids, 0))[:, None]
    p.scatter_(1, at, p.gather(1, at) - 1)
    return p if kept is None else p.mul_(kept[:, None])


def _add_product(d_weight: Tensor, slope: Tensor, hidden: Tensor, first: bool) -> None:
    """``d_weight += slope.T @ hidden``, whose sum over chunks is kept wider than half precision."""
    with torch.autocast(hidden.device.type, enabled=False):
        if slope.dtype == d_weight.dtype:
            d_weight.addmm_(slope.T, hidden, beta=0 if first else 1)
        else:
            d_weight += slope.T @ hidden


def _rows(n: int, n_classes: int, chunk_size: int | None) -> int:
    """How many rows a chunk has: all chunks about the same, so that none is a small rest."""
    most = max(_FEWEST_ROWS, _CHUNK // n_classes) if chunk_size is None else chunk_size
    n_chunks = max(1, -(-n // most))
    return max(1, -(-n // n_chunks))


def _check(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    chunk_size: int | None,
) -> torch.dtype:
    """The dtype to multiply in."""
    name = "linear_cross_entropy"
    for argument, value in (("hidden", hidden), ("weight", weight), ("target", target), ("bias", bias)):
        check_dense(name, argument, value, optional=argument == "bias")
    devices = sorted({str(x.device) for x in (hidden, weight, target, bias) if x is not None})
    if len(devices) > 1:
        raise ValueError(f"{name} needs all tensors on one device, got {' and '.join(devices)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name} needs reduction 'none', 'mean' or 'sum', got {reduction!r}")
    for argument, number in (("ignore_index", ignore_index), ("chunk_size", chunk_size)):
        if isinstance(number, bool) or not isinstance(number, int | torch.SymInt | None):
            raise TypeError(f"{name} needs {argument} as an int, got {type(number).__name__}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"{name} needs chunk_size of at least 1, got {chunk_size}")
    if target.is_floating_point() or target.is_complex() or target.is_quantized or target.dtype == torch.bool:
        raise TypeError(f"{name} needs class ids of an integer type, got {target.dtype}; call target.long()")
    shapes = f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}"
    if hidden.dim() < 1 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        cure = "; a DenseLayer's weight goes in as W.T" if hidden.shape[-1:] == weight.shape[:1] else ""
        raise ValueError(f"{name} needs hidden (..., D) and weight (V, D), got {shapes}{cure}")
    if 0 in weight.shape:
        raise ValueError(f"{name} needs at least one class and one feature, got weight {tuple(weight.shape)}")
    flat = hidden.dim() == 2 and len(hidden) == target.numel()
    if not flat and hidden.shape[:-1] != target.shape:
        raise ValueError(f"{name} needs one id for each row of hidden, got {shapes}, target {tuple(target.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{name} needs bias ({len(weight)},), got {tuple(bias.shape)}")
    dtypes = {x.dtype for x in (hidden, weight, bias) if x is not None}
    if autocasting(hidden) and dtypes <= set(DTYPES) - {torch.float64}:  # which autocast leaves alone
        return torch.get_autocast_dtype(hidden.device.type)
    if not dtypes <= set(DTYPES) or len(dtypes) > 1:
        shown = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(f"{name} needs hidden, weight and bias in one floating dtype, got {shown}")
    return weight.dtype
