"""The recurrent pairs that layers.py times."""

from __future__ import annotations

from typing import Any

import torch
from layers_pairs import Case, Pair, paired
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import torchlayer as tl

L = tl.layers
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih")


class Outputs(nn.Module):
    """The outputs of all steps, packed if there are lengths, without the last state.

    TensorFlow's cells have one bias; the second stays zero.
    """

    def __init__(self, recurrence: nn.RNNBase, lengths: Tensor | None = None):
        super().__init__()
        self.recurrence, self.lengths = recurrence, lengths
        for name, parameter in recurrence.named_parameters():
            if name.startswith("bias_hh"):
                nn.init.zeros_(parameter).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            return self.recurrence(x)[0]
        packed = pack_padded_sequence(x, self.lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.recurrence(packed)[0], batch_first=True, total_length=x.shape[1])[0]


class Ours(nn.Module):
    """A layer that is told its lengths."""

    def __init__(self, layer: Any, lengths: Tensor, n_in: int):
        super().__init__()
        self.layer, self.lengths = layer.ensure_built((None, None, n_in)), lengths

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.lengths)


def lstm(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    ours = L.RNNLayer(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=n_hidden)
    theirs = Outputs(nn.LSTM(n_in, n_hidden, batch_first=True))
    names = {f"cells.0.{name}": f"recurrence.{name}_l0" for name in WEIGHTS}
    return paired(ours, theirs, torch.randn(n, n_steps, n_in), names, channels_first=False)


def lstm_two_layers(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    """Lengths are counted from the input, which is full."""
    ours = L.DynamicRNNLayer(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=n_hidden, n_layer=2)
    theirs = Outputs(nn.LSTM(n_in, n_hidden, num_layers=2, batch_first=True))
    names = {f"cells.{i}.{name}": f"recurrence.{name}_l{i}" for name in WEIGHTS for i in range(2)}
    return paired(ours, theirs, torch.randn(n, n_steps, n_in), names, channels_first=False)


def lstm_lengths(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    """Lengths between 1 and all steps that lie on the CPU: packed by both."""
    return _with_lengths(torch.randint(1, n_steps + 1, (n,), device="cpu"), n_steps, n_in, n_hidden)


def lstm_lengths_there(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    """Lengths beside the data: on a GPU masked here, while packing has to fetch them."""
    return _with_lengths(torch.randint(1, n_steps + 1, (n,)), n_steps, n_in, n_hidden)


def _with_lengths(lengths: Tensor, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    layer = L.DynamicRNNLayer(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=n_hidden)
    theirs = Outputs(nn.LSTM(n_in, n_hidden, batch_first=True), lengths)
    names = {f"layer.cells.0.{name}": f"recurrence.{name}_l0" for name in WEIGHTS}
    x = torch.randn(len(lengths), n_steps, n_in)
    return paired(Ours(layer, lengths, n_in), theirs, x, names, channels_first=False)


def lstm_both_ways(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    ours = L.BiRNNLayer(cell_fn=L.BasicLSTMCell, cell_init_args={"forget_bias": 0.0}, n_hidden=n_hidden)
    theirs = Outputs(nn.LSTM(n_in, n_hidden, batch_first=True, bidirectional=True))
    names = {f"fw.0.{name}": f"recurrence.{name}_l0" for name in WEIGHTS}
    names |= {f"bw.0.{name}": f"recurrence.{name}_l0_reverse" for name in WEIGHTS}
    return paired(ours, theirs, torch.randn(n, n_steps, n_in), names, channels_first=False)


def gru(n: int, n_steps: int, n_in: int, n_hidden: int) -> Pair:
    """Torch's own arithmetic on both sides; TensorFlow's GRU, which torch does not have, runs in a loop."""
    ours = L.RNNLayer(cell_fn=L.CudnnCompatibleGRUCell, n_hidden=n_hidden)
    theirs = Outputs(nn.GRU(n_in, n_hidden, batch_first=True))
    for parameter in theirs.parameters():
        parameter.requires_grad_()
    names = {f"cells.0.{name}": f"recurrence.{name}_l0" for name in (*WEIGHTS, "bias_hh")}
    return paired(ours, theirs, torch.randn(n, n_steps, n_in), names, channels_first=False)


SIZES: dict[str, Any] = {
    "cpu": [(2, 4, 8, 8), (20, 20, 200, 200)],
    "cuda": [(20, 35, 650, 650), (128, 128, 512, 512)],
}
CASES = [
    Case("LSTM", lstm, **SIZES),
    Case("LSTM, two layers", lstm_two_layers, **SIZES),
    Case("LSTM, lengths", lstm_lengths, **SIZES),
    Case("LSTM, lengths on the device", lstm_lengths_there, **SIZES),
    Case("LSTM, both ways", lstm_both_ways, **SIZES),
    Case("GRU of torch", gru, **SIZES),
]
