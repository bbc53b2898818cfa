"""What losses.py checks before it times: losses and gradients against float64, at the case's own size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from losses_cases import Problem
from losses_composites import Rows, losses_of_rows
from losses_contenders import Result
from torch import Tensor
from torch.nn import functional as F

_CHUNK_LOGITS = 2**26  # half a gigabyte of float64
_MOST_FLOPS = 2**43
_N_CHECKED = 64


class Error(NamedTuple):
    """The largest difference over the largest number, and the norm of the difference over the norm."""

    largest: float
    norm: float


Errors = dict[str, Error]


class Exact(NamedTuple):
    """Losses and gradients in float64, those of weight and bias summed over the distinct classes that were touched."""

    losses: Tensor
    hidden: Tensor
    classes: Tensor
    weight: Tensor
    bias: Tensor


def exact(p: Problem, loss: str) -> Exact:
    """By autograd in float64, some examples at a time."""
    n = len(p.labels)
    weight, bias = p.weight.detach(), p.bias.detach()
    noise = [weight[p.sampled].double().requires_grad_(), bias[p.sampled].double().requires_grad_()]
    losses, d_hidden, d_true, d_true_bias = [], [], [], []
    for part in torch.arange(n, device=p.labels.device).split(max(1, _CHUNK_LOGITS // len(p.sampled))):
        labels, count = p.labels[part], p.true_count[part].double()
        leaves = [p.hidden.detach()[part].double(), weight[labels].double(), bias[labels].double()]
        hidden, true_rows, true_bias = (leaf.requires_grad_() for leaf in leaves)
        counts = count, p.sampled_count.double()
        each = losses_of_rows(hidden, true_rows, noise[0], true_bias, noise[1], labels, p.sampled, *counts, loss)
        (each.sum() / n).backward()
        losses.append(each.detach())
        for kept, leaf in zip((d_hidden, d_true, d_true_bias), leaves):
            kept.append(leaf.grad)
    classes = torch.cat((p.sampled, p.labels)).unique()
    assert noise[0].grad is not None
    assert noise[1].grad is not None
    rows: Rows = [(p.sampled, noise[0].grad), (p.labels, torch.cat(d_true))]
    biases: Rows = [(p.sampled, noise[1].grad), (p.labels, torch.cat(d_true_bias))]
    return Exact(torch.cat(losses), torch.cat(d_hidden), classes, summed(rows, classes), summed(biases, classes))


def errors(result: Result, right: Exact) -> Errors:
    """Of each output."""
    assert result.bias is not None
    return {
        "losses": error(result.losses, right.losses),
        "hidden": error(result.hidden, right.hidden),
        "weight": error(summed(result.weight, right.classes), right.weight),
        "bias": error(summed(result.bias, right.classes), right.bias),
    }


def error(a: Tensor, b: Tensor) -> Error:
    """Of ``a``, beside ``b``; infinite where a number is missing or none."""
    difference = a.double() - b.double()
    if a.shape != b.shape or not bool(difference.isfinite().all()):
        return Error(float("inf"), float("inf"))
    return Error(float(difference.abs().max() / b.abs().max()), float(difference.norm() / b.norm()))


def summed(gradient: Tensor | Rows, classes: Tensor) -> Tensor:
    """The gradient of each class in float64; NaN if there is one of a class that is not among ``classes``."""
    if isinstance(gradient, Tensor) and not gradient.is_sparse:
        mine = gradient[classes].double()
        strays = torch.count_nonzero(gradient) != torch.count_nonzero(mine)
        return mine.masked_fill(strays, torch.nan)
    if isinstance(gradient, Tensor):
        gradient = [(gradient._indices()[0], gradient._values())]
    total = torch.zeros(len(classes), *gradient[0][1].shape[1:], dtype=torch.float64, device=classes.device)
    for ids, values in gradient:
        place = torch.searchsorted(classes, ids).clamp(max=len(classes) - 1)
        values = values.double().masked_fill((classes[place] != ids).view(-1, *[1] * (values.dim() - 1)), torch.nan)
        total.index_add_(0, place, values)
    return total


def full_errors(result: Result, p: Problem, with_bias: bool) -> Errors:
    """Of a softmax over all classes: gradients of the first examples, and the mean loss unless there are too many."""
    weight, labels = p.weight.detach(), p.labels
    n, v, d = len(labels), *weight.shape
    hidden = p.hidden.detach()[:_N_CHECKED].double().requires_grad_()
    logits = _logits(hidden, p, with_bias)
    each = F.cross_entropy(logits, labels[:_N_CHECKED], reduction="sum") / n
    (d_hidden,) = torch.autograd.grad(each, hidden)
    found = {"hidden": error(result.hidden[:_N_CHECKED], d_hidden)}
    if 2 * n * v * d <= _MOST_FLOPS:
        total = torch.zeros((), dtype=torch.float64, device=labels.device)
        with torch.no_grad():
            for part in torch.arange(n, device=labels.device).split(max(1, _CHUNK_LOGITS // v)):
                logits = _logits(p.hidden[part].double(), p, with_bias)
                total += F.cross_entropy(logits, labels[part], reduction="sum") / n
        found["losses"] = error(result.losses.mean(), total)
    return found


def _logits(hidden: Tensor, p: Problem, with_bias: bool) -> Tensor:
    """In float64, some classes at a time: all of a large weight in float64 would be four times as large as it is."""
    weight, bias = p.weight.detach(), p.bias.detach()
    parts = zip(weight.split(2**17), bias.split(2**17))
    return torch.cat([F.linear(hidden, w.double(), b.double() if with_bias else None) for w, b in parts], 1)
