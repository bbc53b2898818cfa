"""Losses of a decoder's outputs ``(N, T, n)`` over the rows of a matrix ``(V, n)``, one for each word."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.sampled_softmax import sampled_softmax_loss
from ..kernels.samplers import SampledValues

Sampler = Callable[[Tensor, int, int], SampledValues]


def above_average(outputs: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The right word's logit less the mean of all, ``(N, T)``: what smoothing the labels adds to the loss, once for
    each unit of probability that it spreads."""
    rows = F.embedding(target, weight) - weight.mean(0)  # (N, T, n)
    return (outputs * rows).sum(2) + bias[target] - bias.mean()


def sampled_at_once(
    outputs: Tensor, target: Tensor, weight: Tensor, bias: Tensor, n_sampled: int, sampler: Sampler
) -> Tensor:
    """Sampled softmax losses ``(N, T)``, with one set of words for all of them."""
    labels = target.flatten()
    drawn = sampler(labels, n_sampled, len(weight))
    return sampled_softmax_loss(weight, bias, outputs.flatten(0, 1), labels, drawn).view(target.shape)


def sampled_at_each_step(
    outputs: Tensor, target: Tensor, weight: Tensor, bias: Tensor, n_sampled: int, sampler: Sampler
) -> Tensor:
    """Sampled softmax losses ``(N, T)``, with a set of words for each step, as in TensorFlow."""
    drawn = [SampledValues(*sampler(labels, n_sampled, len(weight))) for labels in target.unbind(1)]
    parts = _gathered(target, weight, bias, drawn)
    losses = [
        sampled_softmax_loss(rows, biases, hidden, labels, values)
        for hidden, (rows, biases, labels, values) in zip(outputs.unbind(1), parts)
    ]
    return torch.stack(losses, 1)


def _gathered(
    target: Tensor, weight: Tensor, bias: Tensor, drawn: list[SampledValues]
) -> Iterator[tuple[Tensor, Tensor, Tensor, SampledValues]]:
    """For each step the rows of its samples and labels, and where in them these are.

    They are looked up for all steps at once, so that there is one gradient as large as the matrix, not one a step.
    """
    samples, order = torch.stack([values.sampled for values in drawn]).sort(1)  # (T, K)
    labels = target.T.contiguous()  # (T, N)
    ids = torch.cat([samples, labels], 1)
    rows, biases = F.embedding(ids, weight), bias[ids]  # (T, K + N, n)
    # one word, one place: a sample that is a row's label does not count, and is known by its place
    n_sampled = samples.shape[1]
    first = torch.searchsorted(samples, labels).clamp(max=n_sampled - 1)
    own = torch.arange(n_sampled, ids.shape[1], device=ids.device)
    labels_at = torch.where(samples.gather(1, first) == labels, first, own)
    samples_at = torch.searchsorted(samples, samples)
    for t, values in enumerate(drawn):
        count = values.sampled_expected_count[order[t]]
        yield rows[t], biases[t], labels_at[t], SampledValues(samples_at[t], values.true_expected_count, count)
