"""What every function on images does first and last: the caller's layout to a batch (N, H, W, C), and back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T", np.ndarray, Tensor)  # what comes in as an array goes out as an array, a tensor as a tensor
Axes = tuple[int, int, int]


class Images(NamedTuple):
    """A batch ``(N, H, W, C)``, and what the caller had: how many axes, where, and of which kind."""

    batch: Tensor
    n_dims: int
    axes: Axes
    is_array: bool

    def close(self, batch: Tensor) -> Any:
        """A result ``(N, h, w, C)`` as the caller had the images."""
        if self.n_dims == 2:
            batch = batch[0, :, :, 0]
        else:
            if self.axes != (0, 1, 2):
                batch = batch.permute(0, *(1 + self.axes.index(axis) for axis in range(3)))
            if self.n_dims == 3:
                batch = batch[0]
        batch = batch.contiguous()
        return batch.numpy() if self.is_array else batch


def open_images(owner: str, x: Any, axes: Axes = (0, 1, 2)) -> Images:
    """An image ``(H, W)`` or ``(H, W, C)``, or a batch ``(N, H, W, C)``, as a batch that may share the caller's memory.

    Args:
        owner: the public function, for its errors.
        axes: where an image has its rows, columns and channels.
    """
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(
            f"{owner}: row_index, col_index and channel_index are 0, 1 and 2 in some order (they are axes of an image, "
            f"after the first axis of a batch), got {axes[0]}, {axes[1]}, {axes[2]}"
        )
    is_array = isinstance(x, np.ndarray)
    if is_array:
        batch = as_tensor(owner, x)
    elif isinstance(x, Tensor):
        batch = x
        if x.is_complex():
            raise TypeError(f"{owner} takes images of real numbers, got {x.dtype}")
    else:
        hint = "; for several images that share their draws there is the function that ends in _multi"
        raise TypeError(
            f"{owner} takes an image or a batch as a NumPy array or a tensor, got {type(x).__name__}; convert it with "
            f"numpy.asarray{hint if isinstance(x, (list, tuple)) else ''}"
        )
    n_dims = batch.dim()
    if n_dims not in (2, 3, 4) or 0 in batch.shape:
        raise ValueError(
            f"{owner} takes an image (H, W) or (H, W, C), or a batch (N, H, W, C), none of them 0, got shape "
            f"{tuple(x.shape)}"
        )
    if n_dims == 2:
        batch = batch[None, :, :, None]
    else:
        batch = batch[None] if n_dims == 3 else batch
        batch = batch.permute(0, *(1 + axis for axis in axes))  # (N, H, W, C)
    return Images(batch, n_dims, axes, is_array)


def open_several(owner: str, x: Any, axes: Axes = (0, 1, 2)) -> list[Images]:
    """The images, or the batches of ``N`` each, that a function which ends in ``_multi`` was given."""
    if not isinstance(x, (list, tuple, np.ndarray, Tensor)) or (not isinstance(x, (list, tuple)) and x.ndim < 3):
        what = f"{type(x).__name__}" if not hasattr(x, "shape") else f"one of shape {tuple(x.shape)}"
        raise TypeError(f"{owner} takes a list of images that share their draws, or an array of them, got {what}")
    if len(x) == 0:
        raise ValueError(f"{owner} got no images, an empty {type(x).__name__}")
    opened = [open_images(owner, image, axes) for image in x]
    if len({len(images.batch) for images in opened}) > 1:
        raise ValueError(
            f"{owner} takes single images, or batches of equally many images, got shapes "
            + ", ".join(str(tuple(image.shape)) for image in x)
        )
    return opened


def close_several(results: Sequence[Any]) -> Any:
    """Stacked where the kinds, shapes and dtypes agree, as in TensorLayer; else a list."""
    first = results[0]
    if all(type(y) is type(first) and y.shape == first.shape and y.dtype == first.dtype for y in results):
        if isinstance(first, np.ndarray):
            return np.stack(results)
        if all(y.device == first.device for y in results):
            return torch.stack(tuple(results))
    return list(results)


def as_floats(batch: Tensor) -> Tensor:
    """Numbers to compute with: float32 for integers and for halves, which round positions and sums too much."""
    return batch if batch.dtype in (torch.float32, torch.float64) else batch.float()


def back_to(dtype: torch.dtype, y: Tensor) -> Tensor:
    """Results of arithmetic in the images' dtype; integers are rounded and kept within their range."""
    if y.dtype == dtype:
        return y
    if dtype.is_floating_point:
        return y.to(dtype)
    if dtype == torch.bool:
        return y >= 0.5
    limits = torch.iinfo(dtype)
    return y.round().clamp(limits.min, limits.max).to(dtype)


def float_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of results that lie between the images' values: theirs if it is floating point, else float32."""
    return dtype if dtype.is_floating_point else torch.float32


def without_autocast(batch: Tensor) -> Any:
    """A context in which products keep all digits of float32."""
    return nullcontext() if batch.is_meta else torch.autocast(batch.device.type, enabled=False)


def per_image(values: Tensor, batch: Tensor) -> Tensor:
    """A number for each image, ``(N,)``, as ``(N, 1, 1, 1)`` in the dtype of the batch."""
    return values.to(batch.dtype).view(-1, 1, 1, 1)


def as_tensor(owner: str, x: np.ndarray) -> Tensor:
    """An array of real numbers as a tensor that may share its memory."""
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        raise TypeError(f"{owner} takes images of real numbers, got an array of {x.dtype}; convert it with x.astype")
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    # torch knows no negative strides and warns of memory that it may not write to
    return torch.from_numpy(np.ascontiguousarray(x) if x.flags.writeable else x.copy())
