"""Run every CUDA operator on small inputs under compute-sanitizer, and show that it finds planted bugs.

python tests/sanitize_cuda.py [--tools memcheck racecheck initcheck synccheck]

Needs a GPU, compute-sanitizer and nvcc. A table last; exit status 1 if a tool reports anything, or misses its bug.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]
PLANTED = {  # what each tool is there to find
    "memcheck": "__global__ void bug(int* x) { x[threadIdx.x + (1 << 20)] = 1; }",
    # one warp reads what the other one writes, and neither waits
    "racecheck": "__global__ void bug(int* x) { __shared__ int s[64]; s[threadIdx.x] = x[threadIdx.x]; "
    "x[threadIdx.x] = s[63 - threadIdx.x]; }",
    "initcheck": "__global__ void bug(int* x) { x[threadIdx.x] = x[threadIdx.x + 64] + 1; }",
    # each lane waits for the other half of its warp, not for itself
    "synccheck": "__global__ void bug(int* x) { "
    "__syncwarp(threadIdx.x % 32 < 16 ? 0xffff0000u : 0x0000ffffu); x[threadIdx.x] = 1; }",
}
MAIN = """
int main() {
  int* x = nullptr;
  cudaMalloc(&x, 256 * sizeof(int));
  bug<<<1, 64>>>(x);
  return cudaDeviceSynchronize() == cudaSuccess ? 0 : 1;
}
"""


def run(tool: str, command: list[str]) -> tuple[int, str, float]:
    """How many errors a tool reports of a command, its first lines, and the seconds it took."""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or overruns land in the cache's own memory
    begun = time.perf_counter()
    done = subprocess.run(
        ["compute-sanitizer", "--tool", tool, "--print-limit", "5", *command],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    found = re.search(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", text)
    n = int(next(group for group in found.groups() if group is not None)) if found else -1
    said = "\n".join(line for line in text.splitlines() if "=====" in line)  # the first report says what broke
    return n, said[:3000], time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--drive", action="store_true", help="only call the operators; what runs under the tools")
    options = parser.parse_args()
    if options.drive:
        import torch
        from sanitize_cases import drive

        drive(torch.device("cuda"))
        return 0
    for program in ("compute-sanitizer", "nvcc"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on the path; install the CUDA toolkit")
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        for tool in options.tools:
            source, planted = Path(folder, f"{tool}.cu"), str(Path(folder, tool))
            source.write_text(PLANTED[tool] + MAIN)
            subprocess.run(["nvcc", "-arch=native", "-o", planted, str(source)], check=True)
            n_planted, said, _ = run(tool, [planted])
            n, report, seconds = run(tool, [sys.executable, __file__, "--drive"])
            ok = n == 0 and n_planted > 0
            failed |= not ok
            if n != 0:
                print(report)
            if n_planted <= 0:
                print(said)
            rows.append(f"{tool:<12}{n:>10}{n_planted:>14}{seconds:>10.0f}   {'ok' if ok else 'FAILED'}")
            print(rows[-1], flush=True)
    print(f"\n{'tool':<12}{'reports':>10}{'planted bug':>14}{'seconds':>10}")
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
