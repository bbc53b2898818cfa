"""Images with pixels missing."""

from __future__ import annotations

from ._images import T, open_images
from ._pick import choose, fill_value
from ._random import Draws, Rng


def drop(x: T, keep: float = 0.5, *, rng: Rng = None) -> T:
    """Set pixels to 0, but for those kept with probability ``keep``. All channels of a pixel share its fate.

    Nothing is rescaled.

    Args:
        rng: where the draws come from; every image of a batch has its own.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out.
    Raises:
        ValueError: ``keep`` is no probability.

    >>> import numpy as np
    >>> drop(np.ones((2, 6), int), keep=0.5, rng=0)
    array([[0, 1, 1, 1, 0, 0],
           [0, 0, 0, 0, 0, 1]])
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"drop: keep is the probability of keeping a pixel, from 0 to 1, got {keep!r}")
    images = open_images("drop", x)
    kept = Draws("drop", rng, images).field(*images.batch.shape[1:3]) < keep
    return images.close(choose(kept.unsqueeze(-1), images.batch, fill_value(0, images.batch)))
