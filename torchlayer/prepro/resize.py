"""Images made larger or smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._images import T, as_floats, back_to, open_images, without_autocast

# Reach and weight of each filter, as in Pillow: linear, Keys's cubic (a = -0.5), Lanczos's of three lobes.
_FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, lambda t: 1 - t),
    "bicubic": (2.0, lambda t: np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)),
    "lanczos": (3.0, lambda t: np.sinc(t) * np.sinc(t / 3)),
}
_FILTERS["cubic"] = _FILTERS["bicubic"]
_METHODS = ("nearest", *_FILTERS)


def imresize(
    x: T,
    size: int | float | Sequence[int] = (100, 100),
    interp: str = "bilinear",
    mode: None = None,
    *,
    preserve_range: bool = False,
) -> T:
    """Resize as ``scipy.misc.imresize`` did, by Pillow's filters: a smaller image is averaged, not sampled.

    The result is uint8. **Other images than uint8 are stretched first, their least value to 0 and their greatest to
    255**, each image of a batch by its own. ``preserve_range=True`` keeps values and dtype instead.

    Args:
        size: rows and columns; an int is a percentage, a float a factor.
        interp: ``nearest``, ``bilinear``, ``bicubic`` (or ``cubic``) or ``lanczos``.
        mode: must be None. It was a mode of Pillow's images; for ``"F"`` say ``preserve_range=True``.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out, with the new H and W.
    Raises:
        ValueError: the size is not above 0; no such ``interp``.

    >>> import numpy as np
    >>> imresize(np.array([[0.0, 1.0]]), (1, 4))
    array([[  0,  64, 191, 255]], dtype=uint8)
    """
    images = open_images("imresize", x)
    if mode is not None:
        raise ValueError(f"imresize: mode must be None, got {mode!r}; preserve_range=True keeps floating values")
    if interp not in _METHODS:
        raise ValueError(f"imresize: interp is one of {', '.join(_METHODS)}, got {interp!r}")
    batch = images.batch
    height, width = _new_size(size, batch.shape[1], batch.shape[2])
    dtype = batch.dtype if preserve_range else torch.uint8
    if not preserve_range and batch.dtype != torch.uint8:
        batch = _stretched(batch)
    if interp == "nearest":
        rows, columns = (
            torch.from_numpy(_nearest(n, m)).to(batch.device, non_blocking=True)
            for n, m in zip(batch.shape[1:3], (height, width))
        )
        return images.close(batch.index_select(1, rows).index_select(2, columns))
    y = as_floats(batch)
    # A matrix product an axis. Autocast would round it to bfloat16, more coarsely than uint8
    with without_autocast(batch):
        for axis, m in ((2, width), (1, height)):
            if y.shape[axis] != m:
                weights = torch.from_numpy(_weights(y.shape[axis], m, interp)).to(y, non_blocking=True)
                y = torch.einsum("mn,ahnc->ahmc" if axis == 2 else "mn,anwc->amwc", weights, y)
                if not preserve_range:  # Pillow's result of either pass is uint8, its overswings cut off, halves up
                    y = (y + 0.5).floor().clamp(0, 255)
    y = back_to(dtype, y)
    return images.close(y.clone() if y.shape == batch.shape else y)


def _new_size(size: Any, height: int, width: int) -> tuple[int, int]:
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        new = (int(height * size / 100), int(width * size / 100))
    elif isinstance(size, (float, np.floating)):
        new = (int(height * size), int(width * size))
    else:
        new = tuple(int(n) for n in size)  # type: ignore[union-attr]
    if len(new) != 2 or min(new) < 1:
        raise ValueError(
            f"imresize: size is rows and columns, a percentage (int) or a factor (float), and leaves at least one of "
            f"each; got {size!r} for {height} x {width}"
        )
    return new[0], new[1]


def _stretched(batch: Tensor) -> Tensor:
    """uint8 from 0 to 255, SciPy's ``bytescale``: halves are rounded up, and an image of one value is 0."""
    y = as_floats(batch)
    low, high = y.amin((1, 2, 3), keepdim=True), y.amax((1, 2, 3), keepdim=True)
    span = high - low
    scale = 255 / torch.where(span == 0, torch.ones_like(span), span)
    return ((y - low) * scale + 0.5).floor().clamp(0, 255).to(torch.uint8)


def _nearest(n: int, m: int) -> np.ndarray:
    return np.minimum(((np.arange(m) + 0.5) * (n / m)).astype(np.int64), n - 1)


def _weights(n: int, m: int, interp: str) -> np.ndarray:
    """``(m, n)``: what each new pixel takes from each old one."""
    reach, weight = _FILTERS[interp]
    scale = n / m
    wide = max(scale, 1.0)  # a filter as wide as the new pixels
    middles = (np.arange(m)[:, None] + 0.5) * scale
    first = np.maximum((middles - reach * wide + 0.5).astype(np.int64), 0)
    last = np.minimum((middles + reach * wide + 0.5).astype(np.int64), n)  # exclusive
    old = np.arange(n)
    distance = np.abs(old + 0.5 - middles) / wide
    weights = np.where((old >= first) & (old < last) & (distance < reach), weight(distance), 0.0)
    return weights / weights.sum(1, keepdims=True)
