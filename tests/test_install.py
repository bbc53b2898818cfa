"""What setup.py decides; whole installations are too slow for here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("setuptools", minversion="77", reason="setup.py needs setuptools >= 77")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def setup():
    spec = importlib.util.spec_from_file_location("torchlayer_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_compilers(monkeypatch):
    monkeypatch.delenv("TORCHLAYER_BUILD", raising=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    return monkeypatch


def fake_torch(folder):
    header = folder / "torch/include/torch/csrc/stable/library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    return folder / "torch"


def test_an_importable_torch_is_found_without_importing_it(setup):
    assert setup.find_torch() == Path(torch.__file__).parent


@pytest.mark.parametrize("kind", ["purelib", "platlib"])
def test_in_an_isolated_build_the_targets_torch_is_found(setup, kind, monkeypatch, tmp_path):
    torch_folder = fake_torch(tmp_path / kind)
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda asked: str(tmp_path / asked))
    assert setup.find_torch() == torch_folder


def test_a_torch_without_the_stable_abi_is_no_torch(setup, monkeypatch, tmp_path):
    (tmp_path / "torch/include").mkdir(parents=True)
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup.sysconfig, "get_path", lambda asked: str(tmp_path))
    assert setup.find_torch() is None


def test_without_compilers_nothing_is_built_nothing_old_stays_and_the_reason_is_printed(
    setup, no_compilers, tmp_path, capsys
):
    (tmp_path / "_C.so").touch()
    assert setup.compile_libraries(tmp_path, tmp_path / "scratch") == []
    assert not list(tmp_path.glob("*.so"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torchlayer: _C.so not built: no C++ compiler found (looked for no-such-compiler)")
    assert lines[1].startswith("torchlayer: _C_cuda.so not built: no nvcc found (looked for no-such-nvcc)")


def test_a_required_library_that_cannot_be_built_stops_the_installation(setup, no_compilers, tmp_path):
    no_compilers.setenv("TORCHLAYER_BUILD", "require")
    with pytest.raises(SystemExit, match=r"TORCHLAYER_BUILD=require, but _C.so failed: no C\+\+ compiler found"):
        setup.compile_libraries(tmp_path, tmp_path / "scratch")


def test_building_can_be_forbidden(setup, no_compilers, tmp_path, capsys):
    no_compilers.setenv("TORCHLAYER_BUILD", "never")
    assert setup.compile_libraries(tmp_path, tmp_path) == []
    assert "_C.so not built: TORCHLAYER_BUILD=never" in capsys.readouterr().out


def test_a_misspelt_setting_stops_the_installation(setup, no_compilers, tmp_path):
    no_compilers.setenv("TORCHLAYER_BUILD", "perhaps")
    with pytest.raises(ValueError, match="TORCHLAYER_BUILD='perhaps' is not a choice"):
        setup.compile_libraries(tmp_path, tmp_path)


@pytest.mark.parametrize(("made", "any_platform"), [([], True), (["_C.so"], False)])
def test_the_wheel_fits_every_python_and_names_a_platform_only_for_binaries(setup, made, any_platform):
    distribution = setup.Distribution({"name": "torchlayer", "version": "0"})
    assert distribution.has_ext_modules()  # until known better, so that build_ext runs at all
    distribution.libraries_made = made
    wheel = setup.Wheel(distribution)
    wheel.ensure_finalized()
    python, abi, platform = wheel.get_tag()
    assert (python, abi, platform == "any") == ("py3", "none", any_platform)


def test_the_installed_package_carries_the_sources(setup, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    distribution = setup.Distribution({"name": "torchlayer", "version": "0", "packages": []})
    distribution.include_package_data = False  # else an egg-info folder is left in the checkout
    command = setup.CopySources(distribution)
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    command.run()
    shipped = {path.name for path in (tmp_path / "torchlayer/csrc").iterdir()}
    assert shipped == {path.name for path in (ROOT / "csrc").iterdir()}


def test_the_source_archive_holds_all_it_takes_to_build_and_test(tmp_path):
    project = tmp_path / "project"
    for folder in ("benchmarks", "csrc", "docs", "examples", "tests", "torchlayer"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, project)
    (project / "torchlayer/_C.so").touch()
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=project, check=True, capture_output=True)

    (archive,) = project.glob("dist/*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    needed = {path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("csrc/*"), *ROOT.glob("tests/*.py")]}
    needed |= {"setup.py", "pyproject.toml", "LICENSE", "README.md", "torchlayer/py.typed"}
    assert needed - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
