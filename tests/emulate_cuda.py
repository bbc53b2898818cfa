"""Run the CUDA kernels on a CPU under the address and undefined-behaviour sanitizers, beside their references.

python tests/emulate_cuda.py                                    # all kernels on small inputs, in several orders
python tests/emulate_cuda.py --pytest tests/test_samplers.py    # tests of CPU tensors, with these kernels below them

tests/emulator/cuda_runtime.h says how: the threads of a block are fibres, in an order drawn anew at each barrier. What
goes on in the background on a GPU, copies and products, is done at once, so that a missing wait for it is not seen.
Needs g++ or clang++ on x86-64 and some minutes, most of them compiling. A table last; exit status 1 if a kernel fails,
or a planted bug is missed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from torchlayer.kernels import _build

EMULATOR = Path(__file__).with_name("emulator")
FLAGS = ["-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-fPIC", "-w"]
FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
FLAGS += ['-DTORCHLAYER_ARCHITECTURES="9.0a"']
LEFT_OUT = "bad_ids.cu"  # it tells Python of what kernels on a GPU have reported

PLANTED = {  # a kernel of 64 threads, and what the emulator or a sanitizer says of it
    "a read past shared memory": ("extern __shared__ int x[]; out[threadIdx.x] = x[threadIdx.x + 1];", "overflow"),
    "a missing barrier": (
        "__shared__ int x[64]; x[threadIdx.x] = threadIdx.x; out[threadIdx.x] = x[63 - threadIdx.x];", "wrong numbers"
    ),
    "a barrier for some": ("if (threadIdx.x < 40) __syncthreads(); out[threadIdx.x] = 0;", "threads wait for others"),
    "a lane beside its mask": ("out[threadIdx.x] = __shfl_sync(1u, 1, 0);", "missing in its own mask"),
    "nothing": (
        "extern __shared__ int x[]; x[threadIdx.x] = threadIdx.x; __syncthreads(); "
        "out[threadIdx.x] = __shfl_xor_sync(~0u, x[63 - threadIdx.x], 1) + (threadIdx.x % 2 ? -1 : 1);", "right numbers"
    ),
}  # fmt: skip
MAIN = """
int main(int, char** arguments) {
  for (int order = 0; order < 20; ++order) {
    int out[64];
    emulator::run(dim3(1), dim3(64), 64 * sizeof(int), [&] { kernels[std::atoi(arguments[1])](out); });
    for (int i = 0; i < 64; ++i) {
      if (out[i] != 63 - i) {
        return std::puts("wrong numbers"), 0;
      }
    }
  }
  std::puts("right numbers");
}
"""


def as_cpp(source: str) -> str:
    """A CUDA source in C++'s words, its ops those of CPU tensors."""
    source = re.sub(
        r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];",
        r"auto* const \2 = emulator::dynamic_memory<\1>();",
        source,
    )
    return source.replace("(torchlayer, CUDA, m)", "(torchlayer, CPU, m)").replace(".is_cuda()", ".is_cpu()")


def build(folder: Path) -> Path:
    """The library of all emulated kernels."""
    sources = _build.source_folder()
    for path in (*sources.glob("*.h"), *sources.glob("*.cuh"), *sources.glob("*.cu"), *EMULATOR.iterdir()):
        if path.name != LEFT_OUT:
            name = path.name + (".cpp" if path.suffix == ".cu" else "")
            (folder / name).write_text(as_cpp(path.read_text()))
    torch_folder = Path(torch.__path__[0])
    headers = ["-I", str(folder), "-isystem", str(torch_folder / "include")]

    def compile_one(source: Path) -> str:
        done = str(source.with_suffix(".o"))
        _build._run([*_build.cxx_compiler(), *FLAGS, *headers, "-c", str(source), "-o", done])
        return done

    with ThreadPoolExecutor(_build._n_jobs()) as pool:
        objects = list(pool.map(compile_one, sorted(folder.glob("*.cpp"))))
    library = folder / "emulated.so"
    libraries = ["-L", str(torch_folder / "lib"), "-ltorch_cpu"]
    _build._run([*_build.cxx_compiler(), *FLAGS, "-shared", *objects, *libraries, "-o", str(library)])
    return library


def find_planted(folder: Path) -> list[tuple[str, str]]:
    """Whether the planted kernels are found, each in a process of its own."""
    source, program = folder / "planted.cc", folder / "planted"
    kernels = [f"__global__ void kernel{i}(int* out) {{ {body} }}" for i, (body, _) in enumerate(PLANTED.values())]
    names = ", ".join(f"kernel{i}" for i in range(len(kernels)))
    table = f"void (*const kernels[])(int*) = {{{names}}};"
    source.write_text("\n".join(["#include <cuda_runtime.h>", *map(as_cpp, kernels), table, MAIN]))
    _build._run([*_build.cxx_compiler(), *FLAGS, "-I", str(EMULATOR), str(source), "-o", str(program)])
    rows = []
    for i, (name, (_, expected)) in enumerate(PLANTED.items()):
        done = subprocess.run([str(program), str(i)], capture_output=True, text=True, check=False)
        rows.append((f"planted: {name}", "found" if expected in done.stdout + done.stderr else "MISSED"))
    return rows


def sanitized(library: Path, order: int, arguments: list[str]) -> tuple[bool, str]:
    """Whether Python came to its end beneath the sanitizers with these kernels, and what was said."""
    runtimes = ("libasan.so", "libstdc++.so")  # before Python, which knows of neither
    settings = {
        "LD_PRELOAD": " ".join(
            _build._run([*_build.cxx_compiler(), f"-print-file-name={x}"]).strip() for x in runtimes
        ),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python keeps things, and stacks are ours
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (Path(__file__).parents[1], Path(__file__).parent)),
        "TORCHLAYER_BACKEND": "python",  # no other library
        "TORCHLAYER_EMULATED": str(library),
        "TORCHLAYER_EMULATED_ORDER": str(order),
    }
    command, environment = [sys.executable, *arguments], {**os.environ, **settings}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=3, help="in how many orders threads and blocks run")
    parser.add_argument("--only", default="", help="kernels whose names hold this")
    parser.add_argument("--library", type=Path, help="one that was made before; default: make it")
    parser.add_argument("--keep", type=Path, help="keep the library and its objects in this folder")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, help="run pytest with what follows instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        rows = [] if options.library else find_planted(folder)
        library = options.library or build(folder)
        print(f"made in {time.perf_counter() - begun:.0f} s", flush=True)
        if options.pytest is not None:
            arguments = ["-m", "pytest", "-p", "emulated_cases", "-p", "no:cacheprovider", *options.pytest]
            passed, said = sanitized(library, 0, arguments)
            print(said)
            return int(not passed)
        results: dict[str, list[str]] = {}
        for order in range(options.orders):
            begun = time.perf_counter()
            passed, said = sanitized(library, order, [str(Path(__file__).with_name("emulated_cases.py")), options.only])
            lines = [line.split(" | ") for line in said.splitlines() if line.startswith("case | ")]
            for _, name, result in lines:
                results.setdefault(name, []).append(result)
            print(f"order {order}: {len(lines)} cases in {time.perf_counter() - begun:.0f} s", flush=True)
            if not passed:
                print(said[-6000:])
                rows.append((f"order {order}", "FAILED"))
    for name, of_orders in results.items():  # an error, and a digest of all bits
        same = len(of_orders) == options.orders and len(set(of_orders)) == 1
        rows.append((name, f"error {of_orders[0].split()[0]}" if same else "DIFFERS BY ORDER"))
    for name, result in rows:
        print(f"{name:<76}{result:>20}")
    return int(any(result.isupper() for _, result in rows))


if __name__ == "__main__":
    sys.exit(main())
