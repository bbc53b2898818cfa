"""Images turned over."""

from __future__ import annotations

from typing import Any

from ._images import Images, T, close_several, open_images, open_several
from ._pick import choose
from ._random import Draws, Rng


def flip_axis(x: T, axis: int, is_random: bool = False, *, rng: Rng = None) -> T:
    """Reverse an axis, always or with probability one half; in a batch each image has its own draw.

    Args:
        axis: of an image: 0 turns upside down, 1 left to right, 2 reverses the channels. In a batch ``(N, H, W, C)``
            they are the same, counted after the first axis.
        rng: where the random draws come from.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``; returns a copy of the same shape and dtype.

    >>> import numpy as np
    >>> flip_axis(np.array([[1, 2, 3]]), axis=1)
    array([[3, 2, 1]])
    """
    return _flipped("flip_axis", [open_images("flip_axis", x)], axis, is_random, rng)[0]


def flip_axis_multi(x: Any, axis: int, is_random: bool = False, *, rng: Rng = None) -> Any:
    """:func:`flip_axis` of several images with one draw: all are turned over, or none.

    Shape:
        x a list of images, or of batches, whose images share their draws by number. Returns them stacked where shapes
        and dtypes agree, else as a list.

    >>> import numpy as np
    >>> image, mask = np.zeros((32, 32, 3)), np.zeros((32, 32, 1), bool)
    >>> [y.shape for y in flip_axis_multi([image, mask], 1, is_random=True, rng=0)]
    [(32, 32, 3), (32, 32, 1)]
    """
    return close_several(_flipped("flip_axis_multi", open_several("flip_axis_multi", x), axis, is_random, rng))


def _flipped(owner: str, several: list[Images], axis: int, is_random: bool, rng: Rng) -> list[Any]:
    if axis not in (0, 1, 2) or isinstance(axis, bool):
        raise ValueError(f"{owner}: axis is 0 (up-down), 1 (left-right) or 2 (channels) of an image, got {axis!r}")
    # TensorLayer's draw, so that its seeds flip the same images
    flips = Draws(owner, rng, several[0]).uniform(-1, 1) > 0 if is_random else None
    results = []
    for images in several:
        y = images.batch.flip(axis + 1)
        if flips is not None:
            y = choose(flips.to(y.device).view(-1, 1, 1, 1), y, images.batch)
        results.append(images.close(y))
    return results
