"""Whole episodes out of rollouts that cut them anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .rollout import Rollout, Steps

_MOST_PIECES = 32  # of an unfinished episode, each of which keeps a whole rollout's copy


class Episodes:
    """Puts pieces of episodes together; ``ended`` holds the finished ones, in the order in which they ended.

    An episode is a tuple of tensors ``(T_i, ...)``, one for each that ``add`` is given. Steps that are not ``valid``
    are left out. Take finished episodes off the front of the list as you use them.

    >>> from torchlayer.rein import Catch, Episodes, Rollout
    >>> rollout = Rollout(Catch(num_envs=2), lambda x: {"actions": torch.zeros(len(x), dtype=torch.int64)}, n_steps=100)
    >>> episodes = Episodes(rollout.n_envs)
    >>> for _ in range(2):
    ...     steps = rollout.collect()
    ...     episodes.add(steps, steps.rewards, steps.actions)
    >>> [len(rewards) for rewards, actions in episodes.ended]
    [190, 190]
    """

    def __init__(self, n_envs: int, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.begun: list[list[tuple[Tensor, ...]]] = [[] for _ in range(n_envs)]
        self.ended: list[tuple[Tensor, ...]] = []

    def add(self, steps: Steps, *columns: Tensor) -> None:
        """Cut ``columns`` ``(N, T, ...)`` of ``steps`` where episodes ended. Waits for the device.

        They are copied once, and the copy is kept while an episode needs a piece of it, up to 32 calls of this.
        """
        ended, valid = (steps.terminated | steps.truncated).cpu().numpy(), steps.valid.cpu().numpy()
        copies = [column.clone() for column in columns]
        finished = []
        for n, pieces in enumerate(self.begun):
            for start, stop, end in _runs(valid[n], ended[n]):
                if stop > start:
                    pieces.append(tuple(copy[n, start:stop] for copy in copies))
                if end is not None and pieces:
                    finished.append((end, n, tuple(map(torch.cat, zip(*pieces)))))
                    pieces.clear()
            if len(pieces) == _MOST_PIECES:  # in memory of its own, or a long episode would keep all of the others'
                pieces[:] = [tuple(map(torch.cat, zip(*pieces)))]
        self.ended += [episode for *_, episode in sorted(finished, key=lambda found: found[:2])]

    def state_dict(self) -> dict[str, Any]:
        # views would bring with them all that they are views of
        begun = [[tuple(x.clone() for x in piece) for piece in pieces] for pieces in self.begun]
        return {"begun": begun, "ended": self.ended}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        here = self.device
        self.begun = [[tuple(x.to(here) for x in piece) for piece in pieces] for pieces in state_dict["begun"]]
        self.ended = [tuple(x.to(here) for x in episode) for episode in state_dict["ended"]]


def _runs(valid: np.ndarray, ended: np.ndarray) -> Iterator[tuple[int, int, int | None]]:
    """Valid steps that follow each other: from, to, and the step at which an episode ended there, if one did."""
    start = 0
    for t in np.flatnonzero(ended | ~valid).tolist():
        yield start, t + int(valid[t]), t if ended[t] else None
        start = t + 1
    yield start, len(valid), None


def first_episodes(rollout: Rollout) -> list[Tensor]:
    """Play until every environment has ended an episode; the rewards ``(T_i,)`` of the first one of each.

    This is how to evaluate. The first hundred episodes to end, whichever environments they are from, would be the short
    ones.

    >>> from torchlayer.rein import Catch, Rollout
    >>> act = lambda observations: {"actions": torch.zeros(len(observations), dtype=torch.int64)}
    >>> [len(rewards) for rewards in first_episodes(Rollout(Catch(num_envs=3), act, n_steps=64, seed=0))]
    [190, 190, 190]
    """
    pieces: list[list[Tensor]] = [[] for _ in range(rollout.n_envs)]
    playing = set(range(rollout.n_envs))
    while playing:
        steps = rollout.collect()
        rewards, valid = steps.rewards.cpu(), steps.valid.cpu()
        ends = (steps.terminated | steps.truncated).cpu().int()
        for n in sorted(playing):
            n_played = int(ends[n].argmax()) + 1 if ends[n].any() else len(ends[n])
            pieces[n].append(rewards[n, :n_played][valid[n, :n_played]])
            if ends[n].any():
                playing.discard(n)
    return [torch.cat(parts) for parts in pieces]
