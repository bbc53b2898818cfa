"""Pooling over whole images, and the short forms of pooling over sequences and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, overload

import torch.nn.functional as F
from torch import Tensor

from ..network import Network
from .base import Layer, exporting, refuse_empty, refuse_integers
from .pooling import PoolLayer

_SHAPES = {1: "(N, T, C)", 2: "(N, H, W, C)", 3: "(N, D, H, W, C)"}


class _GlobalPool(Layer):
    rank: ClassVar[int]

    def _axes(self, x: Tensor) -> tuple[int, ...]:
        """All axes but the batch's and the channels'."""
        if x.dim() != self.rank + 2:
            raise ValueError(
                f"{type(self).__name__} needs a {self.rank + 2}-D input {_SHAPES[self.rank]}, got {tuple(x.shape)}; "
                "stack a ReshapeLayer first"
            )
        refuse_empty([tuple(x.shape)])
        return tuple(range(1, self.rank + 1))


class _GlobalMax(_GlobalPool):
    def forward(self, x: Tensor) -> Tensor:
        axes = self._axes(x)
        if x.device.type == "cpu" and x.is_floating_point() and not exporting():
            # Pooling remembers where the maxima were, which on a CPU takes a quarter of the time of looking for them in
            # the backward pass. On CUDA it would give each maximum to a single thread, and ONNX may not know it.
            wide = x if x.dim() == 4 else x.flatten(1, -2).unsqueeze(1)  # (N, 1, T, C) of a sequence
            return F.adaptive_max_pool2d(wide.movedim(-1, 1), 1).flatten(1)
        return x.amax(axes)


class _GlobalMean(_GlobalPool):
    def forward(self, x: Tensor) -> Tensor:
        refuse_integers(x, "a mean")
        return x.mean(self._axes(x))


class GlobalMaxPool1d(_GlobalMax):
    """The maximum over all steps.

    Shape:
        ``(N, T, C) -> (N, C)``.
    """

    rank = 1


class GlobalMaxPool2d(_GlobalMax):
    """The maximum over the whole image.

    Shape:
        ``(N, H, W, C) -> (N, C)``.

    >>> import torchlayer as tl
    >>> tl.layers.GlobalMaxPool2d(tl.layers.InputLayer((None, 7, 7, 64))).outputs.shape
    (None, 64)
    """

    rank = 2


class GlobalMaxPool3d(_GlobalMax):
    """The maximum over the whole volume.

    Shape:
        ``(N, D, H, W, C) -> (N, C)``.
    """

    rank = 3


class GlobalMeanPool1d(_GlobalMean):
    """The mean over all steps.

    Shape:
        ``(N, T, C) -> (N, C)``.
    """

    rank = 1


class GlobalMeanPool2d(_GlobalMean):
    """The mean over the whole image.

    Shape:
        ``(N, H, W, C) -> (N, C)``.

    Reference:
        Lin et al. 2013, arXiv:1312.4400.
    """

    rank = 2


class GlobalMeanPool3d(_GlobalMean):
    """The mean over the whole volume.

    Shape:
        ``(N, D, H, W, C) -> (N, C)``.
    """

    rank = 3


@overload
def MaxPool1d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MaxPool1d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MaxPool1d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = 3,
    strides: int | Sequence[int] | None = 2,
    padding: str = "VALID",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the maximum over ``filter_size`` steps of ``(N, T, C)``.

    >>> import torchlayer as tl
    >>> tl.layers.MaxPool1d(tl.layers.InputLayer((None, 9, 8))).outputs.shape
    (None, 4, 8)
    """
    return _pool(net, 1, filter_size, strides, padding, "max", name)


@overload
def MeanPool1d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MeanPool1d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MeanPool1d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = 3,
    strides: int | Sequence[int] | None = 2,
    padding: str = "VALID",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the mean over ``filter_size`` steps of ``(N, T, C)``."""
    return _pool(net, 1, filter_size, strides, padding, "mean", name)


@overload
def MaxPool3d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MaxPool3d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MaxPool3d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = (3, 3, 3),
    strides: int | Sequence[int] | None = (2, 2, 2),
    padding: str = "VALID",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the maximum over a window of ``(N, D, H, W, C)``.

    >>> import torchlayer as tl
    >>> tl.layers.MaxPool3d(tl.layers.InputLayer((None, 8, 8, 8, 2)), 2).outputs.shape
    (None, 4, 4, 4, 2)
    """
    return _pool(net, 3, filter_size, strides, padding, "max", name)


@overload
def MeanPool3d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def MeanPool3d(net: None = None, *args: Any, **kwargs: Any) -> PoolLayer: ...
def MeanPool3d(  # the original's name is a class's
    net: Network | None = None,
    filter_size: int | Sequence[int] = (3, 3, 3),
    strides: int | Sequence[int] | None = (2, 2, 2),
    padding: str = "VALID",
    name: str | None = None,
) -> Network | PoolLayer:
    """:class:`PoolLayer` in short: the mean over a window of ``(N, D, H, W, C)``."""
    return _pool(net, 3, filter_size, strides, padding, "mean", name)


def _pool(
    net: Network | None,
    rank: int,
    filter_size: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: str,
    pool: str,
    name: str | None,
) -> Network | PoolLayer:
    size = _each(filter_size, rank, "filter_size")
    step = size if strides is None else _each(strides, rank, "strides")
    return PoolLayer(net, (1, *size, 1), (1, *step, 1), padding, pool, name)


def _each(size: int | Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """``3`` as ``(3, 3, 3)``."""
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank or any(n < 1 for n in sizes):
        many = "a positive int" if rank == 1 else f"a positive int or {rank} of them"
        raise ValueError(f"{what} takes {many}, got {size!r}")
    return sizes
