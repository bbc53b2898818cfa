"""Pooling over (N, H, W, C) and (N, D, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network import Network
from .base import Layer, refuse_integers
from .padding import FIRST, LAST, check_padding, inner, pair, same_padding

_MAX = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}  # F's first choose whether to return indices
_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class PoolLayer(Layer):
    """The maximum or the mean of each window.

    Padded cells never win a maximum and are not counted in a mean.

    Args:
        ksize: the window, ``[1, height, width, 1]`` (or with a depth).
        strides: ``[1, height, width, 1]``.
        padding: ``"SAME"`` or ``"VALID"``, TensorFlow's.
        pool: ``"max"``, ``"mean"`` (or torch's ``F.max_pool2d``, ``F.avg_pool2d`` and their 1-D and 3-D kin), or a
            function ``pool(x, ksize, strides, padding)`` on channels-last tensors.

    Shape:
        ``(N, H, W, C) -> (N, H', W', C)`` with ``H' = ceil(H / s)`` under SAME and ``ceil((H - k + 1) / s)`` under
        VALID.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 32))
    >>> tl.layers.PoolLayer(net, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], pool="max").outputs.shape
    (None, 14, 14, 32)
    """

    def __init__(
        self,
        layer: None = None,
        ksize: Sequence[int] = (1, 2, 2, 1),
        strides: Sequence[int] = (1, 2, 2, 1),
        padding: str = "SAME",
        pool: str | Callable[..., Tensor] = "max",
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.window = inner(ksize, len(ksize), "ksize")
        self.stride = inner(strides, len(ksize), "strides")
        self.padding = check_padding(padding)
        self._ceil, self._zeros = self.padding == "SAME", (0,) * len(self.window)
        # a window of at most two that does not overlap lacks at most one cell, after
        self._never_before = not self._ceil or all(k <= min(s, 2) for k, s in zip(self.window, self.stride))
        if pool in ("max", F.max_pool1d, F.max_pool2d, F.max_pool3d, *_MAX.values()):
            self.pool: Any = "max"
        elif pool in ("mean", "avg", *_MEAN.values()):
            self.pool = "mean"
        elif callable(pool):
            self.pool = pool
        else:
            raise ValueError(f"pool is 'max', 'mean' or a function, got {pool!r}")

    def forward(self, x: Tensor) -> Tensor:
        rank = len(self.window)
        if x.dim() != rank + 2:
            raise ValueError(
                f"ksize {[1, *self.window, 1]} needs a {rank + 2}-D input, got {tuple(x.shape)}; "
                "stack a ReshapeLayer first"
            )
        if not isinstance(self.pool, str):
            return self.pool(x, [1, *self.window, 1], [1, *self.stride, 1], self.padding)
        if not x.is_floating_point():
            refuse_integers(x, "pooling")
        around, cut = self._around(x.shape)
        x = x.permute(FIRST[rank])
        if self.pool == "max":
            y = _MAX[rank](x, self.window, self.stride, around, 1, self._ceil)
        else:
            y = _MEAN[rank](x, self.window, self.stride, around, self._ceil, False)  # padded cells do not count
        for axis in cut:
            y = y.narrow(axis, 1, y.shape[axis] - 1)
        return y.permute(LAST[rank])

    def _around(self, shape: Sequence[int]) -> tuple[Any, Sequence[int]]:
        """The padding of torch's op for channels-last data of a shape, and the axes (channels first) to cut the first
        output off.

        Nothing is ever copied into a padded tensor. Torch's own padding is minus infinity for a maximum and uncounted
        for a mean, which is what TensorFlow means; only SAME's odd cell "after" has to be had. Where windows skip
        (stride > 1), ``ceil_mode`` adds it; where they do not (stride 1, even window), padding the larger amount on
        both sides gives one output too many, the first.
        """
        if self._never_before:
            return self._zeros, ()
        around, cut = [0] * len(self.window), []
        for i, (n, k, s) in enumerate(zip(shape[1:], self.window, self.stride)):
            before, after = same_padding(n, k, s)
            around[i] = before
            if before < after and s == 1:
                around[i] = after
                cut.append(i + 2)
        return around, cut

    def extra_repr(self) -> str:
        pool = getattr(self.pool, "__name__", self.pool)
        return f"ksize={list(self.window)}, strides={list(self.stride)}, padding={self.padding}, pool={pool}"


@overload
def MaxPool2d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MaxPool2d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MaxPool2d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = (2, 2),
    strides: int | Sequence[int] | None = None,
    padding: str = "SAME",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the maximum over ``filter_size``, moving by ``strides`` (default: the same).

    >>> import torchlayer as tl
    >>> tl.layers.MaxPool2d(tl.layers.InputLayer((None, 28, 28, 8)), 2).outputs.shape
    (None, 14, 14, 8)
    """
    return PoolLayer(net, *_window(filter_size, strides), padding, "max", name)


@overload
def MeanPool2d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MeanPool2d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MeanPool2d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = (2, 2),
    strides: int | Sequence[int] | None = None,
    padding: str = "SAME",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the mean over ``filter_size``, moving by ``strides`` (default: the same)."""
    return PoolLayer(net, *_window(filter_size, strides), padding, "mean", name)


def _window(filter_size: int | Sequence[int], strides: int | Sequence[int] | None) -> tuple[tuple[int, ...], ...]:
    size = pair(filter_size, "filter_size")
    step = size if strides is None else pair(strides, "strides")
    return (1, *size, 1), (1, *step, 1)
