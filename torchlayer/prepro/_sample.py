"""Reading a batch between its pixels: the core under every function that moves pixels about."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._edges import fold
from ._images import float_dtype
from ._pick import as_bits, choose, fill_value, from_bits

ORDERS = (0, 1, 3)
# Pixels: a position this far outside is taken to lie on the edge. Rounding puts the rim of a rotated image there.
_ON_THE_EDGE = {torch.float32: 1e-3, torch.float64: 1e-9}


def sample(
    batch: Tensor,
    rows: Tensor,
    columns: Tensor,
    order: int,
    fill_mode: str,
    cval: float,
    soft_edge: bool = False,
) -> Tensor:
    """The batch read at positions: ``remap``, its arguments checked.

    Args:
        soft_edge: with ``constant``, what lies around the image is pixels of ``cval``, and positions half outside are
            half ``cval``, as in scikit-image. Otherwise they are ``cval``, as in SciPy.
    Shape:
        batch ``(N, H, W, C)``, rows and columns ``(N, h, w)`` or ``(1, h, w)`` of :func:`position_dtype`; returns
        ``(N, h, w, C)``.
    """
    height, width = batch.shape[1:3]
    soft = soft_edge and fill_mode == "constant"
    if order == 0:
        y = _nearest(batch, rows, columns, fill_mode)
    else:
        y = _between(batch, rows, columns, order, fill_mode, cval if soft else None)
    if fill_mode == "constant" and not (soft and order):
        slack = 0.5 if soft else _ON_THE_EDGE[rows.dtype]
        inside = _inside(rows, height, slack) & _inside(columns, width, slack)
        y = choose(inside.unsqueeze(-1), y, fill_value(cval, y))
    return y


def position_dtype(batch: Tensor) -> torch.dtype:
    """float32 is exact to a ten-thousandth of a pixel at 1,000; float64 images are read at float64 positions."""
    return torch.float64 if batch.dtype == torch.float64 else torch.float32


def checked_order(owner: str, order: Any) -> int:
    if order not in ORDERS or isinstance(order, bool):
        raise ValueError(f"{owner}: order is 0 (nearest pixel), 1 (bilinear) or 3 (bicubic), got {order!r}")
    return int(order)


def checked_cval(owner: str, cval: float, batch: Tensor, order: int) -> float:
    """``cval``, if the dtype of the result can hold it."""
    if order == 0 and not batch.dtype.is_floating_point and batch.dtype != torch.bool:
        limits = torch.iinfo(batch.dtype)
        if not limits.min <= cval <= limits.max:
            raise ValueError(f"{owner}: cval={cval} is no value of {batch.dtype} images; convert them, or change it")
    return cval


def _nearest(batch: Tensor, rows: Tensor, columns: Tensor, fill_mode: str) -> Tensor:
    n, height, width, n_channels = batch.shape
    small = torch.int32 if n * height * width < 2**31 else torch.int64  # half of the bytes
    r = fold((rows + 0.5).floor().to(small), height, fill_mode)  # halves go up, as in SciPy
    c = fold((columns + 0.5).floor().to(small), width, fill_mode)
    first = torch.arange(n, device=batch.device, dtype=small).view(n, 1, 1) * (height * width)
    index = torch.addcmul(c, r, torch.full((), width, dtype=small, device=batch.device)) + first  # (N, h, w)
    table = as_bits(batch).reshape(-1, n_channels)
    return from_bits(table.index_select(0, index.view(-1)).view(*index.shape, n_channels), batch.dtype)


def _between(
    batch: Tensor, rows: Tensor, columns: Tensor, order: int, fill_mode: str, soft_cval: float | None
) -> Tensor:
    dtype = float_dtype(batch.dtype)
    x = batch.to(position_dtype(batch))
    if fill_mode == "wrap":  # grid_sample cannot: the neighbours that it needs are put beside the image
        margin = 1 if order == 1 else 2
        height, width = x.shape[1:3]
        for axis, n in ((1, height), (2, width)):
            around = torch.arange(-margin, n + margin, device=x.device).remainder(n)
            x = x.index_select(axis, around)
        rows, columns = rows.remainder(height) + margin, columns.remainder(width) + margin
    if soft_cval is not None:
        x = x - soft_cval
    height, width = x.shape[1:3]
    corners = fill_mode == "mirror"  # reflected about the middles of the outer pixels, not about the edges
    if corners:
        grid = torch.stack([columns * (2 / max(width - 1, 1)) - 1, rows * (2 / max(height - 1, 1)) - 1], -1)
    else:
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)  # (N, h, w, 2)
    outside = {"reflect": "reflection", "mirror": "reflection"}.get(fill_mode, "border")
    y = F.grid_sample(
        x.permute(0, 3, 1, 2),
        grid.expand(len(x), -1, -1, -1),
        mode="bilinear" if order == 1 else "bicubic",
        padding_mode="zeros" if soft_cval is not None else outside,
        align_corners=corners,
    ).permute(0, 2, 3, 1)
    return (y if soft_cval is None else y + soft_cval).to(dtype)


def _inside(positions: Tensor, n: int, slack: float) -> Tensor:
    return (positions >= -slack) & (positions <= n - 1 + slack)


def checked_output_shape(owner: str, output_shape: Any, batch: Tensor) -> tuple[int, int]:
    """Rows and columns of a result: those of the images, unless it says otherwise."""
    if output_shape is None:
        return batch.shape[1], batch.shape[2]
    shape = tuple(int(n) for n in output_shape)
    if len(shape) not in (2, 3) or min(shape) < 1 or (len(shape) == 3 and shape[2] != batch.shape[3]):
        raise ValueError(f"{owner}: output_shape is rows and columns, each at least 1, got {output_shape!r}")
    return shape[0], shape[1]


def clipped(y: Tensor, batch: Tensor, fill_mode: str, cval: float) -> Tensor:
    """``y`` within the values of its own image, and ``cval``."""
    flat = batch.to(y.dtype).flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    if fill_mode == "constant":
        low, high = low.clamp(max=cval), high.clamp(min=cval)
    return torch.minimum(torch.maximum(y, low.view(-1, 1, 1, 1)), high.view(-1, 1, 1, 1))
