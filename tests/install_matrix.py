"""Install torchlayer in the twelve environments that it promises to work in, and use it there.

    python tests/install_matrix.py [--other-torch FOLDER] [ENVIRONMENT ...]

In each: a fresh virtual environment and a fresh copy of the sources, `pip install`, then `python -m torchlayer info`,
which compares every operator with plain PyTorch, `python -m torchlayer demo` for an epoch, and the tests of three
families of operators. All must end with status 0, and `info` must name the backend that belongs there, and why.

torch is not installed twelve times: its packages come from a copy of those that the Python running this has. Nor is
every source compiled twelve times: a stand-in for ccache hands back what an earlier environment compiled. What this
machine does not have is simulated, and the table says how. --other-torch is a folder that `pip install --target` put
another torch into: the one to upgrade to and, if it was built with CUDA, the one with CUDA.

Needs a package index for the environments that are not offline. Minutes, an nvcc's included. A table last; exit status
1 if an environment failed.
"""

from __future__ import annotations

import argparse
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "tqdm", "matplotlib", "scikit-learn", "pytest", "pytest-timeout")
TESTS = ("test_discounted_sum.py", "test_nce.py", "test_samplers.py")
COMPILERS = ("c++", "g++", "clang++", "nvcc")
BESIDE = r"cpu: SITE/torchlayer/_C\.so"
AT_FIRST_USE = r"cpu: CACHE/_C-\w+\.so"
NO_CUDA = "none: (this torch was built without CUDA|no CUDA GPU is in sight)"
# A GPU for as long as the backend is asked for: no operator is called on it.
PRETENDED = """
import torch
torch.version.cuda = torch.version.cuda or "13.0"
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
torch.cuda.get_device_capability = lambda device=None: (9, 0)
"""
CCACHE = """#!{python}
import os, pathlib, shutil, subprocess, sys
command = sys.argv[1:]
out = pathlib.Path(command[command.index("-o") + 1])  # its name has a digest of all but torch's headers
include = pathlib.Path(command[command.index("-isystem") + 1])
version = (include.parent / "version.py").read_text().split("__version__ = ")[1].split("'")[1]
kept = pathlib.Path("{kept}", version + "-" + out.name)
if not kept.exists():
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)
    shutil.copy(out, kept.with_suffix(".part"))
    os.replace(kept.with_suffix(".part"), kept)
shutil.copy(kept, out)
"""


class Failed(Exception):
    """Why an environment does not work, in one line."""


class Place(NamedTuple):
    """One environment: its folder, its Python, and what a process in it inherits."""

    folder: Path
    python: Path
    variables: dict[str, str]
    building: Mapping[str, str] = MappingProxyType({})  # besides, while something is compiled or looked for
    prefix: tuple[str, ...] = ()  # before each command: another namespace

    @property
    def site(self) -> Path:
        return next(self.folder.glob("venv/lib/python*/site-packages"))

    def run(self, what: str, *command: str | Path, cwd: Path | None = None, **variables: str) -> str:
        """What a command printed; it must end with status 0."""
        words = [*self.prefix, *map(str, command)]
        done = subprocess.run(
            words, cwd=cwd or self.folder / "work", env={**self.variables, **variables}, capture_output=True, text=True
        )
        (self.folder / f"{what}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            lines = (done.stderr + done.stdout).strip().splitlines() or ["nothing said"]
            telling = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            worst = next(iter(telling or [line for line in lines if "error" in line.lower()]), lines[-1])
            raise Failed(f"{what} ended with {done.returncode}: {worst.strip()[:160]}")
        return done.stdout


class Environment(NamedTuple):
    """What is there, how torchlayer is installed, and the backends that must come of it."""

    cpu: str  # the backend and its reason, a pattern
    cuda: str = NO_CUDA
    commands: tuple[str, ...] = ("c++", "g++", "clang++")  # of COMPILERS, those that are there
    torch: str = "there"  # or "fetched" by pip, or "cuda"
    gpu: bool = False
    how: str = "pip"  # or "offline", "uv", "editable"
    install: Mapping[str, str] = MappingProxyType({})  # environment variables of the installation
    tests: Mapping[str, str] = MappingProxyType({})  # and of the tests
    before: Callable[[Place, Lab], Place] = lambda place, lab: place  # the installation
    after: Callable[[Place, Lab], Place] = lambda place, lab: place
    simulated: Callable[[Lab], str] = lambda lab: ""  # what this machine lacks


class Lab(NamedTuple):
    """What the environments share."""

    folder: Path
    other: Path | None
    other_has_cuda: bool
    gpu: bool

    def wheelhouse(self) -> Path:
        """A folder with what an isolated build needs, as somebody would carry it to a machine without a network."""
        folder = self.folder / "wheelhouse"
        if not folder.exists():
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "setuptools>=77"]
            subprocess.run(pip, check=True, capture_output=True)
        return folder

    def uv(self) -> Path:
        """uv's command: the one on the path, or one fetched for this."""
        found = shutil.which("uv")
        if found is None:
            pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(self.folder / "uv"), "uv"]
            subprocess.run(pip, check=True, capture_output=True)
            found = str(self.folder / "uv/bin/uv")
        return Path(found)

    def packages(self, other: bool = False) -> Path:
        """A copy of torch and its company, so that no installer that goes astray can reach the originals."""
        folder = self.folder / ("other-packages" if other else "packages")
        if not folder.exists():
            for distribution in closure(PACKAGES, [str(self.other), *sys.path] if other else sys.path):
                root = Path(str(distribution.locate_file("")))
                for top in {Path(str(file)).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
                    if (root / top).is_dir():
                        shutil.copytree(root / top, folder / top, dirs_exist_ok=True)
                    elif (root / top).exists():
                        folder.mkdir(exist_ok=True)
                        shutil.copy(root / top, folder / top)
        return folder

    def path(self, compilers: tuple[str, ...]) -> Path:
        """A folder with links to all commands of this machine, but of compilers only to these."""
        folder = self.folder / "-".join(["bin", *compilers])
        if not folder.exists():
            folder.mkdir()
            script = folder / "ccache"
            script.write_text(CCACHE.format(python=sys.executable, kept=self.folder / "objects"))
            script.chmod(0o755)
            for source in os.get_exec_path():
                for command in Path(source).glob("*"):
                    hidden = re.sub(r"-[\d.]+$", "", command.name) in COMPILERS and command.name not in compilers
                    if not hidden and not (folder / command.name).is_symlink() and command.name != "ccache":
                        (folder / command.name).symlink_to(command)
        return folder


# What distinguishes them ---------------------------------------------------------


def read_only_home(place: Place, lab: Lab) -> Place:
    """Mounted so for root, whom modes do not stop; by its mode for others."""
    home = Path(place.variables["HOME"])
    if os.getuid():
        home.chmod(0o555)
        return place
    mount = f'mount -t tmpfs -o ro none "{home}" && exec "$@"'
    return place._replace(prefix=("unshare", "-m", "sh", "-c", mount, "sh"))


def no_network(place: Place, lab: Lab) -> Place:
    """A namespace without one, where that may be made; elsewhere proxies that nobody listens at."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0:
        return place._replace(prefix=("unshare", "-n"))
    closed = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    return place._replace(variables={**place.variables, **closed})


def newer_nvcc(place: Place, lab: Lab) -> Place:
    """An nvcc that says it is of CUDA 99, and a driver of CUDA 13 where there is none."""
    shim = place.folder / "nvcc"
    shim.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 99.0, V99.0.1'\n")
    shim.chmod(0o755)
    building = {"NVCC": str(shim)}
    if ctypes.util.find_library("cuda") is None:
        source, library = place.folder / "driver.c", place.folder / "libcuda.so.1"
        source.write_text("int cuDriverGetVersion(int* version) { *version = 13000; return 0; }\n")
        subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        building["LD_LIBRARY_PATH"] = str(place.folder)
    return place._replace(building=building)


def upgrade_torch(place: Place, lab: Lab) -> Place:
    """Another torch in the place of the first; what was compiled for that one stays."""
    if lab.other is None:
        raise Failed("not run: it takes --other-torch")
    for old in lab.packages().iterdir():
        shutil.rmtree(place.site / old.name) if old.is_dir() else (place.site / old.name).unlink()
    put(lab.packages(other=True), place.site)
    return place


def no_gpu(lab: Lab) -> str:
    return "" if lab.gpu else "the GPU is pretended while the backend is chosen"


ENVIRONMENTS = {
    "fresh venv without torch": Environment(AT_FIRST_USE, torch="fetched"),
    "torch for CPUs": Environment(BESIDE),
    "torch with CUDA, no GPU": Environment(BESIDE, torch="cuda"),
    "GPU, no nvcc": Environment(BESIDE, r"python: no nvcc found .*", torch="cuda", gpu=True, simulated=no_gpu),
    "GPU, nvcc of torch's CUDA": Environment(
        BESIDE,
        r"cuda: SITE/torchlayer/_C_cuda\.so",
        commands=COMPILERS,
        torch="cuda",
        gpu=True,
        install={"TORCH_CUDA_ARCH_LIST": "9.0a"},
        simulated=no_gpu,
    ),
    "nvcc of another CUDA": Environment(
        BESIDE,
        r"python: nvcc is of CUDA 99, but the GPU's driver only knows CUDA \d+",
        torch="cuda",
        gpu=True,
        before=newer_nvcc,
        simulated=lambda lab: "; ".join(filter(None, ["an nvcc that says CUDA 99", no_gpu(lab)])),
    ),
    "no compiler": Environment(r"python: no C\+\+ compiler found .*", commands=()),
    "read-only home and cache": Environment(
        r"python: .*(Read-only file system|Permission denied).*",
        install={"TORCHLAYER_BUILD": "never"},  # else nothing would have to be written there
        tests={"TORCHLAYER_BACKEND": "python"},  # where there is a compiler they insist on its kernels
        before=read_only_home,
    ),
    "offline": Environment(BESIDE, how="offline", before=no_network),
    "uv": Environment(AT_FIRST_USE, how="uv"),
    "editable": Environment(r"cpu: SOURCE/torchlayer/_C\.so", how="editable"),
    "torch upgraded afterwards": Environment(BESIDE, after=upgrade_torch),
}


# Setting one up ------------------------------------------------------------------


def closure(names: tuple[str, ...], path: list[str]) -> Iterator[Distribution]:
    """Installed distributions and what they require, the first on the path winning."""
    installed: dict[str, Distribution] = {}
    for distribution in distributions(path=path):
        installed.setdefault(_normal(distribution.metadata["Name"]), distribution)
    waiting, seen = list(map(_normal, names)), {"setuptools", "pip"}  # an environment has its own of these
    while waiting:
        name = waiting.pop()
        if name not in seen and name in installed:  # what is missing is for another system or Python
            seen.add(name)
            yield installed[name]
            required = [line for line in installed[name].requires or [] if "extra ==" not in line]
            waiting += [_normal(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]) for line in required]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def put(packages: Path, site: Path) -> None:
    """Packages into an environment, without their bytes: folders of its own with hard links to the files."""
    shutil.copytree(packages, site, copy_function=os.link, dirs_exist_ok=True)


def pretend_cuda(site: Path) -> None:
    """A torch whose version says that it was built with CUDA, and which is the one for CPUs otherwise."""
    version = site / "torch/version.py"
    text = version.read_text()
    version.unlink()  # a link, see above
    version.write_text(f"{text}\ncuda = '13.0'\n")


def set_up(environment: Environment, folder: Path, lab: Lab) -> Place:
    """A virtual environment with the packages that are there before torchlayer is."""
    for name in ("work", "home", "cache"):
        (folder / name).mkdir(parents=True)
    pip = [] if environment.how != "uv" else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *pip, str(folder / "venv")], check=True, capture_output=True)
    # a machine's own index and certificates stay
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TORCH", "PYTHON", "XDG", "CUDA_HOME"))}
    variables = {
        **kept,
        "PATH": os.pathsep.join([str(folder / "venv/bin"), str(lab.path(environment.commands))]),
        "HOME": str(folder / "home"),
        "PIP_CACHE_DIR": str(folder / "pip"),
        "NVCC": "nvcc",  # on the path or nowhere
        "OMP_NUM_THREADS": "1",
        "MAX_JOBS": "1",
        "MPLBACKEND": "Agg",
    }
    place = Place(folder, folder / "venv/bin/python", variables)
    if environment.torch != "fetched":
        put(lab.packages(other=environment.torch == "cuda" and lab.other_has_cuda), place.site)
        if environment.torch == "cuda" and not lab.other_has_cuda:
            pretend_cuda(place.site)
    return environment.before(place, lab)


def install(environment: Environment, place: Place, lab: Lab) -> None:
    """As its user would, from a fresh copy of the sources."""
    source, variables = place.folder / "source", {**place.building, **environment.install}
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info", "build", "dist", "_build", "out")
    shutil.copytree(ROOT, source, ignore=ignored)
    wanted, options = f"{source}[vis]", []
    if environment.torch == "fetched":
        wanted, options = f"{source}[vis,test]", ["--no-compile", "-c", str(source / "constraints.txt")]
    if environment.how == "uv":
        command = [lab.uv(), "pip", "install", "--python", place.python, "--find-links", lab.wheelhouse(), wanted]
        place.run("install", *command, UV_CACHE_DIR=str(place.folder / "uv"), **variables)
        return
    if environment.how == "offline":
        options += ["--no-index", "--find-links", str(lab.wheelhouse())]
    if environment.how == "editable":
        options += ["-e"]
    place.run("install", place.python, "-m", "pip", "install", *options, wanted, **variables)


def examine(name: str, environment: Environment, folder: Path, lab: Lab) -> str:
    """The backends in one line, after all that must work has worked.

    Raises:
        Failed: something did not.
    """
    if environment.after is upgrade_torch and lab.other is None:
        raise Failed("not run: it takes --other-torch")
    lab.wheelhouse()  # before a namespace is entered
    place = set_up(environment, folder, lab)
    version = place.site / "torch/version.py"
    before = version.read_text() if version.exists() else ""
    install(environment, place, lab)
    if before and version.read_text() != before:
        raise Failed("installing torchlayer has replaced torch")
    place = environment.after(place, lab)

    lines = place.run("info", place.python, "-m", "torchlayer", "info").splitlines()
    said = {line[:13].strip(): line[13:] for line in lines}
    backends = [said["cpu kernels"], said["cuda kernels"]]
    if environment.gpu and not lab.gpu:
        script = PRETENDED + "from torchlayer.kernels import _library\nprint(': '.join(_library.load('cuda')))"
        backends[1] = place.run("backend", place.python, "-c", script, **place.building).splitlines()[-1]
    names = {place.site: "SITE", folder / "source": "SOURCE", folder / "home/.cache/torchlayer": "CACHE", folder: ""}
    for path, short in names.items():
        backends = [backend.replace(str(path), short) for backend in backends]
    for device, pattern, backend in zip(("CPU", "CUDA"), (environment.cpu, environment.cuda), backends, strict=True):
        if not re.fullmatch(pattern, backend):
            raise Failed(f"{device} tensors: {backend}, which is not {pattern}")

    place.run("demo", place.python, "-m", "torchlayer", "demo", "--epochs", "1")
    bench = folder / "tests"  # without the package beside it, which would be the one tested
    shutil.copytree(ROOT / "tests", bench / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", bench)
    tests = [f"tests/{test}" for test in TESTS]
    pytest = (place.python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    place.run("tests", *pytest, *tests, cwd=bench, **environment.tests)
    return " · ".join(backend.replace("|", "/")[:110] for backend in backends)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=f"of {', '.join(ENVIRONMENTS)}")
    parser.add_argument("--other-torch", type=Path, metavar="FOLDER", help="with another torch, see above")
    parser.add_argument("--keep", type=Path, help="leave everything in this folder, which must be new")
    args = parser.parse_args()
    unknown = set(args.environments) - set(ENVIRONMENTS)
    if unknown:
        parser.error(f"no environment {sorted(unknown)}; there are {', '.join(ENVIRONMENTS)}")
    rows, n_failed, n_left_out = [], 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        (folder / "objects").mkdir(parents=True)
        version = args.other_torch and (args.other_torch / "torch/version.py").read_text()
        has_cuda = bool(version and re.search(r"^cuda.* = '", version, re.MULTILINE))
        smi = shutil.which("nvidia-smi")
        gpu = smi is not None and subprocess.run([smi], capture_output=True).returncode == 0
        lab = Lab(folder, args.other_torch and args.other_torch.resolve(), has_cuda, gpu)
        for number, name in enumerate(args.environments or ENVIRONMENTS):
            environment, started = ENVIRONMENTS[name], time.monotonic()
            try:
                verdict, reason = "passed", examine(name, environment, folder / str(number), lab)
            except Failed as e:
                reason = str(e)
                verdict = "not run" if reason.startswith("not run") else "FAILED"
            n_failed, n_left_out = n_failed + (verdict == "FAILED"), n_left_out + (verdict == "not run")
            seconds = time.monotonic() - started
            print(f"{verdict:8} {name} ({seconds:.0f} s): {reason}", flush=True)
            version = "" if environment.torch != "cuda" or lab.other_has_cuda else "torch's version says CUDA 13.0"
            simulated = "; ".join(filter(None, [version, environment.simulated(lab)])) or "nothing"
            rows.append(f"| {name} | {simulated} | {verdict} | {reason} |")
            if not args.keep:
                shutil.rmtree(folder / str(number), ignore_errors=True)
    print("\n| environment | simulated | result | backends for CPU and CUDA tensors, or what went wrong |")
    print("\n".join(["|---|---|---|---|", *rows]))
    print(f"{len(rows)} environments, {n_failed} failed, {n_left_out} not run")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
