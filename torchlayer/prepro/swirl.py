"""Images twisted about a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._edges import fill_mode_of_numpy
from ._images import Images, T, close_several, open_images, open_several
from ._random import Draws, Rng
from ._sample import checked_cval, checked_order, checked_output_shape, clipped, position_dtype, sample


class _How(NamedTuple):
    center: Sequence[float] | None
    strength: float
    radius: float
    rotation: float
    output_shape: Sequence[int] | None
    order: int
    mode: str
    cval: float
    clip: bool
    is_random: bool
    rng: Rng


def swirl(
    x: T,
    center: Sequence[float] | None = None,
    strength: float = 1,
    radius: float = 100,
    rotation: float = 0,
    output_shape: Sequence[int] | None = None,
    order: int = 1,
    mode: str = "constant",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
    is_random: bool = False,
    *,
    rng: Rng = None,
) -> T:
    """Twist the image about a point, the more the nearer: scikit-image's ``swirl``.

    Args:
        center: (column, row) of the point; by default ``(W / 2, H / 2)``.
        strength: radians of the twist at the point.
        radius: pixels from the point at which a thousandth of the twist is left.
        rotation: degrees by which everything is turned besides.
        output_shape: rows and columns of the result, cut from the upper left corner.
        order: 0 nearest pixel, 1 bilinear, 3 bicubic (by convolution, where scikit-image has a spline).
        mode: what lies outside, in ``numpy.pad``'s words: ``constant`` (``cval``, in the image's own units), ``edge``,
            ``symmetric``, ``reflect`` or ``wrap``.
        clip: keep bicubic values within those of the image.
        preserve_range: accepted, and unused: the range is always preserved, as it is by TensorLayer.
        is_random: draw the point evenly from the image, and evenly from 0 to ``strength``, from 0 to ``radius`` and
            from ``-rotation`` to ``rotation``, for each image of a batch.
        rng: where the draws come from: row, column, strength, radius, rotation.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out, with ``output_shape`` for H and W; floating
        point (integers become float32), but with order 0 the dtype stays.
    Raises:
        ValueError: no such mode or order, a radius that is not above 0.

    >>> import numpy as np
    >>> swirl(np.eye(64), strength=5, radius=40).shape
    (64, 64)
    """
    how = _How(center, strength, radius, rotation, output_shape, order, mode, cval, clip, is_random, rng)
    return _swirled("swirl", [open_images("swirl", x)], how)[0]


def swirl_multi(
    x: Any,
    center: Sequence[float] | None = None,
    strength: float = 1,
    radius: float = 100,
    rotation: float = 0,
    output_shape: Sequence[int] | None = None,
    order: int = 1,
    mode: str = "constant",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
    is_random: bool = False,
    *,
    rng: Rng = None,
) -> Any:
    """:func:`swirl` of several images with the same draws. The point is drawn from the first one.

    Shape:
        x a list of images, or of batches, whose images share their draws by number. Returns them stacked where shapes
        and dtypes agree, else as a list.

    >>> import numpy as np
    >>> swirl_multi([np.eye(32), np.eye(32)], strength=5, radius=20, is_random=True, rng=0).shape
    (2, 32, 32)
    """
    how = _How(center, strength, radius, rotation, output_shape, order, mode, cval, clip, is_random, rng)
    return close_several(_swirled("swirl_multi", open_several("swirl_multi", x), how))


def _swirled(owner: str, several: list[Images], how: _How) -> list[Any]:
    mode, order = fill_mode_of_numpy(owner, how.mode), checked_order(owner, how.order)
    if not how.radius > 0:
        raise ValueError(f"{owner}: radius is a number of pixels above 0, got {how.radius!r}")
    if how.center is not None and len(how.center) != 2:
        raise ValueError(f"{owner}: center is a column and a row, got {how.center!r}")
    first = several[0].batch
    if how.is_random:
        draws = Draws(owner, how.rng, several[0])
        center_row, center_column = draws.uniform(0, first.shape[1]), draws.uniform(0, first.shape[2])
        strength, radius = draws.uniform(0, how.strength), draws.uniform(1e-10, how.radius)
        rotation = draws.uniform(-how.rotation, how.rotation)
    else:
        strength, radius, rotation = how.strength, how.radius, how.rotation
    results = []
    for images in several:
        batch = images.batch
        if not how.is_random:
            center_column, center_row = how.center or (batch.shape[2] / 2, batch.shape[1] / 2)
        height, width = checked_output_shape(owner, how.output_shape, batch)
        dtype = position_dtype(batch)
        numbers = (center_row, center_column, strength, radius, rotation)
        row, column, strongest, reach, turn = (_as_field(n, dtype, batch.device) for n in numbers)
        up = torch.arange(height, device=batch.device, dtype=dtype).view(-1, 1) - row  # (N, H, 1)
        along = torch.arange(width, device=batch.device, dtype=dtype) - column  # (N, 1, W)
        distance = torch.hypot(up, along)  # (N, H, W)
        twist = strongest * torch.exp(-distance / (reach * (math.log(2) / 5))) + turn * (math.pi / 180)
        cos, sin = twist.cos(), twist.sin()
        rows, columns = row + up * cos + along * sin, column + along * cos - up * sin
        cval = checked_cval(owner, how.cval, batch, order)
        y = sample(batch, rows, columns, order, mode, cval, soft_edge=True)
        results.append(images.close(clipped(y, batch, mode, how.cval) if how.clip and order == 3 else y))
    return results


def _as_field(number: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if not isinstance(number, Tensor):
        return torch.full((1, 1, 1), float(number), dtype=dtype, device=device)
    return number.to(device, dtype, non_blocking=True).view(-1, 1, 1)
