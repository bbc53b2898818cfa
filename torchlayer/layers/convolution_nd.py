"""Convolutions over (N, L, C) and (N, D, H, W, C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Network
from ._convolution import Convolution, check_layout, split_shape
from .base import Activation
from .padding import inner, numbers


class Conv1dLayer(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 3-D, has another number of channels, or is shorter than a VALID filter.

    >>> import torchlayer as tl
    >>> tl.layers.Conv1dLayer(tl.layers.InputLayer((None, 100, 8)), shape=[5, 8, 32], strides=2).outputs.shape
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
        super().__init__(kernel, n_in, n_out, moves, apart, padding, act, recipes, name)


class Conv3dLayer(Convolution):
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
        TypeError: the input is not floating-point.
        ValueError: the input is not 5-D, has another number of channels, or is smaller than a VALID filter.

    >>> import torchlayer as tl
    >>> tl.layers.Conv3dLayer(tl.layers.InputLayer((None, 9, 16, 16, 3)), shape=[3, 3, 3, 3, 8]).outputs.shape
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
        moves = inner(strides, 5, "strides")
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(kernel, n_in, n_out, moves, (1, 1, 1), padding, act, recipes, name)


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
    >>> tl.layers.Conv1d(tl.layers.InputLayer((None, 100, 8)), n_filter=32, filter_size=3, stride=2).outputs.shape
    (None, 50, 32)
    """
    shape = (*numbers(filter_size, 1, "filter_size"), None, n_filter)
    rest: Any = {"data_format": data_format, "W_init": W_init, "b_init": b_init}
    rest.update(W_init_args=W_init_args, b_init_args=b_init_args, name=name, dilation_rate=dilation_rate)
    return Conv1dLayer(net, act, shape, stride, padding, **rest)
