"""Discounted rewards: ours, plain PyTorch, the original's loop in NumPy, and the floor, a copy of the same bytes.

python benchmarks/kernels_discount.py --device cuda --rows 128 --steps 4096
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torchlayer.kernels import compiled, discounted_sum
from torchlayer.kernels._library import OPS


def loop(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """TensorLayer's own lines, for every row."""
    sums = np.zeros_like(rewards)
    for row, out in zip(rewards, sums):
        running = 0.0
        for t in reversed(range(row.size)):
            if row[t] != 0:
                running = 0.0
            running = gamma * running + row[t]
            out[t] = running
    return sums


def milliseconds(function: Callable[[], Any], device: str, n_calls: int) -> float:
    """The median of ``n_calls`` calls after one to warm up."""
    function()
    times = []
    for _ in range(n_calls):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description="Discounted rewards, timed.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4096)
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--calls", type=int, default=21)
    arguments = parser.parse_args()
    device, gamma = arguments.device, arguments.gamma

    torch.manual_seed(0)
    rewards = torch.randn(arguments.rows, arguments.steps)
    rewards = rewards * (rewards > 2)
    array, rewards = rewards.numpy(), rewards.to(device)
    error = np.abs(discounted_sum(rewards, gamma).cpu().numpy() - loop(array, gamma)).max()

    rows: list[tuple[str, Callable[[], Any], int]] = [
        ("torchlayer", lambda: discounted_sum(rewards, gamma), arguments.calls),
        ("plain PyTorch", lambda: OPS["discounted_sum"].reference(rewards, gamma, True), arguments.calls),
        ("NumPy loop", lambda: loop(array, gamma), 1),
        ("floor: copy", rewards.clone, arguments.calls),
    ]
    print(f"{device}, {arguments.rows} x {arguments.steps} float32, torch {torch.__version__}")
    print(f"torchlayer runs {getattr(compiled(), device).name}; largest difference from the loop {error:.1e}")
    print(f"{'':<16}{'ms':>10}{'GB/s':>10}{'x loop':>10}")
    times = [(name, milliseconds(function, device, n_calls)) for name, function, n_calls in rows]
    slowest = dict(times)["NumPy loop"]
    for name, ms in times:
        print(f"{name:<16}{ms:>10.3f}{2 * rewards.nbytes / ms / 1e6:>10.2f}{slowest / ms:>10.0f}")


if __name__ == "__main__":
    main()
