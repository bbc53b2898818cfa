"""What lies beyond the edges of an image: the fill modes, by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: SciPy's names. Of an axis ``a b c d``: nearest ``a a|a b c d|d d``, reflect ``b a|a b c d|d c``,
#: mirror ``c b|a b c d|c b``, wrap ``c d|a b c d|a b``, constant ``k k|a b c d|k k``.
FILL_MODES = ("nearest", "constant", "reflect", "wrap", "mirror")

# numpy.pad's names for the same, which scikit-image takes. Its "reflect" is SciPy's "mirror".
_OF_NUMPY = {
    "constant": "constant", "edge": "nearest", "symmetric": "reflect", "reflect": "mirror", "wrap": "wrap",
}  # fmt: skip


def checked_fill_mode(owner: str, mode: Any, argument: str = "fill_mode") -> str:
    if mode not in FILL_MODES:
        raise ValueError(f"{owner}: {argument} is one of {', '.join(FILL_MODES)}, got {mode!r}")
    return mode


def fill_mode_of_numpy(owner: str, mode: Any) -> str:
    """scikit-image's ``mode`` as ours."""
    if mode not in _OF_NUMPY:
        raise ValueError(f"{owner}: mode is one of {', '.join(_OF_NUMPY)} (the names of numpy.pad), got {mode!r}")
    return _OF_NUMPY[mode]


def fold(index: Tensor, n: int, mode: str) -> Tensor:
    """Any integers as indices into an axis of length ``n``; for ``constant`` as for ``nearest``."""
    if mode == "wrap":
        return index.remainder(n)
    if mode == "reflect":
        index = index.remainder(2 * n)
        return torch.minimum(index, 2 * n - 1 - index)
    if mode == "mirror":
        period = max(2 * n - 2, 1)
        index = index.remainder(period)
        return torch.minimum(index, period - index) if n > 1 else index
    return index.clamp(0, n - 1)
