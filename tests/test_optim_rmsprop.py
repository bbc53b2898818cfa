"""RMSProp as TensorFlow begins it, beside its formula in NumPy and torch's own."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torchlayer as tl
from torchlayer.optim import TensorFlowRMSprop

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_steps_are_tensorflows_formula(device):
    draw = np.random.default_rng(0)
    weights, square = draw.normal(size=(4, 3)), np.ones((4, 3))
    parameter = nn.Parameter(torch.tensor(weights, device=device))
    unused = nn.Parameter(torch.ones(2, device=device))
    optimizer = TensorFlowRMSprop([parameter, unused], lr=0.01, decay=0.9, eps=1e-3)
    for _ in range(50):
        gradient = draw.normal(size=(4, 3))
        square = 0.9 * square + 0.1 * gradient**2
        weights = weights - 0.01 * gradient / np.sqrt(square + 1e-3)
        parameter.grad = torch.tensor(gradient, device=device)
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().cpu(), weights, rtol=1e-12)
    assert torch.equal(unused.detach().cpu(), torch.ones(2))


def test_the_first_step_is_small_where_torchs_is_not():
    moved = {}
    for cls, decay in ((TensorFlowRMSprop, "decay"), (torch.optim.RMSprop, "alpha")):
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([0.3])
        cls([weight], lr=1e-4, **{decay: 0.99}).step()
        moved[cls] = -weight.item()
    assert moved[TensorFlowRMSprop] == pytest.approx(3.0e-5, rel=0.01)
    assert moved[torch.optim.RMSprop] == pytest.approx(1e-3, rel=0.01)


def test_a_saved_state_goes_on():
    def steps(weight, optimizer, n):
        for i in range(n):
            weight.grad = weight.detach() * (i + 1) - 1
            optimizer.step()

    weight = nn.Parameter(torch.arange(3.0))
    optimizer = TensorFlowRMSprop([weight], lr=0.1)
    steps(weight, optimizer, 3)
    twin = nn.Parameter(weight.detach().clone())
    other = TensorFlowRMSprop([twin], lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(weight, optimizer, 3)
    steps(twin, other, 3)
    assert torch.equal(weight, twin)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_training_step_takes_it_without_a_warning(device):
    """On CUDA the step is captured; a capture that could not be would warn, and a warning fails the suite."""
    net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=1).to(device)
    step = tl.TrainStep(net, TensorFlowRMSprop(net.parameters(), lr=0.1), tl.cost.mean_squared_error)
    x, y = torch.eye(2, device=device), torch.tensor([[1.0], [2.0]], device=device)
    losses = [float(step(x, y)) for _ in range(200)]
    assert losses[-1] < 1e-2 < losses[0]


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"decay": 1.5}, {"eps": -1e-8}])
def test_numbers_out_of_range_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"TensorFlowRMSprop needs {name} between 0 and .*, got {value}"):
        TensorFlowRMSprop([nn.Parameter(torch.zeros(1))], **wrong)
