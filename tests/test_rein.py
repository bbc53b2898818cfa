from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchlayer.rein import cross_entropy_reward_loss, discount_episode_rewards

# Computed by TensorLayer 1.3.11; mode 1 by its lines without the restart.
VECTORS = [
    ([0, 0, 0, 1] * 3, 0.9, 0, [0.729, 0.81, 0.9, 1.0] * 3),
    ([0, 0, -1, 0, 1, 0, 0], 0.99, 0, [-0.9801, -0.99, -1.0, 0.99, 1.0, 0.0, 0.0]),
    ([0, 0, -1, 0, 1, 0, 0], 0.99, 1, [-0.01950399, -0.019701, -0.0199, 0.99, 1.0, 0.0, 0.0]),
    ([1, 1, -1], 0.9, 0, [1.0, 1.0, -1.0]),
    ([1, 1, -1], 0.9, 1, [1.09, 0.1, -1.0]),
    ([], 0.9, 0, []),
]
KINDS = {
    "list": list,
    "int array": lambda rewards: np.array(rewards, dtype=np.int64),
    "float64 array": lambda rewards: np.array(rewards, dtype=np.float64),
    "reversed view": lambda rewards: np.array(rewards[::-1], dtype=np.float32)[::-1],
    "int tensor": lambda rewards: torch.tensor(rewards, dtype=torch.int64),
    "float64 tensor": lambda rewards: torch.tensor(rewards, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rewards", "gamma", "mode", "expected"), VECTORS)
def test_discounted_rewards_are_the_originals(kind, rewards, gamma, mode, expected):
    discounted = discount_episode_rewards(KINDS[kind](rewards), gamma, mode)
    np.testing.assert_allclose(np.asarray(discounted), np.array(expected), atol=1e-6)


@pytest.mark.parametrize(
    ("rewards", "kind", "dtype"),
    [
        ([0, 1], np.ndarray, np.float32),
        (np.array([0.0, 1.0]), np.ndarray, np.float32),
        (torch.tensor([0, 1]), torch.Tensor, torch.float32),
        (torch.tensor([0.0, 1.0], dtype=torch.float64), torch.Tensor, torch.float64),
        (torch.tensor([0.0, 1.0], dtype=torch.bfloat16), torch.Tensor, torch.bfloat16),
    ],
)
def test_what_goes_in_decides_what_comes_out(rewards, kind, dtype):
    discounted = discount_episode_rewards(rewards)
    assert isinstance(discounted, kind)
    assert discounted.dtype == dtype


def test_a_long_array_is_summed_in_float64_as_by_the_original():
    rewards = np.random.RandomState(0).randn(5000)
    expected, total = np.zeros(5000, dtype=np.float32), 0.0
    for t in reversed(range(5000)):
        total = expected[t] = total * 0.999 + rewards[t]
        total = float(total)
    # the loop above keeps float64 in `total`: the assignment to a float32 cell rounds only the cell
    np.testing.assert_array_equal(discount_episode_rewards(rewards, 0.999, mode=1), expected)


def test_rows_are_discounted_one_by_one_and_left_alone():
    rewards = np.array([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    discounted = discount_episode_rewards(rewards, gamma=0.5)
    np.testing.assert_array_equal(discounted, np.array([[0.25, 0.5, 1.0], [1.0, 2.0, 0.0]], dtype=np.float32))
    np.testing.assert_array_equal(rewards, np.array([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_episodes_one_after_the_other_are_discounted_one_by_one(kind, mode):
    draw = np.random.RandomState(0)
    parts = [draw.randn(n) * (draw.rand(n) < 0.2) for n in (5, 1, 30)]
    rewards, dones = np.concatenate(parts), np.zeros(36, dtype=bool)
    dones[[4, 5]] = True  # the last one is not over yet
    found = discount_episode_rewards(kind(rewards), 0.9, mode, dones=kind(dones))
    expected = np.concatenate([discount_episode_rewards(part, 0.9, mode) for part in parts])
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-6)


def test_dones_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"rewards \(3,\), dones \(2,\)"):
        discount_episode_rewards([1, 2, 3], dones=[True, False])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([1.0], 0.9, 2), "mode=2 is unknown; use 0 .restart at every non-zero reward. or 1 .never."),
        (([1.0], 1.1), "needs gamma between 0 and 1, got 1.1"),
        ((1.0,), "needs rewards along a last axis, got a scalar"),
    ],
)
def test_bad_discounts_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        discount_episode_rewards(*arguments)


LOGITS, ACTIONS, REWARDS = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [2, 0, 1], [1.0, -1.0, 0.5]


def test_reward_loss_is_the_originals():
    assert cross_entropy_reward_loss(torch.tensor(LOGITS), ACTIONS, REWARDS, "loss").item() == pytest.approx(-1.4506938)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, list])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reward_loss_takes_arrays_tensors_and_lists(convert, dtype):
    logits = torch.randn(5, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    actions, rewards = [0, 3, 1, 1, 2], [0.5, -1.0, 2.0, 0.0, 1.0]
    loss = cross_entropy_reward_loss(logits, convert(actions), convert(rewards))
    expected = -sum(r * F.log_softmax(row, 0)[a] for row, a, r in zip(logits, actions, rewards))
    torch.testing.assert_close(loss, torch.as_tensor(expected))


def test_reward_loss_can_be_a_mean():
    logits = torch.tensor(LOGITS)
    mean = cross_entropy_reward_loss(logits, ACTIONS, REWARDS, reduction="mean")
    torch.testing.assert_close(mean, cross_entropy_reward_loss(logits, ACTIONS, REWARDS) / 3)


def test_rewards_get_no_gradient_and_logits_do():
    logits, rewards = torch.tensor(LOGITS, requires_grad=True), torch.tensor(REWARDS, requires_grad=True)
    cross_entropy_reward_loss(logits, ACTIONS, rewards).backward()
    assert rewards.grad is None
    expected = (torch.tensor(LOGITS).softmax(1) - F.one_hot(torch.tensor(ACTIONS), 3)) * torch.tensor(REWARDS)[:, None]
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(
    ("actions", "rewards", "options", "text"),
    [
        ([0, 1], REWARDS, {}, r"got \(3, 3\), \(2,\) and \(3,\)"),
        (ACTIONS, [1.0], {}, r"got \(3, 3\), \(3,\) and \(1,\)"),
        (ACTIONS, 1.0, {}, r"got \(3, 3\), \(3,\) and \(\)"),
        (ACTIONS, REWARDS, {"reduction": "none"}, "reduction='none' is unknown; use 'sum' or 'mean'"),
    ],
)
def test_bad_reward_losses_are_refused(actions, rewards, options, text):
    with pytest.raises(ValueError, match=text):
        cross_entropy_reward_loss(torch.tensor(LOGITS), actions, rewards, **options)
