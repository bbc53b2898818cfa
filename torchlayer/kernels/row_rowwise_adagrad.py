"""Adagrad with one accumulator for a whole row, on the rows of a table that a batch has touched."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, _rows


def row_rowwise_adagrad_(
    weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor, eps: float = 1e-8
) -> None:
    """Update the rows that ``ids`` name, and the one number kept for each, in place.

    Equals, for every distinct id, where ``g`` is the sum of all its gradients::

        accumulator[id] += (g * g).mean()
        weight[id] -= lr * g / (accumulator[id].sqrt() + eps)

    The state is ``D`` times smaller than Adagrad's. No other row is read or written, and nothing waits for the device.

    Args:
        lr: a number, or a tensor on the device, so that a captured step can follow a schedule.

    Shape:
        weight ``(V, D)``, or ``(V,)`` as for biases, contiguous, of a floating dtype; accumulator ``(V,)`` in float32
        (float64 beside float64); ids ``(M,)`` int64; row_grads ``(M, D)`` or ``(M,)`` in the dtype of weight; lr ``()``
        float32 or float64.

    Raises:
        IndexError: an id lies outside ``[0, V)``. On CUDA, where looking would wait, it turns a row into NaN, and the
            next call raises, or :func:`check_ids`.
        ValueError: shapes, devices, strides or a number do not fit; two of the tensors share memory.
        TypeError: a dtype does not fit.
        RuntimeError: a gradient is required, outside ``torch.no_grad()``.

    Reference:
        Gupta, Bennett, Weinberger 2014, *Training highly multiclass classifiers*,
        https://jmlr.org/papers/v15/gupta14a.html; the ``EXACT_ROWWISE_ADAGRAD`` of FBGEMM and TorchRec.

    >>> weight, accumulator = torch.zeros(3, 2), torch.zeros(3)
    >>> row_rowwise_adagrad_(weight, accumulator, torch.tensor([1]), torch.tensor([[1.0, 7.0]]), lr=1.0)
    >>> accumulator, weight[1]
    (tensor([ 0., 25.,  0.]), tensor([-0.2000, -1.4000]))
    """
    _check(weight, accumulator, ids, row_grads, lr, eps)
    torch.ops.torchlayer.row_rowwise_adagrad_(weight, accumulator, ids, row_grads, _rows.as_rate(lr, weight), eps)
    _rows.mark_written(weight, accumulator)


def updated(weight: Tensor, accumulator: Tensor, grad: Tensor, lr: float | Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The formula, for rows in float32 or float64: weights and accumulators after the step."""
    square = grad * grad
    accumulator = accumulator + (square.flatten(1).mean(1) if grad.dim() > 1 else square)
    step_size = lr / (accumulator.sqrt() + eps)
    return weight - step_size.view((*step_size.shape, *[1] * (grad.dim() - step_size.dim()))) * grad, accumulator


def _check(weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: float | Tensor, eps: float) -> None:
    _rows.check_rows("row_rowwise_adagrad_", weight, ids, row_grads, lr)
    _rows.check_state("row_rowwise_adagrad_", "accumulator", accumulator, weight, weight.shape[:1])
    _rows.check_number("row_rowwise_adagrad_", "eps", eps)


def _reference(weight: Tensor, accumulator: Tensor, ids: Tensor, row_grads: Tensor, lr: Tensor, eps: float) -> None:
    _check(weight, accumulator, ids, row_grads, lr, eps)
    _rows.check_values("row_rowwise_adagrad_", {"weight": weight, "accumulator": accumulator}, ids, row_grads, lr)
    _rows.update_rows(updated, weight, (accumulator,), ids, row_grads, lr, eps)


def _example(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    weight, ids, row_grads, lr = _rows.example(device)
    return weight, weight.new_zeros(len(weight)), ids, row_grads, lr, 1e-8


_library.define(
    "row_rowwise_adagrad_(Tensor(a!) weight, Tensor(b!) accumulator, Tensor ids, Tensor row_grads, Tensor lr, "
    "float eps) -> ()",
    _reference,
    _rows.fake,
    _example,
)
