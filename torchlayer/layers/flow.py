"""Layers that stack several networks' outputs, or choose one of them."""

from __future__ import annotations

import torch
from torch import Tensor

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
