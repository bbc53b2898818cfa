"""Inputs for the sampled losses, and the losses themselves written out in float64: what test_sampled_softmax.py and
test_nce.py compare with."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from torchlayer.kernels import _build
from torchlayer.kernels.nce import nce_loss
from torchlayer.kernels.sampled_softmax import sampled_softmax_loss

REFERENCE = Path(__file__).parent / "reference"
FUNCTIONS = {"sampled_softmax_loss": sampled_softmax_loss, "nce_loss": nce_loss}
MODULES = {
    "sampled_softmax_loss": importlib.import_module("torchlayer.kernels.sampled_softmax"),
    "nce_loss": importlib.import_module("torchlayer.kernels.nce"),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


class Inputs(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    hidden: Tensor
    labels: Tensor  # (N, T)
    sampled: Tensor
    true_expected_count: Tensor
    sampled_expected_count: Tensor

    @property
    def sampled_values(self):
        return self[4:]

    def to(self, dtype):
        """Parameters and hidden in ``dtype``, counts in the type of its sums."""
        real = torch.float64 if dtype == torch.float64 else torch.float32
        bias = None if self.bias is None else self.bias.to(dtype)
        counts = (count.to(real) for count in self[5:])
        return Inputs(self.weight.to(dtype), bias, self.hidden.to(dtype), self.labels, self.sampled, *counts)


def inputs(n, n_true, n_sampled, n_classes, n_features, bias=True, dtype=torch.float64, seed=0):
    """Random inputs, with repeated samples and accidental hits where there is room for them."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(n_classes, (n, n_true), generator=generator)
    sampled = torch.randint(n_classes, (n_sampled,), generator=generator)
    sampled[: n_sampled // 3] = sampled[0]
    if n:
        labels[0, -1] = sampled[0]
        sampled[-1] = labels[-1, 0]
    return Inputs(
        uniform(n_classes, n_features) * 2 - 1,
        uniform(n_classes) * 2 - 1 if bias else None,
        uniform(n, n_features) * 2 - 1,
        labels,
        sampled,
        uniform(n, n_true) + 0.05,
        uniform(n_sampled) + 0.05,
    ).to(dtype)


def by_definition(loss, given, remove, subtract=True):
    """The formula, one row after the other, in float64 and differentiable; removed hits are not among its terms."""
    weight, bias, hidden, labels, sampled, true_count, sampled_count = given
    losses = []
    for i, row in enumerate(labels.tolist()):

        def logits(ids, counts, i=i):
            z = weight[ids].double() @ hidden[i].double()
            z = z if bias is None else z + bias[ids].double()
            return z - counts.double().log() if subtract else z

        kept = [j for j, sample in enumerate(sampled.tolist()) if not (remove and sample in row)]
        true = logits(torch.tensor(row), true_count[i])
        noise = logits(sampled[kept], sampled_count[kept])
        if loss == "nce_loss":
            losses.append((softplus(true) - true / len(row)).sum() + softplus(noise).sum())
        else:
            losses.append(torch.cat((true, noise)).logsumexp(0) - true.mean())
    return torch.stack(losses) if losses else hidden.double().sum(1)


def softplus(x):
    """torch's own is ``x`` from 20 on, which is wrong in the ninth digit."""
    return -F.logsigmoid(-x)


def gradients(losses, given, upstream):
    """Those of weight, bias (if there is one) and hidden."""
    leaves = [leaf for leaf in given[:3] if leaf is not None]
    return torch.autograd.grad(losses, leaves, upstream.to(losses.dtype))


def differentiable(given):
    """The same with leaves of their own in front."""
    leaves = [None if leaf is None else leaf.detach().clone().requires_grad_() for leaf in given[:3]]
    return Inputs(*leaves, *given[3:])


def run(loss, given, **options):
    """The public function."""
    return FUNCTIONS[loss](given.weight, given.bias, given.hidden, given.labels, given.sampled_values, **options)


def vectors(loss):
    """TensorFlow's files about a loss."""
    return sorted(REFERENCE.glob(f"{loss.removesuffix('_loss')}_[0-9]*.npz"))


def read(path):
    """A file's inputs, the rest of its arrays, and what it says about itself."""
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "about"}
        about = json.loads(str(file["about"]))
    names = ("W", "b", "h", "labels", "sampled", "true_expected_count", "sampled_expected_count")
    return Inputs(*(arrays[name] for name in names)), arrays, about


def has_compiler():
    try:
        return bool(_build.cxx_compiler())
    except _build.BuildError:
        return False
