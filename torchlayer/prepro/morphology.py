"""Shapes made fatter and thinner by a disk."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._images import T, open_images


def dilation(x: T, radius: int = 3) -> T:
    """The greatest value within a disk about each pixel: what is bright grows. scikit-image's, with ``disk(radius)``.

    Only pixels of the image count. The disk is the pixels whose middles are at most ``radius`` pixels away.

    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, channels each for itself; the same shape and dtype out.
    Raises:
        ValueError: the radius is negative.

    >>> import numpy as np
    >>> image = np.zeros((3, 5), np.uint8)
    >>> image[1, 2] = 9
    >>> dilation(image, radius=1)
    array([[0, 0, 9, 0, 0],
           [0, 9, 9, 9, 0],
           [0, 0, 9, 0, 0]], dtype=uint8)
    """
    return _spread("dilation", x, radius, grows=True)


def erosion(x: T, radius: int = 3) -> T:
    """The least value within a disk about each pixel: what is bright shrinks. Otherwise as :func:`dilation`.

    >>> import numpy as np
    >>> erosion(np.array([[5, 5, 5, 0]]), radius=1)
    array([[5, 5, 0, 0]])
    """
    return _spread("erosion", x, radius, grows=False)


def binary_dilation(x: T, radius: int = 3) -> T:
    """:func:`dilation` of what is not 0; the result is bool.

    >>> import numpy as np
    >>> binary_dilation(np.array([[0, 0, 7]]), radius=1)
    array([[False,  True,  True]])
    """
    return _spread("binary_dilation", x, radius, grows=True, binary=True)


def binary_erosion(x: T, radius: int = 3) -> T:
    """:func:`erosion` of what is not 0; the result is bool. What is beyond the edges takes nothing away.

    >>> import numpy as np
    >>> binary_erosion(np.array([[7, 7, 0]]), radius=1)
    array([[ True, False, False]])
    """
    return _spread("binary_erosion", x, radius, grows=False, binary=True)


def _spread(owner: str, x: T, radius: Any, grows: bool, binary: bool = False) -> T:
    try:
        n = operator.index(radius)
    except TypeError:
        raise TypeError(f"{owner}: radius is a number of pixels, an integer, got {radius!r}") from None
    if n < 0:
        raise ValueError(f"{owner}: radius is at least 0, got {radius!r}")
    images = open_images(owner, x)
    batch = images.batch != 0 if binary else images.batch
    y = batch.to(_exact(batch.dtype)).permute(0, 3, 1, 2)  # (N, C, H, W)
    y = _greatest(y, n) if grows else -_greatest(-y, n)
    return images.close(y.permute(0, 2, 3, 1).to(batch.dtype))


def _greatest(x: Tensor, radius: int) -> Tensor:
    """The maximum over a disk: over a stretch of each of its rows, and then of these."""
    height = x.shape[2]
    result = torch.full_like(x, -math.inf)
    stretches: dict[int, Tensor] = {}
    for down in range(-radius, radius + 1):
        if abs(down) >= height:
            continue
        half = math.isqrt(radius * radius - down * down)
        half = min(half, x.shape[3] - 1)
        if half not in stretches:  # (what max_pool2d pads with is minus infinity, but at most half of its window)
            stretches[half] = F.max_pool2d(x, (1, 2 * half + 1), 1, (0, half))
        rows = slice(max(0, -down), height - max(0, down))  # those that have a row so far down
        from_rows = slice(max(0, down), height - max(0, -down))
        result[:, :, rows] = torch.maximum(result[:, :, rows], stretches[half][:, :, from_rows])
    return result


def _exact(dtype: torch.dtype) -> torch.dtype:
    """A floating dtype that holds all values of a dtype, or of 64 bits those below 2 ** 53."""
    if dtype.is_floating_point:
        return dtype
    return torch.float32 if dtype == torch.bool or dtype.itemsize <= 2 else torch.float64
