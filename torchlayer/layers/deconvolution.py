"""Transposed convolutions over (N, H, W, C) and (N, D, H, W, C): the gradients of convolutions, run as layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..initializers import Initializer, constant, truncated_normal
from ..network import Network, Shape
from .base import Activation, Layer, fill, has_bias, shown
from .convolution_nd import check_channels, fill_filters, split_shape
from .padding import check_padding, inner, pair

_TRANSPOSED: Any = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Deconvolution(Layer):
    """``act(conv_transpose(x, W) + b)`` over as many axes as the kernel has, cut to the size asked for."""

    def __init__(
        self,
        rank: int,
        shape: Sequence[int | None],
        output_shape: Sequence[int | None] | None,
        strides: Sequence[int],
        padding: str,
        act: Activation | None,
        recipes: tuple[Any, Mapping[str, Any] | None, Any, Mapping[str, Any] | None],
        name: str | None,
    ):
        super().__init__(name=name)
        self.act = act or identity
        self.kernel, self.n_filter, self.n_in = split_shape(shape, rank, "n_out", "n_in")
        self.stride = inner(strides, rank + 2, "strides")
        self.padding = check_padding(padding)
        wanted = (None,) * (rank + 2) if output_shape is None else tuple(output_shape)
        if len(wanted) != rank + 2 or wanted[-1] not in (None, self.n_filter):
            raise ValueError(
                f"output_shape is [N, {'D, ' * (rank == 3)}H, W, {self.n_filter}] (None where it follows the input), "
                f"with the output channels of shape={list(shape)}, got {list(wanted)}"
            )
        self.out_size = wanted[1:-1]
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(recipes[2]) else None
        self._recipes: Any = recipes

    def build(self, *shapes: Shape) -> None:
        n_in = check_channels(shapes[0], len(self.kernel), self.n_in)
        if any(n is None and out is not None for n, out in zip(shapes[0][1:-1], self.out_size)):
            raise ValueError(
                f"an output size of {list(self.out_size)} fits few input sizes and the input's is unknown, "
                f"got {shapes[0]}; leave that size None, or give InputLayer that length"
            )
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill_filters(self.W, (n_in, self.n_filter, *self.kernel), W_init, W_init_args)
        if self.b is not None:
            fill(self.b, (self.n_filter,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        """Run torch's op, which cuts alike on both sides or adds zeros after, and cut SAME's odd cell off its end."""
        check_channels(tuple(x.shape), len(self.kernel), self.W.shape[0])
        y, before, after, outs = x.movedim(-1, 1), [], [], []
        for n, k, s, asked in zip(y.shape[2:], self.kernel, self.stride, self.out_size):
            out = _output_size(n, k, s, self.padding, asked)
            surplus = (n - 1) * s + k - out  # what the whole transposed convolution has more than is asked for
            before.append(max(surplus, 0) // 2)
            after.append(max(-surplus, 0))
            outs.append(out)
        y = _TRANSPOSED[len(outs)](y, self.W, self.b, self.stride, before, after)
        for axis, out in enumerate(outs, start=2):
            if y.shape[axis] != out:
                y = y.narrow(axis, 0, out)
        return self.act(y.movedim(1, -1))

    def extra_repr(self) -> str:
        filters = [*self.kernel, self.n_filter, "?" if is_lazy(self.W) else self.W.shape[0]]
        size = "" if set(self.out_size) == {None} else f"out_size={list(self.out_size)}, "
        return f"shape={filters}, {size}strides={list(self.stride)}, padding={self.padding}, act={shown(self.act)}"


class DeConv2dLayer(_Deconvolution):
    """A 2-D transposed convolution: ``act(conv_transpose(x, W) + b)``.

    Several output sizes lead back to one input size; ``output_shape`` chooses.

    Args:
        act: applied to the result; ``None`` is the identity.
        shape: of the filters as TensorFlow writes it, ``[height, width, n_out, n_in]``, the output's channels first;
            ``n_in`` may be ``None``.
        output_shape: ``[N, H', W', n_out]``, where all may be ``None``. The batch is the input's, whatever it says.
        strides: ``[1, height, width, 1]``.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's, of the convolution whose gradient this is.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_out)``. Under SAME ``H'`` is from ``(H - 1) s + 1`` to ``H s``, which is what
        ``None`` means; under VALID from ``(H - 1) s + k``, which is what ``None`` means, to ``s - 1`` more. Parameters
        ``W`` ``(n_in, n_out, height, width)``, torch's order, and ``b`` ``(n_out,)``.

    Raises:
        ValueError: the output size is impossible; the input is not 4-D or has another number of channels.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.deconvolution import DeConv2dLayer
    >>> net = tl.layers.InputLayer((None, 7, 7, 16))
    >>> DeConv2dLayer(net, shape=[5, 5, 3, 16], output_shape=[None, 13, 14, 3]).outputs.shape
    (None, 13, 14, 3)
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # the original's files hold (h, w, out, in)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = identity,
        shape: Sequence[int | None] = (3, 3, 128, 256),
        output_shape: Sequence[int | None] | None = None,
        strides: Sequence[int] = (1, 2, 2, 1),
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(2, shape, output_shape, strides, padding, act, recipes, name)


class DeConv3dLayer(_Deconvolution):
    """A 3-D transposed convolution: :class:`DeConv2dLayer` with a depth.

    Args:
        shape: ``[depth, height, width, n_out, n_in]``; ``n_in`` may be ``None``.
        output_shape: ``[N, D', H', W', n_out]``, where all may be ``None``.
        strides: ``[1, depth, height, width, 1]``.

    Shape:
        ``(N, D, H, W, n_in) -> (N, D', H', W', n_out)``; parameters ``W`` ``(n_in, n_out, depth, height, width)``,
        torch's order, and ``b`` ``(n_out,)``.

    Raises:
        ValueError: the output size is impossible; the input is not 5-D or has another number of channels.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.deconvolution import DeConv3dLayer
    >>> DeConv3dLayer(tl.layers.InputLayer((None, 3, 8, 8, 4)), shape=[2, 2, 2, 6, 4]).outputs.shape
    (None, 6, 16, 16, 6)
    """

    npz_axes = {"W": (2, 3, 4, 1, 0)}  # the original's files hold (d, h, w, out, in)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = identity,
        shape: Sequence[int | None] = (2, 2, 2, 128, 256),
        output_shape: Sequence[int | None] | None = None,
        strides: Sequence[int] = (1, 2, 2, 2, 1),
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        recipes = (W_init, W_init_args, b_init, b_init_args)
        super().__init__(3, shape, output_shape, strides, padding, act, recipes, name)


@overload
def DeConv2d(net: Network, n_out_channel: int = ..., *args: Any, **kwargs: Any) -> Network: ...
@overload
def DeConv2d(net: None = None, n_out_channel: int = ..., *args: Any, **kwargs: Any) -> DeConv2dLayer: ...
def DeConv2d(  # the original's name is a class's
    net: Network | None = None,
    n_out_channel: int = 32,
    filter_size: int | Sequence[int] = (3, 3),
    out_size: int | Sequence[int] | None = None,
    strides: int | Sequence[int] = (2, 2),
    padding: str = "SAME",
    batch_size: int | None = None,
    act: Activation | None = None,
    W_init: Any = truncated_normal(stddev=0.02),
    b_init: Any = constant(0.0),
    W_init_args: Mapping[str, Any] | None = None,
    b_init_args: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Network | DeConv2dLayer:
    """:class:`DeConv2dLayer` in short: the output's channels and size; the input channels are looked up.

    Args:
        out_size: ``(height, width)``; ``None`` (the original's 30 fitted few inputs) is ``strides`` times the input's
            under SAME.
        batch_size: the batch is the input's, whatever it says.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.deconvolution import DeConv2d
    >>> net = tl.layers.InputLayer((None, 15, 15, 64))
    >>> DeConv2d(net, 32).outputs.shape, DeConv2d(net, 32, out_size=29).outputs.shape
    ((None, 30, 30, 32), (None, 29, 29, 32))
    """
    shape = (*pair(filter_size, "filter_size"), n_out_channel, None)
    size = (None, None) if out_size is None else pair(out_size, "out_size")
    stride = (1, *pair(strides, "strides"), 1)
    output_shape = (batch_size, *size, n_out_channel)
    return DeConv2dLayer(net, act, shape, output_shape, stride, padding, W_init, b_init, W_init_args, b_init_args, name)


def deconv2d_bilinear_upsampling_initializer(shape: Sequence[int]) -> Initializer:
    """``W_init`` of a :class:`DeConv2dLayer` that enlarges an image bilinearly, each channel by itself.

    To enlarge by ``f``, take filters of size ``2 f - f % 2`` and strides of ``f``.

    Args:
        shape: of the filters as :class:`DeConv2dLayer` takes it, ``[size, size, n_out, n_in]``. Input channels beyond
            ``n_out`` are left out.

    Raises:
        ValueError: the filter is not square, or ``n_out`` is greater than ``n_in``; when called on a tensor, that it
            has another shape than ``(n_in, n_out, size, size)``.

    Reference:
        Long, Shelhamer and Darrell 2015, arXiv:1411.4038.

    >>> import torch
    >>> init = deconv2d_bilinear_upsampling_initializer([3, 3, 1, 1])
    >>> init(torch.empty(1, 1, 3, 3))[0, 0]
    tensor([[0.2500, 0.5000, 0.2500],
            [0.5000, 1.0000, 0.5000],
            [0.2500, 0.5000, 0.2500]])
    """
    (size, width), n_out, n_in = split_shape(shape, 2, "n_out", "n_in")
    if size != width:
        raise ValueError(f"bilinear filters are square, got a shape of {list(shape)}")
    if n_in is None or n_out > n_in:
        raise ValueError(f"bilinear filters take each output from one input channel, got {n_out} from {n_in}")
    return Initializer(deconv2d_bilinear_upsampling_initializer, _fill_bilinear, shape=tuple(shape))


def _fill_bilinear(tensor: Tensor, shape: tuple[int, ...]) -> None:
    size, _, n_out, n_in = shape
    if tuple(tensor.shape) != (n_in, n_out, size, size):
        raise ValueError(
            f"these bilinear filters have the shape {list(shape)}, for a parameter of {(n_in, n_out, size, size)}, "
            f"got one of {tuple(tensor.shape)}"
        )
    half = (size + 1) // 2
    centre = half - 1 if size % 2 else half - 0.5
    profile = 1 - (torch.arange(size, dtype=tensor.dtype, device=tensor.device) - centre).abs() / half
    tensor.zero_()
    each = torch.arange(n_out, device=tensor.device)
    tensor[each, each] = torch.outer(profile, profile)


def _output_size(n: int, kernel: int, stride: int, padding: str, asked: int | None) -> int:
    """The length of an axis afterwards: the one asked for, if a convolution makes ``n`` of it."""
    if padding == "SAME":
        low, high = (n - 1) * stride + 1, n * stride
        default = high
    else:
        low = default = (n - 1) * stride + kernel
        high = low + stride - 1
    if n < 1:
        raise ValueError(f"a transposed convolution needs at least one cell along each axis, got {n}")
    if asked is None:
        return default
    if not low <= asked <= high:
        raise ValueError(
            f"an output size of {asked} is impossible for an input of size {n}, a filter of size {kernel} and a "
            f"stride of {stride} under {padding}; give one from {low} to {high}, or None for {default}"
        )
    return asked
