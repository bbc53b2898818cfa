"""The two ways in which the CIFAR-10 tutorial prepares its images: distorted to train on, cropped to test on."""

from __future__ import annotations

import math

import torch

from ._images import T, as_floats, float_dtype, open_images
from ._pick import pick, span
from ._random import Draws, Rng
from .crop import crop
from .normalise import per_image_standardization


def distorted_images(
    images: T,
    height: int = 24,
    width: int = 24,
    *,
    contrast: tuple[float, float] = (0.2, 1.8),
    rng: Rng = None,
) -> T:
    """A random part of each image, in half of them mirrored, with random contrast, at zero mean and unit deviation.

    The steps of TensorFlow's CIFAR-10 tutorial: a random crop, a random flip from left to right, a random brightness, a
    random contrast (each channel spread about its mean), standardisation over the whole image. Every image has draws of
    its own. The brightness needs none: it adds one number to a whole image, whose mean is subtracted in the end.

    On a GPU this is one gather, one pass for the statistics and one for the result, and nothing waits for the device;
    uint8 images are read as they are. TensorLayer's function of this name ends the program.

    Args:
        height, width: of the part.
        contrast: the factor is drawn evenly from this range.
        rng: where the draws come from, in the order rows, columns, flips, factors.
    Shape:
        ``(H, W, C)`` or ``(N, H, W, C)``, of any numbers ``-> (height, width, C)`` or ``(N, height, width, C)``,
        floating point (integers become float32).
    Raises:
        ValueError: the images are smaller than the part.

    >>> batch = torch.randint(256, (128, 32, 32, 3), dtype=torch.uint8)
    >>> y = distorted_images(batch, rng=0)
    >>> y.shape, y.dtype
    (torch.Size([128, 24, 24, 3]), torch.float32)
    """
    opened = open_images("distorted_images", images)
    batch = opened.batch
    room, play = batch.shape[1] - height, batch.shape[2] - width
    if height < 1 or width < 1 or room < 0 or play < 0:
        raise ValueError(
            f"distorted_images: height={height} and width={width} cannot be cut out of images of {batch.shape[1]} rows "
            f"and {batch.shape[2]} columns"
        )
    low, high = contrast
    if not 0 <= low <= high:
        raise ValueError(f"distorted_images: contrast is a range of factors, 0 <= low <= high, got {contrast!r}")
    draws = Draws("distorted_images", rng, opened)
    rows, columns = span(draws.integers(room + 1), height), span(draws.integers(play + 1), width)
    columns = torch.where((draws.uniform(-1, 1) > 0)[:, None], columns.flip(1), columns)
    y = as_floats(pick(batch, rows, columns))
    factor = draws.uniform(low, high).to(y.dtype).view(-1, 1, 1, 1)

    # With a channel's mean m and variance v, contrast makes m + factor * (x - m), whose variance is factor² * v.
    # So the mean and the variance of the whole image are known before it is computed.
    v, m = torch.var_mean(y, (1, 2), correction=0, keepdim=True)  # (N, 1, 1, C)
    mean = m.mean(3, keepdim=True)
    var = (factor.square() * v + (m - mean).square()).mean(3, keepdim=True)
    scale = 1 / var.sqrt().clamp_min(1 / math.sqrt(y[0].numel()))
    y = torch.addcmul((m - mean) * scale, y - m, factor * scale)
    return opened.close(y.to(float_dtype(batch.dtype)))


def crop_central_whiten_images(images: T, height: int = 24, width: int = 24) -> T:
    """The middle of each image, at zero mean and unit deviation: what :func:`distorted_images` is to be tested on.

    Shape:
        ``(H, W, C)`` or ``(N, H, W, C)``, of any numbers ``-> (height, width, C)`` or ``(N, height, width, C)``,
        floating point (integers become float32).
    Raises:
        ValueError: the images are smaller than the part.

    >>> batch = torch.randint(256, (128, 32, 32, 3), dtype=torch.uint8)
    >>> crop_central_whiten_images(batch).shape
    torch.Size([128, 24, 24, 3])
    """
    open_images("crop_central_whiten_images", images)
    return per_image_standardization(crop(images, width, height))
