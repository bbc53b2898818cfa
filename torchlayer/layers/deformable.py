"""A convolution whose filters read cells that another network chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Network, Shape
from ._bilinear import Corners, blend, pixel, positions
from ._convolution import check_channels
from ._two_inputs import _TwoInputLayer
from .base import Activation, fill, has_bias, shown
from .padding import pair, same_padding


class DeformableConv2d(_TwoInputLayer):
    """A 2-D convolution (SAME, stride 1) that reads each cell of its filters at an offset, between pixels if need be.

    ``DeformableConv2d(net, offset_net, ...)`` stacks on both networks; the layer alone is called as
    ``layer(x, offsets)``. With zero offsets it is a :class:`Conv2dLayer`, so a good start for the offsets is a
    convolution whose ``W_init`` and ``b_init`` are zeros.

    The offsets' channels are pairs ``(dy, dx)`` in pixels, down and to the right, one pair for each cell of the filter,
    row by row: channel ``2 * (i * width + j)`` moves cell ``(i, j)`` down. Outside the image everything is zero.

    Args:
        offset_layer: the network that predicts the offsets.
        n_filter: how many filters.
        filter_size: ``(height, width)``.
        act: applied to the result; ``None`` is the identity.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in)`` and offsets ``(N, H, W, 2 * height * width)`` ``-> (N, H, W, n_filter)``; parameters ``W``
        ``(n_filter, n_in, height, width)`` and ``b`` ``(n_filter,)``.

    Raises:
        TypeError: an input is not floating point, or there is no second network.
        ValueError: an input is not 4-D, the two differ in N, H or W, or the channels do not fit.

    Reference:
        Dai et al. 2017, "Deformable Convolutional Networks", arXiv:1703.06211. TensorLayer 1.11 repeats the border
        outside the image, and in batches of more than one image mixes up whose offsets are whose.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 3))
    >>> offsets = tl.layers.Conv2d(net, n_filter=18, filter_size=3, name="offsets")
    >>> DeformableConv2d(net, offsets, n_filter=8, filter_size=3, name="deformed").outputs.shape
    (None, 28, 28, 8)
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # as Conv2dLayer; 1.11's files hold (1, 1, h * w, in, out)  # noqa: RUF012
    second_input = "offset_layer"

    def __init__(
        self,
        layer: None = None,
        offset_layer: Network | None = None,
        n_filter: int = 32,
        filter_size: int | Sequence[int] = (3, 3),
        act: Activation | None = None,
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(offset_layer, name)
        if n_filter < 1:
            raise ValueError(f"n_filter is how many filters and at least 1, got {n_filter}")
        self.n_filter = n_filter
        self.kernel = pair(filter_size, "filter_size")
        self.act = act or identity
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(b_init) else None
        self._recipes: Any = (W_init, W_init_args, b_init, b_init_args)

    def build(self, *shapes: Shape) -> None:
        n_in = check_channels(shapes[0], 2, None)
        self._check_offsets(*shapes)
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill(self.W, (self.n_filter, n_in, *self.kernel), W_init, W_init_args)
        self.W.data = self.W.data.contiguous(memory_format=torch.channels_last)  # as forward reads it
        if self.b is not None:
            fill(self.b, (self.n_filter,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        check_channels(tuple(x.shape), 2, self.W.shape[1])
        self._check_offsets(tuple(x.shape), tuple(offsets.shape))
        if not x.is_floating_point() or not offsets.is_floating_point():
            raise TypeError(
                f"an image and its offsets are floating point, got {x.dtype} and {offsets.dtype}; "
                "convert them with .float()"
            )
        offsets = positions(offsets).unflatten(3, (-1, 2))  # (N, H, W, K, 2)
        cell_y, cell_x = self._cells(offsets)
        at_y = offsets[..., 0] + torch.arange(x.shape[1], device=x.device).view(-1, 1, 1) + cell_y
        at_x = offsets[..., 1] + torch.arange(x.shape[2], device=x.device).view(-1, 1) + cell_x
        cells = blend(x, _corners(at_y, x.shape[1]), _corners(at_x, x.shape[2]))  # (N, H, W, K, n_in)
        W = self.W.permute(0, 2, 3, 1).flatten(1)  # (n_filter, K * n_in)
        return self.act(F.linear(cells.flatten(3), W, self.b))

    def _cells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The undeformed filter: where its ``K`` cells lie, down and to the right of the output's pixel."""
        height, width = self.kernel
        before_y, before_x = (same_padding(k, k, 1)[0] for k in self.kernel)
        y = torch.arange(height, device=like.device, dtype=like.dtype) - before_y
        x = torch.arange(width, device=like.device, dtype=like.dtype) - before_x
        return y.repeat_interleave(width), x.repeat(height)

    def _check_offsets(self, image: Shape, offsets: Shape) -> None:
        n_offsets = 2 * self.kernel[0] * self.kernel[1]
        if len(offsets) != 4 or offsets[3] != n_offsets:
            raise ValueError(
                f"filters of {self.kernel[0]} x {self.kernel[1]} cells need offsets of shape (N, H, W, {n_offsets}), "
                f"got {offsets}"
            )
        if any(n != m for n, m in zip(image[:3], offsets[:3]) if n is not None and m is not None):
            raise ValueError(f"the image and its offsets must agree in N, H and W, got {image} and {offsets}")
        if 0 in image[1:3]:
            raise ValueError(f"the image has no pixels, got {image}")

    def extra_repr(self) -> str:
        n_in = "?" if is_lazy(self.W) else self.W.shape[1]
        return f"shape={[*self.kernel, n_in, self.n_filter]}, act={shown(self.act)}"


def _corners(at: Tensor, n: int) -> Corners:
    """What each position reads on an axis of length ``n`` with zeros around it."""
    before = at.floor()
    after, share = before + 1, at - before
    weights = (1 - share).masked_fill(_outside(before, n), 0), share.masked_fill(_outside(after, n), 0)
    return (pixel(before, n), pixel(after, n)), weights


def _outside(position: Tensor, n: int) -> Tensor:
    return (position < 0) | (position >= n)
