"""A network that carries its state: windows of a sequence, training, checkpoints, errors."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import torchlayer as tl

L = tl.layers


def recurrent_net(cell=L.BasicLSTMCell, n_layer=1) -> tl.Network:
    torch.manual_seed(0)
    net = L.InputLayer((None, None, 3), name="x")
    net = L.DynamicRNNLayer(net, cell_fn=cell, n_hidden=4, n_layer=n_layer, name="first")
    net = L.RNNLayer(net, cell_fn=L.GRUCell, n_hidden=5, return_seq_2d=True, name="second")
    return L.DenseLayer(net, n_units=2, name="out")


def windows(n=3):
    return torch.randn(n, 2, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cell", [L.BasicLSTMCell, L.GRUCell])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_calls_are_windows_of_one_sequence(cell, n_layer):
    net = recurrent_net(cell, n_layer)
    carry, xs, state = tl.Carry(net), windows(), None
    for _ in range(2):
        for x in xs:
            y, state = net.step(x, state=state)
            torch.testing.assert_close(carry(x), y)
        carry.reset()
        state = None


def test_gradients_stop_at_the_window():
    carry, (first, second, _) = tl.Carry(recurrent_net()), windows()
    first.requires_grad_()
    carry(first)
    carry(second).sum().backward()
    assert first.grad is None
    assert all(p.grad is not None for p in carry.parameters())


def test_carries_that_share_a_network_have_their_own_states():
    net = recurrent_net()
    train, measure, x = tl.Carry(net), tl.Carry(net), windows()[0]
    begun = train(x)
    assert not torch.equal(train(x), begun)
    assert measure(x[:1]).shape == (4, 2)
    torch.testing.assert_close(measure(x[:1]), train.network.step(x[:1], state=net.step(x[:1])[1])[0])
    assert (
        {id(p) for p in train.parameters()} == {id(p) for p in measure.parameters()} == set(map(id, net.parameters()))
    )


@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_a_saved_carry_goes_on_where_it_stood(begun):
    carry, (first, second, third) = tl.Carry(recurrent_net()), windows()
    carry(first)
    buffer = io.BytesIO()
    torch.save(carry.state_dict(), buffer)
    buffer.seek(0)
    other = tl.Carry(recurrent_net())
    if begun:
        other(third)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(second), carry(second), rtol=0, atol=0)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_copies_go_on_apart(clone):
    carry, (first, second, _) = tl.Carry(recurrent_net()), windows()
    carry(first)
    other = clone(carry)
    torch.testing.assert_close(other(second), carry(second), rtol=0, atol=0)
    carry.reset()
    assert other.state_0.abs().sum() > 0


def test_learning_the_form_of_a_state_draws_no_random_numbers():
    net = L.DynamicRNNLayer(L.InputLayer((None, None, 3)), cell_fn=L.BasicLSTMCell, n_hidden=4, dropout=0.5)
    x = windows()[0]
    torch.manual_seed(3)
    y = net(x)
    torch.manual_seed(3)
    assert torch.equal(tl.Carry(net)(x), y)


def test_follows_its_network_to_another_dtype():
    carry, x = tl.Carry(recurrent_net()), windows()[0]
    carry(x)
    carry.double()
    assert carry(x.double()).dtype == torch.float64


def _trained(capture: bool | None, device: str) -> tuple[torch.Tensor, tl.Carry]:
    carry = tl.Carry(recurrent_net()).to(device)
    optimizer = torch.optim.SGD(carry.parameters(), lr=0.1)
    step = tl.TrainStep(carry, optimizer, nn.functional.mse_loss, clip_norm=1.0, capture=capture)
    targets = torch.ones(8, 2, device=device)
    losses = []
    for _ in range(4):
        carry.reset()
        losses += [step(x, targets).clone() for x in windows(6).to(device)]
    return torch.stack(losses), carry


def test_a_train_step_carries():
    losses, _ = _trained(None, "cpu")
    net = recurrent_net()
    optimizer, state = torch.optim.SGD(net.parameters(), lr=0.1), None
    for i, x in enumerate([*windows(6)] * 4):
        y, state = net.step(x, state=None if i % 6 == 0 else L.detach(state))
        loss = (y - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        torch.testing.assert_close(losses[i], loss.detach())
    assert losses[-1] < losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("without_tf32")  # which makes of a last bit's difference between the updates one in the tenth
def test_a_captured_step_carries_as_an_eager_one_does():
    (captured, carry), (eager, other) = _trained(True, "cuda"), _trained(False, "cuda")
    torch.testing.assert_close(captured, eager, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(carry.state_0, other.state_0, rtol=1e-4, atol=1e-5)


def test_another_batch_size_is_refused():
    carry, x = tl.Carry(recurrent_net()), windows()[0]
    carry(x)
    with pytest.raises(ValueError, match=r"state of 2 sequences, got a batch of 1; make another Carry"):
        carry(x[:1])


def test_a_network_without_a_memory_is_refused():
    net = L.DenseLayer(L.InputLayer((None, 3)), n_units=2)
    with pytest.raises(ValueError, match="no recurrent layer, so there is nothing to carry; call it as it is"):
        tl.Carry(net)(torch.ones(2, 3))


class DelayCell(tl.layers.Cell):
    """Hands on what it was given two steps ago, and so remembers its own state in another place."""

    def build(self, n_in, initializer):
        self.weight = torch.nn.Parameter(torch.ones(1))

    def zero_state(self, x):
        return (super().zero_state(x), super().zero_state(x))

    def advance(self, x, state):
        return state[1], (x, state[0])


class Remembering(tl.layers.Layer):
    """Gives its state itself, and remembers the sum of what it read."""

    def forward(self, x):
        return self.step(x)[0]

    def step(self, x, state=None):
        state = torch.zeros_like(x[:, 0]) if state is None else state
        return state, state + x.sum(1)


@pytest.mark.parametrize("grad", [True, False])
def test_a_state_that_is_handed_on_is_not_overwritten_first(grad):
    x = torch.arange(1.0, 7.0).view(1, 6, 1)
    with torch.set_grad_enabled(grad):
        carry = tl.Carry(tl.layers.RNNLayer(tl.layers.InputLayer((None, None, 1)), cell_fn=DelayCell, n_hidden=1))
        assert [carry(x[:, t : t + 1]).item() for t in range(6)] == [0, 0, 1, 2, 3, 4]
        carry = tl.Carry(Remembering(tl.layers.InputLayer((None, None, 1))))
        outputs = [carry(x[:, t : t + 1]) for t in range(6)]
        assert [y.item() for y in outputs] == [0, 1, 3, 6, 10, 15]
