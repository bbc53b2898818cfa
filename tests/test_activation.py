from __future__ import annotations

import pytest
import torch

from tests import vectors
from torchlayer import activation


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


def test_leaky_relu_turns_integers_into_floats():
    torch.testing.assert_close(activation.leaky_relu(torch.tensor([-10, 5])), torch.tensor([-1.0, 5.0]))


def test_pixel_wise_softmax_works_along_the_axis_it_is_told():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(activation.pixel_wise_softmax(x).sum(-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(activation.pixel_wise_softmax(x, dim=1).sum(1), torch.ones(2, 4, 5))


def test_pixel_wise_softmax_does_not_take_an_axis_for_a_name():
    with pytest.raises(TypeError, match=r"second argument of pixel_wise_softmax is its name, got 1; an axis is dim=1"):
        activation.pixel_wise_softmax(torch.ones(1, 2, 2, 2), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function", [activation.identity, activation.ramp, activation.lrelu, activation.pixel_wise_softmax]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_keeps_the_dtype_and_compiles_whole(function, dtype):
    x = torch.linspace(-2, 2, 8, dtype=dtype).reshape(2, 4)
    y = torch.compile(function, backend="eager", fullgraph=True)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, function(x))
