"""Vector environments: how they start episodes anew, and how to wait for one that may raise or hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from torch import Tensor

NEXT_STEP, SAME_STEP, DISABLED = "NextStep", "SameStep", "Disabled"


class BrokenEnvironment(RuntimeError):
    """An environment raised, hung, or answered with something that is no step. The text names it."""


def autoreset_mode(environments: Any) -> str:
    """When a vector environment begins the next episode: one of Gymnasium's three modes, by its value.

    * ``"NextStep"``: the step after the last one ignores its action and returns the first observation.
    * ``"SameStep"``: the last step returns the first observation already, and the last one in ``infos["final_obs"]``.
    * ``"Disabled"``: never; whoever steps has to call ``reset(options={"reset_mask": ...})``.

    The attribute goes before ``metadata``, which belongs to the class: of two ``AtariVectorEnv`` with different modes,
    the metadata of both tell the mode of the younger one.

    Raises:
        ValueError: it names no mode.
    """
    mode = getattr(environments, "autoreset_mode", None)
    if mode is None:
        mode = (getattr(environments, "metadata", None) or {}).get("autoreset_mode")
    value = getattr(mode, "value", mode)
    if value not in (NEXT_STEP, SAME_STEP, DISABLED):
        raise ValueError(
            f"{type(environments).__name__} does not say when it begins the next episode: its autoreset_mode is "
            f"{mode!r}; set it to '{NEXT_STEP}', '{SAME_STEP}' or '{DISABLED}' (gymnasium.vector.AutoresetMode)"
        )
    return value


def final_observations(observations: Any, infos: dict[str, Any], ended: np.ndarray | Tensor) -> Any:
    """Under ``"SameStep"``: the observations with the last ones of episodes that just ended in their places."""
    final = infos["final_obs"]
    if isinstance(observations, Tensor):
        mask = torch.as_tensor(ended).to(observations.device)
        return torch.where(mask.view(-1, *(1 for _ in observations.shape[1:])), final, observations)
    merged = np.array(observations)
    for i in np.flatnonzero(ended):
        merged[i] = final[i]
    return merged


class EnvironmentThread:
    """Calls functions of an environment on a thread of its own: its work overlaps ours, and it can be given up on.

    ``begin`` returns at once; ``finish`` waits for the result. A call that never returns cannot be stopped, but the
    thread is a daemon, so it does not keep the process.
    """

    def __init__(self, name: str, timeout: float):
        self.name, self.timeout, self.n_calls = name, timeout, 0
        self._orders: SimpleQueue[Any] = SimpleQueue()
        self._replies: SimpleQueue[Any] = SimpleQueue()
        serve = threading.Thread(target=_serve, args=(self._orders, self._replies), name=name, daemon=True)
        serve.start()

    def begin(self, function: Callable[..., Any], *args: Any) -> None:
        self.n_calls += 1
        self._orders.put((function, args))

    def finish(self) -> Any:
        """The result of the last ``begin``.

        Raises:
            BrokenEnvironment: the call raised, or took longer than ``timeout`` seconds.
        """
        try:
            result, error = self._replies.get(timeout=self.timeout)
        except Empty:
            raise BrokenEnvironment(
                f"environment '{self.name}' has not answered call {self.n_calls} for {self.timeout:g} seconds"
            ) from None
        if error is not None:
            raise BrokenEnvironment(
                f"environment '{self.name}' raised {type(error).__name__} in call {self.n_calls}: {error}"
            ) from error
        return result

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._orders.put(None)


def _serve(orders: SimpleQueue[Any], replies: SimpleQueue[Any]) -> None:
    while (order := orders.get()) is not None:
        function, args = order
        try:
            replies.put((function(*args), None))
        except BaseException as error:
            replies.put((None, error))
