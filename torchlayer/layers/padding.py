"""TensorFlow's SAME and VALID: the only file that knows them.

Along one axis of length ``n``, a window of ``k`` moving by ``s`` yields ``ceil(n / s)`` outputs under SAME. The zeros
this takes are split in two, and an odd one goes **after**: at the bottom, at the right. So the same layer may pad
(1, 1) on one size and (0, 1) on the next, which no fixed ``padding=`` of torch can say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def same_padding(n: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """How many cells SAME adds before and after an axis of length ``n``.

    >>> same_padding(28, kernel=3, stride=2), same_padding(27, kernel=3, stride=2)
    ((0, 1), (1, 1))
    """
    reach = (kernel - 1) * dilation + 1
    total = max((-(-n // stride) - 1) * stride + reach - n, 0)
    return total // 2, total - total // 2


def pad_same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], value: float = 0.0
) -> tuple[Tensor, list[int]]:
    """Prepare a channels-first ``x`` for a torch op: ``(x, padding)``.

    Symmetric padding is left to the op, which is free; ``x`` is copied only where SAME is lopsided.
    """
    pads = [same_padding(n, k, s, d) for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    return F.pad(x, [p for pair in reversed(pads) for p in pair], value=value), [0] * len(pads)


def check_padding(padding: str) -> str:
    """``"SAME"`` or ``"VALID"``, in any case."""
    if not isinstance(padding, str) or padding.upper() not in ("SAME", "VALID"):
        raise ValueError(f"padding is 'SAME' or 'VALID', got {padding!r}")
    return padding.upper()


def inner(sizes: Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """The spatial part of a TensorFlow list ``[1, h, w, 1]``."""
    if len(sizes) != rank or sizes[0] != 1 or sizes[-1] != 1:
        example = ", ".join(["1", *"dhw"[5 - rank :], "1"])
        raise ValueError(f"{what} takes [{example}] with ones for batch and channels, got {list(sizes)}")
    if any(n < 1 for n in sizes):
        raise ValueError(f"{what} is positive, got {list(sizes)}")
    return tuple(int(n) for n in sizes[1:-1])


def pair(size: int | Sequence[int], what: str) -> tuple[int, int]:
    """``3`` or ``(3, 3)`` as ``(3, 3)``."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2 or any(n < 1 for n in both):
        raise ValueError(f"{what} takes a positive int or two of them, (height, width), got {size!r}")
    return both[0], both[1]
