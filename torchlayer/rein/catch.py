"""Catch, a small game of pixels that runs on the device: no emulator, no packages, no waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .environments import NEXT_STEP


class Catch:
    """Balls fall one after the other, some of them sideways, and a bat has to be below: a game of ours, not Atari's.

    It serves where there is no emulator, and where a run must be repeated exactly. A vector environment like
    Gymnasium's, but of tensors: nothing in it waits for the device.

    * Actions: 0 stays, 1 goes right, 2 goes left, one column a step.
    * A ball starts anywhere in the top row, falls one row a step and drifts by -1, 0 or 1 column, back from the walls.
    * Reward 1 for a ball that meets the bat in the bottom row, -1 for one that does not. The next one falls at once.
    * An episode is ``n_balls`` balls; the step after it begins the next (``autoreset_mode`` "NextStep").

    Every ball can be caught from everywhere. Standing still catches about one in five.

    Args:
        num_envs: games side by side.
        size: rows and columns.
        bat: columns of the bat.
        n_balls: balls of an episode.
        device: where the games are.
        seed: of the balls, until ``reset(seed=...)`` gives another.

    Shape:
        observations ``(N, size, size)`` uint8, 255 where something is; actions ``(N,)`` integers; rewards ``(N,)``
        float32; ends ``(N,)`` bool.

    Raises:
        ValueError: a size makes no game.
    """

    autoreset_mode = NEXT_STEP
    n_actions = 3

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 20,
        bat: int = 4,
        n_balls: int = 10,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ):
        if num_envs < 1 or n_balls < 1 or not 2 <= bat <= size or size < 4:
            raise ValueError(
                f"Catch needs games and balls, 4 rows or more, and a bat of 2 columns to all of them, got num_envs="
                f"{num_envs}, n_balls={n_balls}, size={size}, bat={bat}"
            )
        self.num_envs, self.size, self.bat, self.n_balls = num_envs, size, bat, n_balls
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._lines = torch.arange(size, device=self.device)
        self._directions = torch.tensor([0, 1, -1], device=self.device)
        self._state = torch.zeros(6, num_envs, dtype=torch.int64, device=self.device)  # one row for each of:
        self._row, self._column, self._drift, self._at, self._played, self._over = self._state

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin all games anew; returns observations and an empty dict."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._begin(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self._picture(), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """One step; returns observations, rewards, terminated, truncated (never) and an empty dict."""
        begins = self._over.bool()
        self._at.add_(self._directions[actions]).clamp_(0, self.size - self.bat)
        self._row.add_(1)
        moved = self._column + self._drift
        bounced = (moved < 0) | (moved >= self.size)
        self._drift.copy_(torch.where(bounced, -self._drift, self._drift))
        self._column.copy_(torch.where(bounced, self._column + self._drift, moved))
        down = self._row == self.size - 1
        caught = (self._column >= self._at) & (self._column < self._at + self.bat)
        rewards = torch.where(down & ~begins, 2.0 * caught - 1.0, 0.0)
        self._played.add_(down)
        terminated = (self._played == self.n_balls) & ~begins
        self._over.copy_(terminated)
        picture = self._picture()  # of the ball that is down
        self._drop(down & ~terminated)
        self._begin(begins)
        picture = torch.where(begins.view(-1, 1, 1), self._picture(), picture)
        return picture, rewards, terminated, torch.zeros_like(terminated), {}

    def close(self) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """The games and their random numbers, so that they go on exactly."""
        return {"state": self._state.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._state.copy_(state_dict["state"])
        self.generator.set_state(state_dict["generator"].cpu())

    def _begin(self, which: Tensor) -> None:
        self._drop(which)
        at = self._draw(self.size - self.bat + 1)
        self._at.copy_(torch.where(which, at, self._at))
        self._played.masked_fill_(which, 0)
        self._over.masked_fill_(which, 0)

    def _drop(self, which: Tensor) -> None:
        """The next ball. Numbers are drawn for all games, whichever need them."""
        column, drift = self._draw(self.size), self._draw(3) - 1
        self._row.masked_fill_(which, 0)
        self._column.copy_(torch.where(which, column, self._column))
        self._drift.copy_(torch.where(which, drift, self._drift))

    def _draw(self, n: int) -> Tensor:
        return torch.randint(n, (self.num_envs,), generator=self.generator, device=self.device)

    def _picture(self) -> Tensor:
        rows, columns = self._lines.view(1, -1, 1), self._lines.view(1, 1, -1)
        ball = (rows == self._row.view(-1, 1, 1)) & (columns == self._column.view(-1, 1, 1))
        at = self._at.view(-1, 1, 1)
        bat = (rows == self.size - 1) & (columns >= at) & (columns < at + self.bat)
        return (ball | bat).to(torch.uint8) * 255
