"""Tensors that are divided among processes, and how they come together in the first one's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._ranks import Ranks, part

_BLOCK = 1 << 26  # bytes of each rank that travel at a time


def is_divided(value: Any) -> bool:
    """Whether it is a DTensor, without importing what knows them."""
    return isinstance(value, Tensor) and hasattr(value, "to_local")


def divided(own: Tensor, shape: Sequence[int], mesh: Any, placements: Any) -> Tensor:
    """This rank's part as one of a DTensor, contiguous as a whole; nothing is sent."""
    from torch.distributed.tensor import DTensor

    stride = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def ranks_of_rows(value: Any) -> Ranks | None:
    """The ranks among which the rows of a DTensor are divided; None if it is divided in another way."""
    from torch.distributed.tensor import Shard

    mesh, placements = value.device_mesh, value.placements
    if mesh.ndim != 1 or placements[0] != Shard(0):
        return None
    return Ranks(mesh.get_group(), mesh.get_local_rank(), mesh.size())


def rows_to_first(own: Tensor, n_rows: int, ranks: Ranks) -> Tensor | None:
    """All rows of what is divided by rows, in the memory of the first rank's host; None on the others.

    A block at a time, so that no device ever holds more than a block of each rank's.
    """
    first = 0 if ranks.group is None else dist.get_global_rank(ranks.group, 0)
    rest = own.shape[1:]
    # as bytes: not every backend knows every dtype
    flat = own.detach().reshape(len(own), rest.numel()).contiguous().view(torch.uint8)
    n_bytes = rest.numel() * own.element_size()
    whole = torch.empty((n_rows, n_bytes), dtype=torch.uint8) if ranks.rank == 0 else None
    longest, step = len(part(n_rows, 0, ranks.count)), max(1, _BLOCK // max(1, n_bytes))
    for begin in range(0, longest, step):
        n = min(step, longest - begin)
        block = flat.new_zeros((n, n_bytes))
        mine = flat[begin : begin + n]
        block[: len(mine)] = mine
        blocks = [torch.empty_like(block) for _ in range(ranks.count)] if whole is not None else None
        dist.gather(block, blocks, dst=first, group=ranks.group)
        for rank, received in enumerate(blocks or []):
            rows = part(n_rows, rank, ranks.count)
            at, end = rows.start + begin, min(rows.start + begin + n, rows.stop)
            if at < end and whole is not None:
                whole[at:end] = received[: end - at].cpu()
    return None if whole is None else whole.view(own.dtype).reshape(n_rows, *rest)


def to_first(value: Any, ranks: Ranks) -> Tensor | None:
    """A whole DTensor in the memory of the first rank's host; None on the others. All ranks of it call this."""
    by_rows = ranks_of_rows(value)
    if by_rows is not None and by_rows.count == ranks.count:
        return rows_to_first(value.to_local(), value.shape[0], by_rows)
    whole = value.full_tensor()
    return whole.cpu() if ranks.rank == 0 else None


def like(whole: Tensor, value: Any) -> Tensor:
    """A whole tensor, which every rank has, divided as the DTensor ``value`` is; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    by_rows = ranks_of_rows(value)
    if by_rows is None:
        device = value.to_local().device
        return distribute_tensor(whole.to(device), value.device_mesh, value.placements, src_data_rank=None)
    rows = part(len(whole), by_rows.rank, by_rows.count)
    own = whole[rows.start : rows.stop].to(value.to_local().device)
    return divided(own, whole.shape, value.device_mesh, value.placements)
