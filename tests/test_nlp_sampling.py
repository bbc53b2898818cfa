from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from torchlayer.nlp import sample, sample_logits, sample_top

A = [0.1, 0.2, 0.7]
TOP = [0.05, 0.1, 0.15, 0.3, 0.4]
# Printed by the original, TensorLayer 1.3.11, for A.
TEMPERED = [
    (0.1, [3.54012033e-09, 3.62508322e-06, 9.99996371e-01]),
    (0.7, [0.05048273, 0.13588945, 0.81362782]),
    (1.0, [0.1, 0.2, 0.7]),
    (1.5, [0.16008435, 0.25411807, 0.58579758]),
    (2.0, [0.19762983, 0.27949079, 0.52287938]),
]


class Recorder(np.random.RandomState):
    """Remembers the probabilities that are drawn from."""

    def multinomial(self, n, pvals, size=None):
        self.seen = pvals
        return super().multinomial(n, pvals, size)

    def choice(self, a, size=None, replace=True, p=None):
        self.seen = dict(zip(a.tolist(), p.tolist()))
        return super().choice(a, size, replace, p)


def assert_drawn_from(draws, expected):
    """Every share lies within five standard deviations of its probability."""
    n, expected = len(draws), np.asarray(expected)
    shares = np.bincount(np.asarray(draws), minlength=len(expected)) / n
    assert len(shares) == len(expected)
    assert np.all(np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / n))


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda: sample(A, 1.0), [2, 2, 2, 1, 0, 1, 2, 0, 2, 1]),
        (lambda: sample(A, 0.5), [2, 2, 2, 2, 2, 2, 1, 2, 2, 2]),
        (lambda: sample(A, None), [2] * 10),
        (lambda: sample_top(np.array(TOP), 2), [4, 4, 4, 4, 3, 4, 4, 4, 4, 3]),
    ],
)
def test_draws_are_the_originals_from_the_global_stream(draw, expected):
    found = [draw() for _ in range(10)]  # after np.random.seed(0), as the fixture does
    assert found == expected
    assert all(type(i) is int for i in found)


@pytest.mark.parametrize(("temperature", "expected"), TEMPERED)
def test_temperature_gives_the_originals_probabilities(temperature, expected):
    recorder = Recorder(0)
    sample(A, temperature, rng=recorder)
    np.testing.assert_allclose(recorder.seen, expected, rtol=2e-6)
    draws = sample(torch.tensor(A).expand(20_000, 3), temperature, rng=1)
    assert_drawn_from(draws.numpy(), expected)


def test_top_k_renormalises():
    recorder = Recorder(0)
    sample_top(TOP, 2, rng=recorder)
    assert recorder.seen == pytest.approx({3: 3 / 7, 4: 4 / 7})
    sample_top(TOP, 2, temperature=0.5, rng=recorder)
    assert recorder.seen == pytest.approx({3: 9 / 25, 4: 16 / 25})
    assert_drawn_from(sample_top(torch.tensor(TOP).expand(20_000, 5), 2), [0, 0, 0, 3 / 7, 4 / 7])
    assert {sample_top(TOP, 10) for _ in range(200)} == set(range(5))  # fewer than top_k: all


@pytest.mark.parametrize("temperature", [0, 0.0, None])
def test_no_temperature_takes_the_largest(temperature):
    assert sample(A, temperature) == sample_top(A[::-1], 2, temperature) + 2 == 2
    assert sample(torch.tensor([A, A[::-1]]), temperature).tolist() == [2, 0]


def test_weights_need_not_sum_to_one_nor_be_exact():
    recorder = Recorder(0)
    sample([1, 100, 299], rng=recorder)
    np.testing.assert_allclose(recorder.seen, [0.0025, 0.25, 0.7475])
    logits = np.random.normal(size=(50, 10_000)).astype(np.float32) * 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in torch.softmax(torch.from_numpy(logits), 1).numpy():  # the original raised or fell back for half
            for temperature in (1.0, 0.8):
                assert 0 <= sample(row, temperature) < 10_000


@pytest.mark.parametrize("function", [sample, sample_top])
def test_what_has_no_weight_is_never_drawn(function):
    assert {function([0, 0, 1, 0], temperature=2.0) for _ in range(50)} == {2}
    assert set(function(torch.tensor([0.0, 0.5, 0.5]).expand(200, 3)).tolist()) == {1, 2}


@pytest.mark.parametrize("rng", [7, np.random.default_rng(7), np.random.RandomState(7)])
def test_array_draws_follow_the_stream_given(rng):
    state = np.random.get_state()[1].copy()
    assert_drawn_from([sample(A, rng=rng if not isinstance(rng, int) else i) for i in range(2000)], A)
    assert np.array_equal(np.random.get_state()[1], state)


def test_tensor_draws_follow_the_stream_given():
    logits = torch.zeros(100, 50)
    assert torch.equal(sample_logits(logits, rng=3), sample_logits(logits, rng=torch.Generator().manual_seed(3)))
    torch.manual_seed(3)
    a = sample_logits(logits)
    torch.manual_seed(3)
    assert torch.equal(sample_logits(logits), a)
    assert not torch.equal(sample_logits(logits), a)


LOGITS = torch.tensor(TOP).log() + 3


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, TOP),
        ({"temperature": 0.5}, np.square(TOP) / np.square(TOP).sum()),
        ({"top_k": 2}, [0, 0, 0, 3 / 7, 4 / 7]),
        ({"top_k": 99}, TOP),
        ({"top_k": 1}, [0, 0, 0, 0, 1]),
        ({"top_p": 1.0}, TOP),
        ({"top_p": 0.39}, [0, 0, 0, 0, 1]),
        ({"top_p": 0.41}, [0, 0, 0, 3 / 7, 4 / 7]),
        ({"top_p": 0.71}, [0, 0, 3 / 17, 6 / 17, 8 / 17]),
        ({"top_k": 3, "top_p": 0.8}, [0, 0, 0, 3 / 7, 4 / 7]),  # of the three, two make up 14/17
        ({"top_k": torch.full((20_000,), 2)}, [0, 0, 0, 3 / 7, 4 / 7]),
        ({"top_p": torch.full((20_000,), 0.71)}, [0, 0, 3 / 17, 6 / 17, 8 / 17]),
        ({"temperature": torch.full((20_000,), 0.5)}, np.square(TOP) / np.square(TOP).sum()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_are_drawn_from_the_distribution_they_mean(kwargs, expected, dtype):
    if dtype == torch.bfloat16:
        expected = None if "top_p" in kwargs else expected  # the rounded masses lie elsewhere
    draws = sample_logits(LOGITS.to(dtype).expand(20_000, 5), **kwargs)
    assert draws.dtype == torch.int64
    if expected is not None:
        assert_drawn_from(draws.numpy(), expected)


def test_each_row_may_have_settings_of_its_own():
    logits = LOGITS.expand(4000, 2, 5)
    draws = sample_logits(logits, top_k=torch.tensor([1, 5]).expand(4000, 2))
    assert draws.shape == (4000, 2)
    assert set(draws[:, 0].tolist()) == {4}
    assert_drawn_from(draws[:, 1].numpy(), TOP)
    cold = sample_logits(logits, temperature=torch.tensor([1e-3, 1.0]).expand(4000, 2))
    assert set(cold[:, 0].tolist()) == {4}
    assert_drawn_from(cold[:, 1].numpy(), TOP)
    narrow = sample_logits(logits, top_p=torch.tensor([0.1, 1.0]).expand(4000, 2))
    assert set(narrow[:, 0].tolist()) == {4}
    assert_drawn_from(narrow[:, 1].numpy(), TOP)


def test_logits_are_left_alone_and_need_no_gradient():
    logits = torch.zeros(3, 4, requires_grad=True)
    assert not sample_logits(logits, 0.5, 2, 0.9).requires_grad
    assert torch.equal(logits, torch.zeros(3, 4))
    assert sample_logits(torch.tensor([0.0, 9.0, -math.inf]), top_k=1).item() == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_bad_row_on_a_gpu_gives_minus_one():
    logits = torch.tensor([[0.0, 99.0], [math.nan, 0.0], [-math.inf, -math.inf]], device="cuda")
    assert sample_logits(logits).tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: sample([]), ValueError, r"sample needs weights to draw from, got nothing"),
        (lambda: sample([0, 0]), ValueError, r"or no weight above zero"),
        (lambda: sample([1, -1]), ValueError, r"a negative weight"),
        (lambda: sample([1, math.nan]), ValueError, r"got NaN, infinity"),
        (lambda: sample([1, math.inf], 0.5), ValueError, r"got NaN, infinity"),
        (
            lambda: sample([A, A]),
            ValueError,
            r"one row of an array, got shape \(2, 3\); pass a tensor for several rows",
        ),
        (lambda: sample(A, -1), ValueError, r"temperature must be 0, None or a positive number, got -1"),
        (lambda: sample(A, math.nan), ValueError, r"temperature must be 0, None or a positive number, got nan"),
        (lambda: sample(A, rng=torch.Generator()), TypeError, r"RandomState to draw from an array"),
        (lambda: sample(torch.tensor(A), rng=np.random.default_rng(0)), TypeError, r"to draw from a tensor"),
        (lambda: sample_top([], 3), ValueError, r"sample_top needs weights to draw from, got nothing"),
        (lambda: sample_top(A, 0), ValueError, r"top_k must be at least 1, got 0"),
        (lambda: sample_top(torch.tensor(A), 0), ValueError, r"top_k must be at least 1, got 0"),
        (lambda: sample(torch.tensor([[1.0, 0.0], [1.0, -1.0]])), ValueError, r"row 1 is no distribution"),
        (lambda: sample_logits(torch.tensor([0.0, math.nan])), ValueError, r"row 0 is no distribution"),
        (lambda: sample_logits(torch.full((1, 2), -math.inf)), ValueError, r"row 0 is no distribution"),
        (lambda: sample_logits(torch.zeros(())), ValueError, r"needs logits of shape \(..., V\), got \(\)"),
        (lambda: sample_logits(torch.zeros(2, 0)), ValueError, r"got \(2, 0\)"),
        (lambda: sample_logits(A), TypeError, r"takes a tensor, got list"),
        (lambda: sample_logits(torch.zeros(2), top_p=0), ValueError, r"top_p must lie above 0 and not above 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
