"""The data of a training run: checked once, placed once, shuffled every epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .evaluate import as_data

_CHUNK_STEPS = 32  # steps in one launch: enough to hide the launch, few enough to answer Ctrl-C at once
_CHUNK_BYTES = 256 << 20


def checked(which: str, X: Any, y: Any) -> tuple[Tensor, Tensor]:
    if X is None or y is None:
        raise ValueError(f"X_{which} and y_{which} go together, got only one of them")
    X, y = as_data(X, f"X_{which}"), as_data(y, f"y_{which}")
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(f"X_{which} and y_{which} need as many rows and at least one, got {len(X)} and {len(y)}")
    for name, data in ((f"X_{which}", X), (f"y_{which}", y)):
        if data.is_floating_point() and not bool(torch.isfinite(data).all()):
            bad = (~torch.isfinite(data)).flatten(1).any(1) if data.dim() > 1 else ~torch.isfinite(data)
            row = int(bad.nonzero()[0])
            raise ValueError(f"{name} holds NaN or infinity in {int(bad.sum())} row(s), the first is row {row}")
    return X, y


def placed(device: torch.device, *data: Tensor) -> list[Tensor]:
    """On the device if all of it leaves room for the training itself, else where it is (pinned)."""
    if device.type != "cuda":
        return [d.to(device) for d in data]
    size = sum(d.numel() * d.element_size() for d in data if d.device != device)
    if size <= torch.cuda.mem_get_info(device)[0] // 2:
        return [d.to(device) for d in data]
    return [d if d.is_cuda else d.pin_memory() for d in data]


def chunk_steps(n_steps: int, batch_size: int, X: Tensor) -> int:
    row = max(X[0].numel() * X.element_size(), 1)
    most = max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // (batch_size * row)))
    return math.ceil(n_steps / math.ceil(n_steps / most))  # chunks of one size as far as possible: one capture


def as_generator(rng: int | torch.Generator | None) -> torch.Generator:
    if isinstance(rng, torch.Generator):
        if rng.device.type != "cpu":
            raise ValueError(f"rng shuffles indices on the CPU; give a torch.Generator there, got one on {rng.device}")
        return rng
    if rng is None:
        return torch.default_generator  # type: ignore[return-value]
    if isinstance(rng, int | np.integer):
        return torch.Generator().manual_seed(int(rng))
    raise TypeError(f"rng is None, a seed or a torch.Generator, got {type(rng).__name__}")
