"""Activations that TensorLayer has and PyTorch spells differently."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["identity", "leaky_relu", "linear", "lrelu", "pixel_wise_softmax", "ramp"]


def identity(x: Tensor, name: str | None = None) -> Tensor:
    """Return ``x`` itself, the very same object.

    Shape:
        Any shape; returns ``x``.
    """
    return x


linear = identity


def ramp(x: Tensor, v_min: float = 0, v_max: float = 1, name: str | None = None) -> Tensor:
    """Clip every element to ``[v_min, v_max]``; ``v_max=6`` is ReLU6.

    The gradient is 1 inside and at both bounds, 0 outside.

    Shape:
        Any shape; returns the same shape.

    >>> ramp(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return torch.clamp(x, v_min, v_max)


def leaky_relu(x: Tensor, alpha: float = 0.1, name: str | None = "LeakyReLU") -> Tensor:
    """``max(x, alpha * x)``: ReLU with a slope of ``alpha`` below zero.

    The default slope is 0.1, where :func:`torch.nn.functional.leaky_relu` has 0.01. For ``alpha`` above 1 the maximum
    picks the other branch on both sides of zero, as in TensorLayer. Integers become floats.

    Shape:
        Any shape; returns the same shape.
    Reference:
        Maas, Hannun and Ng 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models,
        https://ai.stanford.edu/~amaas/papers/relu_hybrid_icml2013_final.pdf

    >>> leaky_relu(torch.tensor([-2.0, 0.0, 3.0]))
    tensor([-0.2000,  0.0000,  3.0000])
    """
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    if 0 <= alpha <= 1:
        return F.leaky_relu(x, alpha)
    return torch.maximum(x, alpha * x)


lrelu = leaky_relu


def pixel_wise_softmax(output: Tensor, name: str | None = "pixel_wise_softmax", *, dim: int = -1) -> Tensor:
    """Softmax over the channels of every pixel, the last axis unless ``dim`` says otherwise.

    Shape:
        ``(N, H, W, C)``, ``(N, D, H, W, C)`` or any other; returns the same shape. An ``(N, C, H, W)`` tensor takes
        ``dim=1``.
    Raises:
        TypeError: the second positional argument, TensorLayer's ``name``, is a number.

    >>> pixel_wise_softmax(torch.tensor([[[[0.0, 1.0], [2.0, 2.0]]]]))
    tensor([[[[0.2689, 0.7311],
              [0.5000, 0.5000]]]])
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the second argument of pixel_wise_softmax is its name, got {name!r}; an axis is dim={name!r}")
    return torch.softmax(output, dim)
