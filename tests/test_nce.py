"""What is NCE's own; test_sampled_softmax.py has what it shares with sampled softmax."""

from __future__ import annotations

import pytest
import torch
from sampled_loss_cases import by_definition, differentiable, gradients, inputs, run
from torch.nn import functional as F


def test_the_target_of_a_true_class_is_one_over_their_number():
    given = inputs(3, 4, 6, 30, 5)
    weight, bias, hidden, labels, sampled, true_count, sampled_count = given
    ids = torch.cat((labels, sampled.expand(3, 6)), 1)
    counts = torch.cat((true_count, sampled_count.expand(3, 6)), 1)
    logits = torch.einsum("nd,nkd->nk", hidden, weight[ids]) + bias[ids] - counts.log()
    targets = torch.cat((torch.full((3, 4), 0.25), torch.zeros(3, 6)), 1).double()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
    torch.testing.assert_close(run("nce_loss", given), expected)


def test_hits_stay_unless_they_are_to_be_removed():
    given = inputs(4, 1, 6, 8, 3)
    kept, removed = run("nce_loss", given), run("nce_loss", given, remove_accidental_hits=True)
    torch.testing.assert_close(kept, by_definition("nce_loss", given, False))
    torch.testing.assert_close(removed, by_definition("nce_loss", given, True))
    assert not torch.equal(kept, removed)


def test_without_log_q_it_is_negative_sampling():
    given = inputs(4, 1, 6, 80, 3)
    weight, bias, hidden, labels, sampled, *_ = given
    true = (hidden * weight[labels[:, 0]]).sum(1) + bias[labels[:, 0]]
    noise = hidden @ weight[sampled].T + bias[sampled]
    expected = -F.logsigmoid(true) - F.logsigmoid(-noise).sum(1)
    torch.testing.assert_close(run("nce_loss", given, subtract_log_q=False), expected)


@pytest.mark.parametrize("logit", [1.0, 20.0, 60.0, -1.0, -20.0, -60.0, 1e4, -1e4])
def test_losses_that_are_nearly_zero_keep_their_digits(logit):
    given = inputs(1, 1, 1, 2, 1, bias=False)
    given.weight[:], given.hidden[:] = torch.tensor([[logit], [-60.0]]), 1.0
    given.labels[:], given.sampled[:] = 0, 1
    given = given._replace(true_expected_count=torch.ones(1, 1), sampled_expected_count=torch.ones(1))
    exact = differentiable(given.to(torch.float64))
    single = differentiable(given.to(torch.float32))
    expected = -F.logsigmoid(exact.hidden @ exact.weight[0]) - F.logsigmoid(-exact.hidden @ exact.weight[1])
    losses = run("nce_loss", single)
    torch.testing.assert_close(losses.detach().double(), expected.detach(), rtol=1e-5, atol=1e-37)
    right = torch.autograd.grad(expected.sum(), exact.weight)[0]
    torch.testing.assert_close(gradients(losses, single, torch.ones(1))[0].double(), right, rtol=1e-5, atol=1e-37)
