"""Layers that disturb what passes through them while training, and nothing in ``eval()``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network import Shape
from .base import Layer, refuse_integers


class DropoutLayer(Layer):
    """Keep each value with probability ``keep`` and divide it by ``keep``; the identity in ``eval()``.

    Args:
        keep: the probability of **keeping** (torch's ``p`` is ``1 - keep``).
        is_fix: accepted for old code; here every dropout follows ``train()`` and ``eval()``.
        is_train: ``False`` switches the layer off for good.

    Shape:
        any ``->`` the same.

    Reference:
        Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    >>> import torch, torchlayer as tl
    >>> drop = tl.layers.DropoutLayer(keep=0.5)
    >>> sorted(set(drop(torch.ones(1000)).tolist()))
    [0.0, 2.0]
    >>> drop.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(
        self,
        layer: None = None,
        keep: float = 0.5,
        is_fix: bool = False,
        is_train: bool = True,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not 0 < keep <= 1:
            raise ValueError(f"keep is the probability of keeping a value, in (0, 1], got {keep}")
        self.keep = keep
        self.is_train = is_train

    def forward(self, x: Tensor) -> Tensor:
        refuse_integers(x, "dropout")
        return F.dropout(x, 1 - self.keep, self.training and self.is_train)

    def extra_repr(self) -> str:
        return f"keep={self.keep}" + ("" if self.is_train else ", is_train=False")


class LockedDropoutLayer(Layer):
    """Dropout whose mask is the same at every step of a sequence, and another in each sequence; the identity in
    ``eval()``.

    Args:
        keep: the probability of **keeping**; what is kept is divided by it.

    Shape:
        ``(N, T, D) ->`` the same; the mask is ``(N, 1, D)``.

    Reference:
        Gal, Ghahramani 2016, https://arxiv.org/abs/1512.05287 ("variational"); "locked" in Merity et al. 2018,
        https://arxiv.org/abs/1708.02182.

    >>> import torch, torchlayer as tl
    >>> y = tl.layers.LockedDropoutLayer(keep=0.5)(torch.ones(2, 7, 100))
    >>> sorted(set(y.sum(1).flatten().tolist()))
    [0.0, 14.0]
    """

    def __init__(self, layer: None = None, keep: float = 0.5, name: str | None = None):
        super().__init__(name=name)
        if not 0 < keep <= 1:
            raise ValueError(f"keep is the probability of keeping a value, in (0, 1], got {keep}")
        self.keep = keep

    def build(self, *shapes: Shape) -> None:
        if len(shapes[0]) != 3:
            raise ValueError(f"locked dropout takes sequences (N, T, D), got {shapes[0]}; DropoutLayer takes any")

    def forward(self, x: Tensor) -> Tensor:
        refuse_integers(x, "dropout")
        if not self.training or self.keep == 1:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), 1 - self.keep)

    def extra_repr(self) -> str:
        return f"keep={self.keep}"


class GaussianNoiseLayer(Layer):
    """Add fresh normal noise to every value; the identity in ``eval()``.

    Args:
        mean, stddev: of the noise.
        is_train: ``False`` switches the layer off for good.

    Shape:
        any ``->`` the same.
    """

    def __init__(
        self,
        layer: None = None,
        mean: float = 0.0,
        stddev: float = 1.0,
        is_train: bool = True,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if stddev < 0:
            raise ValueError(f"stddev is the width of the noise and not negative, got {stddev}")
        self.mean, self.stddev, self.is_train = mean, stddev, is_train

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.is_train):
            return x
        refuse_integers(x, "noise")
        return x + torch.randn_like(x).mul_(self.stddev).add_(self.mean)

    def extra_repr(self) -> str:
        return f"mean={self.mean}, stddev={self.stddev}" + ("" if self.is_train else ", is_train=False")
