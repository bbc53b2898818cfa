"""One layer at every step of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..network import Shape
from .base import Layer


class TimeDistributedLayer(Layer):
    """The same layer, with the same weights, at every step: ``y[:, t] = layer(x[:, t])``.

    The steps are seen as so many examples: the inner layer runs once, on ``(N * T, ...)``. It therefore finds its width
    in what follows the second axis, and a batch norm inside takes its statistics over all steps of the batch together
    (the original took them step by step). Noise is drawn for each step anew.

    Args:
        layer: a network, or a list of two or more, one a step, whose outputs ``(N, ...)`` have one shape.
        layer_class: what makes the inner layer: a layer class, a short form such as ``Conv2d``, any ``nn.Module`` class
            or function that returns a module.
        args: keyword arguments for it. ``"name"`` says what the inner layer is called, ``layer`` unless given.

    Shape:
        ``(N, T, ...) -> (N, T, ...)``, either length known or not; parameters ``layer.W`` and so on.

    Raises:
        TypeError: ``layer_class`` makes no module.
        ValueError: the input has no steps, or the inner layer cannot take one.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 20, 100), name="x")
    >>> args = {"n_units": 50, "name": "dense"}
    >>> net = TimeDistributedLayer(net, layer_class=tl.layers.DenseLayer, args=args, name="time_dense")
    >>> net.outputs.shape, list(net.state_dict())
    ((None, 20, 50), ['time_dense.dense.W', 'time_dense.dense.b'])
    """

    def __init__(
        self,
        layer: None = None,
        layer_class: Callable[..., nn.Module] | None = None,
        args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not callable(layer_class) or isinstance(layer_class, nn.Module):
            raise TypeError(
                "TimeDistributedLayer makes its own inner layer, layer_class=DenseLayer, args={'n_units': 50}, "
                f"got layer_class={layer_class!r}"
            )
        args = dict(args or {})
        self._held_as = str(args.pop("name", None) or "layer")
        inner = layer_class(**args)
        if not isinstance(inner, nn.Module):
            raise TypeError(f"layer_class takes what makes an nn.Module, got one that makes a {type(inner).__name__}")
        if "." in self._held_as or hasattr(self, self._held_as):
            raise ValueError(
                f"'{self._held_as}' cannot name an inner layer: it holds a '.' or is already an attribute of a layer"
            )
        self.add_module(self._held_as, inner)

    def build(self, *shapes: Shape) -> None:
        inner, step = self.get_submodule(self._held_as), _one_step(shapes)
        try:
            if ensure_built := getattr(inner, "ensure_built", None):
                ensure_built(step)
        except ValueError as error:
            given = ", ".join(map(str, shapes))
            kind = type(inner).__name__
            raise ValueError(f"its '{self._held_as}' ({kind}) cannot take {step}, a step of {given}: {error}") from None

    def forward(self, *xs: Tensor) -> Tensor:
        _one_step([x.shape for x in xs])
        x = xs[0] if len(xs) == 1 else torch.stack(xs, 1)  # (N, T, ...)
        y = self.get_submodule(self._held_as)(x.flatten(0, 1))  # (N * T, ...)
        if not isinstance(y, Tensor):
            raise TypeError(f"its '{self._held_as}' returns a {type(y).__name__}, not one tensor; wrap it in a layer")
        if y.dim() == 0 or y.shape[0] != x.shape[0] * x.shape[1]:
            raise ValueError(
                f"its '{self._held_as}' made {tuple(y.shape)} of {x.shape[0] * x.shape[1]} steps; "
                "an inner layer must keep its first axis"
            )
        return y.unflatten(0, x.shape[:2])  # (N, T, ...)

    def extra_repr(self) -> str:
        inner = self.get_submodule(self._held_as)
        return f"layer_class={type(inner).__name__}({inner.extra_repr()})"


def _one_step(shapes: list[torch.Size] | tuple[Shape, ...]) -> Shape:
    """The shape of one step, of ``(N, T, ...)`` or of T times ``(N, ...)``."""
    first = tuple(shapes[0])
    if len(shapes) == 1:
        if len(first) < 2:
            raise ValueError(f"TimeDistributedLayer needs an input (N, T, ...), got {first}; its second axis is time")
        return (None, *first[2:])
    if any(tuple(shape) != first for shape in shapes) or not first:
        raise ValueError(f"the steps must have one shape (N, ...), got {[tuple(shape) for shape in shapes]}")
    return (None, *first[1:])
