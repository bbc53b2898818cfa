"""Images made brighter, darker, stronger or weaker, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._images import Images, T, as_floats, back_to, close_several, open_images, open_several, per_image
from ._random import Draws, Rng


def brightness(x: T, gamma: float = 1, gain: float = 1, is_random: bool = False, *, rng: Rng = None) -> T:
    """``gain * x ** gamma``, where 1 is white: below 1, ``gamma`` makes brighter, above 1 darker.

    scikit-image's ``adjust_gamma``. In integers the greatest is white (255 of uint8), and results are rounded.

    Args:
        is_random: draw ``gamma`` evenly from ``[1 - gamma, 1 + gamma]``, for each image of a batch. The default, 1,
            thus is a range from 0 (all white) to 2.
        rng: where the draws come from.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out.
    Raises:
        ValueError: ``gamma`` is negative, or would be drawn so; a pixel is negative. (On a GPU, and compiled, nobody
            looks: there such a pixel becomes NaN.)

    >>> import numpy as np
    >>> brightness(np.array([[0, 64, 255]], np.uint8), gamma=0.5)
    array([[  0, 128, 255]], dtype=uint8)
    """
    return _brightened("brightness", [open_images("brightness", x)], gamma, gain, is_random, rng)[0]


def brightness_multi(x: Any, gamma: float = 1, gain: float = 1, is_random: bool = False, *, rng: Rng = None) -> Any:
    """:func:`brightness` of several images with one ``gamma``.

    Shape:
        x a list of images, or of batches, whose images share their draws by number. Returns them stacked where shapes
        and dtypes agree, else as a list.

    >>> import numpy as np
    >>> y = brightness_multi([np.full((2, 2), 0.5), np.full((2, 2), 0.5)], gamma=0.5, is_random=True, rng=0)
    >>> bool((y[0] == y[1]).all())
    True
    """
    several = open_several("brightness_multi", x)
    return close_several(_brightened("brightness_multi", several, gamma, gain, is_random, rng))


def contrast(x: T, cutoff: float = 0.5, gain: float = 10, inv: bool = False, is_random: bool = False) -> T:
    """``1 / (1 + exp(gain * (cutoff - x)))``, where 1 is white: a sigmoid that parts dark from bright.

    scikit-image's ``adjust_sigmoid``. In integers the greatest is white (255 of uint8), and results are rounded.

    Args:
        cutoff: what becomes middle grey.
        gain: how steep, ``10`` is strong.
        inv: the negative of it.
        is_random: refused. TensorLayer had no draw here and ignored it; :func:`random_contrast` has one.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out.
    Raises:
        ValueError: a pixel is negative (not looked for on a GPU), or ``is_random``.

    >>> import numpy as np
    >>> contrast(np.array([[0.0, 0.5, 1.0]])).round(4)
    array([[0.0067, 0.5   , 0.9933]])
    """
    return _contrasted("contrast", [open_images("contrast", x)], cutoff, gain, inv, is_random)[0]


def contrast_multi(x: Any, cutoff: float = 0.5, gain: float = 10, inv: bool = False, is_random: bool = False) -> Any:
    """:func:`contrast` of several images.

    Shape:
        x a list of images, or of batches. Returns them stacked where shapes and dtypes agree, else as a list.

    >>> import numpy as np
    >>> contrast_multi([np.eye(2), np.eye(2)]).shape
    (2, 2, 2)
    """
    return close_several(_contrasted("contrast_multi", open_several("contrast_multi", x), cutoff, gain, inv, is_random))


constant, constant_multi = contrast, contrast_multi  # TensorLayer's names for it


def channel_shift(x: T, intensity: float, is_random: bool = False, channel_index: int = 2, *, rng: Rng = None) -> T:
    """Add ``intensity`` to all channels alike, within the least and the greatest value that the image has.

    Args:
        intensity: random: each image's own number is drawn evenly from ``[-intensity, intensity]``.
        channel_index: of an image. All channels get the same number, so it makes no difference; TensorLayer has it.
        rng: where the draws come from.
    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out; integers are rounded.

    >>> import numpy as np
    >>> channel_shift(np.array([[[0.2, 0.5, 0.9]]]), 0.3)
    array([[[0.5, 0.8, 0.9]]])
    """
    return _shifted("channel_shift", [open_images("channel_shift", x)], intensity, is_random, channel_index, rng)[0]


def channel_shift_multi(
    x: Any, intensity: float, is_random: bool = False, channel_index: int = 2, *, rng: Rng = None
) -> Any:
    """:func:`channel_shift` of several images by one number.

    TensorLayer 1.3's, which cannot run, has ``channel_index`` in the place of ``is_random``.

    Shape:
        x a list of images, or of batches, whose images share their draws by number. Returns them stacked where shapes
        and dtypes agree, else as a list.

    >>> import numpy as np
    >>> channel_shift_multi([np.eye(2), np.eye(2)], 0.5, is_random=True, rng=0).shape
    (2, 2, 2)
    """
    several = open_several("channel_shift_multi", x)
    return close_several(_shifted("channel_shift_multi", several, intensity, is_random, channel_index, rng))


def random_brightness(x: T, max_delta: float, *, rng: Rng = None) -> T:
    """Add a number from ``[-max_delta, max_delta)`` to each image: TensorFlow's, which does not clip.

    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out; integers are rounded and kept
        within their range.

    >>> y = random_brightness(torch.zeros(4, 8, 8, 3), max_delta=63, rng=0)
    >>> y.flatten(1).std(1).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    if not max_delta >= 0:
        raise ValueError(f"random_brightness: max_delta is at least 0, got {max_delta!r}")
    images = open_images("random_brightness", x)
    delta = Draws("random_brightness", rng, images).uniform(-max_delta, max_delta)
    return _each(images, lambda y: y + per_image(delta, y))


def random_contrast(x: T, lower: float, upper: float, *, rng: Rng = None) -> T:
    """``(x - mean) * factor + mean`` of each channel, ``factor`` from ``[lower, upper)`` for each image: TensorFlow's.

    Shape:
        ``(H, W)``, ``(H, W, C)`` or ``(N, H, W, C)``, and the same shape and dtype out; integers are rounded and kept
        within their range.

    >>> batch = torch.rand(4, 8, 8, 3)
    >>> y = random_contrast(batch, 0.2, 1.8, rng=0)
    >>> torch.allclose(y.mean((1, 2)), batch.mean((1, 2)), atol=1e-6)
    True
    """
    if not 0 <= lower <= upper:
        raise ValueError(f"random_contrast: 0 <= lower <= upper, got {lower!r} and {upper!r}")
    images = open_images("random_contrast", x)
    factor = Draws("random_contrast", rng, images).uniform(lower, upper)

    def spread(y: Tensor) -> Tensor:
        mean = y.mean((1, 2), keepdim=True)
        return torch.addcmul(mean, y - mean, per_image(factor, y))

    return _each(images, spread)


def _brightened(owner: str, several: list[Images], gamma: float, gain: float, is_random: bool, rng: Rng) -> list[Any]:
    if not gamma >= 0 or (is_random and gamma > 1):
        what = "at most 1 to draw from [1 - gamma, 1 + gamma]" if is_random else "at least 0"
        raise ValueError(f"{owner}: gamma is {what}, got {gamma!r}")
    drawn = Draws(owner, rng, several[0]).uniform(1 - gamma, 1 + gamma) if is_random else None

    def raised(y: Tensor, white: float) -> Tensor:
        power = gamma if drawn is None else per_image(drawn.to(y.device, non_blocking=True), y)
        y = (y if white == 1 else y / white) ** power
        return y if white * gain == 1 else y * (white * gain)

    return [_each_positive(owner, images, raised) for images in several]


def _contrasted(owner: str, several: list[Images], cutoff: float, gain: float, inv: bool, is_random: bool) -> list[Any]:
    if is_random:
        raise ValueError(
            f"{owner} draws nothing (TensorLayer ignored is_random); use random_contrast, or draw the gain"
        )
    sign = -gain if inv else gain  # 1 - sigmoid(z) is sigmoid(-z)
    return [
        _each_positive(owner, images, lambda y, white: torch.sigmoid(sign * (y / white - cutoff)) * white)
        for images in several
    ]


def _shifted(
    owner: str, several: list[Images], intensity: float, is_random: bool, channel_index: int, rng: Rng
) -> list[Any]:
    if channel_index not in (0, 1, 2):
        raise ValueError(f"{owner}: channel_index is 0, 1 or 2, an axis of an image, got {channel_index!r}")
    drawn = Draws(owner, rng, several[0]).uniform(-intensity, intensity) if is_random else None

    def shifted(y: Tensor) -> Tensor:
        low, high = y.amin((1, 2, 3), keepdim=True), y.amax((1, 2, 3), keepdim=True)
        by = intensity if drawn is None else per_image(drawn.to(y.device, non_blocking=True), y)
        return torch.minimum(torch.maximum(y + by, low), high)

    return [_each(images, shifted) for images in several]


def _each(images: Images, fn: Callable[[Tensor], Tensor]) -> Any:
    """``fn`` of the images as floats, and back in their dtype."""
    return images.close(back_to(images.batch.dtype, fn(as_floats(images.batch))))


def _each_positive(owner: str, images: Images, fn: Callable[[Tensor, float], Tensor]) -> Any:
    batch = images.batch
    looks = batch.device.type == "cpu" and batch.dtype.is_signed and not torch.compiler.is_compiling()
    if looks and bool((batch < 0).any()):
        raise ValueError(
            f"{owner} takes pixels of 0 and above, got {batch.min().item():.6g}; shift or rescale the images"
        )
    is_integer = not batch.dtype.is_floating_point and batch.dtype != torch.bool
    white = float(torch.iinfo(batch.dtype).max) if is_integer else 1.0
    return _each(images, lambda y: fn(y, white))
