"""TensorFlow's SAME and VALID: the only file that knows them.

Along one axis of length ``n``, a window of ``k`` moving by ``s`` yields ``ceil(n / s)`` outputs under SAME. The zeros
this takes are split in two, and an odd one goes **after**: at the bottom, at the right. So the same layer may pad
(1, 1) on one size and (0, 1) on the next, which no fixed ``padding=`` of torch can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch.nn.functional as F
from torch import Tensor

AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}
# Of channels-last data, and back. Seen channels first they lie in memory as torch's channels_last. (permute, told
# these, costs less than movedim.)
FIRST = {1: (0, 2, 1), 2: (0, 3, 1, 2), 3: (0, 4, 1, 2, 3)}
LAST = {1: (0, 2, 1), 2: (0, 2, 3, 1), 3: (0, 2, 3, 4, 1)}
_COUNTS = {2: "two", 3: "three"}


def same_padding(n: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """How many cells SAME adds before and after an axis of length ``n``.

    >>> same_padding(28, kernel=3, stride=2), same_padding(27, kernel=3, stride=2)
    ((0, 1), (1, 1))
    """
    reach = (kernel - 1) * dilation + 1
    total = max((-(-n // stride) - 1) * stride + reach - n, 0)
    return total // 2, total - total // 2


def fixed_padding(
    padding: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int] | None:
    """The ``padding`` of a torch op that is right for inputs of every size, if there is one.

    There is one under VALID, and under SAME for odd filters that move by one.

    >>> fixed_padding("SAME", (3, 5), (1, 1), (1, 1)), fixed_padding("SAME", (3, 5), (2, 2), (1, 1))
    ([1, 2], None)
    """
    if padding == "VALID":
        return [0] * len(kernel)
    both = [(k - 1) * d for k, d in zip(kernel, dilation)]
    return [n // 2 for n in both] if set(stride) == {1} and not any(n % 2 for n in both) else None


def pad_same(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Prepare a channels-first ``x`` for a torch op over its last axes: ``(x, padding)``.

    Symmetric padding is left to the op, which is free; ``x`` is copied only where SAME is lopsided.
    """
    pads = [same_padding(n, k, s, d) for n, k, s, d in zip(x.shape[-len(kernel) :], kernel, stride, dilation)]
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    return F.pad(x, [n for pair in reversed(pads) for n in pair]), [0] * len(pads)


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


def numbers(size: int | Sequence[int], rank: int, what: str) -> tuple[int, ...]:
    """``3`` or ``(3, 3)`` as one positive int an axis.

    >>> numbers(3, 2, "strides")
    (3, 3)
    """
    each = tuple(size) if isinstance(size, Iterable) else (size,) * rank
    if len(each) != rank or not all(isinstance(n, Integral) and n > 0 for n in each):
        many = f" or {_COUNTS[rank]} of them, ({AXES[rank]})" if rank > 1 else ""
        raise ValueError(f"{what} takes a positive int{many}, got {size!r}")
    return tuple(int(n) for n in each)


def pair(size: int | Sequence[int], what: str) -> tuple[int, int]:
    """:func:`numbers` of two axes."""
    height, width = numbers(size, 2, what)
    return height, width
