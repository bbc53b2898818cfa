"""Gradients that wait for the end of a loop: for a matrix that every step multiplies with, one product over all steps.

Differentiated step by step, each of T steps makes a gradient as large as the matrix from the few rows of its batch, and
adds it to that of the steps before. Here the loop multiplies with a constant and notes what it multiplied; a node in
front of the loop, where the gradients of all steps arrive together, makes the matrix's gradient of it at once.

The loop can then be differentiated once. A second time it raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ..kernels._library import refuse
from .base import exporting
from .cells import Cell, _AffineCell


def can_defer(cells: Sequence[Cell]) -> bool:
    """Whether a loop over these cells may do so: they say where they multiply, and it is run to be differentiated."""
    within_func = torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
    plain = not (torch.compiler.is_compiling() or exporting() or within_func)
    return plain and torch.is_grad_enabled() and all(isinstance(c, _AffineCell) and c.says_where for c in cells)


class Products:
    """``added[t] + x_t @ W_i`` for every step ``t``, each ``W_i`` standing for some columns of ``added``.

    Shape:
        added ``(T, N, R)``, x_t ``(N, D_i)``, W_i ``(D_i, R_i)``.
    """

    def __init__(self, added: Tensor, weights: Sequence[Tensor], columns: Sequence[slice] = (slice(None),)):
        self.read: list[list[Tensor]] = [[] for _ in weights]
        self.weights = [w.detach() for w in weights]
        tapped: Any = _Tap.apply(added, self.read, columns, *weights)
        self.added: tuple[Tensor, ...] = tapped.unbind(0)

    def __call__(self, i: int, added: Tensor, x: Tensor) -> Tensor:
        self.read[i].append(x.detach())
        return torch.addmm(added, x, self.weights[i])


class CellProducts:
    """A cell in a loop: what enters it through a matrix, and its own products.

    Args:
        added: ``(T, N, R)``, the part of its sum that no step changes.
        entering: ``(D, R)``, what the rest enters through.
    """

    def __init__(self, cell: _AffineCell, added: Tensor, entering: Tensor):
        self.cell = cell
        blocks = [block.T for block in cell.blocks()]
        ends = list(accumulate((block.shape[1] for block in blocks), initial=0))
        columns = [slice(a, b) for a, b in pairwise(ends)]
        if cell.adds_apart:  # the state's products are no part of the same sum
            self.entering = Products(added, [entering])
            self.own = Products(cell.get_parameter("bias_hh").expand_as(added), blocks, columns)
            self.first = 0
        else:
            self.entering = self.own = Products(added, [entering, *blocks], [slice(None), *columns])
            self.first = 1

    def advance(self, t: int, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Step ``t`` from ``x`` ``(N, D)``."""
        apart = self.own.added[t] if self.cell.adds_apart else None
        y = self.entering(0, self.entering.added[t], x)
        return self.cell.advance_with(
            y, state, lambda i, added, h: self.own(self.first + i, added if apart is None else apart, h)
        )


class Reading:
    """``weights_t @ values`` for every step, whose gradient for ``values`` is one product over all steps.

    Shape:
        values ``(N, I, D)``, weights ``(N, 1, I)``; gives ``(N, D)``.
    """

    def __init__(self, values: Tensor, n_steps: int):
        self.read: list[Tensor] = []
        self.values = values.detach()
        zeros = values.new_zeros(n_steps, values.shape[0], 1, values.shape[2])
        tapped: Any = _ReadTap.apply(zeros, self.read, values)
        self.added: tuple[Tensor, ...] = tapped.unbind(0)

    def __call__(self, t: int, weights: Tensor) -> Tensor:
        self.read.append(weights.detach())
        return torch.baddbmm(self.added[t], weights, self.values)[:, 0]


def once(anchor: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors, whose gradients cannot be differentiated; ``anchor`` is what the loop takes for a constant."""
    return _Guard.apply(anchor, *tensors)  # type: ignore[return-value]


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, added: Tensor, read: list[list[Tensor]], columns: Sequence[slice], *weights: Tensor
    ) -> Tensor:
        ctx.read, ctx.columns = read, columns
        ctx.save_for_backward(*weights)
        return added.view_as(added)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        weights = ctx.saved_tensors
        gradients = [d]
        with torch.autocast(d.device.type, enabled=False):
            for x, of, weight in zip(ctx.read, ctx.columns, weights):
                steps = torch.cat([part.to(d.dtype) for part in x])  # (T * N, D)
                gradients.append((steps.T @ d[..., of].flatten(0, 1)).to(weight.dtype))
        d_added, *d_weights = _only_once(gradients, weights[0])
        return d_added, None, None, *d_weights


class _ReadTap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zeros: Tensor, read: list[Tensor], values: Tensor) -> Tensor:
        ctx.read = read
        ctx.save_for_backward(values)
        return zeros.view_as(zeros)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Any, ...]:
        (values,) = ctx.saved_tensors
        with torch.autocast(d.device.type, enabled=False):
            weights = torch.cat([part.to(d.dtype) for part in ctx.read], 1)  # (N, T, I)
            d_values = torch.bmm(weights.transpose(1, 2), d[:, :, 0].transpose(0, 1)).to(values.dtype)
        return None, None, *_only_once([d_values], values)


class _Guard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(anchor)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, *_only_once(list(gradients), *ctx.saved_tensors)


class _Refuse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.clone()

    backward = staticmethod(refuse("a decoder with attention can be differentiated once, not twice"))


def _only_once(gradients: list[Tensor], anchor: Tensor) -> list[Tensor]:
    if not torch.is_grad_enabled():  # nobody asked for create_graph
        return gradients
    return [_Refuse.apply(gradient, anchor) for gradient in gradients]  # type: ignore[misc]
