"""Joining the processes that ``torchrun`` started, or being alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist


class Process(NamedTuple):
    """This process: its place among all, how many they are, and where its tensors belong."""

    rank: int
    count: int
    device: torch.device


@contextmanager
def process_group(seconds: float = 50, device: str = "auto") -> Iterator[Process]:
    """Join the process group of ``torchrun``; without it there is one process and no group::

        with tl.distributed.process_group() as here:
            net = build().to(here.device)
            ...

    Where GPUs are, each process takes one and they talk through NCCL, else through gloo. No process waits longer than
    ``seconds`` for another: if one has died, or is that late, the others end with an error (raised on a CPU; on a GPU
    NCCL's watchdog ends the process), and ``torchrun`` ends what is left. Work that one rank does alone has to be
    shorter. On the way out of an error the group is left as it is, since it may wait for those that are gone.

    Args:
        seconds: see above.
        device: "auto", "cpu" or "cuda".

    Raises:
        RuntimeError: there are more processes on this machine than GPUs.

    >>> with process_group(device="cpu") as here:
    ...     here
    Process(rank=0, count=1, device=device(type='cpu'))
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda" and place >= torch.cuda.device_count():
        raise RuntimeError(
            f"process {place} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; start "
            "fewer processes, or pass device='cpu'"
        )
    here = torch.device("cuda", place) if device == "cuda" else torch.device(device)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Process(0, 1, here)
        return
    dist.init_process_group(
        "nccl" if here.type == "cuda" else "gloo",
        timeout=timedelta(seconds=seconds),
        device_id=here if here.type == "cuda" else None,
    )
    yield Process(dist.get_rank(), dist.get_world_size(), here)
    dist.destroy_process_group()
