"""Images turned, moved, sheared and zoomed: maps of the plane that keep lines straight and parallel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ._images import Images, T, close_several, open_images, open_several
from ._lines import How, Line, Number, numbers, read_along
from ._random import Rng


def rotation(
    x: T,
    rg: float = 20,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> T:
    """Turn clockwise by ``rg`` degrees about the middle, or by an angle drawn evenly from ``[-rg, rg]``.

    A quarter turn of a square image moves every pixel onto another. (TensorLayer 1.3 turned about a point one pixel off
    the middle, and lost a row and a column: :func:`transform_matrix_offset_center` has it as ``legacy_center``.)

    Args:
        row_index, col_index, channel_index: axes of an image, after the first axis of a batch.
        fill_mode: what lies outside: ``nearest``, ``constant`` (``cval``), ``reflect``, ``wrap`` or ``mirror``, see
            :func:`~torchlayer.prepro.remap`.
        order: 0 takes the nearest pixel, as TensorLayer does, 1 is bilinear, 3 bicubic.
        rng: where random angles come from, one for each image of a batch.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out. With order 0 the dtype stays, with 1 and 3
        integers become float32.
    Raises:
        ValueError: no such fill mode or order.

    >>> import numpy as np
    >>> rotation(np.array([[1, 2], [3, 4]]), rg=90)
    array([[3, 1],
           [4, 2]])
    """
    how = How("rotation", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return _rotated([open_images(how.owner, x, how.axes)], rg, how)[0]


def rotation_multi(
    x: Any,
    rg: float = 20,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> Any:
    """:func:`rotation` of several images by one angle.

    Shape:
        x a list of images, or of batches, whose images share their angles by number. Returns them stacked where shapes
        and dtypes agree, else as a list.

    >>> import numpy as np
    >>> image, mask = np.zeros((32, 32, 3)), np.zeros((32, 32, 1), bool)
    >>> [y.dtype.name for y in rotation_multi([image, mask], is_random=True, rng=0)]
    ['float64', 'bool']
    """
    how = How("rotation_multi", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return close_several(_rotated(open_several(how.owner, x, how.axes), rg, how))


def shift(
    x: T,
    wrg: float = 0.1,
    hrg: float = 0.1,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> T:
    """Move up by ``hrg`` of the height and to the left by ``wrg`` of the width; random: each from ``[-r, r]``.

    Args:
        row_index, col_index, channel_index, fill_mode, cval, order: as in :func:`rotation`.
        rng: where random shares come from, ``hrg``'s first.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out; the dtype as in :func:`rotation`.

    >>> import numpy as np
    >>> shift(np.arange(16).reshape(4, 4), wrg=0.25, hrg=0.25)
    array([[ 5,  6,  7,  7],
           [ 9, 10, 11, 11],
           [13, 14, 15, 15],
           [13, 14, 15, 15]])
    """
    how = How("shift", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return _shifted([open_images(how.owner, x, how.axes)], wrg, hrg, how)[0]


def shift_multi(
    x: Any,
    wrg: float = 0.1,
    hrg: float = 0.1,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> Any:
    """:func:`shift` of several images by the same shares of their sizes.

    Shape:
        x and the result as in :func:`rotation_multi`.

    >>> import numpy as np
    >>> shift_multi([np.zeros((8, 8, 3)), np.zeros((8, 8, 3))], is_random=True, rng=0).shape
    (2, 8, 8, 3)
    """
    how = How("shift_multi", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return close_several(_shifted(open_several(how.owner, x, how.axes), wrg, hrg, how))


def shear(
    x: T,
    intensity: float = 0.1,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> T:
    """Slant about the middle by an angle of ``intensity`` **radians**, or one drawn evenly from ``[-i, i]``.

    Pixel (row, column) from the middle is read at ``(row - sin(i) * column, cos(i) * column)``.

    Args:
        row_index, col_index, channel_index, fill_mode, cval, order: as in :func:`rotation`.
        rng: where random angles come from.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out; the dtype as in :func:`rotation`.

    >>> import numpy as np
    >>> shear(np.eye(5, dtype=int)[:, 2:3].repeat(5, 1), intensity=0.5)  # a horizontal line
    array([[0, 0, 0, 0, 0],
           [1, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 1],
           [0, 0, 0, 0, 0]])
    """
    how = How("shear", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return _sheared([open_images(how.owner, x, how.axes)], intensity, how)[0]


def shear_multi(
    x: Any,
    intensity: float = 0.1,
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> Any:
    """:func:`shear` of several images by one angle.

    Shape:
        x and the result as in :func:`rotation_multi`.

    >>> import numpy as np
    >>> shear_multi([np.zeros((8, 8, 3)), np.zeros((8, 8, 3))], is_random=True, rng=0).shape
    (2, 8, 8, 3)
    """
    how = How("shear_multi", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return close_several(_sheared(open_several(how.owner, x, how.axes), intensity, how))


def zoom(
    x: T,
    zoom_range: Sequence[float] = (0.9, 1.1),
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> T:
    """Read rows and columns in steps of ``zoom_range`` pixels about the middle: **below 1 magnifies, above 1 shrinks**.

    The image keeps its size. Random: two steps, each drawn evenly from the range, so that its proportions change.

    Args:
        zoom_range: the steps of rows and of columns; random: least and greatest.
        row_index, col_index, channel_index, fill_mode, cval, order: as in :func:`rotation`.
        rng: where random steps come from, the rows' first.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out; the dtype as in :func:`rotation`.
    Raises:
        ValueError: ``zoom_range`` is not two numbers above 0.

    >>> import numpy as np
    >>> zoom(np.arange(16).reshape(4, 4), (0.5, 0.5))
    array([[ 5,  5,  6,  6],
           [ 5,  5,  6,  6],
           [ 9,  9, 10, 10],
           [ 9,  9, 10, 10]])
    """
    how = How("zoom", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return _zoomed([open_images(how.owner, x, how.axes)], zoom_range, how)[0]


def zoom_multi(
    x: Any,
    zoom_range: Sequence[float] = (0.9, 1.1),
    is_random: bool = False,
    row_index: int = 0,
    col_index: int = 1,
    channel_index: int = 2,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    *,
    order: int = 0,
    rng: Rng = None,
) -> Any:
    """:func:`zoom` of several images with the same steps.

    Shape:
        x and the result as in :func:`rotation_multi`.

    >>> import numpy as np
    >>> zoom_multi([np.zeros((8, 8, 3)), np.zeros((8, 8, 3))], is_random=True, rng=0).shape
    (2, 8, 8, 3)
    """
    how = How("zoom_multi", (row_index, col_index, channel_index), fill_mode, cval, order, is_random, rng)
    return close_several(_zoomed(open_several(how.owner, x, how.axes), zoom_range, how))


def _rotated(several: list[Images], rg: float, how: How) -> list[Any]:
    (degrees,) = numbers(several[0], how, [rg], [(-rg, rg)])
    cos, sin = cos_sin(degrees * (math.pi / 180))
    return read_along(several, lambda _: (Line(cos, -sin), Line(sin, cos)), how)


def _shifted(several: list[Images], wrg: float, hrg: float, how: How) -> list[Any]:
    down, right = numbers(several[0], how, [hrg, wrg], [(-hrg, hrg), (-wrg, wrg)])

    def lines(batch: Tensor) -> tuple[Line, Line]:
        return Line(1, 0, down * batch.shape[1]), Line(0, 1, right * batch.shape[2])

    return read_along(several, lines, how)


def _sheared(several: list[Images], intensity: float, how: How) -> list[Any]:
    (angle,) = numbers(several[0], how, [intensity], [(-intensity, intensity)])
    cos, sin = cos_sin(angle)
    return read_along(several, lambda _: (Line(1, -sin), Line(0, cos)), how)


def _zoomed(several: list[Images], zoom_range: Sequence[float], how: How) -> list[Any]:
    if len(zoom_range) != 2 or min(zoom_range) <= 0:
        raise ValueError(
            f"{how.owner}: zoom_range is two numbers above 0, the steps of rows and columns, or the least and the "
            f"greatest to draw; got {zoom_range!r}"
        )
    rows, columns = numbers(several[0], how, zoom_range, [zoom_range] * 2)
    return read_along(several, lambda _: (Line(rows, 0), Line(0, columns)), how)


def cos_sin(angle: Number) -> tuple[Number, Number]:
    return (angle.cos(), angle.sin()) if isinstance(angle, Tensor) else (math.cos(angle), math.sin(angle))
