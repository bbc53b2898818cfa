"""How steps are timed beside each other: as calls and, on a GPU, as replays of a CUDA graph, caches warm or cold."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

Step = Callable[[], Any]
_FLUSH_BYTES = 256 * 2**20  # several times the L2 of any GPU
_CYCLES_PER_SECOND = 2e9  # the fastest clock of a GPU; a slower one sleeps longer, which does no harm


class Spread(NamedTuple):
    """Microseconds: the middle of all repetitions, the lowest, the middle half, and how many there were."""

    median: float
    lowest: float
    lower_quartile: float
    upper_quartile: float
    n: int


class Times(NamedTuple):
    """Of a call: from host to host, and the device's part of it with the launches queued. Of a replay: with the caches
    as the replay before left them, and after a buffer larger than them was written. None for what was not measured.
    """

    wall: Spread
    device: Spread | None = None
    hot: Spread | None = None
    cold: Spread | None = None

    def best(self) -> float:
        """What the step costs where launches are hidden, if that can be had, in microseconds."""
        return (self.hot or self.device or self.wall).median


class Captured(NamedTuple):
    """A graph of one step, what the step returned, which every replay writes again, or why there is none."""

    graph: torch.cuda.CUDAGraph | None
    result: Any
    reason: str


def capture(step: Step) -> Captured:
    """A CUDA graph of the step, its autograd included, after three calls on a side stream, the last of which may not
    wait for the device: what does cannot be captured, and a capture that fails leaves the allocator in disorder.
    """
    try:
        _warm_up(step)
    except RuntimeError as error:
        torch.cuda.synchronize()
        return Captured(None, None, f"waits for the device ({describe(error)})")
    graph = torch.cuda.CUDAGraph()
    try:
        # the outer block puts the stream back where a capture that cannot be ended does not
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            result = step()
    except Exception as error:  # the reason is the row's result, whatever it is
        torch.cuda.synchronize()
        return Captured(None, None, f"not captured ({describe(error)})")
    return Captured(graph, result, "")


def _warm_up(step: Step) -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()


def describe(error: Exception) -> str:
    """Its kind and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"


def measure(
    steps: Mapping[str, Step],
    graphs: Mapping[str, torch.cuda.CUDAGraph],
    device: str,
    rounds: int = 30,
    seconds: float = 2.0,
) -> tuple[dict[str, Times], dict[str, str]]:
    """Times of all steps, in turns: each round measures every step in every way. Also what failed, by name, and how.

    A step that needs long has fewer rounds, as many as fit in ``seconds`` and at least three. All have run before.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device) if graphs else None
    n_rounds, n_replays = {}, {}
    samples: dict[str, dict[str, list[float]]] = {}
    failures: dict[str, str] = {}
    for name, step in steps.items():
        try:
            n_rounds[name] = max(3, min(rounds, int(1e6 * seconds / wall_us(step, device))))
            if name in graphs:
                n_replays[name] = max(2, min(20, int(500 / _hot(graphs[name], 1))))
        except Exception as error:  # its own row says so; the others go on
            failures[name] = describe(error)
    gc.collect()
    gc.disable()
    try:
        for i in range(max(n_rounds.values(), default=0)):
            for name, step in steps.items():
                if name in failures or i >= n_rounds[name]:
                    continue
                try:
                    taken = _once(step, graphs.get(name), n_replays.get(name, 0), device, flush)
                except Exception as error:
                    failures[name] = describe(error)
                    continue
                for kind, us in taken.items():
                    samples.setdefault(name, {}).setdefault(kind, []).append(us)
    finally:
        gc.enable()
    times = {name: Times(**{kind: spread(us) for kind, us in mine.items()}) for name, mine in samples.items()}
    return {name: mine for name, mine in times.items() if name not in failures}, failures


def _once(
    step: Step, graph: torch.cuda.CUDAGraph | None, n_replays: int, device: str, flush: torch.Tensor | None
) -> dict[str, float]:
    """One round's figures of one step."""
    taken = {"wall": wall_us(step, device)}
    if device == "cuda":
        taken["device"] = _queued(step, taken["wall"])
    if graph is not None and flush is not None:
        taken["hot"] = _hot(graph, n_replays)
        taken["cold"] = _cold(graph, flush)
    return taken


def spread(values: list[float]) -> Spread:
    """The summary of some repetitions."""
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return Spread(statistics.median(values), min(values), lower, upper, len(values))


def wall_us(step: Step, device: str) -> float:
    """From the call, the device idle, to the end of its work, in microseconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    # one thread's own time on a CPU: neighbours inflate it less
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return max(1e6 * (clock() - start), 1e-3)


def _queued(step: Step, wall: float) -> float:
    """The device's time for a call whose launches all wait behind a pause, so that none of them is waited for."""
    return events_us(step, pause=min(50_000.0, 1.5 * wall + 200))


def _hot(graph: torch.cuda.CUDAGraph, n: int) -> float:
    def replays() -> None:
        for _ in range(n):
            graph.replay()

    graph.replay()
    return events_us(replays, pause=1000) / n


def _cold(graph: torch.cuda.CUDAGraph, flush: torch.Tensor) -> float:
    torch.cuda._sleep(int(200e-6 * _CYCLES_PER_SECOND))
    flush.zero_()
    return events_us(graph.replay, pause=0)


def events_us(work: Step, pause: float) -> float:
    """Between two events around the work, which is queued while the device pauses for some microseconds."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if pause:
        torch.cuda._sleep(int(pause * 1e-6 * _CYCLES_PER_SECOND))
    before.record()
    work()
    after.record()
    torch.cuda.synchronize()
    return max(1e3 * before.elapsed_time(after), 1e-3)


class Memory(NamedTuple):
    """MiB above what was there: at the peak of a call, and in the results it returns."""

    peak: float
    results: float


def memory(step: Step, device: str) -> Memory:
    """What a call needs; NaN on a CPU outside Linux, where results are not told apart either."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = step()
        torch.cuda.synchronize()
        peak, after = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        del result
        return Memory((peak - before) / 2**20, (after - before) / 2**20)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # lowers the resident set's high mark to what it is now
    except OSError:
        return Memory(float("nan"), float("nan"))
    before = _resident_mark()
    step()
    return Memory(_resident_mark() - before, float("nan"))


def _resident_mark() -> float:
    """The high mark of this process's resident memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
