"""Processes of one group, started once, that call functions: what the tests of several ranks run on."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 60  # the longest that any rank waits for another


class Processes:
    """``with Processes(4, folder) as ranks: ranks.run(function, *arguments)`` returns what each rank returned.

    They talk through gloo, or with ``device="cuda"``, where each takes a GPU, through NCCL.
    Functions are sent by name, so they stand in a module that the processes can import.
    """

    def __init__(self, n: int, folder, device="cpu"):
        context = mp.get_context("spawn")
        self._pipes, self.processes = [], []
        for rank in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, n, str(folder / "store"), device, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pipe in self._pipes:
            with suppress(OSError):  # it died, as a test wanted it to
                pipe.send(None)
        for process in self.processes:
            process.join(10)
            process.kill()

    def run(self, function, *arguments):
        """Raises ``AssertionError`` with the tracebacks of the ranks that failed."""
        return self._answers(self._pipes, function, arguments, False)

    def run_last(self, lost, function, *arguments):
        """The same where rank ``lost`` dies of it, and the others end when they have answered, as a script does."""
        awaited = [pipe for rank, pipe in enumerate(self._pipes) if rank != lost]
        return self._answers(awaited, function, arguments, True)

    def _answers(self, awaited, function, arguments, is_last):
        for pipe in self._pipes:
            pipe.send((function, arguments, is_last))
        answers = []
        for rank, pipe in enumerate(awaited):
            assert pipe.poll(2 * SECONDS), f"rank {rank} does not answer"
            answers.append(pipe.recv())
        failures = [f"rank {rank}: {failure}" for rank, (failure, _) in enumerate(answers) if failure]
        assert not failures, "\n".join(failures)
        return [answer for _, answer in answers]


def _serve(rank, n, store, device, pipe):
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's name may lead nowhere
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.FileStore(store, n),
        rank=rank,
        world_size=n,
        timeout=timedelta(seconds=SECONDS),
    )
    while (task := pipe.recv()) is not None:
        function, arguments, is_last = task
        try:
            pipe.send(("", function(*arguments)))
        except Exception:
            pipe.send((traceback.format_exc(), None))
        if is_last:
            os._exit(1)
    dist.destroy_process_group()
