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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from loops_contenders import MNIST, PEERS, SMALL, Contender
from loops_tasks import BATCH_SIZE, Task, has_mnist, mnist_task, small_task
from tqdm import tqdm


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
