"""What the ranks do in test_class_parallel.py and class_parallel_sweep.py."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from sampled_loss_cases import FUNCTIONS, Inputs, differentiable, inputs

import torchlayer as tl

PARALLEL = {
    "sampled_softmax_loss": tl.distributed.class_parallel_sampled_softmax_loss,
    "nce_loss": tl.distributed.class_parallel_nce_loss,
}


@cache
def group_of(n):
    """The first n ranks; made once, by all of them together."""
    return dist.group.WORLD if n == dist.get_world_size() else dist.new_group(range(n))


class Case(NamedTuple):
    """A configuration drawn from a seed. ``kind`` is what is special about it."""

    kind: str
    loss: str
    shape: tuple[int, ...]  # N, T, K, V, D
    bias: bool
    options: dict
    seed: int

    def inputs(self, n_ranks):
        given = inputs(*self.shape, bias=self.bias, seed=self.seed)
        n, v = self.shape[0], self.shape[3]
        first = tl.distributed._ranks.part(v, 0, n_ranks)
        if self.kind == "all targets on one rank":
            given.labels[:] = given.labels % len(first)
        elif self.kind == "one rank has all samples":
            given.sampled[:] = given.sampled % len(first)
        elif self.kind == "targets and samples on one rank":
            given.labels[:], given.sampled[:] = given.labels % len(first), given.sampled % len(first)
        elif self.kind == "all samples are hits" and n:
            given.sampled[:] = given.labels[0, 0]
            given.labels[:, 0] = given.labels[0, 0]
        elif self.kind == "all labels alike":
            given.labels[:] = given.labels.flatten()[0] if given.labels.numel() else 0
        return given


KINDS = [
    "anything",
    "fewer classes than ranks",
    "uneven",
    "all targets on one rank",
    "one rank has all samples",
    "targets and samples on one rank",
    "all samples are hits",
    "all labels alike",
    "one row",
]


def draw(seed):
    generator = torch.Generator().manual_seed(seed)

    def pick(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    kind = KINDS[seed % len(KINDS)]
    n, t, k, v, d = pick(1, 40), pick(1, 4), pick(1, 60), pick(4, 300), pick(1, 33)
    if kind == "fewer classes than ranks":
        v = pick(1, 3)
    elif kind == "uneven":
        v = 4 * pick(1, 50) + pick(1, 3)
    elif kind == "one row":
        n = 1
    options = {
        "remove_accidental_hits": bool(pick(0, 1)),
        "subtract_log_q": bool(pick(0, 1)),
        "sparse": bool(pick(0, 1)),
    }
    return Case(
        kind, ("sampled_softmax_loss", "nce_loss")[pick(0, 1)], (n, t, k, v, d), bool(pick(0, 1)), options, seed
    )


def part_of(given, n_classes, group):
    """This rank's rows of weight and bias, with leaves of its own."""
    own = tl.distributed.own_classes(n_classes, group)
    rows = slice(own.start, own.stop)
    return differentiable(
        given._replace(weight=given.weight[rows], bias=None if given.bias is None else given.bias[rows])
    )


def gradients_of(losses, given, upstream):
    losses.backward(upstream.to(losses))
    return [None if leaf is None else leaf.grad.to_dense() for leaf in given[:3]]


def parallel(loss, given, n_classes, group, **options):
    return PARALLEL[loss](
        given.weight,
        given.bias,
        given.hidden,
        given.labels,
        given.sampled_values,
        n_classes=n_classes,
        group=group,
        **options,
    )


def differences(case, n_ranks, dtype=torch.float64, device="cpu"):
    """How far loss, dW, db and dh are from those of one process, which has the whole table; None on ranks not in it.

    In double precision as they are; in others relative to the largest number, if that is more than one.
    """
    group = group_of(n_ranks)
    if dist.get_rank() >= n_ranks:
        return None
    n_classes = case.shape[3]
    given = Inputs(*(None if x is None else x.to(device) for x in case.inputs(n_ranks).to(dtype)))
    whole, mine = differentiable(given), part_of(given, n_classes, group)
    upstream = torch.rand(case.shape[0], generator=torch.Generator().manual_seed(case.seed), dtype=torch.float64) + 0.5
    expected = FUNCTIONS[case.loss](*whole[:4], whole.sampled_values, **case.options)
    losses = parallel(case.loss, mine, n_classes, group, **case.options)
    right, ours = gradients_of(expected, whole, upstream), gradients_of(losses, mine, upstream)
    own = tl.distributed.own_classes(n_classes, group)
    right[:2] = [None if g is None else g[own.start : own.stop] for g in right[:2]]
    pairs = [(losses.detach(), expected.detach()), *zip(ours, right)]
    return [_difference(a, b, dtype) for a, b in pairs]


def _difference(a, b, dtype):
    if a is None or not a.numel():
        return 0.0
    scale = 1.0 if dtype == torch.float64 else max(1.0, float(b.abs().max()))
    return float((a.double() - b.double()).abs().max()) / scale


def all_differences(cases, n_ranks, device="cpu"):
    return [differences(case, n_ranks, device=device) for case in cases]
