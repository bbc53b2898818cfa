"""Gradient descent on the rows of a table that a batch has touched."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, _rows


def row_sgd_(weight: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor) -> None:
    """Descend along row gradients, in place.

    Equals ``weight.index_add_(0, ids, -lr * row_grads)`` with one rounding a row: the gradients of an id that comes
    several times are summed first. No other row is read or written, and nothing waits for the device.

    Args:
        lr: a number, or a tensor on the device, so that a captured step can follow a schedule.

    Shape:
        weight ``(V, D)``, or ``(V,)`` as for biases, contiguous, of a floating dtype; ids ``(M,)`` int64, none of them
        distinct for sure; row_grads ``(M, D)`` or ``(M,)`` in the dtype of weight; lr ``()`` float32 or float64.

    Raises:
        IndexError: an id lies outside ``[0, V)``. On CUDA, where looking would wait, it turns a row into NaN, and the
            next call raises, or :func:`check_ids`.
        ValueError: shapes, devices, strides or a number do not fit; weight and row_grads share memory.
        TypeError: a dtype does not fit.
        RuntimeError: a gradient is required, outside ``torch.no_grad()``.

    >>> weight = torch.zeros(3, 2)
    >>> row_sgd_(weight, torch.tensor([2, 0, 2]), torch.tensor([[1.0, 2], [3, 4], [5, 6]]), lr=0.5)
    >>> weight
    tensor([[-1.5000, -2.0000],
            [ 0.0000,  0.0000],
            [-3.0000, -4.0000]])
    """
    _rows.check_rows("row_sgd_", weight, ids, row_grads, lr)
    torch.ops.torchlayer.row_sgd_(weight, ids, row_grads, _rows.as_rate(lr, weight))
    _rows.mark_written(weight)


def updated(weight: Tensor, grad: Tensor, lr: float | Tensor) -> tuple[Tensor]:
    """The formula, for rows in float32 or float64: the weights after the step."""
    return (weight - lr * grad,)


def _reference(weight: Tensor, ids: Tensor, row_grads: Tensor, lr: Tensor) -> None:
    _rows.check_rows("row_sgd_", weight, ids, row_grads, lr)
    _rows.check_values("row_sgd_", {"weight": weight}, ids, row_grads, lr)
    _rows.update_rows(updated, weight, (), ids, row_grads, lr)


_library.define(
    "row_sgd_(Tensor(a!) weight, Tensor ids, Tensor row_grads, Tensor lr) -> ()",
    _reference,
    _rows.fake,
    _rows.example,
)
