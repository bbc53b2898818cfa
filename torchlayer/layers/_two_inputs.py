"""What the layers that read two networks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..network import Network, Shape
from .base import Layer


class _TwoInputLayer(Layer):
    """A layer whose second argument is its second input: ``Layer(net, other, ...)`` stacks on both networks.

    A list does the same, ``Layer([net, other], ...)``, and the layer alone is called on two tensors.
    """

    second_input: ClassVar[str]  # the name of the second argument

    if not TYPE_CHECKING:  # to a type checker Layer.__new__ says it all

        def __new__(cls, layer=None, *args, **kwargs):
            other = args[0] if args else kwargs.get(cls.second_input)
            if not isinstance(other, Network):
                return super().__new__(cls, layer, *args, **kwargs)
            if not isinstance(layer, Network):
                raise TypeError(
                    f"{cls.__name__} got a network as {cls.second_input} but {type(layer).__name__} as layer; "
                    f"give it both, {cls.__name__}(net, {cls.second_input}, ...)"
                )
            if args:
                args = (None, *args[1:])
            else:
                kwargs.pop(cls.second_input)
            return super().__new__(cls, [layer, other], *args, **kwargs)

    def __init__(self, other: Network | None, name: str | None):
        super().__init__(name=name)
        if other is not None:
            raise TypeError(
                f"{self.second_input} is a network, got {type(other).__name__}; "
                f"stack an InputLayer for it, or make the layer alone and call it on two tensors, "
                f"layer(x, {self.second_input})"
            )

    def ensure_built(self, *shapes: Shape) -> _TwoInputLayer:
        if len(shapes) != 2:
            raise TypeError(
                f"it takes two inputs, got {len(shapes)}; write {type(self).__name__}(net, {self.second_input}, ...)"
            )
        return super().ensure_built(*shapes)
