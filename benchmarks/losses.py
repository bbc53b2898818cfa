"""Sampled softmax and NCE, forward and backward: ours, plain PyTorch dense, sparse and compiled, and full softmaxes.

python benchmarks/losses.py                                   # on a GPU all of it, many minutes
python benchmarks/losses.py --quick --json losses.json        # on a GPU about a minute, without what has to be compiled
python benchmarks/losses.py --device cpu --threads 1 --labels zipf
python benchmarks/losses.py --only a128 c --losses softmax --contenders ours "rows by hand" --json losses.json
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import torch
from device_clock import capture, describe, measure, memory
from losses_cases import CPU, CUDA, LABELS, Case, Problem, problem, work
from losses_check import Exact, errors, exact, full_errors
from losses_contenders import Contender, contenders
from losses_tables import Record, accuracy, as_json, figures, goal_lines
from roofs import measure_roofs

from torchlayer.kernels import compiled

QUICK = ["ours, sparse", "ours, row gradients", "eager", "rows by hand"]
_FP32_LIMIT = 1e-5


def run_problem(
    name: str, case: Case, loss: str, labels: str, arguments: argparse.Namespace, records: list[Record]
) -> tuple[float, float, int]:
    """Check and time every contender at one problem, a record each; returns the work that it needs at least."""
    device = arguments.device
    p = problem(case, device, labels)
    right = exact(p, loss)
    steps, graphs, held = {}, {}, []
    for row in contenders(p, case, loss, arguments.contenders, arguments.compile):
        record = Record(name, loss, labels, row.name, row.gradient, reason=row.reason)
        records.append(record)
        if row.step is None:
            continue
        try:
            record.errors = check(row, p, right)
            record.memory = memory(row.step, device)
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
        except Exception as error:  # a contender that fails is a row that says how
            record.reason = f"raised {describe(error)}"
        if record.reason:
            release(p)  # here, where the error's frames are gone
    del right
    release(p)
    times, failures = measure(steps, graphs, device, arguments.rounds, arguments.seconds)
    for record in (r for r in records if r.problem == (name, loss, labels)):
        record.times = times.get(record.contender)
        if record.contender in failures:
            record.reason = f"raised {failures[record.contender]}"
    return work(case, p.labels)


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
        with suppress(RuntimeError):  # a device that has failed says so again to whatever runs next, which reports it
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
    parser.add_argument("--quick", action="store_true", help="labels by Zipf's law, few contenders, no compiling")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="what torch.compile makes; if not given, --quick alone leaves it out",
    )
    parser.add_argument("--rounds", type=int, default=30, help="repetitions of each figure")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure; a slow one is repeated less")
    parser.add_argument("--tf32", action="store_true", help="let products of float32 run in TF32, everybody's")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args(argv)
    if arguments.compile is None:
        arguments.compile = bool(arguments.contenders) or not arguments.quick
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
        if arguments.compile:
            torch._dynamo.reset()  # it would rather run eagerly than compile one function for a ninth size
        for labels in arguments.labels:
            case, start, mine = cases[name], time.perf_counter(), []
            try:
                needed = run_problem(name, case, loss, labels, arguments, mine)
            except Exception as error:  # a problem that cannot be set up is a row that says why
                needed = None
                mine.append(Record(name, loss, labels, "all", "", reason=f"raised {describe(error)}"))
            gc.collect()
            records += mine
            print(f"{name} {loss} {labels}: {case}, {time.perf_counter() - start:.1f} s")
            limit = 1e-2 if arguments.tf32 else _FP32_LIMIT
            print("\n".join(accuracy(mine, (name, loss, labels), str(case.dtype)[6:], limit)), flush=True)
            if roofs and needed:
                floors[name, loss, labels] = roofs.floor_us(*needed[:2], case.dtype, needed[2])

            if arguments.json:  # again after each problem: a run that is ended early leaves what it has
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
    failed = [r for r in records if r.contender.startswith(("ours", "all")) and (r.is_wrong or not r.errors)]
    for record in failed:
        print(f"{' '.join(record.problem)}, {record.contender}: wrong. {record.reason}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
