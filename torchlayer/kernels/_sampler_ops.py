"""The samplers' ops in plain PyTorch: which classes a seed draws, and how often each class is expected.

All ops return ``(sampled, true_expected_count, sampled_expected_count, n_tries)``, and ``learned_sample_`` counts the
labels after that. Each tier picks the same classes in
the same order with the same ``n_tries``, because draw number ``i`` depends on ``seed`` and ``i`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import _library
from ._philox import exponential, uniforms

Sample = tuple[Tensor, Tensor, Tensor, Tensor]

_LONG_BLOCK = 2**18
_BLIND_FACTOR = 128
_MOST_TOP = 1024  # of learned_classes.h


class _Classes(NamedTuple):
    """A distribution: from two uniform numbers to classes, and from classes to their probability in float64."""

    n_classes: int
    pick: Callable[[Tensor, Tensor], Tensor]
    probability: Callable[[Tensor], Tensor]


def _uniform(n_classes: int) -> _Classes:
    return _Classes(
        n_classes,
        lambda u, _: (u * n_classes).long(),  # never rounds up to n_classes below 2^53 of them
        lambda k: torch.full_like(k, 1 / n_classes, dtype=torch.float64),
    )


def _log_uniform(n_classes: int) -> _Classes:
    log_range = math.log1p(n_classes)
    return _Classes(
        n_classes,
        lambda u, _: (exponential(u * log_range).long() - 1).clamp(max=n_classes - 1),
        lambda k: torch.log1p(1 / (k.double() + 1)) / log_range,  # log((k + 2) / (k + 1)) would cancel
    )


def _alias_table(probability: Tensor, threshold: Tensor, alias: Tensor) -> _Classes:
    def pick(first: Tensor, second: Tensor) -> Tensor:
        column = (first * len(alias)).long()
        return torch.where(second < threshold[column], column, alias[column])

    return _Classes(len(alias), pick, lambda k: probability[k])


def _weighted(weight: Tensor) -> _Classes:
    sums = weight.cumsum(0)

    def pick(u: Tensor, _: Tensor) -> Tensor:
        k = torch.searchsorted(sums, (u * sums[-1].double()).long(), right=True)
        return k.clamp(max=len(weight) - 1)  # for weights without a sum, which the module never has

    return _Classes(len(weight), pick, lambda k: weight[k].double() / sums[-1].double())


def _sample(
    op: str, classes: _Classes, labels: Tensor, seed: Tensor, n_sampled: int, unique: bool, max_tries: int
) -> Sample:
    if n_sampled < 1 or (unique and n_sampled > classes.n_classes):
        distinct = "distinct " if unique else ""
        raise RuntimeError(f"{op} cannot draw {n_sampled} {distinct}classes of {classes.n_classes}")
    if unique:
        sampled, n_tries = _draw_distinct(op, classes, seed, n_sampled, max_tries, seed.device.type == "cpu")
    else:
        sampled = classes.pick(*uniforms(seed, torch.arange(n_sampled, device=seed.device)))
        n_tries = torch.full((), n_sampled, device=seed.device)
    exists = (labels >= 0) & (labels < classes.n_classes)
    p = torch.where(exists, classes.probability(torch.where(exists, labels, 0)), 0)
    return (
        sampled,
        _expected_count(p, n_sampled, n_tries),
        _expected_count(classes.probability(sampled), n_sampled, n_tries),
        n_tries,
    )


def _expected_count(p: Tensor, n_sampled: int, n_tries: Tensor) -> Tensor:
    """``1 - (1 - p)^n_tries``; as in TensorFlow ``p n_sampled`` where no draw was in vain. NaN where ``p`` is zero."""
    count = torch.where(n_tries == n_sampled, p * n_sampled, -torch.expm1(n_tries * torch.log1p(-p)))
    return torch.where((p > 0) & (n_tries > 0), count, torch.nan).float()


def _draw_distinct(
    op: str, classes: _Classes, seed: Tensor, n_sampled: int, max_tries: int, may_look: bool
) -> tuple[Tensor, Tensor]:
    """The first ``n_sampled`` distinct classes in the order of their first draw, and how many draws that takes.

    Blocks of draws are looked at whole; what comes after the last class wanted is cut off, so the blocks' lengths make
    no difference. Who may look stops after that block. Otherwise nothing is read back from the device: the draws go on
    to a fixed number, ``128 (n_sampled + 64)``, and if even these are too few ``n_tries`` is -1, so that all expected
    counts are NaN.
    """
    device = seed.device
    limit = max_tries if may_look else min(max_tries, _BLIND_FACTOR * (n_sampled + 64))
    slots = torch.arange(n_sampled, device=device)
    found = -1 - slots  # a free slot holds a number that no class has
    n_found = n_tries = torch.zeros((), dtype=torch.int64, device=device)
    start = 0
    while start < limit:
        # as many draws as all blocks before: few blocks for many draws, and few draws too many
        length = min(max(start, n_sampled + 64), max(_LONG_BLOCK, n_sampled + 64), limit - start)
        drawn = classes.pick(*uniforms(seed, torch.arange(start, start + length, device=device)))
        is_new = _is_first(torch.cat((found, drawn)))[n_sampled:]
        rank = n_found + is_new.cumsum(0)  # distinct classes so far
        slot = torch.where(is_new & (rank <= n_sampled), rank - 1, n_sampled)  # the last slot is for the others
        found = torch.cat((found, found[:1])).scatter(0, slot, drawn)[:n_sampled]
        n_before = (rank < n_sampled).sum()
        n_tries = torch.where(n_found < n_sampled, start + n_before + (n_before < length), n_tries)
        n_found = rank[-1].clamp(max=n_sampled)
        start += length
        if may_look and bool(n_found == n_sampled):
            break
    if may_look and bool(n_found < n_sampled):
        raise RuntimeError(
            f"{op} needs more than {max_tries} draws to find {n_sampled} distinct classes of {classes.n_classes}; "
            "lower n_sampled or pass unique=False"
        )
    complete = n_found == n_sampled
    return torch.where(slots < n_found, found, 0), torch.where(complete, n_tries, -1)


def _is_first(values: Tensor) -> Tensor:
    """Whether each value is not among those before it."""
    ordered, order = values.sort(stable=True)
    changes = torch.ones_like(ordered, dtype=torch.bool)
    changes[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(changes).scatter(0, order, changes)


def _uniform_sample(
    labels: Tensor, seed: Tensor, n_sampled: int, n_classes: int, unique: bool, max_tries: int
) -> Sample:
    return _sample("uniform_sample", _uniform(n_classes), labels, seed, n_sampled, unique, max_tries)


def _log_uniform_sample(
    labels: Tensor, seed: Tensor, n_sampled: int, n_classes: int, unique: bool, max_tries: int
) -> Sample:
    return _sample("log_uniform_sample", _log_uniform(n_classes), labels, seed, n_sampled, unique, max_tries)


def _alias_sample(
    labels: Tensor,
    seed: Tensor,
    probability: Tensor,
    threshold: Tensor,
    alias: Tensor,
    n_sampled: int,
    unique: bool,
    max_tries: int,
) -> Sample:
    classes = _alias_table(probability, threshold, alias)
    return _sample("alias_sample", classes, labels, seed, n_sampled, unique, max_tries)


def _learned_sample(
    labels: Tensor,
    seed: Tensor,
    weight: Tensor,
    sums: Tensor,
    learns: bool,
    n_sampled: int,
    unique: bool,
    max_tries: int,
) -> Sample:
    sample = _sample("learned_sample_", _weighted(weight), labels, seed, n_sampled, unique, max_tries)
    if learns:
        near = labels.clamp(0, len(weight) - 1)
        exists = torch.eq(near, labels, out=torch.empty_like(near)).flatten()  # as 0 or 1
        near = near.flatten()
        weight.index_add_(0, near, exists)
        sums[0] += exists.sum()
        for level, (begin, _) in enumerate(_levels(len(weight)), 1):
            sums.index_add_(0, begin + (near >> 3 * level), exists)
    return sample


def weight_sums(weight: Tensor) -> Tensor:
    """The sums that ``learned_sample_`` keeps of weights, for draws that need not read them all.

    Eight numbers first: the total, and seven zeros. Then the sums of eight weights each, then those of eight of these,
    and so on up to 1024 or fewer; each level filled up with zeros to a multiple of eight.
    """
    parts, level = [weight.sum()[None], weight.new_zeros(7)], weight
    for _, n in _levels(len(weight)):
        level = nn.functional.pad(level, (0, 8 * n - len(level))).view(n, 8).sum(1)
        parts += [level, weight.new_zeros(-n % 8)]
    return torch.cat(parts)


def _levels(n_classes: int) -> list[tuple[int, int]]:
    """Where each level of sums begins, and how many there are."""
    levels, begin, n = [], 8, n_classes
    while not levels or n > _MOST_TOP:
        n = -(-n // 8)
        levels.append((begin, n))
        begin += n + -n % 8
    return levels


def _fake_range(labels: Tensor, seed: Tensor, n_sampled: int, *_: object) -> Sample:
    counts = labels.new_empty(labels.shape, dtype=torch.float32)
    return labels.new_empty(n_sampled), counts, counts.new_empty(n_sampled), labels.new_empty(())


def _fake_alias(
    labels: Tensor, seed: Tensor, probability: Tensor, threshold: Tensor, alias: Tensor, n_sampled: int, *_: object
) -> Sample:
    return _fake_range(labels, seed, n_sampled)


def _fake_learned(
    labels: Tensor, seed: Tensor, weight: Tensor, sums: Tensor, learns: bool, n_sampled: int, *_: object
) -> Sample:
    return _fake_range(labels, seed, n_sampled)


def _example_labels(device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    labels = torch.randint(0, 5000, (128, 1), device=device, generator=generator)
    return labels, torch.tensor([20, 26], device=device)


def _example_range(device: torch.device) -> tuple:
    return *_example_labels(device), 256, 5000, True, 2**20


def _example_alias(device: torch.device) -> tuple:
    weight = 1 / torch.arange(1, 5001, device=device).double()
    column = torch.arange(5000, device=device)
    return *_example_labels(device), weight / weight.sum(), weight, column // 2, 256, True, 2**20


def _example_learned(device: torch.device) -> tuple:
    weight = torch.arange(5000, 0, -1, device=device)
    return *_example_labels(device), weight, weight_sums(weight), True, 256, True, 2**20


_RETURNS = "-> (Tensor sampled, Tensor true_expected_count, Tensor sampled_expected_count, Tensor n_tries)"
_RANGE = "(Tensor labels, Tensor seed, int n_sampled, int n_classes, bool unique, int max_tries)"

_library.define(f"uniform_sample{_RANGE} {_RETURNS}", _uniform_sample, _fake_range, _example_range)
_library.define(f"log_uniform_sample{_RANGE} {_RETURNS}", _log_uniform_sample, _fake_range, _example_range)
_library.define(
    "alias_sample(Tensor labels, Tensor seed, Tensor probability, Tensor threshold, Tensor alias, int n_sampled, "
    f"bool unique, int max_tries) {_RETURNS}",
    _alias_sample,
    _fake_alias,
    _example_alias,
)
_library.define(
    "learned_sample_(Tensor labels, Tensor seed, Tensor(a!) weight, Tensor(b!) sums, bool learns, int n_sampled, "
    f"bool unique, int max_tries) {_RETURNS}",
    _learned_sample,
    _fake_learned,
    _example_learned,
)
