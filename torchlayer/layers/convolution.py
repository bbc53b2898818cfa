"""Convolutions over (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Network, Shape
from .base import Activation, Layer, fill, has_bias, shown
from .padding import check_padding, inner, pad_same, pair


class Conv2dLayer(Layer):
    """A 2-D convolution: ``act(conv(x, W) + b)``.

    Args:
        act: applied to the result; ``None`` is the identity.
        shape: of the filters as TensorFlow writes it, ``[height, width, n_in, n_out]``; ``n_in`` may be ``None``.
        strides: ``[1, height, width, 1]``.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_out)`` with ``H' = ceil(H / s)`` under SAME and ``ceil((H - k + 1) / s)``
        under VALID; parameters ``W`` ``(n_out, n_in, height, width)``, torch's order, and ``b`` ``(n_out,)``.

    Raises:
        ValueError: the input is not 4-D or has another number of channels.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 1))
    >>> net = tl.layers.Conv2dLayer(net, act=torch.relu, shape=[5, 5, 1, 32], name="cnn1")
    >>> net.outputs.shape, tuple(net.cnn1.W.shape)
    ((None, 28, 28, 32), (32, 1, 5, 5))
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # the original's files hold (h, w, in, out)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = identity,
        shape: Sequence[int | None] = (5, 5, 1, 100),
        strides: Sequence[int] = (1, 1, 1, 1),
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if len(shape) != 4 or any(n is not None and n < 1 for n in shape):
            raise ValueError(f"shape is [height, width, n_in, n_out] of positive numbers, got {list(shape)}")
        self.act = act or identity
        height, width, self.n_in, n_filter = shape
        if height is None or width is None or n_filter is None:
            raise ValueError(f"only n_in may be None in shape=[height, width, n_in, n_out], got {list(shape)}")
        self.kernel, self.n_filter = (height, width), n_filter
        self.stride = inner(strides, 4, "strides")
        self.padding = check_padding(padding)
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(b_init) else None
        self._recipes: Any = (W_init, W_init_args, b_init, b_init_args)

    def build(self, *shapes: Shape) -> None:
        n_in = _channels(shapes[0], self.n_in)
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill(self.W, (self.n_filter, n_in, *self.kernel), W_init, W_init_args)
        # (N, H, W, C) data reach cuDNN as channels_last; filters in the same order spare it a copy a step
        self.W.data = self.W.data.contiguous(memory_format=torch.channels_last)
        if self.b is not None:
            fill(self.b, (self.n_filter,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[3] != self.W.shape[1]:
            _channels(tuple(x.shape), self.W.shape[1])
        x, padding = x.permute(0, 3, 1, 2), [0, 0]  # (N, C, H, W)
        if self.padding == "SAME":
            x, padding = pad_same(x, self.kernel, self.stride, (1, 1))
        y = F.conv2d(x, self.W, self.b, self.stride, padding)
        return self.act(y.permute(0, 2, 3, 1))  # (N, H, W, C)

    def extra_repr(self) -> str:
        filters = [*self.kernel, "?" if is_lazy(self.W) else self.W.shape[1], self.n_filter]
        return f"shape={filters}, strides={list(self.stride)}, padding={self.padding}, act={shown(self.act)}"


@overload
def Conv2d(net: Network, n_filter: int = ..., *args: Any, **kwargs: Any) -> Network: ...
@overload
def Conv2d(net: None = None, n_filter: int = ..., *args: Any, **kwargs: Any) -> Conv2dLayer: ...
def Conv2d(  # the original's name is a class's
    net: Network | None = None,
    n_filter: int = 32,
    filter_size: int | Sequence[int] = (3, 3),
    strides: int | Sequence[int] = (1, 1),
    act: Activation | None = None,
    padding: str = "SAME",
    W_init: Any = truncated_normal(stddev=0.02),
    b_init: Any = constant(0.0),
    W_init_args: Mapping[str, Any] | None = None,
    b_init_args: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Network | Conv2dLayer:
    """:class:`Conv2dLayer` in short: the number of filters and their size; the input channels are looked up.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 1))
    >>> tl.layers.Conv2d(net, n_filter=32, filter_size=5, strides=2).outputs.shape
    (None, 14, 14, 32)
    """
    shape = (*pair(filter_size, "filter_size"), None, n_filter)
    stride = (1, *pair(strides, "strides"), 1)
    return Conv2dLayer(net, act, shape, stride, padding, W_init, b_init, W_init_args, b_init_args, name)


def _channels(shape: Shape, expected: int | None) -> int:
    if len(shape) != 4:
        raise ValueError(
            f"a 2-D convolution needs an input of shape (N, H, W, C), got {shape}; stack a ReshapeLayer first"
        )
    if shape[3] is None:
        raise ValueError(f"a convolution needs to know the number of input channels, got {shape}")
    if expected is not None and shape[3] != expected:
        raise ValueError(f"these filters take {expected} channels, got an input of shape {shape} with {shape[3]}")
    return shape[3]
