"""Row optimisers: ours, the reference, torch's (dense and sparse Adagrad, SparseAdam, sparse SGD), the floor: a copy.

python benchmarks/row_optimizers.py                       # CPU, one thread
python benchmarks/row_optimizers.py --device cuda         # on a GPU
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from device_clock import Times, capture
from device_clock import measure as clock
from torch import Tensor

from torchlayer.kernels import compiled
from torchlayer.kernels._library import OPS

LR = 1e-3
OURS = ["row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"]
LARGE_MB, LARGE_SHARE = 32.0, 0.6  # the goals: of a copy's bandwidth on many rows, microseconds on few
SMALL_MB, SMALL_US = 4.0, 15.0
CASES = [(v, d, m) for v, d in [(50_000, 128), (50_000, 1024), (793_471, 128), (793_471, 1024)] for m in (1024, 16384)]


class Case(NamedTuple):
    """A table, its states, and the gradient of one batch, as rows with ids and as a dense tensor."""

    weight: Tensor
    accumulator: Tensor
    row_accumulator: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    ids: Tensor
    row_grads: Tensor
    dense_grad: Tensor
    lr: Tensor

    def arguments(self, op: str) -> tuple[Any, ...]:
        """What an op of ours is called with."""
        batch = self.ids, self.row_grads, self.lr
        return {
            "row_sgd_": (self.weight, *batch),
            "row_adagrad_": (self.weight, self.accumulator, *batch, 1e-10),
            "row_rowwise_adagrad_": (self.weight, self.row_accumulator, *batch, 1e-8),
            "row_adam_": (self.weight, self.exp_avg, self.exp_avg_sq, self.step, *batch, 0.9, 0.999, 1e-8),
        }[op]

    def n_bytes(self, op: str) -> int:
        """What an op must move: ids and gradients once, the touched rows of weight and states in and out."""
        n_rows = len(self.ids.unique())
        row = self.weight.element_size() * self.weight.shape[1]
        full_states = {"row_sgd_": 0, "row_adagrad_": 1, "row_rowwise_adagrad_": 0, "row_adam_": 2}[op]
        small_state = 8 * n_rows if op == "row_rowwise_adagrad_" else 0
        return self.ids.nbytes + self.row_grads.nbytes + 2 * n_rows * row * (1 + full_states) + small_state


def zipf(n_ids: int, n_rows: int, generator: torch.Generator) -> Tensor:
    """Ids with the frequencies of words: the k-th about 1 / k as often as the first."""
    uniform = torch.rand(n_ids, dtype=torch.float64, generator=generator)
    return torch.exp(uniform * torch.log1p(torch.tensor(float(n_rows)))).long().sub(1).clamp(0, n_rows - 1)


def make_case(n_rows: int, width: int, n_ids: int, device: str) -> Case:
    """The tables hold small numbers: what they are does not matter for the time."""
    generator = torch.Generator().manual_seed(0)
    ids = zipf(n_ids, n_rows, generator)
    row_grads = torch.randn(n_ids, width, generator=generator)
    weight = torch.full((n_rows, width), 0.5, device=device)
    ids, row_grads = ids.to(device), row_grads.to(device)
    states = torch.full_like(weight, 0.1), weight.new_zeros(n_rows), torch.zeros_like(weight), torch.zeros_like(weight)
    dense_grad = torch.zeros_like(weight).index_add_(0, ids, row_grads)
    step, lr = torch.zeros((), device=device), torch.tensor(LR, dtype=torch.float64, device=device)
    return Case(weight, *states, step, ids, row_grads, dense_grad, lr)


def largest_error(case: Case, op: str) -> float:
    """One step from the start, against the formula in float64 on the rows touched."""
    before = case.weight.clone()
    rows, place = case.ids.unique(return_inverse=True)
    grad = torch.zeros(len(rows), case.weight.shape[1], dtype=torch.float64, device=before.device)
    grad.index_add_(0, place, case.row_grads.double())
    old = before[rows].double()
    expected = {
        "row_sgd_": lambda: old - LR * grad,
        "row_adagrad_": lambda: old - LR * grad / (case.accumulator[rows].double() + grad**2).sqrt(),
        "row_rowwise_adagrad_": lambda: old - LR * grad / ((grad**2).mean(1, keepdim=True).sqrt() + 1e-8),
        "row_adam_": lambda: old - LR * grad / (grad.abs() + 1e-8),  # the first step of Adam: nearly the sign
    }[op]()
    OPS[op].overload(*case.arguments(op))
    error = (case.weight[rows].double() - expected).abs().max().item()
    untouched = torch.ones(len(before), dtype=torch.bool, device=before.device)
    untouched[rows] = False
    if not torch.equal(case.weight[untouched], before[untouched]):
        return float("inf")
    case.weight.copy_(before)
    return error


def torchs(case: Case) -> dict[str, Callable[[], Any]]:
    """Steps of torch's own optimisers, their gradients given: making the dense one is not counted."""
    sparse_grad = torch.sparse_coo_tensor(
        case.ids[None], case.row_grads, case.weight.shape, is_coalesced=False, check_invariants=False
    )
    steps = {}
    for name, cls, grad in [
        ("torch Adagrad, dense gradient", torch.optim.Adagrad, case.dense_grad),
        ("torch Adagrad, sparse gradient", torch.optim.Adagrad, sparse_grad),
        ("torch SparseAdam", torch.optim.SparseAdam, sparse_grad),
        ("torch SGD, sparse gradient", torch.optim.SGD, sparse_grad),
    ]:
        p = torch.nn.Parameter(case.weight)
        p.grad = grad
        steps[name] = cls([p], lr=LR).step
    return steps


def measure(case: Case, device: str, n_rounds: int, only_ours: bool) -> tuple[dict[str, Times], float]:
    """Times of everybody, and the bandwidth of a copy in GB/s, in one set of rounds; on a GPU in graphs too."""
    steps: dict[str, Callable[[], Any]] = {}
    for op in OURS:
        overload, reference, arguments = OPS[op].overload, OPS[op].reference, case.arguments(op)
        steps[op] = lambda overload=overload, arguments=arguments: overload(*arguments)
        if not only_ours:
            steps[f"{op} reference"] = lambda reference=reference, arguments=arguments: reference(*arguments)
    with torch.no_grad():
        steps |= {} if only_ours else torchs(case)
        source = torch.ones(64 << 20, device=device)
        target = torch.empty_like(source)
        steps["copy"] = lambda: target.copy_(source)
        for step in steps.values():
            step()
        captured = {name: capture(step) for name, step in steps.items()} if device == "cuda" else {}
        graphs = {name: mine.graph for name, mine in captured.items() if mine.graph is not None}
        times, failures = clock(steps, graphs, device, rounds=n_rounds)
    for name, why in {**{name: mine.reason for name, mine in captured.items() if mine.reason}, **failures}.items():
        print(f"  {name}: {why}")
    return times, 2 * source.nbytes / 1e3 / times.pop("copy").best()


def cost(times: Times) -> float:
    """Microseconds: of a replay that finds nothing in the caches, as in a training step; on a CPU of a call."""
    return (times.cold or times.wall).median


def verdict(microseconds: float, megabytes: float, share: float) -> str:
    """What the goals for one H200 say: a bandwidth where there is much to move, a time where there is little."""
    if megabytes >= LARGE_MB:
        return f"{'>=' if share >= LARGE_SHARE else 'SHORT OF'} {LARGE_SHARE:.0%}"
    if megabytes <= SMALL_MB:
        return f"{'<=' if microseconds <= SMALL_US else 'OVER'} {SMALL_US:.0f} us"
    return "-"


def main() -> int:
    """Check, measure, print one table a case and one over all; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Optimisers for row-sparse gradients, timed.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="their numbers, from 0")
    parser.add_argument("--only-ours", action="store_true", help="beside the copy, without references and torch's")
    parser.add_argument("--memory-gb", type=float, help="tables are cut to fit; 5 on a CPU, 40 on a GPU")
    arguments = parser.parse_args()
    device = arguments.device
    limit = arguments.memory_gb or (40.0 if device == "cuda" else 5.0)
    torch.set_num_threads(arguments.threads)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} threads"
    print(f"{device}, {where}, torch {torch.__version__}; torchlayer: {getattr(compiled(), device).name}")

    wrong, table = False, []
    for n_rows, width, n_ids in (CASES[i] for i in arguments.cases):
        fitting = min(n_rows, int(limit * 1e9) // (4 * width * 10))  # ten tables of it are alive at once
        case = make_case(fitting, width, n_ids, device)
        errors = {op: largest_error(case, op) for op in OURS}
        wrong |= not all(error < 1e-6 for error in errors.values())
        title = f"V {fitting}, D {width}, M {n_ids}, {len(case.ids.unique())} rows"
        cut = f" (cut from {n_rows})" if fitting < n_rows else ""
        print(f"\n{title}{cut}; largest error {max(errors.values()):.1e}")
        times, copy_rate = measure(case, device, arguments.rounds, arguments.only_ours)
        print(f"  {'copy ' + format(copy_rate, '.0f') + ' GB/s':<34}{'call us':>12}{'graph us':>12}{'cold us':>12}")
        for name, mine in times.items():
            cells = [f"{each.median:.1f}" if each else "-" for each in (mine.wall, mine.hot, mine.cold)]
            print(f"  {name:<34}" + "".join(f"{cell:>12}" for cell in cells))
        table += [(title, op, times, case.n_bytes(op) / 1e6, copy_rate) for op in OURS]
        del case

    print("\nRatios are theirs / ours; 'of copy' is the share of a copy's bandwidth at the bytes that must be moved.")
    heads = ["ours us", "MB", "of copy", "reference", "dense Adagrad", "sparse Adagrad", "SparseAdam", "sparse SGD"]
    print(f"{'':<42}{'':<22}" + "".join(f"{head:>15}" for head in [*heads, "goal (H200)"]))
    for title, op, times, megabytes, copy_rate in table:
        us = cost(times[op])
        share = 1e3 * megabytes / us / copy_rate
        theirs = [f"{op} reference", "torch Adagrad, dense gradient", "torch Adagrad, sparse gradient"]
        theirs += ["torch SparseAdam", "torch SGD, sparse gradient"]
        goal = verdict(us, megabytes, share) if device == "cuda" else "-"
        cells = [f"{us:.1f}", f"{megabytes:.1f}", f"{share:.0%}"]
        cells += [f"{cost(times[name]) / us:.1f}" if name in times else "-" for name in theirs]
        print(f"{title:<42}{op:<22}" + "".join(f"{cell:>15}" for cell in [*cells, goal]))
    if wrong:
        print("an error is too large", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
