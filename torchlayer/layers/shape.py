"""Layers that rearrange values and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Layer


class FlattenLayer(Layer):
    """All axes but the first in one, in (H, W, C) order.

    Shape:
        ``(N, ...) -> (N, D)``.

    >>> import torchlayer as tl
    >>> tl.layers.FlattenLayer(tl.layers.InputLayer((None, 7, 7, 64))).outputs.shape
    (None, 3136)
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class ReshapeLayer(Layer):
    """The same values in another shape.

    Args:
        shape: of the whole batch, its first axis included; one length may be ``-1``.

    >>> import torchlayer as tl
    >>> tl.layers.ReshapeLayer(tl.layers.InputLayer((None, 784)), shape=(-1, 28, 28, 1)).outputs.shape
    (None, 28, 28, 1)
    """

    def __init__(self, layer: None = None, shape: Sequence[int] = (), name: str | None = None):
        super().__init__(name=name)
        if len(shape) == 0 or sum(n == -1 for n in shape) > 1:
            raise ValueError(
                f"shape is the whole new shape with at most one -1, such as (-1, 28, 28, 1), got {shape!r}"
            )
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"
