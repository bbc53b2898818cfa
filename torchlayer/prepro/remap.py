"""Images read at positions of one's own choosing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._edges import checked_fill_mode
from ._images import T, open_images
from ._sample import checked_cval, checked_order, position_dtype, sample


def remap(x: T, rows: Any, columns: Any, order: int = 1, fill_mode: str = "constant", cval: float = 0.0) -> T:
    """``y[i, j] = x[rows[i, j], columns[i, j]]``, where rows and columns are positions between pixels, too.

    SciPy's ``map_coordinates`` for images and batches, on their device: two-dimensional flow fields of any kind.

    Args:
        rows, columns: positions in pixels, 0 being the middle of the first.
        order: 0 takes the nearest pixel, whose dtype stays; 1 is bilinear; 3 is the cubic convolution of
            ``grid_sample`` (a = -0.75), not a spline.
        fill_mode: what lies outside: ``nearest`` ``a a|a b c d|d d``, ``reflect`` ``b a|a b c d|d c``, ``mirror``
            ``c b|a b c d|c b``, ``wrap`` ``c d|a b c d|a b`` (SciPy's ``grid-wrap``; its ``wrap`` takes the first and
            the last pixel for one), or ``constant``: ``cval`` at every position before the first or past the last
            pixel's middle.
    Shape:
        x ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``; rows and columns ``(h, w)``, or for a batch also ``(N, h, w)``;
        returns x with ``h`` and ``w`` for H and W. With order 1 and 3 floating point (integers become float32).
    Raises:
        ValueError: the positions do not fit, or no such order or fill mode.

    >>> import numpy as np
    >>> remap(np.array([[0.0, 10.0], [20.0, 30.0]]), rows=np.array([[0.5, 1.0]]), columns=np.array([[0.5, 2.0]]))
    array([[15.,  0.]])
    """
    images = open_images("remap", x)
    batch = images.batch
    order, mode = checked_order("remap", order), checked_fill_mode("remap", fill_mode)
    positions = [_positions(name, values, batch) for name, values in (("rows", rows), ("columns", columns))]
    if positions[0].shape != positions[1].shape:
        raise ValueError(
            f"remap: rows and columns have one shape, got {tuple(np.shape(rows))} and {tuple(np.shape(columns))}"
        )
    y = sample(batch, positions[0], positions[1], order, mode, checked_cval("remap", cval, batch, order))
    return images.close(y)


def _positions(name: str, values: Any, batch: Tensor) -> Tensor:
    if not isinstance(values, (np.ndarray, Tensor)):
        values = np.asarray(values)
    positions = torch.as_tensor(values, dtype=position_dtype(batch), device=batch.device)
    if positions.dim() == 2:
        positions = positions[None]
    if positions.dim() != 3 or len(positions) not in (1, len(batch)) or 0 in positions.shape:
        raise ValueError(
            f"remap: {name} are positions (h, w), or for a batch one such field an image, (N, h, w); got shape "
            f"{tuple(values.shape)} for {len(batch)} image{'s' if len(batch) > 1 else ''}"
        )
    return positions
