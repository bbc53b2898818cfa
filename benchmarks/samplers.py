"""Candidate samplers: ours, plain PyTorch, what users write with torch.multinomial, and the floor, the draws alone.

python benchmarks/samplers.py                      # the CPU table, and the GPU table where there is a GPU
python benchmarks/samplers.py --kinds log_uniform uniform --seconds 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchlayer.kernels import compiled
from torchlayer.kernels._library import OPS
from torchlayer.kernels.samplers import FixedUnigram, LearnedUnigram, log_uniform_sampler, uniform_sampler

CALLS_IN_A_GRAPH = 10
CASES = [(50_000, 64, 128), (793_471, 8192, 2560)]  # classes, sampled, labels: word2vec, the billion word benchmark
KINDS = ["log_uniform", "uniform", "fixed_unigram", "learned_unigram"]


class Contender(NamedTuple):
    """A row: its name, a call that samples, whether it does the whole job (K distinct classes and their counts), and
    whether a CUDA graph can hold it, as no call can that waits for the device.
    """

    name: str
    call: Callable[[], Any]
    whole: bool
    captures: bool = True


def contenders(kind: str, n_classes: int, n_sampled: int, n_labels: int, device: str) -> list[Contender]:
    """The rows of one table."""
    labels = torch.randint(0, n_classes, (n_labels, 1), device=device)
    p = _probability(kind, n_classes).to(device)
    sampler, op, arguments = _ours(kind, n_classes, n_sampled, labels, p)

    def reference() -> Any:
        return OPS[op].reference(labels, torch.randint(0, 2**63 - 1, (2,), device=device), *arguments, True, 2**27)

    def seeded() -> Any:
        return OPS[op].overload(labels, torch.randint(0, 2**63 - 1, (2,), device=device), *arguments, False, 2**27)

    weights = p.float()

    def distinct_of_many() -> tuple[Tensor, Tensor, Tensor]:
        # Transformer-XL's sampler: as many distinct classes as there happen to be among 2 K draws
        sampled = torch.multinomial(weights, 2 * n_sampled, True).unique()
        of_labels, of_sampled = (-torch.expm1(2 * n_sampled * torch.log1p(-p[ids])) for ids in (labels, sampled))
        return sampled, of_labels, of_sampled

    rows = [
        Contender("torchlayer", lambda: sampler(labels, n_sampled, n_classes), True),
        Contender("plain PyTorch, the same op", reference, True),
        Contender("multinomial(p, 2 K, True).unique(), counts", distinct_of_many, False, False),
        Contender("multinomial(p, K, True), with repeats", lambda: torch.multinomial(weights, n_sampled, True), False),
    ]
    if n_classes <= 2**24:
        rows.append(
            Contender("multinomial(p, K) without replacement", lambda: torch.multinomial(weights, n_sampled), False)
        )
    return [*rows, Contender("floor: K draws with repeats", seeded, False)]


def _probability(kind: str, n_classes: int) -> Tensor:
    k = torch.arange(n_classes, dtype=torch.float64)
    weight = {
        "log_uniform": torch.log1p(1 / (k + 1)),
        "uniform": torch.ones_like(k),
        "fixed_unigram": (1 / (k + 1)) ** 0.75,
        "learned_unigram": torch.ones_like(k),
    }[kind]
    return weight / weight.sum()


def _ours(
    kind: str, n_classes: int, n_sampled: int, labels: Tensor, p: Tensor
) -> tuple[Callable[..., Any], str, tuple[Any, ...]]:
    """The sampler as users call it, its op, and the op's arguments between the seed and ``unique``."""
    if kind == "fixed_unigram":
        fixed = FixedUnigram(p).to(labels.device)
        table = fixed.probability, fixed._threshold_bits.view(torch.float64), fixed.alias
        return fixed, "alias_sample", (*table, n_sampled)
    if kind == "learned_unigram":
        learned = LearnedUnigram(n_classes).to(labels.device)
        return learned, "learned_sample_", (learned.weight, learned._sums, True, n_sampled)
    sampler = {"log_uniform": log_uniform_sampler, "uniform": uniform_sampler}[kind]
    return sampler, f"{kind}_sample", (n_sampled, n_classes)


def medians(calls: list[Callable[[], Any]], device: str, seconds: float) -> list[float]:
    """Milliseconds of each call, warm, the calls in turns, so that a busy machine is busy for all of them."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 11:
        for call, mine in zip(calls, times):
            call()
            mine.append(_seconds_on_gpu(call) if device == "cuda" else _seconds_on_cpu(call))
    return [1e3 * sorted(mine)[len(mine) // 2] for mine in times]


def _seconds_on_cpu(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _seconds_on_gpu(call: Callable[[], Any]) -> float:
    """From the call to the end of its work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def replay_medians(calls: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Milliseconds of each call inside a CUDA graph of several, by the device's clock, the graphs in turns."""
    graphs = [_graph(call) for call in calls]
    times: list[list[float]] = [[] for _ in graphs]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 11:
        for graph, mine in zip(graphs, times):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            graph.replay()  # warm, and the device still busy with it when the events are queued
            before.record()
            graph.replay()
            after.record()
            torch.cuda.synchronize()
            mine.append(before.elapsed_time(after) / CALLS_IN_A_GRAPH)
    return [sorted(mine)[len(mine) // 2] for mine in times]


def _graph(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_IN_A_GRAPH):
            call()
    return graph


def print_table(rows: list[Contender], eager: list[float], replayed: dict[str, float]) -> None:
    """A line a row, in microseconds; ratios are to the first row, in the same column."""
    ours = replayed.get(rows[0].name)
    head = f"{'graph us':>12}{'x ours':>8}" if replayed else ""
    print(f"{'':<46}{'eager us':>12}{'x ours':>8}{head}   K distinct classes and counts")
    for row, ms in zip(rows, eager):
        graph = replayed.get(row.name)
        columns = f"{'waits':>12}{'-':>8}" if replayed else ""
        if graph is not None and ours is not None:
            columns = f"{1e3 * graph:>12.1f}{graph / ours:>8.1f}"
        whole = "yes" if row.whole else "no"
        print(f"{row.name:<46}{1e3 * ms:>12.1f}{ms / eager[0]:>8.1f}{columns}   {whole}")


def main() -> None:
    """Print a table for each device, case and distribution."""
    parser = argparse.ArgumentParser(description="Candidate samplers, timed.")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--devices", nargs="+", default=devices, choices=["cpu", "cuda"])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each table")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    for device in arguments.devices:
        backend = getattr(compiled(), device).name
        print(f"{device}: torchlayer runs {backend}, torch {torch.__version__}, {torch.get_num_threads()} threads")
        for n_classes, n_sampled, n_labels in CASES:
            for kind in arguments.kinds:
                rows = contenders(kind, n_classes, n_sampled, n_labels, device)
                eager = medians([row.call for row in rows], device, arguments.seconds)
                replayed: dict[str, float] = {}
                if device == "cuda":
                    held = [row for row in rows if row.captures]
                    ms = replay_medians([row.call for row in held], arguments.seconds)
                    replayed = {row.name: each for row, each in zip(held, ms)}
                print(f"\n{device}, {kind}, V {n_classes:,}, K {n_sampled:,}, {n_labels:,} labels")
                print_table(rows, eager, replayed)


if __name__ == "__main__":
    main()
