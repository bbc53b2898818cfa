"""Pairs of a word and a word near it, to train word vectors on."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._pair_order import InOrder, Shuffled

Ids = Tensor | np.ndarray | Sequence[int]
Rng = int | np.random.Generator | np.random.RandomState | torch.Generator | None

# Cells made into pairs at once: these stay in a CPU's cache, and below torch's threshold for several threads, which
# would cost more than they gain; a GPU wants enough to hide its launches.
_BLOCK = 2**15
_BLOCK_ON_GPU = 2**22
_MOST_IDS = 2**26  # to count words by id; no embedding has more rows


def generate_skip_gram_batch(
    data: Ids,
    batch_size: int,
    num_skips: int,
    skip_window: int,
    data_index: int = 0,
    *,
    overlap: bool = False,
    rng: random.Random | int | np.random.Generator | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """One batch of skip-grams, ``num_skips`` random neighbours for each of ``batch_size / num_skips`` words.

    With ``w = skip_window`` the words are those from ``data_index + w`` on, and the neighbours of each are different
    ones of the ``2 w`` around it. The text is a ring: after its last word comes its first.

    As in the original, the index that is returned lies ``2 w + 1`` words too far: the next batch skips that many words.
    With ``batch_size=20, num_skips=10, skip_window=5`` only 2 of every 13 words are ever used. ``overlap=True`` returns
    the index that skips none. To go through all pairs of a text, fast, see :func:`skip_gram_batches`.

    Args:
        rng: ``None`` is Python's global stream, and it or a ``random.Random`` gives the original's draws. An int or a
            NumPy generator draws all neighbours at once, which is faster.
    Shape:
        data ``(n,)`` integers; returns words ``(batch_size,)`` and neighbours ``(batch_size, 1)``, both int32, and the
        index for the next call.
    Raises:
        ValueError: ``num_skips`` does not divide ``batch_size`` or exceeds ``2 * skip_window``; the text is shorter
            than ``2 * skip_window + 1`` words; or ``data_index`` lies outside of it.

    >>> import random
    >>> random.seed(0)
    >>> words, neighbours, index = generate_skip_gram_batch(list(range(1, 12)), 8, num_skips=2, skip_window=1)
    >>> words, neighbours[:, 0], index
    (array([2, 2, 3, 3, 4, 4, 5, 5], dtype=int32), array([1, 3, 4, 2, 5, 3, 4, 6], dtype=int32), 7)
    """
    size, skips = _at_least_one("batch_size", batch_size), _at_least_one("num_skips", num_skips)
    window = _at_least_one("skip_window", skip_window)
    if size % skips:
        raise ValueError(f"batch_size must be a multiple of num_skips, got {size} and {skips}")
    if skips > 2 * window:
        raise ValueError(f"num_skips={skips} neighbours are more than the {2 * window} within skip_window={window}")
    span, n = 2 * window + 1, len(data)
    if n < span:
        raise ValueError(f"skip_window={window} needs a text of {span} words or more, got {n}")
    start = operator.index(data_index)
    if not 0 <= start < n:
        raise ValueError(f"data_index={start} lies outside the text of {n} words; give what the last call returned")

    n_words = size // skips
    if rng is None or isinstance(rng, random.Random):
        inside = _drawn_as_the_original(n_words, skips, window, random if rng is None else rng)
    else:
        inside = _drawn_at_once(n_words, skips, window, rng)
    first = start + np.arange(n_words)[:, None]  # of each word's span
    words = _taken(data, np.repeat((first + window) % n, skips, axis=1).reshape(-1))
    neighbours = _taken(data, ((first + inside) % n).reshape(-1))
    return words, neighbours[:, None], (start + n_words + (0 if overlap else span)) % n


def skip_gram_batches(
    data: Ids,
    batch_size: int,
    skip_window: int,
    *,
    shuffle: bool = False,
    dynamic_window: bool = False,
    subsample: float | None = None,
    vocabulary_size: int | None = None,
    start: int = 0,
    drop_last: bool = False,
    rng: Rng = None,
    device: torch.device | str | int | None = None,
) -> SkipGramBatches:
    """Go once through all skip-grams of a text: each word with each word at most ``skip_window`` away, exactly once.

    The text is a line, not a ring: its first word has neighbours on the right only. All work is done in large blocks on
    the device where the ids are, where little but the text is kept.

    Args:
        data: the word ids. An array or a list gives int32 arrays, a tensor gives tensors of its dtype where it is.
        shuffle: visit the pairs in random order, over the whole text; else word by word, which is several times faster,
            each with its neighbours from left to right.
        dynamic_window: draw each word's window from ``1 … skip_window``, so that near words count more, as word2vec.c
            does.
        subsample: a threshold such as 1e-4. Before pairs are made, a word that makes up the share ``f`` of the text is
            taken out with probability ``1 - sqrt(subsample / f)``; its neighbours move together. The draw is anew at
            each call.
        vocabulary_size: refuse ids that are not below it.
        start: go on from there: an ``index`` that an earlier pass with the same arguments and the same int ``rng`` had.
        drop_last: leave out the last batch if it is not full.
        rng: an int gives one order (and one draw of windows and words), the same at every call: pass ``seed + epoch``.
            ``None`` draws the seed from NumPy's global stream, or for tensors from torch's; a generator, from it.
        device: yield int64 tensors there; the ids are uploaded once.
    Shape:
        data ``(n,)``; yields words and neighbours, ``(batch_size,)`` each.
    Raises:
        ValueError: there is no pair in the text, an id is out of range, or ``start`` lies outside the pass.
        TypeError: the ids are not integers.
    Reference:
        Mikolov et al. 2013, Distributed representations of words and phrases and their compositionality,
        arXiv:1310.4546, equation 5. (word2vec.c and gensim keep a little more: ``sqrt(t / f) + t / f``.)

    >>> for words, neighbours in skip_gram_batches([7, 8, 9], 3, skip_window=2):
    ...     print(words, neighbours)
    [7 7 8] [8 9 7]
    [8 9 9] [9 7 8]
    """
    size, window = _at_least_one("batch_size", batch_size), _at_least_one("skip_window", skip_window)
    ids = _checked_ids(data, vocabulary_size, device)
    generator = _generator(rng, ids.device, isinstance(data, Tensor))
    n_corpus = len(ids)
    if subsample is not None:
        ids = _subsampled(ids, subsample, generator)
    n = len(ids)
    if n < 2:
        left = "" if n == n_corpus else f" is left of {n_corpus} by subsample={subsample}"
        raise ValueError(f"skip_gram_batches needs a text of two words or more, got {n}{left}; there is no pair in it")
    window = min(window, n - 1)
    order = Shuffled(n, window, generator, ids.device) if shuffle else InOrder(n, window, ids.device)
    radius = None
    if dynamic_window:
        widest = min(_at_least_one("skip_window", skip_window), 2**31 - 2)
        shape, kind = (order.n_words,), torch.uint8 if widest < 256 else torch.int32
        radius = torch.randint(1, widest + 1, shape, generator=generator, device=ids.device, dtype=kind)
        radius.clamp_(max=window)
    begin = _within(start, order.n_rows * order.n_columns)
    as_arrays = not isinstance(data, Tensor) and device is None
    return SkipGramBatches(ids, window, order, radius, size, begin, drop_last, as_arrays, n_corpus)


class SkipGramBatches(Iterator[Any]):
    """One pass over skip-grams, made by :func:`skip_gram_batches`; ``len`` is how many batches the whole pass has.

    Attributes:
        n_words: words of the text, before any were taken out.
        n_pairs: pairs of the whole pass.

    >>> batches = skip_gram_batches(range(1000), 256, skip_window=2, rng=0)
    >>> _ = next(batches), next(batches)
    >>> batches.n_pairs, len(batches), batches.words_done
    (3994, 16, 129)
    >>> rest = skip_gram_batches(range(1000), 256, skip_window=2, rng=0, start=batches.index)
    >>> all((a == b).all() for a, b in zip(next(rest), next(batches)))
    True
    """

    def __init__(
        self,
        ids: Tensor,
        window: int,
        order: Any,  # InOrder or Shuffled
        radius: Tensor | None,
        batch_size: int,
        start: int,
        drop_last: bool,
        as_arrays: bool,
        n_words: int,
    ):
        self.n_words = n_words
        self.n_pairs = _n_pairs(len(ids), window, radius)
        self._order = order
        beyond = ids.new_full((window,), -1)
        self._ids = torch.cat([beyond, ids, ids.new_full((order.n_words - len(ids),), -1), beyond])
        self._radius = radius
        self._batch_size = batch_size
        self._start = start
        self._drop_last = drop_last
        self._as_arrays = as_arrays
        self._next_row = start // order.n_columns
        # Pairs that were made, the cell that each came from, and how many of them were yielded:
        self._words = self._neighbours = self._array(ids.new_empty(0))
        self._cells = torch.empty(0, dtype=torch.int64, device=ids.device)
        self._used = self._n_made = 0

    def __len__(self) -> int:
        full, rest = divmod(self.n_pairs, self._batch_size)
        return full + (rest > 0 and not self._drop_last)

    @property
    def index(self) -> int:
        """Where the pass has come to, to be given as ``start``. (On a GPU, reading it waits for the device.)"""
        if self._used < len(self._cells):
            return int(self._cells[self._used])
        return max(self._start, self._next_row * self._order.n_columns)

    @property
    def words_done(self) -> int:
        """The part of the pass that is done, in words of the text."""
        return round(self.n_words * self.index / (self._order.n_rows * self._order.n_columns))

    def __next__(self) -> Any:
        start = self._used
        stop = start + self._batch_size
        if stop > self._n_made:
            self._refill()
            start, stop = 0, min(self._batch_size, self._n_made)
            if not stop or (self._drop_last and stop < self._batch_size):
                raise StopIteration
        self._used = stop
        return self._words[start:stop], self._neighbours[start:stop]

    def _refill(self) -> None:
        """Make pairs until there is a batch, or no more."""
        n_columns = self._order.n_columns
        block = _BLOCK if self._ids.device.type == "cpu" else _BLOCK_ON_GPU
        parts = [tuple(torch.as_tensor(x[self._used :]) for x in (self._words, self._neighbours, self._cells))]
        n_left = len(parts[0][0])
        while n_left < self._batch_size and self._next_row < self._order.n_rows:
            first = self._next_row
            last = self._next_row = min(first + max(1, block // n_columns), self._order.n_rows)
            words, neighbours, is_pair = self._order.rows(self._ids, self._radius, first, last)
            before = max(0, self._start - first * n_columns)  # cells of an earlier pass
            if before and is_pair is None:
                is_pair = torch.ones_like(words, dtype=torch.bool)
            if is_pair is None:
                cells = torch.arange(first * n_columns, last * n_columns, device=words.device)
            else:
                is_pair[:before] = False
                chosen = _places(is_pair)
                words, neighbours = words.index_select(0, chosen), neighbours.index_select(0, chosen)
                cells = chosen.add_(first * n_columns)
            parts.append((words, neighbours, cells))
            n_left += len(cells)
        words, neighbours, self._cells = (torch.cat(part) for part in zip(*parts))
        self._words, self._neighbours = self._array(words), self._array(neighbours)
        self._used, self._n_made = 0, len(words)

    def _array(self, x: Tensor) -> Any:
        return x.numpy() if self._as_arrays else x


def _n_pairs(n: int, window: int, radius: Tensor | None) -> int:
    if radius is None:
        return window * (2 * n - window - 1)  # the sum of 2 (n - d) over the distances d
    total = 2 * int(radius[:n].sum(dtype=torch.int64))
    from_end = torch.arange(window, device=radius.device)
    for end in (radius[:window], radius[n - window : n].flip(0)):
        total -= int((end - from_end).clamp_(min=0).sum())  # neighbours that lie beyond the end
    return total


def _places(mask: Tensor) -> Tensor:
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # six times as fast as torch's nonzero
    return mask.nonzero().squeeze(1)


def _subsampled(ids: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    if not 0 < threshold < math.inf:
        raise ValueError(f"subsample must be a positive share of the text such as 1e-4, or None, got {threshold!r}")
    most = int(ids.max()) if len(ids) else 0
    if most >= _MOST_IDS:
        raise ValueError(f"to subsample, words are counted by id, and id {most} is no id of a word; the most is 2**26")
    share = torch.bincount(ids).double() / max(len(ids), 1)
    keep = (threshold / share).sqrt_()  # infinite where a word does not occur
    drawn = torch.rand(len(ids), generator=generator, device=ids.device)
    return ids.index_select(0, _places(drawn < keep.float().index_select(0, ids)))


def _checked_ids(data: Ids, vocabulary_size: int | None, device: torch.device | str | int | None) -> Tensor:
    if isinstance(data, Tensor):
        ids = data if device is None else data.to(device)
        kind = "iu" if not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool) else "f"
    else:
        array = np.asarray(data)
        ids, kind = array, array.dtype.kind
    if ids.ndim != 1:
        raise ValueError(f"skip_gram_batches takes one sequence of ids, got shape {tuple(ids.shape)}; flatten it first")
    if kind not in ("i", "u", "iu") and len(ids):
        raise TypeError(
            f"skip_gram_batches takes integer ids, got {ids.dtype}; look the words up in a vocabulary first"
        )
    limit = 2**31 if vocabulary_size is None else _at_least_one("vocabulary_size", vocabulary_size)
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < limit):
        bad = (ids < 0) | (ids >= limit)
        place = int(bad.nonzero()[0]) if isinstance(bad, Tensor) else int(bad.argmax())
        raise ValueError(f"the id at position {place} is {int(ids[place])}, outside 0 … {limit - 1}")
    if isinstance(ids, Tensor):
        return ids if ids.dtype in (torch.int32, torch.int64) else ids.long()
    if device is None:
        return torch.from_numpy(ids.astype(np.int32))
    return torch.from_numpy(ids.astype(np.int64)).to(device)


def _generator(rng: Rng, device: torch.device, for_tensor: bool) -> torch.Generator:
    """One for the device, whatever was given: a seed, or what a seed can be drawn from."""
    if rng is None and not for_tensor:
        seed = int(np.random.randint(2**63 - 1, dtype=np.int64))
    elif rng is None or isinstance(rng, torch.Generator):
        source = None if rng is None else rng
        seed = int(torch.randint(2**63 - 1, (), generator=source, device="cpu" if source is None else source.device))
    elif isinstance(rng, np.random.Generator):
        seed = int(rng.integers(2**63 - 1))
    elif isinstance(rng, np.random.RandomState):
        seed = int(rng.randint(2**63 - 1, dtype=np.int64))
    elif isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        seed = int(rng)
    else:
        raise TypeError(
            f"rng must be None, an int, a NumPy Generator or RandomState, or a torch.Generator, got {rng!r}"
        )
    return torch.Generator(device).manual_seed(seed)


def _drawn_as_the_original(n_words: int, skips: int, window: int, rng: Any) -> np.ndarray:
    drawn = np.empty((n_words, skips), np.int64)
    for i in range(n_words):
        place, avoid = window, [window]
        for j in range(skips):
            while place in avoid:
                place = rng.randint(0, 2 * window)
            avoid.append(place)
            drawn[i, j] = place
    return drawn


def _drawn_at_once(n_words: int, skips: int, window: int, rng: Any) -> np.ndarray:
    if not isinstance(rng, (int, np.integer, np.random.Generator, np.random.RandomState)) or isinstance(rng, bool):
        raise TypeError(f"rng must be None, a random.Random, an int, a NumPy Generator or RandomState, got {rng!r}")
    rng = np.random.default_rng(int(rng)) if isinstance(rng, (int, np.integer)) else rng
    places = (
        rng.random_sample((n_words, 2 * window))
        if isinstance(rng, np.random.RandomState)
        else rng.random((n_words, 2 * window))
    )
    chosen = places.argsort(1)[:, :skips]  # distinct in each row, in random order
    return chosen + (chosen >= window)


def _taken(data: Ids, places: np.ndarray) -> np.ndarray:
    taken = np.asarray(data[torch.from_numpy(places).to(data.device)].cpu()) if isinstance(data, Tensor) else None
    if taken is None:
        taken = data[places] if isinstance(data, np.ndarray) else np.asarray([data[i] for i in places.tolist()])
    if taken.dtype.kind not in "iu":
        raise TypeError(
            f"generate_skip_gram_batch takes integer ids, got {taken.dtype}; look the words up in a vocabulary first"
        )
    if taken.max() > 2**31 - 1 or taken.min() < -(2**31):
        raise ValueError("generate_skip_gram_batch yields int32, and the text has ids beyond it")
    return taken.astype(np.int32)


def _within(start: int, n: int) -> int:
    index = operator.index(start)
    if not 0 <= index <= n:
        raise ValueError(f"start={index} lies outside the pass, 0 … {n}; give the index of a pass over the same text")
    return index


def _at_least_one(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number
