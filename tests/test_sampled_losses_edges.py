"""The sampled losses at the edges of what they accept, against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from sampled_loss_cases import DTYPES, FUNCTIONS, Inputs, by_definition, differentiable, gradients, inputs, run

both_losses = pytest.mark.parametrize("loss", FUNCTIONS)
WIDTHS = [1, 3, 7, 8, 31, 64, 65, 1024, 1500]
SIZES = [(0, 4), (1, 1), (1, 6), (5, 1), (4, 6)]  # rows and samples
# of the largest number, as test_sampled_softmax.py has them
SLACK = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_equals_the_definition(loss, given, remove=True):
    """Losses and the three gradients, to ``SLACK`` of the largest number."""
    dtype = given.weight.dtype
    ours, exact = differentiable(given), differentiable(given.to(torch.float64))
    losses, expected = run(loss, ours, remove_accidental_hits=remove), by_definition(loss, exact, remove)
    upstream = torch.linspace(0.5, 1.5, len(losses), dtype=torch.float64)
    pairs = [(losses.detach(), expected.detach())]
    if len(losses):  # the definition of no rows depends on no weight
        pairs += zip(gradients(losses, ours, upstream), gradients(expected, exact, upstream))
    for mine, right in pairs:
        scale = right.abs().max().clamp(min=0.1) if right.numel() else 1.0
        assert mine.shape == right.shape
        assert bool(((mine.double() - right).abs() <= 2 * SLACK[dtype] * scale).all())


@both_losses
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_with_few_rows_and_samples(loss, width):
    for n, n_sampled in SIZES:
        for dtype in DTYPES:
            assert_equals_the_definition(loss, inputs(n, 1 + n % 2, n_sampled, 9, width, dtype=dtype))


def all_labels(given, value):
    given.labels[:] = value
    return given


def all_sampled(given, value):
    given.sampled[:] = value
    return given


def scaled(given, weight=1.0, hidden=1.0):
    return given._replace(weight=given.weight * weight, hidden=given.hidden * hidden)


def subnormal(given):
    """Numbers that a processor might take for zero, and factors that make something of them. Those of
    bfloat16 its own instructions for them seem to take for zero."""
    if given.weight.dtype == torch.bfloat16:
        return given
    tiny = torch.finfo(given.weight.dtype).smallest_normal / 4
    given = scaled(given, weight=tiny)
    assert bool((given.weight != 0).any())
    return scaled(given, hidden=min(1 / tiny, torch.finfo(given.weight.dtype).max / 8))


EDGES = {
    "the last class is every label": lambda given: all_labels(given, len(given.weight) - 1),
    "the first class is every label": lambda given: all_labels(given, 0),
    "one class is every sample": lambda given: all_sampled(given, 3),
    "the last class is every sample": lambda given: all_sampled(given, len(given.weight) - 1),
    "every sample is a hit": lambda given: all_sampled(all_labels(given, 5), 5),
    "weights of zero": lambda given: scaled(given, weight=0.0),
    "hidden of zero": lambda given: scaled(given, hidden=0.0),
    "subnormal weights": subnormal,
    "no bias": lambda given: given._replace(bias=None),
    "counts next to zero": lambda given: given._replace(sampled_expected_count=given.sampled_expected_count * 1e-30),
    "enormous counts": lambda given: given._replace(true_expected_count=given.true_expected_count * 1e30),
}


@both_losses
@pytest.mark.parametrize("edge", EDGES)
def test_extreme_ids_and_numbers(loss, edge):
    for dtype in DTYPES:
        for n_true, remove in ((1, True), (3, False)):
            given = EDGES[edge](inputs(3, n_true, 7, 11, 6, dtype=dtype))
            assert_equals_the_definition(loss, given, remove)


def odd_address(x):
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t() if x.dim() == 2 else x,
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "a slice with an offset": lambda x: torch.cat((x[:1], x))[1:],
    "an odd address": odd_address,
    "one row, expanded": lambda x: x[:1].expand(x.shape),
}


@both_losses
@pytest.mark.parametrize("name", Inputs._fields)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_argument_alone_in_any_layout(loss, name, layout):
    for dtype in DTYPES:
        given = inputs(5, 2, 6, 11, 12, dtype=dtype)
        moved = given._replace(**{name: LAYOUTS[layout](getattr(given, name))})
        plain = Inputs(*(x.contiguous().clone() for x in moved))
        assert torch.equal(run(loss, moved), run(loss, plain))


SPOILS = [math.nan, math.inf, -math.inf]


@both_losses
@pytest.mark.parametrize("bad", SPOILS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_classes_that_nobody_asks_for_may_hold_anything(loss, bad, dtype):
    given = inputs(5, 1, 6, 30, 8, dtype=dtype)
    given.labels[:, 0], given.sampled[:] = torch.arange(5), torch.arange(4, 10)
    spoilt = given._replace(weight=given.weight.clone(), bias=given.bias.clone())
    spoilt.weight[10:], spoilt.bias[10:] = bad, bad
    results = []
    for each in (given, spoilt):
        leaf = differentiable(each)
        losses = run(loss, leaf)
        results.append([losses.detach(), *gradients(losses, leaf, torch.ones(5))])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@both_losses
@pytest.mark.parametrize("bad", [math.nan, -1.0])
def test_a_labels_count_that_has_no_logarithm_spoils_its_row_alone(loss, bad):
    given = inputs(5, 2, 6, 30, 8, dtype=torch.float32)
    given.true_expected_count[3, 1] = bad
    leaf = differentiable(given)
    losses = run(loss, leaf)
    d_hidden = gradients(losses, leaf, torch.ones(5))[2]
    assert losses.isnan().tolist() == [False, False, False, True, False]
    assert d_hidden.isnan().any(1).tolist() == [False, False, False, True, False]


@both_losses
@pytest.mark.parametrize("bad", SPOILS)
def test_an_upstream_gradient_that_is_not_finite_spoils_its_row_alone(loss, bad):
    given = inputs(5, 1, 6, 30, 8, dtype=torch.float32)
    upstream = torch.ones(5)
    upstream[2] = bad
    leaf = differentiable(given)
    d_hidden = gradients(run(loss, leaf), leaf, upstream)[2]
    assert d_hidden.isfinite().all(1).tolist() == [True, True, False, True, True]
