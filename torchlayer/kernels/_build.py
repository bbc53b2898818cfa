"""Compile ``csrc``: the one place that knows the compilers' command lines.

Free of torch on purpose. ``setup.py`` loads this file by its path, inside pip's isolated build where torch cannot be
imported; ``_library.py`` uses it when nothing was built at installation.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIBRARIES = {"cpu": "_C.so", "cuda": "_C_cuda.so"}
BACKENDS = ("auto", "cuda", "cpu", "python")
BUILDS = ("auto", "require", "never")

# The stable ABI of torch 2.10: the library loads there and in every later torch, whichever one's headers it saw.
_FLAGS = ["-std=c++17", "-O3", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
_DEFAULT_ARCHITECTURES = "8.0+PTX;9.0a"  # 9.0a has what no later chip has; those read the PTX
_STALE_SECONDS = 24 * 3600

_log = logging.getLogger("torchlayer")


class BuildError(RuntimeError):
    """Why there is no compiled library, in one line; ``output`` holds what the compiler said."""

    def __init__(self, reason: str, output: str = ""):
        super().__init__(reason)
        self.output = output


def setting(variable: str, choices: tuple[str, ...]) -> str:
    """The value of an environment variable that is one of ``choices``; unset or empty means the first."""
    value = os.environ.get(variable) or choices[0]
    if value not in choices:
        raise ValueError(f"{variable}={value!r} is not a choice; set it to one of {', '.join(choices)}")
    return value


def cache_folder() -> Path:
    """Where libraries compiled at first use are kept: ``$XDG_CACHE_HOME/torchlayer`` or ``~/.cache/torchlayer``.

    Raises:
        BuildError: there is no home, as for a container's user without a name.
    """
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if folder.startswith("~"):  # a folder of that name in the current one: whoever owns it would give us his code
        raise BuildError("there is no home folder to keep a library in; set HOME or XDG_CACHE_HOME")
    return Path(folder) / "torchlayer"


def source_folder() -> Path:
    """``csrc``: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if folder.is_dir():
            return folder
    raise BuildError(f"no csrc folder in {package} or beside it; reinstall torchlayer")


def cxx_compiler() -> list[str]:
    """The C++ compiler's command: ``$CXX``, else the first of c++, g++, clang++ on the path."""
    return _find_command("C++ compiler", "CXX", ["c++", "g++", "clang++"], "install g++ or set CXX")


def cuda_compiler() -> list[str]:
    """nvcc's command: ``$NVCC``, else nvcc on the path, in ``$CUDA_HOME`` or in ``/usr/local/cuda``."""
    homes = [home for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    return _find_command(
        "nvcc", "NVCC", ["nvcc", *(f"{home}/bin/nvcc" for home in homes)], "install the CUDA toolkit or set NVCC"
    )


def describe(compiler: list[str]) -> str:
    """The line of ``--version`` that says which compiler this is.

    Raises:
        BuildError: the command does not run.
    """
    lines = _run([*compiler, "--version"]).splitlines()
    return next((line.strip() for line in lines if "release" in line), lines[0].strip() if lines else compiler[0])


def architecture(capability: str) -> str:
    """What to compile for a GPU: for Hopper the variant that has the warpgroups' matrix products.

    >>> architecture("8.0"), architecture("9.0")
    ('8.0', '9.0a')
    """
    return "9.0a" if capability == "9.0" else capability


def gencode_flags(architectures: str) -> list[str]:
    """nvcc's flags for a list in the manner of ``TORCH_CUDA_ARCH_LIST``.

    >>> gencode_flags("8.0+PTX;9.0a")[1::2]
    ['arch=compute_80,code=sm_80', 'arch=compute_80,code=compute_80', 'arch=compute_90a,code=sm_90a']
    """
    flags = []
    for item in re.split(r"[;,\s]+", architectures.strip(" ;,")):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", item)
        if match is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: {item!r} is not an architecture; write it like '8.0+PTX;9.0a'")
        name = match[1] + match[2]
        flags += ["-gencode", f"arch=compute_{name},code=sm_{name}"]
        if match[3]:
            flags += ["-gencode", f"arch=compute_{name},code=compute_{name}"]
    return flags


def is_whole(binary: Path) -> bool:
    """Whether a binary is there, to its last byte: loading one cut short by a power failure would kill the process."""
    try:
        data = binary.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


class Build:
    """One library to be made from ``csrc``, or from sources of a user, and the name it is kept under.

    The name carries a digest of all that decides the binary's content (sources, flags, architectures, compiler,
    machine), so a folder may hold many and none is ever out of date. Nothing is locked: every file is written under a
    temporary name and moved into place whole, so a killed build leaves nothing that another one trips over.

    Args:
        device: "cpu" or "cuda".
        torch: torch's folder, for its headers and libraries.
        visible: compute capabilities of the GPUs in sight, like "9.0"; ``TORCH_CUDA_ARCH_LIST`` overrides it.
        sources: files instead of those of ``csrc``, whose headers they may include; the first one names the library.
    Raises:
        BuildError: there is no compiler or no source.
        ValueError: an environment variable has no meaning.
    """

    def __init__(self, device: str, torch: Path, visible: str = "", sources: Sequence[Path] = ()):
        if platform.system() not in ("Linux", "Darwin"):
            raise BuildError(f"kernels are compiled on Linux and macOS, not on {platform.system()}")
        if device == "cuda":
            best = ";".join(architecture(capability) for capability in visible.split(";") if capability)
            architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or best or _DEFAULT_ARCHITECTURES
            self.compiler = cuda_compiler()
            self._flags = [*_FLAGS, "-DUSE_CUDA", f'-DTORCHLAYER_ARCHITECTURES="{architectures}"']
            self._flags += [*gencode_flags(architectures), "-Xcompiler", "-fPIC,-fvisibility=hidden"]
            if os.environ.get("CXX"):
                words = cxx_compiler()  # the compiler itself, not the ccache before it
                self._flags += ["-ccbin", next((word for word in words if Path(word).name != "ccache"), words[0])]
            # torch_cuda comes in through libtorch, of which no symbol is used: the linker would drop it as unneeded.
            libraries = ["-Xlinker", "--no-as-needed", "-ltorch", "-ltorch_cpu"]
        else:
            self.compiler = cxx_compiler()
            # The first two as in torch's own build: without them `x < 0 ? 0 : x * x` is a branch, 50 times as slow.
            self._flags = [*_FLAGS, "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fvisibility=hidden"]
            libraries = ["-ltorch_cpu"]
        if platform.system() == "Linux":
            # Where the compiler puts libstdc++ into the library, its symbols would mix with those of torch's libstdc++,
            # and a number in an error's text ends the text, or the process.
            libraries = ["-Xlinker", "--exclude-libs=ALL", *libraries]
        self.device = device
        self._headers = ["-isystem", str(torch / "include")]
        self._libraries = [f"-L{torch / 'lib'}", *libraries]

        folder = source_folder()
        if sources:
            # said aloud, since one file may be compiled for both devices
            self._headers += [f"-I{folder}", "-x", "cu" if device == "cuda" else "c++"]
        folders = sorted({folder, *(source.parent for source in sources)})
        headers = [path.read_bytes() for f in folders for path in (*sorted(f.glob("*.h")), *sorted(f.glob("*.cuh")))]
        version = _run([*self.compiler, "--version"])  # says nothing of the flags that $CXX or $NVCC may hold
        common = [*self.compiler[1:], *self._flags, *libraries, version, platform.machine(), *headers]
        self._objects: dict[Path, str] = {}
        for source in sources or sorted(folder.glob("*.cu" if device == "cuda" else "*.cpp")):
            self._objects[source] = f"{source.stem}-{device}-{_digest(*common, source.read_bytes())}.o"
        stem = f"{sources[0].stem}-{device}" if sources else LIBRARIES[device][:-3]
        self.name = f"{stem}-{_digest(*self._objects.values())}.so"

    def run(self, folder: Path) -> Path:
        """The library's path in ``folder``, after compiling what is not there yet, or not whole.

        Raises:
            BuildError: the compiler failed.
            OSError: the folder cannot be written.
        """
        library = folder / self.name
        if is_whole(library):
            return library
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if self.device == "cuda":
            _check_driver(self.compiler)
        ccache = ["ccache"] if shutil.which("ccache") and Path(self.compiler[0]).name != "ccache" else []
        # a warning, so that it is seen: nobody likes to wait a quarter of a minute for nothing
        _log.warning("compiling %s into %s, this once; it takes seconds, or a minute with nvcc", self.name, folder)
        with tempfile.TemporaryDirectory(prefix="building-", dir=folder) as scratch:

            def compile_one(source: Path) -> None:
                done = folder / self._objects[source]
                if not is_whole(done):
                    compiler = [*ccache, *self.compiler, *self._flags, *self._headers]
                    _run([*compiler, "-c", str(source), "-o", f"{scratch}/{done.name}"])
                    _seal_and_move(Path(scratch, done.name), done)

            with ThreadPoolExecutor(_n_jobs()) as pool:
                list(pool.map(compile_one, self._objects))
            objects = [str(folder / name) for name in self._objects.values()]
            _run([*self.compiler, "-shared", *objects, *self._libraries, "-o", f"{scratch}/{self.name}"])
            _seal_and_move(Path(scratch, self.name), library)
        return library


def _find_command(what: str, variable: str, names: list[str], advice: str) -> list[str]:
    if os.environ.get(variable):
        names = [os.environ[variable]]
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    raise BuildError(f"no {what} found (looked for {', '.join(names)}); {advice}")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except OSError as error:
        raise BuildError(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        output = (done.stdout + done.stderr).strip()
        lines = output.splitlines() or [f"exit status {done.returncode}"]
        first = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise BuildError(f"{Path(command[0]).name} failed: {first.strip()}", output)
    return done.stdout


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def _seal_and_move(scratch: Path, binary: Path) -> None:
    """Append a digest, which linkers and loaders never look at, and put the binary in its place."""
    data = scratch.read_bytes()
    scratch.write_bytes(data + hashlib.sha256(data).digest())
    os.replace(scratch, binary)


def _n_jobs() -> int:
    text = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"MAX_JOBS={text!r} is not a number of compilers to run at once; set it to 1 or more")
    return int(text)


def _sweep(folder: Path) -> None:
    """Remove what builds killed long ago left behind; a younger one may still be running."""
    for leftover in folder.glob("building-*"):
        try:
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except FileNotFoundError:
            pass  # another process swept it


def _check_driver(nvcc: list[str]) -> None:
    """A library carries the CUDA runtime of its nvcc, which an older driver refuses at the first launch."""
    release = re.search(r"release (\d+)\.", _run([*nvcc, "--version"]))
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return  # no driver here: the library is for another machine
    if release and int(release[1]) > version.value // 1000:
        raise BuildError(f"nvcc is of CUDA {release[1]}, but the GPU's driver only knows CUDA {version.value // 1000}")
