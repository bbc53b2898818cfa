"""Reading images between their pixels: what spatial transformers and deformable convolutions share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The pixels before and after each position on one axis, and the weight of each.
Corners = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def positions(x: Tensor) -> Tensor:
    """``x`` in at least float32: under autocast a bfloat16 position would be pixels away on a large image."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel(position: Tensor, n: int) -> Tensor:
    """Whole positions as indices into an axis of length ``n``; a NaN reads pixel 0, and its weight is NaN."""
    return position.clamp(0, n - 1).nan_to_num().long()


def blend(x: Tensor, rows: Corners, columns: Corners) -> Tensor:
    """``x`` at positions between its pixels: the weighted sum of four pixels for each, without keeping the four.

    Shape:
        x ``(N, H, W, C)``, corners ``(N, ...)``; returns ``(N, ..., C)``.
    """
    n, height, width, n_channels = x.shape
    (pixels_y, weights_y), (pixels_x, weights_x) = rows, columns
    image = torch.arange(n, device=x.device).view(-1, *[1] * (pixels_y[0].dim() - 1))
    starts = [(image * height + pixel_y) * width for pixel_y in pixels_y]
    index = torch.stack([start + pixel_x for start in starts for pixel_x in pixels_x], -1)  # (N, ..., 4)
    weight = torch.stack([wy * wx for wy in weights_y for wx in weights_x], -1).to(x.dtype)
    table = x.reshape(n * height * width, n_channels)
    y = F.embedding_bag(index.view(-1, 4), table, per_sample_weights=weight.view(-1, 4), mode="sum")
    return y.view(*index.shape[:-1], n_channels)
