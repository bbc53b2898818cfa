"""Lazy Adam: on the rows of a table that a batch has touched, with the averages of other rows left as they were."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, _rows


def row_adam_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    ids: Tensor,
    row_grads: Tensor,
    lr: float | Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """Update the rows that ``ids`` name, their averages and the step count in place.

    Equals, for every distinct id, where ``g`` is the sum of all its gradients, after ``step += 1``::

        m = exp_avg[id].lerp_(g, 1 - beta1)
        v = exp_avg_sq[id].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        weight[id] -= lr / (1 - beta1**step) * m / ((v / (1 - beta2**step)).sqrt() + eps)

    With all rows touched this is Adam. ``torch.optim.SparseAdam`` and TensorFlow's lazy Adam treat rows alike, and both
    correct the bias by the global step too, but add ``eps`` to the square root before that correction: in the first
    steps theirs weighs more, by up to ``1 / sqrt(1 - beta2)``, about 32. No other row is read or written, and nothing
    waits for the device. Without ids only the step count moves.

    Args:
        lr: a number, or a tensor on the device, so that a captured step can follow a schedule.

    Shape:
        weight ``(V, D)``, or ``(V,)`` as for biases, contiguous, of a floating dtype; exp_avg and exp_avg_sq the same
        in float32 (float64 beside float64); step ``()`` float32; ids ``(M,)`` int64; row_grads ``(M, D)`` or ``(M,)``
        in the dtype of weight; lr ``()`` float32 or float64.

    Raises:
        IndexError: an id lies outside ``[0, V)``. On CUDA, where looking would wait, it turns a row into NaN, and the
            next call raises, or :func:`check_ids`.
        ValueError: shapes, devices, strides or a number do not fit; two of the tensors share memory.
        TypeError: a dtype does not fit.
        RuntimeError: a gradient is required, outside ``torch.no_grad()``.

    Reference:
        Kingma, Ba 2015, arXiv:1412.6980.

    >>> weight, m, v, step = torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, 1), torch.tensor(0.0)
    >>> row_adam_(weight, m, v, step, torch.tensor([2, 2]), torch.tensor([[1.0], [2.0]]), lr=0.1)
    >>> weight.squeeze(), step
    (tensor([ 0.0000,  0.0000, -0.1000]), tensor(1.))
    """
    _check(weight, exp_avg, exp_avg_sq, step, ids, row_grads, lr, beta1, beta2, eps)
    rate = _rows.as_rate(lr, weight)
    torch.ops.torchlayer.row_adam_(weight, exp_avg, exp_avg_sq, step, ids, row_grads, rate, beta1, beta2, eps)
    _rows.mark_written(weight, exp_avg, exp_avg_sq, step)


def updated(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    step: Tensor,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, for rows in float32 or float64: weights and averages after the step that ``step`` counts."""
    exp_avg = exp_avg + (1 - beta1) * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    count = step.double()
    step_size, root = lr / (1 - beta1**count), (1 - beta2**count).sqrt()
    return weight - step_size * exp_avg / (exp_avg_sq.sqrt() / root + eps), exp_avg, exp_avg_sq


def _check(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    ids: Tensor,
    row_grads: Tensor,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    _rows.check_rows("row_adam_", weight, ids, row_grads, lr)
    _rows.check_state("row_adam_", "exp_avg", exp_avg, weight, weight.shape)
    _rows.check_state("row_adam_", "exp_avg_sq", exp_avg_sq, weight, weight.shape)
    _rows.check_state("row_adam_", "step", step, weight, (), torch.float32)
    _rows.check_number("row_adam_", "beta1", beta1, below=1)
    _rows.check_number("row_adam_", "beta2", beta2, below=1)
    _rows.check_number("row_adam_", "eps", eps)


def _reference(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    ids: Tensor,
    row_grads: Tensor,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    _check(weight, exp_avg, exp_avg_sq, step, ids, row_grads, lr, beta1, beta2, eps)
    written = {"weight": weight, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "step": step}
    _rows.check_values("row_adam_", written, ids, row_grads, lr)
    step += 1
    _rows.update_rows(updated, weight, (exp_avg, exp_avg_sq), ids, row_grads, step, lr, beta1, beta2, eps)


def _example(device: torch.device) -> tuple:
    weight, ids, row_grads, lr = _rows.example(device)
    averages = torch.zeros_like(weight), torch.zeros_like(weight)
    return weight, *averages, torch.zeros((), device=device), ids, row_grads, lr, 0.9, 0.999, 1e-8


_library.define(
    "row_adam_(Tensor(a!) weight, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor(d!) step, Tensor ids, "
    "Tensor row_grads, Tensor lr, float beta1, float beta2, float eps) -> ()",
    _reference,
    _rows.fake,
    _example,
)
