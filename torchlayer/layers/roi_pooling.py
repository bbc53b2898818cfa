"""The maxima of regions of interest, each cut into the same number of bins."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network import Network, Shape
from ._two_inputs import _TwoInputLayer


class ROIPoolingLayer(_TwoInputLayer):
    """Max pooling of regions of any size to one size: the largest value in each of ``pool_height x pool_width`` bins.

    ``ROIPoolingLayer(net, rois_net, ...)`` stacks on both networks, the second often
    ``InputLayer((None, 5), dtype=torch.int64)``; the layer alone is called as ``layer(x, rois)``.

    A region is ``(image, xmin, ymin, xmax, ymax)``: which image of the batch, and the first and last column and row
    that belong to it, in pixels of ``x``. One that ends before it begins is a single pixel wide or high. Where its size
    is no multiple of the number of bins, neighbouring bins share a row or column. What lies outside the image is left
    out; a bin with nothing in it is 0. The gradient goes to one of the largest values. A region of an image that the
    batch does not have is NaN.

    Args:
        rois: the network that yields the regions.
        pool_height, pool_width: how many bins a region has.

    Shape:
        ``(N, H, W, C)`` and integers ``(R, 5)`` ``-> (R, pool_height, pool_width, C)``.

    Raises:
        TypeError: the regions are not integers, the images not floating point, or there is no second network.
        ValueError: the images are not 4-D or have no pixels, or the regions are not ``(R, 5)``.

    Reference:
        Girshick 2015, "Fast R-CNN", arXiv:1504.08083. TensorLayer 1.11 calls an op that returns ``(R, C, pool_height,
        pool_width)``, and whose float32 bins may reach one pixel too far.

    >>> import torch
    >>> x = torch.tensor([[1.0, 2, 4, 4], [3, 4, 1, 2], [6, 2, 1, 7], [1, 3, 2, 8]]).view(1, 4, 4, 1)
    >>> ROIPoolingLayer()(x, torch.tensor([[0, 0, 0, 3, 3]])).squeeze()
    tensor([[4., 4.],
            [6., 8.]])
    """

    second_input = "rois"

    def __init__(
        self,
        layer: None = None,
        rois: Network | None = None,
        pool_height: int = 2,
        pool_width: int = 2,
        name: str | None = None,
    ):
        super().__init__(rois, name)
        if pool_height < 1 or pool_width < 1:
            raise ValueError(f"pool_height and pool_width are at least 1, got {pool_height} and {pool_width}")
        self.pool_height, self.pool_width = pool_height, pool_width

    def build(self, *shapes: Shape) -> None:
        _check_shapes(*shapes)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        _check_shapes(tuple(x.shape), tuple(rois.shape))
        if not x.is_floating_point():
            raise TypeError(f"the images are floating point, got {x.dtype}; convert them with .float()")
        if rois.is_floating_point() or rois.is_complex() or rois.dtype == torch.bool:
            raise TypeError(f"rois are integers, got {rois.dtype}; convert them with .round().long()")
        n, height, width, n_channels = x.shape
        image, left, top, right, bottom = rois.long().unbind(1)
        rows = _bins(top, bottom, self.pool_height, height)
        columns = _bins(left, right, self.pool_width, width)
        missing = (image < 0) | (image >= n)
        image = image.clamp(0, n - 1)
        # Only where the maxima are is found without gradients; reading them is all that backward has to know
        pixel = _arg_max(x.detach(), image, rows, columns)  # (R, pool_height, pool_width, C)
        index = (image.view(-1, 1, 1, 1) * (height * width) + pixel) * n_channels
        index = index + torch.arange(n_channels, device=x.device)
        y = x.reshape(-1).index_select(0, index.view(-1)).view(index.shape)
        empty = (rows[0] >= rows[1])[:, :, None] | (columns[0] >= columns[1])[:, None]  # (R, pool_height, pool_width)
        return y.masked_fill(empty[..., None], 0).masked_fill(missing.view(-1, 1, 1, 1), torch.nan)

    def extra_repr(self) -> str:
        return f"pool_height={self.pool_height}, pool_width={self.pool_width}"


Ranges = tuple[Tensor, Tensor]  # where each begins, and where it ends: one past its last


def _bins(first: Tensor, last: Tensor, n_bins: int, size: int) -> Ranges:
    """Ranges ``(R, n_bins)`` that cover ``first`` to ``last``, clipped to an axis of length ``size``."""
    length = (last - first + 1).clamp(min=1)[:, None]
    i = torch.arange(n_bins, device=first.device)
    begin = i * length // n_bins
    end = ((i + 1) * length + n_bins - 1) // n_bins
    return (first[:, None] + begin).clamp(0, size), (first[:, None] + end).clamp(0, size)


def _arg_max(x: Tensor, image: Tensor, rows: Ranges, columns: Ranges) -> Tensor:
    """The pixel ``row * W + column`` of each bin's first largest value; that of an empty bin is any.

    A bin of rows is reduced to one row, then that row bin by bin. Doing all bins at once would take a copy of the image
    for each.
    """
    _, height, width, _ = x.shape
    tables = _row_tables(x)
    found = []
    for top, bottom in zip(rows[0].unbind(1), rows[1].unbind(1)):
        value, row = _largest_rows(tables, image, top.clamp(max=height - 1), bottom, x.shape)  # (R, W, C)
        of_row = []
        for left, right in zip(columns[0].unbind(1), columns[1].unbind(1)):
            place = torch.arange(width, device=x.device)
            outside = (place < left[:, None]) | (place >= right[:, None])
            column = value.masked_fill(outside[..., None], -torch.inf).argmax(1, keepdim=True)  # (R, 1, C)
            column = column.clamp(left.clamp(max=width - 1).view(-1, 1, 1))  # all may be minus infinity
            of_row.append(row.gather(1, column) * width + column)
        found.append(torch.cat(of_row, 1))  # (R, pool_width, C)
    return torch.stack(found, 1)


def _row_tables(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """For 1, 2, 4, ... rows, as many as the image has: the largest value of so many from each row on, and its row.

    Any range of rows is the union of two such runs, which spares reading a region's rows one by one.

    Shape:
        ``(N, H, W, C) -> (K * N * H, W, C)``, values and rows, for ``K`` powers of two.
    """
    height = x.shape[1]
    here = torch.arange(height, device=x.device)
    value, row = x, here.view(1, -1, 1, 1).expand_as(x)
    values, rows, run = [value], [row], 1
    while 2 * run <= height:
        later = (here + run).clamp(max=height - 1)
        value, row = _larger(value, row, value.index_select(1, later), row.index_select(1, later))
        values.append(value)
        rows.append(row)
        run *= 2
    return torch.cat(values).flatten(0, 1), torch.cat(rows).flatten(0, 1), len(values)


def _largest_rows(
    tables: tuple[Tensor, Tensor, int], image: Tensor, begin: Tensor, end: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """The largest value of rows ``begin`` to ``end`` for each column and channel, and its row: ``(R, W, C)`` both."""
    values, rows, n_runs = tables
    powers = 2 ** torch.arange(1, n_runs, device=begin.device)
    level = ((end - begin)[:, None] >= powers).sum(1)  # the longest run that fits, once from each end
    base = (level * shape[0] + image) * shape[1]
    first, second = base + begin, base + torch.maximum(end - 2**level, begin)
    return _larger(*(table.index_select(0, at) for at in (first, second) for table in (values, rows)))


def _larger(value: Tensor, row: Tensor, other: Tensor, other_row: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of two values and its row; the first of equals, and a NaN before everything."""
    better = (other > value) | (other.isnan() & ~value.isnan())
    return torch.where(better, other, value), torch.where(better, other_row, row)


def _check_shapes(images: Shape, rois: Shape) -> None:
    if len(images) != 4:
        raise ValueError(f"region pooling needs images of shape (N, H, W, C), got {images}")
    if 0 in images[1:3]:
        raise ValueError(f"the images have no pixels, got {images}")
    if len(rois) != 2 or rois[1] != 5:
        raise ValueError(f"rois has shape (R, 5), each row (image, xmin, ymin, xmax, ymax), got {rois}")
