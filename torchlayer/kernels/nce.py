"""Noise-contrastive estimation: tell the true classes from a few sampled ones, each by a logistic loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from . import _library
from ._sampled_loss import (
    REDUCTIONS,
    Logits,
    backward_by,
    check_per_row,
    example,
    fake_gradients,
    kept_bytes,
    nothing_kept,
    prepare,
    sum_dtype,
)

_NAME = "nce_loss"


def nce_loss(
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled_values: Sequence[Tensor],
    *,
    remove_accidental_hits: bool = False,
    subtract_log_q: bool = True,
    sparse: bool = False,
    reduction: str = "none",
) -> Tensor:
    """Logistic losses of the ``T`` true classes of a row and of ``K`` sampled ones that all rows share, summed.

    Equals, without building the ``(N, T + K)`` logits::

        true = (hidden[:, None] * weight[labels]).sum(-1) + bias[labels] - true_expected_count.log()
        noise = hidden @ weight[sampled].T + bias[sampled] - sampled_expected_count.log()
        loss = (F.softplus(true) - true / T).sum(1) + F.softplus(noise).sum(1)

    as TensorFlow's ``tf.nn.nce_loss`` does: the target of a true class is ``1 / T``, not 1. Differentiable once in
    ``weight``, ``bias`` and ``hidden``; the sampled values are constants. For measuring a model, see
    :class:`torchlayer.nn.NCELoss`.

    Args:
        sampled_values: what a sampler returns, or any three tensors ``(sampled, true_expected_count,
            sampled_expected_count)``.
        remove_accidental_hits: leave out, in each row, samples that are among its labels, all their repetitions. Then
            this is sampled logistic regression, no longer noise-contrastive estimation.
        subtract_log_q: correct the logits by the logarithms of the expected counts. Without it this is word2vec's
            negative sampling.
        sparse: give ``weight`` and ``bias`` uncoalesced ``torch.sparse_coo`` gradients with one entry for each sample
            and label, in the order ``cat(sampled, labels.flatten())``: for ``torch.optim.SparseAdam``, ``SGD`` and
            ``Adagrad``, not for ``torch.compile``. Otherwise they are dense, and cost the size of ``weight``.
        reduction: "none", "mean" or "sum".

    Shape:
        weight ``(V, D)``, bias ``(V,)`` or None, hidden ``(N, D)``, of one floating dtype; labels ``(N,)`` or
        ``(N, T)`` int64; sampled ``(K,)`` int64, true_expected_count like labels, sampled_expected_count ``(K,)``.
        Returns ``(N,)``, or a scalar, in float32 (float64 for float64). Sixteen-bit inputs are summed in float32.
        Under autocast ``hidden`` is taken in ``weight``'s dtype.

    Raises:
        IndexError: a label or sample lies outside ``[0, V)``. On a GPU this call does not raise: the row's loss is NaN,
            its gradients are zero, and the next call raises, or :func:`check_ids`. A bad sample does so to all rows.
        TypeError: no tensor, or a dtype that is not allowed or not shared.
        ValueError: shapes or devices that do not fit, no class, feature, label or sample, an unknown reduction.

    Reference:
        Gutmann, Hyvärinen 2010, proceedings.mlr.press/v9/gutmann10a; Mnih, Teh 2012, arXiv:1206.6426.

    >>> weight, bias, hidden = torch.eye(4), torch.zeros(4), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    >>> sampled_values = torch.tensor([1, 2]), torch.ones(1), torch.ones(2)
    >>> nce_loss(weight, bias, hidden, torch.tensor([0]), sampled_values)
    tensor([1.4349])
    """
    arguments = prepare(_NAME, weight, bias, hidden, labels, sampled_values, subtract_log_q, reduction)
    keep = kept_bytes(*arguments[:5])
    losses = _call(*arguments, remove_accidental_hits, sparse, keep)
    return REDUCTIONS[reduction](losses)


def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, _, keep_bytes = arguments
    logits = Logits(_NAME, *inputs)
    true, noise = logits.all[:, : logits.n_true], logits.all[:, logits.n_true :]
    if logits.n_true == 1:
        losses = -F.logsigmoid(true)  # softplus(x) - x, which does not cancel for large x
    else:
        losses = -F.logsigmoid(-true) - true / logits.n_true
    losses = (losses.sum(1) - F.logsigmoid(-noise).sum(1)).masked_fill(logits.bad, torch.nan)
    return losses, nothing_kept(losses, keep_bytes)


def _reference_backward(
    grad: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_expected_count: Tensor | None,
    sampled_expected_count: Tensor | None,
    kept: Tensor,
    remove_accidental_hits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    counts = true_expected_count, sampled_expected_count
    logits = Logits(f"{_NAME}_backward", weight, bias, hidden, labels, sampled, *counts, remove_accidental_hits)
    check_per_row(f"{_NAME}_backward", "grad", grad, weight, labels)
    errors = logits.all.sigmoid() - logits.targets
    if logits.n_true == 1:
        errors[:, 0] = -(-logits.all[:, 0]).sigmoid()
    return logits.gradients(grad[:, None] * errors, hidden.dtype)


def _fake(weight: Tensor, bias: Tensor | None, hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    losses = hidden.new_empty((hidden.shape[0],), dtype=sum_dtype(weight.dtype))
    return losses, nothing_kept(losses, rest[-1])


def _fake_backward(
    grad: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, labels: Tensor, sampled: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, labels, sampled)


def _example(device: torch.device) -> tuple[Any, ...]:
    return *example(device), False, 0


def _example_backward(device: torch.device) -> tuple[Any, ...]:
    arguments = example(device)
    losses, kept = _reference(*arguments, False, 0)
    return torch.ones_like(losses), *arguments[:-1], kept, arguments[-1]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.remove_accidental_hits, ctx.sparse, _ = inputs[-3:]
    _, kept = output
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(*inputs[:-3], kept)


_backward_op = _library.define(
    "nce_loss_backward(Tensor grad, Tensor weight, Tensor? bias, Tensor hidden, Tensor labels, Tensor sampled, "
    "Tensor? true_expected_count, Tensor? sampled_expected_count, Tensor kept, "
    "bool remove_accidental_hits) -> (Tensor, Tensor, Tensor, Tensor)",
    _reference_backward,
    _fake_backward,
    _example_backward,
)
_backward = backward_by(_backward_op)
_op = _library.define(
    "nce_loss(Tensor weight, Tensor? bias, Tensor hidden, Tensor labels, Tensor sampled, "
    "Tensor? true_expected_count, Tensor? sampled_expected_count, bool remove_accidental_hits, bool sparse, "
    "SymInt keep_bytes) -> (Tensor, Tensor)",
    _reference,
    _fake,
    _example,
    _backward,
    _setup_context,
)
_call = _library.function(_op, _setup_context, _backward, lambda outputs: outputs[0])
