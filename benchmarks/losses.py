"""Sampled softmax and NCE, forward and backward: ours, plain PyTorch dense, sparse and compiled, and the full softmax.

python benchmarks/losses.py --device cpu --threads 2
python benchmarks/losses.py --only a128 c400 --losses softmax
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from torchlayer.kernels import compiled
from torchlayer.kernels._library import OPS
from torchlayer.kernels._sampled_loss import kept_bytes
from torchlayer.kernels.nce import nce_loss
from torchlayer.kernels.sampled_softmax import sampled_softmax_loss
from torchlayer.kernels.samplers import log_uniform_sampler


class Case(NamedTuple):
    """A problem: N examples, K samples, D features, V classes."""

    n: int
    k: int
    d: int
    v: int
    dtype: torch.dtype


class Problem(NamedTuple):
    """Its tensors; the first three collect gradients."""

    weight: Tensor
    bias: Tensor
    hidden: Tensor
    labels: Tensor
    sampled: Tensor
    true_count: Tensor
    sampled_count: Tensor


# The shapes of word2vec (a), the One Billion Word benchmark (b), translation (c) and recommendation (d).
CUDA = {
    "a128": Case(128, 64, 128, 50_000, torch.float32),
    "a16k": Case(16384, 64, 128, 50_000, torch.float32),
    "b": Case(2560, 8192, 1024, 793_471, torch.bfloat16),
    "c": Case(3200, 512, 1024, 40_000, torch.bfloat16),
    "d1k": Case(65536, 1024, 256, 2_000_000, torch.bfloat16),
    "d4k": Case(65536, 4096, 256, 2_000_000, torch.bfloat16),
}
CPU = {
    "a128": Case(128, 64, 128, 50_000, torch.float32),
    "a2k": Case(2048, 64, 128, 50_000, torch.float32),
    "c400": Case(400, 512, 1024, 40_000, torch.float32),
    "c400b": Case(400, 512, 1024, 40_000, torch.bfloat16),
    "c3200": Case(3200, 512, 1024, 40_000, torch.float32),
    "c3200b": Case(3200, 512, 1024, 40_000, torch.bfloat16),
    "d1k": Case(1024, 1024, 64, 100_000, torch.float32),
}


def problem(case: Case, device: str) -> Problem:
    """Labels by Zipf's law, as words come."""
    weight = torch.randn(case.v, case.d, device=device, dtype=case.dtype).mul_(case.d**-0.5).requires_grad_()
    bias = torch.zeros(case.v, device=device, dtype=case.dtype, requires_grad=True)
    hidden = torch.randn(case.n, case.d, device=device, dtype=case.dtype, requires_grad=True)
    labels = log_uniform_sampler(weight.new_zeros(1, dtype=torch.int64), case.n, case.v, unique=False).sampled
    sampled, true_count, sampled_count = log_uniform_sampler(labels, case.k, case.v)
    return Problem(weight, bias, hidden, labels, sampled, true_count, sampled_count)


def composite(p: Problem, loss: str, sparse: bool) -> Tensor:
    """What a careful user writes: only the rows needed, hits masked, one cross-entropy."""
    true_rows, noise_rows = (F.embedding(ids, p.weight, sparse=sparse) for ids in (p.labels, p.sampled))
    dtype = p.hidden.dtype
    true = (p.hidden * true_rows).sum(1) + p.bias[p.labels] - p.true_count.log().to(dtype)
    noise = torch.addmm(p.bias[p.sampled] - p.sampled_count.log().to(dtype), p.hidden, noise_rows.T)
    if loss == "nce":
        return F.softplus(-true).float() + F.softplus(noise).sum(1, dtype=torch.float32)
    noise = noise.masked_fill(p.labels[:, None] == p.sampled, -1e4)
    logits = torch.cat((true[:, None], noise), 1).float()
    return F.cross_entropy(logits, torch.zeros_like(p.labels), reduction="none")


def ours(p: Problem, loss: str, sparse: bool) -> Tensor:
    """The library's function."""
    function = nce_loss if loss == "nce" else sampled_softmax_loss
    return function(p.weight, p.bias, p.hidden, p.labels, p[4:], sparse=sparse)


def tier(p: Problem, loss: str, which: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op and its backward without autograd around them: the compiled kernel, or the reference in plain PyTorch."""
    name = "nce_loss" if loss == "nce" else "sampled_softmax_loss"
    forward, backward = OPS[name], OPS[f"{name}_backward"]
    forward, backward = (op.overload if which == "kernel" else op.reference for op in (forward, backward))
    arguments = (*p[:3], p.labels[:, None], p.sampled, p.true_count[:, None], p.sampled_count)
    remove, keep = loss != "nce", kept_bytes(*arguments[:5])
    with torch.no_grad():
        if loss == "nce":
            losses, kept = forward(*arguments, remove, False, keep)
            return losses, *backward(torch.ones_like(losses), *arguments, kept, remove)
        losses, log_sum_exp, kept = forward(*arguments, remove, False, keep)
        return losses, *backward(torch.ones_like(losses), *arguments, log_sum_exp, kept, remove)


def full(p: Problem, n_chunks: int) -> None:
    """Cross-entropy over all classes and its gradients, some rows at a time."""
    for hidden, labels in zip(p.hidden.chunk(n_chunks), p.labels.chunk(n_chunks)):
        F.cross_entropy(F.linear(hidden, p.weight, p.bias).float(), labels, reduction="sum").backward()


def backward(p: Problem, losses: Tensor) -> None:
    """Gradients of the mean, in fresh buffers, as after ``zero_grad()``."""
    for leaf in p[:3]:
        leaf.grad = None
    losses.mean().backward()


def relative_error(a: Tensor, b: Tensor) -> float:
    """The largest difference over the largest number."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def check(case: Case, loss: str, device: str) -> float:
    """Our largest relative error, in loss and gradients, against the composite in float64, at the case's own size."""
    p = problem(case._replace(n=min(case.n, 1024)), device)
    weight, bias, hidden = (x.detach().double().requires_grad_() for x in p[:3])
    exact = p._replace(weight=weight, bias=bias, hidden=hidden)
    expected, losses = composite(exact, loss, True), ours(p, loss, True)
    backward(exact, expected)
    backward(p, losses)
    errors = [relative_error(losses.detach(), expected.detach())]
    for mine, right in zip(p[:3], exact[:3]):
        assert mine.grad is not None
        assert right.grad is not None
        ids = torch.cat((p.sampled, p.labels))
        a, b = (g.coalesce().to_dense()[ids] if g.is_sparse else g for g in (mine.grad, right.grad))
        errors.append(relative_error(a, b[ids] if a.shape != b.shape else b))
    return max(errors)


def measure(function: Callable[[], object], device: str, seconds: float) -> tuple[float, float]:
    """The median and the lowest of the times of calls that fill ``seconds``, in ms."""
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2], min(times)


def peak_mib(function: Callable[[], object], device: str) -> float:
    """What a call needs at its peak above what was there, in MiB; NaN on a CPU outside Linux."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # lowers the resident set's high mark to what it is now
    except OSError:
        return float("nan")
    before = resident_mark()
    function()
    return resident_mark() - before


def resident_mark() -> float:
    """The high mark of this process's resident memory, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def contenders(p: Problem, loss: str, wanted: list[str]) -> dict[str, Callable[[], object]]:
    """A step of each, by name."""
    faster = torch.compile(composite)
    rows: dict[str, Callable[[], object]] = {
        "kernel, row gradients": lambda: tier(p, loss, "kernel"),
        "reference, row gradients": lambda: tier(p, loss, "reference"),
        "ours, sparse": lambda: backward(p, ours(p, loss, True)),
        "eager, sparse": lambda: backward(p, composite(p, loss, True)),
        "ours, dense": lambda: backward(p, ours(p, loss, False)),
        "eager, dense": lambda: backward(p, composite(p, loss, False)),
        "torch.compile, dense": lambda: backward(p, faster(p, loss, False)),
    }
    if loss == "softmax":
        rows["full softmax, 8 chunks"] = lambda: full(p, 8)
        rows["full softmax"] = lambda: full(p, 1)
    return {name: row for name, row in rows.items() if not wanted or any(part in name for part in wanted)}


def main() -> None:
    """Check, measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="threads on a CPU; as torch chooses if not given")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--only", nargs="*", default=[], help="cases, by name")
    parser.add_argument("--losses", nargs="*", default=["softmax", "nce"], choices=["softmax", "nce"])
    parser.add_argument("--rows", nargs="*", default=[], help="contenders whose names hold one of these")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cases = CUDA if device == "cuda" else CPU
    torch.manual_seed(0)
    print(f"{device}, torch {torch.__version__}, {torch.get_num_threads()} threads; {getattr(compiled(), device)}")

    table = [f"{'case':<6}{'loss':<9}{'':<26}{'median ms':>11}{'lowest ms':>11}{'x ours':>8}{'MiB':>8}"]
    for name in arguments.only or cases:
        case = cases[name]
        for loss in arguments.losses:
            print(f"{name} {loss}: {case}, largest error against float64 {check(case, loss, device):.1e}", flush=True)
            p = problem(case, device)
            rows = contenders(p, loss, arguments.rows)
            for function in rows.values():
                function()  # what is made once, compiled code above all, is nobody's memory
            for leaf in p[:3]:
                leaf.grad = None
            memory = {}
            for row, function in rows.items():
                memory[row] = peak_mib(function, device)
                for leaf in p[:3]:
                    leaf.grad = None
            times = {row: measure(function, device, arguments.seconds) for row, function in rows.items()}
            for row, (median, lowest) in times.items():
                kind = next((k for k in ("row gradients", "sparse", "dense") if row.endswith(k)), "dense")
                own = "kernel, row gradients" if kind == "row gradients" else f"ours, {kind}"
                ratio = f"{lowest / times[own][1]:>8.2f}" if own in times else f"{'-':>8}"
                table.append(f"{name:<6}{loss:<9}{row:<26}{median:>11.3f}{lowest:>11.3f}{ratio}{memory[row]:>8.0f}")
    print("\n".join(table))


if __name__ == "__main__":
    main()
