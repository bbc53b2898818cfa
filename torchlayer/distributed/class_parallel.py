"""Sampled losses whose classes are divided among processes: each holds some rows of the table, and all see the batch.

A rank computes the logits of its own classes alone. What the ranks tell each other is a few numbers a row and, in the
backward, the gradient of ``hidden``: no traffic grows with the number of classes or samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels._sampled_loss import REDUCTIONS, as_columns, check_ids, prepare, sum_dtype
from ..kernels.class_parallel import nce_share, softmax_share
from ._ranks import Group, Ranks, agree, describe_batch, part, ranks_of, rows_of, same_on_all, softmax_over, sum_over

_SOFTMAX, _NCE = "class_parallel_sampled_softmax_loss", "class_parallel_nce_loss"


def class_parallel_sampled_softmax_loss(
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled_values: Sequence[Tensor],
    *,
    n_classes: int,
    group: Group = None,
    remove_accidental_hits: bool = True,
    subtract_log_q: bool = True,
    sparse: bool = False,
    reduction: str = "none",
) -> Tensor:
    """:func:`torchlayer.kernels.sampled_softmax_loss` over a table that is divided among the ranks of a group.

    The loss and its gradients are those of one process with the whole table, to rounding. Every rank calls it with the
    same ``hidden``, ``labels`` and ``sampled_values`` and gets the same loss, the whole gradient of ``hidden``, and the
    gradients of its own rows. A step sends three numbers a row in the precision of the sums, and the gradient of
    ``hidden``; on a CPU also eight numbers that tell whether all ranks have the same batch. Without a process group it
    is the loss of one process. It is not for ``torch.compile``.

    Args:
        weight: this rank's rows, those of the classes :func:`own_classes` says; there may be none.
        sampled_values: as a sampler returns them, ids from 0 to ``n_classes - 1``. Give the sampler a ``seed`` that is
            the same on every rank.
        n_classes: ``V``, of all ranks together.
        group: a process group; by default all processes.
        remove_accidental_hits, subtract_log_q, reduction: as in the loss of one process.
        sparse: give ``weight`` and ``bias`` uncoalesced ``torch.sparse_coo`` gradients with an entry for each sample
            and label that is here. On a GPU, where no shape may depend on data, all others are entries of zero.

    Shape:
        weight ``(len(own_classes(V)), D)``, bias of that length or None; all else as in the loss of one process.

    Raises:
        IndexError: a label or sample lies outside ``[0, V)``. On a GPU the row's loss is NaN instead, and it has no
            gradient; with ``TORCHLAYER_CHECK=1`` it raises there, too.
        TypeError, ValueError: as in the loss of one process; weight has not the rows of this rank; the ranks were
            given different batches, which a CPU notices in every call, a GPU in the first and with
            ``TORCHLAYER_CHECK=1``.

    Reference:
        The three sums are those of Megatron-LM's vocabulary-parallel cross-entropy (Shoeybi et al. 2019,
        arXiv:1909.08053) over sampled classes.

    >>> weight, bias, hidden = torch.eye(4), torch.zeros(4), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    >>> values = torch.tensor([1, 2]), torch.ones(1), torch.ones(2)
    >>> class_parallel_sampled_softmax_loss(weight, bias, hidden, torch.tensor([0]), values, n_classes=4)
    tensor([0.0949])
    """
    ranks = ranks_of(group)
    share = _Share(_SOFTMAX, ranks, n_classes, weight, bias, hidden, labels, sampled_values, subtract_log_q, reduction)
    if share.is_empty:
        nothing = share.nothing(sparse)
        log_sum, true_mean = nothing - torch.inf, nothing
    else:
        log_sum, true_mean = softmax_share(*share.arguments, remove_accidental_hits, sparse)
    return REDUCTIONS[reduction](share.spoil(softmax_over(log_sum, true_mean, ranks)))


def class_parallel_nce_loss(
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled_values: Sequence[Tensor],
    *,
    n_classes: int,
    group: Group = None,
    remove_accidental_hits: bool = False,
    subtract_log_q: bool = True,
    sparse: bool = False,
    reduction: str = "none",
) -> Tensor:
    """:func:`torchlayer.kernels.nce_loss` over a table that is divided among the ranks of a group.

    Arguments, shapes and errors are those of :func:`class_parallel_sampled_softmax_loss`. A step sends one number a row
    and the gradient of ``hidden``.

    >>> weight, bias, hidden = torch.eye(4), torch.zeros(4), torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    >>> values = torch.tensor([1, 2]), torch.ones(1), torch.ones(2)
    >>> class_parallel_nce_loss(weight, bias, hidden, torch.tensor([0]), values, n_classes=4)
    tensor([1.4349])
    """
    ranks = ranks_of(group)
    share = _Share(_NCE, ranks, n_classes, weight, bias, hidden, labels, sampled_values, subtract_log_q, reduction)
    if share.is_empty:
        losses = share.nothing(sparse)
    else:
        losses = nce_share(*share.arguments, remove_accidental_hits, sparse)
    return REDUCTIONS[reduction](share.spoil(sum_over(losses, ranks)))  # type: ignore[arg-type]


class _Share:
    """What a rank's op is given: checked arguments, and ids as rows of its own part of the table."""

    def __init__(
        self,
        name: str,
        ranks: Ranks,
        n_classes: int,
        weight: Tensor,
        bias: Tensor | None,
        hidden: Tensor,
        labels: Tensor,
        sampled_values: Sequence[Tensor],
        subtract_log_q: bool,
        reduction: str,
    ):
        own = _own(name, n_classes, ranks, weight)
        self.is_empty = len(own) == 0
        # a rank without rows is checked with a row that stands for them
        table: list[Any] = [
            x.new_zeros((1, *x.shape[1:])) if self.is_empty and isinstance(x, Tensor) else x for x in (weight, bias)
        ]
        batch = hidden, labels, sampled_values, subtract_log_q, reduction
        _, _, hidden, labels, sampled, true_count, sampled_count = prepare(name, table[0], table[1], *batch)
        labels, true_count = as_columns(labels), as_columns(true_count)
        agree(name, ranks, hidden.device, describe_batch(labels, sampled))
        self.weight, self.bias = weight, bias
        self.hidden = same_on_all(hidden, ranks)
        self.bad = None
        bad = (
            check_ids(name, "labels", labels, n_classes).any(1)
            | check_ids(name, "sampled ids", sampled, n_classes).any()
        )
        if hidden.device.type != "cpu":
            self.bad = bad  # (N,)
        labels, sampled = rows_of(labels, own), rows_of(sampled, own)
        if sampled.device.type == "cpu" and not self.is_empty:  # elsewhere no shape may depend on data
            here = (sampled >= 0).nonzero()[:, 0] if bool((sampled >= 0).any()) else torch.zeros(1, dtype=torch.int64)
            sampled = sampled[here]
            sampled_count = None if sampled_count is None else sampled_count[here]
        self.arguments = weight, bias, self.hidden, labels, sampled, true_count, sampled_count

    def nothing(self, sparse: bool) -> Tensor:
        """A zero a row, from a rank that has no rows."""
        return _Nothing.apply(self.weight, self.bias, self.hidden, sparse)  # type: ignore[return-value]

    def spoil(self, losses: Tensor) -> Tensor:
        """NaN, without a gradient, for rows with an id that names no class; on a CPU that has raised."""
        return losses if self.bad is None else losses.masked_fill(self.bad, torch.nan)


class _Nothing(torch.autograd.Function):
    """What a rank without rows adds. It takes part in the backward as the others do, who wait for it there."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, hidden: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(weight, bias, hidden)
        ctx.sparse = sparse
        return hidden.new_zeros((len(hidden),), dtype=sum_dtype(weight.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, hidden = ctx.saved_tensors
        layout = torch.sparse_coo if ctx.sparse else torch.strided
        own = [
            torch.zeros(x.shape, dtype=x.dtype, device=x.device, layout=layout) if x is not None and needed else None
            for x, needed in zip((weight, bias), ctx.needs_input_grad)
        ]
        return *own, torch.zeros_like(hidden), None


def _own(name: str, n_classes: int, ranks: Ranks, weight: Tensor) -> range:
    if not isinstance(n_classes, int) or isinstance(n_classes, bool) or n_classes < 1:
        raise ValueError(f"{name} needs n_classes as an int of at least 1, got {n_classes!r}")
    own = part(n_classes, ranks.rank, ranks.count)
    if isinstance(weight, Tensor) and weight.dim() == 2 and len(weight) != len(own):
        raise ValueError(
            f"{name} needs the {len(own)} rows of classes {own.start} to {own.stop - 1} on rank {ranks.rank} of "
            f"{ranks.count}, got weight {tuple(weight.shape)}; see own_classes"
        )
    return own
