"""A single step of LSTM cells without gradients on a GPU: a kernel a cell, where cuDNN takes several for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import _library
from .base import exporting
from .cells import Cell, LSTMState

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# A cell from 1500 numbers to 1500 units on an H200, us: one sequence 21, cuDNN 29; four 31, 32; eight 48, 33.
MOST_ROWS = 4


def steps_by_kernel(cells: Sequence[Cell], x: Tensor, state: Sequence[Any] | None, lengths: Tensor | None) -> bool:
    """Whether ``x`` ``(N, T, D)`` is one step of few sequences, and ours to compute."""
    if not x.is_cuda or x.shape[1] != 1 or not 0 < x.shape[0] <= MOST_ROWS or x.dtype not in _DTYPES:
        return False
    if torch.is_grad_enabled() or lengths is not None or torch.compiler.is_compiling() or exporting():
        return False
    if torch.is_autocast_enabled("cuda") or torch._C._are_functorch_transforms_active():
        return False
    if any(cell.fused != "lstm" or cell.lends_weights for cell in cells):
        return False
    read = [weight for cell in cells for weight in cell.weights()]  # type: ignore[operator]
    read += [tensor for held in state or () for tensor in held]
    alike = all(tensor.dtype == x.dtype and tensor.device == x.device for tensor in read)
    return alike and _library.load("cuda").name == "cuda"


def step(cells: Sequence[Cell], x: Tensor, state: Sequence[Any]) -> tuple[Tensor, tuple[LSTMState, ...]]:
    """From ``x`` ``(N, D)`` to the top cell's outputs ``(N, H)`` and all cells' new states."""
    new = []
    for cell, (h, c) in zip(cells, state):
        weights = cell.weights()  # type: ignore[operator]
        x, h, c = _library.below_autograd(torch.ops.torchlayer.lstm_step.default, x, h, c, *weights)
        new.append(LSTMState(h, c))
    return x, tuple(new)
