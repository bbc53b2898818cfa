"""Sampled softmax and NCE, forward and backward: ours, plain PyTorch dense, sparse and compiled, and full softmaxes.

python benchmarks/losses.py                                   # on a GPU all of it, minutes; --quick for a first look
python benchmarks/losses.py --device cpu --threads 1 --labels zipf
python benchmarks/losses.py --only a128 c --losses softmax --contenders ours "rows by hand" --json losses.json
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from device_clock import capture, measure, memory
from losses_cases import CPU, CUDA, LABELS, Case, Problem, problem, work
from losses_check import Exact, errors, exact, full_errors
from losses_contenders import Contender, contenders
from losses_tables import Record, accuracy, as_json, figures, goal_lines
from roofs import measure_roofs

from torchlayer.kernels import compiled

QUICK = ["ours", "eager"]
_FP32_LIMIT = 1e-5


def run_problem(
    name: str, case: Case, loss: str, labels: str, arguments: argparse.Namespace
) -> tuple[list[Record], tuple[float, float, int]]:
    """Check and time every contender at one problem; also the work that it needs at least."""
    device = arguments.device
    p = problem(case, device, labels)
    right = exact(p, loss)
    records, steps, graphs, held = [], {}, {}, []
    for row in contenders(p, case, loss, arguments.contenders):
        record = Record(name, loss, labels, row.name, row.gradient, reason=row.reason)
        records.append(record)
        if row.step is None:
            continue
        try:
            record.errors = check(row, p, right)
            record.memory = memory(row.step, device)
        except Exception as error:  # a contender that fails is a row that says how
            lines = str(error).strip().splitlines() or [""]
            record.reason = f"raised {type(error).__name__}: {lines[0][:120]}"
            release(p)
            continue
        steps[row.name] = row.step
        if device == "cuda" and row.gradient != "full":  # a full softmax is long enough to hide its launches
            captured = capture(row.step)
            record.reason = captured.reason
            if captured.graph is not None:
                captured.graph.replay()
                replayed = errors(captured.result, right)
                record.errors = {k: max(e, replayed[k], key=lambda x: x.norm) for k, e in record.errors.items()}
                graphs[row.name] = captured.graph
                held.append(captured.result)  # a replay writes there
    del right
    release(p)
    times = measure(steps, graphs, device, arguments.rounds, arguments.seconds)
    for record in records:
        record.times = times.get(record.contender)
    return records, work(case, p.labels)


def check(row: Contender, p: Problem, right: Exact) -> dict[str, Any]:
    """Errors of a first call, which also compiles what is compiled once."""
    assert row.step is not None
    result = row.step()
    if row.gradient == "full":
        return full_errors(result, p, "without bias" not in row.name)
    return errors(result, right)


def release(p: Problem) -> None:
    """Let go of gradients, and of what an error's frames or a cycle hold."""
    for leaf in p[:3]:
        leaf.grad = None
    gc.collect()
    if p.weight.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, with what ``--quick`` leaves out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="threads on a CPU; as torch chooses if not given")
    parser.add_argument("--only", nargs="+", default=[], help="cases, by name")
    parser.add_argument("--losses", nargs="+", default=["softmax", "nce"], choices=["softmax", "nce"])
    parser.add_argument("--labels", nargs="+", choices=LABELS, help="both if not given")
    parser.add_argument("--contenders", nargs="+", help="those whose names hold one of these")
    parser.add_argument("--quick", action="store_true", help=f"labels zipf, contenders {' '.join(QUICK)} if not given")
    parser.add_argument("--rounds", type=int, default=30, help="repetitions of each figure")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure; a slow one is repeated less")
    parser.add_argument("--tf32", action="store_true", help="let products of float32 run in TF32, everybody's")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args(argv)
    arguments.labels = arguments.labels or (LABELS[:1] if arguments.quick else LABELS)
    arguments.contenders = arguments.contenders or (QUICK if arguments.quick else [])
    known = CUDA if arguments.device == "cuda" else CPU
    unknown = set(arguments.only) - set(known)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(known)} on {arguments.device}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Check, measure, print the tables; 1 if ours computes something else than float64 does."""
    arguments = parse(argv)
    device = arguments.device
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    torch.manual_seed(0)
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    backend = getattr(compiled(), device)
    print(f"{device}, {machine}, torch {torch.__version__}; torchlayer runs {backend.name} ({backend.reason})")
    roofs = measure_roofs() if device == "cuda" else None
    if roofs:
        print(
            f"copy {roofs.copy / 1e12:.2f} TB/s, 8192^3 product {roofs.bfloat16 / 1e12:.0f} TFLOP/s bfloat16, "
            f"{roofs.tf32 / 1e12:.0f} TF32, {roofs.launch:.2f} us a launch in a graph"
        )

    records: list[Record] = []
    floors: dict[tuple[str, str, str], float] = {}
    cases = CUDA if device == "cuda" else CPU
    for name, loss in product(arguments.only or cases, arguments.losses):
        if any("torch.compile" in row for row in arguments.contenders) or not arguments.contenders:
            torch._dynamo.reset()  # it would rather run eagerly than compile one function for a ninth size
        for labels in arguments.labels:
            case, start = cases[name], time.perf_counter()
            mine, needed = run_problem(name, case, loss, labels, arguments)
            records += mine
            print(f"{name} {loss} {labels}: {case}, {time.perf_counter() - start:.0f} s")
            limit = 1e-2 if arguments.tf32 else _FP32_LIMIT
            print("\n".join(accuracy(mine, (name, loss, labels), str(case.dtype)[6:], limit)), flush=True)
            if roofs:
                floors[name, loss, labels] = roofs.floor_us(*needed[:2], case.dtype, needed[2])

    if arguments.json:
        everything = {
            "device": machine,
            "torch": torch.__version__,
            "torchlayer": list(backend),
            "roofs": roofs._asdict() if roofs else None,
            "floors_us": {" ".join(problem): us for problem, us in floors.items()},
            "records": [as_json(record) for record in records],
        }
        arguments.json.write_text(json.dumps(everything, indent=1))
    print("\n".join(["", *figures(records, device)]))
    if floors:
        print("\n".join(["", *goal_lines(records, floors)]))
    failed = [r for r in records if r.contender.startswith("ours") and (r.is_wrong or not r.errors)]
    for record in failed:
        print(f"{' '.join(record.problem)}, {record.contender}: wrong. {record.reason}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
