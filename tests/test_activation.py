from __future__ import annotations

import numpy as np
import pytest
import torch

import torchlayer as tl
from tests import vectors
from torchlayer import activation

# torch 2.13 compiles an autograd.Function by making an empty one of its own, and warns itself of that
compiles_functions = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.mark.parametrize(("function", "args", "kwargs", "expected"), vectors.of("activation"))
def test_agrees_with_the_original(function, args, kwargs, expected):
    torch.testing.assert_close(vectors.call(function, args, kwargs), torch.tensor(expected), atol=2e-6, rtol=0)


def test_identity_returns_the_same_object_and_prints_as_identity():
    x = torch.ones(2)
    assert activation.identity(x) is x
    assert activation.linear is activation.identity
    assert activation.identity.__name__ == "identity"


def test_ramp_passes_the_gradient_inside_and_at_both_bounds():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    activation.ramp(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("alpha", [0, 0.1, 1, 1.5, -0.5])
def test_leaky_relu_is_the_maximum_of_two_lines(alpha):
    x = torch.linspace(-3, 3, 13)
    torch.testing.assert_close(activation.lrelu(x, alpha), torch.maximum(x, alpha * x))


FORMULAS = [
    (activation.hard_tanh, {}, lambda x: np.clip(x, -1, 1)),
    (activation.swish, {}, lambda x: x / (1 + np.exp(-x))),
    (activation.sign, {}, np.sign),
    (activation.lrelu6, {}, lambda x: np.minimum(np.maximum(x, 0.2 * x), 6)),
    (activation.lrelu6, {"alpha": 0.5}, lambda x: np.minimum(np.maximum(x, 0.5 * x), 6)),
    (activation.lrelu6, {"alpha": 0}, lambda x: np.clip(x, 0, 6)),
    (
        activation.ltrelu6,
        {},
        lambda x: np.maximum(np.minimum(x, 6 * (1 - 0.2) + 0.2 * x), np.minimum(0.2 * x, 0)),  # as TensorLayer has it
    ),
    (
        activation.ltrelu6,
        {"alpha_low": 0.1, "alpha_high": 0.3},
        lambda x: np.where(x < 0, 0.1 * x, np.where(x > 6, 6 + 0.3 * (x - 6), x)),
    ),
    (activation.ltrelu6, {"alpha_low": 1, "alpha_high": 0}, lambda x: np.minimum(x, 6)),
]


@pytest.mark.parametrize(("function", "kwargs", "formula"), FORMULAS)
def test_is_its_formula(function, kwargs, formula):
    x = torch.linspace(-9, 15, 49, dtype=torch.float64)
    torch.testing.assert_close(function(x, **kwargs), torch.tensor(formula(x.numpy())))


SLOPES = [  # at -2, 0.5, 6 and 8
    (activation.hard_tanh, [0, 1, 0, 0]),
    (activation.lrelu6, [0.2, 1, 1, 0]),
    (activation.ltrelu6, [0.2, 1, 1, 0.2]),
    (activation.sign, [1, 1, 1, 1]),
]


@pytest.mark.parametrize(("function", "slopes"), SLOPES)
def test_gradient_is_the_slope(function, slopes):
    x = torch.tensor([-2.0, 0.5, 6.0, 8.0], requires_grad=True)
    function(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor(slopes, dtype=torch.float32))


def test_sign_passes_the_gradient_clipped():
    x = torch.tensor([-3.0, 0.0, 0.1, 2.0], requires_grad=True)
    activation.sign(x).backward(torch.tensor([-7.0, 0.25, 1.5, -0.5]))
    assert x.grad is not None
    assert x.grad.tolist() == [-1, 0.25, 1, -0.5]


def test_sign_of_a_hard_tanh_stops_the_gradient_of_large_values():
    x = torch.tensor([-3.0, 0.1, 2.0], requires_grad=True)
    activation.sign(activation.hard_tanh(x)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]


@compiles_functions
def test_sign_trains_compiled_whole_and_works_under_vmap_and_export():
    x = torch.tensor([[-3.0, 0.0], [0.1, 2.0]], requires_grad=True)
    compiled = torch.compile(activation.sign, backend="aot_eager", fullgraph=True)
    (compiled(x) * torch.tensor([5.0, 0.5])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0.5], [1, 0.5]]
    assert torch.equal(torch.vmap(activation.sign)(x), x.sign())
    net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=3, act=activation.sign)
    program = torch.export.export(net, (x.detach(),), dynamic_shapes=(({0: torch.export.Dim("batch", min=2)},),))
    y = torch.randn(5, 2)
    assert torch.equal(program.module()(y), net(y))


TO_FLOATS = [
    (activation.leaky_relu, [-1.0, 5.0, 7.0]),
    (activation.leaky_relu6, [-2.0, 5.0, 6.0]),
    (activation.leaky_twice_relu6, [-2.0, 5.0, 6.2]),
]


@pytest.mark.parametrize(("function", "expected"), TO_FLOATS)
def test_integers_become_floats(function, expected):
    torch.testing.assert_close(function(torch.tensor([-10, 5, 7])), torch.tensor(expected))


def test_swish_of_integers_is_a_float():
    assert activation.swish(torch.tensor([0])).dtype == torch.float32


WRONG_SLOPES = [
    (activation.lrelu6, {"alpha": 1.5}, "alpha is a slope in [0, 1], got 1.5"),
    (activation.ltrelu6, {"alpha_low": -0.1}, "alpha_low is a slope in [0, 1], got -0.1"),
    (activation.ltrelu6, {"alpha_high": 2}, "alpha_high is a slope in [0, 1], got 2"),
]


@pytest.mark.parametrize(("function", "kwargs", "text"), WRONG_SLOPES)
def test_slopes_are_between_nothing_and_all(function, kwargs, text):
    with pytest.raises(ValueError) as error:
        function(torch.ones(2), **kwargs)
    assert text in str(error.value)


def test_short_names_are_the_long_ones():
    assert activation.lrelu is activation.leaky_relu
    assert activation.lrelu6 is activation.leaky_relu6
    assert activation.ltrelu6 is activation.leaky_twice_relu6
    assert activation.htanh is activation.hard_tanh


def test_pixel_wise_softmax_works_along_the_axis_it_is_told():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(activation.pixel_wise_softmax(x).sum(-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(activation.pixel_wise_softmax(x, dim=1).sum(1), torch.ones(2, 4, 5))


def test_pixel_wise_softmax_does_not_take_an_axis_for_a_name():
    with pytest.raises(TypeError, match=r"second argument of pixel_wise_softmax is its name, got 1; an axis is dim=1"):
        activation.pixel_wise_softmax(torch.ones(1, 2, 2, 2), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        activation.identity,
        activation.ramp,
        activation.hard_tanh,
        activation.lrelu,
        activation.lrelu6,
        activation.ltrelu6,
        activation.swish,
        activation.sign,
        activation.pixel_wise_softmax,
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@compiles_functions
def test_keeps_the_dtype_and_compiles_whole(function, dtype):
    x = torch.linspace(-2, 2, 8, dtype=dtype).reshape(2, 4)
    y = torch.compile(function, backend="eager", fullgraph=True)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, function(x))
