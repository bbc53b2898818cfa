"""The example of a user's own op: as short as promised, good with and without a compiler, its CUDA source compiles."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchlayer as tl

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "tutorial_custom_op.py"


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Runs the example in this process, as often as a test likes, in an empty folder."""
    names = runpy.run_path(str(SCRIPT), run_name="imported")
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--smoke", "--device", "cpu", "--out", "out", *arguments])
        names["main"]()

    run.names = names
    return run


def accuracy(text):
    return float(re.fullmatch(r"result: test_acc=(\d\.\d{4})", text.splitlines()[-1])[1])


def test_the_users_part_is_thirty_lines():
    text = SCRIPT.read_text()
    imports = [line for line in text.splitlines() if re.match(r"import (torch|torchlayer)\b", line)]
    part = text[text.index("# Your op") : text.index("# A loop to try it")].splitlines()
    code = [line for line in part if line.strip() and not line.startswith("# ")]
    assert 20 < len(imports) + len(code) <= 30
    assert all(len(line) <= 120 for line in code)


def test_it_checks_the_op_learns_saves_and_resumes(script, capsys):
    assert script.names["build"]().outputs.shape == (None, 10)
    assert capsys.readouterr().out == ""  # importing it does nothing
    script()
    first = capsys.readouterr().out
    assert "checked: runs, opcheck, gradient, reference, layouts, inputs, determinism, poison" in first
    assert accuracy(first) > 0.5  # ten digits, two epochs
    assert {path.name for path in Path("out").iterdir()} == {"model.npz", "run.ckpt"}
    script("--resume")
    again = capsys.readouterr().out
    assert "Epoch" not in again
    assert accuracy(again) == accuracy(first)


def test_without_a_compiler_the_reference_runs_and_says_so_once(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "CXX": "no-such-compiler",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TORCHLAYER_BACKEND": "",
        "TORCHLAYER_BUILD": "",
    }
    command = [sys.executable, SCRIPT, "--smoke", "--device", "cpu", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    missed = "without the compiled kernel of tutorial::reglu: no C++ compiler found (looked for no-such-compiler)"
    warned = re.findall(rf"in plain PyTorch for (\w+) tensors, {re.escape(missed)}", done.stderr)
    assert warned == ["CPU", *["CUDA"] * torch.cuda.is_available()]  # the check goes to all devices
    assert accuracy(done.stdout) > 0.5


def source():
    tree = ast.parse(SCRIPT.read_text())
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(a.value) for a in assignments if a.targets[0].id == "SOURCE")


@pytest.mark.skipif(not (shutil.which("nvcc") or os.environ.get("NVCC")), reason="there is no nvcc")
def test_its_cuda_source_compiles(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.delenv("TORCHLAYER_BACKEND", raising=False)
    try:
        library = tl.kernels.compile_library(source(), "cuda", tmp_path)
    except RuntimeError as error:
        if "driver only knows CUDA" in str(error):
            pytest.skip(str(error))
        raise
    assert library.stat().st_size > 10_000
    assert b"reglu" in library.read_bytes()
