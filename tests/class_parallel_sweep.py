"""Class-parallel losses on several processes against one process, in many random configurations.

    python tests/class_parallel_sweep.py --configurations 200 --processes 2 4

prints the largest difference of loss, dW, db and dh in float64, and the configurations behind differences above 1e-12,
of which there should be none. The suite runs the first few dozen.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from class_parallel_tasks import all_differences, draw
from ranks import Processes

LIMIT = 1e-12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="cuda: a GPU for each process, and NCCL"
    )
    args = parser.parse_args()
    cases = [draw(args.first_seed + i) for i in range(args.configurations)]
    n_wrong = 0
    with tempfile.TemporaryDirectory() as folder, Processes(max(args.processes), Path(folder), args.device) as ranks:
        for n in args.processes:
            found = ranks.run(all_differences, cases, n, args.device)[:n]
            worst = [[max(values) for values in zip(*of_ranks)] for of_ranks in zip(*found)]  # of each case
            wrong = [(case, w) for case, w in zip(cases, worst) if not max(w) <= LIMIT]
            n_wrong += len(wrong)
            largest = ", ".join(
                f"{name} {max(column):.1e}" for name, column in zip(("loss", "dW", "db", "dh"), zip(*worst))
            )
            print(f"{n} processes, {len(cases)} configurations: {largest}; above {LIMIT}: {len(wrong)}")
            for case, w in wrong:
                print("   ", case, w)
    print("of them " + ", ".join(f"{count} {kind}" for kind, count in Counter(case.kind for case in cases).items()))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
