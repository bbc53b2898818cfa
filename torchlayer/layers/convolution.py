"""Convolutions over (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Network
from ._convolution import Convolution, split_shape
from .base import Activation
from .padding import inner, pair


class Conv2dLayer(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 4-D, has another number of channels, or is smaller than a VALID filter.

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
        kernel, n_in, n_out = split_shape(shape, 2, "n_in", "n_out")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, n_in, n_out, inner(strides, 4, "strides"), (1, 1), padding, act, recipes, name)


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
