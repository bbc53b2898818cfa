"""Images pulled out of shape like a sheet of rubber."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._edges import checked_fill_mode, fold
from ._images import Images, T, close_several, open_images, open_several, without_autocast
from ._random import Draws, Rng
from ._sample import position_dtype, sample

_TRUNCATE = 4.0  # deviations at which SciPy's gaussian ends


def elastic_transform(
    x: T,
    alpha: float,
    sigma: float,
    mode: str = "constant",
    cval: float = 0,
    is_random: bool = False,
    *,
    fill_mode: str = "constant",
    rng: Rng = None,
) -> T:
    """Read each pixel a little aside: ``alpha`` times a field of noise from [-1, 1), smoothed by a gaussian.

    Rows and columns have fields of their own, the channels of an image share them. Without ``is_random`` the fields are
    the same at every call. (In TensorLayer ``is_random=False`` drew new ones at every call, and ``True`` took the
    second of the clock for a seed.)

    Args:
        alpha: how far, sigma: how smoothly, in pixels. Simard et al. have 34 and 4 on MNIST (and kernels that sum to
            1, as these do).
        mode, cval: how the noise goes on beyond the edges while it is smoothed: ``nearest``, ``constant``, ``reflect``,
            ``wrap`` or ``mirror``, as SciPy's ``gaussian_filter`` has them.
        is_random: draw fields, for each image of a batch.
        fill_mode: what the image is beyond its edges, see :func:`~torchlayer.prepro.remap`; ``constant`` is 0.
        rng: where the noise comes from.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)`` and the same out, floating point (integers become float32).
    Raises:
        ValueError: no such mode, or ``sigma`` is negative.
    Reference:
        Simard et al. 2003, Best practices for convolutional neural networks applied to visual document analysis,
        https://doi.org/10.1109/ICDAR.2003.1227801.

    >>> digits = torch.rand(16, 28, 28, 1)
    >>> elastic_transform(digits, alpha=34, sigma=4, is_random=True, rng=0).shape
    torch.Size([16, 28, 28, 1])
    """
    images = [open_images("elastic_transform", x)]
    return _pulled("elastic_transform", images, alpha, sigma, mode, cval, is_random, fill_mode, rng)[0]


def elastic_transform_multi(
    x: Any,
    alpha: float,
    sigma: float,
    mode: str = "constant",
    cval: float = 0,
    is_random: bool = False,
    *,
    fill_mode: str = "constant",
    rng: Rng = None,
) -> Any:
    """:func:`elastic_transform` of several images by the same fields.

    Shape:
        x a list of images of one height and width, or of batches, whose images share their fields by number. Returns
        them stacked where shapes and dtypes agree, else as a list.

    >>> import numpy as np
    >>> elastic_transform_multi([np.eye(28), np.eye(28)], alpha=34, sigma=4, is_random=True, rng=0).shape
    (2, 28, 28)
    """
    several = open_several("elastic_transform_multi", x)
    results = _pulled("elastic_transform_multi", several, alpha, sigma, mode, cval, is_random, fill_mode, rng)
    return close_several(results)


def _pulled(
    owner: str,
    several: list[Images],
    alpha: float,
    sigma: float,
    mode: str,
    cval: float,
    is_random: bool,
    fill_mode: str,
    rng: Rng,
) -> list[Any]:
    mode, outside = checked_fill_mode(owner, mode, "mode"), checked_fill_mode(owner, fill_mode)
    if not sigma >= 0:
        raise ValueError(f"{owner}: sigma is a number of pixels, at least 0, got {sigma!r}")
    height, width = several[0].batch.shape[1:3]
    if any(images.batch.shape[1:3] != (height, width) for images in several):
        sizes = ", ".join(f"{images.batch.shape[1]} x {images.batch.shape[2]}" for images in several)
        raise ValueError(f"{owner} pulls images of one size by the same fields, got {sizes}")
    if is_random:
        noise = Draws(owner, rng, several[0]).field(2, height, width)
    else:
        noise = torch.from_numpy(np.random.default_rng(0).random((1, 2, height, width)))
    results = []
    for images in several:
        batch = images.batch
        dtype = position_dtype(batch)
        field = noise.to(batch.device, dtype, non_blocking=True) * 2 - 1
        with without_autocast(batch):  # which would move positions by a hundredth
            field = alpha * _smoothed(field, sigma, mode, cval)  # (N, 2, H, W)
        rows = field[:, 0] + torch.arange(height, device=batch.device, dtype=dtype).view(-1, 1)
        columns = field[:, 1] + torch.arange(width, device=batch.device, dtype=dtype)
        results.append(images.close(sample(batch, rows, columns, 1, outside, 0.0)))
    return results


def _smoothed(field: Tensor, sigma: float, mode: str, cval: float) -> Tensor:
    """SciPy's ``gaussian_filter`` of the last two axes: two matrix products, whatever the gaussian's width."""
    for axis in (-2, -1):
        weights = _gaussian(field.shape[axis], sigma, mode, field)
        field = (weights @ field) if axis == -2 else (field @ weights.T)
        if mode == "constant" and cval:
            beyond = cval * (1 - weights.sum(1))  # of the gaussian at each place
            field = field + (beyond.view(-1, 1) if axis == -2 else beyond)
    return field


def _gaussian(n: int, sigma: float, mode: str, like: Tensor) -> Tensor:
    """``(n, n)``: what each of ``n`` places takes from each, beyond the edges as the mode has it."""
    radius = int(_TRUNCATE * sigma + 0.5)
    step = torch.arange(-radius, radius + 1, device=like.device)
    weights = torch.exp(-0.5 * (step.to(like.dtype) / max(sigma, 1e-30)) ** 2)
    weights = (weights / weights.sum()).expand(n, -1)
    places = torch.arange(n, device=like.device).view(-1, 1) + step  # (n, 2 radius + 1)
    folded = fold(places, n, mode)
    if mode == "constant":
        weights = weights * (folded == places)
    return like.new_zeros(n, n).scatter_add_(1, folded, weights)
