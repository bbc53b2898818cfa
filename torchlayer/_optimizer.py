"""What a training step does to an optimiser: the fast implementation, and a learning rate that replays can follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from . import kernels
from .optim import RowOptimizer


def settle(optimizer: Optimizer, will_be_captured: bool) -> None:
    """Fused where the user left it open; able to be captured exactly where it may be."""
    for group in optimizer.param_groups:
        on_cuda = any(p.is_cuda for p in group["params"])
        if _may_fuse(optimizer, group):
            group["fused"] = True
        if "capturable" in group:
            group["capturable"] = on_cuda and (will_be_captured or bool(group["capturable"]))
        for p in group["params"]:
            count = optimizer.state.get(p, {}).get("step")
            if isinstance(count, Tensor) and (group.get("capturable") or (group.get("fused") and on_cuda)):
                optimizer.state[p]["step"] = count.to(p.device, torch.float32)
    # the warm-up runs a capturable optimiser uncaptured, on purpose
    optimizer._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]


def what_a_replay_would_miss(optimizer: Optimizer) -> str | None:
    """Why a replayed update could differ from an eager one, in words, or ``None`` if it cannot."""
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if "capturable" in group or isinstance(optimizer, SGD):
            continue
        if isinstance(optimizer, Adagrad) and not group["lr_decay"]:
            continue
        if isinstance(optimizer, RowOptimizer):  # every state is a tensor on the device, the count of steps among them
            continue
        return f"{name} may count its steps in Python, where a replay does not see them"
    return None


class LearningRate:
    """A group's learning rate as a device scalar during capture, so that replays can follow a schedule."""

    def __init__(self, group: dict[str, Any], device: torch.device, optimizer: Optimizer | None = None):
        self.group = group
        # a plain foreach SGD reads a tensor rate back to the host; such optimisers are captured again instead
        takes_tensor = group.get("fused") or ("betas" in group and group.get("capturable"))
        takes_tensor = takes_tensor or isinstance(optimizer, RowOptimizer)
        self.is_live = bool(takes_tensor) and isinstance(group["lr"], float | int)
        if self.is_live:
            self.value = float(group["lr"])
            self.tensor = torch.tensor(self.value, device=device)

    def refresh(self) -> None:
        """Bring what replays read up to date."""
        if self.is_live and self.group["lr"] != self.value:
            self.value = float(self.group["lr"])
            self.tensor.fill_(self.value)

    def enter(self) -> None:
        """Put the device scalar where the optimiser looks."""
        if self.is_live:
            self.refresh()
            self.group["lr"] = self.tensor

    def leave(self) -> None:
        """Put the number back that the user sees."""
        if self.is_live:
            self.group["lr"] = self.value


def captured_update(optimizer: Optimizer, rates: Sequence[LearningRate]) -> Callable[[], Any]:
    """How a captured step updates: our kernel for a plain Adam whose state is there already, else the optimiser."""
    groups = optimizer.param_groups
    ours = (
        type(optimizer) in (Adam, AdamW)
        and all(_fits_kernel(group) and rate.is_live for group, rate in zip(groups, rates))
        and not (optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
        and kernels.compiled().cuda.name == "cuda"
    )
    if not ours:
        return optimizer.step

    @torch.no_grad()
    def update() -> None:
        for group, rate in zip(groups, rates):
            params = [p for p in group["params"] if p.grad is not None]
            states = [optimizer.state[p] for p in params]
            kernels.adam_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["step"] for state in states],
                rate.tensor,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                decoupled=group.get("decoupled_weight_decay", isinstance(optimizer, AdamW)),
            )

    return update


def _fits_kernel(group: dict[str, Any]) -> bool:
    plain = not (group["amsgrad"] or group["maximize"] or group["differentiable"]) and bool(group["fused"])
    numbers = all(isinstance(value, float | int) for value in (*group["betas"], group["eps"], group["weight_decay"]))
    return plain and numbers and all(p.is_cuda and p.dtype == torch.float32 for p in group["params"])


def _may_fuse(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    if not isinstance(optimizer, Adam | SGD) or group.get("differentiable") or isinstance(group["lr"], Tensor):
        return False
    undecided = group.get("fused") is None and group.get("foreach") is None
    return undecided and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in group["params"])
