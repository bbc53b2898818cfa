"""What an episode's rewards were worth at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from ..kernels import discounted_sum
from ._recurrence import check_shapes, check_share, from_the_end


@overload
def discount_episode_rewards(rewards: Tensor, gamma: float = 0.99, mode: int = 0, *, dones: Any = None) -> Tensor: ...
@overload
def discount_episode_rewards(
    rewards: np.ndarray | Sequence[float], gamma: float = 0.99, mode: int = 0, *, dones: Any = None
) -> np.ndarray: ...
def discount_episode_rewards(rewards: Any, gamma: float = 0.99, mode: int = 0, *, dones: Any = None) -> Any:
    """Sum the rewards to come, each step further away worth ``gamma`` times less.

    Args:
        mode: 0, a non-zero reward ends a game, as a point does in Pong: the sum starts anew there and nothing later
            counts. 1, the sum runs to the end, which is what a task with a reward at every step needs.
        dones: which steps end an episode. Nothing after such a step counts for it, in either mode, so that episodes
            may stand one after the other.

    Shape:
        rewards ``(*, T)``, and dones likewise; summed along the last axis, on the GPU if it is there. A tensor returns
        a tensor, its dtype kept if floating; an array or a list returns a float32 array, summed in float64.

    Raises:
        ValueError: ``mode`` is neither 0 nor 1, ``gamma`` lies outside [0, 1], or the shapes differ.

    >>> discount_episode_rewards(np.array([0, 0, -1, 0, 1, 0, 0]), gamma=0.5)
    array([-0.25, -0.5 , -1.  ,  0.5 ,  1.  ,  0.  ,  0.  ], dtype=float32)
    >>> discount_episode_rewards([1, 1, -1], gamma=0.5, mode=1)
    array([ 1.25,  0.5 , -1.  ], dtype=float32)
    >>> discount_episode_rewards([1, 1, 1, 1], gamma=0.5, mode=1, dones=[False, True, False, True])
    array([1.5, 1. , 1.5, 1. ], dtype=float32)
    """
    if mode not in (0, 1):
        raise ValueError(f"mode={mode!r} is unknown; use 0 (restart at every non-zero reward) or 1 (never)")
    if isinstance(rewards, Tensor):
        return _discounted(rewards if rewards.is_floating_point() else rewards.float(), gamma, mode, dones)
    steps = torch.from_numpy(np.array(rewards, dtype=np.float64, order="C"))
    return _discounted(steps, gamma, mode, dones).float().numpy()


def _discounted(rewards: Tensor, gamma: float, mode: int, dones: Any) -> Tensor:
    if dones is None:
        return discounted_sum(rewards, gamma, reset=mode == 0)
    ends = torch.as_tensor(dones, device=rewards.device).bool()
    check_shapes("discount_episode_rewards", rewards=rewards, dones=ends)
    check_share("discount_episode_rewards", gamma=gamma)
    if mode == 0:
        ends = ends | (rewards != 0)
    wide = rewards if rewards.dtype == torch.float64 else rewards.float()
    return from_the_end(wide, gamma * (~ends).to(wide.dtype)).to(rewards.dtype)
