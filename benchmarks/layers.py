"""The time of a training step, forward and backward, of each layer beside the same thing in bare torch.nn.

Both compute the same from the same weights, which is checked first, and both run in this process, in turns.

    python benchmarks/layers.py                               # the CPU table, and the GPU table where there is a GPU
    python benchmarks/layers.py --only norm pad --seconds 5   # families whose names hold one of these, measured longer
    python benchmarks/layers.py --device cuda --json layers.json

How the times are taken is in the README beside this file.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import layers_cases
import layers_cases_recurrent
import torch
from layers_pairs import Case, Pair, Side
from loops import hardware
from tqdm import tqdm

CASES: list[Case] = [*layers_cases.CASES, *layers_cases_recurrent.CASES]
SAMPLE_SECONDS = 0.004  # of each turn: many steps of a small layer, one of a large one
Sample = Callable[[int], float]


@dataclass
class Timing:
    """Microseconds of the lowest turn of each, and the ratio of ours to theirs with a 95% interval of its median.

    Where theirs cannot be captured there is ours alone, where neither can there is nothing, and the reason.
    """

    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    cannot: str | None = None


class CannotBeCaptured(RuntimeError):
    """A step that does what no CUDA graph can hold."""


@dataclass
class Row:
    family: str
    shape: str
    timings: dict[str, Timing]
    problem: str | None = None


def steps_on_cpu(side: Side, n_steps: int) -> float:
    """CPU time, which a neighbour on the machine inflates less than wall time."""
    step, start = side.step, time.process_time()
    for _ in range(n_steps):
        step()
    return time.process_time() - start


def steps_on_cuda(side: Side, n_steps: int) -> float:
    """Wall time of eager steps, the device idle before and after."""
    step = side.step
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n_steps):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def replays(graph: torch.cuda.CUDAGraph, n_steps: int) -> float:
    """The device's time for a captured step: its kernels, without Python and the launches."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(n_steps):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def captured(side: Side) -> torch.cuda.CUDAGraph:
    """One step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            side.step()
    here = torch.cuda.current_stream()
    here.wait_stream(stream)
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    draws = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            side.step()
    except RuntimeError as error:
        # torch leaves the stream and the generator as they were inside the broken capture
        torch.cuda.set_stream(here)
        generator.graphsafe_set_state(draws)
        raise CannotBeCaptured(*str(error).splitlines()[:1]) from error
    return graph


SAMPLERS: dict[str, dict[str, Callable[[Side], Sample]]] = {
    "cpu": {"step": lambda side: partial(steps_on_cpu, side)},
    "cuda": {
        "eager": lambda side: partial(steps_on_cuda, side),
        "graph": lambda side: partial(replays, captured(side)),
    },
}


def in_turns(ours: Sample, theirs: Sample, seconds: float) -> Timing:
    """Turn about, the first changing every round; each round gives one ratio."""
    for sample in (ours, theirs):
        sample(3)
    per_step = min(sample(n) / n for n in (1, 10) for sample in (ours, theirs))
    n_steps = max(1, round(SAMPLE_SECONDS / per_step))
    n_rounds = max(20, round(seconds / (2 * n_steps * per_step)))
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(n_rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            found[side].append((ours, theirs)[side](n_steps) / n_steps)
    ratios = sorted(a / b for a, b in zip(*found))
    # The median of n values lies between these two in 95 of 100 cases, whatever their distribution.
    reach = 0.98 * math.sqrt(n_rounds)
    low, high = math.floor(n_rounds / 2 - reach), math.ceil(n_rounds / 2 + reach)
    ours_us, theirs_us = (1e6 * min(values) for values in found)
    return Timing(ours_us, theirs_us, statistics.median(ratios), ratios[max(low, 0)], ratios[min(high, n_rounds - 1)])


def alone(ours: Sample, seconds: float) -> float:
    """Microseconds of the lowest turn."""
    ours(3)
    n_steps = max(1, round(SAMPLE_SECONDS / (ours(10) / 10)))
    end = time.perf_counter() + seconds / 2
    lowest = ours(n_steps)
    while time.perf_counter() < end:
        lowest = min(lowest, ours(n_steps))
    return 1e6 * lowest / n_steps


def timed(pair: Pair, sampler: Callable[[Side], Sample], seconds: float) -> Timing:
    """Both in turns, or ours alone where theirs cannot be captured. That theirs can and ours cannot is an error."""
    try:
        theirs = sampler(pair.theirs)
    except CannotBeCaptured as error:
        try:
            return Timing(alone(sampler(pair.ours), seconds), cannot=f"torch's cannot be captured: {error}")
        except CannotBeCaptured:
            return Timing(cannot=f"neither can be captured: {error}")
    return in_turns(sampler(pair.ours), theirs, seconds)


def measured(case: Case, sizes: tuple[Any, ...], device: str, seconds: float) -> Row:
    """Build a pair, check it, time it. What goes wrong is the row's, so that the others come all the same."""
    row = Row(case.family, "x".join(map(str, sizes)), {})
    try:
        torch.manual_seed(0)
        with torch.device(device):
            pair = case.make(*sizes)
        row.shape = pair.shape()
        pair.check()
        gc.collect()
        gc.disable()
        for kind, sampler in SAMPLERS[device].items():
            row.timings[kind] = timed(pair, sampler, seconds)
    except Exception as error:
        row.problem = f"failed: {type(error).__name__}: {error}".splitlines()[0]
    finally:
        gc.enable()
    return row


HEAD = f"{'family':28} {'shape':36} {'':6} {'ours µs':>9} {'torch µs':>9} {'ratio':>6}  spread"


def lines(row: Row) -> list[str]:
    """A line a kind of timing, and one for what went wrong."""
    start = f"{row.family:28} {row.shape:36}"
    found = []
    for kind, t in row.timings.items():
        ours, theirs = ("-" if us is None else f"{us:.1f}" for us in (t.ours, t.theirs))
        rest = t.cannot or f"{t.ratio:6.2f}  {t.low:.2f}-{t.high:.2f}"
        found.append(f"{start} {kind:6} {ours:>9} {theirs:>9} {rest}")
    return [*found, f"{start} {row.problem}"] if row.problem else found


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Replace the file at once, so that a run that is killed leaves the rows it had."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(report, indent=1))
    beside.replace(path)


def keep_memory() -> None:
    """Let glibc reuse freed tensors, as it does after a while by itself. Until then it hands large ones back to the
    system, and which side's next step pays for fresh pages depends on the row before."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_mmap_threshold, 1 << 25)  # the most it takes
        mallopt(m_trim_threshold, 1 << 30)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    both = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", choices=("cpu", "cuda", "both"), help="default: both where there is a GPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="families whose names hold one of these")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring a row (on CUDA, each kind of timing)")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--json", type=Path, help="also write everything there, row by row")
    options = parser.parse_args()
    if options.device in ("cuda", "both") and len(both) == 1:
        parser.error(f"--device {options.device}, but this PyTorch sees no GPU; use --device cpu")
    if options.seconds <= 0:
        parser.error(f"--seconds is how long a row is measured, more than 0, got {options.seconds}")
    cases = [case for case in CASES if not options.only or any(name in case.family for name in options.only)]
    if not cases:
        names = ", ".join(sorted({case.family for case in CASES}))
        parser.error(f"--only {' '.join(options.only)} fits no family; there are: {names}")
    torch.set_num_threads(options.threads)
    keep_memory()

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{hardware()}\n{versions}")
    heads = {
        "cpu": f"CPU time of a step on {options.threads} thread(s)",
        "cuda": "eager: wall time of a step; graph: device time of the captured step",
    }
    report: dict[str, Any] = {"hardware": hardware(), "versions": versions}
    failed = False
    for device in both if options.device in (None, "both") else [options.device]:
        jobs = [(case, sizes) for case in cases for sizes in (case.cpu if device == "cpu" else case.cuda)]
        print(f"\n{heads[device]}\n{HEAD}")
        report[device] = []
        for case, sizes in tqdm(jobs, desc=device, unit="row"):
            row = measured(case, sizes, device, options.seconds)
            tqdm.write("\n".join(lines(row)), file=sys.stdout)
            sys.stdout.flush()
            report[device].append(asdict(row))
            failed = failed or row.problem is not None
            if options.json:
                write_json(options.json, report)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
