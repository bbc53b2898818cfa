"""Adagrad on the rows of a table that a batch has touched, with TensorFlow's treatment of duplicates."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, _rows


def row_adagrad_(
    weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor, eps: float = 1e-10
) -> None:
    """Update the rows that ``ids`` name, and their sums of squares, in place.

    Equals, for every distinct id, where ``g`` is the sum of all its gradients::

        accumulator[id] += g * g
        weight[id] -= lr * g / (accumulator[id].sqrt() + eps)

    No other row is read or written, and nothing waits for the device. TensorFlow starts from an accumulator of 0.1 and
    has no ``eps``; beside 0.1 the default is below float32's resolution. PyTorch starts from 0.

    Args:
        lr: a number, or a tensor on the device, so that a captured step can follow a schedule.

    Shape:
        weight ``(V, D)``, or ``(V,)`` as for biases, contiguous, of a floating dtype; accumulator the same in float32
        (float64 beside float64); ids ``(M,)`` int64; row_grads ``(M, D)`` or ``(M,)`` in the dtype of weight; lr ``()``
        float32 or float64.

    Raises:
        IndexError: an id lies outside ``[0, V)``. On CUDA, where looking would wait, it turns a row into NaN, and the
            next call raises, or :func:`check_ids`.
        ValueError: shapes, devices, strides or a number do not fit; two of the tensors share memory.
        TypeError: a dtype does not fit.
        RuntimeError: a gradient is required, outside ``torch.no_grad()``.

    Reference:
        Duchi, Hazan, Singer 2011, https://jmlr.org/papers/v12/duchi11a.html.

    >>> weight, accumulator = torch.zeros(3, 1), torch.full((3, 1), 0.1)
    >>> row_adagrad_(weight, accumulator, torch.tensor([2, 2]), torch.tensor([[1.0], [2.0]]), lr=0.1)
    >>> accumulator.squeeze(), weight[2]
    (tensor([0.1000, 0.1000, 9.1000]), tensor([-0.0994]))
    """
    _check(weight, accumulator, ids, row_grads, lr, eps)
    torch.ops.torchlayer.row_adagrad_(weight, accumulator, ids, row_grads, _rows.as_rate(lr, weight), eps)
    _rows.mark_written(weight, accumulator)


def updated(weight: Tensor, accumulator: Tensor, grad: Tensor, lr: float | Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The formula, for rows in float32 or float64: weights and accumulators after the step."""
    accumulator = accumulator + grad * grad
    return weight - lr * grad / (accumulator.sqrt() + eps), accumulator


def _check(weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor, eps: float) -> None:
    _rows.check_rows("row_adagrad_", weight, ids, row_grads, lr)
    _rows.check_state("row_adagrad_", "accumulator", accumulator, weight, weight.shape)
    _rows.check_number("row_adagrad_", "eps", eps)


def _reference(weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: Tensor, eps: float) -> None:
    _check(weight, accumulator, ids, row_grads, lr, eps)
    _rows.check_values("row_adagrad_", {"weight": weight, "accumulator": accumulator}, ids, row_grads, lr)
    _rows.update_rows(updated, weight, (accumulator,), ids, row_grads, lr, eps)


def _example(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    weight, ids, row_grads, lr = _rows.example(device)
    return weight, torch.full_like(weight, 0.1), ids, row_grads, lr, 1e-10


_library.define(
    "row_adagrad_(Tensor(a!) weight, Tensor(b!) accumulator, Tensor ids, Tensor row_grads, Tensor lr, float eps) -> ()",
    _reference,
    _rows.fake,
    _example,
)
