"""Where a training run is: everything it takes to go on exactly."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import checkpoint as checkpoints
from .evaluate import device_of

History = dict[str, list[float]]


class Run:
    """The progress of one :func:`torchlayer.utils.fit`: what was measured, what was best, what comes next."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        generator: torch.Generator,
        judged_by: str,
        path: str | Path | None,
    ):
        self.network, self.optimizer, self.scheduler, self.generator = network, optimizer, scheduler, generator
        self.judged_by, self.path = judged_by, path
        self.history: History = {}
        self.epoch = 0  # finished epochs
        self.n_done = 0  # finished steps of the next one
        self.order: Tensor | None = None  # of that epoch
        self.losses: list[Tensor] = []  # of its steps, on the device
        self.best: dict[str, Tensor] = {}
        self.best_value = math.inf
        self.n_worse = 0  # measurements since the best
        self.saved_at = time.monotonic()

    def next_order(self, n: int) -> Tensor:
        if self.order is None:
            self.order = torch.randperm(n, generator=self.generator)
        return self.order

    def advance(self, n_done: int, losses: Tensor) -> None:
        self.n_done = n_done
        self.losses.append(losses)

    def end_epoch(self, n_steps: int) -> float:
        """Close the epoch and return its mean loss: the one wait for the device in an epoch."""
        loss = float(torch.cat(self.losses).mean())
        self.epoch, self.n_done, self.order, self.losses = self.epoch + 1, 0, None, []
        return loss

    def measured(self, found: dict[str, float]) -> None:
        for name, value in found.items():
            self.history.setdefault(name, []).append(value)
        value = found.get(f"val_{self.judged_by}")
        if value is None:
            return
        value = value if self.judged_by == "loss" else -value
        self.n_worse += 1
        if value < self.best_value:
            self.best_value, self.n_worse = value, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def put_best_back(self) -> None:
        if self.best:
            self.network.load_state_dict(self.best)

    def save(self) -> None:
        if self.path is None:
            return
        checkpoints.save(
            self.path,
            generators={"order": self.generator},
            position={"epoch": self.epoch, "n_done": self.n_done},
            extra={
                "order": self.order,
                "losses": [losses.cpu() for losses in self.losses],
                "history": self.history,
                "best": self.best,
                "best_value": self.best_value,
                "n_worse": self.n_worse,
            },
            **self._parts(),
        )
        self.saved_at = time.monotonic()

    def load(self) -> None:
        assert self.path is not None
        state = checkpoints.load(self.path)
        position = checkpoints.restore(state, generators={"order": self.generator}, **self._parts())
        self.epoch, self.n_done = position["epoch"], position["n_done"]
        extra, device = state["extra"], device_of(self.network)
        self.losses = [losses.to(device) for losses in extra["losses"]]
        for name in ("order", "history", "best", "best_value", "n_worse"):
            setattr(self, name, extra[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {name: part for name, part in parts.items() if part is not None}
