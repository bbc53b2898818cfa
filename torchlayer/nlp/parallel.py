"""Sentence pairs as ids, out of the files of :func:`torchlayer.nlp.data_to_token_ids`: read, in buckets, in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files.errors import FileFormatError
from ..iterate import Batches, Rng, permutation
from ._text import Path, lines, shown

Pair = tuple[list[int], list[int]]

_REPORT = 100_000  # lines


def read_data(
    source_path: Path,
    target_path: Path,
    buckets: Sequence[tuple[int, int]],
    EOS_ID: int = 2,
    max_size: int = 0,
    UNK_ID: int = 3,
) -> list[list[Pair]]:
    """Read two files of ids, line by line, into buckets by length; behind each target comes ``EOS_ID``.

    A pair goes into the first bucket ``(I, O)`` with ``len(source) < I`` and ``len(target) + 1 < O``. Pairs that fit
    none, and pairs with an empty side, are left out. How many these are, and how many words are unknown, is printed.

    Args:
        buckets: each larger than the one before. One bucket is how pairs are read that are batched without them.
        EOS_ID, UNK_ID: ids of the end of a sentence and of unknown words.
        max_size: read only so many lines; 0 reads all.
    Shape:
        Returns a list a bucket, of ``(source ids, target ids)``.
    Raises:
        ValueError: buckets that do not grow.
        FileFormatError: one file has more lines than the other, or something that is no id in it; the text says where.

    Reference:
        TensorFlow's translate tutorial, whose bounds are as strict.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as en, tempfile.NamedTemporaryFile() as fr:
    ...     _ = en.write(b"4 5\\n\\n4 5 6 7 8\\n") and en.flush()
    ...     _ = fr.write(b"9 8 3\\n4\\n5 6\\n") and fr.flush()
    ...     read_data(en.name, fr.name, [(3, 5), (6, 8)])
      3 pairs, 1 with an empty side and 0 longer than every bucket left out; unknown words: 0.0 % and 16.7 %
    [[([4, 5], [9, 8, 3, 2])], [([4, 5, 6, 7, 8], [5, 6, 2])]]
    """
    _check_buckets(buckets)
    data: list[list[Pair]] = [[] for _ in buckets]
    ids = _Ids()
    n_pairs = n_empty = n_long = 0
    n_words, n_unknown = [0, 0], [0, 0]
    both: Iterator[Any] = zip_longest(lines(source_path), lines(target_path))
    for source_line, target_line in both:
        if max_size and n_pairs >= max_size:
            break
        if source_line is None or target_line is None:
            longer, shorter = (source_path, target_path) if target_line is None else (target_path, source_path)
            reason = f"it goes on after line {n_pairs}, where '{os.fspath(shorter)}' ends; make both from one corpus"
            raise FileFormatError(longer, reason)
        n_pairs += 1
        if n_pairs % _REPORT == 0:
            print(f"  reading data line {n_pairs}")
        source = ids.of_line(source_path, *source_line)
        target = ids.of_line(target_path, *target_line)
        for side, words in enumerate((source, target)):
            n_words[side] += len(words)
            n_unknown[side] += words.count(UNK_ID)
        if not source or not target:
            n_empty += 1
            continue
        target.append(EOS_ID)
        bucket = next((i for i, (n, m) in enumerate(buckets) if len(source) < n and len(target) < m), None)
        if bucket is None:
            n_long += 1
        else:
            data[bucket].append((source, target))
    shares = [100 * unknown / max(n, 1) for unknown, n in zip(n_unknown, n_words)]
    print(
        f"  {n_pairs} pairs, {n_empty} with an empty side and {n_long} longer than every bucket left out; "
        f"unknown words: {shares[0]:.1f} % and {shares[1]:.1f} %"
    )
    return data


class TokenBatches:
    """Batches of pairs of like lengths, which share a number of tokens rather than a number of sentences.

    ``epoch()`` is a pass over all pairs, in batches of ``(source, source_lengths, target)``. Pairs are sorted by their
    targets' lengths, then by their sources'; where lengths are equal the order is drawn afresh for each pass, and so is
    that of the batches. A batch is cut where one more pair would make it, padding included, more than ``n_tokens``.

    Args:
        pairs: source and target ids; the target with its end.
        n_tokens: tokens of a batch at most, of both sides together, padding included.
        multiple_of: lengths of batches are multiples of this. With 8 or so there are few different ones, which a
            captured training step needs; 1 pads least.
        fill: give batches of equal lengths equally many rows, the last of them being empty: a source of length 1 and a
            target of padding alone, which no loss should count.
        PAD_ID: stands behind a sentence.
        device: where the ids are kept, all of them, and the batches are made.

    Shape:
        source ``(N, I)``, source_lengths ``(N,)``, target ``(N, O)`` int64.

    Raises:
        ValueError: no pairs, an empty side, or a pair that is longer than ``n_tokens``.

    >>> batches = TokenBatches([([5], [6, 2]), ([5, 7], [6, 8, 2]), ([9], [9, 2])], n_tokens=6)
    >>> len(batches), batches.n_words
    (2, 11)
    >>> for source, lengths, target in batches.epoch(shuffle=False):
    ...     print(source.tolist(), lengths.tolist(), target.tolist())
    [[5], [9]] [1, 1] [[6, 2], [9, 2]]
    [[5, 7]] [2] [[6, 8, 2]]
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        n_tokens: int,
        *,
        multiple_of: int = 1,
        fill: bool = False,
        PAD_ID: int = 0,
        device: torch.device | str = "cpu",
    ):
        if not pairs:
            raise ValueError("TokenBatches needs at least one pair, got none")
        if multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {multiple_of}")
        self._sides = [_Side([pair[side] for pair in pairs], PAD_ID, device) for side in (0, 1)]
        source, target = (side.lengths for side in self._sides)
        if min(source.min(), target.min()) < 1:
            raise ValueError(f"pair {int(np.minimum(source, target).argmin())} has an empty side; leave it out")
        self._padded = np.stack([-(-n // multiple_of) * multiple_of for n in (source, target)], 1)
        longest = int(self._padded.sum(1).argmax())
        if self._padded[longest].sum() > n_tokens:
            raise ValueError(
                f"pair {longest} has {source[longest]} and {target[longest]} tokens, padded "
                f"{self._padded[longest].sum()}, which is more than n_tokens={n_tokens}; raise it or leave the pair out"
            )
        self.n_tokens, self.fill = n_tokens, fill
        self.n_words = int(source.sum() + target.sum())  # of both sides, ends included
        self._cuts = self._cut(np.lexsort((source, target)))

    def __len__(self) -> int:
        return len(self._cuts)

    def epoch(self, rng: Rng = None, shuffle: bool = True) -> Batches:
        """One pass. ``rng`` may be what it is for :func:`torchlayer.iterate.minibatches`."""
        source, target = (side.lengths for side in self._sides)
        order = permutation(len(source), rng) if shuffle else np.arange(len(source))
        rows = order[np.lexsort((source[order], target[order]))]
        turns = permutation(len(self._cuts), rng) if shuffle else np.arange(len(self._cuts))

        def batch(i: int) -> tuple[Tensor, Tensor, Tensor]:
            start, stop, n_rows, widths = self._cuts[turns[i]]
            here = np.full(n_rows, -1)
            here[: stop - start] = rows[start:stop]
            ids, lengths = self._sides[0].rows(here, widths[0])
            return ids, lengths.clamp(min=1), self._sides[1].rows(here, widths[1])[0]

        return Batches(len(turns), batch)

    def _cut(self, order: np.ndarray) -> list[tuple[int, int, int, tuple[int, int]]]:
        """Where batches begin and end in the sorted order, their rows and their lengths: alike in every pass."""
        cuts, start, widths = [], 0, (0, 0)
        for stop, (n, m) in enumerate(self._padded[order].tolist()):
            wider = max(widths[0], n), max(widths[1], m)
            if (stop + 1 - start) * sum(wider) > self.n_tokens:
                cuts.append(self._batch(start, stop, widths))
                start, wider = stop, (n, m)
            widths = wider
        return [*cuts, self._batch(start, len(order), widths)]

    def _batch(self, start: int, stop: int, widths: tuple[int, int]) -> tuple[int, int, int, tuple[int, int]]:
        return start, stop, self.n_tokens // sum(widths) if self.fill else stop - start, widths


class _Side:
    """Sentences one behind the other, and an empty one behind the last."""

    def __init__(self, sentences: Sequence[Sequence[int]], PAD_ID: int, device: torch.device | str):
        self.lengths = np.array([len(s) for s in sentences])
        ids = np.concatenate([np.asarray(s, np.int64) for s in [*sentences, [PAD_ID]]])
        self._pad, self._ids = PAD_ID, torch.from_numpy(ids).to(device)
        self._lengths = torch.from_numpy(np.append(self.lengths, 0)).to(device)
        self._starts = torch.from_numpy(np.append(0, self.lengths.cumsum())).to(device)

    def rows(self, index: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
        """The sentences of these numbers, -1 being the empty one, as ``(N, width)``, and their lengths."""
        device = self._ids.device
        at = torch.from_numpy(index % len(self._starts)).to(device)
        column = torch.arange(width, device=device)
        lengths = self._lengths[at]
        within = column < lengths[:, None]
        place = torch.where(within, self._starts[at][:, None] + column, len(self._ids) - 1)
        return self._ids[place], lengths


class _Ids(dict[bytes, int]):
    """Ids by how they are written; each is one object, however often it occurs."""

    def __missing__(self, word: bytes) -> int:
        self[word] = number = int(word)
        if number < 0:
            raise ValueError
        return number

    def of_line(self, path: Path, number: int, line: bytes) -> list[int]:
        try:
            return [self[word] for word in line.split()]
        except ValueError:
            reason = f"line {number} is no line of ids: {shown(line.strip())}; data_to_token_ids makes them of words"
            raise FileFormatError(path, reason) from None


def _check_buckets(buckets: Sequence[tuple[int, int]]) -> None:
    grows = all(a < c and b < d for (a, b), (c, d) in pairwise(buckets))
    if not buckets or not grows or min(buckets[0]) < 2:
        raise ValueError(
            f"buckets are (source length, target length), both growing from one to the next, got {list(buckets)}"
        )
