"""Measuring a network: over all examples, without noise, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Metric = Callable[[Tensor, Tensor], Tensor]

_BATCH = 4096  # large enough to fill a GPU, small enough for the activations of a convolution on a CPU


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of examples whose largest output is the target's.

    Shape:
        outputs ``(N, C)``, targets ``(N,)`` integers; returns ``()``.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    return (outputs.argmax(1) == targets).float().mean()


def test(
    network: nn.Module,
    acc: Metric | None,
    X_test: Any,
    y_test: Any,
    batch_size: int | None = None,
    cost: Metric | None = None,
) -> tuple[float | None, float | None]:
    """Measure a network on all examples; prints and returns ``(loss, acc)``, ``None`` for what was not asked.

    Args:
        acc, cost: ``f(outputs, targets)``, a mean over the examples it is given.
        batch_size: how many examples at once; every example counts whatever it is.

    Raises:
        ValueError: there are no examples, or the counts differ.
    """
    print("Start testing the network ...")
    found = measure(network, {"loss": cost, "acc": acc}, X_test, y_test, batch_size)
    for name, value in found.items():
        print(f"   test {name}: {value:f}")
    return found.get("loss"), found.get("acc")


test.__test__ = False  # type: ignore[attr-defined]  # a test runner that meets this name by import leaves it alone


def predict(
    network: nn.Module, X: Any, op: Callable[[Tensor], Tensor] | None = None, batch_size: int | None = None
) -> np.ndarray:
    """What a network says about ``X``, as an array.

    Args:
        op: applied to the outputs of each batch, such as ``lambda y: y.argmax(1)``.
        batch_size: how many examples at once.

    >>> import torchlayer as tl
    >>> net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 3)), n_units=2)
    >>> tl.utils.predict(net, np.zeros((5, 3), "float32"), op=lambda y: y.argmax(1)).shape
    (5,)
    """
    device = device_of(network)
    X = as_data(X, "X")
    with evaluating(network):
        parts = [network(x.to(device)) for x in X.split(batch_size or _BATCH)]
        return torch.cat(parts if op is None else [op(y) for y in parts]).cpu().numpy()


def measure(
    network: nn.Module, metrics: Mapping[str, Metric | None], X: Any, y: Any, batch_size: int | None = None
) -> dict[str, float]:
    """Each metric's mean over all examples: one pass, one wait for the device."""
    X, y = as_data(X, "X"), as_data(y, "y")
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(f"need as many targets as examples and at least one, got {len(X)} and {len(y)}")
    device = device_of(network)
    wanted = {name: metric for name, metric in metrics.items() if metric is not None}
    sums = {name: torch.zeros((), device=device) for name in wanted}
    with evaluating(network):
        size = batch_size or _BATCH
        for x, target in zip(X.split(size), y.split(size)):
            outputs, target = network(x.to(device)), target.to(device)
            for name, metric in wanted.items():
                sums[name] += torch.as_tensor(metric(outputs, target)).to(device) * len(x)
    values = torch.stack(list(sums.values())).tolist() if sums else []
    return {name: value / len(X) for name, value in zip(sums, values)}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """``eval()`` and no gradients; afterwards every layer is back in the mode it was in."""
    with modes_kept(network), torch.inference_mode():
        network.eval()
        yield


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards every layer is back in the mode, ``train()`` or ``eval()``, that it was in."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(network: nn.Module) -> torch.device:
    """Where the network's parameters are."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def as_data(values: Any, name: str) -> Tensor:
    """An array, list or tensor as a tensor, where it is."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is an array or a tensor of numbers, got {type(values).__name__}: {error}") from None
