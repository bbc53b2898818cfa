"""Discounted sums along the last axis, from the right: what rewards to come are worth now."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _library

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def discounted_sum(rewards: Tensor, gamma: float = 0.99, reset: bool = True) -> Tensor:
    """Sum the rewards to come, each step further away worth ``gamma`` times less.

    Equals, for every row::

        for t in reversed(range(T)):
            total = rewards[t] + gamma * total          # total = rewards[t] if reset and rewards[t] != 0
            y[t] = total

    Differentiable once in ``rewards``; the restarts are taken as given.

    Args:
        reset: a non-zero reward ends a rally, as in Pong: the sum starts anew there and nothing later counts.

    Shape:
        rewards ``(*, T)`` of a floating dtype (sixteen bits are summed in float32); returns the same.

    Raises:
        TypeError: ``rewards`` is no dense tensor of a floating dtype, or ``gamma`` no number.
        ValueError: ``gamma`` lies outside [0, 1], or ``rewards`` has no axis.

    >>> discounted_sum(torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0]), gamma=0.5)
    tensor([0.2500, 0.5000, 1.0000, 0.5000, 1.0000])
    >>> discounted_sum(torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0]), gamma=0.5, reset=False)
    tensor([0.3125, 0.6250, 1.2500, 0.5000, 1.0000])
    """
    _check(rewards, gamma)
    _library.check_no_tangents(_op, (rewards,))
    return torch.ops.torchlayer.discounted_sum(rewards, gamma, reset)


def _check(rewards: Tensor, gamma: float) -> None:
    if not isinstance(rewards, Tensor):
        raise TypeError(f"discounted_sum needs a tensor of rewards, got {type(rewards).__name__}; use torch.as_tensor")
    if not _library.is_block(rewards):
        raise TypeError("discounted_sum needs dense rewards, got a sparse or nested tensor; call rewards.to_dense()")
    if rewards.dtype not in _DTYPES:
        raise TypeError(f"discounted_sum needs floating-point rewards, got {rewards.dtype}; call rewards.float()")
    if rewards.dim() == 0:
        raise ValueError("discounted_sum needs rewards along a last axis, got a scalar")
    try:
        inside = 0 <= gamma <= 1
    except TypeError:
        raise TypeError(f"discounted_sum needs gamma as a number, got {type(gamma).__name__}") from None
    if not inside:
        raise ValueError(f"discounted_sum needs gamma between 0 and 1, got {gamma}")


def _reference(rewards: Tensor, gamma: float, reset: bool) -> Tensor:
    _check(rewards, gamma)
    cut = rewards != 0 if reset else torch.zeros_like(rewards, dtype=torch.bool)
    return _scan(rewards, cut, gamma)


def _reference_backward(grad: Tensor, rewards: Tensor, gamma: float, reset: bool) -> Tensor:
    _check(rewards, gamma)
    # The transpose: the same scan from the other end. A reward reaches no sum beyond the restart on its left.
    cut = torch.zeros_like(rewards, dtype=torch.bool)
    if reset:
        cut[..., 1:] = rewards[..., :-1] != 0
    return _scan(grad.flip(-1), cut.flip(-1), gamma).flip(-1)


def _scan(values: Tensor, cut: Tensor, gamma: float) -> Tensor:
    """``y[t] = values[t] + (0 if cut[t] else gamma * y[t + 1])``, reaching twice as far in every round."""
    total = values.double() if values.dtype == torch.float64 else values.float()
    unbroken = ~cut  # [t]: no cut from t on, as far as total[t] reaches
    reach = 1
    while reach < values.shape[-1]:
        beyond = torch.where(unbroken[..., :-reach], gamma**reach * total[..., reach:], 0)
        total = torch.cat((total[..., :-reach] + beyond, total[..., -reach:]), -1)
        unbroken = torch.cat((unbroken[..., :-reach] & unbroken[..., reach:], unbroken[..., -reach:]), -1)
        reach *= 2
    return total.to(values.dtype, memory_format=torch.contiguous_format, copy=True)


def _fake(values: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _example(device: torch.device) -> tuple[Tensor, float, bool]:
    generator = torch.Generator(device).manual_seed(0)
    rewards = torch.randn(64, 2000, device=device, generator=generator)
    return rewards * (rewards > 2), 0.99, True  # about one step in forty is rewarded


def _example_backward(device: torch.device) -> tuple[Tensor, Tensor, float, bool]:
    rewards, gamma, reset = _example(device)
    return torch.ones_like(rewards), rewards, gamma, reset


def _setup_context(ctx: Any, inputs: tuple[Tensor, float, bool], output: Tensor) -> None:
    rewards, ctx.gamma, ctx.reset = inputs
    ctx.save_for_backward(rewards)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (rewards,) = ctx.saved_tensors
    return torch.ops.torchlayer.discounted_sum_backward(grad, rewards, ctx.gamma, ctx.reset), None, None


_op = _library.define(
    "discounted_sum(Tensor rewards, float gamma, bool reset) -> Tensor",
    _reference,
    _fake,
    _example,
    _backward,
    _setup_context,
)
_library.define(
    "discounted_sum_backward(Tensor grad, Tensor rewards, float gamma, bool reset) -> Tensor",
    _reference_backward,
    _fake,
    _example_backward,
)
