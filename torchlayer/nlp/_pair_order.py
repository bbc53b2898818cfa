"""The skip-grams of a text as the cells of a table, so that any rows of it are made without the rows before.

A cell is a word of the text and an offset in its window. Some cells are no pairs: beyond the ends of the text, and
outside of a window that was drawn smaller. Texts here are padded: ``window`` times -1 (no word) at either end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class InOrder:
    """A row for each word, its columns the offsets from left to right."""

    def __init__(self, n: int, window: int, device: torch.device):
        self.n_words, self.n_rows, self.n_columns = n, n, 2 * window
        self._window = window
        self._distance = torch.tensor([*range(window, 0, -1), *range(1, window + 1)], device=device)

    def rows(self, ids: Tensor, radius: Tensor | None, first: int, last: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Words, neighbours and whether they are a pair, of the cells of rows ``first`` to ``last - 1``.

        ``None`` says that all of them are pairs.
        """
        w = self._window
        words = ids[first + w : last + w].repeat_interleave(2 * w)
        spans = ids[first : last + 2 * w].unfold(0, 2 * w + 1, 1)
        neighbours = torch.cat([spans[:, :w], spans[:, w + 1 :]], 1).view(-1)
        if radius is None and first >= w and last <= self.n_rows - w:
            return words, neighbours, None
        is_pair = neighbours >= 0
        if radius is not None:
            is_pair &= (self._distance <= radius[first:last, None]).view(-1)
        return words, neighbours, is_pair


class Shuffled:
    """The cells in a random order, by a Feistel network whose round functions are tables of random numbers.

    A cell's place in the order, as row and column of a nearly square table, is put through three rounds:
    ``row += f(column)``, ``column += g(row)``, ``row += h(column)``, modulo their numbers. Each can be undone, so no
    cell is lost or met twice. An order of 10^8 pairs is thereby kept in some 10^5 numbers.

    Reference:
        Luby and Rackoff 1988, How to construct pseudorandom permutations from pseudorandom functions: three rounds are.
    """

    def __init__(self, n: int, window: int, generator: torch.Generator, device: torch.device):
        in_row = max(1, round(math.sqrt(n / (2 * window))))  # words that have their cells in one row
        self.n_rows, self.n_columns = -(-n // in_row), in_row * 2 * window
        self.n_words = self.n_rows * in_row  # a few places beyond the text are left empty
        self._window = window
        self._here = {"dtype": torch.int32 if self.n_words + 2 * window < 2**31 else torch.int64, "device": device}
        self._f = torch.randint(self.n_rows, (self.n_columns,), generator=generator, **self._here)
        g = torch.randint(self.n_columns, (self.n_rows,), generator=generator, **self._here)
        h = torch.randint(self.n_rows, (self.n_columns,), generator=generator, **self._here)
        column = torch.arange(self.n_columns, **self._here)
        offset = column % (2 * window)
        word = torch.div(column, 2 * window, rounding_mode="floor")
        # Sums are not reduced: what is looked up by them is there twice, or three times.
        self._g, self._h, self._word = g.repeat(2), h.repeat(2), word.repeat(2)
        self._offset = (offset - window + (offset >= window).to(offset.dtype)).repeat(2)  # never 0, the word itself
        self._first_word = (torch.arange(self.n_rows, **self._here) * in_row).repeat(3)

    def rows(self, ids: Tensor, radius: Tensor | None, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words, neighbours and whether they are a pair, of the cells that come to rows ``first`` to ``last - 1``."""
        row = (torch.arange(first, last, **self._here)[:, None] + self._f).view(-1)
        column = self._g.index_select(0, row).view(last - first, -1)
        column = column.add_(torch.arange(self.n_columns, **self._here)).view(-1)
        row += self._h.index_select(0, column)
        place = self._first_word.index_select(0, row).add_(self._word.index_select(0, column))
        offset = self._offset.index_select(0, column)
        # One after the other: the neighbour is in the cache that the word has just been brought to.
        both = torch.stack([place, place + offset], 1).add_(self._window)
        words, neighbours = ids.index_select(0, both.view(-1)).view(-1, 2).unbind(1)
        is_pair = (words | neighbours) >= 0  # -1 beyond the text, whichever of the two is
        if radius is not None:
            is_pair &= offset.abs_() <= radius.index_select(0, place)
        return words, neighbours, is_pair
