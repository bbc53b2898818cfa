"""Choosing an action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def choice_action_by_probs(probs: Any = (0.5, 0.5), action_list: Sequence[Any] | None = None, rng: Any = None) -> Any:
    """Draw one action with the probabilities given.

    Batches of logits on a device are drawn by :func:`torchlayer.nlp.sample_logits`.

    Args:
        probs: one probability an action; they sum to 1.
        action_list: what to choose from, ``0, 1, …`` without it.
        rng: ``None`` is the global NumPy stream, as in TensorLayer; else a NumPy Generator or a seed.

    Raises:
        ValueError: there are not as many actions as probabilities, or these do not sum to 1.

    >>> np.random.seed(0)
    >>> [int(choice_action_by_probs([0.2, 0.4, 0.4])) for _ in range(5)]
    [1, 2, 2, 1, 1]
    >>> str(choice_action_by_probs([0.5, 0.5], ["left", "right"]))
    'right'
    """
    n_actions = len(probs)
    if action_list is None:
        action_list = np.arange(n_actions)  # type: ignore[assignment]
    elif len(action_list) != n_actions:
        raise ValueError(
            f"choice_action_by_probs needs as many actions as probabilities, got {len(action_list)} "
            f"actions and {n_actions} probabilities"
        )
    stream = np.random if rng is None else np.random.default_rng(rng)
    return stream.choice(action_list, p=probs)  # type: ignore[arg-type]
