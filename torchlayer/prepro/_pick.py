"""Whole pixels out of a batch: a row and a column for each, given as two lists an image."""

from __future__ import annotations

import torch
from torch import Tensor

from ._edges import fold

# torch neither gathers nor chooses among unsigned integers beyond uint8; to bits it makes no difference
_MOVED_AS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def pick(batch: Tensor, rows: Tensor, columns: Tensor, fill_mode: str | None = None, cval: float = 0.0) -> Tensor:
    """The rows and columns of each image, each gathered once; those beyond the edges follow ``fill_mode``.

    Shape:
        batch ``(N, H, W, C)``, rows ``(N, h)``, columns ``(N, w)`` int64; returns ``(N, h, w, C)``.
    """
    n, height, width, n_channels = batch.shape
    first = torch.arange(n, device=batch.device).view(n, 1)
    r, c = rows, columns
    if fill_mode is not None:
        r, c = fold(rows, height, fill_mode), fold(columns, width, fill_mode)
    if batch.device.type == "cpu":  # whole rows, then pixels in them: three times as fast as pixels at once
        y = as_bits(batch).reshape(n * height, width * n_channels).index_select(0, (first * height + r).view(-1))
        numbers = (c[:, :, None] * n_channels + torch.arange(n_channels)).view(n, 1, -1)
        y = y.view(n, r.shape[1], -1).gather(2, numbers.expand(-1, r.shape[1], -1)).view(*r.shape, -1, n_channels)
    else:
        y = as_bits(batch)[first[:, :, None], r[:, :, None], c[:, None, :]]
    if fill_mode == "constant":
        inside = ((rows == r)[:, :, None] & (columns == c)[:, None, :]).unsqueeze(-1)  # (N, h, w, 1)
        y = torch.where(inside, y, as_bits(fill_value(cval, batch)))
    return from_bits(y, batch.dtype)


def choose(condition: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """:func:`torch.where` for images of any dtype."""
    return from_bits(torch.where(condition, as_bits(x), as_bits(otherwise)), x.dtype)


def as_bits(x: Tensor) -> Tensor:
    """The same memory in a dtype that torch can gather and choose from."""
    return x.view(_MOVED_AS[x.dtype]) if x.dtype in _MOVED_AS else x


def from_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What :func:`as_bits` was given."""
    return x.view(dtype) if dtype in _MOVED_AS else x


def span(start: Tensor, n: int) -> Tensor:
    """``n`` indices from each start on: ``(N,) -> (N, n)``."""
    return start[:, None] + torch.arange(n, device=start.device)


def fill_value(cval: float, batch: Tensor) -> Tensor:
    """``cval`` as the images' dtype has it, made without a copy from the host."""
    return torch.full((), cval, dtype=batch.dtype, device=batch.device)
