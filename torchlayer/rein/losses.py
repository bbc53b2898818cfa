"""The losses of policy gradients: REINFORCE's, and those of proximal policy optimisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


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


def log_weight(probs: Tensor, weights: Any, name: str | None = None) -> Tensor:
    """The mean of ``log(probs) * weights``: to be made large where the weights are.

    Args:
        probs: probabilities, as a softmax gives them. From logits :func:`cross_entropy_reward_loss` is exact where a
            probability rounds to 0; this is minus infinity there.
        weights: a tensor, an array or a list; no gradient flows into them.
        name: accepted for the original's sake and not used.

    Shape:
        two tensors of one shape, or of shapes that broadcast; returns a scalar.

    >>> log_weight(torch.tensor([0.5, 0.25]), [1.0, -1.0])
    tensor(0.3466)
    """
    weights = torch.as_tensor(weights, device=probs.device).detach().to(probs.dtype)
    return (probs.log() * weights).mean()


def ppo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    mask: Tensor | None = None,
) -> Tensor:
    """The clipped loss of proximal policy optimisation.

    Equals ``-min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A).mean()`` with ``ratio = exp(log_probs -
    old_log_probs)``: what moves a probability further than ``clip`` in the direction that paid earns nothing more.

    Args:
        log_probs: of the actions taken, under the policy that learns.
        old_log_probs: the same under the policy that took them; no gradient flows into these and the advantages.
        mask: which steps count, such as :attr:`Steps.valid`.

    Shape:
        all of one shape; returns a scalar.

    Raises:
        ValueError: shapes differ, or ``clip`` is not above 0.

    Reference:
        Schulman et al. 2017, Proximal policy optimization algorithms, https://arxiv.org/abs/1707.06347

    >>> ppo_loss(torch.tensor([0.5, -0.5]).log_softmax(0), torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 1.0]))
    tensor(-0.8689)
    """
    _check("ppo_loss", clip, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, mask=mask)
    advantages = advantages.detach()
    ratios = (log_probs - old_log_probs.detach()).exp()
    gains = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    return -_mean(gains, mask)


def value_loss(
    values: Tensor,
    returns: Tensor,
    *,
    old_values: Tensor | None = None,
    clip: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the mean squared error of a value function, clipped if asked.

    With ``clip`` it equals ``0.5 * max((values - returns)**2, (near - returns)**2).mean()``, where ``near`` is
    ``values`` held within ``clip`` of ``old_values``. The unit is the values' own, so normalise first.

    Args:
        old_values: what was expected while the steps were taken; needed with ``clip``.
        mask: which steps count.

    Shape:
        all of one shape; returns a scalar.

    Raises:
        ValueError: shapes differ; ``clip`` is not above 0; only one of ``clip`` and ``old_values`` is given.

    >>> value_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
    tensor(1.)
    """
    if (clip is None) != (old_values is None):
        raise ValueError("value_loss clips around old_values: give clip= and old_values= together, or neither")
    _check("value_loss", clip, values=values, returns=returns, old_values=old_values, mask=mask)
    returns = returns.detach()
    errors = (values - returns) ** 2
    if clip is not None and old_values is not None:
        old = old_values.detach()
        errors = torch.maximum(errors, (old + (values - old).clamp(-clip, clip) - returns) ** 2)
    return 0.5 * _mean(errors, mask)


def _check(owner: str, clip: float | None, **tensors: Tensor | None) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{owner} needs tensors of one shape, got {given}")
    if clip is not None and not clip > 0:
        raise ValueError(f"{owner} needs clip above 0, got {clip}")


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Over what the mask keeps; 0 where it keeps nothing."""
    if mask is None:
        return x.mean()
    return x.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)
