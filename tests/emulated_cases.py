"""Kernels that emulate_cuda.py has made, beside their references: errors, and digests that no order may change.

As a plugin of pytest it only puts the kernels below the tests.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from torchlayer import kernels
from torchlayer.kernels import nce, sampled_softmax
from torchlayer.kernels._library import OPS
from torchlayer.kernels._sampled_loss import kept_on_gpu

LIMITS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
ANY_ORDER = {"skip_gram_"}  # adds up in whatever order blocks come
LOSSES = {  # (N, T, K, V, D): small tiles and large ones, several of them, features past a tile, general kernels
    (65, 2, 70, 300, 72): LIMITS,
    (40, 8, 33, 100, 132): LIMITS,
    (4161, 1, 20, 300, 40): [torch.float32, torch.bfloat16],
    (4100, 3, 12, 300, 7): [torch.float32],
    (70, 9, 12, 50, 7): LIMITS,
    (30, 1, 300, 400, 65): LIMITS,
    (1, 1, 1, 5, 1): LIMITS,
    # with Hopper's instructions: one pair of tiles, several, features past a tile, labels that several rows compare
    (90, 1, 260, 400, 72): [torch.bfloat16],
    (600, 2, 520, 900, 24): [torch.bfloat16],
    (270, 5, 40, 300, 328): [torch.bfloat16],
}
ROWS = [  # rows of the table, their width, ids
    (5000, 6, 300), (5000, 1, 4097), (3000, 264, 6000), (3000, 1024, 4500), (400, 2600, 4200), (9000, 5, 70_000),
]  # fmt: skip


def use() -> None:
    """Let the kernels run for CPU tensors, and keep between forward and backward what they keep on a GPU."""
    torch.set_num_threads(1)
    torch.ops.load_library(os.environ["TORCHLAYER_EMULATED"])
    for module in (nce, sampled_softmax):
        module.kept_bytes = on_a_gpu  # type: ignore[attr-defined]


def on_a_gpu(weight: Tensor, bias: Tensor | None, hidden: Tensor, labels: Tensor, sampled: Tensor) -> int:
    """As ``kept_bytes`` there."""
    wanted = torch.is_grad_enabled() and weight.requires_grad
    return kept_on_gpu(weight, hidden, labels.shape[1] if labels.dim() == 2 else 1, len(sampled)) if wanted else 0


def flat(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, list | tuple) else (values,):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from flat(value)


def copied(values: Any, exact: bool = False) -> Any:
    """Copies, if they shall be exact in double."""
    if isinstance(values, list | tuple):
        return type(values)([copied(value, exact) for value in values])
    if not isinstance(values, Tensor):
        return values
    return values.double() if exact and values.is_floating_point() else values.clone()


def compare(name: str, op: Any, reference: Callable[..., Any], arguments: tuple, exact: bool = False) -> Any:
    """Print the largest error relative to 1 and the largest number, and a digest of results and arguments."""
    ours, theirs = copied(arguments), copied(arguments, exact)
    got, wanted = op(*ours), reference(*theirs)
    worst, digest = 0.0, hashlib.sha256()
    limit = max((LIMITS[x.dtype] for x in flat(arguments) if x.is_floating_point()), default=0.0)
    for x, y in zip((*flat(got), *flat(ours)), (*flat(wanted), *flat(theirs)), strict=True):
        if x.dtype == torch.uint8:
            continue  # what is kept for the backward is each backend's own
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b"")
        assert torch.equal(x.isnan(), y.isnan()), f"{name}: NaN in other places"
        scale = 1 + y.double().nan_to_num().abs().max() if y.numel() else 1
        error = ((x.double() - y.double()).nan_to_num().abs().max() / scale).item() if x.numel() else 0.0
        assert error <= (limit if x.is_floating_point() else 0), f"{name}: an error of {error:.1e}"
        worst = max(worst, error)
    bits = "" if name in ANY_ORDER else digest.hexdigest()[:16]
    print(f"case | {name} | {worst:.1e} {bits}", flush=True)
    return got


def losses(generator: torch.Generator) -> Iterator[tuple[str, Callable[[], Any]]]:
    for (n, t, k, v, d), dtypes in LOSSES.items():
        for dtype in dtypes:

            def numbers(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
                return torch.randn(shape, generator=generator).to(dtype)

            labels = torch.randint(v, (n, t), generator=generator)
            values = kernels.log_uniform_sampler(labels, k, v)
            given = (numbers(v, d), numbers(v), numbers(n, d) / 4, labels, *values)
            grad = torch.randn(n, generator=generator).to(torch.float64 if dtype == torch.float64 else torch.float32)
            if dtype == torch.float64:
                given = (*given[:5], *(x.double() for x in given[5:]))
            for name in ("sampled_softmax_loss", "nce_loss"):
                keeps = kept_on_gpu(given[0], given[2], t, k)
                all_rows = 2 * n * (k + 7)  # of the wide kernels' errors; with room for 256 the others are made again
                some = keeps - all_rows + 2 * 256 * (k + 7) if keeps > all_rows and n > 256 else 0
                for kept in sorted({0, keeps, some}):
                    title = f"{name} N {n} T {t} K {k} D {d} {str(dtype)[6:]} kept {kept}"
                    yield title, lambda a=(name, title, given, grad, kept): loss(*a)


def loss(name: str, title: str, given: tuple, grad: Tensor, kept: int) -> None:
    forward, backward, remove = OPS[name], OPS[f"{name}_backward"], name != "nce_loss"
    _, *more = compare(title, forward.overload, forward.reference, (*given, remove, False, kept), True)
    arguments = (grad, *given, *more, remove)
    large = (given[0] * 300, *given[1:])  # logits that errors are divided for
    _, *of_large = forward.overload(*large, remove, False, kept)
    for these in (arguments, (grad, *large, *of_large, remove)):
        once, twice = (backward.overload(*these) for _ in range(2))  # which may write to what is kept
        same = all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(once, twice, strict=True))
        assert same, f"{title}: a second backward"
    compare(f"{title}, backward", backward.overload, backward.reference, arguments, True)


def rows(generator: torch.Generator) -> Iterator[tuple[str, Callable[[], Any]]]:
    for n_rows, width, n_ids in ROWS:
        ids = (torch.rand(n_ids, generator=generator).pow(4) * n_rows).long()  # a few rows have most of them
        for name in ("row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"):
            op, arguments = OPS[name], []
            for argument, given in zip(op.overload._schema.arguments, op.example(torch.device("cpu")), strict=True):
                if argument.name == "ids":
                    given = ids
                elif argument.name == "row_grads":
                    given = torch.randn(n_ids, width, generator=generator)
                elif isinstance(given, Tensor) and given.dim() > 0:
                    shape = (n_rows, width)[: given.dim()]
                    given = torch.rand(shape, generator=generator)
                arguments.append(given)
            title = f"{name} V {n_rows} D {width} M {n_ids}"
            yield title, lambda a=(title, op.overload, op.reference, tuple(arguments)): compare(*a)


def examples() -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, op in OPS.items():
        if not name.startswith("class_parallel"):  # has no CUDA kernel
            arguments = op.example(torch.device("cpu"))
            yield f"{name}, its example", lambda a=(name, op.overload, op.reference, arguments): compare(*a)


def samplers() -> Iterator[tuple[str, Callable[[], Any]]]:
    labels = torch.arange(128).view(64, 2) % 50
    for name in ("uniform_sample", "log_uniform_sample", "alias_sample", "learned_sample_"):
        op = OPS[name]
        _, seed, *rest = op.example(torch.device("cpu"))
        for n_sampled in (1, 60, 1100):
            for unique in (True, False):
                given = [n_sampled if argument.name == "n_sampled" else unique if argument.name == "unique" else value
                         for argument, value in zip(op.overload._schema.arguments[2:], rest, strict=True)]  # fmt: skip
                title = f"{name} K {n_sampled}{', unique' * unique}"
                yield title, lambda a=(title, op.overload, op.reference, (labels, seed, *given)): compare(*a)


def main(only: str) -> None:
    generator = torch.manual_seed(0)  # the one that seeds of samplers come from
    cases: Iterable[tuple[str, Callable[[], Any]]]
    for cases in (examples(), samplers(), rows(generator), losses(generator)):
        for name, run in cases:
            if only in name:
                run()


if "TORCHLAYER_EMULATED" in os.environ:
    use()
if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
