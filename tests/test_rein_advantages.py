"""Advantages beside plain loops over steps, as the papers write them."""

import numpy as np
import pytest
import torch

from torchlayer.rein import generalized_advantages, vtrace

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
DEVICES = ["cpu", CUDA]


def rows(n_rows=5, n_steps=37, seed=0, device="cpu"):
    """Random steps; about one in seven ends, half of them by truncation. The next values follow the values."""
    draw = np.random.default_rng(seed)
    rewards, values, log_ratios = draw.normal(size=(3, n_rows, n_steps))
    ends = draw.random((2, n_rows, n_steps)) < 0.07
    next_values = np.concatenate((values[:, 1:], draw.normal(size=(n_rows, 1))), 1)
    next_values = np.where(ends.any(0), draw.normal(size=values.shape), next_values)  # what the reset did not hide
    columns = (log_ratios, rewards, values, next_values, *ends)
    return [torch.as_tensor(column, device=device) for column in columns]


def gae_loop(rewards, values, next_values, terminated, truncated, gamma, lam):
    advantages = np.zeros_like(rewards)
    for n in range(len(rewards)):
        following = 0.0
        for t in reversed(range(rewards.shape[1])):
            error = rewards[n, t] + gamma * next_values[n, t] * (not terminated[n, t]) - values[n, t]
            following = error + gamma * lam * (not (terminated[n, t] or truncated[n, t])) * following
            advantages[n, t] = following
    return advantages


def vtrace_sums(log_ratios, rewards, values, next_values, terminated, truncated, gamma, lam, rho_clip, c_clip):
    """The paper's sum of products, over every pair of steps of an episode."""
    targets, advantages = values.copy(), np.zeros_like(values)
    ratios, n_steps = np.exp(log_ratios), rewards.shape[1]
    for n in range(len(rewards)):
        last = [t for t in range(n_steps) if terminated[n, t] or truncated[n, t] or t == n_steps - 1]
        for s in range(n_steps):
            weight = 1.0
            for t in range(s, min(end for end in last if end >= s) + 1):
                rho = min(rho_clip, ratios[n, t])
                follow = 0.0 if terminated[n, t] else next_values[n, t]
                targets[n, s] += gamma ** (t - s) * weight * rho * (rewards[n, t] + gamma * follow - values[n, t])
                weight *= lam * min(c_clip, ratios[n, t])
        for s in range(n_steps):
            follow = next_values[n, s] if s in last else targets[n, s + 1]
            follow = 0.0 if terminated[n, s] else follow
            advantages[n, s] = min(rho_clip, ratios[n, s]) * (rewards[n, s] + gamma * follow - values[n, s])
    return advantages, targets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_generalized_advantages_are_the_loops(gamma, lam, device):
    _, *columns = rows(device=device)
    advantages, returns = generalized_advantages(*columns, gamma=gamma, lam=lam)
    expected = gae_loop(*(column.cpu().numpy() for column in columns), gamma, lam)
    np.testing.assert_allclose(advantages.cpu(), expected, atol=1e-12)
    torch.testing.assert_close(returns, advantages + columns[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("lam", "rho_clip", "c_clip"), [(1.0, 1.0, 1.0), (0.9, 2.0, 0.5), (1.0, 1e9, 1e9)])
def test_vtrace_is_the_papers_sum(lam, rho_clip, c_clip, device):
    columns = rows(device=device)
    found = vtrace(*columns, gamma=0.97, lam=lam, rho_clip=rho_clip, c_clip=c_clip)
    arrays = [column.cpu().numpy() for column in columns]
    for ours, expected in zip(found, vtrace_sums(*arrays, 0.97, lam, rho_clip, c_clip)):
        np.testing.assert_allclose(ours.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_on_policy_vtrace_targets_are_returns_of_generalized_advantages():
    log_ratios, *columns = rows()
    _, targets = vtrace(torch.zeros_like(log_ratios), *columns, gamma=0.97, lam=0.9)
    _, returns = generalized_advantages(*columns, gamma=0.97, lam=0.9)
    torch.testing.assert_close(targets, returns)


def test_a_truncated_step_counts_what_would_have_followed_and_a_terminated_one_does_not():
    one, zero = torch.ones(1), torch.zeros(1)
    yes, no = torch.tensor([True]), torch.tensor([False])
    assert generalized_advantages(zero, zero, one, no, yes, gamma=0.5)[0].item() == 0.5
    assert generalized_advantages(zero, zero, one, yes, no, gamma=0.5)[0].item() == 0.0


def test_advantages_carry_no_gradient():
    log_ratios, rewards, values, *rest = rows()
    values.requires_grad_()
    assert not generalized_advantages(rewards, values, *rest)[0].requires_grad
    assert not vtrace(log_ratios, rewards, values, *rest)[1].requires_grad


@pytest.mark.parametrize("n_steps", [1, 2, 3, 64, 65])
def test_every_length_of_a_row(n_steps):
    _, *columns = rows(2, n_steps)
    expected = gae_loop(*(column.numpy() for column in columns), 0.99, 0.95)
    np.testing.assert_allclose(generalized_advantages(*columns)[0], expected, atol=1e-12)


X, Y, END = torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.bool)
WRONG = [
    (lambda: generalized_advantages(X, Y, X, END), r"rewards \(2, 3\), values \(2, 4\)"),
    (lambda: generalized_advantages(X[0, 0], X[0, 0], X[0, 0], END[0, 0]), r"of one shape \(\*, T\), got rewards \(\)"),
    (lambda: generalized_advantages(X, X, X, END, END[:, :2]), r"truncated \(2, 2\)"),
    (lambda: generalized_advantages(X, X, X, END, gamma=1.5), "needs gamma between 0 and 1, got 1.5"),
    (lambda: generalized_advantages(X, X, X, END, lam=-1), "needs lam between 0 and 1, got -1"),
    (lambda: vtrace(Y, X, X, X, END), r"vtrace needs .* log_ratios \(2, 4\)"),
    (lambda: vtrace(X, X, X, X, END, c_clip=2.0), "needs 0 <= c_clip <= rho_clip, got 2.0 and 1.0"),
]


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_wrong_input_is_refused_by_name(call, text):
    with pytest.raises(ValueError, match=text):
        call()
