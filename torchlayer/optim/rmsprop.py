"""RMSProp as TensorFlow has it, for results that began with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class TensorFlowRMSprop(Optimizer):
    """RMSProp whose average of squared gradients begins at 1, with ``eps`` inside the root.

    ``torch.optim.RMSprop`` begins at 0. With ``lr=1e-4`` and ``decay=0.99`` its first step moves every weight by
    ``10 * lr = 1e-3``, whatever the gradient; this one moves it by ``lr * gradient``, nearly. Per weight::

        square = decay * square + (1 - decay) * gradient**2       # square = 1 in the beginning
        weight -= lr * gradient / sqrt(square + eps)

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        decay: of the average.
        eps: TensorFlow's epsilon.

    Raises:
        ValueError: a number lies outside its range.

    Reference:
        Tieleman, Hinton 2012, Lecture 6.5: RMSProp; TensorFlow 1's ``tf.train.RMSPropOptimizer`` without momentum.

    >>> weight = torch.nn.Parameter(torch.tensor([0.0]))
    >>> optimizer = TensorFlowRMSprop([weight], lr=0.1, decay=0.9)
    >>> weight.grad = torch.tensor([0.5])
    >>> optimizer.step()
    >>> weight.data  # -0.1 * 0.5 / sqrt(0.9 + 0.1 * 0.25)
    tensor([-0.0520])
    """

    def __init__(self, params: Any, lr: float = 1e-3, decay: float = 0.9, eps: float = 1e-10):
        for name, number, most in (("lr", lr, math.inf), ("decay", decay, 1), ("eps", eps, math.inf)):
            if not 0 <= number <= most:
                raise ValueError(f"TensorFlowRMSprop needs {name} between 0 and {most:g}, got {number}")
        # there is no count of steps, so a replay of a captured step misses nothing
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps, "capturable": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["square"] = torch.ones_like(p, memory_format=torch.preserve_format)
                square = self.state[p]["square"].mul_(group["decay"]).addcmul_(p.grad, p.grad, value=1 - group["decay"])
                p.addcdiv_(p.grad, (square + group["eps"]).sqrt_(), value=-group["lr"])
        return loss
