"""Playing: steps of vector environments under a policy, gathered as tensors on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._captured import Act, CapturedAct
from ._recurrence import from_the_end
from .environments import (
    DISABLED,
    NEXT_STEP,
    SAME_STEP,
    BrokenEnvironment,
    EnvironmentThread,
    autoreset_mode,
    final_observations,
)


class Steps(NamedTuple):
    """``T`` steps of ``N`` environments; all are ``(N, T, ...)`` and on one device.

    The tensors are the rollout's own: the next :meth:`Rollout.collect` writes over them, at the same addresses.
    """

    observations: Tensor  #: What the policy saw.
    actions: Tensor  #: What it did.
    rewards: Tensor  #: In float32.
    terminated: Tensor  #: Whether the episode ended there for good, so that nothing follows.
    truncated: Tensor  #: Whether it was cut off there, as by a time limit, and more would have followed.
    valid: Tensor  #: False where an environment began its next episode and ignored the action; leave these steps out.
    episode_returns: Tensor  #: Where an episode ended, the sum of its rewards, else NaN.
    extras: dict[str, Tensor]  #: What else the policy returned, such as "log_probs" and "values".
    next_values: Tensor | None  #: Of what was observed after each step and before any reset, if it returned "values".


class Rollout:
    """``rollout.collect()`` plays ``n_steps`` in every environment and returns :class:`Steps`.

    Environments are Gymnasium's vector environments, or anything with their ``num_envs``, ``reset``, ``step`` and
    ``autoreset_mode``. Those that return tensors are given tensors and stay on their device; others get arrays.

    Each of several groups of environments works on a thread of its own, so that one group emulates while the policy
    looks at another. All three autoreset modes end in the same :class:`Steps`:
    :func:`generalized_advantages(steps.rewards, steps.extras["values"], steps.next_values, steps.terminated,
    steps.truncated) <torchlayer.rein.generalized_advantages>` is right in each of them, with the steps that are not
    ``valid`` left out of the loss.

    Args:
        environments: one vector environment, or a list of them, of one kind.
        act: ``act(observations)``, called without gradients with ``(n, ...)`` of one group. Returns a dict: the
            integers ``"actions"`` ``(n,)``, and whatever else is to be kept, one row an environment.
            With ``"values"`` among it, it is called once more after the last step, and, in modes other than
            ``"NextStep"``, wherever an episode was cut off.
        n_steps: steps of each environment in a call of ``collect``.
        device: where the tensors are.
        seed: of the environments, each of which gets another.
        timeout: seconds after which an environment that does not answer is given up.
        name: what errors call the environments.
        capture: on a CUDA device, make ``act`` a CUDA graph, one launch instead of one for each of its kernels. It must
            not wait for the device, nor read tensors that are replaced rather than changed in place. On a CPU nothing
            is captured.
        generators: those that ``act`` draws from, which a captured one must know of.

    Raises:
        BrokenEnvironment: an environment raised, hung, or returned what is no step; the text names it.
        RuntimeError: ``act`` cannot be captured.
        ValueError: the environments do not say their autoreset mode, or ``act`` returned no actions.

    >>> from torchlayer.rein import Catch, Rollout
    >>> generator = torch.Generator().manual_seed(0)
    >>> def act(observations):
    ...     return {"actions": torch.randint(3, (len(observations),), generator=generator)}
    >>> steps = Rollout(Catch(num_envs=4), act, n_steps=32).collect()
    >>> steps.observations.shape, steps.rewards.shape
    (torch.Size([4, 32, 20, 20]), torch.Size([4, 32]))
    """

    def __init__(
        self,
        environments: Any,
        act: Act,
        n_steps: int,
        *,
        device: str | torch.device = "cpu",
        seed: int | None = None,
        timeout: float = 60.0,
        name: str | None = None,
        capture: bool = False,
        generators: Sequence[torch.Generator] = (),
    ):
        groups = list(environments) if isinstance(environments, Sequence) else [environments]
        if not groups or n_steps < 1:
            raise ValueError(f"a Rollout needs environments and n_steps of 1 or more, got {len(groups)} and {n_steps}")
        self.n_steps, self.device = n_steps, torch.device(device)
        self._capture = capture and self.device.type == "cuda"
        self.set_act(act, generators)
        self._groups: list[_Group] = []
        self.n_envs = 0
        for i, group in enumerate(groups):
            label = name or getattr(getattr(group, "spec", None), "id", None) or type(group).__name__
            label = f"{label} {i + 1} of {len(groups)}" if len(groups) > 1 else label
            self._groups.append(_Group(group, label, self.n_envs, timeout))
            self.n_envs += group.num_envs
        self._kept: dict[str, Tensor] = {}  # (N, T, ...), on the device
        self._outcomes: dict[str, Tensor] = {}  # the same, where the environments' rewards are
        self._returns: Tensor | None = None  # (N,), of the episodes that are being played
        self._ended: Tensor | None = None  # (N,), whether the last step was an episode's last
        self.reset(seed)

    def set_act(self, act: Act, generators: Sequence[torch.Generator] = ()) -> None:
        """Play on under another policy."""
        checked = partial(_checked, act)
        self.act = CapturedAct(checked, generators) if self._capture else checked

    def reset(self, seed: int | None = None) -> None:
        """Begin new episodes everywhere."""
        for group in self._groups:
            group.begin_reset(None if seed is None else seed + group.first)
        for group in self._groups:
            group.observations = group.thread.finish()[0]
        self._returns = self._ended = None

    @torch.no_grad()
    def collect(self) -> Steps:
        """Play on for ``n_steps``."""
        for t in range(self.n_steps):
            for group in self._groups:
                if t:
                    self._finish_step(group, t - 1)
                self._begin_step(group, t)
        for group in self._groups:
            self._finish_step(group, self.n_steps - 1)
        return self._steps()

    def close(self) -> None:
        """End the threads and close the environments."""
        for group in self._groups:
            group.thread.begin(getattr(group.environments, "close", lambda: None))
            group.thread.close()
        for group in self._groups:
            group.thread.finish()

    # One step ----------------------------------------------------------------

    def _begin_step(self, group: _Group, t: int) -> None:
        observations = self._here(group.observations)
        found = self.act(observations)
        self._keep("observations", group, t, observations)
        for key, value in found.items():
            self._keep(key, group, t, value)
        group.begin_step(found["actions"])

    def _finish_step(self, group: _Group, t: int) -> None:
        group.observations, rewards, terminated, truncated, final = group.thread.finish()
        for key, value, dtype in (
            ("rewards", rewards, torch.float32),
            ("terminated", terminated, torch.bool),
            ("truncated", truncated, torch.bool),
        ):
            value = torch.as_tensor(value)
            if key not in self._outcomes:
                self._outcomes[key] = torch.zeros(self.n_envs, self.n_steps, dtype=dtype, device=value.device)
            self._outcomes[key][group.rows, t] = value
        if final is not None and "values" in self._kept and bool(truncated.any()):
            if "final_values" not in self._kept:
                self._kept["final_values"] = torch.zeros_like(self._kept["values"])
            self._kept["final_values"][group.rows, t] = self.act(self._here(final))["values"]

    def _here(self, observations: Any) -> Tensor:
        if not isinstance(observations, Tensor):
            observations = torch.from_numpy(np.ascontiguousarray(observations))
            if self.device.type == "cuda":  # a copy from pinned memory is not waited for
                observations = observations.pin_memory()
        return observations.to(self.device, non_blocking=True)

    def _keep(self, key: str, group: _Group, t: int, value: Tensor) -> None:
        if key not in self._kept:
            shape = (self.n_envs, self.n_steps, *value.shape[1:])
            self._kept[key] = torch.zeros(shape, dtype=value.dtype, device=self.device)
        self._kept[key][group.rows, t] = value

    # All of them -------------------------------------------------------------

    def _steps(self) -> Steps:
        rewards, terminated, truncated = (
            self._outcomes[key].to(self.device) for key in ("rewards", "terminated", "truncated")
        )
        ended = terminated | truncated
        before = torch.zeros_like(ended[:, 0]) if self._ended is None else self._ended
        after_end = torch.cat((before.unsqueeze(1), ended[:, :-1]), 1)
        valid = torch.ones_like(ended)
        for group in self._groups:
            if group.mode == NEXT_STEP:
                valid[group.rows] = ~after_end[group.rows]
        carried = torch.zeros_like(rewards[:, 0]) if self._returns is None else self._returns
        totals = torch.cat(((rewards[:, 0] + carried).unsqueeze(1), rewards[:, 1:]), 1)
        totals = from_the_end(totals.flip(1), (~after_end).to(rewards.dtype).flip(1)).flip(1)
        self._returns = totals[:, -1].masked_fill(ended[:, -1], 0)
        self._ended = ended[:, -1].clone()
        extras = {key: self._kept[key] for key in self._kept if key not in ("observations", "actions", "final_values")}
        return Steps(
            self._kept["observations"],
            self._kept["actions"],
            rewards,
            terminated,
            truncated,
            valid,
            totals.masked_fill(~ended, torch.nan),
            extras,
            self._next_values(ended) if "values" in extras else None,
        )

    def _next_values(self, ended: Tensor) -> Tensor:
        values = self._kept["values"]
        last = torch.cat([self.act(self._here(group.observations))["values"] for group in self._groups])
        following = torch.cat((values[:, 1:], last.unsqueeze(1)), 1)
        final = self._kept.get("final_values")
        for group in self._groups:
            if final is not None and group.mode != NEXT_STEP:
                rows = group.rows
                following[rows] = torch.where(ended[rows], final[rows], following[rows])
        return following

    # Going on ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the episodes are, for environments that can tell (those with a ``state_dict``)."""
        states = [getattr(group.environments, "state_dict", dict)() for group in self._groups]
        if not all(states):
            return {}
        observations = [torch.as_tensor(group.observations) for group in self._groups]
        return {
            "environments": states, "observations": observations, "returns": self._returns, "ended": self._ended,
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there. Environments that could not tell go on as they are, with new episodes."""
        if not state_dict:
            return
        for group, state, observations in zip(
            self._groups, state_dict["environments"], state_dict["observations"], strict=True
        ):
            group.environments.load_state_dict(state)
            live = group.observations
            group.observations = observations.to(live.device) if isinstance(live, Tensor) else observations.numpy()
        self._returns, self._ended = (
            None if state_dict[key] is None else state_dict[key].to(self.device) for key in ("returns", "ended")
        )


def _checked(act: Act, observations: Tensor) -> Mapping[str, Tensor]:
    found = act(observations)
    actions = found.get("actions") if isinstance(found, Mapping) else None
    if not isinstance(actions, Tensor) or actions.shape != observations.shape[:1] or actions.is_floating_point():
        what = f"{tuple(actions.shape)} of {actions.dtype}" if isinstance(actions, Tensor) else f"{found!r:.80}"
        raise ValueError(
            f"act must return a dict with integer 'actions' of shape ({len(observations)},), one for each "
            f"observation, got {what}"
        )
    return found


class _Group:
    """Environments that step together."""

    def __init__(self, environments: Any, name: str, first: int, timeout: float):
        self.environments, self.first = environments, first
        self.rows = slice(first, first + environments.num_envs)
        self.mode = autoreset_mode(environments)
        self.thread = EnvironmentThread(name, timeout)
        self.observations: Any = None

    def begin_reset(self, seed: int | None) -> None:
        self.thread.begin(lambda: self.environments.reset(seed=seed))

    def begin_step(self, actions: Tensor) -> None:
        # copying to the host waits for the device, and may as well wait over there
        takes_tensors = isinstance(self.observations, Tensor)
        self.thread.begin(lambda: self._step(actions if takes_tensors else actions.cpu().numpy()))

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Observations to go on from, rewards, both ends, and the last observations of what ended, if they differ."""
        observations, rewards, terminated, truncated, infos = self.environments.step(actions)
        self._check(rewards, terminated, truncated)
        final = None
        if self.mode != NEXT_STEP and bool((ended := terminated | truncated).any()):
            if self.mode == SAME_STEP:
                final = final_observations(observations, infos, ended)
            else:
                assert self.mode == DISABLED
                final = observations.clone() if isinstance(observations, Tensor) else np.array(observations)
                observations = self.environments.reset(options={"reset_mask": ended})[0]
        return observations, rewards, terminated, truncated, final

    def _check(self, rewards: Any, terminated: Any, truncated: Any) -> None:
        shapes = [tuple(np.shape(x)) for x in (rewards, terminated, truncated)]
        if shapes != [(self.environments.num_envs,)] * 3:
            raise BrokenEnvironment(f"{self.environments.num_envs} environments returned rewards and ends of {shapes}")
        if isinstance(rewards, np.ndarray) and not np.isfinite(rewards).all():
            raise BrokenEnvironment(f"a reward is not finite: {rewards}")
