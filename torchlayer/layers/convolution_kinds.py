"""Convolutions that skip cells or keep channels apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import Tensor, nn

from ..initializers import constant, glorot_uniform, truncated_normal
from ..network import Network
from ._convolution import CONVOLVE, Convolution, check_layout, count
from .base import Activation
from .convolution_nd import Conv1d, Conv1dLayer
from .padding import numbers, pair


@overload
def AtrousConv1dLayer(net: Network, n_filter: int = ..., *args: Any, **kwargs: Any) -> Network: ...
@overload
def AtrousConv1dLayer(net: None = None, n_filter: int = ..., *args: Any, **kwargs: Any) -> Conv1dLayer: ...
def AtrousConv1dLayer(  # a function in 1.11 too
    net: Network | None = None,
    n_filter: int = 32,
    filter_size: int = 2,
    stride: int = 1,
    dilation: int = 1,
    act: Activation | None = None,
    padding: str = "SAME",
    data_format: str | None = None,
    W_init: Any = truncated_normal(stddev=0.02),
    b_init: Any = constant(0.0),
    W_init_args: Mapping[str, Any] | None = None,
    b_init_args: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Network | Conv1dLayer:
    """A :class:`Conv1dLayer` whose filters read every ``dilation``-th cell; the input channels are looked up.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import AtrousConv1dLayer
    >>> net = tl.layers.InputLayer((None, 100, 8))
    >>> AtrousConv1dLayer(net, n_filter=32, filter_size=3, dilation=4, padding="VALID").outputs.shape
    (None, 92, 32)
    """
    (rate,) = numbers(dilation, 1, "dilation")
    inits: Any = {"W_init": W_init, "b_init": b_init, "W_init_args": W_init_args, "b_init_args": b_init_args}
    return Conv1d(net, n_filter, filter_size, stride, rate, act, padding, data_format, **inits, name=name)


class AtrousConv2dLayer(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 4-D, or smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 3))
    >>> tl.layers.AtrousConv2dLayer(net, n_filter=8, rate=2, padding="VALID").outputs.shape
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
        super().__init__(kernel, None, count(n_filter, "n_filter"), (1, 1), apart, padding, act, recipes, name)


class GroupConv2d(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: ``n_group`` does not divide the channels, or the input is not 4-D or smaller than a VALID filter.

    Reference:
        Krizhevsky, Sutskever and Hinton 2012, https://papers.nips.cc/paper/4824.

    >>> import torchlayer as tl
    >>> net = tl.layers.GroupConv2d(tl.layers.InputLayer((None, 28, 28, 4)), n_filter=6, n_group=2, name="two")
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
        if count(n_filter, "n_filter") % count(n_group, "n_group"):
            raise ValueError(f"n_group divides n_filter, got n_group={n_group} and n_filter={n_filter}")
        kernel, moves = pair(filter_size, "filter_size"), pair(strides, "strides")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, None, n_filter, moves, (1, 1), padding, act, recipes, name)
        self.n_group = n_group

    def filter_shapes(self, n_in: int) -> list[tuple[int, ...]]:
        if n_in % self.n_group:
            raise ValueError(f"n_group divides the input's channels, got n_group={self.n_group} and {n_in} channels")
        return [(self.n_filter, n_in // self.n_group, *self.kernel)]

    def groups(self) -> int:
        return self.n_group

    def extra_repr(self) -> str:
        return f"n_group={self.n_group}, {super().extra_repr()}"


class DepthwiseConv2d(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 4-D, has another number of channels, or is smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> tl.layers.DepthwiseConv2d(tl.layers.InputLayer((None, 28, 28, 3)), strides=2, depth_multiplier=2).outputs.shape
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
        kernel, moves = pair(shape, "shape"), pair(strides, "strides")
        apart = pair(dilation_rate, "dilation_rate")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, None, 0, moves, apart, padding, act, recipes, name)
        self.depth_multiplier = count(depth_multiplier, "depth_multiplier")

    def filter_shapes(self, n_in: int) -> list[tuple[int, ...]]:
        return [(n_in * self.depth_multiplier, 1, *self.kernel)]

    def groups(self) -> int:
        return self.W.shape[0] // self.depth_multiplier

    def extra_repr(self) -> str:
        return f"depth_multiplier={self.depth_multiplier}, {super().extra_repr()}"


class _Separable(Convolution):
    """A depthwise convolution, then one of size 1 that mixes the channels, over as many axes as asked."""

    W_depthwise: nn.Parameter
    W_pointwise: nn.Parameter

    def __init__(
        self,
        rank: int,
        n_filter: int,
        filter_size: int | Sequence[int],
        strides: int | Sequence[int],
        act: Activation | None,
        padding: str,
        data_format: str | None,
        dilation_rate: int | Sequence[int],
        depth_multiplier: int,
        recipes: tuple[Any, ...],
        name: str | None,
    ):
        check_layout(data_format)
        kernel, moves = numbers(filter_size, rank, "filter_size"), numbers(strides, rank, "strides")
        apart, n_out = numbers(dilation_rate, rank, "dilation_rate"), count(n_filter, "n_filter")
        recipes = (*(glorot_uniform() if init is None else init for init in recipes[:2]), *recipes[2:])
        super().__init__(kernel, None, n_out, moves, apart, padding, act, recipes, name)
        self.depth_multiplier = count(depth_multiplier, "depth_multiplier")

    def filter_shapes(self, n_in: int) -> list[tuple[int, ...]]:
        n_between = n_in * self.depth_multiplier
        return [(n_between, 1, *self.kernel), (self.n_filter, n_between, *[1] * len(self.kernel))]

    def n_channels(self) -> int:
        return self.W_depthwise.shape[0] // self.depth_multiplier

    def convolve(self, x: Tensor, pads: Any) -> Tensor:
        op, ones, zeros = CONVOLVE[len(self.kernel)], [1] * len(self.kernel), [0] * len(self.kernel)
        each = op(x, self.W_depthwise, None, self.stride, pads, self.dilation, self.n_channels())
        return op(each, self.W_pointwise, self.b, ones, zeros, ones, 1)

    def extra_repr(self) -> str:
        return f"depth_multiplier={self.depth_multiplier}, {super().extra_repr()}"


class SeparableConv2dLayer(_Separable):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 4-D, has another number of channels, or is smaller than a VALID filter.

    Reference:
        Chollet 2017, arXiv:1610.02357.

    >>> import torchlayer as tl
    >>> tl.layers.SeparableConv2dLayer(tl.layers.InputLayer((None, 28, 28, 3)), n_filter=16).outputs.shape
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
        recipes = (depthwise_init, pointwise_init, W_init_args, b_init, b_init_args)
        super().__init__(
            2, n_filter, filter_size, strides, act, padding, data_format, dilation_rate, depth_multiplier, recipes, name
        )


SeparableConv2d = SeparableConv2dLayer  # its name in 1.11


class SeparableConv1d(_Separable):
    """A depthwise convolution over one axis, then one of size 1 that mixes the channels.

    Its arguments are those of :class:`SeparableConv2dLayer`, with one number for an axis.

    Shape:
        ``(N, L, n_in) -> (N, L', n_filter)``; parameters ``W_depthwise`` ``(n_in * depth_multiplier, 1, length)``,
        ``W_pointwise`` ``(n_filter, n_in * depth_multiplier, 1)`` and ``b`` ``(n_filter,)``.

    Raises:
        TypeError: the input is not floating-point.
        ValueError: the input is not 3-D, has another number of channels, or is shorter than a VALID filter.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_kinds import SeparableConv1d
    >>> SeparableConv1d(tl.layers.InputLayer((None, 100, 8)), n_filter=16).outputs.shape
    (None, 98, 16)
    """

    npz_axes = {"W_depthwise": (2, 1, 0), "W_pointwise": (2, 1, 0)}  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        n_filter: int = 100,
        filter_size: int = 3,
        strides: int = 1,
        act: Activation | None = None,
        padding: str = "VALID",
        data_format: str | None = None,
        dilation_rate: int = 1,
        depth_multiplier: int = 1,
        depthwise_init: Any = None,
        pointwise_init: Any = None,
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        recipes = (depthwise_init, pointwise_init, W_init_args, b_init, b_init_args)
        super().__init__(
            1, n_filter, filter_size, strides, act, padding, data_format, dilation_rate, depth_multiplier, recipes, name
        )
