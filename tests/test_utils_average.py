"""The mean of weights: what it is, when it is used, and that training does not notice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchlayer as tl


def trained(n_steps: int, average=None, net=None, optimizer=None):
    """A network after some steps, and its weights after each of them."""
    torch.manual_seed(0)
    net = net or nn.Linear(3, 2)
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    seen = []
    for _ in range(n_steps):
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append([p.detach().clone() for p in net.parameters()])
        if average is not None:
            average.update()
    return net, seen


def test_it_is_the_mean_of_all_updates_and_leaves_the_weights_alone():
    net = nn.Linear(3, 2)
    average = tl.utils.WeightAverage(net.parameters())
    _, seen = trained(20, average, net)
    last, places = seen[-1], [p.data_ptr() for p in net.parameters()]
    with average.used():
        for p, *values in zip(net.parameters(), *seen):
            torch.testing.assert_close(p.detach(), torch.stack(values).mean(0))
        assert [p.data_ptr() for p in net.parameters()] == places
    assert all(map(torch.equal, net.parameters(), last))


def test_before_it_has_begun_the_weights_are_used():
    net = nn.Linear(3, 2)
    average, before = tl.utils.WeightAverage(net.parameters()), net.weight.detach().clone()
    assert not average
    with average.used():
        assert torch.equal(net.weight, before)
    assert torch.equal(net.weight, before)
    average.update()
    assert average


def test_an_error_within_gives_the_weights_back():
    net = nn.Linear(3, 2)
    average = tl.utils.WeightAverage(net.parameters())
    _, seen = trained(3, average, net)

    def fail():
        with average.used():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert torch.equal(net.weight, seen[-1][0])


def test_a_saved_mean_goes_on(tmp_path):
    net = nn.Linear(3, 2)
    whole, first = (tl.utils.WeightAverage([*net.parameters(), net.weight]) for _ in range(2))  # a shared one
    trained(4, whole, net)
    first.mean, first.n_updates = [m.clone() for m in whole.mean], whole.n_updates
    tl.checkpoint.save(tmp_path / "c", average=first)
    again = tl.utils.WeightAverage(net.parameters())
    tl.checkpoint.restore(tl.checkpoint.load(tmp_path / "c"), average=again)
    net.weight.data.add_(1.0)
    whole.update()
    again.update()
    assert again.n_updates == 5
    assert all(map(torch.equal, again.mean, whole.mean))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tl.utils.WeightAverage([]), "got no parameters to average"),
        (
            lambda: tl.utils.WeightAverage([torch.ones(2)]).load_state_dict({"mean": [torch.ones(3)], "n_updates": 1}),
            "the saved mean is of 1 weights and these are 1, or their shapes differ",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
