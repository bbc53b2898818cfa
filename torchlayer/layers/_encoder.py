"""The encoder of a translation model: cells in one or both directions, and what the decoder begins with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import map_state
from ._recurrence import CellStack, Keep, backwards, run
from .base import Initializer, fill
from .cells import Cell


class Encoder(nn.Module):
    """Reads ``(N, I, D)``: the outputs at every step, ``(N, I, H)`` or ``(N, I, 2H)``, and a state for each cell.

    Of two directions, each layer's states are brought together by ``tanh([fw, bw] W + b)``, and the decoder begins with
    that.

    Args:
        fw: the cells; they are not sized yet.
        bw: as many, to read backwards, or ``None``.
    """

    def __init__(self, n_in: int, fw: list[Cell], bw: list[Cell] | None, initializer: Initializer):
        super().__init__()
        self.fw = CellStack(fw)
        self.bw = None if bw is None else CellStack(bw)
        self.n_outputs = fw[-1].output_size * (1 if bw is None else 2)
        self.fw.build(n_in, initializer)
        if self.bw is not None:
            self.bw.build(n_in, initializer)
            widths = self.fw.state_widths()
            self.bridges = nn.ParameterList(nn.Parameter(torch.empty(2 * n, n)) for n in widths)
            self.bridge_biases = nn.ParameterList(nn.Parameter(torch.empty(n)) for n in widths)
            for W, b in zip(self.bridges, self.bridge_biases):
                fill(W, tuple(W.shape), initializer)
                fill(b, tuple(b.shape), 0.0)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, tuple[Any, ...]]:
        forth, fw_end = run(self.fw, x, None, lengths, Keep(), with_state=True)
        assert fw_end is not None
        if self.bw is None:
            return forth, fw_end
        back, bw_end = run(self.bw, backwards(x, lengths), None, lengths, Keep(), with_state=True)
        return torch.cat([forth, backwards(back, lengths)], 2), self._bridged(fw_end, bw_end)

    def _bridged(self, fw_end: Any, bw_end: Any) -> tuple[Any, ...]:
        others: list[Tensor] = []
        map_state(others.append, bw_end)
        rest = iter(zip(others, self.bridges, self.bridge_biases))

        def both(fw: Tensor) -> Tensor:
            bw, W, b = next(rest)
            return torch.tanh(F.linear(torch.cat([fw, bw], 1), W.T, b))

        return map_state(both, fw_end)
