"""What every convolution is, plain, separable or transposed: filters that slide over channels-last data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..activation import identity
from ..network import Shape
from .base import Activation, Layer, fill, has_bias, shown
from .padding import AXES, FIRST, LAST, check_padding, fixed_padding, pad_same

_LAYOUTS = {1: "(N, L, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}
_CHANNELS_FIRST = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


class Convolution(Layer):
    """``act(conv(x, W) + b)`` over as many axes as the kernel has; the layers differ in how they are asked for.

    A kind whose filters have another shape says so in :meth:`filter_shapes` and :meth:`n_channels`; one that does
    something else with them, in :meth:`padded` and :meth:`convolve`.

    Args:
        n_filter: how many channels come out; 0 if that follows the input.
        recipes: an initialiser for each parameter that ``npz_axes`` names, their keyword arguments, then ``b``'s
            initialiser and its keyword arguments.
    """

    npz_axes: ClassVar[Mapping[str, tuple[int, ...]]]
    W: nn.Parameter

    def __init__(
        self,
        kernel: tuple[int, ...],
        n_in: int | None,
        n_filter: int,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        padding: str,
        act: Activation | None,
        recipes: tuple[Any, ...],
        name: str | None,
    ):
        super().__init__(name=name)
        self.act = act or identity
        self.kernel, self.n_in, self.n_filter = kernel, n_in, n_filter
        self.stride, self.dilation, self.padding = stride, dilation, check_padding(padding)
        for filters in self.npz_axes:
            setattr(self, filters, nn.UninitializedParameter())
        self.b = nn.UninitializedParameter() if has_bias(recipes[-2]) else None
        self._recipes: Any = recipes
        self._reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        self._least = self.least_sizes()
        self._pads = fixed_padding(self.padding, kernel, stride, dilation)  # None: the input's size decides

    def filter_shapes(self, n_in: int) -> list[tuple[int, ...]]:
        """Of the parameters that ``npz_axes`` names, given the input's channels."""
        return [(self.n_filter, n_in, *self.kernel)]

    def n_channels(self) -> int:
        """How many channels the filters take."""
        return self.W.shape[1] * self.groups()

    def groups(self) -> int:
        """How many groups of channels are convolved apart."""
        return 1

    def least_sizes(self) -> list[int]:
        """The smallest input that anything comes out of."""
        return self._reach if self.padding == "VALID" else [1] * len(self.kernel)

    def build(self, *shapes: Shape) -> None:
        n_in = check_channels(shapes[0], len(self.kernel), self.n_in)
        *inits, init_args, b_init, b_init_args = self._recipes
        for filters, shape, init in zip(self.npz_axes, self.filter_shapes(n_in), inits):
            fill(getattr(self, filters), shape, init, init_args)
            _lay_out(getattr(self, filters))
        if self.b is not None:
            fill(self.b, (self.n_filter or self.W.shape[0],), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        rank = len(self.kernel)
        if rank == 1:  # as an image of one row: torch copies (N, C, L) out of channels-last order, and images not
            x, pads = self.padded(x.unsqueeze(1).permute(FIRST[2]))  # (N, C, 1, L)
            return self.act(self.convolve(x, pads).permute(LAST[2]).squeeze(1))
        x, pads = self.padded(x.permute(FIRST[rank]))
        return self.act(self.convolve(x, pads).permute(LAST[rank]))

    def padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """Channels-first ``x`` with the zeros that torch's op cannot add, and the padding that it can."""
        return (x, self._pads) if self._pads is not None else pad_same(x, self.kernel, self.stride, self.dilation)

    def convolve(self, x: Tensor, pads: Any) -> Tensor:
        """From channels-first data to channels-first data, rows of images where there is one axis."""
        op = CONVOLVE[len(self.kernel)]
        return op(x, self.W, self.b, self.stride, pads, self.dilation, self.groups())

    def extra_repr(self) -> str:
        sized = not any(map(is_lazy, self.parameters()))
        n_in = self.n_channels() if sized else self.n_in or "?"
        return self._shown([*self.kernel, n_in, self.n_filter or (self.W.shape[0] if sized else "?")])

    def _shown(self, shape: list[Any], *more: str) -> str:
        parts = [f"shape={shape}", *more, f"strides={list(self.stride)}", f"padding={self.padding}"]
        if set(self.dilation) != {1}:
            parts.append(f"rate={list(self.dilation)}")
        return ", ".join([*parts, f"act={shown(self.act)}"])

    def _check(self, x: Tensor) -> None:
        shape, rank, n_in = x.shape, len(self.kernel), self.n_channels()
        if len(shape) != rank + 2 or shape[-1] != n_in:
            check_channels(tuple(shape), rank, n_in)
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(
                f"a {rank}-D convolution takes floating-point numbers, got {x.dtype} of shape {tuple(shape)}; "
                "convert them with x.float()"
            )
        for axis, least in enumerate(self._least, start=1):
            if shape[axis] < least:
                raise ValueError(self._too_small(list(shape[1:-1])))

    def _too_small(self, sizes: list[int]) -> str:
        rate = f" at a rate of {list(self.dilation)}" if set(self.dilation) != {1} else ""
        return (
            f"under {self.padding} a filter of size {list(self.kernel)}{rate} needs an input of at least "
            f"{self._least}, got {sizes}; give larger inputs"
            + (", smaller filters, or padding='SAME'" if set(self._least) != {1} else "")
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        unsized = [filters for filters in self.npz_axes if is_lazy(getattr(self, filters))]
        super()._load_from_state_dict(state_dict, prefix, *args)
        for filters in unsized:
            if not is_lazy(getattr(self, filters)):
                _lay_out(getattr(self, filters))


def _convolve_row(
    x: Tensor, W: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    return F.conv2d(x, W.unsqueeze(2), b, (1, *stride), (0, *padding), (1, *dilation), groups)


CONVOLVE: Any = {1: _convolve_row, 2: F.conv2d, 3: F.conv3d}


def _lay_out(W: nn.Parameter) -> None:
    """Put filters in the memory order of channels-last data; torch would copy them into it at every step."""
    W.data = W.data.movedim(1, -1).contiguous().movedim(-1, 1)


def check_channels(shape: Shape, rank: int, expected: int | None) -> int:
    """The channels of an input over ``rank`` axes.

    Raises:
        ValueError: the input is of another rank, or its channels are unknown or not as many as ``expected``.
    """
    if len(shape) != rank + 2:
        raise ValueError(
            f"a {rank}-D convolution needs an input of shape {_LAYOUTS[rank]}, got {shape}; stack a ReshapeLayer first"
        )
    n_in = shape[-1]
    if n_in is None:
        raise ValueError(
            f"a convolution needs to know the number of input channels, got {shape}; give InputLayer that length"
        )
    if n_in < 1:
        raise ValueError(f"a convolution needs at least one input channel, got an input of shape {shape}")
    if expected is not None and n_in != expected:
        remedy = f"give inputs of that many channels, or make filters for {n_in}"
        if shape[1] == expected:
            remedy = f"data are {_LAYOUTS[rank]}, and these look like {_CHANNELS_FIRST[rank]}: permute them"
        raise ValueError(f"these filters take {expected} channels, got an input of shape {shape} with {n_in}; {remedy}")
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
            f"shape is [{AXES[rank]}, {', '.join(channels)}] of positive numbers, only n_in may be None, "
            f"got {list(shape)}"
        )
    return tuple(n for n in shape[:rank] if n is not None), shape[-2], shape[-1]


def count(n: int, what: str) -> int:
    """A positive int."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"{what} is a positive int, got {n!r}")
    return n
