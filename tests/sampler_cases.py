"""What the tests of the samplers share: the tiers, the samplers by name, and seeds."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch

from torchlayer import kernels
from torchlayer.kernels import _build, _sampler_ops
from torchlayer.kernels._library import OPS
from torchlayer.kernels.samplers import (
    FixedUnigram,
    LearnedUnigram,
    fixed_unigram_sampler,
    learned_unigram_sampler,
    log_uniform_sampler,
    uniform_sampler,
)

MANY = 2**27


def no_cpu_kernels():
    """Why this machine cannot have compiled kernels; a compiler that fails on our source is not a reason."""
    if (os.environ.get("TORCHLAYER_BACKEND") or "auto") not in ("auto", "cpu", "cuda"):
        return "TORCHLAYER_BACKEND asks for another backend"
    try:
        _build.cxx_compiler()
    except _build.BuildError as error:
        return None if kernels.compiled().cpu.name == "cpu" else str(error)
    return None


needs_cpu = pytest.mark.skipif(no_cpu_kernels() is not None, reason=f"no C++ kernels: {no_cpu_kernels()}")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
every_tier = pytest.mark.parametrize(
    "tier", ["reference", pytest.param("cpu", marks=needs_cpu), pytest.param("cuda", marks=needs_cuda)]
)


def call(tier, op, labels, seed, *arguments):
    """An op of a tier, its answers on the CPU."""
    if tier == "reference":
        return OPS[op].reference(labels, seed, *arguments)
    moved = [value.to(tier) if isinstance(value, torch.Tensor) else value for value in (labels, seed, *arguments)]
    outputs = tuple(output.cpu() for output in OPS[op].overload(*moved))
    if tier == "cuda":
        forget_reports()  # of labels that are wrong on purpose
    return outputs


def summed(weight, learns=False):
    """What ``learned_sample_`` takes after the seed: weights, the sums of them, and whether labels are counted."""
    return weight, _sampler_ops.weight_sums(weight), learns


def forget_reports():
    """Take what a GPU has reported of bad ids, so that no later call raises it."""
    with contextlib.suppress(IndexError):
        kernels.check_ids()


def seeds(n, start=0):
    generator = torch.Generator().manual_seed(start)
    return torch.randint(-(2**63), 2**63 - 1, (n, 2), generator=generator)


SAMPLERS = {"uniform": uniform_sampler, "log_uniform": log_uniform_sampler}


def unigram_samplers(n_classes):
    fixed, learned = FixedUnigram(torch.arange(1, n_classes + 1)), LearnedUnigram(n_classes)
    return {
        "uniform": uniform_sampler,
        "log_uniform": log_uniform_sampler,
        "fixed": lambda *args, **kwargs: fixed_unigram_sampler(*args, **kwargs, unigram=fixed),
        "learned": lambda *args, **kwargs: learned_unigram_sampler(*args, **kwargs, unigram=learned),
    }


every_sampler = pytest.mark.parametrize("kind", ["uniform", "log_uniform", "fixed", "learned"])
