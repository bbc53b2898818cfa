"""Adam and AdamW for many tensors at once, on the state that ``torch.optim`` keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, _rows


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """Update parameters, their averages and their step counts in place.

    Equals, for every tensor::

        step += 1
        p -= lr * weight_decay * p                      # AdamW (decoupled); else  g = g + weight_decay * p
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        p -= lr / (1 - beta1**step) * m / ((v / (1 - beta2**step)).sqrt() + eps)

    On CUDA this is one launch for up to 64 tensors, in pieces small enough that a network of a million parameters
    fills the chip. (``torch``'s fused Adam gives a block 65,536 elements: twenty blocks for that network.)

    Args:
        lr: the learning rate on the device, so that a captured step can follow a schedule.
        decoupled: AdamW's weight decay instead of Adam's.

    Shape:
        lists of one length; a parameter, its gradient and its averages of one shape, float32 (on a CPU also float64)
        and one dense layout; ``lr`` and each of ``steps`` ``()`` float32.

    Raises:
        RuntimeError: lists of different lengths; another dtype; layouts that differ or have gaps; several devices.
        TypeError: a tensor is not dense, or a number none.
        ValueError: a beta lies outside [0, 1), eps or weight_decay below 0, or one is NaN.

    Reference:
        Kingma, Ba 2015, arXiv:1412.6980; Loshchilov, Hutter 2019, arXiv:1711.05101.

    >>> p, g, m, v, step = torch.tensor([1.0]), torch.tensor([0.5]), torch.zeros(1), torch.zeros(1), torch.tensor(0.0)
    >>> adam_([p], [g], [m], [v], [step], torch.tensor(0.1))
    >>> p, step
    (tensor([0.9000]), tensor(1.))
    """
    for name, value, below in (
        ("beta1", beta1, 1),
        ("beta2", beta2, 1),
        ("eps", eps, math.inf),
        ("weight_decay", weight_decay, math.inf),
    ):
        _rows.check_number("adam_", name, value, below)
    torch.ops.torchlayer.adam_(
        params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, weight_decay, decoupled
    )


def _reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    lengths = [len(tensors) for tensors in (params, grads, exp_avgs, exp_avg_sqs, steps)]
    if len(set(lengths)) != 1:
        raise RuntimeError(f"adam_ needs five lists of one length, got {lengths}")
    for p, g, m, v, step in zip(params, grads, exp_avgs, exp_avg_sqs, steps):
        if not p.dtype == g.dtype == m.dtype == v.dtype or not p.shape == g.shape == m.shape == v.shape:
            raise RuntimeError("adam_ needs parameter, gradient and averages of one dense layout, dtype and device")
        step += 1
        if decoupled:
            p.mul_(1 - lr * weight_decay)
        elif weight_decay:
            g = g + weight_decay * p
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        count = step.double()
        step_size, root = lr.double() / (1 - beta1**count), (1 - beta2**count).sqrt()
        p.sub_(step_size.to(p.dtype) * m / (v.sqrt() / root.to(p.dtype) + eps))


def _fake(*arguments: Any) -> None:
    # A kernel sees to this itself, but one tensor without data among others that have some brings the call here.
    devices = sorted({str(tensor.device) for tensor in _library.tensors(arguments)})
    if len(devices) > 1:
        raise RuntimeError(f"adam_ needs all tensors on one device, got {' and '.join(devices)}")


def _example(device: torch.device) -> tuple:
    generator = torch.Generator(device).manual_seed(0)
    shapes = [(784, 800), (800,), (800, 10)]
    params, grads = ([torch.randn(s, device=device, generator=generator) for s in shapes] for _ in range(2))
    averages, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    steps = [torch.zeros((), device=device) for _ in params]
    return params, grads, averages, squares, steps, torch.tensor(1e-3, device=device), 0.9, 0.999, 1e-8, 0.0, False


_library.define(
    "adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps, "
    "Tensor lr, float beta1, float beta2, float eps, float weight_decay, bool decoupled) -> ()",
    _reference,
    _fake,
    _example,
)
