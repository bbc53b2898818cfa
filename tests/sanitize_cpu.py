"""Run every CPU operator on small inputs under the address and undefined-behaviour sanitizers; both must find a bug.

python tests/sanitize_cpu.py

Needs g++ or clang++ and a minute. A table last; exit status 1 if a sanitizer reports anything, or misses its bug.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torchlayer.kernels import _build

# vptr needs the types of libtorch, which was built without them
FLAGS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=vptr"
PLANTED = {
    "address": 'extern "C" int bug(int n) { int* x = new int[n]; x[0] = 1; return x[n]; }',
    "undefined": 'extern "C" int bug(int n) { return (0x7fffffff - 3) + n; }',
}
RUNS = {  # what a run may use of the processor
    "best kernels": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "without AVX-512": {"ATEN_CPU_CAPABILITY": "default"},
}


def sanitized(environment: dict[str, str], *arguments: str) -> tuple[bool, str]:
    """Whether this script, called again beneath the sanitizers, came to its end; and what was said."""
    runtime = subprocess.run(
        [*_build.cxx_compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    settings = {
        "LD_PRELOAD": runtime,  # before Python, which knows nothing of it
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # Python keeps things until its end
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        "CXX": f"{shlex.join(_build.cxx_compiler())} {FLAGS}",
        "TORCHLAYER_BUILD": "require",
        "TORCHLAYER_BACKEND": "cpu",
    }
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, **settings, **environment},
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def drive_sanitized() -> None:
    """Call every operator of a library compiled with the sanitizers, not of the one beside the package."""
    import torch
    from sanitize_cases import drive

    from torchlayer.kernels import compiled

    _build.LIBRARIES["cpu"] = "_C_sanitized.so"
    print("backend", *compiled().cpu)
    drive(torch.device("cpu"))
    print("came to the end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", action="store_true", help="only call the operators; what runs under the sanitizers")
    parser.add_argument("--bug", type=Path, help="only call the function of a library")
    options = parser.parse_args()
    if options.drive:
        drive_sanitized()
        return 0
    if options.bug:
        return 0 * ctypes.CDLL(str(options.bug)).bug(10)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, source in PLANTED.items():
            file, library = Path(folder, f"{name}.cpp"), Path(folder, f"{name}.so")
            file.write_text(source)
            command = [*_build.cxx_compiler(), *FLAGS.split(), "-fPIC", "-shared", str(file), "-o", str(library)]
            subprocess.run(command, check=True)
            clean, said = sanitized({}, "--bug", str(library))
            found = not clean and ("heap-buffer-overflow" if name == "address" else "signed integer overflow") in said
            rows.append((f"planted bug: {name}", "found" if found else "MISSED", 0.0))
            if not found:
                print(said[-3000:])
        for name, environment in RUNS.items():
            begun = time.perf_counter()
            clean, said = sanitized({**environment, "XDG_CACHE_HOME": folder}, "--drive")
            clean = clean and "came to the end" in said and "runtime error" not in said
            rows.append((f"operators: {name}", "no report" if clean else "REPORTS", time.perf_counter() - begun))
            if not clean:
                print(said[-6000:])
    for what, result, seconds in rows:
        print(f"{what:<32}{result:>12}{seconds:>8.0f} s")
    return int(any(result.isupper() for _, result, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
