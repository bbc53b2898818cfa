"""Candidate samplers: a few classes to stand for all of them in a loss, and how often each is expected there.

TensorFlow's candidate samplers in double precision. One seed gives the same classes in the same order on every device;
nothing waits for a device, no shape depends on data, and a replayed CUDA graph draws afresh.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _library, bad_ids
from . import _sampler_ops as _sampler_ops

_MOST_CLASSES = 2**40  # beyond, 53 random bits no longer reach every class
_MOST_TRIES = 2**27  # some seconds: classes so rare are not worth the wait
_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class SampledValues(NamedTuple):
    """What a sampler returns, TensorFlow's triple.

    Attributes:
        sampled: ``(K,)`` int64, the classes drawn, in the order they were drawn.
        true_expected_count: float32 of the labels' shape, how often each label is expected among the sampled.
        sampled_expected_count: ``(K,)`` float32, how often each sampled class is.
    """

    sampled: Tensor
    true_expected_count: Tensor
    sampled_expected_count: Tensor


def log_uniform_sampler(
    labels: Tensor, n_sampled: int, n_classes: int, unique: bool = True, seed: Tensor | None = None
) -> SampledValues:
    """Draw classes by Zipf's law, for classes numbered in order of falling frequency, as words in a vocabulary are.

    ``P(k) = log((k + 2) / (k + 1)) / log(n_classes + 1)``. Expected counts follow TensorFlow: ``n_sampled P``, or where
    distinct classes took ``n_tries > n_sampled`` draws, ``1 - (1 - P)^n_tries``. Labels are not kept out of the sample.

    Args:
        unique: draw until ``n_sampled`` classes are distinct; otherwise classes may repeat.
        seed: two int64 on the labels' device; one seed draws one sample. None takes them from torch's generator of
            that device, so ``torch.manual_seed`` rules.

    Shape:
        labels ``(*)`` of an integer dtype, ``(N,)`` or ``(N, T)`` for the losses; seed ``(2,)``; returns ``(K,)``,
        ``(*)``, ``(K,)`` with ``K = n_sampled``.

    Raises:
        IndexError: a label lies outside ``[0, n_classes)``. On CUDA its expected count is NaN, and so is its row's
            loss, and the next call raises, or :func:`check_ids`; inside ``torch.compile`` on a CPU none does.
        TypeError: labels or seed are of the wrong kind.
        ValueError: more distinct classes are wanted than there are; a number out of range; seed on another device.
        RuntimeError: 2^27 draws do not find that many distinct classes, on a CPU. On CUDA, where nobody looks,
            all expected counts are NaN instead, in plain PyTorch already after ``128 (n_sampled + 64)`` draws.

    Reference:
        Jean, Cho, Memisevic, Bengio 2015, arXiv:1412.2007. The uniform numbers are Philox4x32-10's (Salmon et al.
        2011); the classes therefore differ from TensorFlow's for equal seeds, their distribution does not.

    >>> sample = log_uniform_sampler(torch.tensor([[3], [7]]), 4, 10, seed=torch.tensor([1, 2]))
    >>> sample.sampled
    tensor([2, 6, 1, 0])
    >>> sample.true_expected_count.shape
    torch.Size([2, 1])
    """
    name = "log_uniform_sampler"
    ids, seed = _check(name, labels, n_sampled, n_classes, unique, seed)
    op = torch.ops.torchlayer.log_uniform_sample
    return SampledValues(*op(ids, seed, n_sampled, n_classes, unique, _MOST_TRIES)[:3])


def uniform_sampler(
    labels: Tensor, n_sampled: int, n_classes: int, unique: bool = True, seed: Tensor | None = None
) -> SampledValues:
    """Draw classes, each as probable as any other.

    Arguments, shapes, expected counts and errors are those of :func:`log_uniform_sampler`.

    >>> uniform_sampler(torch.tensor([3, 7]), 5, 10, unique=False).sampled_expected_count
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000])
    """
    ids, seed = _check("uniform_sampler", labels, n_sampled, n_classes, unique, seed)
    op = torch.ops.torchlayer.uniform_sample
    return SampledValues(*op(ids, seed, n_sampled, n_classes, unique, _MOST_TRIES)[:3])


def all_candidate_sampler(
    labels: Tensor, n_sampled: int, n_classes: int, unique: bool = True, seed: Tensor | None = None
) -> SampledValues:
    """Take every class once: a sampled loss that is the full one, for tests and for small ``n_classes``.

    Nothing is drawn, so ``seed`` and ``unique`` change nothing; ``n_sampled`` has to be ``n_classes``.

    >>> all_candidate_sampler(torch.tensor([1]), 3, 3)
    SampledValues(sampled=tensor([0, 1, 2]), true_expected_count=tensor([1.]),
    sampled_expected_count=tensor([1., 1., 1.]))
    """
    name = "all_candidate_sampler"
    seed = torch.zeros(2, dtype=torch.int64, device=labels.device) if isinstance(labels, Tensor) else None
    ids, _ = _check(name, labels, n_sampled, n_classes, unique, seed)
    if n_sampled != n_classes:
        raise ValueError(f"{name} takes all {n_classes} classes, got n_sampled {n_sampled}; pass n_sampled=n_classes")
    sampled = torch.arange(n_classes, device=ids.device)
    ones = torch.ones_like(ids, dtype=torch.float32)
    counts = ones.masked_fill((ids < 0) | (ids >= n_classes), torch.nan)
    return SampledValues(sampled, counts, torch.ones_like(sampled, dtype=torch.float32))


def fixed_unigram_sampler(
    labels: Tensor,
    n_sampled: int,
    n_classes: int,
    unique: bool = True,
    seed: Tensor | None = None,
    *,
    unigram: FixedUnigram,
) -> SampledValues:
    """Draw classes by given weights; calls ``unigram``, a :class:`FixedUnigram` prepared once.

    >>> unigram = FixedUnigram([8.0, 4.0, 2.0, 1.0], distortion=0.75)
    >>> fixed_unigram_sampler(torch.tensor([3]), 2, 4, unigram=unigram).sampled.shape
    torch.Size([2])
    """
    if not isinstance(unigram, FixedUnigram):
        raise TypeError(f"fixed_unigram_sampler needs unigram=FixedUnigram(weights), got {type(unigram).__name__}")
    return unigram(labels, n_sampled, n_classes, unique, seed)


def learned_unigram_sampler(
    labels: Tensor,
    n_sampled: int,
    n_classes: int,
    unique: bool = True,
    seed: Tensor | None = None,
    *,
    unigram: LearnedUnigram,
) -> SampledValues:
    """Draw classes by how often they were labels before; calls ``unigram``, the :class:`LearnedUnigram` that counts.

    >>> unigram = LearnedUnigram(4)
    >>> learned_unigram_sampler(torch.tensor([3, 3]), 1, 4, unigram=unigram).true_expected_count
    tensor([0.2500, 0.2500])
    >>> unigram.weight
    tensor([1, 1, 1, 3])
    """
    if not isinstance(unigram, LearnedUnigram):
        raise TypeError(
            f"learned_unigram_sampler needs unigram=LearnedUnigram(n_classes), got {type(unigram).__name__}"
        )
    return unigram(labels, n_sampled, n_classes, unique, seed)


class FixedUnigram(nn.Module):
    """A sampler with given weights, to be called like :func:`log_uniform_sampler`.

    Its table (Walker's alias method: two lookups a draw, whatever the number of classes) is made once, here. It moves
    with ``.to(device)``, stays in double precision under ``.half()``, and is no part of a checkpoint.

    Args:
        weights: how often each class occurs, in any unit, for the classes from ``n_reserved`` on.
        distortion: the power the weights are raised to; 0.75 in word2vec, 0 makes all alike.
        n_reserved: classes before the first weight that are never drawn (padding and the like).

    Raises:
        TypeError: weights are no real numbers.
        ValueError: weights not finite, negative, or all zero; on calling it, also a label of probability zero, on a CPU
            (elsewhere its expected count is NaN, as that of a label out of range): its loss would be infinite.

    Reference:
        Mikolov et al. 2013, arXiv:1310.4546; Vose 1991, doi:10.1109/32.92917. The table is built by running sums
        (Hübschle-Schneider, Sanders 2022, arXiv:1903.00227), without a loop over the classes.

    >>> FixedUnigram([1.0, 3.0], n_reserved=1).probability
    tensor([0.0000, 0.2500, 0.7500], dtype=torch.float64)
    """

    alias: Tensor
    _probability_bits: Tensor
    _threshold_bits: Tensor

    def __init__(self, weights: Tensor | Sequence[float], distortion: float = 1.0, n_reserved: int = 0):
        super().__init__()
        probability = _distribution(weights, distortion, n_reserved)
        threshold, alias = _alias_table(probability)
        self.n_drawable = int((probability > 0).sum())
        # Kept as integers, for `.half()` and `.to(dtype)` change every floating-point buffer.
        self.register_buffer("_probability_bits", probability.view(torch.int64), persistent=False)
        self.register_buffer("_threshold_bits", threshold.view(torch.int64), persistent=False)
        self.register_buffer("alias", alias, persistent=False)

    @property
    def probability(self) -> Tensor:
        """The probability of each class, ``(n_classes,)`` float64."""
        return self._probability_bits.view(torch.float64)

    def forward(
        self, labels: Tensor, n_sampled: int, n_classes: int, unique: bool = True, seed: Tensor | None = None
    ) -> SampledValues:
        """Draw; as :func:`log_uniform_sampler`."""
        name = "fixed_unigram_sampler"
        ids, seed = _check(name, labels, n_sampled, n_classes, unique, seed)
        _check_table(name, self.alias, ids, n_classes)
        if unique and n_sampled > self.n_drawable:
            raise ValueError(
                f"{name} cannot draw {n_sampled} distinct classes: only {self.n_drawable} of {n_classes} have a "
                "weight above zero; lower n_sampled or pass unique=False"
            )
        probability = self.probability
        if _may_look(ids):
            never = probability[ids] == 0
            if bool(never.any()):
                row, label = _first(ids, never)
                raise ValueError(
                    f"{name}: label {label} at row {row} is reserved or has weight zero, so it is never drawn and its "
                    "corrected logit would be infinite; leave such rows out, or give the class a weight"
                )
        table = probability, self._threshold_bits.view(torch.float64), self.alias
        op = torch.ops.torchlayer.alias_sample
        return SampledValues(*op(ids, seed, *table, n_sampled, unique, _MOST_TRIES)[:3])

    def extra_repr(self) -> str:
        return f"n_classes={len(self.alias)}, n_drawable={self.n_drawable}"


class LearnedUnigram(nn.Module):
    """A sampler that learns its weights, to be called like :func:`log_uniform_sampler`.

    A class weighs 1, and 1 more for each time it was a label. Labels are counted after the draw, and only in training
    mode. The weights are a buffer: they move and are saved with the module. Sums of them are kept beside, an eighth of
    their memory and a little more, so that a draw reads some kilobytes, however many classes there are.

    Whoever writes to ``weight`` need not care: the next call adds up anew. Only where Python does not see that call, in
    a replayed CUDA graph or inside ``torch.compile``, or where torch does not see the writing, through ``.data``,
    :meth:`refresh` has to be called before. Draws notice if it was not.

    TensorFlow stops counting at 2^31 and forgets the counts when the process ends; here neither happens.

    Shape:
        weight ``(n_classes,)`` int64.

    Raises:
        RuntimeError: on calling it, besides what :func:`log_uniform_sampler` raises: ``weight`` was written to and
            nobody called :meth:`refresh`. On CUDA all expected counts are NaN then, and a later call raises.

    >>> sampler = LearnedUnigram(10)
    >>> _ = sampler(torch.full((10,), 3), n_sampled=5, n_classes=10)
    >>> sampler.probability[3]
    tensor(0.5500, dtype=torch.float64)
    """

    weight: Tensor
    _sums: Tensor

    def __init__(self, n_classes: int):
        super().__init__()
        _check_count("LearnedUnigram", "n_classes", n_classes, _MOST_CLASSES)
        self.register_buffer("weight", torch.ones(n_classes, dtype=torch.int64))
        self.register_buffer("_sums", _sampler_ops.weight_sums(self.weight), persistent=False)
        self._summed: tuple[weakref.ref[Tensor], int] | None = None  # the tensor, and its version then
        self._remember()

    @property
    def probability(self) -> Tensor:
        """The probability of each class at the next draw, ``(n_classes,)`` float64."""
        return self.weight.double() / self.weight.sum()

    def forward(
        self, labels: Tensor, n_sampled: int, n_classes: int, unique: bool = True, seed: Tensor | None = None
    ) -> SampledValues:
        """Draw, then count the labels; as :func:`log_uniform_sampler`."""
        name = "learned_unigram_sampler"
        ids, seed = _check(name, labels, n_sampled, n_classes, unique, seed)
        _check_table(name, self.weight, ids, n_classes)
        op = torch.ops.torchlayer.learned_sample_
        if torch.compiler.is_compiling():
            return SampledValues(
                *op(ids, seed, self.weight, self._sums, self.training, n_sampled, unique, _MOST_TRIES)[:3]
            )
        if not self._is_summed():
            self.refresh()
        sample = op(ids, seed, self.weight, self._sums, self.training, n_sampled, unique, _MOST_TRIES)
        self._remember()
        return SampledValues(*sample[:3])

    def refresh(self) -> None:
        """Add up the weights anew, after something wrote to ``weight``. In place, as a captured graph needs it."""
        sums = _sampler_ops.weight_sums(self.weight)
        if sums.shape == self._sums.shape and sums.device == self._sums.device:
            self._sums.copy_(sums)
        else:
            self._sums = sums
        self._remember()

    def _is_summed(self) -> bool:
        """Whether the sums are of this tensor as it is, as far as torch knows."""
        return (
            self._summed is not None
            and self._summed[0]() is self.weight
            and self._summed[1] == self.weight._version
            and self._sums.device == self.weight.device
        )

    def _remember(self) -> None:
        # tensors made in inference mode have no version: their sums are made at each call
        self._summed = None if self.weight.is_inference() else (weakref.ref(self.weight), self.weight._version)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_summed": None}  # of another tensor than the copy's

    def extra_repr(self) -> str:
        return f"n_classes={len(self.weight)}"


def _check(
    name: str, labels: Tensor, n_sampled: int, n_classes: int, unique: bool, seed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The labels as int64 and the seed, drawn if there is none, after a look at all arguments."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} needs a tensor of labels, got {type(labels).__name__}; use torch.as_tensor")
    if not _library.is_block(labels):
        raise TypeError(f"{name} needs dense labels, got a sparse or nested tensor; call labels.to_dense()")
    if labels.dtype not in _LABEL_DTYPES:
        raise TypeError(f"{name} needs labels of an integer dtype, got {labels.dtype}; call labels.long()")
    _check_count(name, "n_sampled", n_sampled)
    _check_count(name, "n_classes", n_classes, _MOST_CLASSES)
    if unique and n_sampled > n_classes:
        raise ValueError(
            f"{name} cannot draw {n_sampled} distinct classes of {n_classes}; lower n_sampled or pass unique=False"
        )
    if seed is None:
        seed = torch.randint(0, 2**63 - 1, (2,), device=labels.device)
    if not isinstance(seed, Tensor) or not _library.is_block(seed) or seed.dtype != torch.int64 or seed.shape != (2,):
        given = repr(seed)
        if isinstance(seed, Tensor):
            given = "a sparse or nested tensor" if not _library.is_block(seed) else f"{tuple(seed.shape)} {seed.dtype}"
        raise TypeError(f"{name} needs a seed of two int64, like torch.tensor([1, 2]), got {given}")
    if seed.device != labels.device:
        raise ValueError(f"{name} needs labels and seed on one device, got {labels.device} and {seed.device}")
    ids = labels.long()
    if _may_look(ids) and ids.numel():
        outside = (ids < 0) | (ids >= n_classes)
        if bool(outside.any()):
            row, label = _first(ids, outside)
            raise IndexError(f"{name}: label {label} at row {row} is outside [0, {n_classes})")
    return ids, seed


def _may_look(ids: Tensor) -> bool:
    """Whether reading values makes nobody wait who did not ask for it, and breaks no graph."""
    return not torch.compiler.is_compiling() and bad_ids.may_look_at(ids)


def _first(ids: Tensor, bad: Tensor) -> tuple[int | tuple[int, ...], int]:
    """Where the first bad label is, and the label."""
    if ids.dim() == 0:
        return 0, int(ids)
    place: list[int] = bad.nonzero()[0].tolist()
    return tuple(place) if len(place) > 1 else place[0], int(ids[tuple(place)])


def _check_count(name: str, argument: str, value: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} needs {argument} as an int, got {type(value).__name__}")
    if value < 1 or (most is not None and value > most):
        limit = "at least 1" if most is None else "from 1 to 2^40"
        raise ValueError(f"{name} needs {argument} {limit}, got {value}")


def _check_table(name: str, table: Tensor, ids: Tensor, n_classes: int) -> None:
    if len(table) != n_classes:
        raise ValueError(f"{name} has weights for {len(table)} classes, got n_classes {n_classes}")
    if table.device != ids.device:
        raise ValueError(f"{name} has its weights on {table.device}, got labels on {ids.device}; call .to(device)")


def _distribution(weights: Tensor | Sequence[float], distortion: float, n_reserved: int) -> Tensor:
    """The probability of each class, reserved ones first."""
    try:  # a list of floats is one of doubles, which torch would make single
        listed = isinstance(weights, (list, tuple))
        given = torch.as_tensor(weights, dtype=torch.float64 if listed else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"FixedUnigram needs weights that are real numbers: {error}") from None
    if not _library.is_block(given) or given.is_meta:
        kind = "a meta" if given.is_meta else "a sparse or nested"
        raise TypeError(f"FixedUnigram needs weights as a dense tensor with data, got {kind} one")
    if given.dtype == torch.bool or given.is_complex() or given.is_quantized:
        raise TypeError(f"FixedUnigram needs weights that are real numbers, got {given.dtype}")
    if given.dim() != 1:
        raise ValueError(f"FixedUnigram needs one weight a class, a 1-D tensor, got shape {tuple(given.shape)}")
    try:
        is_finite = math.isfinite(distortion)
    except TypeError:
        raise TypeError(f"FixedUnigram needs distortion as a number, got {type(distortion).__name__}") from None
    if not is_finite:
        raise ValueError(f"FixedUnigram needs a finite distortion, got {distortion}")
    if isinstance(n_reserved, bool) or not isinstance(n_reserved, int) or n_reserved < 0:
        raise ValueError(f"FixedUnigram needs n_reserved of 0 or more, got {n_reserved!r}")
    given = given.detach().double()
    bad = (given < 0) | ~torch.isfinite(given)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(f"FixedUnigram needs weights that are finite and not negative, got {given[at].item()} at {at}")
    powers = given**distortion
    total = powers.sum()
    if not bool(total > 0) or not bool(torch.isfinite(total)):
        raise ValueError(
            f"FixedUnigram needs weights with a sum above zero and finite, got {total.item()} for {len(given)} weights "
            f"to the power {distortion}"
        )
    return torch.cat((powers.new_zeros(n_reserved), powers / total))


def _alias_table(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Threshold and alias of each class's column, by running sums.

    Columns below the average are filled up by the first class above it that has something left; a class that thereby
    falls below the average itself is filled up by the next one.
    """
    height = probability * len(probability)
    top = height.argmax()
    height[top] = height[top].clamp(min=1)  # rounding must not leave every column short
    low, high = (height < 1).nonzero()[:, 0], (height >= 1).nonzero()[:, 0]
    filled = (1 - height[low]).cumsum(0)  # by the columns so far
    before = torch.cat((filled.new_zeros(1), filled))
    offered = (height[high] - 1).cumsum(0)
    alias = torch.arange(len(height), device=height.device)
    alias[low] = high[torch.searchsorted(offered, before[:-1], right=True).clamp(max=len(high) - 1)]
    alias[high[:-1]] = high[1:]
    n_filled = torch.searchsorted(before[:-1], offered)  # short columns begun before this class had nothing left
    threshold = height.clone()
    threshold[high] = (1 + offered - before[n_filled]).clamp(0, 1)
    threshold[high[-1]] = 1
    return threshold, alias
