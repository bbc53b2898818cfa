"""A learned factor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Layer


class ScaleLayer(Layer):
    """The input times one trained number.

    Args:
        init_scale: what the number is at first.

    Shape:
        any ``->`` the same; parameter ``scale`` ``(1,)``.

    >>> import torch
    >>> ScaleLayer(init_scale=0.5)(torch.ones(2)).tolist()
    [0.5, 0.5]
    """

    def __init__(self, layer: None = None, init_scale: float = 0.05, name: str | None = None):
        super().__init__(name=name)
        self.init_scale = init_scale
        self.scale = nn.Parameter(torch.full((1,), float(init_scale)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype)

    def extra_repr(self) -> str:
        return f"init_scale={self.init_scale}"
