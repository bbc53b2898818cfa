"""Activations with parameters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..initializers import constant
from ..network import Shape
from .base import Layer, fill


class PReluLayer(Layer):
    """``x`` where it is positive, ``alphas * x`` elsewhere, the slopes learned, one a channel. They start at 0.

    Args:
        channel_shared: one slope for all channels.
        a_init: an in-place initialiser, or the values.
        a_init_args: keyword arguments for the initialiser.

    Shape:
        ``(N, ..., C) ->`` the same; parameter ``alphas`` ``(C,)``, or ``(1,)`` if shared.

    Reference:
        He et al. 2015, arXiv:1502.01852. The paper starts at 0.25.

    >>> import torch
    >>> PReluLayer(a_init=torch.tensor([0.5, 2.0]))(torch.tensor([[-2.0, -2.0]])).tolist()
    [[-1.0, -4.0]]
    """

    def __init__(
        self,
        layer: None = None,
        channel_shared: bool = False,
        a_init: Any = constant(0.0),
        a_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.channel_shared = channel_shared
        self.alphas = nn.UninitializedParameter()
        self._recipe: Any = (a_init, a_init_args)

    def build(self, *shapes: Shape) -> None:
        fill(self.alphas, (1,) if self.channel_shared else (self._channels(shapes[0]),), *self._recipe)
        self._recipe = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        if not self.channel_shared and self._channels(tuple(x.shape)) != self.alphas.shape[0]:
            raise ValueError(f"this PReLU was sized for {self.alphas.shape[0]} channels, got {tuple(x.shape)}")
        return torch.where(x > 0, x, self.alphas.to(x.dtype) * x)

    def _channels(self, shape: Shape) -> int:
        if len(shape) < 2 or shape[-1] is None:
            raise ValueError(
                f"a PReLU needs an input (N, ..., C) of known C, got {shape}; give InputLayer that length, "
                "or channel_shared=True"
            )
        return shape[-1]

    def extra_repr(self) -> str:
        return f"channel_shared={self.channel_shared}"
