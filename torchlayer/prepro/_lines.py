"""Affine maps of the plane as two lines, one that says the row and one that says the column of what is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._edges import checked_fill_mode
from ._images import Axes, Images
from ._random import Draws, Rng
from ._sample import checked_cval, checked_order, position_dtype, sample

Number = float | Tensor  # one for all images, or ``(N,)``


class How(NamedTuple):
    """What all of these functions take beside their own numbers."""

    owner: str
    axes: Axes
    fill_mode: str
    cval: float
    order: int
    is_random: bool
    rng: Rng


class Line(NamedTuple):
    """A position on one axis: ``of_row * row + of_column * column + offset``."""

    of_row: Number
    of_column: Number
    offset: Number = 0.0


def numbers(images: Images, how: How, fixed: Sequence[float], ranges: Sequence[Sequence[float]]) -> list[Number]:
    """The fixed numbers, or numbers ``(N,)`` drawn from the ranges, one after the other."""
    if not how.is_random:
        return list(fixed)
    draws = Draws(how.owner, how.rng, images)
    return [draws.uniform(low, high) for low, high in ranges]


def read_along(
    several: list[Images], lines_of: Callable[[Tensor], tuple[Line, Line]], how: How, about_middle: bool = True
) -> list[Any]:
    """Each pixel read at the positions that the lines for rows and for columns say."""
    mode, order = checked_fill_mode(how.owner, how.fill_mode), checked_order(how.owner, how.order)
    results = []
    for images in several:
        batch = images.batch
        cval = checked_cval(how.owner, how.cval, batch, order)
        middle = [(n - 1) / 2 if about_middle else 0.0 for n in batch.shape[1:3]]
        dtype = position_dtype(batch)
        row, column = (
            torch.arange(-zero, n - zero, device=batch.device, dtype=dtype) for zero, n in zip(middle, batch.shape[1:3])
        )
        row = row.view(-1, 1)
        where = [_positions(line, zero, row, column) for line, zero in zip(lines_of(batch), middle)]
        results.append(images.close(sample(batch, where[0], where[1], order, mode, cval)))
    return results


def _positions(line: Line, zero: float, row: Tensor, column: Tensor) -> Tensor:
    """``(N, H, W)``, or ``(1, H, W)`` where all images have the same, of rows ``(H, 1)`` and columns ``(W,)``."""
    of_row, of_column, offset = (
        n.to(column, non_blocking=True).view(-1, 1, 1) if isinstance(n, Tensor) else n for n in line
    )
    at = column * of_column + (offset + zero)
    at = torch.addcmul(at, of_row, row) if isinstance(of_row, Tensor) else at + row * of_row
    return at if at.dim() == 3 else at[None]
