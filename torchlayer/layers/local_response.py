"""Local response normalisation: channels that hold each other down."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Layer, refuse_integers


class LocalResponseNormLayer(Layer):
    """Divide each value by how strongly its neighbours among the channels respond.

    ``x / (bias + alpha * s) ** beta``, with ``s`` the sum of the squares of channels ``c - depth_radius`` to
    ``c + depth_radius``, as far as they exist. torch's :func:`torch.nn.functional.local_response_norm` divides its
    ``alpha`` by the window ``2 * depth_radius + 1``.

    Shape:
        ``(N, ..., C) ->`` the same.

    Reference:
        Krizhevsky, Sutskever and Hinton 2012, section 3.3,
        https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks.

    >>> import torch, torchlayer as tl
    >>> tl.layers.LocalResponseNormLayer(depth_radius=1)(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[0.4082, 0.5164, 0.5477, 0.7845]])
    """

    def __init__(
        self,
        layer: None = None,
        depth_radius: int = 5,
        bias: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.5,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if isinstance(depth_radius, bool) or not isinstance(depth_radius, int) or depth_radius < 0:
            raise ValueError(
                f"depth_radius is how many channels to look at on either side, 0 or more, got {depth_radius!r}"
            )
        self.depth_radius, self.bias, self.alpha, self.beta = depth_radius, bias, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2:
            raise ValueError(f"local response normalisation needs an input of shape (N, ..., C), got {tuple(x.shape)}")
        refuse_integers(x, "local response normalisation")
        size = 2 * self.depth_radius + 1
        rows = x.square().reshape(-1, 1, x.shape[-1])
        mean = F.avg_pool1d(rows, size, stride=1, padding=self.depth_radius)  # missing neighbours count as zeros
        return x / (self.bias + self.alpha * size * mean.reshape(x.shape)) ** self.beta

    def extra_repr(self) -> str:
        return f"depth_radius={self.depth_radius}, bias={self.bias}, alpha={self.alpha}, beta={self.beta}"
