"""Policy gradients: what an episode's rewards were worth at every step, and the loss that follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .kernels import discounted_sum


@overload
def discount_episode_rewards(rewards: Tensor, gamma: float = 0.99, mode: int = 0) -> Tensor: ...
@overload
def discount_episode_rewards(
    rewards: np.ndarray | Sequence[float], gamma: float = 0.99, mode: int = 0
) -> np.ndarray: ...
def discount_episode_rewards(rewards: Any, gamma: float = 0.99, mode: int = 0) -> Any:
    """Sum the rewards to come, each step further away worth ``gamma`` times less.

    Args:
        mode: 0, a non-zero reward ends a game, as a point does in Pong: the sum starts anew there and nothing later
            counts. 1, the sum runs to the end, which is what a task with a reward at every step needs.

    Shape:
        rewards ``(*, T)``, summed along the last axis, on the GPU if it is there. A tensor returns a tensor, its dtype
        kept if floating; an array or a list returns a float32 array, summed in float64.

    Raises:
        ValueError: ``mode`` is neither 0 nor 1, or ``gamma`` lies outside [0, 1].

    >>> discount_episode_rewards(np.array([0, 0, -1, 0, 1, 0, 0]), gamma=0.5)
    array([-0.25, -0.5 , -1.  ,  0.5 ,  1.  ,  0.  ,  0.  ], dtype=float32)
    >>> discount_episode_rewards([1, 1, -1], gamma=0.5, mode=1)
    array([ 1.25,  0.5 , -1.  ], dtype=float32)
    """
    if mode not in (0, 1):
        raise ValueError(f"mode={mode!r} is unknown; use 0 (restart at every non-zero reward) or 1 (never)")
    if isinstance(rewards, Tensor):
        steps = rewards if rewards.is_floating_point() else rewards.float()
        return discounted_sum(steps, gamma, reset=mode == 0)
    steps = torch.from_numpy(np.array(rewards, dtype=np.float64, order="C"))
    return discounted_sum(steps, gamma, reset=mode == 0).float().numpy()


def cross_entropy_reward_loss(
    logits: Tensor, actions: Any, rewards: Any, name: str | None = None, *, reduction: str = "sum"
) -> Tensor:
    """The policy-gradient loss: the cross-entropy of each action taken, weighted by the reward that followed.

    Equals ``(F.cross_entropy(logits, actions, reduction="none") * rewards).sum()``. It is a sum, as in the original,
    so its gradient grows with the number of steps; ``reduction="mean"`` takes that away.

    Args:
        logits: the network's outputs before any softmax.
        actions: a tensor, an array or a list.
        rewards: likewise; no gradient flows into them.
        name: accepted for the original's sake and not used.

    Shape:
        logits ``(N, A)`` for ``A`` actions, actions ``(N,)`` integers, rewards ``(N,)``; returns a scalar.

    Raises:
        ValueError: the lengths differ, or ``reduction`` is neither "sum" nor "mean".

    Reference:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning,
        https://doi.org/10.1007/BF00992696

    >>> logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    >>> cross_entropy_reward_loss(logits, [2, 0, 1], [1.0, -1.0, 0.5])
    tensor(-1.4507)
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction={reduction!r} is unknown; use 'sum' or 'mean'")
    actions = torch.as_tensor(actions, device=logits.device).long()
    weights = torch.as_tensor(rewards, device=logits.device).detach().to(logits.dtype)
    if not logits.shape[:1] == actions.shape == weights.shape:
        raise ValueError(
            f"cross_entropy_reward_loss needs logits (N, A), actions (N,) and rewards (N,), got "
            f"{tuple(logits.shape)}, {tuple(actions.shape)} and {tuple(weights.shape)}"
        )
    losses = F.cross_entropy(logits, actions, reduction="none") * weights
    return losses.sum() if reduction == "sum" else losses.mean()
