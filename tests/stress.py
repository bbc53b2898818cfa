"""The sampled losses and samplers over and over: the same bits a thousand times, on two streams, in replayed graphs.

python tests/stress.py [--device cuda] [--repeats 1000] [--schedules 120]

What takes too long for the suite. A table last; exit status 1 if anything differed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable

import torch
from sampled_loss_cases import FUNCTIONS, Inputs, differentiable, gradients, inputs, run
from torch import Tensor
from tqdm import tqdm

import torchlayer as tl

# (N, T, K, V, D) and dtype: one for each way through a loss on CUDA
CASES = [((128, 1, 64, 5000, 128), torch.float32), ((2000, 1, 512, 6000, 256), torch.bfloat16)]
CASES += [((300, 9, 40, 500, 65), torch.float64)]
SLEEP_CYCLES = 200_000  # a tenth of a millisecond, some ten times a kernel's time


def results(loss: str, given: Inputs) -> list[Tensor]:
    """Losses and gradients of dense weights, which many rows are added into."""
    leaves = differentiable(given)
    losses = run(loss, leaves)
    return [losses.detach(), *gradients(losses, leaves, torch.linspace(0.5, 1.5, len(losses), device=losses.device))]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def repeat(loss: str, given: Inputs, n: int) -> int:
    """How many of ``n`` repeats differ from the first; on a CPU every other one has a single thread."""
    n_threads, first, n_different = torch.get_num_threads(), results(loss, given), 0
    for i in tqdm(range(n), loss, leave=False, disable=None):
        if given.hidden.device.type == "cpu":
            torch.set_num_threads(n_threads if i % 2 else 1)
        n_different += not same(results(loss, given), first)
    torch.set_num_threads(n_threads)
    return n_different


def two_streams(loss: str, given: Inputs, other: Inputs, n: int) -> int:
    """How many of ``n`` schedules on two streams, with sleeps at random, differ from one after the other."""
    expected = results(loss, given), results(loss, other)
    streams, dice, n_different = (torch.cuda.Stream(), torch.cuda.Stream()), random.Random(0), 0
    for _ in tqdm(range(n), loss, leave=False, disable=None):
        got: list[list[Tensor]] = [[], []]
        calls = [0, 0, 0, 1, 1, 1]
        dice.shuffle(calls)
        for stream in streams:
            stream.wait_stream(torch.cuda.current_stream())
        for which in calls:
            with torch.cuda.stream(streams[which]):
                if dice.random() < 0.5:
                    torch.cuda._sleep(dice.randrange(SLEEP_CYCLES))
                got[which] = results(loss, (given, other)[which])
        torch.cuda.synchronize()
        n_different += not (same(got[0], expected[0]) and same(got[1], expected[1]))
    return n_different


def replays(loss: str, given: Inputs, n: int) -> tuple[int, int]:
    """How many of ``n`` replays differ from an eager call on the negatives they drew, and how many drew as before."""
    labels, n_sampled, n_classes = given.labels, len(given.sampled), len(given.weight)
    leaves = differentiable(given)
    kept: list[Tensor] = []

    def step() -> list[Tensor]:
        values = tl.kernels.log_uniform_sampler(labels, n_sampled, n_classes)
        drawn = leaves._replace(
            sampled=values.sampled,
            true_expected_count=values.true_expected_count,
            sampled_expected_count=values.sampled_expected_count,
        )
        losses = run(loss, drawn)
        return [*values, losses, *gradients(losses, leaves, torch.ones_like(losses))]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()
    n_different, n_as_before, before = 0, 0, torch.zeros_like(kept[0])
    for _ in tqdm(range(n), loss, leave=False, disable=None):
        graph.replay()
        n_as_before += torch.equal(kept[0], before)
        before = kept[0].clone()
        drawn = leaves._replace(
            sampled=kept[0].clone(),
            true_expected_count=kept[1].clone(),
            sampled_expected_count=kept[2].clone(),
        )
        losses = run(loss, drawn)
        n_different += not same(kept[3:], [losses, *gradients(losses, leaves, torch.ones_like(losses))])
    return n_different, n_as_before


def seeded(device: torch.device, n: int) -> tuple[int, int]:
    """How many of ``n`` draws from one seed differ, and how many from a fresh one are the same."""
    labels, n_different, n_same = torch.arange(50, device=device), 0, 0
    last = None
    for i in range(n):
        seed = torch.tensor([i, 7], device=device)
        first = tl.kernels.log_uniform_sampler(labels, 64, 5000, seed=seed)
        n_different += not same(list(tl.kernels.log_uniform_sampler(labels, 64, 5000, seed=seed)), list(first))
        n_same += last is not None and torch.equal(first.sampled, last)
        last = first.sampled
    return n_different, n_same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--schedules", type=int, default=120)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.use_deterministic_algorithms(True)
    rows: list[tuple[str, int, str]] = []

    def note(what: str, n: int, result: Callable[[], int | tuple[int, int]]) -> None:
        bad = result()
        pair = bad if isinstance(bad, tuple) else (bad, 0)
        rows.append((what, n, "all equal" if not any(pair) else f"{pair[0]} DIFFER, {pair[1]} NOT DRAWN AFRESH"))
        print(f"{what:<60}{n:>7}   {rows[-1][2]}", flush=True)

    note("draws from one seed", options.repeats, lambda: seeded(device, options.repeats))
    for shape, dtype in CASES:
        given, other = (
            Inputs(*(x.to(device) for x in inputs(*shape, dtype=dtype, seed=seed) if x is not None)) for seed in (0, 1)
        )
        for loss in FUNCTIONS:
            title = f"{loss} {shape} {str(dtype)[6:]}"
            note(f"{title}: repeats", options.repeats, lambda loss=loss, g=given: repeat(loss, g, options.repeats))
            if device.type == "cuda":
                n = options.schedules
                note(f"{title}: streams", n, lambda loss=loss, g=given, o=other, n=n: two_streams(loss, g, o, n))
                n = options.repeats
                note(f"{title}: replays", n, lambda loss=loss, g=given, n=n: replays(loss, g, n))
    return int(any("DIFFER" in result for *_, result in rows))


if __name__ == "__main__":
    sys.exit(main())
