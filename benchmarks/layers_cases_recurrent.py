"""The recurrent pairs that layers.py times."""

from __future__ import annotations

import torch
from layers_pairs import Case, Pair, paired
from torch import Tensor, nn

import torchlayer as tl

L = tl.layers


class Outputs(nn.Module):
    """The outputs of all steps, without the last state. TensorFlow's cells have one bias; the second stays zero."""

    def __init__(self, recurrence: nn.LSTM):
        super().__init__()
        self.recurrence = recurrence
        nn.init.zeros_(recurrence.get_parameter("bias_hh_l0")).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrence(x)[0]


def lstm(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    ours = L.RNNLayer(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=n_hidden)
    theirs = Outputs(nn.LSTM(n_in, n_hidden, batch_first=True))
    names = {f"cells.0.{name}": f"recurrence.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih")}
    return paired(ours, theirs, torch.randn(n, n_steps, n_in), names, channels_first=False)


CASES = [Case("LSTM", lstm, [(2, 4, 8, 8), (20, 20, 200, 200)], [(20, 35, 650, 650), (128, 128, 512, 512)])]
