"""Who takes part, who holds which rows, and the few things the ranks tell each other, as autograd sees them.

Without a process group there is one rank, and nothing is sent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..kernels import bad_ids

Group = Any  # a torch.distributed.ProcessGroup, or None for the default one

_met: set[str] = set()  # groups whose ranks have compared their batches


class Ranks(NamedTuple):
    """A process group, this process's place in it, and its size."""

    group: Any
    rank: int
    count: int


def ranks_of(group: Group = None) -> Ranks:
    """The ranks of a group, by default of all processes; one where there is no process group.

    Raises:
        ValueError: this process is not in the group.
    """
    if not dist.is_available() or not dist.is_initialized():
        return Ranks(None, 0, 1)
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError(f"this process, rank {dist.get_rank()} of all, is not in the group it was given")
    return Ranks(group, rank, dist.get_world_size(group))


def own_classes(n_classes: int, group: Group = None) -> range:
    """The classes whose rows this rank holds: as even parts as possible, the last ones shorter or empty.

    As ``torch.chunk`` and DTensor's ``Shard(0)`` divide: ``ceil(n_classes / n_ranks)`` rows for each rank until none
    are left.

    >>> own_classes(10)  # without a process group all are here
    range(0, 10)
    """
    if not isinstance(n_classes, int) or isinstance(n_classes, bool) or n_classes < 1:
        raise ValueError(f"own_classes needs n_classes as an int of at least 1, got {n_classes!r}")
    ranks = ranks_of(group)
    return part(n_classes, ranks.rank, ranks.count)


def part(n: int, rank: int, count: int) -> range:
    """The ``rank``-th of ``count`` parts of ``range(n)``."""
    size = -(-n // count)
    return range(min(rank * size, n), min((rank + 1) * size, n))


def same_on_all(x: Tensor, ranks: Ranks) -> Tensor:
    """``x``, of which every rank computes a part of the gradient: the backward adds the parts up."""
    return x if ranks.count == 1 else _SameOnAll.apply(x, ranks.group)  # type: ignore[return-value]


def sum_over(x: Tensor, ranks: Ranks) -> Tensor:
    """The sum of every rank's ``x``. What is made of it is the same on all ranks, and so is its gradient."""
    return x if ranks.count == 1 else _SumOver.apply(x, ranks.group)  # type: ignore[return-value]


def largest_over(x: Tensor, ranks: Ranks) -> Tensor:
    """The largest of every rank's ``x``; a constant."""
    x = x.detach().clone()
    if ranks.count > 1:
        dist.all_reduce(x, dist.ReduceOp.MAX, group=ranks.group)
    return x


def softmax_over(log_sum: Tensor, true_mean: Tensor, ranks: Ranks) -> Tensor:
    """The losses from every rank's logarithm of a sum of exponentials, and its share of the mean true logit."""
    largest = largest_over(log_sum, ranks)
    shift = torch.where(largest.isfinite(), largest, 0)  # shifted by an infinity every other rank's would be NaN
    total, mean = sum_over(torch.stack(((log_sum - shift).exp(), true_mean)), ranks)
    return shift + total.log() - mean


def from_first(x: Tensor, ranks: Ranks) -> Tensor:
    """The first rank's ``x``, in place."""
    if ranks.count > 1:
        source = 0 if ranks.group is None else dist.get_global_rank(ranks.group, 0)
        dist.broadcast(x, source, group=ranks.group)
    return x


def gather_rows(x: Tensor, group: Group = None) -> Tensor:
    """Every rank's rows of ``x``, one rank's below the other's, for a class-parallel loss over data-parallel batches.

    As ``torch.distributed.nn.functional.all_gather`` has it, each rank differentiates a loss of its own and the
    gradients of all of these losses are added up. Here the losses are one and the same, so a row's gradient is the
    number of ranks times that of the one loss, and nothing is sent. Data parallelism (DDP, FSDP2) divides by the number
    of ranks again.

    Shape:
        ``(n, ...)``, the same on every rank, returns ``(n_ranks * n, ...)``.

    Raises:
        ValueError: the ranks have different numbers of rows (on a CPU in every call, on a GPU in the group's first).

    >>> gather_rows(torch.tensor([1, 2]))  # without a process group there is no other rank
    tensor([1, 2])
    """
    ranks = ranks_of(group)
    if ranks.count == 1:
        return x
    agree("gather_rows", ranks, x.device, {"number of rows": x.shape[0]})
    return _GatherRows.apply(x, ranks)  # type: ignore[return-value]


def agree(name: str, ranks: Ranks, device: torch.device, values: dict[str, int | Tensor]) -> None:
    """Raise on all ranks where a number is not the same on all of them.

    On a CPU in every call. On a GPU nobody waits: only in the group's first call of ``name``, and in all of them under
    ``TORCHLAYER_CHECK=1``, which has to be set for all ranks or for none.

    Raises:
        ValueError: so it is; the text says what differs, and how.
    """
    if ranks.count == 1 or device.type == "meta":
        return
    if device.type != "cpu":
        key = f"{name} {getattr(ranks.group, 'group_name', '')}"
        if key in _met and not bad_ids.is_at_once():
            return
        if torch.cuda.is_current_stream_capturing():
            return
        _met.add(key)
    numbers = [torch.as_tensor(value, dtype=torch.int64, device=device) for value in values.values()]
    mine = torch.stack(numbers)
    both = torch.stack((mine, -mine))
    dist.all_reduce(both, dist.ReduceOp.MAX, group=ranks.group)
    most, least = both.tolist()
    for label, high, low, own in zip(values, most, least, mine.tolist()):
        if high != -low:
            raise ValueError(
                f"{name} needs the same {label} on every rank, got {own} on rank {ranks.rank}, and from {-low} to "
                f"{high} on all {ranks.count}"
            )


def describe_batch(labels: Tensor, sampled: Tensor | None = None) -> dict[str, int | Tensor]:
    """What tells whether all ranks were given the same batch."""
    values = {"number of rows": labels.shape[0], "labels (by their sum)": labels.sum()}
    if sampled is not None:
        values |= {"number of samples": sampled.shape[0], "samples (by their sum)": sampled.sum()}
    return values


def rows_of(ids: Tensor, own: range) -> Tensor:
    """Classes as rows of the part that is here; -1 for one that is not."""
    return torch.where((ids >= own.start) & (ids < own.stop), ids - own.start, -1)


class _SameOnAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _SumOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.n = ranks, x.shape[0]
        rows = x.new_empty((ranks.count * x.shape[0], *x.shape[1:]))
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name before torch 2.13
        gather(rows, x.contiguous(), group=ranks.group)
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        first = ctx.ranks.rank * ctx.n
        return grad[first : first + ctx.n] * ctx.ranks.count, None
