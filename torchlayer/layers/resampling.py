"""Images made larger or smaller, with the pixel coordinates of TensorFlow 1, and sequences made longer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Activation, Layer, shown

METHODS = ("bilinear", "nearest", "bicubic", "area")


def resize(
    x: Tensor,
    size: tuple[int, int],
    method: str = "bilinear",
    align_corners: bool = False,
    half_pixel_centers: bool = False,
) -> Tensor:
    """Resize images to ``size`` pixels, as ``tf.image.resize_images`` of TensorFlow 1 did.

    Target pixel ``i`` lies at ``i * n_in / n_out``, or at ``i * (n_in - 1) / (n_out - 1)`` with ``align_corners``.
    ``half_pixel_centers`` is the convention of torch (and of TensorFlow 2): ``(i + 0.5) * n_in / n_out - 0.5``.

    Whole numbers come back as float32, unless the method is nearest or nothing changes.

    Shape:
        ``(N, H, W, C) -> (N, *size, C)``.

    >>> import torch
    >>> z = torch.tensor([[0.0, 1.0], [2.0, 4.0]]).view(1, 2, 2, 1)
    >>> resize(z, (2, 4)).squeeze()
    tensor([[0.0000, 0.5000, 1.0000, 1.0000],
            [2.0000, 3.0000, 4.0000, 4.0000]])
    """
    height, width = size
    if x.shape[1] == height and x.shape[2] == width:
        return x
    if method == "nearest":
        return _nearest(x, size, align_corners, half_pixel_centers)
    if not x.is_floating_point():
        x = x.float()
    if half_pixel_centers:
        return _interpolate(x, size, method, align_corners=False)
    if method == "bilinear":
        return _bilinear(x, size, align_corners)
    if method == "area" and not align_corners and all(map(_divides, x.shape[1:3], size)):
        return _interpolate(x, size, "area")
    taps = _cubic_taps if method == "bicubic" else _area_taps
    # The axis that shrinks, or grows less, goes first: the second then has less to do.
    first, second = (1, 2) if height * x.shape[2] <= width * x.shape[1] else (2, 1)
    y = x
    for axis in (first, second):
        y = _weighted_sum(y, axis, *taps(x.shape[axis], size[axis - 1], align_corners, x))
    return y.to(x.dtype)


def _interpolate(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool | None = None) -> Tensor:
    if mode not in ("bilinear", "bicubic"):
        align_corners = None
    return F.interpolate(x.permute(0, 3, 1, 2), size, mode=mode, align_corners=align_corners).permute(0, 2, 3, 1)


def _divides(n_in: int, n_out: int) -> bool:
    """Whether every area window is made of whole pixels or lies within one, as torch's windows are."""
    return n_in % n_out == 0 or n_out % n_in == 0


def _bilinear(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if align_corners:
        return _interpolate(x, size, "bilinear", align_corners=True)
    # With one more row, a copy of the last, and one more output, aligned corners are (n + 1 - 1) / (m + 1 - 1) apart:
    # TensorFlow's n / m, and its clamped border. So torch's kernel serves, and its last output is dropped.
    x = torch.cat([x, x[:, -1:]], 1)
    x = torch.cat([x, x[:, :, -1:]], 2)
    y = F.interpolate(x.permute(0, 3, 1, 2), (size[0] + 1, size[1] + 1), mode="bilinear", align_corners=True)
    return F.pad(y, (0, -1, 0, -1)).permute(0, 2, 3, 1)  # a copy, so that what follows reads memory without gaps


def _nearest(x: Tensor, size: tuple[int, int], align_corners: bool, half_pixel_centers: bool) -> Tensor:
    # Torch's kernels know float32 positions, as TensorFlow computes them, for all but float64, and no whole numbers.
    if x.is_floating_point() and x.dtype != torch.float64 and not align_corners:
        return _interpolate(x, size, "nearest-exact" if half_pixel_centers else "nearest")
    for axis, n_out in zip((1, 2), size):
        n_in = x.shape[axis]
        if half_pixel_centers:
            at = (torch.arange(n_out, dtype=torch.float32, device=x.device) + 0.5) * (n_in / n_out)
        else:
            at = _positions(n_in, n_out, align_corners, x.device)
        index = at.floor()
        if align_corners:
            index = index + (at - index >= 0.5)  # halves away from zero; at + 0.5 may round up too early
        x = x.index_select(axis, index.long().clamp(max=n_in - 1))
    return x


def _scale(n_in: int, n_out: int, align_corners: bool) -> float:
    return (n_in - 1) / (n_out - 1) if align_corners and n_out > 1 else n_in / n_out


def _positions(n_in: int, n_out: int, align_corners: bool, device: torch.device) -> Tensor:
    """Where each target pixel lies, in float32: TensorFlow's rounding decides which neighbour is the nearest."""
    return torch.arange(n_out, dtype=torch.float32, device=device) * _scale(n_in, n_out, align_corners)


def _cubic_taps(n_in: int, n_out: int, align_corners: bool, x: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and weights ``(n_out, 4)`` of Keys' cubic with A = -0.75, whose fraction TensorFlow rounds to 1/1024."""
    at = _positions(n_in, n_out, align_corners, x.device)
    lower = at.floor()
    t = ((at - lower) * 1024).round().to(_exact(x)) / 1024
    weight = torch.stack([_far(1 + t), _near(t), _near(1 - t), _far(2 - t)], 1)
    index = lower.long()[:, None] + torch.arange(-1, 3, device=x.device)
    return index.clamp(0, n_in - 1), weight


def _near(t: Tensor, a: float = -0.75) -> Tensor:
    return ((a + 2) * t - (a + 3)) * t * t + 1


def _far(t: Tensor, a: float = -0.75) -> Tensor:
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a


def _area_taps(n_in: int, n_out: int, align_corners: bool, x: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and weights of the pixels that ``[i * scale, (i + 1) * scale]`` covers; past the end, the last one."""
    scale = _scale(n_in, n_out, align_corners)
    begin = torch.arange(n_out, dtype=_exact(x), device=x.device)[:, None] * scale
    if scale == 0:  # one input pixel with aligned corners: windows of no width, all on it
        return torch.zeros_like(begin, dtype=torch.long), torch.ones_like(begin)
    pixel = begin.floor() + torch.arange(math.ceil(scale) + 1, device=x.device)
    covered = torch.minimum(pixel + 1, begin + scale) - torch.maximum(pixel, begin)
    return pixel.long().clamp(max=n_in - 1), covered.clamp(min=0) / scale


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _weighted_sum(x: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Along ``axis``: ``y[i] = sum over k of weight[i, k] * x[index[i, k]]``."""
    weight = weight.view(*weight.shape, *[1] * (x.dim() - 1 - axis))
    y = x.index_select(axis, index[:, 0]) * weight[:, 0]
    for k in range(1, index.shape[1]):
        y = torch.addcmul(y, x.index_select(axis, index[:, k]).to(y.dtype), weight[:, k])
    return y


class _ResamplingLayer(Layer):
    def __init__(
        self,
        layer: None = None,
        size: float | Sequence[float] = (),
        is_scale: bool = True,
        method: int | str = 0,
        align_corners: bool = False,
        name: str | None = None,
        *,
        half_pixel_centers: bool = False,
    ):
        super().__init__(name=name)
        both = (size, size) if isinstance(size, int | float) else tuple(size)
        if len(both) != 2 or any(n <= 0 for n in both):
            raise ValueError(f"size takes a positive number or two of them, (height, width), got {size!r}")
        if not is_scale and any(n != int(n) for n in both):
            raise ValueError(f"size is in whole pixels when is_scale=False, got {size!r}; scales need is_scale=True")
        if method in METHODS:
            self.method = str(method)
        elif isinstance(method, int) and 0 <= method < len(METHODS):
            self.method = METHODS[method]
        else:
            raise ValueError(f"method is 0 bilinear, 1 nearest, 2 bicubic or 3 area (or the word), got {method!r}")
        if half_pixel_centers and (align_corners or self.method == "area"):
            other = "align_corners=True" if align_corners else "method 'area', which weighs whole windows"
            raise ValueError(f"half_pixel_centers=True cannot be had with {other}; choose one of the two")
        self.size = both if is_scale else (int(both[0]), int(both[1]))
        self.is_scale = is_scale
        self.align_corners = align_corners
        self.half_pixel_centers = half_pixel_centers

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() not in (3, 4):
            raise ValueError(
                f"resampling needs (N, H, W, C) or (H, W, C), got {tuple(x.shape)}; stack a ReshapeLayer first"
            )
        images = x if x.dim() == 4 else x[None]
        height, width = self._target(images.shape[1], images.shape[2])
        y = resize(images, (height, width), self.method, self.align_corners, self.half_pixel_centers)
        return y if x.dim() == 4 else y[0]

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if not self.is_scale:
            return int(self.size[0]), int(self.size[1])
        target = round(self.size[0] * height), round(self.size[1] * width)
        if target[0] < 1 or target[1] < 1:
            raise ValueError(
                f"scales {self.size} leave no pixel of a {height} x {width} image; use larger scales, "
                "or is_scale=False and a size in pixels"
            )
        return target

    def extra_repr(self) -> str:
        half_pixel = ", half_pixel_centers=True" if self.half_pixel_centers else ""
        return (
            f"size={list(self.size)}, is_scale={self.is_scale}, method={self.method}, "
            f"align_corners={self.align_corners}{half_pixel}"
        )


class UpSampling2dLayer(_ResamplingLayer):
    """Images made larger, by a factor or to a size.

    Args:
        size: ``(height, width)`` factors, or pixels with ``is_scale=False``; one number serves both. Factors may be
            fractions: the target is rounded to the nearest pixel.
        is_scale: whether ``size`` is factors.
        method: 0 bilinear, 1 nearest, 2 bicubic, 3 area, or the word. They follow TensorFlow 1, whose source pixel is
            ``i * n_in / n_out``: what trained weights expect. ``F.interpolate`` differs by up to half a pixel.
        align_corners: the corner pixels of input and output are the same points.
        half_pixel_centers: torch's convention, ``F.interpolate(..., align_corners=False)``, instead of TensorFlow 1's.

    Shape:
        ``(N, H, W, C) -> (N, H', W', C)``, or ``(H, W, C) -> (H', W', C)``.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 8))
    >>> tl.layers.UpSampling2dLayer(net, size=(2, 1.5), method=1).outputs.shape
    (None, 56, 42, 8)
    """


class DownSampling2dLayer(_ResamplingLayer):
    """Images made smaller, by a factor or to a size; the arguments are :class:`UpSampling2dLayer`'s.

    A factor is of the output to the input: ``0.5`` halves. Only ``method=3``, area, looks at every input pixel; the
    others look at the one to sixteen nearest.

    Shape:
        ``(N, H, W, C) -> (N, H', W', C)``, or ``(H, W, C) -> (H', W', C)``.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 8))
    >>> tl.layers.DownSampling2dLayer(net, size=(0.5, 0.25), method=3).outputs.shape
    (None, 14, 7, 8)
    """


class SubpixelConv2d(Layer):
    """Channels moved into height and width: ``act(depth_to_space(x))``.

    Channel ``(i * scale + j) * C' + c`` becomes channel ``c`` of the pixel ``(i, j)`` within each block, TensorFlow's
    order; ``F.pixel_shuffle`` takes ``(c * scale + i) * scale + j`` instead.

    Args:
        scale: how many times higher and wider.
        n_out_channel: the channels left, for a check; ``None`` computes them.
        act: applied to the result.

    Shape:
        ``(N, H, W, C' * scale ** 2) -> (N, H * scale, W * scale, C')``.

    Reference:
        Shi et al. 2016, arXiv:1609.05158.

    >>> import torch, torchlayer as tl
    >>> tl.layers.SubpixelConv2d(scale=2)(torch.arange(4.0).view(1, 1, 1, 4)).squeeze()
    tensor([[0., 1.],
            [2., 3.]])
    """

    def __init__(
        self,
        layer: None = None,
        scale: int = 2,
        n_out_channel: int | None = None,
        act: Activation | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        _check_scale(scale)
        if n_out_channel is not None and n_out_channel < 1:
            raise ValueError(f"n_out_channel is a positive number of channels, or None, got {n_out_channel}")
        self.scale, self.n_out_channel, self.act = scale, n_out_channel, act

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(
                f"SubpixelConv2d needs a 4-D input (N, H, W, C), got {tuple(x.shape)}; stack a ReshapeLayer first"
            )
        block = self.scale**2
        left = x.shape[-1] // block if self.n_out_channel is None else self.n_out_channel
        if left < 1 or x.shape[-1] != left * block:
            needed = f"a multiple of {block}" if self.n_out_channel is None else left * block
            raise ValueError(f"scale={self.scale} needs {needed} channels, got {x.shape[-1]}; change the layer before")
        y = x.unflatten(-1, (self.scale, self.scale, left))  # (N, H, W, i, j, C')
        y = y.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)  # (N, H * scale, W * scale, C')
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, n_out_channel={self.n_out_channel}{_shown_act(self.act)}"


class SubpixelConv1d(Layer):
    """Channels moved into the length: ``act(x)`` with ``scale`` times the steps.

    Channel ``j * C' + c`` becomes channel ``c`` of step ``j`` within each block, TensorFlow's order, so that nothing
    moves in memory; ``F.pixel_shuffle`` would take ``c * scale + j`` instead.

    Args:
        scale: how many times longer.
        act: applied to the result.

    Shape:
        ``(N, L, C' * scale) -> (N, L * scale, C')``.

    Reference:
        Shi et al. 2016, arXiv:1609.05158; for audio Kuleshov et al. 2017, arXiv:1708.00853.

    >>> import torch, torchlayer as tl
    >>> tl.layers.SubpixelConv1d(scale=2)(torch.arange(8.0).view(1, 2, 4)).squeeze()
    tensor([[0., 1.],
            [2., 3.],
            [4., 5.],
            [6., 7.]])
    """

    def __init__(self, layer: None = None, scale: int = 2, act: Activation | None = None, name: str | None = None):
        super().__init__(name=name)
        _check_scale(scale)
        self.scale, self.act = scale, act

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError(
                f"SubpixelConv1d needs a 3-D input (N, L, C), got {tuple(x.shape)}; stack a ReshapeLayer first"
            )
        if x.shape[2] < 1 or x.shape[2] % self.scale:
            raise ValueError(
                f"scale={self.scale} needs a multiple of {self.scale} channels, got {x.shape[2]}; "
                "change the layer before"
            )
        y = x.unflatten(2, (self.scale, -1)).flatten(1, 2)  # (N, L * scale, C')
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        return f"scale={self.scale}{_shown_act(self.act)}"


def _check_scale(scale: int) -> None:
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale is a positive whole number, got {scale!r}")


def _shown_act(act: Activation | None) -> str:
    return "" if act is None else f", act={shown(act)}"
