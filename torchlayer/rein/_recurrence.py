"""Linear recurrences along time, in a few operations on whole tensors instead of a loop over steps."""

from __future__ import annotations

import torch
from torch import Tensor


def from_the_end(values: Tensor, keep: Tensor) -> Tensor:
    """``y[..., t] = values[..., t] + keep[..., t] * y[..., t + 1]``, reaching twice as far in every round.

    Two such steps are one step of twice the length: ``(v, k)`` after ``(v', k')`` is ``(v + k v', k k')``.

    >>> from_the_end(torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([0.5, 0.0, 0.5, 0.5]))
    tensor([1.5000, 1.0000, 1.5000, 1.0000])
    """
    reach, n_steps = 1, values.shape[-1]
    while reach < n_steps:
        nearer, further = values[..., :-reach], values[..., reach:]
        values = torch.cat((nearer + keep[..., :-reach] * further, values[..., -reach:]), -1)
        keep = torch.cat((keep[..., :-reach] * keep[..., reach:], keep[..., -reach:]), -1)
        reach *= 2
    return values


def check_shapes(owner: str, **tensors: Tensor | None) -> None:
    """All of one shape, with time as the last axis."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor is not None}
    if len(set(shapes.values())) > 1 or () in shapes.values():
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{owner} needs tensors of one shape (*, T), got {given}")


def check_share(owner: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number <= 1:
            raise ValueError(f"{owner} needs {name} between 0 and 1, got {number}")
