"""Many small images on one sheet: filters, kernels, pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ._figure import DPI, FORMATS, as_array, figure_of, finish, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 1000  # pixels, about, of a sheet's longer side: small tiles are enlarged by a whole factor

OUTLINE = 190  # light grey


def W(
    W: Any,
    second: float = 10,
    saveable: bool = True,
    shape: Sequence[int] = (28, 28),
    name: str | os.PathLike[str] = "mnist",
    fig_idx: int = 2396512,
    *,
    n_columns: int | None = None,
    cmap: str = "gray",
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw the columns of a weight matrix as images: what each hidden unit looks for.

    Each column is divided by its L2 norm. All tiles share one colour scale, symmetric about zero: middle grey is zero,
    white excites, black inhibits. A unit whose weights are all zero is a plain grey tile.

    Args:
        W: a ``DenseLayer``'s ``W``; of an ``nn.Linear`` take ``weight.T``.
        shape: rows and columns of one tile.
        n_columns: tiles in a row; by default ``ceil(n / int(sqrt(n)))``, as in the original.
    Shape:
        W ``(n_in, n_units)`` with ``n_in = shape[0] * shape[1]``.
    Raises:
        ValueError: ``W`` is not a matrix, has NaN, or its columns do not fill ``shape``.

    >>> import torch
    >>> sheet = W(torch.randn(784, 10), saveable=False)
    >>> sheet.axes[0].images[0].get_array().shape[0] > 3 * 28
    True
    """
    weight = as_array(W, "W").astype(np.float64)
    if weight.ndim != 2:
        raise ValueError(f"W must be a matrix (n_in, n_units), got shape {weight.shape}")
    n_in, n_units = weight.shape
    if len(shape) != 2 or math.prod(shape) != n_in:
        hint = "; W is transposed: pass W.T" if len(shape) == 2 and math.prod(shape) == n_units else ""
        raise ValueError(
            f"each column of W has {n_in} values, which do not fill shape {tuple(shape)}{hint or '; give shape=(h, w)'}"
        )
    norm = np.linalg.norm(weight, axis=0)
    tiles = (weight / np.where(norm > 0, norm, 1)).T.reshape(n_units, *shape)
    peaks = np.abs(tiles).max(axis=(1, 2))
    # A few units tuned to single pixels reach 1 and would leave the others pale: nine tenths of the units set it.
    limit = float(np.percentile(peaks[norm > 0], 90)) if (norm > 0).any() else 1.0
    columns = math.ceil(n_units / math.isqrt(n_units)) if n_columns is None else n_columns
    return finish(_sheet(tiles, columns, ax=ax, cmap=cmap, vmin=-limit, vmax=limit), saveable, name, ax)


def CNN2d(
    CNN: Any,
    second: float = 10,
    saveable: bool = True,
    name: str | os.PathLike[str] = "cnn",
    fig_idx: int = 3119362,
    *,
    channels_first: bool = False,
    n_columns: int | None = None,
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw the kernels of a convolution on one or three channels, each stretched from its least to its greatest weight.

    Args:
        channels_first: the kernels are in torch's layout, a ``Conv2dLayer``'s ``W``, an ``nn.Conv2d``'s ``weight``.
        n_columns: tiles in a row; by default ``int(sqrt(n))``, as in the original.
    Shape:
        CNN ``(h, w, c, n)``, or with ``channels_first`` ``(n, c, h, w)``; ``c`` is 1 (grey) or 3 (colour).
    Raises:
        ValueError: not four dimensions, or neither 1 nor 3 channels.

    >>> import torch
    >>> sheet = CNN2d(torch.nn.Conv2d(3, 32, 5).weight, channels_first=True, saveable=False)
    """
    kernels = as_array(CNN, "CNN").astype(np.float64)
    if kernels.ndim != 4:
        layout = "(n, c, h, w)" if channels_first else "(h, w, c, n)"
        raise ValueError(f"CNN must be kernels {layout}, got shape {kernels.shape}")
    kernels = kernels.transpose(0, 2, 3, 1) if channels_first else kernels.transpose(3, 0, 1, 2)  # (n, h, w, c)
    if kernels.shape[3] not in (1, 3):
        given = np.shape(CNN)
        cure = "CNN[:, :1]" if channels_first else "CNN[:, :, :1]"
        if given[1] in (1, 3) and given[0] != given[1] and not channels_first:
            cure += "; torch's layout (n, c, h, w) needs channels_first=True"
        raise ValueError(
            f"CNN2d draws kernels of 1 or 3 channels, got {kernels.shape[3]} (shape {tuple(given)}); "
            f"draw one input channel at a time: {cure}"
        )
    low = kernels.min(axis=(1, 2, 3), keepdims=True)
    span = kernels.max(axis=(1, 2, 3), keepdims=True) - low
    tiles = np.where(span > 0, (kernels - low) / np.where(span > 0, span, 1), 0.5)
    columns = math.isqrt(len(tiles)) if n_columns is None else n_columns
    return finish(_sheet(tiles, columns, ax=ax), saveable, name, ax)


def images2d(
    images: Any,
    second: float = 10,
    saveable: bool = True,
    name: str | os.PathLike[str] = "images",
    dtype: Any = None,
    fig_idx: int = 3119362,
    *,
    channels_first: bool = False,
    n_columns: int | None = None,
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw a batch of images side by side.

    Integers stand for 0..255 and floats for 0..1. A batch that leaves its range (a standardised one, say) is stretched
    as a whole, so that its images stay comparable: the 0.5th percentile of its values becomes black, the 99.5th white.

    Args:
        dtype: converts first; ``numpy.uint8`` reads floats as 0..255, clipping what lies outside.
        channels_first: the batch is ``(n, c, h, w)``.
        n_columns: images in a row; by default ``int(sqrt(n))``, as in the original.
    Shape:
        images ``(n, h, w, c)``, or with ``channels_first`` ``(n, c, h, w)``; ``c`` is 1 (grey) or 3 (colour).
    Raises:
        ValueError: not four dimensions, or neither 1 nor 3 channels.

    >>> import numpy as np
    >>> sheet = images2d(np.random.rand(12, 32, 32, 3), n_columns=6, saveable=False)
    """
    batch = as_array(images, "images")
    layout = "(n, c, h, w)" if channels_first else "(n, h, w, c)"
    if batch.ndim != 4:
        raise ValueError(
            f"images must be a batch {layout}, got shape {batch.shape}; "
            "draw one image with frame, give grey images a channel axis with images[..., None]"
        )
    if channels_first:
        batch = batch.transpose(0, 2, 3, 1)
    if batch.shape[3] not in (1, 3):
        other = "the flag channels_first is wrong" if channels_first else "(n, c, h, w) needs channels_first=True"
        raise ValueError(
            f"images2d draws images {layout} of 1 or 3 channels, got {batch.shape[3]} in shape {np.shape(images)}; "
            f"if the layout is the other one, {other}"
        )
    tiles = _unit(_cast(batch, dtype))
    columns = math.isqrt(len(tiles)) if n_columns is None else n_columns
    return finish(_sheet(tiles, columns, ax=ax), saveable, name, ax)


def frame(
    I: Any,  # noqa: E741 - the original's name
    second: float = 5,
    saveable: bool = True,
    name: str | os.PathLike[str] = "frame",
    cmap: str | None = None,
    fig_idx: int = 12836,
    *,
    channels_first: bool = False,
    ax: Axes | None = None,
) -> Path | Figure:
    """Draw one image under its name: a picture, or with ``cmap`` a map.

    A picture keeps its values, integers 0..255 or floats 0..1, and is stretched as in ``images2d`` only when it leaves
    them. A map, one value a pixel, is always stretched from its least value to its greatest.

    Shape:
        I ``(h, w)``, ``(h, w, 1)``, ``(h, w, 3)`` or ``(h, w, 4)``; with ``channels_first`` the last axis comes first.
    Raises:
        ValueError: any other shape.

    >>> import numpy as np
    >>> frame(np.eye(8), name="identity", saveable=False).axes[0].get_title()
    'identity'
    """
    image = as_array(I, "I")
    if channels_first and image.ndim == 3:
        image = image.transpose(1, 2, 0)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"I must be one image (h, w) or (h, w, c) with c 1, 3 or 4, got shape {np.shape(I)}"
            + ("" if channels_first else "; (c, h, w) needs channels_first=True")
        )
    tile = image[None] if image.ndim == 3 else image[None, :, :, None]
    if cmap is None or tile.shape[3] > 1:
        figure = _sheet(_unit(tile), 1, title=_title(name), ax=ax)
    else:
        figure = _sheet(tile[..., 0], 1, title=_title(name), ax=ax, cmap=cmap)
    return finish(figure, saveable, name, ax)


def _cast(values: np.ndarray, dtype: Any) -> np.ndarray:
    if dtype is None:
        return values
    dtype = np.dtype(dtype)
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        values = np.clip(values, limits.min, limits.max)  # where a plain cast would wrap 256 to black
    return values.astype(dtype)


def _unit(values: np.ndarray) -> np.ndarray:
    """``values`` in 0..1: integers are 0..255 (or 0 and 1), floats 0..1; what leaves its range is stretched."""
    low, high = float(values.min()), float(values.max())
    top = 255.0 if values.dtype.kind in "ui" and high > 1 else 1.0
    values = values.astype(np.float64)
    if low >= 0 and high <= top:
        return values / top
    inner = np.percentile(values, (0.5, 99.5))  # a few extreme pixels would leave the rest pale
    low, high = inner if inner[1] > inner[0] else (low, high)
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full_like(values, 0.5)


def _title(name: str | os.PathLike[str]) -> str:
    return Path(name).stem if Path(name).suffix.lower() in FORMATS else Path(name).name


def _sheet(tiles: np.ndarray, columns: int, title: str = "", ax: Axes | None = None, **colours: Any) -> Figure:
    """Tiles row by row as one image, whose pixels are the file's; or as an image in given axes.

    Shape:
        tiles ``(n, h, w, c)`` of values in 0..1, or with a colour map ``(n, h, w)`` of any values.
    """
    n, height, width = tiles.shape[:3]
    if columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {columns}")
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    scale = max(1, round(SIDE / max(rows * height, columns * width)))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)  # (n, scale * h, scale * w, ...)
    height, width = height * scale, width * scale
    gap = max(1, round(0.05 * min(height, width))) if n > 1 else 0
    line = gap // 6  # around pictures, whose own white would run into the gap's

    if colours:
        tiles, blank = tiles.astype(np.float32), np.nan  # NaN, which no colour map paints
    else:
        grey = tiles.shape[3] == 1  # drawn as colours too: through a colour map it would be a level off here and there
        tiles, blank = np.rint(255 * (tiles.repeat(3, axis=3) if grey else tiles)).astype(np.uint8), 255
    size = (gap + rows * (height + gap), gap + columns * (width + gap), *tiles.shape[3:])
    sheet = np.full(size, blank, tiles.dtype)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        if line and not colours:
            sheet[top - line : top + height + line, left - line : left + width + line] = OUTLINE
        sheet[top : top + height, left : left + width] = tile

    if ax is not None:
        figure = figure_of(ax)
        ax.axis("off")
        ax.imshow(sheet, origin="upper", aspect="equal", interpolation="none", **colours)
        ax.set_title(title, parse_math=False)
        return figure
    header = 80 if title else 0  # pixels
    figure = new_figure(sheet.shape[1] / DPI, (sheet.shape[0] + header) / DPI)
    axes = figure.add_axes((0, 0, 1, sheet.shape[0] / (sheet.shape[0] + header)))
    axes.axis("off")
    # aspect: a float's rounding must not shrink the axes by a pixel; interpolation: vector formats keep the pixels
    axes.imshow(sheet, origin="upper", aspect="auto", interpolation="none", **colours)
    if title:
        fits = 72 * figure.get_figwidth() / (0.65 * len(title))  # a letter is 0.65 of its height wide
        axes.set_title(title, fontsize=min(12, fits), pad=6, parse_math=False)
    return figure
