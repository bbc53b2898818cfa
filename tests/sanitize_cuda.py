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


def drive() -> None:
    """Every operator, once or more for each way through it."""
    import torch

    from torchlayer import kernels
    from torchlayer.kernels._library import OPS

    device = torch.device("cuda")
    for op in OPS.values():
        op.overload(*op.example(device))
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype).requires_grad_()

    # (N, T, K, V, D): few samples; many in bfloat16, on Hopper; anything else
    shapes = [((65, 2, 64, 300, 72), torch.float32), ((130, 1, 200, 300, 256), torch.bfloat16)]
    shapes += [((300, 1, 520, 900, 72), torch.bfloat16), ((257, 3, 264, 900, 320), torch.bfloat16)]
    shapes += [((33, 9, 12, 50, 7), torch.float16), ((70, 1, 300, 400, 65), torch.float64)]
    for (n, n_true, k, v, d), dtype in shapes:
        weight, bias, hidden = (random(*shape, dtype=dtype) for shape in ((v, d), (v,), (n, d)))
        labels = torch.randint(v, (n, n_true), device=device, generator=generator)
        values = kernels.log_uniform_sampler(labels, k, v)
        for loss in (kernels.sampled_softmax_loss, kernels.nce_loss):
            loss(weight, bias, hidden, labels, values, sparse=True).sum().backward()
    for n_ids in (1, 300, 6000):
        ids = torch.randint(50, (n_ids,), device=device, generator=generator)
        for name in ("row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"):
            op, arguments = OPS[name], list(OPS[name].example(device))
            names = [argument.name for argument in op.overload._schema.arguments]
            width = arguments[names.index("weight")].shape[1:]
            arguments[names.index("ids")] = ids
            arguments[names.index("row_grads")] = torch.ones(n_ids, *width, device=device)
            op.overload(*arguments)
    torch.cuda.synchronize()


def run(tool: str, command: list[str]) -> tuple[int, str, float]:
    """How many errors a tool reports of a command, its last lines, and the seconds it took."""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # or overruns land in the cache's own memory
    begun = time.perf_counter()
    done = subprocess.run(
        ["compute-sanitizer", "--tool", tool, "--print-limit", "5", *command],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    found = re.search(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", text)
    n = int(next(group for group in found.groups() if group is not None)) if found else -1
    return n, "\n".join(line for line in text.splitlines() if "=====" in line)[-1500:], time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--drive", action="store_true", help="only call the operators; what runs under the tools")
    options = parser.parse_args()
    if options.drive:
        drive()
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
