"""Layers that add a border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..network import Network
from .base import Layer

_MODES = ("CONSTANT", "REFLECT", "SYMMETRIC")


class PadLayer(Layer):
    """Cells added before and after each axis.

    ``[1, 2, 3]`` padded by ``(2, 2)``: CONSTANT ``0 0 1 2 3 0 0``, REFLECT ``3 2 1 2 3 2 1``, SYMMETRIC
    ``2 1 1 2 3 3 2``.

    Args:
        paddings: ``(before, after)`` for every axis, the first (the batch) first; lists, or an integer array or tensor.
        mode: ``"CONSTANT"`` (zeros), ``"REFLECT"`` (mirrored, the edge not repeated) or ``"SYMMETRIC"`` (mirrored, the
            edge repeated), in any case.
        padding: another name of ``paddings``.

    Shape:
        ``(n_0, n_1, ...) -> (before_0 + n_0 + after_0, ...)``.

    >>> import torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 28, 28, 3))
    >>> tl.layers.PadLayer(net, [[0, 0], [2, 2], [3, 3], [0, 0]], "REFLECT").outputs.shape
    (None, 32, 34, 3)
    """

    def __init__(
        self,
        layer: None = None,
        paddings: Any = None,
        mode: str = "CONSTANT",
        name: str | None = None,
        *,
        padding: Any = None,
    ):
        super().__init__(name=name)
        if (paddings is None) == (padding is None):
            raise ValueError(
                "paddings is (before, after) for every axis, such as [[0, 0], [2, 2], [2, 2], [0, 0]], "
                + ("but none was given" if padding is None else "given twice, as paddings and as padding")
            )
        if not isinstance(mode, str) or mode.upper() not in _MODES:
            raise ValueError(f"mode is 'CONSTANT', 'REFLECT' or 'SYMMETRIC', got {mode!r}")
        self.paddings = _table(padding if paddings is None else paddings)
        self.mode = mode.upper()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != len(self.paddings):
            raise ValueError(
                f"paddings has {len(self.paddings)} rows, one an axis, but the input is {tuple(x.shape)}; "
                "count the batch and the channels too, with [0, 0]"
            )
        if self.mode == "CONSTANT":
            return F.pad(x, [n for row in reversed(self.paddings) for n in row])
        skip = int(self.mode == "REFLECT")
        for axis, (before, after) in enumerate(self.paddings):
            if max(before, after) > max(x.shape[axis] - skip, 0):
                raise ValueError(
                    f"axis {axis} of length {x.shape[axis]} can be mirrored by at most {max(x.shape[axis] - skip, 0)} "
                    f"cells, got {(before, after)}; pad less, or use mode='CONSTANT'"
                )
        if skip and _has_a_kernel(x, self.paddings):
            return _reflect(x, self.paddings[1:-1])
        mirror = _mirror if torch.compiler.is_compiling() else _Mirrored.apply
        for axis, (before, after) in enumerate(self.paddings):
            if before or after:
                x = mirror(x, axis, before, after, skip)
        return x

    def extra_repr(self) -> str:
        return f"paddings={[list(row) for row in self.paddings]}, mode={self.mode}"


def _has_a_kernel(x: Tensor, paddings: tuple[tuple[int, int], ...]) -> bool:
    """Whether torch is to reflect this: sequences, images and volumes, not their batch or channels.

    Not on CUDA: its kernels turn the data channels first and back, and add up gradients in any order.
    """
    inside = 3 <= x.dim() <= 5 and not any(paddings[0] + paddings[-1])
    return inside and x.is_floating_point() and not x.is_cuda


def _reflect(x: Tensor, paddings: tuple[tuple[int, int], ...]) -> Tensor:
    wide = x.unsqueeze(1) if x.dim() == 3 else x  # (N, 1, T, C): three axes have no channels_last memory
    flat = [n for row in reversed(paddings) for n in row] + [0, 0] * (wide.dim() - x.dim())
    y = F.pad(wide.movedim(-1, 1), flat, mode="reflect").movedim(1, -1)
    return y.squeeze(1) if x.dim() == 3 else y


def _mirror(x: Tensor, axis: int, before: int, after: int, skip: int) -> Tensor:
    """Continue ``x`` by its mirror image, which begins ``skip`` cells from the edge: any axis, any dtype."""
    n = x.shape[axis]
    head = x.narrow(axis, skip, before).flip(axis)
    tail = x.narrow(axis, n - skip - after, after).flip(axis)
    return torch.cat([head, x, tail], axis)


class _Mirrored(torch.autograd.Function):
    """`_mirror`, whose gradient is the inside of what comes back, and the two ends folded onto it.

    Autograd would make three tensors as large as the input and add them up.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, axis: int, before: int, after: int, skip: int) -> Tensor:  # pyright: ignore
        return _mirror(x, axis, before, after, skip)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.how = (inputs[0].shape[inputs[1]], *inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore
        n, axis, before, after, skip = ctx.how
        inside = grad.narrow(axis, before, n).clone(memory_format=torch.contiguous_format)
        if before:
            inside.narrow(axis, skip, before).add_(grad.narrow(axis, 0, before).flip(axis))
        if after:
            inside.narrow(axis, n - skip - after, after).add_(grad.narrow(axis, before + n, after).flip(axis))
        return inside, None, None, None, None


def _table(paddings: Any) -> tuple[tuple[int, int], ...]:
    rows = paddings.tolist() if hasattr(paddings, "tolist") else paddings
    try:
        table = tuple((int(before), int(after)) for before, after in rows)
    except (TypeError, ValueError):
        table = ()
    if not table or any(n < 0 for row in table for n in row):
        raise ValueError(f"paddings takes (before, after), not negative, for every axis, got {rows!r}")
    return table


@overload
def ZeroPad1d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def ZeroPad1d(net: None = None, *args: Any, **kwargs: Any) -> PadLayer: ...
def ZeroPad1d(  # the original's name is a class's
    net: Network | None = None, padding: int | Sequence[int] = (), name: str | None = None
) -> Network | PadLayer:
    """:class:`PadLayer` in short: zeros around the steps of ``(N, T, C)``.

    Args:
        padding: for both ends, or ``(before, after)``.

    >>> import torchlayer as tl
    >>> tl.layers.ZeroPad1d(tl.layers.InputLayer((None, 10, 8)), (2, 0)).outputs.shape
    (None, 12, 8)
    """
    return _zero_pad(net, padding if isinstance(padding, int) else [padding], 1, name)


@overload
def ZeroPad2d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def ZeroPad2d(net: None = None, *args: Any, **kwargs: Any) -> PadLayer: ...
def ZeroPad2d(  # the original's name is a class's
    net: Network | None = None, padding: int | Sequence[int | Sequence[int]] = (), name: str | None = None
) -> Network | PadLayer:
    """:class:`PadLayer` in short: zeros around the images of ``(N, H, W, C)``.

    Args:
        padding: for all sides, ``(height, width)``, or ``((top, bottom), (left, right))``.

    >>> import torchlayer as tl
    >>> tl.layers.ZeroPad2d(tl.layers.InputLayer((None, 28, 28, 3)), (2, (0, 1))).outputs.shape
    (None, 32, 29, 3)
    """
    return _zero_pad(net, padding, 2, name)


@overload
def ZeroPad3d(net: Network, *args: Any, **kwargs: Any) -> Network: ...
@overload
def ZeroPad3d(net: None = None, *args: Any, **kwargs: Any) -> PadLayer: ...
def ZeroPad3d(  # the original's name is a class's
    net: Network | None = None, padding: int | Sequence[int | Sequence[int]] = (), name: str | None = None
) -> Network | PadLayer:
    """:class:`PadLayer` in short: zeros around the volumes of ``(N, D, H, W, C)``.

    Args:
        padding: for all sides, ``(depth, height, width)``, or three pairs ``(before, after)``.
    """
    return _zero_pad(net, padding, 3, name)


def _zero_pad(net: Network | None, padding: Any, rank: int, name: str | None) -> Network | PadLayer:
    per_axis = [padding] * rank if isinstance(padding, int) else list(padding)
    rows = [(n, n) if isinstance(n, int) else tuple(n) for n in per_axis]
    if len(rows) != rank or any(len(row) != 2 or min(row) < 0 for row in rows):
        shown = padding[0] if rank == 1 and isinstance(padding, list) else padding
        takes = "an int or (before, after)" if rank == 1 else f"an int, {rank} ints or {rank} pairs (before, after)"
        raise ValueError(f"padding takes {takes}, not negative, got {shown!r}")
    return PadLayer(net, [(0, 0), *rows, (0, 0)], "CONSTANT", name)
