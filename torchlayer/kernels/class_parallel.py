"""One process's share of a sampled loss whose classes are divided among several: the terms of the rows it holds.

Ids are rows of the part of the table that is here; -1 is a class that another process holds. The shares are put
together by :mod:`torchlayer.distributed`. There is no CUDA kernel yet: on a GPU, torch multiplies, some rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import _library
from ._sampled_loss import (
    as_columns,
    call_backward,
    check,
    check_ids,
    check_per_row,
    example,
    fake_gradients,
    input_gradients,
    sum_dtype,
)

# Logits held at a time by the reference: 16 MB of float32.
_CHUNK = 1 << 22


class _Block(NamedTuple):
    """Some rows and their corrected logits; -inf stands for a class elsewhere and for a removed hit."""

    rows: slice
    hidden: Tensor  # (n, D)
    true_rows: Tensor  # (n, T, D), zero where the class is elsewhere
    here: Tensor  # (n, T), whether it is here
    true: Tensor  # (n, T)
    noise: Tensor  # (n, K)


class _Share:
    """The reference: a block of rows after the other, in the precision of the sums."""

    def __init__(
        self,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        hidden: Tensor,
        labels: Tensor,
        sampled: Tensor,
        true_count: Tensor | None,
        sampled_count: Tensor | None,
        remove_accidental_hits: bool,
    ):
        check(name, weight, bias, hidden, labels, sampled, true_count, sampled_count)
        for argument, ids in (("labels", labels), ("sampled ids", sampled)):
            check_ids(name, argument, ids, len(weight), least=-1)
        labels, true_count = as_columns(labels), as_columns(true_count)
        self.weight, self.bias, self.hidden, self.labels, self.sampled = weight, bias, hidden, labels, sampled
        self.remove, self.dtype = remove_accidental_hits, sum_dtype(weight.dtype)
        self.true_offset = 0 if true_count is None else -true_count.log()
        self.away = sampled < 0
        self.places = sampled.clamp(0, len(weight) - 1)
        # another's class must not bring in what is not finite in the row that stands for it
        self.sampled_rows = weight[self.places].to(self.dtype).masked_fill(self.away[:, None], 0)  # (K, D)
        self.offset = torch.zeros_like(sampled, dtype=self.dtype)
        if bias is not None:
            self.offset = bias[self.places].to(self.dtype)
        if sampled_count is not None:
            self.offset = self.offset - sampled_count.log()
        self.offset = self.offset.masked_fill(self.away, -math.inf)

    def blocks(self) -> Iterator[_Block]:
        n_rows = max(1, _CHUNK // max(1, len(self.sampled) + self.labels.shape[1]))
        for first in range(0, len(self.hidden), n_rows):
            rows = slice(first, first + n_rows)
            labels, hidden = self.labels[rows], self.hidden[rows].to(self.dtype)
            here = labels >= 0
            places = labels.clamp(0, len(self.weight) - 1)
            true_rows = self.weight[places].to(self.dtype).masked_fill(~here[:, :, None], 0)
            with torch.autocast(hidden.device.type, enabled=False):
                true = torch.einsum("nd,ntd->nt", hidden, true_rows)
                noise = hidden @ self.sampled_rows.T
            if self.bias is not None:
                true = true + self.bias[places].to(self.dtype)
            true = true + (self.true_offset if isinstance(self.true_offset, int) else self.true_offset[rows])
            noise = (noise + self.offset).masked_fill(self.away, -math.inf)
            if self.remove:
                hits = (labels[:, :, None] == self.sampled).any(1)
                noise = noise.masked_fill(hits, -math.inf)
            yield _Block(rows, hidden, true_rows, here, true.masked_fill(~here, -math.inf), noise)

    def gradients(self, errors: Iterator[tuple[_Block, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From each block's errors ``(n, T)`` and ``(n, K)`` to the gradients of ``hidden``, of rows and of biases."""
        (n, n_features), n_true, n_sampled = self.hidden.shape, self.labels.shape[1], len(self.sampled)
        d_hidden = torch.empty_like(self.hidden, memory_format=torch.contiguous_format)
        by_samples = self.sampled_rows.new_zeros((n_sampled, n_features))
        d_rows = self.hidden.new_empty((n_sampled + n * n_true, n_features))
        d_biases = by_samples.new_zeros((n_sampled + n * n_true,))
        for block, true, noise in errors:
            true = true.masked_fill(~block.here, 0)
            noise = noise.masked_fill(block.noise == -math.inf, 0)
            with torch.autocast(noise.device.type, enabled=False):
                d_hidden[block.rows] = (
                    noise @ self.sampled_rows + torch.einsum("nt,ntd->nd", true, block.true_rows)
                ).to(d_hidden.dtype)
                by_samples += noise.T @ block.hidden
            d_biases[:n_sampled] += noise.sum(0)
            first, last = (n_sampled + row * n_true for row in (block.rows.start, min(block.rows.stop, n)))
            by_true = true[:, :, None] * block.hidden[:, None, :]
            d_rows[first:last] = by_true.masked_fill(~block.here[:, :, None], 0).flatten(0, 1).to(d_rows.dtype)
            d_biases[first:last] = true.flatten()
        d_rows[:n_sampled] = by_samples.masked_fill(self.away[:, None], 0).to(d_rows.dtype)
        return d_hidden, d_rows, d_biases, torch.cat((self.sampled, self.labels.flatten()))


def _parameter_gradients(
    ctx: Any, gradients: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Of weight, bias and ``hidden``, from what a backward op returns."""
    weight, bias = ctx.saved_tensors[:2]
    d_hidden, d_rows, d_biases, ids = gradients
    if ctx.sparse and ids.device.type == "cpu":
        here = (ids >= 0).nonzero()[:, 0]
        ids, d_rows, d_biases = ids[here], d_rows[here], d_biases[here]
    else:  # no shape may depend on data: zeros are added to a row that gets a gradient anyway, if there is one
        ids = torch.where(ids >= 0, ids, ids.max().clamp(min=0))
    return input_gradients(ctx, weight, bias, (d_hidden, d_rows, d_biases, ids))


# Softmax: the logarithm of the sum of exponentials, and the mean of the true logits -------------------------


def _softmax(*arguments: Any) -> tuple[Tensor, Tensor]:
    *inputs, _ = arguments
    share = _Share("class_parallel_softmax", *inputs)
    log_sums, means = (torch.empty_like(share.hidden[:, 0], dtype=share.dtype) for _ in range(2))
    for block in share.blocks():
        log_sums[block.rows] = torch.cat((block.true, block.noise), 1).logsumexp(1)
        means[block.rows] = block.true.masked_fill(~block.here, 0).mean(1)
    return log_sums, means


def _softmax_backward(
    grad_log_sum: Tensor,
    grad_mean: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_expected_count: Tensor | None,
    sampled_expected_count: Tensor | None,
    log_sum_exp: Tensor,
    remove_accidental_hits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    name, counts = "class_parallel_softmax_backward", (true_expected_count, sampled_expected_count)
    share = _Share(name, weight, bias, hidden, labels, sampled, *counts, remove_accidental_hits)
    for argument, value in (
        ("grad_log_sum", grad_log_sum),
        ("grad_mean", grad_mean),
        ("log_sum_exp", log_sum_exp),
    ):
        check_per_row(name, argument, value, weight, labels)

    def errors() -> Iterator[tuple[_Block, Tensor, Tensor]]:
        for block in share.blocks():
            by_sum, by_mean = grad_log_sum[block.rows, None], grad_mean[block.rows, None]
            log_sum = log_sum_exp[block.rows, None]
            true = by_sum * (block.true - log_sum).exp() + by_mean / share.labels.shape[1]
            yield block, true, by_sum * (block.noise - log_sum).exp()

    return share.gradients(errors())


def _softmax_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.remove_accidental_hits, ctx.sparse = inputs[-2:]
    ctx.save_for_backward(*inputs[:-2], output[0])


def _softmax_gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    zeros = torch.zeros_like(ctx.saved_tensors[-1])
    given = [zeros if grad is None else grad for grad in grads]
    op = torch.ops.torchlayer.class_parallel_softmax_backward.default
    gradients = call_backward(op, *given, *ctx.saved_tensors, ctx.remove_accidental_hits)
    return *_parameter_gradients(ctx, gradients), *[None] * 6


# NCE: the sum of the logistic losses -------------------------------------------------------------------------


def _nce(*arguments: Any) -> Tensor:
    *inputs, _ = arguments
    share = _Share("class_parallel_nce", *inputs)
    losses, n_true = torch.empty_like(share.hidden[:, 0], dtype=share.dtype), share.labels.shape[1]
    for block in share.blocks():
        true = -F.logsigmoid(block.true) if n_true == 1 else -F.logsigmoid(-block.true) - block.true / n_true
        losses[block.rows] = true.masked_fill(~block.here, 0).sum(1) - F.logsigmoid(-block.noise).sum(1)
    return losses


def _nce_backward(
    grad: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_expected_count: Tensor | None,
    sampled_expected_count: Tensor | None,
    remove_accidental_hits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    name, counts = "class_parallel_nce_backward", (true_expected_count, sampled_expected_count)
    share = _Share(name, weight, bias, hidden, labels, sampled, *counts, remove_accidental_hits)
    check_per_row(name, "grad", grad, weight, labels)

    def errors() -> Iterator[tuple[_Block, Tensor, Tensor]]:
        n_true = share.labels.shape[1]
        for block in share.blocks():
            true = -(-block.true).sigmoid() if n_true == 1 else block.true.sigmoid() - 1 / n_true
            yield block, grad[block.rows, None] * true, grad[block.rows, None] * block.noise.sigmoid()

    return share.gradients(errors())


def _nce_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.remove_accidental_hits, ctx.sparse = inputs[-2:]
    ctx.save_for_backward(*inputs[:-2])


def _nce_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    op = torch.ops.torchlayer.class_parallel_nce_backward.default
    gradients = call_backward(op, grad, *ctx.saved_tensors, ctx.remove_accidental_hits)
    return *_parameter_gradients(ctx, gradients), *[None] * 6


# What the ops are registered with ---------------------------------------------------------------------------


def _fake_softmax(weight: Tensor, bias: Tensor | None, hidden: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    log_sums = hidden.new_empty((hidden.shape[0],), dtype=sum_dtype(weight.dtype))
    return log_sums, torch.empty_like(log_sums)


def _fake_nce(*arguments: Any) -> Tensor:
    return _fake_softmax(*arguments)[0]


def _example(device: torch.device) -> tuple[Any, ...]:
    """Half of the classes elsewhere."""
    weight, bias, hidden, labels, sampled, *counts, remove = example(device)
    half = len(weight) // 2
    here = [torch.where(ids < half, ids, -1) for ids in (labels, sampled)]
    return weight[:half].contiguous(), bias[:half].contiguous(), hidden, *here, *counts, remove, False


def _example_softmax_backward(device: torch.device) -> tuple[Any, ...]:
    *inputs, remove, sparse = _example(device)
    log_sums, means = _softmax(*inputs, remove, sparse)
    return torch.ones_like(means), -torch.ones_like(means), *inputs, log_sums, remove


def _example_nce_backward(device: torch.device) -> tuple[Any, ...]:
    *inputs, remove, sparse = _example(device)
    return torch.ones_like(_nce(*inputs, remove, sparse)), *inputs, remove


_ARGUMENTS = (
    "Tensor weight, Tensor? bias, Tensor hidden, Tensor labels, Tensor sampled, "
    "Tensor? true_expected_count, Tensor? sampled_expected_count"
)
_GRADIENTS = "(Tensor, Tensor, Tensor, Tensor)"

_softmax_op = _library.define(
    f"class_parallel_softmax({_ARGUMENTS}, bool remove_accidental_hits, bool sparse) -> (Tensor, Tensor)",
    _softmax,
    _fake_softmax,
    _example,
    _softmax_gradient,
    _softmax_setup,
)
_library.define(
    f"class_parallel_softmax_backward(Tensor grad_log_sum, Tensor grad_mean, {_ARGUMENTS}, Tensor log_sum_exp, "
    f"bool remove_accidental_hits) -> {_GRADIENTS}",
    _softmax_backward,
    lambda _a, _b, _w, _bias, hidden, labels, sampled, *_: fake_gradients(hidden, labels, sampled),
    _example_softmax_backward,
)
_nce_op = _library.define(
    f"class_parallel_nce({_ARGUMENTS}, bool remove_accidental_hits, bool sparse) -> Tensor",
    _nce,
    _fake_nce,
    _example,
    _nce_gradient,
    _nce_setup,
)
_library.define(
    f"class_parallel_nce_backward(Tensor grad, {_ARGUMENTS}, bool remove_accidental_hits) -> {_GRADIENTS}",
    _nce_backward,
    lambda _g, _w, _bias, hidden, labels, sampled, *_: fake_gradients(hidden, labels, sampled),
    _example_nce_backward,
)

# The share of a softmax: (N,) logarithms of sums of exponentials, -inf where nothing is here, and (N,) means of the
# true logits, of which those elsewhere count as zero.
softmax_share = _library.function(_softmax_op, _softmax_setup, _softmax_gradient)
# The share of the NCE loss, (N,).
nce_share = _library.function(_nce_op, _nce_setup, _nce_gradient)
