"""Activations that TensorLayer has and PyTorch spells differently."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "hard_tanh",
    "htanh",
    "identity",
    "leaky_relu",
    "leaky_relu6",
    "leaky_twice_relu6",
    "linear",
    "lrelu",
    "lrelu6",
    "ltrelu6",
    "pixel_wise_softmax",
    "ramp",
    "sign",
    "swish",
]


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


def hard_tanh(x: Tensor, name: str | None = "htanh") -> Tensor:
    """Clip every element to ``[-1, 1]``: :func:`ramp` between these bounds.

    Shape:
        Any shape; returns the same shape.

    >>> hard_tanh(torch.tensor([-3.0, 0.5, 2.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    """
    return ramp(x, -1, 1)


htanh = hard_tanh


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
    x = _in_float(x)
    if 0 <= alpha <= 1:
        return F.leaky_relu(x, alpha)
    return torch.maximum(x, alpha * x)


lrelu = leaky_relu


def leaky_relu6(x: Tensor, alpha: float = 0.2, name: str | None = "leaky_relu6") -> Tensor:
    """``alpha * x`` below 0, ``x`` from 0 to 6, 6 above. Integers become floats.

    Shape:
        Any shape; returns the same shape.
    Raises:
        ValueError: ``alpha`` is not in [0, 1].
    Reference:
        Maas et al. 2013, as :func:`leaky_relu`; Krizhevsky 2010, Convolutional Deep Belief Networks on CIFAR-10,
        https://www.cs.utoronto.ca/~kriz/conv-cifar10-aug2010.pdf, for the 6.

    >>> leaky_relu6(torch.tensor([-2.0, 3.0, 8.0]))
    tensor([-0.4000,  3.0000,  6.0000])
    """
    _check_slope(alpha, "alpha")
    return F.leaky_relu(_in_float(x), alpha).clamp(max=6)


lrelu6 = leaky_relu6


def leaky_twice_relu6(
    x: Tensor, alpha_low: float = 0.2, alpha_high: float = 0.2, name: str | None = "leaky_twice_relu6"
) -> Tensor:
    """``alpha_low * x`` below 0, ``x`` from 0 to 6, ``6 + alpha_high * (x - 6)`` above. Integers become floats.

    Shape:
        Any shape; returns the same shape.
    Raises:
        ValueError: a slope is not in [0, 1].
    Reference:
        As :func:`leaky_relu6`.

    >>> leaky_twice_relu6(torch.tensor([-2.0, 3.0, 8.0]), alpha_high=0.5)
    tensor([-0.4000,  3.0000,  7.0000])
    """
    _check_slope(alpha_low, "alpha_low")
    _check_slope(alpha_high, "alpha_high")
    x = _in_float(x)
    return F.leaky_relu(x.clamp(max=6), alpha_low) + alpha_high * F.relu(x - 6)


ltrelu6 = leaky_twice_relu6


def swish(x: Tensor, name: str | None = "swish") -> Tensor:
    """``x * sigmoid(x)``, which is :func:`torch.nn.functional.silu`. Integers become floats.

    Shape:
        Any shape; returns the same shape.
    Reference:
        Ramachandran, Zoph and Le 2017, arXiv:1710.05941.

    >>> swish(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([-0.2689,  0.0000,  1.7616])
    """
    return F.silu(_in_float(x))


def sign(x: Tensor, name: str | None = "sign") -> Tensor:
    """-1, 0 or 1. Backward, it is the identity, with each gradient clipped to ``[-1, 1]``: a straight-through estimate.

    As in TensorLayer 1.11 it is the gradient that is clipped. The paper instead drops the gradient where ``|x| > 1``,
    which is ``sign(hard_tanh(x))``.

    Shape:
        Any shape; returns the same shape.
    Reference:
        Courbariaux et al. 2016, arXiv:1602.02830.

    >>> x = torch.tensor([-0.3, 2.0], requires_grad=True)
    >>> y = sign(x)
    >>> y.backward(torch.tensor([5.0, 0.5]))
    >>> y.tolist(), x.grad.tolist()
    ([-1.0, 1.0], [1.0, 0.5])
    """
    return _StraightThroughSign.apply(x)


class _StraightThroughSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass  # the gradient asks nothing of the input

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-1, 1)


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


def _in_float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _check_slope(alpha: float, what: str) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"{what} is a slope in [0, 1], got {alpha!r}")
