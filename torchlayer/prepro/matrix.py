"""Maps of the plane given as matrices of 3 x 3, and as points."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._images import T, open_images
from ._lines import How, Line, read_along


def transform_matrix_offset_center(matrix: T, x: int, y: int, *, legacy_center: bool = False) -> T:
    """A matrix about the origin as one about the middle of images of ``x`` rows and ``y`` columns.

    The middle is ``((x - 1) / 2, (y - 1) / 2)``, counted from the middle of the first pixel.

    Args:
        legacy_center: TensorLayer 1.3's middle, ``(x / 2 + 0.5, y / 2 + 0.5)``, one pixel off.
    Shape:
        matrix ``(3, 3)`` or ``(N, 3, 3)`` on ``(row, column, 1)``, and the same out.

    >>> import numpy as np
    >>> transform_matrix_offset_center(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), 4, 4)
    array([[ 0., -1.,  3.],
           [ 1.,  0.,  0.],
           [ 0.,  0.,  1.]])
    """
    m = _as_matrix(matrix)
    if m.dim() not in (2, 3) or m.shape[-2:] != (3, 3):
        raise ValueError(
            f"transform_matrix_offset_center takes an array or a tensor of shape (3, 3) or (N, 3, 3), got "
            f"{tuple(m.shape)}"
        )
    half = 0.5 if legacy_center else -0.5
    about = _about(m, x / 2 + half, y / 2 + half)
    return about.numpy() if isinstance(matrix, np.ndarray) else about  # type: ignore


def apply_transform(
    x: T,
    transform_matrix: Any,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
) -> T:
    """Read each pixel ``(row, column)`` of the result at ``transform_matrix @ (row, column, 1)`` in the image.

    Several maps in one pass: multiply their matrices (and use :func:`transform_matrix_offset_center` on the product).

    Args:
        transform_matrix: its last row is not read. On a GPU, a tensor there is not copied.
        channel_index: of an image; the other two axes, in their order, are rows and columns.
        fill_mode, cval, order: as in :func:`rotation`.
    Shape:
        x ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, transform_matrix ``(3, 3)``, or ``(N, 3, 3)`` for a batch;
        returns the shape of x.

    >>> import numpy as np
    >>> apply_transform(np.array([[1, 2], [3, 4]]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]))  # mirrored at y = x
    array([[1, 3],
           [2, 4]])
    """
    if channel_index not in (0, 1, 2):
        raise ValueError(f"apply_transform: channel_index is 0, 1 or 2, an axis of an image, got {channel_index!r}")
    row_index, col_index = (axis for axis in range(3) if axis != channel_index)
    how = How("apply_transform", (row_index, col_index, channel_index), fill_mode, cval, order, False, None)
    images = open_images(how.owner, x, how.axes)
    matrix = _as_matrix(transform_matrix)
    n = len(images.batch)
    if matrix.dim() not in (2, 3) or matrix.shape[-2:] != (3, 3) or (matrix.dim() == 3 and len(matrix) not in (1, n)):
        raise ValueError(
            f"apply_transform: transform_matrix has shape (3, 3), or (N, 3, 3) for N images; got "
            f"{tuple(matrix.shape)} for {n} image{'s' if n > 1 else ''}"
        )
    rows, columns = (Line(*matrix.view(-1, 3, 3)[:, i].unbind(1)) for i in range(2))
    return read_along([images], lambda _: (rows, columns), how, about_middle=False)[0]


def _about(matrix: Tensor, row: float, column: float) -> Tensor:
    """``shift(row, column) @ matrix @ shift(-row, -column)``."""
    about = matrix.clone()
    about[..., 0, :] += row * matrix[..., 2, :]
    about[..., 1, :] += column * matrix[..., 2, :]
    about[..., :, 2] -= row * about[..., :, 0] + column * about[..., :, 1]
    return about


def _as_matrix(matrix: Any) -> Tensor:
    if isinstance(matrix, Tensor):
        return matrix if matrix.is_floating_point() else matrix.double()
    return torch.from_numpy(np.array(matrix, dtype=np.float64))
