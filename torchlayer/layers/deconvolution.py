"""Transposed convolutions over (N, H, W, C) and (N, D, H, W, C): the gradients of convolutions, run as layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..initializers import Initializer, constant, truncated_normal
from ..network import Network, Shape
from ._convolution import Convolution, check_channels, split_shape
from .base import Activation
from .padding import inner, numbers, pair

_TRANSPOSED: Any = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _Deconvolution(Convolution):
    """``act(conv_transpose(x, W) + b)`` over as many axes as the kernel has, cut to the size asked for."""

    def __init__(
        self,
        rank: int,
        shape: Sequence[int | None],
        output_shape: Sequence[int | None] | None,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        padding: str,
        act: Activation | None,
        recipes: tuple[Any, ...],
        name: str | None,
    ):
        kernel, n_out, n_in = split_shape(shape, rank, "n_out", "n_in")
        super().__init__(kernel, n_in, n_out, stride, dilation, padding, act, recipes, name)
        wanted = (None,) * (rank + 2) if output_shape is None else tuple(output_shape)
        if len(wanted) != rank + 2 or wanted[-1] not in (None, n_out):
            raise ValueError(
                f"output_shape is [N, {'D, ' * (rank == 3)}H, W, {n_out}] (None where it follows the input), "
                f"with the output channels of shape={list(shape)}, got {list(wanted)}"
            )
        self.out_size = wanted[1:-1]
        cuts = self._cuts((1,) * rank) if set(self.out_size) == {None} else None
        self._always = cuts if cuts and not any(cuts[0]) else None  # where no size decides how to cut

    def filter_shapes(self, n_in: int) -> list[tuple[int, ...]]:
        return [(n_in, self.n_filter, *self.kernel)]

    def n_channels(self) -> int:
        return self.W.shape[0]

    def least_sizes(self) -> list[int]:
        return [1] * len(self.kernel)

    def build(self, *shapes: Shape) -> None:
        check_channels(shapes[0], len(self.kernel), self.n_in)
        if any(n is None and out is not None for n, out in zip(shapes[0][1:-1], self.out_size)):
            raise ValueError(
                f"an output size of {list(self.out_size)} fits few input sizes and the input's is unknown, "
                f"got {shapes[0]}; leave that size None, or give InputLayer that length"
            )
        super().build(*shapes)

    def padded(self, x: Tensor) -> tuple[Tensor, Any]:
        front, before, after = self._always or self._cuts(x.shape[2:])
        if any(front):
            x = F.pad(x, [n for cells in reversed(front) for n in (cells, 0)])
        return x, (before, after)

    def _cuts(self, sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """For each axis the zeros to put before the input, and torch's ``padding`` and ``output_padding``."""
        cuts = [
            _cut((n - 1) * s + reach - _output_size(n, reach, s, self.padding, asked), s)
            for n, reach, s, asked in zip(sizes, self._reach, self.stride, self.out_size)
        ]
        return tuple(zip(*cuts))

    def convolve(self, x: Tensor, pads: Any) -> Tensor:
        before, after = pads
        op = _TRANSPOSED[len(self.kernel)]
        return op(x, self.W, self.b, self.stride, before, after, 1, self.dilation)

    def extra_repr(self) -> str:
        n_in = self.n_in if is_lazy(self.W) else self.W.shape[0]
        size = [] if set(self.out_size) == {None} else [f"out_size={list(self.out_size)}"]
        return self._shown([*self.kernel, self.n_filter, n_in or "?"], *size)


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
        TypeError: the input is not floating-point.
        ValueError: the output size is impossible; the input is not 4-D or has another number of channels.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 7, 7, 16))
    >>> tl.layers.DeConv2dLayer(net, shape=[5, 5, 3, 16], output_shape=[None, 13, 14, 3]).outputs.shape
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
        moves, recipes = inner(strides, 4, "strides"), (W_init, W_init_args, b_init, b_init_args)
        super().__init__(2, shape, output_shape, moves, (1, 1), padding, act, recipes, name)


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
        TypeError: the input is not floating-point.
        ValueError: the output size is impossible; the input is not 5-D or has another number of channels.

    >>> import torchlayer as tl
    >>> tl.layers.DeConv3dLayer(tl.layers.InputLayer((None, 3, 8, 8, 4)), shape=[2, 2, 2, 6, 4]).outputs.shape
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
        moves, recipes = inner(strides, 5, "strides"), (W_init, W_init_args, b_init, b_init_args)
        super().__init__(3, shape, output_shape, moves, (1, 1, 1), padding, act, recipes, name)


class AtrousDeConv2dLayer(_Deconvolution):
    """The transpose of :class:`AtrousConv2dLayer`: a transposed convolution whose filters write every ``rate``-th cell.

    Args:
        shape: ``[height, width, n_out, n_in]``, the output's channels first; ``n_in`` may be ``None``.
        output_shape: ``[N, H', W', n_out]``, where all may be ``None``; it follows from the input's.
        rate: the distance between the cells that a filter writes, on both axes.
        act: applied to the result; ``None`` is the identity.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's, of the convolution whose gradient this is.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, H, W, n_in) -> (N, H', W', n_out)`` with ``H' = H`` under SAME and ``H + (k - 1) rate`` under VALID;
        parameters ``W`` ``(n_in, n_out, height, width)``, torch's order, and ``b`` ``(n_out,)``.

    Raises:
        TypeError: the input is not floating-point.
        ValueError: the output size is impossible; the input is not 4-D or has another number of channels.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.deconvolution import AtrousDeConv2dLayer
    >>> net = tl.layers.InputLayer((None, 24, 24, 8))
    >>> AtrousDeConv2dLayer(net, shape=[3, 3, 4, 8], rate=2, padding="VALID").outputs.shape
    (None, 28, 28, 4)
    """

    npz_axes = {"W": (2, 3, 1, 0)}  # later files hold (h, w, out, in)  # noqa: RUF012

    def __init__(
        self,
        layer: None = None,
        shape: Sequence[int | None] = (3, 3, 128, 256),
        output_shape: Sequence[int | None] | None = None,
        rate: int = 2,
        act: Activation | None = None,
        padding: str = "SAME",
        W_init: Any = truncated_normal(stddev=0.02),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        apart, recipes = pair(rate, "rate"), (W_init, W_init_args, b_init, b_init_args)
        super().__init__(2, shape, output_shape, (1, 1), apart, padding, act, recipes, name)


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
    >>> net = tl.layers.InputLayer((None, 15, 15, 64))
    >>> tl.layers.DeConv2d(net, 32).outputs.shape, tl.layers.DeConv2d(net, 32, out_size=29).outputs.shape
    ((None, 30, 30, 32), (None, 29, 29, 32))
    """
    shape = (*pair(filter_size, "filter_size"), n_out_channel, None)
    size = (None, None) if out_size is None else pair(out_size, "out_size")
    stride = (1, *pair(strides, "strides"), 1)
    output_shape = (batch_size, *size, n_out_channel)
    return DeConv2dLayer(net, act, shape, output_shape, stride, padding, W_init, b_init, W_init_args, b_init_args, name)


@overload
def DeConv3d(net: Network, n_filter: int = ..., *args: Any, **kwargs: Any) -> Network: ...
@overload
def DeConv3d(net: None = None, n_filter: int = ..., *args: Any, **kwargs: Any) -> DeConv3dLayer: ...
def DeConv3d(  # a class's name in 1.11
    net: Network | None = None,
    n_filter: int = 32,
    filter_size: int | Sequence[int] = (3, 3, 3),
    strides: int | Sequence[int] = (2, 2, 2),
    padding: str = "SAME",
    act: Activation | None = None,
    W_init: Any = truncated_normal(stddev=0.02),
    b_init: Any = constant(0.0),
    W_init_args: Mapping[str, Any] | None = None,
    b_init_args: Mapping[str, Any] | None = None,
    name: str | None = None,
    *,
    out_size: int | Sequence[int] | None = None,
) -> Network | DeConv3dLayer:
    """:class:`DeConv3dLayer` in short: the output's channels; the input channels are looked up.

    Args:
        out_size: ``(depth, height, width)``; ``None`` is ``strides`` times the input's under SAME.

    >>> import torchlayer as tl
    >>> from torchlayer.layers.deconvolution import DeConv3d
    >>> DeConv3d(tl.layers.InputLayer((None, 3, 8, 8, 4)), n_filter=6).outputs.shape
    (None, 6, 16, 16, 6)
    """
    shape = (*numbers(filter_size, 3, "filter_size"), n_filter, None)
    size = (None,) * 3 if out_size is None else numbers(out_size, 3, "out_size")
    stride, output_shape = (1, *numbers(strides, 3, "strides"), 1), (None, *size, n_filter)
    return DeConv3dLayer(net, act, shape, output_shape, stride, padding, W_init, b_init, W_init_args, b_init_args, name)


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


def _output_size(n: int, reach: int, stride: int, padding: str, asked: int | None) -> int:
    """The length of an axis afterwards: the one asked for, if a convolution makes ``n`` of it."""
    if padding == "SAME":
        low, high = (n - 1) * stride + 1, n * stride
        default = high
    else:
        low = default = (n - 1) * stride + reach
        high = low + stride - 1
    if asked is None:
        return default
    if not low <= asked <= high:
        raise ValueError(
            f"an output size of {asked} is impossible for an input of size {n}, a filter of size {reach} and a "
            f"stride of {stride} under {padding}; give one from {low} to {high}, or None for {default}"
        )
    return asked


def _cut(surplus: int, stride: int) -> tuple[int, int, int]:
    """How to cut what a whole transposed convolution has too much, its odd cell off the end.

    Returns the zeros to put before the input, and torch's ``padding`` and ``output_padding``. Torch's ``padding`` cuts
    alike on both sides. A zero before the input adds a stride of cells before the output: cutting ``stride`` more on
    both sides takes ``stride`` too much off the end, of which ``output_padding`` brings back all but the odd cell. The
    input is copied for that; cutting the output would copy the larger of the two, and again for its gradient.
    """
    odd = surplus % 2 if surplus > 0 else 0
    return odd, max(surplus, 0) // 2 + odd * stride, max(-surplus, 0) + odd * (stride - 1)
