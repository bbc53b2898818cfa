"""Compile csrc where the machine allows it. Where it does not, the package compiles itself at first use."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import setuptools
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load_build_module() -> ModuleType:
    """``torchlayer/kernels/_build.py``, without the package around it, which would import torch."""
    spec = importlib.util.spec_from_file_location("_build", ROOT / "torchlayer" / "kernels" / "_build.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def find_torch() -> Path | None:
    """The folder of the torch to be built for: importable, or in the environment that pip's isolated build is for."""
    spec = importlib.util.find_spec("torch")
    folders = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    folders += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    return next((folder for folder in folders if (folder / "include/torch/csrc/stable/library.h").exists()), None)


def visible_architectures() -> str:
    """The compute capabilities of the GPUs in sight, like ``"8.0;9.0"``; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        return ";".join(sorted(set(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())))
    except (OSError, subprocess.CalledProcessError):
        return ""


def compile_libraries(package: Path, scratch: Path) -> list[Path]:
    """Put the libraries that can be compiled here into ``package``, say why others cannot, and leave no older one."""
    build = load_build_module()
    mode = build.setting("TORCHLAYER_BUILD", build.BUILDS)
    torch = find_torch()
    made = []
    for device, name in build.LIBRARIES.items():
        (package / name).unlink(missing_ok=True)
        try:
            if mode == "never":
                raise build.BuildError("TORCHLAYER_BUILD=never")
            if torch is None:
                raise build.BuildError("no torch >= 2.10 found in the environment installed into")
            visible = visible_architectures() if device == "cuda" else ""
            library = build.Build(device, torch, visible).run(scratch)
        except build.BuildError as error:
            print(f"torchlayer: {name} not built: {error}")
            no_nvcc = device == "cuda" and not error.output  # required is what this machine has the compiler for
            if mode == "require" and not no_nvcc:
                raise SystemExit(f"TORCHLAYER_BUILD=require, but {name} failed: {error}\n{error.output}") from None
        else:
            package.mkdir(parents=True, exist_ok=True)
            made.append(Path(shutil.copy(library, package / name)))
            print(f"torchlayer: {name} built for {torch}")
    return made


class Distribution(setuptools.Distribution):
    """Has binaries until the compilers have said otherwise."""

    libraries_made: list[Path] | None = None

    def has_ext_modules(self) -> bool:
        return self.libraries_made != []


class CompileLibraries(build_ext):
    """Instead of extension modules: the libraries need no Python headers and bear no Python version."""

    distribution: Distribution

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = ROOT / "torchlayer" if in_place else Path(self.build_lib) / "torchlayer"
        self.distribution.libraries_made = compile_libraries(package, Path(self.build_temp).resolve())


class CopySources(build_py):
    """Puts csrc into the package, so that an installed one can compile itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "csrc", Path(self.build_lib) / "torchlayer" / "csrc", dirs_exist_ok=True)


class Wheel(bdist_wheel):
    """One wheel for every Python: ``py3-none-<platform>`` with libraries inside, ``py3-none-any`` without."""

    distribution: Distribution

    def run(self) -> None:
        self.run_command("build")  # before anything asks for the tag
        self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setuptools.setup(
        distclass=Distribution,
        cmdclass={"build_ext": CompileLibraries, "build_py": CopySources, "bdist_wheel": Wheel},
    )
