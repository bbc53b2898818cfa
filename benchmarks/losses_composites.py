"""Sampled softmax and NCE as users write them in plain PyTorch, for one true class an example."""

from __future__ import annotations

import torch
from losses_cases import Problem
from torch import Tensor
from torch.nn import functional as F

Rows = list[tuple[Tensor, Tensor]]
"""A gradient that touches few rows: ids and values, in parts; repeated ids add up."""


def composite(p: Problem, loss: str, sparse: bool) -> Tensor:
    """What a careful user writes: only the rows needed, hits masked, one cross-entropy."""
    true_rows, noise_rows = (F.embedding(ids, p.weight, sparse=sparse) for ids in (p.labels, p.sampled))
    biases = p.bias[p.labels], p.bias[p.sampled]
    return losses_of_rows(p.hidden, true_rows, noise_rows, *biases, p.labels, *p[4:], loss)


def losses_of_rows(
    hidden: Tensor,
    true_rows: Tensor,
    noise_rows: Tensor,
    true_bias: Tensor,
    noise_bias: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_count: Tensor,
    sampled_count: Tensor,
    loss: str,
) -> Tensor:
    """The same, from rows already gathered."""
    dtype = hidden.dtype
    real = torch.float64 if dtype == torch.float64 else torch.float32
    true = (hidden * true_rows).sum(1) + true_bias - true_count.log().to(dtype)
    noise = torch.addmm(noise_bias - sampled_count.log().to(dtype), hidden, noise_rows.T)
    if loss == "nce":
        return F.softplus(-true).to(real) + F.softplus(noise).sum(1, dtype=real)
    noise = noise.masked_fill(labels[:, None] == sampled, -1e4)
    logits = torch.cat((true[:, None], noise), 1).to(real)
    return F.cross_entropy(logits, torch.zeros_like(labels), reduction="none")


def by_hand(
    weight: Tensor,
    bias: Tensor,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_count: Tensor,
    sampled_count: Tensor,
    loss: str,
) -> tuple[Tensor, Tensor, Rows, Rows]:
    """Losses and the gradients of their mean, for a compiler to fuse: each row is gathered once."""
    dtype, n = hidden.dtype, len(labels)
    true_rows, noise_rows = weight[labels], weight[sampled]
    true = (hidden.float() * true_rows.float()).sum(1) + bias[labels].float() - true_count.log()
    noise = (hidden @ noise_rows.T).float() + (bias[sampled].float() - sampled_count.log())
    if loss == "nce":
        losses = F.softplus(-true) + F.softplus(noise).sum(1)
        true_errors, noise_errors = -torch.sigmoid(-true) / n, torch.sigmoid(noise) / n
    else:
        noise = noise.masked_fill(labels[:, None] == sampled, -torch.inf)
        log_sum_exp = torch.logaddexp(true, noise.logsumexp(1))
        losses = log_sum_exp - true
        true_errors = torch.expm1(-losses) / n
        noise_errors = (noise - log_sum_exp[:, None]).exp() / n
    low = noise_errors.to(dtype)
    d_hidden = low @ noise_rows + (true_errors[:, None] * true_rows.float()).to(dtype)
    d_true = (true_errors[:, None] * hidden.float()).to(dtype)
    rows = [(sampled, low.T @ hidden), (labels, d_true)]
    return losses, d_hidden, rows, [(sampled, noise_errors.sum(0)), (labels, true_errors)]
