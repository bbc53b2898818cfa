"""Two modules that ought to compute the same: a layer of torchlayer and what one writes with bare torch.nn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of |ours - theirs| / |theirs| in float32, whose own rounding is a hundredth of it


@dataclass(frozen=True)
class Case:
    """``make(*sizes)`` builds a pair; the sizes of each device are lists of its arguments, the smallest first."""

    family: str
    make: Callable[..., Pair]
    cpu: list[tuple[Any, ...]]
    cuda: list[tuple[Any, ...]]


@dataclass
class Side:
    """A module, its inputs, the gradient that comes back to its output, and all that gathers gradients."""

    module: nn.Module
    inputs: list[Tensor]
    gradient: Tensor
    leaves: list[Tensor]

    def step(self) -> None:
        """Forward and backward. A leaf's gradient is new every time, as after ``zero_grad()``."""
        for leaf in self.leaves:
            leaf.grad = None
        self.module(*self.inputs).backward(self.gradient)


@dataclass
class Pair:
    """Both sides, ``weights`` of ours with those of theirs, and what turns their tensors' axes into ours."""

    ours: Side
    theirs: Side
    weights: list[tuple[nn.Parameter, nn.Parameter, bool]]  # whether theirs is transposed
    channels_first: bool

    def check(self) -> None:
        """Raise ``AssertionError`` unless outputs and all gradients are the same."""
        allows_tf32 = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        outputs = []
        for side in (self.ours, self.theirs):
            torch.manual_seed(0)  # the same values are dropped
            outputs.append(side.module(*side.inputs))
            torch.manual_seed(0)
            side.step()
        torch.backends.cudnn.allow_tf32 = allows_tf32
        _same("outputs", outputs[0], self.in_our_order(outputs[1]))
        for i, (ours, theirs) in enumerate(zip(self.ours.inputs, self.theirs.inputs)):
            if ours.requires_grad:
                _same(f"gradients of input {i}", ours.grad, self.in_our_order(theirs.grad))
        for ours, theirs, transposed in self.weights:
            assert theirs.grad is not None
            what = f"gradients of a weight of shape {tuple(ours.shape)}"
            _same(what, ours.grad, theirs.grad.t() if transposed else theirs.grad)

    def in_our_order(self, x: Any) -> Tensor:
        return x.movedim(1, -1) if self.channels_first and x.dim() > 2 else x

    def shape(self) -> str:
        """``128x784 -> 128x800``."""
        return " -> ".join("x".join(map(str, x.shape)) for x in (self.ours.inputs[0], self.ours.gradient))


def paired(
    ours: Any,
    theirs: Any,
    inputs: Tensor | list[Tensor],
    weights: Mapping[str, str] | None = None,
    channels_first: bool = True,
) -> Pair:
    """Give both the same weights and inputs, on the inputs' device.

    Args:
        weights: the names of ours, with the names of theirs. A ``nn.Linear`` holds its weight transposed.
        channels_first: whether theirs wants the channels second. Images and volumes then lie in ``channels_last``
            memory, as the layers of a careful user's network have them; sequences, which have no such memory, in the
            order of their axes.
    """
    xs = inputs if isinstance(inputs, list) else [inputs]
    device = xs[0].device
    if hasattr(ours, "ensure_built"):
        ours.ensure_built(*(tuple(x.shape) for x in xs))
    ours, theirs = ours.to(device), theirs.to(device)
    if channels_first and xs[0].dim() > 3:
        theirs = theirs.to(memory_format=torch.channels_last if xs[0].dim() == 4 else torch.channels_last_3d)
    twins = []
    for name, other in (weights or {}).items():
        holder = theirs.get_submodule(other.rpartition(".")[0])
        twins.append((ours.get_parameter(name), theirs.get_parameter(other), isinstance(holder, nn.Linear)))
    with torch.no_grad():
        for a, b, transposed in twins:
            b.copy_(a.t() if transposed else a)
    ys = [_in_their_order(x) if channels_first else x.clone() for x in xs]
    for x in (*xs, *ys):
        x.requires_grad_(x.is_floating_point())
    gradient = torch.randn_like(ours(*xs).detach().contiguous())
    theirs_gradient = _in_their_order(gradient) if channels_first else gradient
    left, right = (
        Side(module, z, g, [z for z in (*module.parameters(), *z) if z.requires_grad])
        for module, z, g in ((ours, xs, gradient), (theirs, ys, theirs_gradient))
    )
    if len(left.leaves) != len(right.leaves) or len(twins) != len(list(ours.parameters())):
        raise ValueError(f"{ours} and {theirs} have different numbers of weights, or some were not named")
    return Pair(left, right, twins, channels_first)


def _in_their_order(x: Tensor) -> Tensor:
    y = x.detach().movedim(-1, 1)
    if x.dim() == 3:
        return y.contiguous()
    return y.clone() if x.dim() > 3 else x.detach().clone()  # clone() keeps the order in memory


def _same(what: str, ours: Tensor | None, theirs: Tensor) -> None:
    assert ours is not None, f"no {what}"
    assert ours.shape == theirs.shape, f"{what} have the shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    error = (ours - theirs).norm() / theirs.norm()
    assert error < TOLERANCE, f"{what} differ by {error:.1e} of their size"  # a NaN is not smaller
