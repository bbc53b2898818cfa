"""What the row optimisers share: the tensors they accept, and duplicates summed in static shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _library, bad_ids

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def state_dtype(weight: Tensor) -> torch.dtype:
    """What sums and states are kept in: float64 for float64, else float32."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def as_rate(lr: float | Tensor, weight: Tensor) -> Tensor:
    """The learning rate as the ops want it: one number on the weight's device."""
    return lr if isinstance(lr, Tensor) else torch.full((), lr, dtype=torch.float64, device=weight.device)


def mark_written(*tensors: Tensor) -> None:
    """Tell autograd, as in-place functions do: a backward pass that still needs the old values then refuses to run."""
    if not torch.compiler.is_compiling():  # a compiled graph knows what its ops write to
        torch.autograd.graph.increment_version([tensor for tensor in tensors if not tensor.is_inference()])


def update_rows(
    updated: Callable[..., tuple[Tensor, ...]],
    weight: Tensor,
    states: tuple[Tensor, ...],
    ids: Tensor,
    row_grads: Tensor,
    *numbers: Any,
) -> None:
    """Apply ``weight, *states = updated(weight, *states, grad, *numbers)`` to the rows that ``ids`` name.

    No shape depends on how many ids differ, so nothing waits for the device: there are as many places as ids, every
    distinct id owns the first of its places in the sorted ids, and the others are computed but never read. Where ids
    are not looked at (on CUDA), one out of range is moved into range and turns the row it meets into NaN.
    """
    if ids.numel() == 0:
        return
    misplaced = (ids < 0) | (ids >= len(weight))
    ids = ids.clamp(0, len(weight) - 1)
    values = row_grads.to(state_dtype(weight))
    values = values.masked_fill(misplaced.view(-1, *[1] * (values.dim() - 1)), math.nan)

    rows = ids.sort().values
    place = torch.searchsorted(rows, ids)
    grad = torch.zeros_like(values, memory_format=torch.contiguous_format).index_add_(0, place, values)
    tensors = (weight, *states)
    for tensor, new in zip(tensors, updated(*(tensor[rows].to(grad.dtype) for tensor in tensors), grad, *numbers)):
        tensor.index_copy_(0, ids, new.to(tensor.dtype)[place])


def check_rows(op: str, weight: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor) -> None:
    """Refuse what no row optimiser can use, as far as it shows without reading a value."""
    for name, tensor in (("weight", weight), ("ids", ids), ("row_grads", row_grads)):
        _check_tensor(op, name, tensor, weight)
    if weight.dtype not in _DTYPES:
        raise TypeError(f"{op} needs weight in float32, float64, float16 or bfloat16, got {weight.dtype}")
    if weight.dim() not in (1, 2) or 0 in weight.shape[1:]:
        raise ValueError(f"{op} needs weight of shape (V, D) or (V,), got {tuple(weight.shape)}")
    _check_contiguous(op, "weight", weight)
    if ids.dtype != torch.int64:
        raise TypeError(f"{op} needs ids in torch.int64, got {ids.dtype}; call ids.long()")
    if ids.dim() != 1:
        raise ValueError(f"{op} needs ids of shape (M,), got {tuple(ids.shape)}; call ids.flatten()")
    if row_grads.dtype != weight.dtype:
        raise TypeError(f"{op} needs row_grads in the {weight.dtype} of weight, got {row_grads.dtype}")
    if row_grads.shape != (*ids.shape, *weight.shape[1:]):
        raise ValueError(
            f"{op} needs row_grads of shape {(*ids.shape, *weight.shape[1:])}, one row for each id and as wide as "
            f"weight, got {tuple(row_grads.shape)}"
        )
    if len(ids) and not len(weight):
        raise ValueError(f"{op} was given {len(ids)} ids, but weight has no rows")
    check_rate(op, lr, weight)
    if torch.is_grad_enabled() and (weight.requires_grad or row_grads.requires_grad):
        raise RuntimeError(f"{op} changes weight in place and has no gradient; call it under torch.no_grad()")


def check_state(
    op: str, name: str, state: Tensor, weight: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    """Refuse a state that does not fit the weight."""
    _check_tensor(op, name, state, weight)
    dtype = dtype or state_dtype(weight)
    if state.dtype != dtype:
        raise TypeError(f"{op} needs {name} in {dtype} beside a weight in {weight.dtype}, got {state.dtype}")
    if state.shape != shape:
        raise ValueError(f"{op} needs {name} of shape {tuple(shape)}, got {tuple(state.shape)}")
    _check_contiguous(op, name, state)


def check_number(op: str, name: str, value: float, below: float = math.inf) -> None:
    """Refuse a number outside ``[0, below)``, and NaN with it."""
    try:
        inside = 0 <= value < below
    except TypeError:
        raise TypeError(f"{op} needs {name} as a number, got {type(value).__name__}") from None
    if not inside:
        bounds = "of 0 or more" if below == math.inf else f"in [0, {below})"
        raise ValueError(f"{op} needs {name} {bounds}, got {value}")


def check_values(op: str, written: dict[str, Tensor], ids: Tensor, row_grads: Tensor, lr: Tensor) -> None:
    """Refuse what only memory shows: tensors that overlap and, where reading is allowed, wrong rates and ids."""
    names = list(written)
    for i, name in enumerate(names):
        for other, tensor in (*((n, written[n]) for n in names[i + 1 :]), ("row_grads", row_grads)):
            if overlap(written[name], tensor):
                raise ValueError(f"{op} needs {name} and {other} in memory of their own, but they overlap; clone() one")
    if not bad_ids.may_look_at(ids):
        return
    if not lr >= 0:
        raise ValueError(f"{op} needs lr of 0 or more, got {lr.item():g}")
    n_rows = len(next(iter(written.values())))
    misplaced = ((ids < 0) | (ids >= n_rows)).nonzero()
    if len(misplaced):
        position = int(misplaced[0])
        raise IndexError(
            f"{op} was given id {int(ids[position])} at position {position}, but weight has {n_rows} rows; "
            "ids count from 0"
        )


def example(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, ids, row gradients and rate for a self-test; some ids come several times."""
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.randn(5000, 128, device=device, generator=generator)
    ids = (5000 * torch.rand(4096, device=device, generator=generator) ** 3).long()
    row_grads = torch.randn(4096, 128, device=device, generator=generator)
    return weight, ids, row_grads, torch.full((), 0.1, dtype=torch.float64, device=device)


def fake(*_: Any) -> None:
    """Nothing comes back: the ops work in place."""


def _check_tensor(op: str, name: str, tensor: Tensor, weight: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{op} needs {name} as a tensor, got {type(tensor).__name__}")
    if not _library.is_block(tensor):
        kind = "a nested one" if tensor.is_nested else str(tensor.layout)
        raise TypeError(f"{op} needs {name} as a dense tensor, got {kind}; pass ids and row_grads apart")
    if tensor.device != weight.device:
        raise ValueError(f"{op} needs {name} on {weight.device}, where weight is, got {tensor.device}")


def _check_contiguous(op: str, name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(
            f"{op} needs {name} contiguous, got strides {tensor.stride()} for shape {tuple(tensor.shape)}; "
            "keep a contiguous() copy in its place"
        )


def check_rate(op: str, lr: float | Tensor, weight: Tensor) -> None:
    """Refuse a learning rate that is neither a number of 0 or more nor one floating number on the device."""
    if not isinstance(lr, Tensor):
        if not isinstance(lr, float | int):
            raise TypeError(f"{op} needs lr as a number or a tensor, got {type(lr).__name__}")
        check_number(op, "lr", lr)
        return
    _check_tensor(op, "lr", lr, weight)
    if lr.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op} needs lr in float32 or float64, got {lr.dtype}")
    if lr.dim() != 0:
        raise ValueError(f"{op} needs lr of shape (), got {tuple(lr.shape)}")


def overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors reach into each other's memory."""
    if a.numel() == 0 or b.numel() == 0:
        return False
    (a_begin, a_end), (b_begin, b_end) = _extent(a), _extent(b)
    return a_begin < b_end and b_begin < a_end


def _extent(tensor: Tensor) -> tuple[int, int]:
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size()
