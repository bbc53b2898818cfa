"""What the machine can do at best, measured: the bandwidth of a copy, the rate of a large product, a small launch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from device_clock import events_us, wall_us


class Roofs(NamedTuple):
    """Bytes a second read and written by a copy, FLOP a second of an 8192^3 product in bfloat16 and in TF32, and the
    microseconds that one more dependent tiny kernel adds to a CUDA graph.
    """

    copy: float
    bfloat16: float
    tf32: float
    launch: float

    def floor_us(self, n_flops: float, n_bytes: float, dtype: torch.dtype, n_launches: int) -> float:
        """The least that so much work needs: arithmetic or memory, whichever is longer, and the launches."""
        rate = self.bfloat16 if dtype == torch.bfloat16 else self.tf32
        return 1e6 * max(n_flops / rate, n_bytes / self.copy) + n_launches * self.launch


def measure_roofs(n: int = 8192) -> Roofs:
    """Of the current GPU, in about half a second."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rates = [_product_rate(n, dtype) for dtype in (torch.bfloat16, torch.float32)]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return Roofs(copy_rate("cuda"), rates[0], rates[1], _launch_us())


def copy_rate(device: str, n_bytes: int = 2**30) -> float:
    """Bytes read and written a second by ``Tensor.copy_`` of a large tensor."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    us = _median(lambda: target.copy_(source), device)
    return 2e6 * source.nbytes / us


def _product_rate(n: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2e6 * n**3 / _median(lambda: torch.mm(a, b, out=out), "cuda")


def _launch_us(n: int = 500) -> float:
    x = torch.zeros(1, device="cuda")
    x.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            x.add_(1)
    return _median(graph.replay, "cuda") / n


def _median(work: Callable[[], Any], device: str) -> float:
    work()
    times = [events_us(work, pause=200) if device == "cuda" else wall_us(work, device) for _ in range(11)]
    return statistics.median(times)
