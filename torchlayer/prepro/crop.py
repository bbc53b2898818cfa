"""Parts of images: from the middle, or from anywhere."""

from __future__ import annotations

import operator
from typing import Any

import torch

from ._edges import checked_fill_mode
from ._images import Images, T, close_several, open_images, open_several
from ._pick import pick, span
from ._random import Draws, Rng
from ._sample import checked_cval


def crop(
    x: T,
    wrg: int,
    hrg: int,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    *,
    pad: int = 0,
    fill_mode: str = "mirror",
    cval: float = 0.0,
    rng: Rng = None,
) -> T:
    """Cut ``hrg`` rows and ``wrg`` columns out of the middle, or out of a random place.

    Every place is equally likely, and each image of a batch has its own. (TensorLayer 1.3 drew the first place half of
    the time and the last two never.) The middle begins at row ``(H - hrg) // 2``. dtype and values stay.

    Args:
        wrg: columns, ``hrg``: rows. The image's own size is allowed, and is a copy.
        row_index, col_index, channel_index: axes of an image, after the first axis of a batch.
        pad: pixels that are thought around the image on each side before it is cut: ``crop(x, 32, 32, True, pad=4)``
            moves images of 32 x 32 by up to four pixels. Only what is cut is read.
        fill_mode: what the padding holds, see :func:`~torchlayer.prepro.remap`; ``cval`` of ``constant``.
        rng: where random places come from: rows first, then columns.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` ``->`` the same with ``hrg`` for H and ``wrg`` for W.
    Raises:
        ValueError: the crop is larger than the padded image.

    >>> import numpy as np
    >>> crop(np.arange(16).reshape(4, 4), wrg=2, hrg=2)
    array([[ 5,  6],
           [ 9, 10]])
    >>> batch = torch.rand(8, 32, 32, 3)
    >>> crop(batch, 28, 28, is_random=True, rng=0).shape
    torch.Size([8, 28, 28, 3])
    """
    images = open_images("crop", x, (row_index, col_index, channel_index))
    return _crops("crop", [images], wrg, hrg, is_random, pad, fill_mode, cval, rng)[0]


def crop_multi(
    x: Any,
    wrg: int,
    hrg: int,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    *,
    pad: int = 0,
    fill_mode: str = "mirror",
    cval: float = 0.0,
    rng: Rng = None,
) -> Any:
    """:func:`crop` of several images at one place: a picture and its mask, say.

    Shape:
        x a list of images of the same height and width, or of batches, whose images share their places by number.
        Returns them stacked where shapes and dtypes agree, else as a list.

    >>> import numpy as np
    >>> image, mask = np.zeros((32, 32, 3)), np.zeros((32, 32, 1), bool)
    >>> [y.shape for y in crop_multi([image, mask], 28, 28, is_random=True, rng=0)]
    [(28, 28, 3), (28, 28, 1)]
    """
    several = open_several("crop_multi", x, (row_index, col_index, channel_index))
    return close_several(_crops("crop_multi", several, wrg, hrg, is_random, pad, fill_mode, cval, rng))


def _crops(
    owner: str,
    several: list[Images],
    wrg: int,
    hrg: int,
    is_random: bool,
    pad: int,
    fill_mode: str,
    cval: float,
    rng: Rng,
) -> list[Any]:
    height, width = several[0].batch.shape[1:3]
    if any(images.batch.shape[1:3] != (height, width) for images in several):
        sizes = ", ".join(f"{images.batch.shape[1]} x {images.batch.shape[2]}" for images in several)
        raise ValueError(f"{owner} cuts at one place out of images of one size, got {sizes}; crop them one by one")
    rows, columns, margin = (_count(owner, *pair) for pair in (("hrg", hrg), ("wrg", wrg), ("pad", pad)))
    room, play = height + 2 * margin - rows, width + 2 * margin - columns  # of the upper left corner
    if rows < 1 or columns < 1 or margin < 0 or room < 0 or play < 0:
        padded = f", padded by {pad}" if pad else ""
        raise ValueError(
            f"{owner}: hrg={hrg} rows and wrg={wrg} columns cannot be cut out of {height} rows and {width} columns"
            f"{padded}"
        )
    mode = checked_fill_mode(owner, fill_mode)
    for images in several:
        checked_cval(owner, cval, images.batch, order=0)
    first = several[0]
    places: list[Any] = [room // 2 - margin, play // 2 - margin]
    if is_random:
        draws = Draws(owner, rng, first)
        places = [draws.integers(room + 1) - margin, draws.integers(play + 1) - margin]
        if first.is_array and len(first.batch) == 1:
            places = [int(place) for place in places]
    if not margin and isinstance(places[0], int):
        top, left = places
        part = (slice(None), slice(top, top + rows), slice(left, left + columns))
        return [images.close(images.batch[part].clone()) for images in several]
    results = []
    for images in several:
        device, n = images.batch.device, len(images.batch)
        starts = [
            torch.full((n,), at, device=device) if isinstance(at, int) else at.to(device, non_blocking=True)
            for at in places
        ]
        where = [span(start, length) for start, length in zip(starts, (rows, columns))]
        results.append(images.close(pick(images.batch, where[0], where[1], mode if margin else None, cval)))
    return results


def _count(owner: str, name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {name} is a number of pixels, an integer, got {value!r}") from None
