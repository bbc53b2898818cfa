"""Activations with parameters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..initializers import constant
from ..network import Shape
from .base import Layer, fill, refuse_integers


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
        alphas, shape = self.alphas, x.shape
        if not self.channel_shared and (len(shape) < 2 or shape[-1] != alphas.shape[0]):
            self._channels(tuple(shape))
            raise ValueError(f"this PReLU was sized for {alphas.shape[0]} channels, got {tuple(shape)}")
        if not x.is_floating_point():
            refuse_integers(x, "a PReLU")
        if alphas.dtype != x.dtype:
            alphas = alphas.to(x.dtype)
        if len(shape) < 3:
            return torch.prelu(x, alphas)
        if x.is_contiguous():  # one long list of channels is read as it lies, and views of it are cheap
            return torch.prelu(x.view(-1, shape[-1]), alphas).view(shape)
        return torch.prelu(x.movedim(-1, 1), alphas).movedim(1, -1)

    def _channels(self, shape: Shape) -> int:
        if len(shape) < 2 or shape[-1] is None:
            raise ValueError(
                f"a PReLU needs an input (N, ..., C) of known C, got {shape}; give InputLayer that length, "
                "or channel_shared=True"
            )
        return shape[-1]

    def extra_repr(self) -> str:
        return f"channel_shared={self.channel_shared}"


class PRelu6Layer(PReluLayer):
    """:class:`PReluLayer` capped at 6. The slopes start at 0.5.

    ``alphas`` are the slopes themselves, as in :class:`PReluLayer`. TensorLayer 1.11, where this layer comes from, kept
    a number around 0 whose sigmoid is the slope: weights of its files go in as ``sigmoid(alpha)``.

    Args:
        channel_shared: one slope for all channels.
        a_init: an in-place initialiser, or the values.
        a_init_args: keyword arguments for the initialiser.

    Shape:
        ``(N, ..., C) ->`` the same; parameter ``alphas`` ``(C,)``, or ``(1,)`` if shared.

    Reference:
        He et al. 2015, arXiv:1502.01852, for the slopes; Krizhevsky 2010, Convolutional Deep Belief Networks on
        CIFAR-10, https://www.cs.utoronto.ca/~kriz/conv-cifar10-aug2010.pdf, for the 6.

    >>> import torch
    >>> PRelu6Layer()(torch.tensor([[-2.0, 3.0, 8.0]])).tolist()
    [[-1.0, 3.0, 6.0]]
    """

    def __init__(
        self,
        layer: None = None,
        channel_shared: bool = False,
        a_init: Any = constant(0.5),
        a_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(None, channel_shared, a_init, a_init_args, name)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(max=6)


class PTRelu6Layer(PReluLayer):
    """:class:`PReluLayer` with a second learned slope above 6: ``6 + alphas_high * (x - 6)``. All slopes start at 0.5.

    Args:
        channel_shared: one pair of slopes for all channels.
        a_init: an in-place initialiser, or the values, for both slopes.
        a_init_args: keyword arguments for the initialiser.

    Shape:
        ``(N, ..., C) ->`` the same; parameters ``alphas``, the slopes below 0, and ``alphas_high``, each ``(C,)``, or
        ``(1,)`` if shared.

    Reference:
        As :class:`PRelu6Layer`, whose remark about weights of TensorLayer 1.11 holds here too.

    >>> import torch
    >>> PTRelu6Layer()(torch.tensor([[-2.0, 3.0, 8.0]])).tolist()
    [[-1.0, 3.0, 7.0]]
    """

    def __init__(
        self,
        layer: None = None,
        channel_shared: bool = False,
        a_init: Any = constant(0.5),
        a_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(None, channel_shared, a_init, a_init_args, name)
        self.alphas_high = nn.UninitializedParameter()

    def build(self, *shapes: Shape) -> None:
        recipe = self._recipe
        super().build(*shapes)
        fill(self.alphas_high, tuple(self.alphas.shape), *recipe)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(max=6)) + self.alphas_high.to(x.dtype) * F.relu(x - 6)
