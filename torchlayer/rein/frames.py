"""The last few pictures of a game as one observation, prepared on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .environments import NEXT_STEP, SAME_STEP, autoreset_mode, final_observations


class FrameStack:
    """A vector environment whose observations are its last ``n_frames`` pictures, as a tensor on the device.

    Emulators are fastest when they hand out the screen as it is. Here it is copied to the device once, cropped or
    scaled there by ``prepare``, and stacked. The first picture of an episode fills the whole stack, so that nothing is
    seen of the episode before, whatever the autoreset mode.

    Args:
        environments: a vector environment, Gymnasium's or one that returns tensors.
        n_frames: pictures in an observation, the newest last.
        prepare: what a picture is made into: ``prepare(Tensor (N, ...)) -> (N, H, W)``.
        device: where.

    Shape:
        observations ``(N, H, W, n_frames)``, of the dtype that ``prepare`` returns. Actions may be tensors.

    >>> from torchlayer.rein import Catch
    >>> game = FrameStack(Catch(num_envs=2), n_frames=4, prepare=lambda screen: screen[:, ::2])
    >>> observations, _ = game.reset(seed=0)
    >>> observations.shape, bool((observations[..., 0] == observations[..., 3]).all())
    (torch.Size([2, 10, 20, 4]), True)
    """

    def __init__(
        self,
        environments: Any,
        n_frames: int = 4,
        prepare: Callable[[Tensor], Tensor] = lambda screen: screen,
        device: str | torch.device = "cpu",
    ):
        if n_frames < 1:
            raise ValueError(f"FrameStack needs n_frames of 1 or more, got {n_frames}")
        self.environments, self.n_frames, self.prepare = environments, n_frames, prepare
        self.device = torch.device(device)
        self.num_envs: int = environments.num_envs
        self.autoreset_mode = autoreset_mode(environments)
        self.spec = getattr(environments, "spec", None)
        self.screens: Any = None  # the newest pictures as the environment gave them
        self._stack: Tensor | None = None
        self._ended: Any = None  # (N,), whether the last step was an episode's last

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        self.screens, infos = self.environments.reset(seed=seed, options=options)
        mask = (options or {}).get("reset_mask")
        frames = self._prepared(self.screens)
        if mask is None:
            self._stack = self._filled(frames)
        else:
            assert self._stack is not None
            self._stack = torch.where(self._as_mask(mask), self._filled(frames), self._stack)
        self._ended = None
        return self._stack, infos

    def step(self, actions: Any) -> tuple[Tensor, Any, Any, Any, dict[str, Any]]:
        assert self._stack is not None
        screens, rewards, terminated, truncated, infos = self.environments.step(self._actions(actions))
        ended = terminated | truncated
        if self.autoreset_mode == SAME_STEP and bool(ended.any()):
            last = self._pushed(self._prepared(final_observations(screens, infos, ended)))
            infos = {**infos, "final_obs": last}
            self._stack = torch.where(self._as_mask(ended), self._filled(self._prepared(screens)), last)
        else:
            frames = self._prepared(screens)
            new = self._pushed(frames)
            # on the device nobody looks whether one of them began anew; on the host looking is cheaper
            began = self._ended if self.autoreset_mode == NEXT_STEP else None
            if began is not None and (isinstance(began, Tensor) or began.any()):
                new = torch.where(self._as_mask(began), self._filled(frames), new)
            self._stack = new
        self.screens, self._ended = screens, ended
        return self._stack, rewards, terminated, truncated, infos

    def close(self) -> None:
        self.environments.close()

    def state_dict(self) -> dict[str, Any]:
        """Stack and games, if the environment has a ``state_dict``; else nothing."""
        inner = getattr(self.environments, "state_dict", dict)()
        return {"environments": inner, "stack": self._stack, "ended": self._ended} if inner else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.environments.load_state_dict(state_dict["environments"])
        stack, ended = state_dict["stack"], state_dict["ended"]
        self._stack = None if stack is None else stack.to(self.device)
        self._ended = ended.to(self.device) if isinstance(ended, Tensor) else ended

    def _actions(self, actions: Any) -> Any:
        if isinstance(self.screens, Tensor):
            return actions
        return actions.cpu().numpy() if isinstance(actions, Tensor) else actions

    def _prepared(self, screens: Any) -> Tensor:
        if not isinstance(screens, Tensor):
            screens = torch.from_numpy(np.ascontiguousarray(screens))
            if self.device.type == "cuda":
                screens = screens.pin_memory()
        return self.prepare(screens.to(self.device, non_blocking=True))

    def _filled(self, frames: Tensor) -> Tensor:
        return frames.unsqueeze(-1).repeat(*(1 for _ in frames.shape), self.n_frames)

    def _pushed(self, frames: Tensor) -> Tensor:
        assert self._stack is not None
        return torch.cat((self._stack[..., 1:], frames.unsqueeze(-1)), -1)

    def _as_mask(self, ended: Any) -> Tensor:
        assert self._stack is not None
        mask = torch.as_tensor(ended).to(self.device, non_blocking=True)
        return mask.view(-1, *(1 for _ in self._stack.shape[1:]))
