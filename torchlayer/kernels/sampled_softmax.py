"""Softmax cross-entropy over the true classes and a few sampled ones, for vocabularies too large for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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

_NAME = "sampled_softmax_loss"


def sampled_softmax_loss(
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled_values: Sequence[Tensor],
    *,
    remove_accidental_hits: bool = True,
    subtract_log_q: bool = True,
    sparse: bool = False,
    reduction: str = "none",
) -> Tensor:
    """Softmax cross-entropy over the ``T`` true classes of a row and ``K`` sampled ones that all rows share.

    Equals, without building the ``(N, T + K)`` logits::

        true = (hidden[:, None] * weight[labels]).sum(-1) + bias[labels] - true_expected_count.log()
        noise = hidden @ weight[sampled].T + bias[sampled] - sampled_expected_count.log()
        noise[a sample that is one of the row's labels] = -inf
        loss = torch.cat([true, noise], 1).logsumexp(1) - true.mean(1)

    as TensorFlow's ``tf.nn.sampled_softmax_loss`` does, except that every repetition of an accidental hit is removed,
    where TensorFlow removes the last. Differentiable once in ``weight``, ``bias`` and ``hidden``; the sampled values
    are constants. For measuring a model, see :class:`torchlayer.nn.SampledSoftmaxLoss`.

    Args:
        sampled_values: what a sampler returns, or any three tensors ``(sampled, true_expected_count,
            sampled_expected_count)``.
        remove_accidental_hits: leave out, in each row, samples that are among its labels.
        subtract_log_q: correct the logits by the logarithms of the expected counts.
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
        Jean, Cho, Memisevic, Bengio 2015, arXiv:1412.2007; Bengio, Senécal 2008, 10.1109/TNN.2007.912312.

    >>> weight, bias, hidden = torch.eye(4), torch.zeros(4), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    >>> sampled_values = torch.tensor([1, 2]), torch.ones(1), torch.ones(2)
    >>> sampled_softmax_loss(weight, bias, hidden, torch.tensor([0]), sampled_values)
    tensor([0.0949])
    """
    arguments = prepare(_NAME, weight, bias, hidden, labels, sampled_values, subtract_log_q, reduction)
    keep = kept_bytes(*arguments[:5])
    losses = _call(*arguments, remove_accidental_hits, sparse, keep)
    return REDUCTIONS[reduction](losses)


def _reference(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *inputs, _, keep_bytes = arguments
    logits = Logits(_NAME, *inputs)
    log_sum_exp = logits.all.logsumexp(1)
    losses = log_sum_exp - logits.all[:, : logits.n_true].mean(1)
    return losses.masked_fill(logits.bad, torch.nan), log_sum_exp, nothing_kept(losses, keep_bytes)


def _reference_backward(
    grad: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_expected_count: Tensor | None,
    sampled_expected_count: Tensor | None,
    log_sum_exp: Tensor,
    kept: Tensor,
    remove_accidental_hits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    counts = true_expected_count, sampled_expected_count
    logits = Logits(f"{_NAME}_backward", weight, bias, hidden, labels, sampled, *counts, remove_accidental_hits)
    check_per_row(f"{_NAME}_backward", "grad", grad, weight, labels)
    check_per_row(f"{_NAME}_backward", "log_sum_exp", log_sum_exp, weight, labels)
    probabilities = (logits.all - log_sum_exp[:, None]).exp()
    return logits.gradients(grad[:, None] * (probabilities - logits.targets), hidden.dtype)


def _fake(weight: Tensor, bias: Tensor | None, hidden: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    losses = hidden.new_empty((hidden.shape[0],), dtype=sum_dtype(weight.dtype))
    return losses, torch.empty_like(losses), nothing_kept(losses, rest[-1])


def _fake_backward(
    grad: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, labels: Tensor, sampled: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return fake_gradients(hidden, labels, sampled)


def _example(device: torch.device) -> tuple[Any, ...]:
    return *example(device), False, 0


def _example_backward(device: torch.device) -> tuple[Any, ...]:
    arguments = example(device)
    losses, log_sum_exp, kept = _reference(*arguments, False, 0)
    return torch.ones_like(losses), *arguments[:-1], log_sum_exp, kept, arguments[-1]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.remove_accidental_hits, ctx.sparse, _ = inputs[-3:]
    _, log_sum_exp, kept = output
    ctx.mark_non_differentiable(log_sum_exp, kept)
    ctx.save_for_backward(*inputs[:-3], log_sum_exp, kept)


_backward_op = _library.define(
    "sampled_softmax_loss_backward(Tensor grad, Tensor weight, Tensor? bias, Tensor hidden, Tensor labels, "
    "Tensor sampled, Tensor? true_expected_count, Tensor? sampled_expected_count, Tensor log_sum_exp, "
    "Tensor kept, bool remove_accidental_hits) -> (Tensor, Tensor, Tensor, Tensor)",
    _reference_backward,
    _fake_backward,
    _example_backward,
)
_backward = backward_by(_backward_op)
_op = _library.define(
    "sampled_softmax_loss(Tensor weight, Tensor? bias, Tensor hidden, Tensor labels, Tensor sampled, "
    "Tensor? true_expected_count, Tensor? sampled_expected_count, bool remove_accidental_hits, bool sparse, "
    "SymInt keep_bytes) -> (Tensor, Tensor, Tensor)",
    _reference,
    _fake,
    _example,
    _backward,
    _setup_context,
)
_call = _library.function(_op, _setup_context, _backward, lambda outputs: outputs[0])
