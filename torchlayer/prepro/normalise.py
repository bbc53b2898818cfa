"""Images brought to zero mean and unit deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._images import T, as_floats, as_tensor, float_dtype, open_images


def samplewise_norm(
    x: T,
    rescale: float | None = None,
    samplewise_center: bool = False,
    samplewise_std_normalization: bool = False,
    channel_index: int = 2,
    epsilon: float = 1e-7,
    *,
    axis: int | Sequence[int] | None = None,
) -> T:
    """Multiply by ``rescale``, subtract the mean, divide by the standard deviation plus ``epsilon``: each if asked to.

    By default as TensorLayer has it: of grey images the mean and the deviation of the whole image are taken, of colour
    images those of **the channels of each pixel**, which leaves little of the colour. ``axis=(0, 1, 2)`` takes those of
    the whole image whatever it is (as :func:`per_image_standardization` does), ``(0, 1)`` those of each channel.

    Args:
        axis: axes of an image over which mean and deviation are taken. Each image of a batch has its own.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same out, floating point (integers become float32).
    Raises:
        ValueError: neither 1 nor 3 channels, and no ``axis``.

    >>> import numpy as np
    >>> image = np.array([[[0, 50], [100, 250]]])
    >>> samplewise_norm(image, rescale=0.01, samplewise_center=True, axis=(0, 1, 2))
    array([[[-1. , -0.5],
            [ 0. ,  1.5]]], dtype=float32)
    """
    if channel_index not in (0, 1, 2):
        raise ValueError(f"samplewise_norm: channel_index is 0, 1 or 2, an axis of an image, got {channel_index!r}")
    images = open_images("samplewise_norm", x)
    n_channels = images.batch.shape[1 + channel_index] if x.ndim > 2 else 1
    if axis is None:
        if n_channels not in (1, 3):
            raise ValueError(
                f"samplewise_norm knows images of 1 or 3 channels, got {n_channels} on axis {channel_index} of shape "
                f"{tuple(x.shape)}; say axis=(0, 1, 2), the axes over which mean and deviation are taken"
            )
        axes = (0, 1, 2) if n_channels == 1 else (channel_index,)
    else:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"samplewise_norm: axis names axes of an image, some of 0, 1 and 2, got {axis!r}")
    dims = [1 + a for a in axes]
    y = as_floats(images.batch)
    if rescale:
        y = y * rescale
    if samplewise_center:
        y = y - y.mean(dims, keepdim=True)
    if samplewise_std_normalization:
        y = y / (y.std(dims, correction=0, keepdim=True) + epsilon)
    y = y.to(float_dtype(images.batch.dtype))
    return images.close(y if rescale or samplewise_center or samplewise_std_normalization else y.clone())


def featurewise_norm(x: T, mean: Any = None, std: Any = None, epsilon: float = 1e-7) -> T:
    """``(x - mean) / (std + epsilon)`` with the mean and the deviation of a data set; either may be left out.

    Args:
        mean, std: numbers, or arrays or tensors that broadcast to ``x``, such as ``(C,)`` or ``(H, W, C)``.
    Shape:
        x of any shape; returns the same, floating point (integers become float32).
    Raises:
        ValueError: ``mean`` or ``std`` does not broadcast to ``x``.

    >>> import numpy as np
    >>> featurewise_norm(np.array([[0.0, 4.0]]), mean=2.0, std=0.5, epsilon=0.0)
    array([[-4.,  4.]])
    """
    if not isinstance(x, (np.ndarray, Tensor)):
        raise TypeError(f"featurewise_norm takes a NumPy array or a tensor, got {type(x).__name__}; convert it")
    values = as_tensor("featurewise_norm", x) if isinstance(x, np.ndarray) else x
    y = values.to(float_dtype(values.dtype))
    if mean is not None:
        y = y - _fitting("mean", mean, y)
    if std is not None:
        y = y / (_fitting("std", std, y) + epsilon)
    y = y.clone() if y is values else y
    return y.numpy() if isinstance(x, np.ndarray) else y  # type: ignore


def per_image_standardization(x: T) -> T:
    """Each image with zero mean and unit deviation over all its pixels and channels.

    ``(x - mean) / max(std, 1 / sqrt(H * W * C))``, TensorFlow's function of this name: an image of one colour becomes
    zeros.

    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same out, floating point (integers become float32).

    >>> import torch
    >>> per_image_standardization(torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    images = open_images("per_image_standardization", x)
    y = as_floats(images.batch)
    var, mean = torch.var_mean(y, (1, 2, 3), correction=0, keepdim=True)
    scale = 1 / var.sqrt().clamp_min(1 / math.sqrt(y[0].numel()))
    return images.close(((y - mean) * scale).to(float_dtype(images.batch.dtype)))


def _fitting(name: str, values: Any, y: Tensor) -> Tensor:
    values = torch.as_tensor(values, dtype=y.dtype, device=y.device)
    try:
        shape = torch.broadcast_shapes(values.shape, y.shape)
    except RuntimeError:
        shape = None
    if shape != y.shape:
        raise ValueError(
            f"featurewise_norm: {name} of shape {tuple(values.shape)} does not broadcast to x of shape {tuple(y.shape)}"
        )
    return values
