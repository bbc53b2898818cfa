"""Dropping the same thing all along a sequence: values, words, recurrent weights."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl

L = tl.layers


def tanh(x):
    """Not torch.tanh itself, so that a cell runs in a loop."""
    return torch.tanh(x)


def test_locked_dropout_has_one_mask_for_all_steps_and_another_for_each_sequence():
    layer = L.LockedDropoutLayer(keep=0.75)
    y = layer(torch.ones(50, 3, 400))
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 4 / 3])
    assert abs(float(y.mean()) - 1) < 5 * (1 / 3 / 20_000) ** 0.5
    assert not torch.equal(y[0], y[1])
    assert not torch.equal(y, layer(torch.ones(50, 3, 400)))
    x = torch.randn(2, 3, 4)
    assert layer.eval()(x) is x


def test_a_dropped_word_is_gone_wherever_it_stands():
    layer = L.EmbeddingInputlayer(vocabulary_size=2000, embedding_size=3, E_init=torch.ones(2000, 3), keep_words=0.8)
    ids = torch.arange(2000).repeat(2, 2)
    y = layer(ids)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert torch.equal(y[:, :2000], y[:, 2000:])
    assert torch.equal(y[0], y[1])
    assert abs(float(y[0, :2000, 0].detach().mean()) - 1) < 5 * (0.25 / 2000) ** 0.5
    y.sum().backward()
    assert torch.equal(layer.embeddings.grad == 0, y[0, :2000] == 0)
    assert torch.equal(layer.eval()(ids), F.embedding(ids, layer.embeddings))


class Recorded(L.WeightDropLSTMCell):
    """Remembers the weights that it ran with."""

    def _kept(self):
        self.seen = super()._kept()
        return self.seen


def dropped_layer(activation=torch.tanh, **kwargs):
    layer = L.RNNLayer(cell_fn=Recorded, cell_init_args={"keep": 0.6, "activation": activation}, n_hidden=40, **kwargs)
    return layer.ensure_built((None, None, 3))


@pytest.mark.parametrize("activation", [torch.tanh, tanh], ids=["fused", "looped"])
def test_recurrent_weights_are_dropped_once_for_all_steps(activation):
    layer, x = dropped_layer(activation, initializer=nn.init.normal_), torch.randn(2, 6, 3)
    y, state = layer.step(x)
    cell = layer.cells[0]
    kept = cell.seen != 0
    torch.testing.assert_close(cell.seen[kept], cell.weight_hh[kept] / 0.6)
    assert abs(float(kept.float().mean()) - 0.6) < 5 * (0.24 / kept.numel()) ** 0.5
    plain = L.RNNLayer(cell_fn=L.BasicLSTMCell, n_hidden=40).ensure_built((None, None, 3))
    weights = {"weight_ih": cell.weight_ih, "weight_hh": cell.seen, "bias_ih": cell.bias_ih}
    plain.cells[0].load_state_dict({name: w.detach() for name, w in weights.items()})
    expected, end = plain.step(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state.c, end.c)


@pytest.mark.parametrize("activation", [torch.tanh, tanh], ids=["fused", "looped"])
def test_what_was_dropped_learns_nothing(activation):
    layer = dropped_layer(activation)
    layer(torch.randn(2, 6, 3)).square().sum().backward()
    grad, kept = layer.cells[0].weight_hh.grad, layer.cells[0].seen != 0
    assert not grad[~kept].any()
    assert grad[kept].all()


def test_nothing_is_dropped_in_eval_and_calls_differ_in_training():
    layer, x = dropped_layer(n_layer=2), torch.randn(2, 6, 3)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer.cells[1].weights()[1], layer.cells[1].weight_hh)
    assert torch.equal(layer(x), layer(x))


def test_wrapped_cells_drop_once_for_all_steps_too():
    inner = Recorded(5, keep=0.5)
    draws = []
    inner.register_forward_hook(lambda *_: draws.append(1))
    kept = inner._kept
    inner._kept = lambda: (draws.append(1), kept())[1]
    layer = L.RNNLayer(cell_fn=lambda n: L.MultiRNNCell([L.DropoutWrapper(inner), L.GRUCell(n)]), n_hidden=5)
    layer(torch.randn(2, 7, 3))
    n_at_first = len(draws)  # sizing the layer may run it, too
    layer(torch.randn(2, 7, 3))
    assert len(draws) == n_at_first + 1


def test_a_cell_alone_draws_at_each_step():
    cell = Recorded(4, keep=0.5)
    _, state = cell(torch.ones(1, 3))
    first = cell.seen
    cell(torch.ones(1, 3), state)
    assert not torch.equal(first, cell.seen)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: L.LockedDropoutLayer(keep=0), r"keep is the probability of keeping a value, in \(0, 1\], got 0"),
        (lambda: L.LockedDropoutLayer(keep=1.5), r"in \(0, 1\], got 1.5"),
        (lambda: L.LockedDropoutLayer()(torch.ones(2, 3)), r"takes sequences \(N, T, D\), got \(2, 3\); DropoutLayer"),
        (
            lambda: L.EmbeddingInputlayer(keep_words=0.0),
            r"keep_words is the probability of keeping a word, in \(0, 1\], got 0.0",
        ),
        (lambda: L.WeightDropLSTMCell(3, keep=-1), r"keep is the probability of keeping a weight, in \(0, 1\], got -1"),
    ],
)
def test_impossible_probabilities_and_shapes_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_layer", [1, 2])
def test_cudnn_gets_dropped_weights_in_one_block(n_layer, without_tf32):
    layer = dropped_layer(n_layer=n_layer).cuda()
    parameters = [p.data_ptr() for p in layer.parameters()]
    x = torch.randn(2, 6, 3, device="cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of weights that it has to copy
        layer(x).sum().backward()
        y = layer.eval()(x)
    assert [p.data_ptr() for p in layer.parameters()] == parameters  # what a capture has built in
    torch.testing.assert_close(y.cpu(), layer.cpu()(x.cpu()), rtol=1e-4, atol=1e-5)
