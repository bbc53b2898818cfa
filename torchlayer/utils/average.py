"""The mean of weights over a part of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class WeightAverage:
    """The mean of the weights at each :meth:`update`, beside those that train on. It is often the better network.

    ``average`` is true once it has begun. :meth:`used` puts the mean into the place of the weights for a while: their
    storage stays, so that what :class:`torchlayer.TrainStep` captured stays valid. Nothing waits for the device.
    ``torch.optim.swa_utils.AveragedModel`` is a second network instead, and asks the device at each update.

    Args:
        params: as an optimiser takes them; a shared one may come twice.

    Reference:
        Polyak, Juditsky 1992, https://doi.org/10.1137/0330046; Merity et al. 2018, https://arxiv.org/abs/1708.02182,
        begin it once the validation loss has not fallen for some epochs (NT-ASGD).

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> average = WeightAverage([weight])
    >>> for value in (2.0, 3.0, 7.0):
    ...     weight.data.fill_(value) and average.update()
    >>> with average.used():
    ...     print(weight.item())
    4.0
    >>> weight.item()
    7.0
    """

    def __init__(self, params: Iterable[Tensor]):
        self.params = list(dict.fromkeys(params))
        if not self.params:
            raise ValueError("WeightAverage got no parameters to average")
        self.mean: list[Tensor] = []
        self.n_updates = 0

    def __bool__(self) -> bool:
        return self.n_updates > 0

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now; the first time begins the mean."""
        self.n_updates += 1
        if not self.mean:
            self.mean = [p.detach().clone() for p in self.params]
        else:
            torch._foreach_lerp_(self.mean, self.params, 1 / self.n_updates)  # pyright: ignore

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within the block the weights are the mean, if it has begun; afterwards they are what they were."""
        held = [p.detach().clone() for p in self.params] if self else []
        self._put(self.mean)
        try:
            yield
        finally:
            self._put(held)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "n_updates": self.n_updates}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a saved mean.

        Raises:
            ValueError: it is of other weights than these.
        """
        shapes, own = [m.shape for m in state_dict["mean"]], [p.shape for p in self.params]
        if shapes and shapes != own:
            raise ValueError(
                f"the saved mean is of {len(shapes)} weights and these are {len(own)}, or their shapes differ; give "
                "WeightAverage the parameters that it was saved with"
            )
        self.mean = [m.to(p.device, p.dtype, copy=True) for m, p in zip(state_dict["mean"], self.params)]
        self.n_updates = state_dict["n_updates"]

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for p, value in zip(self.params, values):
            p.copy_(value)
