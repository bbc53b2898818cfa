"""A loop of your own that stops at any step and goes on there, bit for bit."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from . import checkpoint
from .checkpoint import Generators, Stateful
from .files.generators import generator_states, global_states, set_generator_state, set_global_states
from .utils.interrupt import deferred_signals, leave


class Resumable:
    """A run that is saved every minute, in the middle of an epoch, and that goes on there after any kill.

    ::

        run = tl.Resumable("run.ckpt", resume=True, model=net, optimizer=optimizer)
        with run:
            for epoch in run.epochs(100):
                for x, y in run.steps(tl.iterate.minibatches(X, y, 128, shuffle=True)):
                    step(x, y)

    Weights, the optimiser's state, the order of the data and what is drawn at random are then those of a run that was
    never stopped. For that a resumed epoch is begun again with the random states of its beginning; what ``steps`` was
    given passes by without being yielded up to where the checkpoint was taken; and there everything is put back as it
    was then. So batches may come from anything that draws from the global generators or those in ``generators``.

    Within ``with``, Ctrl-C and SIGTERM wait for the step under way. Then the checkpoint is written and
    ``KeyboardInterrupt`` raised, or the program left with status 143. Behind the last step of an epoch they wait for
    its end. A second Ctrl-C stops at once.

    Args:
        path: the checkpoint; ``None`` saves nothing.
        resume: go on from ``path``, if it exists.
        every_seconds: save at the first step after so much time; 0 saves at every step.
        keep: how many checkpoints stay, as in :func:`torchlayer.checkpoint.save`.
        extra: a dict of plain values and tensors that the loop fills, a history say. It is saved along, and filled
            again.
        model, optimizer, generators, others: as in :func:`torchlayer.checkpoint.save`.

    Attributes:
        epoch: how many epochs are done.
        position: what the last checkpoint's ``tick`` or ``save`` was given, ``None`` at the beginning.

    Raises:
        FileFormatError: the checkpoint is damaged, and no older one is kept.
        ValueError: it is of another network, or of other data.

    >>> import tempfile, torch, torchlayer as tl
    >>> folder = tempfile.TemporaryDirectory()
    >>> def train(n_epoch):
    ...     seen = {"rows": []}
    ...     torch.manual_seed(0)
    ...     run = tl.Resumable(folder.name + "/run.ckpt", resume=True, extra=seen)
    ...     for epoch in run.epochs(n_epoch):
    ...         for rows in run.steps(tl.iterate.minibatches(torch.arange(4), batch_size=2, shuffle=True)):
    ...             seen["rows"] += rows.tolist()
    ...     return seen["rows"]
    >>> parts = train(1), train(2)
    >>> os.remove(folder.name + "/run.ckpt")
    >>> train(2) == parts[1]
    True
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        resume: bool = False,
        every_seconds: float = 60.0,
        keep: int = 1,
        extra: dict[str, Any] | None = None,
        generators: Generators | None = None,
        model: nn.Module | None = None,
        optimizer: Stateful | None = None,
        **others: Stateful,
    ):
        self.path, self.keep = path, keep
        self.every_seconds = math.inf if path is None else every_seconds
        self.extra = {} if extra is None else extra
        self.epoch, self.position = 0, None
        self._parts: Any = {"model": model, "optimizer": optimizer, **others}
        self._generators = dict(generators or {})
        self._n_done = 0  # steps of the epoch under way
        self._start: Any = None  # the random states at its beginning; None between epochs
        self._middle: dict[str, Any] | None = None  # a checkpoint of the middle of an epoch that is not reached yet
        self._stopped = False
        self._signals: list[int] = []
        self._block: ExitStack | None = None
        if resume and path is not None and checkpoint.exists(path):
            self._load(checkpoint.load(path))
        self._saved_at = time.monotonic()

    def epochs(self, n_epoch: int) -> Iterator[int]:
        """The epochs that are left of ``n_epoch``, numbered from 1. The last one ends with a checkpoint."""
        while self.epoch < n_epoch and not self._stopped:
            if self._start is None:
                self._start, self._n_done = self._draws(), 0
            else:
                self._set_draws(self._start)
            yield self.epoch + 1
            if self._middle is not None:
                raise RuntimeError(
                    f"'{self.path}' was written after {self._n_done} steps of epoch {self.epoch + 1}, and this time "
                    "that epoch ended without a call of steps(); the loop has to be the one that wrote it"
                )
            self.epoch, self._start, self._n_done = self.epoch + 1, None, 0
            if self.epoch == n_epoch or self._stopped or self._is_due():
                self._write(self._draws())
                self._leave_if_told()

    def steps(self, items: Iterable[Any]) -> Iterator[Any]:
        """What is left of ``items``, the batches of one epoch. The body of the loop is one step."""
        iterator = iter(items)
        if self._middle is not None:
            self._pass_by(iterator)
        item = next(iterator, _END)
        while item is not _END:
            yield item
            self._n_done += 1
            draws = self._draws() if self._is_due() else None
            item = next(iterator, _END)  # so a checkpoint has a step before it, and a loop runs at least once
            if draws is not None and item is not _END:
                self._write(draws)
                self._leave_if_told()

    def tick(self, position: Any) -> None:
        """After a step of a loop without ``epochs``: save if it is time, leave if told to.

        Args:
            position: where the loop would go on: plain values and tensors. A resumed run finds it in ``position``.
        """
        self.position = position
        if self._is_due():
            self._write(self._draws())
            self._leave_if_told()

    def save(self, position: Any = None) -> None:
        """Save now. Within an epoch of ``epochs`` this would not be exact: that saves by itself.

        Args:
            position: as in `tick`.
        """
        if self._start is not None:
            raise RuntimeError("within epochs() a run saves itself, at the end of a step or of the epoch")
        self.position = position
        self._write(self._draws())

    def stop(self) -> None:
        """Let the epoch under way be the last of this call of `epochs`; it ends with a checkpoint."""
        self._stopped = True

    def __enter__(self) -> Resumable:
        self._block = ExitStack()
        self._signals = self._block.enter_context(deferred_signals())
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._block is not None
        self._block.close()
        if error[0] is None and self._signals:  # behind the last checkpoint
            leave(self._signals[0], None)

    def _is_due(self) -> bool:
        return bool(self._signals) or time.monotonic() - self._saved_at >= self.every_seconds

    def _draws(self) -> dict[str, Any]:
        """The state of everything that draws."""
        return {"random": global_states(), "generators": generator_states(self._generators)}

    def _set_draws(self, states: dict[str, Any]) -> None:
        for name, generator in self._generators.items():
            set_generator_state(name, generator, states["generators"][name])
        set_global_states(states["random"])

    def _write(self, draws: dict[str, Any]) -> None:
        if self.path is None:
            return
        where = {"epoch": self.epoch, "n_done": self._n_done, "start": self._start, "user": self.position}
        state = checkpoint.gather(**self._split(), position=where, extra=self.extra)
        checkpoint.write(self.path, {**state, **draws}, self.keep)
        self._saved_at = time.monotonic()

    def _split(self) -> dict[str, Any]:
        own = ("model", "optimizer")
        others = {name: part for name, part in self._parts.items() if name not in own}
        return {**{name: self._parts[name] for name in own}, "generators": self._generators, "others": others}

    def _load(self, state: dict[str, Any]) -> None:
        where = state["position"]
        if not isinstance(where, dict) or where.keys() != {"epoch", "n_done", "start", "user"}:
            raise ValueError(f"'{self.path}' was not written by a Resumable; take it up with checkpoint.restore")
        self._put_back(state)
        self.epoch, self._n_done, self._start, self.position = (where[k] for k in ("epoch", "n_done", "start", "user"))
        self._middle = state if self._n_done else None

    def _put_back(self, state: dict[str, Any]) -> None:
        checkpoint.restore(state, generators=self._generators, **self._parts)
        self.extra.clear()
        self.extra.update(copy.deepcopy(state["extra"]))

    def _pass_by(self, iterator: Iterator[Any]) -> None:
        for n in range(self._n_done):
            if next(iterator, _END) is _END:
                raise ValueError(
                    f"'{self.path}' was written after {self._n_done} steps of epoch {self.epoch + 1}, which has {n} "
                    "now; go on with the data and the batch size it was begun with"
                )
        assert self._middle is not None
        self._put_back(self._middle)
        self._middle = None

    def _leave_if_told(self) -> None:
        if self._signals:
            leave(self._signals[0], None if self.path is None else Path(self.path))


_END: Any = object()
