"""Convolutions over (N, L, C) and (N, D, H, W, C), and what all convolutions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Network, Shape
from .base import Activation, Layer, fill, has_bias, shown
from .padding import check_padding, inner, pad_same

_CONVOLVE: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_AXES = {1: "(N, L, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}
_NAMES = {1: "length", 2: "height, width", 3: "depth, height, width"}


class _Convolution(Layer):
    """``act(conv(x, W) + b)`` over as many axes as the kernel has; the layers differ in how they are asked for."""

    def __init__(
        self,
        kernel: tuple[int, ...],
        n_filter: int,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        padding: str,
        act: Activation | None,
        recipes: tuple[Any, Mapping[str, Any] | None, Any, Mapping[str, Any] | None],
        name: str | None,
        n_in: int | None = None,
    ):
        super().__init__(name=name)
        self.act = act or identity
        self.kernel, self.n_filter, self.n_in = kernel, n_filter, n_in
        self.stride, self.dilation = stride, dilation
        self.padding = check_padding(padding)
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(recipes[2]) else None
        self._recipes: Any = recipes

    def filter_shape(self, n_in: int) -> tuple[int, ...]:
        """Of ``W``, given the input's channels."""
        return (self.n_filter, n_in, *self.kernel)

    def groups(self) -> int:
        """How many groups of channels are convolved apart."""
        return 1

    def build(self, *shapes: Shape) -> None:
        n_in = check_channels(shapes[0], len(self.kernel), self.n_in)
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill_filters(self.W, self.filter_shape(n_in), W_init, W_init_args)
        if self.b is not None:
            fill(self.b, (self.W.shape[0],), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        groups = self.groups()
        check_channels(tuple(x.shape), len(self.kernel), self.W.shape[1] * groups)
        y = convolve(x.movedim(-1, 1), self.W, self.b, self.stride, self.dilation, self.padding, groups)
        return self.act(y.movedim(1, -1))

    def extra_repr(self) -> str:
        channels = ["?", "?"] if is_lazy(self.W) else [self.W.shape[1] * self.groups(), self.W.shape[0]]
        parts = [f"shape={[*self.kernel, *channels]}", f"strides={list(self.stride)}", f"padding={self.padding}"]
        if set(self.dilation) != {1}:
            parts.append(f"rate={list(self.dilation)}")
        return ", ".join([*parts, f"act={shown(self.act)}"])


class Conv1dLayer(_Convolution):
    """A 1-D convolution: ``act(conv(x, W) + b)``.

    Args:
        act: applied to the result; ``None`` is the identity.
        shape: of the filters as TensorFlow writes it, ``[length, n_in, n_out]``; ``n_in`` may be ``None``.
        strides: how far the filter moves; later releases spell it ``stride``, which is taken too.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        use_cudnn_on_gpu, data_format: kept for their places; torch chooses its kernels, and data are ``"NWC"``.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.
        dilation_rate: the distance between the cells that a filter reads.

    Shape:
        ``(N, L, n_in) -> (N, L', n_out)`` with ``L' = ceil(L / s)`` under SAME and ``ceil((L - (k - 1) d) / s)`` under
        VALID; parameters ``W`` ``(n_out, n_in, length)``, torch's order, and ``b`` ``(n_out,)``.

    Raises:
        ValueError: the input is not 3-D, has another number of channels, or is shorter than a VALID filter.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_nd import Conv1dLayer
    >>> Conv1dLayer(tl.layers.InputLayer((None, 100, 8)), shape=[5, 8, 32], strides=2).outputs.shape
    (None, 50, 32)
    """

    npz_axes = {"W": (2, 1, 0)}  # the original's files hold (length, in, out)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = identity,
        shape: Sequence[int | None] = (5, 5, 1),
        strides: int = 1,
        padding: str = "SAME",
        use_cudnn_on_gpu: bool | None = None,
        data_format: str | None = None,
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        stride: int | None = None,
        dilation_rate: int = 1,
    ):
        if stride is not None and strides not in (1, stride):
            raise ValueError(f"strides and stride are one thing, got {strides} and {stride}; give one of them")
        if use_cudnn_on_gpu is False:
            raise ValueError("use_cudnn_on_gpu=False is torch.backends.cudnn.flags(enabled=False) in PyTorch")
        check_layout(data_format)
        kernel, n_in, n_out = split_shape(shape, 1, "n_in", "n_out")
        moves = numbers(strides if stride is None else stride, 1, "strides")
        apart = numbers(dilation_rate, 1, "dilation_rate")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, n_out, moves, apart, padding, act, recipes, name, n_in)


class Conv3dLayer(_Convolution):
    """A 3-D convolution: ``act(conv(x, W) + b)``. It moves by two unless told otherwise.

    Args:
        act: applied to the result; ``None`` is the identity.
        shape: of the filters as TensorFlow writes it, ``[depth, height, width, n_in, n_out]``; ``n_in`` may be
            ``None``.
        strides: ``[1, depth, height, width, 1]``.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, D, H, W, n_in) -> (N, D', H', W', n_out)`` with ``D' = ceil(D / s)`` under SAME and
        ``ceil((D - k + 1) / s)`` under VALID; parameters ``W`` ``(n_out, n_in, depth, height, width)``, torch's order,
        and ``b`` ``(n_out,)``.

    Raises:
        ValueError: the input is not 5-D, has another number of channels, or is smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_nd import Conv3dLayer
    >>> Conv3dLayer(tl.layers.InputLayer((None, 9, 16, 16, 3)), shape=[3, 3, 3, 3, 8]).outputs.shape
    (None, 5, 8, 8, 8)
    """

    npz_axes = {"W": (2, 3, 4, 1, 0)}  # the original's files hold (d, h, w, in, out)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = identity,
        shape: Sequence[int | None] = (2, 2, 2, 64, 128),
        strides: Sequence[int] = (1, 2, 2, 2, 1),
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        kernel, n_in, n_out = split_shape(shape, 3, "n_in", "n_out")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, n_out, inner(strides, 5, "strides"), (1, 1, 1), padding, act, recipes, name, n_in)


@overload
def Conv1d(net: Network, n_filter: int = ..., *args: Any, **kwargs: Any) -> Network: ...
@overload
def Conv1d(net: None = None, n_filter: int = ..., *args: Any, **kwargs: Any) -> Conv1dLayer: ...
def Conv1d(  # the original's name is a class's
    net: Network | None = None,
    n_filter: int = 32,
    filter_size: int = 5,
    stride: int = 1,
    dilation_rate: int = 1,
    act: Activation | None = None,
    padding: str = "SAME",
    data_format: str | None = None,
    W_init: Any = truncated_normal(stddev=0.02),
    b_init: Any = constant(0.0),
    W_init_args: Mapping[str, Any] | None = None,
    b_init_args: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Network | Conv1dLayer:
    """:class:`Conv1dLayer` in short: the number of filters and their size; the input channels are looked up.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.convolution_nd import Conv1d
    >>> Conv1d(tl.layers.InputLayer((None, 100, 8)), n_filter=32, filter_size=3, stride=2).outputs.shape
    (None, 50, 32)
    """
    shape = (*numbers(filter_size, 1, "filter_size"), None, n_filter)
    rest: Any = {"data_format": data_format, "W_init": W_init, "b_init": b_init}
    rest.update(W_init_args=W_init_args, b_init_args=b_init_args, name=name, dilation_rate=dilation_rate)
    return Conv1dLayer(net, act, shape, stride, padding, **rest)


def convolve(
    x: Tensor,
    W: Tensor,
    b: Tensor | None,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: str,
    groups: int,
) -> Tensor:
    """Convolve a channels-first ``x`` over the axes that ``W`` has, under TensorFlow's padding.

    Shape:
        ``x`` ``(N, n_in, ...)``, ``W`` ``(n_out, n_in / groups, ...)`` -> ``(N, n_out, ...)``.
    Raises:
        ValueError: an axis is empty, or shorter than the filter under VALID.
    """
    kernel, sizes = W.shape[2:], x.shape[2:]
    least = [(k - 1) * d + 1 if padding == "VALID" else 1 for k, d in zip(kernel, dilation)]
    if any(n < m for n, m in zip(sizes, least)):
        raise ValueError(
            f"under {padding} a filter of size {list(kernel)}, rate {list(dilation)}, needs an input of at least "
            f"{least}, got {list(sizes)}; give larger inputs, or smaller filters"
        )
    pads = [0] * len(kernel)
    if padding == "SAME":
        x, pads = pad_same(x, kernel, stride, dilation)
    return _CONVOLVE[len(kernel)](x, W, b, stride, pads, dilation, groups)


def fill_filters(
    W: nn.Parameter | nn.UninitializedParameter, shape: tuple[int, ...], init: Any, init_args: Mapping[str, Any] | None
) -> None:
    """Size and fill ``W``, its memory in the order of channels-last data, which spares cuDNN a copy a step."""
    fill(W, shape, init, init_args)
    W.data = W.data.movedim(1, -1).contiguous().movedim(-1, 1)


def check_channels(shape: Shape, rank: int, expected: int | None) -> int:
    """The channels of an input over ``rank`` axes.

    Raises:
        ValueError: the input is of another rank, or its channels are unknown or not as many as ``expected``.
    """
    if len(shape) != rank + 2:
        raise ValueError(
            f"a {rank}-D convolution needs an input of shape {_AXES[rank]}, got {shape}; stack a ReshapeLayer first"
        )
    n_in = shape[-1]
    if n_in is None:
        raise ValueError(
            f"a convolution needs to know the number of input channels, got {shape}; give InputLayer that length"
        )
    if expected is not None and n_in != expected:
        raise ValueError(f"these filters take {expected} channels, got an input of shape {shape} with {n_in}")
    return n_in


def check_layout(data_format: str | None) -> None:
    """Refuse channels-first data."""
    if data_format not in (None, "channels_last", "NWC", "NHWC", "NDHWC"):
        raise ValueError(f"data are channels_last, got data_format={data_format!r}; permute them before the layer")


def split_shape(shape: Sequence[int | None], rank: int, *channels: str) -> tuple[tuple[int, ...], Any, Any]:
    """TensorFlow's filter shape as ``(kernel, channels, channels)``; only ``n_in`` may be ``None``."""
    known = [n for n, what in zip(shape, [*["size"] * rank, *channels]) if what != "n_in" or n is not None]
    if len(shape) != rank + 2 or any(n is None or n < 1 for n in known):
        raise ValueError(
            f"shape is [{_NAMES[rank]}, {', '.join(channels)}] of positive numbers, only n_in may be None, "
            f"got {list(shape)}"
        )
    return tuple(n for n in shape[:rank] if n is not None), shape[-2], shape[-1]


def numbers(size: int | Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """``3`` or ``(3, 3)`` as one positive int an axis."""
    each = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(each) != rank or any(n < 1 for n in each):
        many = f" or {rank} of them, ({_NAMES[rank]})" if rank > 1 else ""
        raise ValueError(f"{what} takes a positive int{many}, got {size!r}")
    return each
