"""Random numbers for images: one of each kind an image, from whatever generator the caller has."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._images import Images

Rng = int | np.random.Generator | np.random.RandomState | torch.Generator | None


class Draws:
    """Draws ``n`` numbers at a time, one an image of the batch, on the images' device.

    Nothing here waits for a device. ``rng=None`` is NumPy's global stream for arrays, as in TensorLayer, and torch's
    global one of their device for tensors. An int seeds a generator of the same kind.
    """

    def __init__(self, owner: str, rng: Any, images: Images):
        self.n, self.device = len(images.batch), images.batch.device
        self._numpy, self._torch, self._source = None, None, self.device
        if rng is None or (isinstance(rng, (int, np.integer)) and not isinstance(rng, bool)):
            if images.is_array:
                self._numpy = np.random if rng is None else np.random.default_rng(int(rng))
            elif rng is not None:
                self._torch = torch.Generator(self.device).manual_seed(int(rng))
        elif isinstance(rng, (np.random.Generator, np.random.RandomState)):
            self._numpy = rng
        elif isinstance(rng, torch.Generator):
            self._torch = rng
            self._source = rng.device if rng.device.type == "cpu" else self.device
            # torch.Generator("cuda") is on "cuda", without an index, in some releases of torch
            if rng.device.type not in ("cpu", self.device.type) or rng.device.index not in (None, self.device.index):
                raise ValueError(
                    f"{owner}: rng draws on {rng.device} and the images are on {self.device}; give a generator of "
                    "theirs, or one on the CPU"
                )
        else:
            raise TypeError(
                f"{owner}: rng must be None, an int, a NumPy Generator or RandomState, or a torch.Generator, "
                f"got {rng!r}"
            )

    def uniform(self, low: float, high: float) -> Tensor:
        """``(n,)`` float64 between the two numbers, whichever is the greater."""
        low, high = min(low, high), max(low, high)
        if self._numpy is not None:
            return self._here(self._numpy.uniform(low, high, self.n))
        return self._from_torch((), torch.float64) * (high - low) + low

    def integers(self, n_values: int) -> Tensor:
        """``(n,)`` int64 in ``[0, n_values)``, each equally likely."""
        if isinstance(self._numpy, np.random.Generator):
            return self._here(self._numpy.integers(n_values, size=self.n))
        if self._numpy is not None:
            return self._here(self._numpy.randint(n_values, size=self.n, dtype=np.int64))
        drawn = torch.randint(n_values, (self.n,), generator=self._torch, device=self._source)
        return drawn.to(self.device, non_blocking=True)

    def field(self, *shape: int) -> Tensor:
        """``(n, *shape)`` in ``[0, 1)``: float64 from NumPy, float32 from torch."""
        if isinstance(self._numpy, np.random.Generator):
            return self._here(self._numpy.random((self.n, *shape)))
        if self._numpy is not None:
            return self._here(self._numpy.random_sample((self.n, *shape)))
        return self._from_torch(shape, torch.float32)

    def _from_torch(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        drawn = torch.rand(self.n, *shape, generator=self._torch, device=self._source, dtype=dtype)
        return drawn.to(self.device, non_blocking=True)

    def _here(self, drawn: Any) -> Tensor:
        return torch.from_numpy(np.asarray(drawn)).to(self.device, non_blocking=True)


def children(rng: Any, n: int) -> list[np.random.Generator]:
    """``n`` generators derived from one, independent of each other and of the order in which they are used."""
    if isinstance(rng, np.random.Generator):
        entropy = rng.integers(2**63, size=2).tolist()
    elif isinstance(rng, torch.Generator):
        entropy = torch.randint(2**63 - 1, (2,), generator=rng, device=rng.device).tolist()
    elif rng is None or isinstance(rng, np.random.RandomState):
        source = np.random if rng is None else rng
        entropy = source.randint(2**63 - 1, size=2, dtype=np.int64).tolist()
    elif isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        entropy = int(rng)
    else:
        raise TypeError(
            f"rng must be None, an int, a NumPy Generator or RandomState, or a torch.Generator, got {rng!r}"
        )
    return [np.random.default_rng(seed) for seed in np.random.SeedSequence(entropy).spawn(n)]
