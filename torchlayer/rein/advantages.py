"""How much better an action did than expected: generalised advantages and V-trace.

Time is the last axis, as in :func:`torchlayer.rein.discount_episode_rewards`. Two ends are told apart. After a
*terminated* step nothing follows, and the next value is not counted. After a *truncated* one, where only the clock ran
out, the value of the last observation stands for the rewards that would have come.

Both functions take ``next_values[t]``, the value of what was observed after step ``t`` and before any reset, as
:class:`torchlayer.rein.Rollout` gathers them. Nothing here carries a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._recurrence import check_shapes, check_share, from_the_end


@torch.no_grad()
def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Advantages, and the returns that a value function should learn.

    Equals, for every row::

        for t in reversed(range(T)):
            error = rewards[t] + gamma * next_values[t] * (not terminated[t]) - values[t]
            advantages[t] = error + gamma * lam * (not terminated[t] and not truncated[t]) * advantages[t + 1]
        returns = advantages + values

    Args:
        lam: 0 trusts the values and looks one step ahead, 1 sums rewards to the end of the episode.

    Shape:
        all ``(*, T)``, the ends boolean; returns two of the same shape.

    Raises:
        ValueError: shapes differ; ``gamma`` or ``lam`` lies outside [0, 1].

    Reference:
        Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation,
        https://arxiv.org/abs/1506.02438

    >>> rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3)
    >>> end = torch.tensor([False, False, True])
    >>> advantages, returns = generalized_advantages(rewards, values, values, end, gamma=0.5, lam=1.0)
    >>> advantages
    tensor([0.2500, 0.5000, 1.0000])
    """
    tensors = {"rewards": rewards, "values": values, "next_values": next_values, "terminated": terminated}
    check_shapes("generalized_advantages", **tensors, truncated=truncated)
    check_share("generalized_advantages", gamma=gamma, lam=lam)
    ended = terminated if truncated is None else terminated | truncated
    errors = rewards + gamma * next_values.masked_fill(terminated, 0) - values
    advantages = from_the_end(errors, gamma * lam * (~ended).to(errors.dtype))
    return advantages, advantages + values


@torch.no_grad()
def vtrace(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor | None = None,
    *,
    gamma: float = 0.99,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace: advantages and value targets from steps that an older policy took.

    Equals, for every row, with ``ratio = exp(log_ratios)``, ``ended`` either end, and ``next_target[t]`` being
    ``targets[t + 1]``, or ``next_values[t]`` where the episode or the row ends::

        for t in reversed(range(T)):
            rho = min(rho_clip, ratio[t])
            error = rho * (rewards[t] + gamma * next_values[t] * (not terminated[t]) - values[t])
            c = lam * min(c_clip, ratio[t]) * (not ended[t])
            correction[t] = error + gamma * c * correction[t + 1]
        targets = values + correction
        advantages[t] = rho * (rewards[t] + gamma * next_target[t] * (not terminated[t]) - values[t])

    Where ``next_values[t]`` is ``values[t + 1]``, as inside an episode, these are the paper's sums.

    Args:
        log_ratios: log-probability of the action under the policy that learns, less that under the one that played.
        rho_clip: the largest weight of a step: which policy's values are learnt.
        c_clip: the largest weight passed on to earlier steps: how fast they are learnt.

    Shape:
        all ``(*, T)``, the ends boolean; returns advantages and targets of the same shape.

    Raises:
        ValueError: shapes differ; ``gamma`` or ``lam`` lies outside [0, 1]; ``c_clip`` exceeds ``rho_clip``.

    Reference:
        Espeholt et al. 2018, IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures,
        https://arxiv.org/abs/1802.01561

    >>> on_policy, rewards, values = torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3)
    >>> end = torch.tensor([False, False, True])
    >>> advantages, targets = vtrace(on_policy, rewards, values, values, end, gamma=0.5)
    >>> targets
    tensor([0.2500, 0.5000, 1.0000])
    """
    tensors = {"rewards": rewards, "values": values, "next_values": next_values, "terminated": terminated}
    check_shapes("vtrace", log_ratios=log_ratios, **tensors, truncated=truncated)
    check_share("vtrace", gamma=gamma, lam=lam)
    if not 0 <= c_clip <= rho_clip:
        raise ValueError(f"vtrace needs 0 <= c_clip <= rho_clip, got {c_clip} and {rho_clip}")
    ended = terminated if truncated is None else terminated | truncated
    ratios = log_ratios.exp()
    rho, c = ratios.clamp(max=rho_clip), lam * ratios.clamp(max=c_clip)
    following = next_values.masked_fill(terminated, 0)
    errors = rho * (rewards + gamma * following - values)
    targets = values + from_the_end(errors, gamma * c.masked_fill(ended, 0))
    ended = torch.cat((ended[..., :-1], torch.ones_like(ended[..., -1:])), -1)  # as far as this row knows
    following = torch.where(ended, following, torch.cat((targets[..., 1:], targets[..., -1:]), -1))
    return rho * (rewards + gamma * following - values), targets
