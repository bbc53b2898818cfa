from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from torchlayer import initializers as init

DENSE, CONVOLUTION = (300, 400), (64, 32, 3, 3)  # (n_in, n_units) and (out, in, h, w)


def generator():
    return torch.Generator().manual_seed(0)


# Initialiser, shape, and the mean, standard deviation and largest distance from the mean that it should have.
CASES = [
    (init.truncated_normal(0.5, 0.1, generator()), DENSE, 0.5, 0.0879626, 0.2),
    (init.random_normal(0.5, 0.1, generator()), DENSE, 0.5, 0.1, 0.7),
    (init.random_uniform(-0.1, 0.3, generator()), DENSE, 0.1, 0.4 / math.sqrt(12), 0.2),
    (init.glorot_uniform(generator()), DENSE, 0, math.sqrt(2 / 700), math.sqrt(6 / 700)),
    (init.glorot_uniform(generator()), CONVOLUTION, 0, math.sqrt(2 / (96 * 9)), math.sqrt(6 / (96 * 9))),
    (init.glorot_normal(generator()), DENSE, 0, math.sqrt(2 / 700), 2 * math.sqrt(2 / 700) / 0.8796),
    (init.he_uniform(generator()), DENSE, 0, math.sqrt(2 / 300), math.sqrt(6 / 300)),
    (init.he_uniform(generator()), CONVOLUTION, 0, math.sqrt(2 / 288), math.sqrt(6 / 288)),
    (init.he_normal(generator()), CONVOLUTION, 0, math.sqrt(2 / 288), 2 * math.sqrt(2 / 288) / 0.8796),
    (init.uniform_unit_scaling(1.43, generator()), DENSE, 0, 1.43 / math.sqrt(300), 1.43 * math.sqrt(3 / 300)),
    (init.uniform_unit_scaling(1, generator()), CONVOLUTION, 0, 1 / math.sqrt(288), math.sqrt(3 / 288)),
    (init.uniform_unit_scaling(1, generator()), (20_000,), 0, 1.0, math.sqrt(3)),
]


@pytest.mark.parametrize(("initializer", "shape", "mean", "stddev", "reach"), CASES, ids=lambda x: repr(x)[:40])
def test_draws_have_the_distribution_they_promise(initializer, shape, mean, stddev, reach):
    tensor = torch.empty(shape)
    assert initializer(tensor) is tensor
    values = tensor.double()
    standard_error = stddev / math.sqrt(values.numel())
    assert abs(values.mean().item() - mean) < 5 * standard_error
    assert values.std().item() == pytest.approx(stddev, rel=0.02)
    assert 0.95 * min(reach, 3 * stddev) < (values - mean).abs().max().item() <= reach * 1.0001


def test_truncated_normal_is_a_normal_distribution_between_two_deviations():
    draws = init.truncated_normal(0, 1, generator())(torch.empty(200_000)).double().sort().values
    cdf = torch.special.ndtr(draws)
    expected = (cdf - cdf.new_tensor(0.022750132)) / 0.954499736
    empirical = torch.arange(1, len(draws) + 1) / len(draws)
    assert (expected - empirical).abs().max().item() < 1.63 / math.sqrt(len(draws))  # Kolmogorov-Smirnov, 1 %


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("make", [init.truncated_normal, init.random_normal, init.random_uniform])
def test_draws_in_any_precision(make, dtype):
    reference = make(generator=generator())(torch.empty(DENSE))
    draws = make(generator=generator())(torch.empty(DENSE, dtype=dtype))
    assert draws.dtype == dtype
    assert draws.double().std().item() == pytest.approx(reference.double().std().item(), rel=0.02)
    assert len(draws.unique()) > 1000 or dtype == torch.bfloat16


def test_half_precision_draws_are_rounded_float32_draws():
    wide = init.truncated_normal(generator=generator())(torch.empty(DENSE))
    narrow = init.truncated_normal(generator=generator())(torch.empty(DENSE, dtype=torch.bfloat16))
    assert torch.equal(narrow, wide.bfloat16())


def test_a_truncated_normal_of_no_spread_is_its_mean():
    assert init.truncated_normal(2.5, 0.0)(torch.empty(3)).tolist() == [2.5] * 3


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (0.1, (2,), [0.1, 0.1]),
        (3, (), 3.0),
        (np.float32(2), (1, 2), [[2.0, 2.0]]),
        ([1, 2, 3, 4], (2, 2), [[1, 2], [3, 4]]),
        ([[1, 2], [3, 4]], (2, 2), [[1, 2], [3, 4]]),
        (np.array([[1.5, 2.5]]), (1, 2), [[1.5, 2.5]]),
    ],
)
def test_constant_takes_a_number_a_flat_list_or_the_shape(value, shape, expected):
    torch.testing.assert_close(init.constant(value)(torch.empty(shape)), torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, 2]], np.zeros((3, 2)), [[1, 2, 3, 4, 5, 6]]])
def test_constant_refuses_numbers_that_do_not_fit(value):
    with pytest.raises(ValueError, match=r"constant holds numbers of shape .*, the parameter is \(2, 3\); give that"):
        init.constant(value)(torch.empty(2, 3))


def test_constant_copies_the_array_it_was_given():
    values = np.ones(2)
    initializer = init.constant(values)
    values[:] = 7
    assert initializer(torch.empty(2)).tolist() == [1, 1]


def test_zeros_and_ones_work_called_and_uncalled():
    for initializer, value in [(init.zeros, 0), (init.zeros(), 0), (init.ones, 1), (init.ones(), 1)]:
        parameter = nn.Parameter(torch.full((2,), 5.0))
        assert initializer(parameter) is parameter
        assert parameter.tolist() == [value, value]


def test_identity_puts_its_gain_on_the_diagonal():
    assert init.identity(0.5)(torch.empty(2, 3)).tolist() == [[0.5, 0, 0], [0, 0.5, 0]]
    with pytest.raises(ValueError, match=r"identity fills a matrix, got shape \(2,\); for a kernel use"):
        init.identity()(torch.empty(2))


def test_a_parameter_is_filled_without_a_gradient():
    parameter = nn.Parameter(torch.empty(2, 2))
    init.random_normal()(parameter)
    assert parameter.is_leaf
    assert parameter.grad_fn is None


def test_a_generator_repeats_its_draws_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, second = (init.truncated_normal(generator=generator())(torch.empty(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_a_call_may_change_settings():
    initializer = init.truncated_normal(stddev=0.1, generator=generator())
    assert initializer(torch.empty(100), stddev=0.0, mean=3).tolist() == [3.0] * 100
    with pytest.raises(TypeError, match=r"truncated_normal\(\) got an unexpected keyword argument 'trainable'"):
        initializer(torch.empty(1), trainable=True)


def test_an_initializer_says_what_it_is():
    assert repr(init.truncated_normal(stddev=0.02)) == "truncated_normal(mean=0.0, stddev=0.02)"
    assert repr(init.uniform(-1, 1)) == "random_uniform(minval=-1.0, maxval=1.0)"
    assert repr(init.constant(0.1)) == "constant(value=0.1)"
    assert repr(init.constant(np.zeros((20, 30)))) == "constant(value=<(20, 30) array>)"
    assert repr(init.glorot_uniform()) == "glorot_uniform()"


@pytest.mark.parametrize("initializer", [init.truncated_normal(0, 0.1), init.constant([1, 2]), init.zeros, init.ones()])
def test_an_initializer_can_be_copied_and_pickled(initializer):
    for copied in (copy.deepcopy(initializer), pickle.loads(pickle.dumps(initializer))):
        torch.manual_seed(0)
        expected = initializer(torch.empty(2))
        torch.manual_seed(0)
        assert torch.equal(copied(torch.empty(2)), expected)


@pytest.mark.parametrize("name", sorted({*init.__all__} - {"Initializer", "zeros", "ones"}))
def test_forgetting_to_call_the_factory_is_an_error(name):
    name = getattr(init, name).__name__  # what an alias stands for
    message = rf"{name} makes an initialiser and was given a tensor as its \w+; call it first, W_init={name}\(\)"
    with pytest.raises(TypeError, match=message):
        getattr(init, name)(torch.empty(2, 2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: init.truncated_normal(stddev=-1), ValueError, "truncated_normal: stddev must not be negative, got -1"),
        (lambda: init.random_normal(mean="0"), TypeError, "random_normal: mean must be a finite number, got '0'"),  # type: ignore[arg-type]
        (lambda: init.random_normal(math.nan), TypeError, "random_normal: mean must be a finite number, got nan"),
        (lambda: init.random_uniform(1, 0), ValueError, r"minval 1\.0 is greater than maxval 0\.0; exchange them"),
        (lambda: init.constant("a"), TypeError, "constant: value must be a number, a list or an array of numbers"),
        (lambda: init.glorot_uniform(3), TypeError, "glorot_uniform: generator must be a torch.Generator, got 3"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()
