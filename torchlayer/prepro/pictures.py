"""Arrays as Pillow's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


def array_to_img(x: Any, dim_ordering: Sequence[int] = (0, 1, 2), scale: bool = True) -> Image:
    """One image as a ``PIL.Image``, RGB or grey.

    Args:
        x: an array or a tensor, which is not changed.
        dim_ordering: where rows, columns and channels are: ``(1, 2, 0)`` for ``(C, H, W)``.
        scale: add what makes the least value 0, if it is negative, and make the greatest 255. A least value above 0
            stays above. Otherwise values are taken as they are, from 0 to 255.
    Shape:
        x ``(H, W, C)`` with C 1 or 3, or ``(H, W)``.
    Raises:
        ImportError: Pillow is not installed.
        ValueError: neither 1 nor 3 channels.

    >>> import numpy as np
    >>> array_to_img(np.array([[-1.0, 0], [1, 2]])).getpixel((1, 0))
    85
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError(
            "array_to_img makes images of Pillow, which is not installed; pip install torchlayer[vis]"
        ) from None
    array = np.asarray(x.detach().cpu().float() if isinstance(x, Tensor) else x, dtype=np.float64)
    if array.ndim == 2:
        array = array[:, :, None]
    elif sorted(dim_ordering) != [0, 1, 2] or array.ndim != 3:
        raise ValueError(
            f"array_to_img takes one image (H, W, C) with dim_ordering 0, 1 and 2 in some order, got shape "
            f"{array.shape} and {tuple(dim_ordering)}"
        )
    else:
        array = array.transpose(dim_ordering)
    if array.shape[2] not in (1, 3):
        raise ValueError(
            f"array_to_img takes 1 or 3 channels, got {array.shape[2]} in shape {np.shape(x)}; if the channels come "
            "first, dim_ordering=(1, 2, 0)"
        )
    if scale:
        array = array + max(-array.min(), 0)
        array = array * (255 / (array.max() or 1))
    pixels = np.rint(array).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
