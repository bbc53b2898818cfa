"""Layers that add, repeat and reorder axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Layer


class ExpandDimsLayer(Layer):
    """A new axis of length one.

    Args:
        axis: where it goes, ``-1`` for the end.

    >>> import torchlayer as tl
    >>> ExpandDimsLayer(tl.layers.InputLayer((None, 5)), axis=1).outputs.shape
    (None, 1, 5)
    """

    def __init__(self, layer: None = None, axis: int | None = None, name: str | None = None):
        super().__init__(name=name)
        if not isinstance(axis, int):
            raise TypeError(f"ExpandDimsLayer takes the place of the new axis, axis=1, got axis={axis!r}")
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        if not -x.dim() - 1 <= self.axis <= x.dim():
            raise ValueError(f"axis {self.axis} has no place in a {x.dim()}-D input; give {-x.dim() - 1} to {x.dim()}")
        return x.unsqueeze(self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class TileLayer(Layer):
    """The input repeated along its axes.

    Args:
        multiples: how often along each axis, the batch included.

    Raises:
        ValueError: there is not one number for each axis.

    >>> import torchlayer as tl
    >>> TileLayer(tl.layers.InputLayer((None, 5)), multiples=[1, 3]).outputs.shape
    (None, 15)
    """

    def __init__(self, layer: None = None, multiples: Sequence[int] | None = None, name: str | None = None):
        super().__init__(name=name)
        if not multiples or any(n < 1 for n in multiples):
            raise ValueError(f"multiples holds a positive number for each axis, such as [1, 3], got {multiples!r}")
        self.multiples = tuple(multiples)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.multiples):
            raise ValueError(
                f"multiples {list(self.multiples)} needs one number for each of {x.dim()} axes; 1 keeps an axis"
            )
        return x.tile(self.multiples)

    def extra_repr(self) -> str:
        return f"multiples={list(self.multiples)}"


class TransposeLayer(Layer):
    """The axes in another order.

    Args:
        perm: for each axis of the result, the axis of the input it is; the batch included.

    >>> import torchlayer as tl
    >>> TransposeLayer(tl.layers.InputLayer((None, 4, 5)), perm=[0, 2, 1]).outputs.shape
    (None, 5, 4)
    """

    def __init__(self, layer: None = None, perm: Sequence[int] | None = None, name: str | None = None):
        super().__init__(name=name)
        if perm is None or sorted(perm) != list(range(len(perm))):
            raise ValueError(f"perm holds each axis once, such as [0, 2, 1], got {perm!r}")
        self.perm = tuple(perm)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.perm):
            raise ValueError(
                f"perm {list(self.perm)} orders {len(self.perm)} axes, the input has {x.dim()}; name each once"
            )
        return x.permute(self.perm)

    def extra_repr(self) -> str:
        return f"perm={list(self.perm)}"
