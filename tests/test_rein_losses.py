"""Losses of proximal policy optimisation beside loops, and the running moments behind them."""

import copy
import math

import numpy as np
import pytest
import torch

from torchlayer.rein import RunningNorm, choice_action_by_probs, log_weight, ppo_loss, value_loss


def columns(n=200, seed=0):
    draw = np.random.default_rng(seed)
    return [torch.as_tensor(column) for column in draw.normal(size=(4, n))]


MASKS = [None, torch.as_tensor(np.random.default_rng(1).random(200) < 0.7)]


@pytest.mark.parametrize("mask", MASKS, ids=["all", "masked"])
def test_ppo_loss_is_the_papers(mask):
    new, old, advantages, _ = columns()
    terms = []
    for i in range(200):
        if mask is None or mask[i]:
            ratio = math.exp(new[i] - old[i])
            clipped = min(max(ratio, 1 - 0.3), 1 + 0.3)
            terms.append(-min(ratio * advantages[i].item(), clipped * advantages[i].item()))
    assert ppo_loss(new, old, advantages, clip=0.3, mask=mask).item() == pytest.approx(np.mean(terms))


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [(1.0, 1, True), (1.5, 1, False), (1.5, -1, True), (0.5, 1, True), (0.5, -1, False)],
)
def test_what_has_moved_far_enough_in_its_direction_gets_no_gradient(ratio, advantage, moves):
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    ppo_loss(new, torch.zeros(1), torch.tensor([float(advantage)])).backward()
    assert bool(new.grad.any()) is moves


@pytest.mark.parametrize("mask", MASKS, ids=["all", "masked"])
def test_value_loss_is_the_loops(mask):
    values, returns, old, _ = columns()
    plain, clipped = [], []
    for i in range(200):
        if mask is None or mask[i]:
            near = old[i] + min(max(values[i] - old[i], -0.2), 0.2)
            plain.append(0.5 * (values[i] - returns[i]).item() ** 2)
            clipped.append(0.5 * max((values[i] - returns[i]).item() ** 2, (near - returns[i]).item() ** 2))
    assert value_loss(values, returns, mask=mask).item() == pytest.approx(np.mean(plain))
    assert value_loss(values, returns, old_values=old, clip=0.2, mask=mask).item() == pytest.approx(np.mean(clipped))


def test_targets_get_no_gradient_and_masked_steps_neither():
    new, old, advantages, returns = (column.requires_grad_() for column in columns())
    mask = torch.arange(200) >= 50
    loss = ppo_loss(new, old, advantages, mask=mask) + value_loss(new, returns, old_values=old, clip=0.2, mask=mask)
    loss.backward()
    assert old.grad is advantages.grad is returns.grad is None
    assert not new.grad[:50].any()
    assert new.grad[50:].any()


def test_a_mask_that_keeps_nothing_is_no_division_by_zero():
    new, old, advantages, _ = columns()
    assert ppo_loss(new, old, advantages, mask=torch.zeros(200, dtype=torch.bool)).item() == 0


X, Y = torch.zeros(3), torch.zeros(4)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ppo_loss(X, Y, X), r"of one shape, got log_probs \(3,\), old_log_probs \(4,\)"),
        (lambda: ppo_loss(X, X, X, mask=Y.bool()), r"mask \(4,\)"),
        (lambda: ppo_loss(X, X, X, clip=0.0), "ppo_loss needs clip above 0, got 0.0"),
        (lambda: value_loss(X, Y), r"values \(3,\), returns \(4,\)"),
        (lambda: value_loss(X, X, clip=0.2), "give clip= and old_values= together, or neither"),
        (lambda: value_loss(X, X, old_values=X), "give clip= and old_values= together, or neither"),
    ],
)
def test_wrong_losses_are_refused_by_name(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# The original's two small functions ----------------------------------------------


def test_log_weight_is_the_originals_mean():
    probs, weights = torch.tensor([[0.5, 0.1], [0.9, 1.0]]), [[1.0, -2.0], [0.5, 3.0]]
    expected = (math.log(0.5) - 2 * math.log(0.1) + 0.5 * math.log(0.9)) / 4
    assert log_weight(probs, weights, "log_weight").item() == pytest.approx(expected)
    probs.requires_grad_()
    log_weight(probs, np.array(weights)).backward()
    torch.testing.assert_close(probs.grad, torch.tensor(weights) / probs.detach() / 4)


def test_actions_are_drawn_from_numpys_stream_as_by_the_original():
    np.random.seed(3)
    expected = [np.random.choice(np.arange(3), p=[0.2, 0.4, 0.4]) for _ in range(20)]
    np.random.seed(3)
    assert [choice_action_by_probs([0.2, 0.4, 0.4]) for _ in range(20)] == expected
    np.random.seed(3)
    names = [choice_action_by_probs((0.2, 0.4, 0.4), ["a", "b", "c"]) for _ in range(20)]
    assert names == ["abc"[i] for i in expected]


def test_actions_drawn_with_a_generator_leave_the_global_stream_alone():
    before = np.random.get_state()[1].copy()
    draws = [choice_action_by_probs([0.5, 0.5], rng=seed) for seed in range(50)]
    assert set(draws) == {0, 1}
    generator = np.random.default_rng(0)
    assert len({choice_action_by_probs([0.5, 0.5], rng=generator) for _ in range(20)}) == 2
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_bad_actions_are_refused():
    with pytest.raises(ValueError, match="as many actions as probabilities, got 2 actions and 3 probabilities"):
        choice_action_by_probs([0.2, 0.4, 0.4], ["a", "b"])
    with pytest.raises(ValueError, match="probabilities do not sum to 1"):
        choice_action_by_probs([0.2, 0.4])


# Running moments -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_moments_are_those_of_all_that_was_seen(shape):
    draw = np.random.default_rng(0)
    batches = [draw.normal(5, 3, (n, 2, *shape)).astype(np.float32) for n in (1, 7, 30)]
    norm = RunningNorm(shape, clip=None, eps=0.0)
    for batch in batches:
        norm.update(torch.as_tensor(batch))
    every = np.concatenate(batches).reshape(-1, *shape).astype(np.float64)
    np.testing.assert_allclose(norm.mean, every.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var, every.var(0), rtol=1e-5)
    assert norm.count.item() == len(every)
    x = torch.as_tensor(batches[2])
    np.testing.assert_allclose(norm(x), (batches[2] - every.mean(0)) / every.std(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.undo(norm(x)), x, rtol=1e-4, atol=1e-4)


def test_masked_rows_are_not_seen():
    x, mask = torch.randn(6, 5, 3) * 4 + 1, torch.rand(6, 5) < 0.5
    masked, plain = RunningNorm((3,)), RunningNorm((3,))
    masked.update(x, mask)
    plain.update(x[mask])
    torch.testing.assert_close(masked.mean, plain.mean)
    torch.testing.assert_close(masked.var, plain.var)
    before = copy.deepcopy(masked.state_dict())
    masked.update(x, torch.zeros_like(mask))
    assert all(torch.equal(value, before[key]) for key, value in masked.state_dict().items())


def test_pictures_are_normalised_and_left_alone():
    x = torch.randint(256, (50, 4, 4), dtype=torch.uint8)
    kept, norm = x.clone(), RunningNorm((4, 4), clip=1.0)
    norm.update(x)
    y = norm(x)
    assert torch.equal(x, kept)
    assert y.dtype == torch.float32
    assert y.abs().max() == 1.0
    wide = x.float()
    assert torch.equal(norm(wide), y)
    assert torch.equal(wide, kept.float())


def test_gradients_pass_and_moments_do_not_train():
    norm = RunningNorm((2,), clip=None)
    norm.update(torch.randn(10, 2) * 3)
    x = torch.randn(4, 2, requires_grad=True)
    norm(x).sum().backward()
    torch.testing.assert_close(x.grad, (norm.var + 1e-5).rsqrt().float().expand(4, 2))
    assert not list(norm.parameters())


def test_before_anything_was_seen_nothing_changes():
    x = torch.randn(3, 2)
    torch.testing.assert_close(RunningNorm((2,), eps=0.0)(x), x)


def test_moments_are_part_of_a_state_dict():
    norm, other = RunningNorm((2,)), RunningNorm((2,))
    norm.update(torch.randn(10, 2))
    other.load_state_dict(norm.state_dict())
    x = torch.randn(3, 2)
    assert torch.equal(norm(x), other(x))


@pytest.mark.parametrize("call", ["forward", "update", "undo"])
def test_another_shape_is_refused(call):
    with pytest.raises(ValueError, match=r"this RunningNorm takes \(\*, 2, 3\), got \(5, 3, 2\)"):
        getattr(RunningNorm((2, 3)), call)(torch.zeros(5, 3, 2))
