"""What the loops of loops.py train: two tasks, their clock, and the ways to make batches of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_SIZE = 128


@dataclass
class Clock:
    """Times epochs from end to end, and a yardstick after each, so that both meet the same moment of a busy machine."""

    read: Callable[[], float]
    yardstick: Callable[[], object] | None = None
    seconds: list[float] = field(default_factory=list)
    yardsticks: list[float] = field(default_factory=list)
    started: float | None = None

    def epoch_ends(self, *_: Any, **__: Any) -> None:
        now = self.read()
        if self.started is not None:  # the first epoch warms up
            self.seconds.append(now - self.started)
        self.started = self.read()
        if self.yardstick is not None:
            self.yardstick()
            before, self.started = self.started, self.read()
            self.yardsticks.append(self.started - before)


@dataclass
class Task:
    """One net to train, the same for every contender, on examples that are tensors in host memory."""

    net: nn.Sequential
    X: Tensor
    y: Tensor
    lr: float
    n_epochs: int
    device: str
    clock: Clock

    @property
    def n_steps(self) -> int:
        return len(self.X) // BATCH_SIZE


@dataclass(frozen=True)
class Trained:
    """What a contender hands back: the trained net, and the optimiser it really used."""

    net: Any
    optimizer: str


def learnable(n: int, n_in: int, n_out: int) -> tuple[Tensor, Tensor]:
    """Random inputs, labelled by a random linear map so that there is something to learn."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, n_in, generator=generator)
    return X, (X @ torch.randn(n_in, n_out, generator=generator)).argmax(1)


def small_task(n_epochs: int) -> Task:
    """64-32-10, 200 steps an epoch, one thread, in seconds of CPU time of the whole process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    X, y = learnable(200 * BATCH_SIZE, 64, 10)
    twin = deepcopy(net)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, fused=True)
    clock = Clock(time.process_time, yardstick=lambda: epoch_by_hand(twin, optimizer, slices(X, y)))
    return Task(net, X, y, lr=1e-3, n_epochs=n_epochs, device="cpu", clock=clock)


def mnist_task(n_epochs: int, data: str | None, device: str = "cuda") -> Task:
    """784-800-800-10 with dropout, Adam at 1e-4, in seconds of wall time with the device idle at both ends."""
    torch.manual_seed(0)
    hidden = [nn.Linear(784, 800), nn.ReLU(), nn.Dropout(0.5), nn.Linear(800, 800), nn.ReLU(), nn.Dropout(0.5)]
    net = nn.Sequential(nn.Dropout(0.2), *hidden, nn.Linear(800, 10))
    if has_mnist(data):
        import torchlayer as tl

        X, y = map(torch.from_numpy, tl.files.load_mnist_dataset(shape=(-1, 784), path=data)[:2])
    else:
        X, y = learnable(50_000, 784, 10)

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return Task(net, X, y, lr=1e-4, n_epochs=n_epochs, device=device, clock=Clock(now))


def has_mnist(data: str | None) -> bool:
    """Whether there is a folder to read it from: the one given, or else ``$TORCHLAYER_DATA``."""
    return data is not None or "TORCHLAYER_DATA" in os.environ


def slices(X: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches of an epoch shuffled at once: the cheapest way in plain PyTorch, cheaper than ``X[order]``."""
    order = torch.randperm(len(X), device=X.device)[: len(X) // BATCH_SIZE * BATCH_SIZE]
    return zip(X.index_select(0, order).split(BATCH_SIZE), y.index_select(0, order).split(BATCH_SIZE))


def host_minibatches(X: np.ndarray, y: np.ndarray, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Indexes drawn in NumPy and every batch sent over, as the tutorials of the feed-dict days did."""
    order = np.random.permutation(len(X))
    for start in range(0, len(X) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        yield torch.from_numpy(X[batch]).to(device), torch.from_numpy(y[batch]).to(device)


def loader(task: Task) -> Iterable[tuple[Tensor, Tensor]]:
    from torch.utils.data import DataLoader, TensorDataset

    dataset = TensorDataset(task.X, task.y)
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True, pin_memory=task.device == "cuda")


def to_device(batches: Iterable[tuple[Tensor, Tensor]], device: str) -> Iterator[tuple[Tensor, Tensor]]:
    for x, y in batches:
        yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)


def batches_of(task: Task, source: str) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """What gives one epoch's batches at each call."""
    if source == "tensors":
        return partial(slices, task.X.to(task.device), task.y.to(task.device))
    if source == "NumPy":
        return partial(host_minibatches, task.X.numpy(), task.y.numpy(), task.device)
    return partial(iter, loader(task)) if task.device == "cpu" else partial(to_device, loader(task), task.device)


def epoch_by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """The loop everyone writes; nothing is measured, logged or read back."""
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()


def described(optimizer: torch.optim.Optimizer) -> str:
    """Its class and the implementation that its options choose: `fused`, or PyTorch's default for the device."""
    group = optimizer.param_groups[0]
    if group.get("fused"):
        kind = "fused"
    elif group.get("foreach") or (group.get("foreach") is None and group["params"][0].is_cuda):
        kind = "default (foreach)"
    else:
        kind = "default (per tensor)"
    return f"{type(optimizer).__name__} {kind}"
