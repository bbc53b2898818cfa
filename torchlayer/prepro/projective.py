"""Images seen from elsewhere: four points moved onto four others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._edges import fill_mode_of_numpy
from ._images import T, float_dtype, open_images
from ._sample import checked_order, checked_output_shape, clipped, position_dtype, sample


def projective_transform_by_points(
    x: T,
    src: Any,
    dst: Any,
    map_args: Mapping[str, Any] | None = None,
    output_shape: Sequence[int] | None = None,
    order: int = 1,
    mode: str = "constant",
    cval: float = 0.0,
    clip: bool = True,
    preserve_range: bool = False,
) -> T:
    """Move the points ``src`` onto ``dst``, and everything else along, straight lines staying straight.

    scikit-image's ``ProjectiveTransform`` and ``warp``. With more than four points the best map in the sense of the
    direct linear transform, coordinates normalised first.

    Args:
        src, dst: points **(column, row)**, four or more; three of the four may not lie on a line. They are read on the
            host, so give lists or arrays rather than tensors on a GPU.
        map_args: must be empty; TensorLayer handed it to scikit-image, which has no use for it here.
        output_shape: rows and columns of the result, cut from the upper left corner.
        order: 0 nearest pixel, 1 bilinear, 3 bicubic (a = -0.75; scikit-image has a = -0.5).
        mode: what lies outside, in ``numpy.pad``'s words: ``constant`` (``cval``), ``edge``, ``symmetric``, ``reflect``
            or ``wrap``.
        cval: in the units of the result.
        clip: keep bicubic values within those of the image.
        preserve_range: keep the values. Otherwise, as in TensorLayer, integers are divided by 255, and so is a floating
            image that has a value above 1.
    Shape:
        x ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, src and dst ``(P, 2)``, or for a batch ``(N, P, 2)``; returns x
        with ``output_shape`` for H and W, floating point (integers become float32).
    Raises:
        ValueError: fewer than four points, or they lie on a line; no such mode or order.
    Reference:
        Hartley 1997, In defense of the eight-point algorithm, https://doi.org/10.1109/34.601246 (why coordinates are
        normalised).

    >>> import numpy as np
    >>> corners = [[0, 0], [0, 27], [27, 27], [27, 0]]
    >>> projective_transform_by_points(np.eye(28), corners, [[3, 0], [0, 27], [27, 27], [24, 0]]).shape
    (28, 28)
    """
    owner = "projective_transform_by_points"
    images = open_images(owner, x)
    batch = images.batch
    order, fill_mode = checked_order(owner, order), fill_mode_of_numpy(owner, mode)
    if map_args:
        raise ValueError(f"{owner}: map_args must be empty, a projective map takes no arguments; got {map_args!r}")
    height, width = checked_output_shape(owner, output_shape, batch)
    matrix = _estimated(_points("dst", dst, len(batch)), _points("src", src, len(batch)))  # from result to image

    y = batch.to(float_dtype(batch.dtype))
    if not preserve_range and not batch.dtype.is_floating_point:
        y = y / 255
    elif not preserve_range:
        y = torch.where(y.amax((1, 2, 3), keepdim=True) > 1, y / 255, y)
    m = torch.from_numpy(matrix).to(batch.device, position_dtype(batch), non_blocking=True)[..., None, None]
    row = torch.arange(height, device=m.device, dtype=m.dtype).view(-1, 1)
    column = torch.arange(width, device=m.device, dtype=m.dtype)
    across, down, scale = (
        torch.addcmul(m[:, i, 0] * column + m[:, i, 2], m[:, i, 1], row) for i in range(3)
    )  # (N, h, w) each
    z = sample(y, down / scale, across / scale, order, fill_mode, cval, soft_edge=True)
    return images.close(clipped(z, y, fill_mode, cval) if clip and order == 3 else z)


def _points(name: str, points: Any, n_images: int) -> np.ndarray:
    array = np.asarray(points.detach().cpu() if isinstance(points, Tensor) else points, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] < 4 or array.shape[2] != 2 or len(array) not in (1, n_images):
        raise ValueError(
            f"projective_transform_by_points: {name} is four or more points (column, row), of shape (P, 2), or for a "
            f"batch (N, P, 2); got shape {np.shape(points)}"
        )
    return array


def _estimated(of: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The matrices ``(N, 3, 3)`` that map one set of points onto the other."""
    if of.shape[1] != onto.shape[1]:
        raise ValueError(
            f"projective_transform_by_points needs a point of dst for each of src, got {onto.shape[1]} of src and "
            f"{of.shape[1]} of dst"
        )
    n = max(len(of), len(onto))
    of, onto = (np.broadcast_to(points, (n, *points.shape[1:])) for points in (of, onto))
    (before, p), (after, q) = _normalised(of), _normalised(onto)
    ones, zeros = np.ones_like(p), np.zeros_like(p)
    at = np.concatenate([p, ones[..., :1]], 2)  # (N, P, 3)
    zero = np.concatenate([zeros, zeros[..., :1]], 2)
    equations = np.concatenate(
        [
            np.concatenate([at, zero, -q[..., :1] * at], 2),
            np.concatenate([zero, at, -q[..., 1:] * at], 2),
        ],
        1,
    )  # (N, 2 P, 9)
    _, sizes, directions = np.linalg.svd(equations)
    matrix = directions[:, -1].reshape(n, 3, 3)
    matrix = np.linalg.inv(after) @ matrix @ before
    # Three points on a line leave a second direction free, or flatten the plane
    if (sizes[:, 7] < 1e-9 * sizes[:, 0]).any() or (np.linalg.cond(matrix) > 1e12).any():
        raise ValueError(
            "projective_transform_by_points: the points determine no map, since three of them lie on a line or two "
            "coincide; choose corners of a quadrangle"
        )
    return matrix


def _normalised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix that brings the points' mean to 0 and their distance from it to the square root of 2, and they."""
    mean = points.mean(1, keepdims=True)
    spread = np.sqrt(((points - mean) ** 2).sum(2).mean(1) / 2)
    spread = np.where(spread > 0, spread, 1.0)
    matrix = np.zeros((len(points), 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / spread
    matrix[:, :2, 2] = -mean[:, 0] / spread[:, None]
    matrix[:, 2, 2] = 1
    return matrix, (points - mean) / spread[:, None, None]
