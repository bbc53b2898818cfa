from __future__ import annotations

import math

import pytest
import torch

from tests import vectors
from torchlayer import cost, regularizers

W = [[3.0, -4.0], [0.0, 0.0], [1.0, 2.0]]
NAMES = ["li", "lo", "maxnorm", "maxnorm_o", "maxnorm_i", "l1", "l2"]


def make(name, *args, **kwargs):
    return getattr(cost, f"{name}_regularizer")(*args, **kwargs)


@pytest.mark.parametrize(("function", "args", "kwargs", "expected"), vectors.of("regularizers"))
def test_agrees_with_the_original(function, args, kwargs, expected):
    torch.testing.assert_close(vectors.call(function, args, kwargs), torch.tensor(expected), atol=2e-6, rtol=0)


def test_every_regularizer_is_reached_through_cost():
    for name in regularizers.__all__:
        assert getattr(cost, name) is getattr(regularizers, name)


def test_l1_and_l2_have_tensorflows_scales():
    w = torch.tensor(W)
    assert make("l1", 0.5)(w).item() == 5.0
    assert make("l2", 0.5)(w).item() == 0.5 * 30 / 2


def test_sum_adds_penalties_and_skips_none():
    w = torch.tensor(W)
    total = cost.sum_regularizer([make("l1", 0.5), None, make("l2", 0.5)])(w)
    assert total.item() == 12.5
    assert cost.sum_regularizer([])(w).item() == 0.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (0, ValueError, r"scale cannot be an integer: 0; write 0\.0"),
        (1, ValueError, r"scale cannot be an integer: 1; write 1\.0"),
        (True, ValueError, r"scale cannot be an integer: True; write 1\.0"),
        (-0.1, ValueError, r"scale must not be negative, got -0\.1"),
        (math.nan, ValueError, r"scale must not be negative, got nan"),
        (math.inf, ValueError, r"scale must be less than (inf|1\.0), got inf"),
        ("0.1", TypeError, r"scale must be a float or a tensor, got '0\.1'"),
    ],
)
def test_refuses_a_wrong_scale(name, scale, error, message):
    with pytest.raises(error, match=f"{name}_regularizer: {message}"):
        make(name, scale)


def test_only_group_lasso_has_an_upper_limit():
    for name in ("li", "lo"):
        with pytest.raises(ValueError, match=r"scale must be less than 1\.0, got 1\.0"):
            make(name, 1.0)
    for name in ("maxnorm", "maxnorm_o", "maxnorm_i", "l1", "l2"):
        assert make(name, 7.0)(torch.tensor(W)).item() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_of_zero_adds_nothing(name):
    w = torch.tensor(W, requires_grad=True)
    penalty = make(name, 0.0)(w)
    assert penalty.shape == ()
    assert (w.sum() + penalty).item() == w.sum().item()


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_scale_is_used_unchecked_and_gets_a_gradient(name):
    scale = torch.tensor(0.5, requires_grad=True)
    make(name, scale)(torch.tensor(W)).backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, make(name, 0.5)(torch.tensor(W)) * 2)


@pytest.mark.parametrize("name", ["li", "lo"])
def test_an_all_zero_group_has_a_zero_gradient(name):
    w = torch.zeros(3, 2, requires_grad=True)
    make(name, 0.1)(w).backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[0, 0]] * 3


def test_ties_share_the_gradient_of_a_maximum():
    w = torch.tensor([[2.0, -2.0], [1.0, 2.0]], requires_grad=True)
    make("maxnorm", 1.0)(w).backward()
    torch.testing.assert_close(w.grad, torch.tensor([[1, -1], [0, 1]]) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name):
    w = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(make(name, 0.5), (w,))


@pytest.mark.parametrize(
    ("name", "axis", "by_hand"),
    [
        ("li", {"in_axis": 1}, lambda w: sum(w[:, c].norm() for c in range(w.shape[1]))),
        ("lo", {"out_axis": 0}, lambda w: sum(w[c].norm() for c in range(w.shape[0]))),
        ("maxnorm_i", {"in_axis": 1}, lambda w: sum(w[:, c].abs().max() for c in range(w.shape[1]))),
        ("maxnorm_o", {"out_axis": -4}, lambda w: sum(w[c].abs().max() for c in range(w.shape[0]))),
    ],
)
def test_groups_of_a_convolution_kernel_follow_the_axis(name, axis, by_hand):
    kernel = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(make(name, 0.5, **axis)(kernel), 0.5 * by_hand(kernel))


@pytest.mark.parametrize("name", ["li", "lo", "maxnorm_o", "maxnorm_i"])
def test_groups_of_a_vector_are_refused(name):
    with pytest.raises(ValueError, match=r"needs weights of rank 2 or more .* got \(5,\); penalise a bias with l1_"):
        make(name, 0.1)(torch.ones(5))


@pytest.mark.parametrize("name", NAMES)
def test_weights_must_be_a_tensor(name):
    with pytest.raises(TypeError, match=f"{name}_regularizer penalises a tensor, got list; pass a parameter"):
        make(name, 0.1)(W)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_summed_in_float32_in_one_graph(name):
    w = torch.randn(64, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    penalty = make(name, 0.5)
    compiled = torch.compile(penalty, backend="eager", fullgraph=True)(w)
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled, penalty(w.float()))
