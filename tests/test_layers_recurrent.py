"""Recurrent layers: TensorFlow's numbers, torch's own recurrences as oracles, lengths, states, errors."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import torchlayer as tl
from torchlayer.layers import _recurrence, dynamic, recurrent
from torchlayer.layers._recurrence import backwards, masked

L = tl.layers
REFERENCE = Path(__file__).parent / "reference"
LSTM = L.BasicLSTMCell
CELLS = [L.BasicRNNCell, L.GRUCell, L.CudnnCompatibleGRUCell, L.BasicLSTMCell, L.LSTMCell]
LAYERS = [L.RNNLayer, L.BiRNNLayer, L.DynamicRNNLayer, L.BiDynamicRNNLayer]
by_name = {"ids": lambda cls: cls.__name__}


@pytest.fixture
def unseen(monkeypatch):
    """No length is looked at, as if they lay on a GPU."""
    for module in (_recurrence, recurrent):
        monkeypatch.setattr(module, "packable", lambda lengths, with_state: False)


def tanh(x):
    """Not torch.tanh itself, so that a cell runs in a loop."""
    return torch.tanh(x)


# TensorFlow's numbers ----------------------------------------------------------------------------

X = torch.tensor([[[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]], [[-0.7, 0.8], [0.9, 1.0], [0.0, 0.0]]])
LENGTHS = torch.tensor([3, 2])
SHAPES = {  # of the arrays that TensorFlow keeps for a cell of two units that reads two numbers
    "lstm": [(4, 8), (8,)],
    "peepholes": [(4, 8), (8,), (2,), (2,), (2,)],
    "gru": [(4, 4), (4,), (4, 2), (2,)],
    "rnn": [(4, 2), (2,)],
}


def sine_filled(layer, kind: str):
    """The layer sized for X; its k-th scalar, counted over TensorFlow's arrays, is 0.3 * sin(0.7 * k)."""
    layer.ensure_built(tuple(X.shape))
    cells = [cell for stack in layer.stacks for cell in stack]
    sizes = [math.prod(shape) for shape in SHAPES[kind]] * len(cells)
    values = np.split(0.3 * np.sin(0.7 * np.arange(sum(sizes))), np.cumsum(sizes)[:-1])
    tl.files.assign_params([v.reshape(s) for v, s in zip(values, SHAPES[kind] * len(cells))], layer)
    return layer


BASIC = [
    [[-0.056534, -0.021808], [-0.114639, -0.074619], [-0.084086, -0.025035]],
    [[-0.084235, -0.027185], [-0.018144, 0.051149], [0, 0]],
]
BACK = [
    [[0.108103, 0.068272], [0.072533, 0.045222], [0.022363, -0.019905]],
    [[0.063517, 0.007851], [-0.02063, -0.086248], [0, 0]],
]
GRU = [
    [[0.124413, 0.133579], [0.170578, 0.234444], [0.260769, 0.275654]],
    [[0.041529, 0.015794], [0.271058, 0.18693], [0, 0]],
]
FROM_TENSORFLOW = [  # cell, arguments, arrays, outputs or None, {part of the state: values}
    (LSTM, {}, "lstm", BASIC, {"c": [[-0.163736, -0.051419], [-0.037454, 0.118955]]}),
    (
        LSTM,
        {"forget_bias": 0.0},
        "lstm",
        None,
        {"c": [[-0.105903, -0.016267], [-0.007832, 0.129637]], "h": [[-0.054731, -0.007922], [-0.003796, 0.055693]]},
    ),
    (
        L.LSTMCell,
        {"use_peepholes": True},
        "peepholes",
        None,
        {"c": [[-0.164532, -0.051586], [-0.035527, 0.11998]], "h": [[-0.085634, -0.025103], [-0.017265, 0.051676]]},
    ),
    (L.GRUCell, {}, "gru", GRU, {}),
    (L.BasicRNNCell, {}, "rnn", None, {"": [[-0.032056, 0.296881], [0.090663, 0.388779]]}),
]


@pytest.mark.parametrize(("cell", "args", "kind", "outputs", "ends"), FROM_TENSORFLOW)
def test_agrees_with_tensorflow(cell, args, kind, outputs, ends):
    layer = sine_filled(L.DynamicRNNLayer(cell_fn=cell, cell_init_args=args, n_hidden=2), kind)
    y, state = layer.step(X, LENGTHS)
    if outputs is not None:
        torch.testing.assert_close(y, torch.tensor(outputs), rtol=0, atol=1e-6)
    for part, values in ends.items():
        torch.testing.assert_close(getattr(state, part) if part else state, torch.tensor(values), rtol=0, atol=1e-6)


def test_both_directions_agree_with_tensorflow():
    layer = sine_filled(L.BiDynamicRNNLayer(cell_fn=LSTM, n_hidden=2), "lstm")
    expected = torch.cat([torch.tensor(BASIC), torch.tensor(BACK)], 2)
    torch.testing.assert_close(layer(X, LENGTHS), expected, rtol=0, atol=1e-6)
    layer.return_last = "aligned"
    aligned = [[-0.084086, -0.025035, 0.022363, -0.019905], [-0.018144, 0.051149, -0.02063, -0.086248]]
    torch.testing.assert_close(layer(X, LENGTHS), torch.tensor(aligned), rtol=0, atol=1e-6)
    layer.return_last = True
    whole = [[-0.084086, -0.025035, 0.108103, 0.068272], [-0.018144, 0.051149, 0.063517, 0.007851]]
    torch.testing.assert_close(layer(X, LENGTHS), torch.tensor(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("file", sorted(REFERENCE.glob("basic_lstm_*.npz")), ids=lambda file: file.stem)
@pytest.mark.parametrize("activation", [torch.tanh, tanh], ids=["fused", "looped"])
def test_agrees_with_the_reference(file, activation):
    with np.load(file) as data:
        known = dict(data)
    args = {"forget_bias": json.loads(str(known["about"]))["forget_bias"], "activation": activation}
    layer = L.RNNLayer(cell_fn=LSTM, cell_init_args=args, n_hidden=known["h"].shape[1])
    x = torch.tensor(known["x"]).double()
    layer.double().ensure_built(tuple(x.shape))
    tl.files.assign_params([known["kernel"], known["bias"]], layer)
    y, state = layer.step(x)
    for got, wanted in [(y, "y"), (state.h, "h"), (state.c, "c")]:
        torch.testing.assert_close(got, torch.tensor(known[wanted]), rtol=0, atol=1e-5)


def test_clips_and_projects_as_its_equations_say():
    torch.manual_seed(0)
    args = {"use_peepholes": True, "cell_clip": 0.05, "num_proj": 3, "proj_clip": 0.01, "forget_bias": 0.5}
    layer = L.RNNLayer(cell_fn=L.LSTMCell, cell_init_args=args, n_hidden=4, initializer=nn.init.normal_)
    x = torch.randn(2, 5, 6)
    y = layer(x)
    p = dict(layer.cells[0].named_parameters())
    h, c, ys = torch.zeros(2, 3), torch.zeros(2, 4), []
    for t in range(5):
        i, f, g, o = (x[:, t] @ p["weight_ih"].T + h @ p["weight_hh"].T + p["bias_ih"]).chunk(4, 1)
        c = torch.sigmoid(f + 0.5 + p["w_f_diag"] * c) * c + torch.sigmoid(i + p["w_i_diag"] * c) * torch.tanh(g)
        c = c.clamp(-0.05, 0.05)
        h = ((torch.sigmoid(o + p["w_o_diag"] * c) * torch.tanh(c)) @ p["weight_hr"].T).clamp(-0.01, 0.01)
        ys.append(h)
    torch.testing.assert_close(y, torch.stack(ys, 1))
    assert y.abs().max() == 0.01  # the clip was at work


# Torch's own recurrences as oracles --------------------------------------------------------------


def torch_lstm(layer) -> nn.LSTM:
    """The ``nn.LSTM`` with the weights of a layer of BasicLSTMCells that is no deeper than one in two directions."""
    n_in = layer.stacks[0][0].weight_ih.shape[1]
    oracle = nn.LSTM(n_in, layer.n_hidden, layer.n_layer, batch_first=True, bidirectional=len(layer.stacks) == 2)
    for stack, suffix in zip(layer.stacks, ("", "_reverse")):
        for i, cell in enumerate(stack):
            for name, value in (*cell.named_parameters(), *cell.named_buffers()):
                oracle.get_parameter(f"{name}_l{i}{suffix}").data.copy_(value)
    return oracle


@pytest.mark.parametrize(
    ("make", "n_layer"), [(L.DynamicRNNLayer, 1), (L.DynamicRNNLayer, 3), (L.BiDynamicRNNLayer, 1)]
)
@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [2, 5, 1, 3]], ids=["full", "ragged"])
def test_agrees_with_packed_torch_lstm_in_values_states_and_gradients(make, n_layer, lengths):
    torch.manual_seed(0)
    lengths = torch.tensor(lengths)
    layer = make(cell_fn=LSTM, n_hidden=4, n_layer=n_layer)
    x, same = (torch.randn(4, 5, 3).requires_grad_() for _ in range(2))
    same.data.copy_(x.data)
    y, state = layer.step(x, lengths)
    oracle = torch_lstm(layer)
    packed, (h, c) = oracle(pack_padded_sequence(same, lengths, batch_first=True, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed, batch_first=True, total_length=5)
    torch.testing.assert_close(y, expected)
    states = [state] if n_layer * len(layer.stacks) == 1 else state
    torch.testing.assert_close(torch.stack([s.h for s in states]), h)
    torch.testing.assert_close(torch.stack([s.c for s in states]), c)
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(
        layer.stacks[-1][0].weight_hh.grad, oracle.all_weights[-1 if n_layer == 1 else 0][1].grad
    )


def test_gru_of_cudnn_is_that_of_torch_and_the_other_one_is_not():
    torch.manual_seed(0)
    x, oracle = torch.randn(2, 5, 3), nn.GRU(3, 4, batch_first=True)
    weights = {name.removesuffix("_l0"): value for name, value in oracle.state_dict().items()}
    for cell, agrees in [(L.CudnnCompatibleGRUCell, True), (L.GRUCell, False)]:
        layer = L.RNNLayer(cell_fn=cell, n_hidden=4)
        layer(x)
        layer.cells[0].load_state_dict(weights, strict=agrees)
        if not agrees:
            layer.cells[0].bias_hh.copy_(weights["bias_hh"])
        assert torch.allclose(layer(x), oracle(x)[0], atol=1e-6) == agrees


@pytest.mark.parametrize("make", LAYERS, **by_name)
@pytest.mark.parametrize("cell", [L.BasicRNNCell, LSTM], **by_name)
def test_one_call_and_a_loop_compute_the_same(make, cell):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 2)
    fused, looped = (make(cell_fn=cell, cell_init_args={"activation": act}, n_hidden=4) for act in (torch.tanh, tanh))
    y, state = fused.step(x)
    looped.load_state_dict(fused.state_dict())
    assert fused.stacks[0].fused
    assert not looped.stacks[0].fused
    torch.testing.assert_close((y, state), looped.step(x))


@pytest.mark.parametrize("cell", CELLS, **by_name)
def test_a_step_of_the_cell_alone_is_a_step_of_the_layer(cell):
    torch.manual_seed(0)
    layer, x = L.RNNLayer(cell_fn=cell, n_hidden=4), torch.randn(3, 2, 5)
    y, state = layer.step(x)
    first, held = layer.cells[0](x[:, 0])
    second, held = layer.cells[0](x[:, 1], held)
    torch.testing.assert_close((torch.stack([first, second], 1), held), (y, state))


def test_layers_of_two_directions_meet_only_at_the_top():
    torch.manual_seed(0)
    deep, x = L.BiRNNLayer(cell_fn=LSTM, n_hidden=4, n_layer=2), torch.randn(3, 5, 2)
    y = deep(x)
    halves = []
    for stack in deep.stacks:
        one_way = L.DynamicRNNLayer(cell_fn=LSTM, n_hidden=4, n_layer=2)
        one_way(x)
        one_way.cells.load_state_dict(stack.state_dict())
        halves.append(one_way(x) if stack is deep.fw else one_way(x.flip(1)).flip(1))
    torch.testing.assert_close(y, torch.cat(halves, 2))


# Lengths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [L.DynamicRNNLayer, L.BiDynamicRNNLayer], **by_name)
@pytest.mark.parametrize("cell", [L.GRUCell, LSTM], **by_name)
@pytest.mark.parametrize("n_layer", [1, 2])
def test_padding_is_not_read_and_an_empty_sequence_leaves_no_trace(make, cell, n_layer):
    torch.manual_seed(0)
    layer = make(cell_fn=cell, n_hidden=4, n_layer=n_layer)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 0, 2, 4])
    begin = layer.step(torch.randn(4, 2, 3))[1]
    y, end = layer.step(x, lengths, begin)
    for row, length in enumerate(lengths.tolist()):
        mine = tl.network.map_state(lambda s, row=row: s[row : row + 1], begin)
        if length:
            alone, mine = layer.step(x[row : row + 1, :length], state=mine)
            torch.testing.assert_close(y[row, :length], alone[0])
        assert not y[row, length:].any()
        torch.testing.assert_close(tl.network.map_state(lambda s, row=row: s[row : row + 1], end), mine)


@pytest.mark.parametrize("make", [L.DynamicRNNLayer, L.BiDynamicRNNLayer], **by_name)
@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("return_last", [False, True, "aligned"])
def test_without_a_look_at_the_lengths_nothing_changes(make, n_layer, return_last, request):
    torch.manual_seed(0)
    layer = make(cell_fn=LSTM, n_hidden=4, n_layer=n_layer, return_last=return_last)
    x, lengths = torch.randn(4, 5, 3), torch.tensor([5, 0, 2, 3])
    packed = layer(x, lengths)
    request.getfixturevalue("unseen")
    torch.testing.assert_close(layer(x, lengths), packed)


@pytest.mark.parametrize("cell", CELLS, **by_name)
@pytest.mark.parametrize("begun", [False, True])
def test_without_a_look_at_the_lengths_states_are_the_same(cell, begun, request, monkeypatch):
    layer = L.DynamicRNNLayer(cell_fn=cell, n_hidden=4)
    x, lengths = torch.randn(4, 5, 3), torch.tensor([5, 0, 2, 3])
    state = layer.step(torch.randn(4, 2, 3))[1] if begun else None
    packed = layer.step(x, lengths, state)
    request.getfixturevalue("unseen")
    if cell in (L.BasicRNNCell, L.CudnnCompatibleGRUCell):  # the outputs have it, so no step is gone through by itself
        monkeypatch.setattr(_recurrence, "_looped", None)
    torch.testing.assert_close(layer.step(x, lengths, state), packed)


@pytest.mark.parametrize("length", [-1, 6])
@pytest.mark.parametrize("cell", [L.GRUCell, LSTM], **by_name)
@pytest.mark.parametrize("return_last", [False, True])
def test_an_impossible_length_that_nobody_looks_at_spoils_its_sequence_only(
    cell, length, return_last, unseen, monkeypatch
):
    monkeypatch.setattr(L.DynamicRNNLayer, "_checked", lambda self, lengths, x: dynamic.marked(lengths, x.shape[1]))
    layer = L.DynamicRNNLayer(cell_fn=cell, n_hidden=4, return_last=return_last)
    y = layer(torch.ones(2, 5, 3), torch.tensor([length, 3]))
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch 2.13 of itself, where a graph breaks
@pytest.mark.parametrize("make", [L.DynamicRNNLayer, L.BiDynamicRNNLayer], **by_name)
def test_compiled_steps_mind_lengths_and_states(make):
    layer = make(cell_fn=LSTM, n_hidden=4)
    x, lengths = torch.randn(4, 3, 3), torch.tensor([3, 0, 2, 1])
    expected = layer.step(x, lengths)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer.step, backend="eager")(x, lengths), expected)


def test_lengths_are_counted_where_none_are_given():
    layer = L.DynamicRNNLayer(cell_fn=LSTM, n_hidden=4)
    x = torch.randn(2, 5, 3)
    x[1, 3:] = 0
    torch.testing.assert_close(layer(x), layer(x, torch.tensor([5, 3])))


def test_backwards_reverses_what_is_there():
    x = torch.arange(8.0).view(2, 4, 1)
    assert backwards(x, torch.tensor([3, 0])).squeeze(2).tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
    assert torch.equal(backwards(x, None), x.flip(1))


@pytest.mark.parametrize(
    "device",
    [
        "meta",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
@pytest.mark.parametrize("cell", [L.GRUCell, LSTM], **by_name)
@pytest.mark.parametrize("return_last", [False, True])
@pytest.mark.usefixtures("without_tf32")
def test_lengths_may_lie_on_the_cpu_and_data_elsewhere(device, cell, return_last):
    layer = L.BiDynamicRNNLayer(cell_fn=cell, n_hidden=4, return_last=return_last)
    x, lengths = torch.randn(4, 5, 3), torch.tensor([5, 0, 2, 3])
    y = layer(x, lengths)
    there = layer.to(device)(x.to(device), lengths)
    assert there.shape == y.shape
    if device != "meta":
        torch.testing.assert_close(there.cpu(), y, rtol=1e-4, atol=1e-5)


def test_masking_stops_gradients_too():
    y = torch.full((1, 3, 2), torch.inf, requires_grad=True)
    masked(y, torch.tensor([1])).sum().backward()
    assert y.grad.sum(2).tolist() == [[2, 0, 0]]


def test_lengths_come_from_the_network_they_are_stacked_with():
    ids = L.InputLayer((None, None), torch.int64, name="ids")
    lengths = L.LambdaLayer(ids, fn=L.retrieve_seq_length_op2, name="lengths")
    net = L.EmbeddingInputlayer(ids, 9, 3, name="words")
    net = L.BiDynamicRNNLayer(net, cell_fn=LSTM, n_hidden=4, sequence_length=lengths, return_last=True, name="rnn")
    batch = torch.tensor([[3, 1, 4, 0], [5, 0, 0, 0]])
    assert net.outputs.shape == (None, 8)
    torch.testing.assert_close(net(batch), net.rnn(net.words(batch), torch.tensor([3, 1])))


# States ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, **by_name)
@pytest.mark.parametrize("n_layer", [1, 2])
def test_two_windows_are_one_sequence(cell, n_layer):
    torch.manual_seed(0)
    net = L.InputLayer((None, None, 3))
    net = L.DynamicRNNLayer(net, cell_fn=cell, n_hidden=4, n_layer=n_layer, name="rnn")
    x = torch.randn(2, 6, 3)
    first, state = net.step(x[:, :4])
    second, state = net.step(x[:, 4:], state=tl.layers.detach(state))
    whole, end = net.step(x)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("cell", CELLS, **by_name)
@pytest.mark.parametrize("n_layer", [1, 2])
def test_words_read_one_by_one_without_gradients_are_the_same(cell, n_layer):
    layer, x = L.RNNLayer(cell_fn=cell, n_hidden=6, n_layer=n_layer), torch.randn(3, 4, 5)
    y, end = layer.step(x)
    state, outputs = None, []
    with torch.no_grad():
        for word in x.split(1, 1):
            out, state = layer.step(word, state)
            outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 1), y.detach())
    torch.testing.assert_close(state, L.detach(end))


def test_states_carry_gradients_until_they_are_detached():
    layer = L.RNNLayer(cell_fn=LSTM, n_hidden=4)
    x = torch.randn(2, 3, 3, requires_grad=True)
    _, state = layer.step(x)
    y, _ = layer.step(torch.randn(2, 3, 3), state)
    assert torch.autograd.grad(y.sum(), x)[0].abs().sum() > 0
    y, _ = layer.step(torch.randn(2, 3, 3), tl.layers.detach(state))
    assert torch.autograd.grad(y.sum(), x, allow_unused=True)[0] is None


@pytest.mark.parametrize("make", LAYERS, **by_name)
def test_initial_state_is_where_a_layer_begins(make):
    layer, x = make(cell_fn=LSTM, n_hidden=4), torch.randn(2, 3, 3)
    _, state = layer.step(x)
    carried, _ = layer.step(x, state=state)
    assert not torch.equal(layer(x), carried)
    layer.initial_state = tl.layers.detach(state)
    torch.testing.assert_close(layer(x), carried)
    names = ("initial_state",) if len(layer.stacks) == 1 else ("fw_initial_state", "bw_initial_state")
    begun = make(cell_fn=LSTM, n_hidden=4, **dict(zip(names, [state] if len(names) == 1 else state)))
    begun.load_state_dict(layer.state_dict())
    torch.testing.assert_close(begun(x), carried)


# Outputs, dropout, parameters --------------------------------------------------------------------


@pytest.mark.parametrize("make", LAYERS, **by_name)
def test_shapes_of_what_is_returned(make):
    net, H = L.InputLayer((None, 5, 3)), 8 if "Bi" in make.__name__ else 4
    assert make(net, cell_fn=LSTM, n_hidden=4).outputs.shape == (None, 5, H)
    assert make(net, cell_fn=LSTM, n_hidden=4, return_last=True).outputs.shape == (None, H)
    assert make(net, cell_fn=LSTM, n_hidden=4, return_seq_2d=True).outputs.shape == (None, H)
    layer = make(cell_fn=LSTM, n_hidden=4)
    x = torch.randn(2, 5, 3)
    y = layer(x)
    layer.return_seq_2d = True
    torch.testing.assert_close(layer(x), y.reshape(10, H))
    layer.return_last = "aligned"
    torch.testing.assert_close(layer(x), y[:, -1])


def test_n_steps_reads_the_first_steps():
    layer, x = L.RNNLayer(cell_fn=LSTM, n_hidden=4), torch.randn(2, 5, 3)
    y = layer(x)
    layer.n_steps = 3
    torch.testing.assert_close(layer(x), y[:, :3])


@pytest.mark.parametrize("cell", [LSTM, L.GRUCell], **by_name)
def test_several_cells_of_one_layer_are_layers_on_top_of_each_other(cell):
    deep, x = L.RNNLayer(cell_fn=cell, n_hidden=4, n_layer=2), torch.randn(2, 5, 3)
    y, ends = deep.step(x)
    lower, upper = (L.RNNLayer(cell_fn=cell, n_hidden=4) for _ in range(2))
    for layer, own, width in ((lower, deep.cells[0], 3), (upper, deep.cells[1], 4)):
        layer.ensure_built((2, 5, width))
        layer.cells[0].load_state_dict(own.state_dict())
    between, lower_end = lower.step(x)
    top, upper_end = upper.step(between)
    torch.testing.assert_close(y, top)
    torch.testing.assert_close(ends, (lower_end, upper_end))


@pytest.mark.parametrize("make", [L.RNNLayer, L.DynamicRNNLayer], **by_name)
@pytest.mark.parametrize("activation", [torch.tanh, tanh], ids=["fused", "looped"])
def test_dropout_keeps_what_it_says_and_scales_it(activation, make):
    torch.manual_seed(0)
    args = {"activation": activation}
    layer = make(cell_fn=LSTM, cell_init_args=args, n_hidden=50, n_layer=2, dropout=(0.9, 0.5))
    x = torch.randn(40, 20, 10)
    dropped = layer(x)
    layer.eval()
    kept = layer(x)
    assert torch.equal(layer(x), kept)
    assert (dropped != 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert dropped.std() > 1.2 * kept.std()  # what is kept is doubled
    layer.train()
    with torch.no_grad():
        for cell in layer.cells:  # an identity of sorts, so that masks add up to a known mean
            cell.bias_ih.fill_(10.0)
    means = torch.stack([layer(x).mean().detach() for _ in range(20)])
    assert means.mean().item() == pytest.approx(layer.eval()(x).mean().item(), rel=0.05)


@pytest.mark.parametrize("dropout", [None, 0, 0.0, 1, 1.0, (1.0, 1.0), [1.0, 1]])
def test_dropout_that_drops_nothing(dropout):
    layer, x = L.DynamicRNNLayer(cell_fn=LSTM, n_hidden=4, dropout=dropout), torch.randn(2, 5, 3)
    assert torch.equal(layer(x), layer.eval()(x))


def test_parameters_are_torchs_and_the_forget_bias_is_none_of_them():
    net = L.RNNLayer(L.InputLayer((None, 5, 3)), cell_fn=LSTM, n_hidden=4, name="lstm1")
    assert list(net.state_dict()) == [f"lstm1.cells.0.{name}" for name in ("weight_ih", "weight_hh", "bias_ih")]
    assert net.count_params() == (3 + 4 + 1) * 16
    assert len(net.all_params) == 3
    assert all(p.requires_grad for p in net.parameters())
    assert net.lstm1.cells[0].bias_hh.tolist() == [0] * 4 + [1] * 4 + [0] * 8


def test_initial_values():
    layer = L.RNNLayer(cell_fn=L.GRUCell, n_hidden=50, initializer=tl.initializers.random_uniform(0.2, 0.3))
    layer(torch.ones(1, 1, 40))
    cell = layer.cells[0]
    for weight in (cell.weight_ih, cell.weight_hh):
        assert 0.2 <= weight.min() < 0.21 < 0.29 < weight.max() < 0.3
    assert cell.bias_ih.tolist() == [1.0] * 100 + [0.0] * 50


def test_an_optimiser_made_before_the_first_call_stays_valid():
    layer = L.DynamicRNNLayer(cell_fn=LSTM, n_hidden=4, n_layer=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer(torch.randn(2, 5, 3)).square().sum()
    before.backward()
    optimizer.step()
    assert all(p.grad is not None for p in layer.parameters())


def test_files_of_tensorlayer_load_by_position(tmp_path):
    net = L.InputLayer((None, 5, 3))
    net = L.RNNLayer(net, cell_fn=LSTM, n_hidden=4, name="lstm1")
    net = L.RNNLayer(net, cell_fn=L.GRUCell, n_hidden=2, return_last=True, name="gru1")
    net = L.DenseLayer(net, n_units=1, name="out")
    shapes = [(7, 16), (16,), (6, 4), (4,), (6, 2), (2,), (2, 1), (1,)]
    arrays = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]
    np.savez(tmp_path / "old.npz", *arrays)
    tl.files.load_and_assign_npz(tmp_path / "old.npz", net)
    x = torch.randn(2, 5, 3)
    h = c = torch.zeros(2, 4)
    g = torch.zeros(2, 2)
    for t in range(5):
        i, j, f, o = (torch.cat([x[:, t], h], 1) @ torch.tensor(arrays[0]) + torch.tensor(arrays[1])).chunk(4, 1)
        c = c * torch.sigmoid(f + 1) + torch.sigmoid(i) * torch.tanh(j)
        h = torch.tanh(c) * torch.sigmoid(o)
        r, u = torch.sigmoid(torch.cat([h, g], 1) @ torch.tensor(arrays[2]) + torch.tensor(arrays[3])).chunk(2, 1)
        new = torch.tanh(torch.cat([h, r * g], 1) @ torch.tensor(arrays[4]) + torch.tensor(arrays[5]))
        g = u * g + (1 - u) * new
    torch.testing.assert_close(net(x), g @ torch.tensor(arrays[6]) + torch.tensor(arrays[7]))
    tl.files.save_npz(net, tmp_path / "new.npz")
    other = copy.deepcopy(net)
    nn.init.zeros_(other.lstm1.cells[0].weight_ih)
    tl.files.load_and_assign_npz(tmp_path / "new.npz", other)
    assert torch.equal(net(x), other(x))
    with pytest.raises(ValueError, match=r"matrix for this BasicLSTMCell has 3 \+ 4 rows.*got \(8, 16\)"):
        tl.files.assign_params([np.zeros((8, 16)), *arrays[1:]], net)


# Cells of cells, and of users --------------------------------------------------------------------


def test_a_cell_of_cells_is_a_layer_of_layers():
    torch.manual_seed(0)
    nested = L.RNNLayer(cell_fn=lambda n: L.MultiRNNCell([L.GRUCell(n), L.GRUCell(n)]), n_hidden=4)
    flat, x = L.DynamicRNNLayer(cell_fn=L.GRUCell, n_hidden=4, n_layer=2), torch.randn(2, 5, 3)
    y, state = nested.step(x)
    flat(x)
    flat.cells.load_state_dict(nested.cells[0].cells.state_dict())
    torch.testing.assert_close((y, state), flat.step(x))


def test_a_wrapped_cell_drops_its_input_and_output_but_never_its_state():
    torch.manual_seed(0)
    cell = L.DropoutWrapper(L.GRUCell(200), output_keep_prob=0.25)
    layer, x = L.RNNLayer(cell_fn=lambda n: cell, n_hidden=200), torch.randn(3, 10, 4)
    y, state = layer.step(x)
    assert (y != 0).float().mean() == pytest.approx(0.25, abs=0.03)
    kept, undropped = layer.eval().step(x)
    assert (kept != 0).all()
    torch.testing.assert_close(state, undropped)


class Decay(L.Cell):
    """A running mean with a state of two unlike tensors."""

    def __init__(self, num_units, rate=0.5):
        super().__init__(num_units)
        self.rate, self.weight = rate, nn.UninitializedParameter()

    def build(self, n_in, initializer):
        self.weight.materialize((self.num_units, n_in))
        initializer(self.weight)

    def zero_state(self, x):
        return {"mean": x.new_zeros(len(x), self.num_units), "count": x.new_zeros(len(x))}

    def advance(self, x, state):
        mean = self.rate * state["mean"] + (1 - self.rate) * F.linear(x, self.weight)
        return mean, {"mean": mean, "count": state["count"] + 1}


def test_a_users_cell_keeps_a_state_of_its_own_kind_to_the_end_of_each_sequence():
    layer = L.DynamicRNNLayer(cell_fn=Decay, cell_init_args={"rate": 0.25}, n_hidden=2, initializer=nn.init.ones_)
    y, state = layer.step(torch.ones(2, 3, 1), torch.tensor([3, 1]))
    assert state["count"].tolist() == [3, 1]
    assert y[:, :, 0].tolist() == [[0.75, 0.9375, 0.984375], [0.75, 0, 0]]
    _, state = layer.step(torch.ones(2, 3, 1), torch.tensor([0, 2]), state)
    assert state["count"].tolist() == [3, 3]
    net = L.BiDynamicRNNLayer(L.InputLayer((None, None, 1)), cell_fn=Decay, n_hidden=2)
    assert net.outputs.shape == (None, None, 4)


# Compilers ---------------------------------------------------------------------------------------


def test_compiles_with_inductor():
    torch.manual_seed(0)
    net = L.DynamicRNNLayer(L.InputLayer((None, 2, 3)), cell_fn=L.GRUCell, n_hidden=4, return_last=True, name="rnn")
    x = torch.randn(2, 2, 3)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net)(x), net(x))


# Errors ------------------------------------------------------------------------------------------

D3 = (None, 5, 3)
STACKING = [
    (lambda n: L.RNNLayer(n), D3, ValueError, "a recurrent layer needs a cell_fn, such as tl.layers.BasicLSTMCell"),
    (lambda n: L.RNNLayer(n, nn.Identity), D3, TypeError, r"cell_fn makes cells, got Identity; take .* subclass"),
    (lambda n: L.RNNLayer(n, LSTM, n_hidden=0), D3, ValueError, "at least 1 unit, got num_units=0"),
    (lambda n: L.DynamicRNNLayer(n, LSTM, n_layer=0), D3, ValueError, "at least 1, got 0"),
    (lambda n: L.RNNLayer(n, LSTM, n_layer=0), D3, ValueError, "at least 1, got 0"),
    (lambda n: L.RNNLayer(n, LSTM, dropout=1.5), D3, ValueError, r"a probability of keeping, in \(0, 1\], .* got 1.5"),
    (lambda n: L.DynamicRNNLayer(n, LSTM, dropout=1.5), D3, ValueError, r"in \(0, 1\], or two .* got 1.5"),
    (lambda n: L.DynamicRNNLayer(n, LSTM, dropout=(1, 0)), D3, ValueError, r"got \(1, 0\)"),
    (lambda n: L.DynamicRNNLayer(n, LSTM, dropout=(1, 1, 1)), D3, ValueError, r"got \(1, 1, 1\)"),
    (lambda n: L.RNNLayer(n, LSTM, return_last="last"), D3, ValueError, "True, False or 'aligned', got 'last'"),
    (lambda n: L.RNNLayer(n, LSTM, {"state_is_tuple": False}), D3, ValueError, r"drop state_is_tuple=False, read \.h"),
    (lambda n: L.BiRNNLayer(n, LSTM, fw_initial_state=1), D3, ValueError, "for both directions or none"),
    (lambda n: L.MultiRNNCell([]), D3, ValueError, "takes a list of cells"),
    (lambda n: L.DropoutWrapper(L.GRUCell(1), 0.0), D3, ValueError, r"lie in \(0, 1\], got 0.0 and 1.0"),
    (lambda n: L.DynamicRNNLayer(n, LSTM, sequence_length=[3]), D3, TypeError, "a network of lengths, .* got list"),
    (
        lambda n: L.RNNLayer(n, LSTM, name="a"),
        (None, 3),
        ValueError,
        r"layer 'a' \(RNNLayer\).*reads sequences \(N, T, D",
    ),
    (lambda n: L.RNNLayer(n, LSTM, name="a"), (None, 5, None), ValueError, r"'a'.*known, non-zero width"),
    (
        lambda n: L.RNNLayer(n, LSTM, n_steps=9, name="a"),
        D3,
        ValueError,
        "n_steps=9, but the input has 5; n_steps=None",
    ),
]


@pytest.mark.parametrize(("make", "shape", "kind", "text"), STACKING)
def test_what_cannot_be_stacked_says_why(make, shape, kind, text):
    with pytest.raises(kind, match=text):
        make(L.InputLayer(shape))


def test_a_sized_layer_refuses_another_width():
    layer = L.RNNLayer(cell_fn=LSTM, n_hidden=4)
    layer(torch.ones(2, 5, 3))
    with pytest.raises(ValueError, match=r"sized for inputs of width 3, got \(2, 5, 4\)"):
        layer(torch.ones(2, 5, 4))


def test_a_sized_layer_refuses_a_window_without_steps():
    layer = L.RNNLayer(cell_fn=LSTM, n_hidden=4)
    layer(torch.ones(2, 5, 3))
    with pytest.raises(ValueError, match=r"at least one step .* got \(2, 0, 3\)"):
        layer(torch.ones(2, 0, 3))


def test_ids_are_refused_with_the_layer_they_need():
    with pytest.raises(ValueError, match=r"'a'.*reads vectors, got torch.int64; stack an EmbeddingInputlayer"):
        L.RNNLayer(L.InputLayer(D3, torch.int64), LSTM, name="a")


CALLING = [
    (torch.tensor([5, 6]), ValueError, r"'a' reads sequences of 5 steps, .* got 6 for sequence 1; pad the batch"),
    (torch.tensor([-1, 5]), ValueError, r"'a' reads .* lie in \[0, 5\], got -1 for sequence 0"),
    (torch.tensor([5.0, 5.0]), TypeError, "'a' takes lengths of an integer dtype, got torch.float32"),
    (torch.tensor([True, True]), TypeError, "'a' takes lengths of an integer dtype, got torch.bool"),
    (torch.tensor([5]), ValueError, r"'a' takes a length for each of 2 sequences, got lengths of shape \(1,\)"),
    (torch.tensor(5), ValueError, r"got lengths of shape \(\)"),
]


@pytest.mark.parametrize(("lengths", "kind", "text"), CALLING)
@pytest.mark.parametrize("make", [L.DynamicRNNLayer, L.BiDynamicRNNLayer], **by_name)
@pytest.mark.parametrize("cell", [L.GRUCell, LSTM], **by_name)
def test_lengths_that_cannot_be_are_named(make, cell, lengths, kind, text):
    with pytest.raises(kind, match=text):
        make(cell_fn=cell, n_hidden=4, name="a")(torch.randn(2, 5, 3), lengths)


STATES = [
    (lambda s: tl.network.map_state(lambda t: t[:1], s), r"a state of \[1\] sequences does not fit a batch of 2"),
    (lambda s: s[0], r"nested otherwise; pass on what step\(\) returned"),
]


@pytest.mark.parametrize(("spoil", "text"), STATES)
def test_states_that_do_not_fit_are_refused(spoil, text):
    layer, x = L.DynamicRNNLayer(cell_fn=LSTM, n_hidden=4, n_layer=3), torch.randn(2, 5, 3)
    _, state = layer.step(x)
    with pytest.raises(ValueError, match=text):
        layer.step(x, state=spoil(state))


def test_a_base_cell_says_what_to_write():
    with pytest.raises(NotImplementedError, match=r"Cell needs a method advance\(x, state\)"):
        L.Cell(3)(torch.ones(1, 2))
    with pytest.raises(NotImplementedError, match=r"Cell needs a method build\(n_in, initializer\)"):
        L.RNNLayer(cell_fn=L.Cell)(torch.ones(1, 2, 2))
