"""The problems of losses.py: their sizes, their tensors, the work they need at least, and what is aimed at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchlayer.kernels.samplers import log_uniform_sampler


class Case(NamedTuple):
    """A problem: N examples, K samples, D features, V classes."""

    n: int
    k: int
    d: int
    v: int
    dtype: torch.dtype


class Problem(NamedTuple):
    """Its tensors; the first three collect gradients."""

    weight: Tensor
    bias: Tensor
    hidden: Tensor
    labels: Tensor
    sampled: Tensor
    true_count: Tensor
    sampled_count: Tensor


class Goal(NamedTuple):
    """Two figures that are aimed at: one that must be reached, and one further on."""

    must: float
    stretch: float


class Goals(NamedTuple):
    """A case's: microseconds of a replay and of a call, times faster than the best peer, and MiB at the peak."""

    replay_us: Goal
    peer: Goal
    call_us: Goal | None = None
    peak_mib: float | None = None


# The shapes of word2vec (a), the One Billion Word benchmark (b), translation (c) and recommendation (d).
CUDA = {
    "a128": Case(128, 64, 128, 50_000, torch.float32),
    "a16k": Case(16384, 64, 128, 50_000, torch.float32),
    "b": Case(2560, 8192, 1024, 793_471, torch.bfloat16),
    "c": Case(3200, 512, 1024, 40_000, torch.bfloat16),
    "d1k": Case(65536, 1024, 256, 2_000_000, torch.bfloat16),
    "d4k": Case(65536, 4096, 256, 2_000_000, torch.bfloat16),
}
CPU = {
    "tiny": Case(16, 8, 8, 100, torch.float32),  # what a call costs
    "a128": Case(128, 64, 128, 50_000, torch.float32),
    "a2k": Case(2048, 64, 128, 50_000, torch.float32),
    "c400": Case(400, 512, 1024, 40_000, torch.float32),
    "c400b": Case(400, 512, 1024, 40_000, torch.bfloat16),
    "c3200": Case(3200, 512, 1024, 40_000, torch.float32),
    "c3200b": Case(3200, 512, 1024, 40_000, torch.bfloat16),
    "d1k": Case(1024, 1024, 64, 100_000, torch.float32),
}
LABELS = ["zipf", "uniform"]
_N_LAUNCHES = 4  # prepare, forward, backward, the rows of true classes


def goals(name: str, loss: str) -> Goals | None:
    """What is aimed at on a GPU; None for the cases of a CPU."""
    mib = 1e9 / 2**20
    return {
        "a128": Goals(Goal(16, 10), Goal(3, 4), Goal(300, 150)),
        "a16k": Goals(Goal(36, 27), Goal(2.7, 4)),
        "b": Goals(Goal(246, 205), Goal(6, 7), peak_mib=0.15 * mib),
        "c": Goals(Goal(45, 30), Goal(4, 6)),
        "d1k": Goals(Goal(253, 190), Goal(7, 10)),
        "d4k": Goals(Goal(965, 730), Goal(5.8, 7.7) if loss == "softmax" else Goal(3, 4), peak_mib=0.3 * mib),
    }.get(name)


def problem(case: Case, device: str, labels_by: str = "zipf") -> Problem:
    """Labels by Zipf's law, as words come, or all classes alike; candidates by Zipf's law in both."""
    # not torch's own generator, which a graph whose capture failed may leave unusable
    kind = {"device": device, "dtype": case.dtype, "generator": torch.Generator(device).manual_seed(0)}
    weight = torch.randn(case.v, case.d, **kind).mul_(case.d**-0.5).requires_grad_()
    bias = torch.randn(case.v, **kind).mul_(0.1).requires_grad_()
    hidden = torch.randn(case.n, case.d, **kind).requires_grad_()
    seeds = torch.arange(4, device=device).view(2, 2)
    if labels_by == "zipf":
        nothing = torch.zeros(1, dtype=torch.int64, device=device)
        labels = log_uniform_sampler(nothing, case.n, case.v, unique=False, seed=seeds[0]).sampled
    else:
        labels = torch.randint(case.v, (case.n,), device=device, generator=kind["generator"])
    return Problem(weight, bias, hidden, labels, *log_uniform_sampler(labels, case.k, case.v, seed=seeds[1]))


def work(case: Case, labels: Tensor) -> tuple[float, float, int]:
    """What forward and backward need at least: FLOP, bytes and launches.

    Three products, of logits, hidden gradients and sampled rows' gradients, nothing computed twice. Hidden, sampled
    rows and distinct true rows are read in both passes and their gradients written once; ids are read once.
    """
    n_flops = 6 * case.n * case.k * case.d
    n_rows = case.n + case.k + len(labels.unique())
    return n_flops, 3 * n_rows * case.d * case.dtype.itemsize + 8 * (case.n + case.k), _N_LAUNCHES
