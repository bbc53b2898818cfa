"""Layers that join several networks into one."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from .base import Layer, shown


class ConcatLayer(Layer):
    """Concatenate the outputs of several networks.

    Args:
        layer: a list of networks. They may share layers.
        concat_dim: the axis along which they are joined.

    >>> import torchlayer as tl
    >>> x = tl.layers.InputLayer((None, 8))
    >>> a = tl.layers.DenseLayer(x, n_units=3, name="a")
    >>> b = tl.layers.DenseLayer(x, n_units=4, name="b")
    >>> tl.layers.ConcatLayer([a, b], name="both").outputs.shape
    (None, 7)
    """

    def __init__(self, layer: None = None, concat_dim: int = 1, name: str | None = None):
        super().__init__(name=name)
        self.concat_dim = concat_dim

    def forward(self, *xs: Tensor) -> Tensor:
        if not -xs[0].dim() <= self.concat_dim < xs[0].dim():
            raise ValueError(
                f"there is no axis concat_dim={self.concat_dim} in inputs of shape {[tuple(x.shape) for x in xs]}; "
                "StackLayer joins along a new one"
            )
        return torch.cat(xs, dim=self.concat_dim)

    def extra_repr(self) -> str:
        return f"concat_dim={self.concat_dim}"


class ElementwiseLayer(Layer):
    """Combine the outputs of several networks value by value, from left to right.

    Args:
        layer: a list of networks whose outputs have one shape.
        combine_fn: ``(tensor, tensor) -> tensor``: ``torch.minimum``, ``torch.add``, a lambda.

    Raises:
        ValueError: the shapes differ.
    """

    def __init__(
        self,
        layer: None = None,
        combine_fn: Callable[[Tensor, Tensor], Tensor] = torch.minimum,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.combine_fn = combine_fn

    def forward(self, *xs: Tensor) -> Tensor:
        check_one_shape(xs)
        return reduce(self.combine_fn, xs)

    def extra_repr(self) -> str:
        return f"combine_fn={shown(self.combine_fn)}"


def check_one_shape(xs: tuple[Tensor, ...]) -> None:
    """Raise ``ValueError`` unless all tensors have one shape."""
    if any(x.shape != xs[0].shape for x in xs):
        raise ValueError(f"the inputs must have one shape, got {[tuple(x.shape) for x in xs]}; reshape or pad them")
