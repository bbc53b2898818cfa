"""Convolutions over (N, H, W, C) that skip cells or keep channels apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..activation import identity
from ..initializers import constant, glorot_uniform, truncated_normal
from ..network import Shape
from .base import Activation, Layer, fill, has_bias, shown
from .convolution_nd import _Convolution, check_channels, check_layout, convolve, fill_filters, numbers
from .padding import check_padding, pair


class AtrousConv2dLayer(_Convolution):
    """A 2-D convolution whose filters read every ``rate``-th cell, also called dilated.

    Args:
        n_filter: how many filters.
        filter_size: ``(height, width)``.
        rate: the distance between the cells that a filter reads, on both axes.
        act: applied to the result; ``None`` is the identity.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's, of the widened filter.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_filter)`` with ``H' = H`` under SAME and ``H - (k - 1) rate`` under VALID;
        parameters ``W`` ``(n_filter, n_in, height, width)`` and ``b`` ``(n_filter,)``.

    Raises:
        ValueError: the input is not 4-D, or smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import AtrousConv2dLayer
    >>> net = tl.layers.InputLayer((None, 28, 28, 3))
    >>> AtrousConv2dLayer(net, n_filter=8, rate=2, padding="VALID").outputs.shape
    (None, 24, 24, 8)
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # the original's files hold (h, w, in, out)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        n_filter: int = 32,
        filter_size: int | Sequence[int] = (3, 3),
        rate: int = 2,
        act: Activation | None = None,
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        kernel, apart = pair(filter_size, "filter_size"), pair(rate, "rate")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, _count(n_filter, "n_filter"), (1, 1), apart, padding, act, recipes, name)


class GroupConv2d(_Convolution):
    """A 2-D convolution in ``n_group`` parts, each from its share of the channels to its share of the filters.

    Args:
        n_filter: how many filters in all.
        filter_size: ``(height, width)``.
        strides: ``(height, width)``.
        n_group: how many parts; divides ``n_filter`` and the number of input channels.
        act: applied to the result; ``None`` is the identity.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_filter)``; parameters ``W`` ``(n_filter, n_in / n_group, height, width)`` and
        ``b`` ``(n_filter,)``.

    Raises:
        ValueError: ``n_group`` does not divide the channels, or the input is not 4-D or smaller than a VALID filter.

    Reference:
        Krizhevsky, Sutskever and Hinton 2012, https://papers.nips.cc/paper/4824.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import GroupConv2d
    >>> net = GroupConv2d(tl.layers.InputLayer((None, 28, 28, 4)), n_filter=6, n_group=2, name="two")
    >>> net.outputs.shape, tuple(net.two.W.shape)
    ((None, 14, 14, 6), (6, 2, 3, 3))
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        n_filter: int = 32,
        filter_size: int | Sequence[int] = (3, 3),
        strides: int | Sequence[int] = (2, 2),
        n_group: int = 2,
        act: Activation | None = None,
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        if _count(n_filter, "n_filter") % _count(n_group, "n_group"):
            raise ValueError(f"n_group divides n_filter, got n_group={n_group} and n_filter={n_filter}")
        kernel, moves = pair(filter_size, "filter_size"), pair(strides, "strides")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, n_filter, moves, (1, 1), padding, act, recipes, name)
        self.n_group = n_group

    def filter_shape(self, n_in: int) -> tuple[int, ...]:
        if n_in % self.n_group:
            raise ValueError(f"n_group divides the input's channels, got n_group={self.n_group} and {n_in} channels")
        return (self.n_filter, n_in // self.n_group, *self.kernel)

    def groups(self) -> int:
        return self.n_group

    def extra_repr(self) -> str:
        return f"n_group={self.n_group}, {super().extra_repr()}"


class DepthwiseConv2d(_Convolution):
    """A 2-D convolution of every channel by itself, into ``depth_multiplier`` channels each.

    Args:
        shape: of the filters, ``(height, width)``.
        strides: ``(height, width)``.
        act: applied to the result; ``None`` is the identity.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        dilation_rate: the distance between the cells that a filter reads.
        depth_multiplier: how many channels come from each.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_in * depth_multiplier)``, the channels that come from one lying together;
        parameters ``W`` ``(n_in * depth_multiplier, 1, height, width)`` and ``b``. TensorFlow's filters
        ``(height, width, n_in, depth_multiplier)`` are ``w.reshape(height, width, 1, -1)`` in a file.

    Raises:
        ValueError: the input is not 4-D, has another number of channels, or is smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import DepthwiseConv2d
    >>> DepthwiseConv2d(tl.layers.InputLayer((None, 28, 28, 3)), strides=2, depth_multiplier=2).outputs.shape
    (None, 14, 14, 6)
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        shape: int | Sequence[int] = (3, 3),
        strides: int | Sequence[int] = (1, 1),
        act: Activation | None = None,
        padding: str = "SAME",
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        kernel, moves = numbers(shape, 2, "shape"), pair(strides, "strides")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, 0, moves, pair(dilation_rate, "dilation_rate"), padding, act, recipes, name)
        self.depth_multiplier = _count(depth_multiplier, "depth_multiplier")

    def filter_shape(self, n_in: int) -> tuple[int, ...]:
        return (n_in * self.depth_multiplier, 1, *self.kernel)

    def groups(self) -> int:
        return self.W.shape[0] // self.depth_multiplier

    def extra_repr(self) -> str:
        return f"depth_multiplier={self.depth_multiplier}, {super().extra_repr()}"


class SeparableConv2dLayer(Layer):
    """A depthwise convolution, then one of size 1 that mixes the channels: ``act(mix(each(x)) + b)``.

    The original's class of this name held nothing; the arguments are those of its later ``SeparableConv2d``, whose
    padding is VALID unless told otherwise.

    Args:
        n_filter: how many channels come out.
        filter_size: ``(height, width)``.
        strides: ``(height, width)``.
        act: applied to the result; ``None`` is the identity.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        data_format: kept for its place; data are ``"channels_last"``.
        dilation_rate: the distance between the cells that a filter reads.
        depth_multiplier: how many channels come from each before they are mixed.
        depthwise_init, pointwise_init: an in-place initialiser, or the values; ``None`` is
            :func:`~torchlayer.initializers.glorot_uniform`.
        b_init: likewise; ``None`` leaves the bias out.
        W_init_args: keyword arguments for ``depthwise_init`` and ``pointwise_init``.
        b_init_args: keyword arguments for ``b_init``.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_filter)``; parameters ``W_depthwise``
        ``(n_in * depth_multiplier, 1, height, width)``, ``W_pointwise`` ``(n_filter, n_in * depth_multiplier, 1, 1)``
        and ``b`` ``(n_filter,)``.

    Raises:
        ValueError: the input is not 4-D, has another number of channels, or is smaller than a VALID filter.

    Reference:
        Chollet 2017, arXiv:1610.02357.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import SeparableConv2dLayer
    >>> SeparableConv2dLayer(tl.layers.InputLayer((None, 28, 28, 3)), n_filter=16).outputs.shape
    (None, 26, 26, 16)
    """

    npz_axes = {"W_depthwise": (2, 3, 1, 0), "W_pointwise": (2, 3, 1, 0)}  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        n_filter: int = 100,
        filter_size: int | Sequence[int] = (3, 3),
        strides: int | Sequence[int] = (1, 1),
        act: Activation | None = None,
        padding: str = "VALID",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        depth_multiplier: int = 1,
        depthwise_init: Any = None,
        pointwise_init: Any = None,
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_layout(data_format)
        self.act = act or identity
        self.n_filter = _count(n_filter, "n_filter")
        self.depth_multiplier = _count(depth_multiplier, "depth_multiplier")
        self.kernel, self.stride = pair(filter_size, "filter_size"), pair(strides, "strides")
        self.dilation = pair(dilation_rate, "dilation_rate")
        self.padding = check_padding(padding)
        self.W_depthwise = nn.UninitializedParameter()
        self.W_pointwise = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(b_init) else None
        inits = [glorot_uniform() if init is None else init for init in (depthwise_init, pointwise_init)]
        self._recipes: Any = (*inits, W_init_args, b_init, b_init_args)

    def build(self, *shapes: Shape) -> None:
        n_between = check_channels(shapes[0], 2, None) * self.depth_multiplier
        depthwise_init, pointwise_init, W_init_args, b_init, b_init_args = self._recipes
        fill_filters(self.W_depthwise, (n_between, 1, *self.kernel), depthwise_init, W_init_args)
        fill_filters(self.W_pointwise, (self.n_filter, n_between, 1, 1), pointwise_init, W_init_args)
        if self.b is not None:
            fill(self.b, (self.n_filter,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        n_in = self.W_depthwise.shape[0] // self.depth_multiplier
        check_channels(tuple(x.shape), 2, n_in)
        x = x.permute(0, 3, 1, 2)  # (N, C, H, W)
        x = convolve(x, self.W_depthwise, None, self.stride, self.dilation, self.padding, n_in)
        y = convolve(x, self.W_pointwise, self.b, (1, 1), (1, 1), "VALID", 1)
        return self.act(y.permute(0, 2, 3, 1))  # (N, H, W, C)

    def extra_repr(self) -> str:
        return (
            f"n_filter={self.n_filter}, filter_size={self.kernel}, strides={self.stride}, padding={self.padding}, "
            f"dilation_rate={self.dilation}, depth_multiplier={self.depth_multiplier}, act={shown(self.act)}"
        )


def _count(n: int, what: str) -> int:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"{what} is a positive int, got {n!r}")
    return n
