"""Layers that stack several networks' outputs, choose one of them, or take one apart."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network import Network, Shape, stack
from .base import Layer
from .merge import check_one_shape


class StackLayer(Layer):
    """The outputs of several networks along a new axis.

    Args:
        layer: a list of networks whose outputs have one shape.
        axis: where the new axis goes.

    >>> import torchlayer as tl
    >>> x = tl.layers.InputLayer((None, 5))
    >>> StackLayer([x, x, x], axis=1).outputs.shape
    (None, 3, 5)
    """

    def __init__(self, layer: None = None, axis: int = 1, name: str | None = None):
        super().__init__(name=name)
        self.axis = axis

    def forward(self, *xs: Tensor) -> Tensor:
        check_one_shape(xs)
        return torch.stack(xs, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


def UnStackLayer(  # the original's name is a class's
    layer: Network | None = None, num: int | None = None, axis: int = 0, name: str | None = None
) -> list[Network]:
    """The slices along an axis, one network each: :class:`StackLayer` undone.

    The networks share every earlier layer. Slice ``i`` is a :class:`SelectLayer` named ``f"{name}_{i}"``.

    Args:
        num: the number of slices, for a check; ``None`` looks it up.
        axis: which axis; its length must be known. The original's default is the batch.

    Raises:
        TypeError: there is no network. A tensor is taken apart by ``x.unbind(axis)``.
        ValueError: there is no such axis, or its length is unknown, 0 or not ``num``.

    >>> import torchlayer as tl
    >>> x = tl.layers.InputLayer((None, 3, 5))
    >>> [step.outputs.shape for step in tl.layers.UnStackLayer(x, axis=1, name="step")]
    [(None, 5), (None, 5), (None, 5)]
    """
    if not isinstance(layer, Network):
        raise TypeError(
            f"UnStackLayer takes a network apart, UnStackLayer(net, axis=1), got {type(layer).__name__}; "
            "a tensor is taken apart by x.unbind(axis)"
        )
    shape = layer.outputs.shape
    length = shape[_axis(axis, shape)]
    if length is None:
        raise ValueError(f"axis {axis} of {shape} has no known length to unstack; give InputLayer that length")
    if length == 0 or num not in (None, length):
        wanted = "at least one slice" if num is None else f"num={num}"
        raise ValueError(f"UnStackLayer needs {wanted}, but axis {axis} of {shape} is {length} long")
    name = name or _free_prefix(layer)
    return [stack(layer, SelectLayer(None, i, axis, f"{name}_{i}")) for i in range(length)]


class SelectLayer(Layer):
    """The slice at one place of an axis, which is then gone.

    Args:
        index: the place, ``-1`` for the last.
        axis: which axis.

    Raises:
        ValueError: there is no such axis or place.

    >>> import torchlayer as tl
    >>> tl.layers.SelectLayer(tl.layers.InputLayer((None, 3, 5)), index=-1, axis=1).outputs.shape
    (None, 5)
    """

    def __init__(self, layer: None = None, index: int = 0, axis: int = 1, name: str | None = None):
        super().__init__(name=name)
        self.index, self.axis = index, axis

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[_axis(self.axis, tuple(x.shape))]
        if not -length <= self.index < length:
            raise ValueError(f"index {self.index} is no place of axis {self.axis}, which is {length} long")
        return x.select(self.axis, self.index)

    def extra_repr(self) -> str:
        return f"index={self.index}, axis={self.axis}"


class MultiplexerLayer(Layer):
    """The output of one of several networks: set ``net.mux.sel`` to its place in the list, 0 at first.

    The network computes every branch; only the chosen one has a gradient.

    Args:
        layer: a list of networks whose outputs have one shape.

    Raises:
        ValueError: the shapes differ, or there is no branch ``sel``.

    >>> import torch
    >>> mux = MultiplexerLayer()
    >>> mux.sel = 1
    >>> mux(torch.zeros(2), torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, layer: None = None, name: str | None = None):
        super().__init__(name=name)
        self.sel = 0

    def forward(self, *xs: Tensor) -> Tensor:
        check_one_shape(xs)
        if not 0 <= self.sel < len(xs):
            raise ValueError(f"sel={self.sel} chooses none of {len(xs)} inputs; set it to 0 to {len(xs) - 1}")
        return xs[self.sel]

    def extra_repr(self) -> str:
        return f"sel={self.sel}"


def _axis(axis: int, shape: Shape) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} is no axis of an input {shape}; give {-len(shape)} to {len(shape) - 1}")
    return axis


def _free_prefix(net: Network) -> str:
    taken, i = {node.name for node in net._nodes}, 1
    while f"unstack{i}_0" in taken:
        i += 1
    return f"unstack{i}"
