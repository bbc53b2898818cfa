"""Whole pixels out of a batch: a row and a column for each, given as two lists an image."""

from __future__ import annotations

import torch
from torch import Tensor

from ._edges import fold


def pick(batch: Tensor, rows: Tensor, columns: Tensor, fill_mode: str | None = None, cval: float = 0.0) -> Tensor:
    """The rows and columns of each image, in one gather; those beyond the edges follow ``fill_mode``.

    Shape:
        batch ``(N, H, W, C)``, rows ``(N, h)``, columns ``(N, w)`` int64; returns ``(N, h, w, C)``.
    """
    n, height, width, _ = batch.shape
    image = torch.arange(n, device=batch.device).view(n, 1, 1)
    r, c = rows, columns
    if fill_mode is not None:
        r, c = fold(rows, height, fill_mode), fold(columns, width, fill_mode)
    y = batch[image, r[:, :, None], c[:, None, :]]
    if fill_mode == "constant":
        inside = ((rows == r)[:, :, None] & (columns == c)[:, None, :]).unsqueeze(-1)  # (N, h, w, 1)
        y = torch.where(inside, y, fill_value(cval, batch))
    return y


def span(start: Tensor, n: int) -> Tensor:
    """``n`` indices from each start on: ``(N,) -> (N, n)``."""
    return start[:, None] + torch.arange(n, device=start.device)


def fill_value(cval: float, batch: Tensor) -> Tensor:
    """``cval`` as the images' dtype has it, made without a copy from the host."""
    return torch.full((), cval, dtype=batch.dtype, device=batch.device)
