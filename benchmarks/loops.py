"""What a training loop costs on top of the arithmetic: torchlayer's, a hand-written one's, and the peers'.

Two parts, each a table. On the CPU a net so small (64-32-10) that the loop is most of the step: CPU time a step. On a
GPU the MNIST perceptron (784-800-800-10 with dropout): seconds an epoch. Every contender starts from the same weights,
trains on the same examples, and shows its loss before and after, so none is fast by doing less.

    python benchmarks/loops.py                       # the CPU part, and the GPU part where there is a GPU
    python benchmarks/loops.py --peers keras skorch  # of the peers, only these
    python benchmarks/loops.py --device cuda --data data/mnist --json loops.json

How each loop is timed, and how to install the peers beside a CPU build of torch, is in the README beside this file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

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


@dataclass(frozen=True)
class Contender:
    """A row of a table; ``module`` is what has to be importable."""

    title: str
    train: Callable[[Task], Trained]
    module: str = "torch"
    tf32: bool = False


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


def by_hand(task: Task, source: str = "tensors", fused: bool | None = True) -> Trained:
    net = task.net.to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr, fused=fused)
    batches = batches_of(task, source)
    for _ in range(task.n_epochs):
        epoch_by_hand(net, optimizer, batches())
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


def graph_by_hand(task: Task) -> Trained:
    """The floor on a GPU: the step captured once by hand and replayed."""
    net = task.net.to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr, fused=True, capturable=True)
    X, y = task.X.to(task.device), task.y.to(task.device)
    x_now, y_now = X[:BATCH_SIZE].clone(), y[:BATCH_SIZE].clone()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x_now), y_now).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(task.n_epochs):
        for x, t in slices(X, y):
            x_now.copy_(x)
            y_now.copy_(t)
            graph.replay()
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


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


def stacked(net: nn.Sequential) -> Any:
    """The same net, with the same weights, out of torchlayer's layers."""
    import torchlayer as tl

    result = tl.layers.InputLayer((None, next(net.parameters()).shape[1]))
    for module, following in pairwise([*net, None]):
        if isinstance(module, nn.Linear):
            act = torch.relu if isinstance(following, nn.ReLU) else None
            result = tl.layers.DenseLayer(result, n_units=module.out_features, act=act)
        elif isinstance(module, nn.Dropout):
            result = tl.layers.DropoutLayer(result, keep=1 - module.p)
    with torch.no_grad():
        for ours, theirs in zip(result.parameters(), net.parameters()):
            ours.copy_(theirs.t())  # W is a Linear's weight transposed; a bias is as it is
    return result


def with_step(task: Task) -> Trained:
    import torchlayer as tl

    net = stacked(task.net).to(task.device).train()
    optimizer = torch.optim.Adam(net.parameters(), task.lr)
    step = tl.TrainStep(net, optimizer, tl.cost.cross_entropy)
    X, y = task.X.to(task.device), task.y.to(task.device)
    for _ in range(task.n_epochs):
        for batch, labels in tl.iterate.minibatches(X, y, BATCH_SIZE, shuffle=True):
            step(batch, labels)
        task.clock.epoch_ends()
    return Trained(net, described(optimizer))


def with_fit(task: Task, everything: bool = False, compiled: bool = False) -> Trained:
    """`everything`: in every epoch the loss and accuracy of 2,560 rows, the history, the printed lines."""
    import torchlayer as tl

    class EpochEnd:
        step = staticmethod(task.clock.epoch_ends)  # `fit` steps its schedule once an epoch, the device being idle

    net: Any = stacked(task.net).to(task.device)
    optimizer = torch.optim.Adam(net.parameters(), task.lr)
    if compiled:
        net = torch.compile(net)
    extra: dict[str, Any] = {"print_freq": task.n_epochs, "eval_train": False}
    if everything:
        extra |= {"print_freq": 1, "acc": tl.utils.accuracy, "X_val": task.X[:2560], "y_val": task.y[:2560]}
    counts = {"batch_size": BATCH_SIZE, "n_epoch": task.n_epochs}
    tl.utils.fit(net, optimizer, tl.cost.cross_entropy, task.X, task.y, scheduler=EpochEnd(), **counts, **extra)
    return Trained(net, described(optimizer))


def lightning(task: Task, defaults: bool = False) -> Trained:
    """`defaults` leaves the logger, the bar and the checkpoints on and logs the loss, as its first example does."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.net

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if defaults:
                self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), task.lr)

    class EpochEnd(L.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            task.clock.epoch_ends()

    options = {"accelerator": "cpu", "max_epochs": task.n_epochs, "enable_model_summary": False}
    if not defaults:
        options |= {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(callbacks=[EpochEnd()], default_root_dir=folder, **options)
        trainer.fit(Module(), loader(task))
    return Trained(task.net, described(trainer.optimizers[0]))


def keras(task: Task) -> Trained:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as K

    layers: list[Any] = [K.Input((64,)), K.layers.Dense(32, activation="relu"), K.layers.Dense(10)]
    model = K.Sequential(layers)
    model.set_weights([p.detach().t().numpy() for p in task.net.parameters()])
    loss = K.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=K.optimizers.Adam(task.lr), loss=loss)

    class EpochEnd(K.callbacks.Callback):
        def on_epoch_end(self, *_: Any) -> None:
            task.clock.epoch_ends()

    X, y = task.X.numpy(), task.y.numpy()
    model.fit(X, y, batch_size=BATCH_SIZE, epochs=task.n_epochs, verbose=0, callbacks=[EpochEnd()])
    return Trained(model, "keras.Adam")


def skorch(task: Task) -> Trained:
    import skorch as S

    class EpochEnd(S.callbacks.Callback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            task.clock.epoch_ends()

    options: dict[str, Any] = {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.Adam, "lr": task.lr}
    options |= {"batch_size": BATCH_SIZE, "max_epochs": task.n_epochs, "iterator_train__shuffle": True}
    options |= {"train_split": None, "verbose": 0, "callbacks": [("epoch_end", EpochEnd())]}
    learner = S.NeuralNetClassifier(task.net, **options)
    learner.fit(task.X.numpy(), task.y.numpy())
    return Trained(learner.module_, described(learner.optimizer_))


def fastai(task: Task) -> Trained:
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Callback, Learner
    from torch.utils.data import TensorDataset

    class EpochEnd(Callback):
        def after_train(self) -> None:
            task.clock.epoch_ends()

    dataset = TensorDataset(task.X, task.y)
    batches = DataLoader(dataset, bs=BATCH_SIZE, shuffle=True, drop_last=True, num_workers=0)
    learner = Learner(DataLoaders(batches, []), task.net, loss_func=F.cross_entropy, cbs=[EpochEnd()])
    with learner.no_logging():  # the bar is a callback that only `fastai.callback.progress` would add
        learner.fit(task.n_epochs, task.lr)
    return Trained(task.net, f"fastai.{type(learner.opt).__name__}")


PEERS = ("lightning", "keras", "skorch", "fastai")

SMALL = [
    Contender("by hand, fused Adam", by_hand),
    Contender("by hand, default Adam", partial(by_hand, fused=None)),
    Contender("by hand, DataLoader(TensorDataset)", partial(by_hand, source="DataLoader", fused=None)),
    Contender("torchlayer TrainStep in a loop", with_step, "torchlayer"),
    Contender("torchlayer fit", with_fit, "torchlayer"),
    Contender("torchlayer fit, everything on", partial(with_fit, everything=True), "torchlayer"),
    Contender("skorch", skorch, "skorch"),
    Contender("fastai Learner", fastai, "fastai"),
    Contender("Lightning, no logger, bar, checkpoints", lightning, "lightning"),
    Contender("Lightning", partial(lightning, defaults=True), "lightning"),
    Contender("Keras fit on torch", keras, "keras"),
]

MNIST = [
    Contender("by hand, data on the device", by_hand),
    Contender("by hand, data on the device, tf32", by_hand, tf32=True),
    Contender("by hand, NumPy minibatches and .to", partial(by_hand, source="NumPy")),
    Contender("by hand, DataLoader pinned, 0 workers", partial(by_hand, source="DataLoader")),
    Contender("by hand, CUDA graph", graph_by_hand),
    Contender("by hand, CUDA graph, tf32", graph_by_hand, tf32=True),
    Contender("torchlayer TrainStep in a loop", with_step, "torchlayer"),
    Contender("torchlayer TrainStep in a loop, tf32", with_step, "torchlayer", tf32=True),
    Contender("torchlayer fit", with_fit, "torchlayer"),
    Contender("torchlayer fit, tf32", with_fit, "torchlayer", tf32=True),
    Contender("torchlayer fit of torch.compile(net), tf32", partial(with_fit, compiled=True), "torchlayer", tf32=True),
]


@dataclass
class Row:
    """What is known of a contender; ``runs`` has one entry a process."""

    title: str
    problem: str | None
    runs: list[dict[str, Any]] = field(default_factory=list)
    figure: float | None = None
    ratio: float | None = None
    spread: float | None = None


def trained_alone(part: str, title: str, n_epochs: int, data: str | None) -> dict[str, Any]:
    """Train one contender; runs in a process of its own, whose output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    task = small_task(n_epochs) if part == "cpu" else mnist_task(n_epochs, data)
    contender = next(c for c in (SMALL if part == "cpu" else MNIST) if c.title == title)
    torch.set_float32_matmul_precision("high" if contender.tf32 else "highest")
    before = mean_loss(task.net, task)
    trained = contender.train(task)
    after = mean_loss(trained.net, task)
    clock = task.clock
    if len(clock.seconds) != n_epochs - 1:
        raise RuntimeError(f"{len(clock.seconds) + 1} epochs ended, not {n_epochs}")
    if not after < 0.9 * before:
        raise RuntimeError(f"it did not learn: the loss went from {before:.4f} to {after:.4f}")
    found = {"seconds": clock.seconds, "yardsticks": clock.yardsticks, "n_steps": task.n_steps}
    return found | {"loss": [before, after], "optimizer": trained.optimizer}


@torch.no_grad()
def mean_loss(net: Any, task: Task) -> float:
    """Over all examples, with dropout off."""
    device = next(net.parameters()).device
    return F.cross_entropy(net.eval()(task.X.to(device)), task.y.to(device)).item()


def compared(part: str, contenders: list[Contender], n_epochs: int, repeats: int, data: str | None) -> list[Row]:
    """Round after round, each contender once a round, so that all of them meet the machine's quiet and busy moments."""
    rows = [Row(c.title, missing(c)) for c in contenders]
    runs = [row for _ in range(repeats) for row in rows]
    for row in tqdm(runs, desc=f"{part} part", unit="process"):
        if row.problem:
            continue
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            run = process.submit(trained_alone, part, row.title, n_epochs, data)
            try:
                row.runs.append(run.result())
            except Exception as error:  # whatever a contender raises is its row, and the exit status
                row.problem = f"failed: {type(error).__name__}: {error}".splitlines()[0]
    for row in rows:
        if not row.problem:
            summarise(part, row, rows[0])
    return rows


def missing(contender: Contender) -> str | None:
    if importlib.util.find_spec(contender.module):
        return None
    how = "--no-deps fastai, see README.md" if contender.module == "fastai" else contender.module
    return f"not installed (pip install {how})"


def summarise(part: str, row: Row, first: Row) -> None:
    """CPU: the lowest time of a step, and the median ratio of an epoch to the yardsticks on either side of it.
    GPU: the median time of an epoch, and its ratio to the first row's. Spread: the middle half, over the median."""
    seconds = [x for run in row.runs for x in run["seconds"]]
    if part == "cpu":
        row.figure = min(seconds) / row.runs[0]["n_steps"] * 1e3
        beside = [(a + b) / 2 for run in row.runs for a, b in pairwise(run["yardsticks"])]
        ratios = [x / yardstick for x, yardstick in zip(seconds, beside)]
        row.ratio, row.spread = statistics.median(ratios), middle_half(ratios)
    else:
        row.figure, row.spread = statistics.median(seconds), middle_half(seconds)
        row.ratio = row.figure / first.figure if first.figure else None


def middle_half(values: list[float]) -> float:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / median)


def table(part: str, rows: list[Row]) -> str:
    unit = "CPU ms/step" if part == "cpu" else "s/epoch"
    lines = [f"{'loop':42} {unit:>11} {'ratio':>6} {'spread':>7}  {'loss':16}  optimiser"]
    for row in rows:
        if row.problem:
            lines.append(f"{row.title:42} {row.problem}")
            continue
        before, after = row.runs[-1]["loss"]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        figures = f"{row.figure:11.4f} {ratio:>6} {row.spread:7.0%}"
        lines.append(f"{row.title:42} {figures}  {before:.4f} → {after:.4f}  {row.runs[-1]['optimizer']}")
    return "\n".join(lines)


def hardware() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} x {names[0] if names else platform.processor()}{gpu}"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    if importlib.util.find_spec("torchlayer"):
        found["torchlayer"] = importlib.import_module("torchlayer").__version__
    return found | {name: importlib.metadata.version(name) for name in PEERS if importlib.util.find_spec(name)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="which of them to run (default: all)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="which part to run")
    parser.add_argument("--repeats", type=int, default=3, help="rounds: fresh processes a contender")
    parser.add_argument("--epochs", type=int, default=16, help="epochs a process; the first is warm-up")
    parser.add_argument("--data", help="folder of MNIST (default: $TORCHLAYER_DATA, or random data)")
    parser.add_argument("--json", type=Path, help="also write everything there")
    options = parser.parse_args()
    if options.epochs < 2 or options.repeats < 1:
        parser.error("--epochs must be at least 2, since the first is warm-up, and --repeats at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but this PyTorch sees no GPU; use --device cpu")

    both = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    tables: dict[str, list[Row]] = {}
    for part in both if options.device == "auto" else [options.device]:
        contenders = (
            [c for c in SMALL if c.module not in PEERS or c.module in options.peers] if part == "cpu" else MNIST
        )
        tables[part] = compared(part, contenders, options.epochs, options.repeats, options.data)

    n = f"{options.repeats} processes x {options.epochs - 1} epochs"
    data = "real" if has_mnist(options.data) else "random, of MNIST's shape, labelled by a linear map"
    heads = {
        "cpu": f"64-32-10, batch {BATCH_SIZE}, 200 steps an epoch, 1 thread; lowest of {n}",
        "cuda": f"MNIST 784-800-800-10, dropout, batch {BATCH_SIZE}, data: {data}; median of {n}",
    }
    print(hardware())
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    for part, rows in tables.items():
        print(f"\n{heads[part]}\n{table(part, rows)}")
    if options.json:
        report = {"hardware": hardware(), "versions": versions(), "heads": heads}
        report |= {part: [asdict(row) for row in rows] for part, rows in tables.items()}
        options.json.write_text(json.dumps(report, indent=1))
    return int(any("failed" in (row.problem or "") for rows in tables.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
