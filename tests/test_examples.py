"""Every example as a user runs it, on little data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("tutorial_*.py"))


def run(script, *args, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *args], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda p: p.stem)
def test_help_tells_what_to_expect_and_has_the_common_flags(script, tmp_path):
    text = run(script, "--help", cwd=tmp_path)
    for flag in ("--epochs", "--batch-size", "--lr", "--seed", "--device", "--data", "--out", "--resume", "--smoke"):
        assert flag in text
    for word in ("Reproduces", "Expect", "Run"):
        assert word in text


def test_mnist_simple_runs_and_resumes(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist_simple")
    text = run(script, "--smoke", "--out", "out", cwd=tmp_path)
    assert re.search(r"^result: test_loss=\d\.\d{4} test_acc=\d\.\d{4}$", text, re.MULTILINE)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.npz", "learning_curve.png", "run.ckpt"}
    again = run(script, "--smoke", "--out", "out", "--resume", cwd=tmp_path)
    assert again.splitlines()[-1] == text.splitlines()[-1]  # both epochs were done: the same network


def test_every_mnist_variant_runs_draws_and_saves(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist")
    text = run(script, "--smoke", "--model", "all", "--out", "out", cwd=tmp_path)
    names = ["mlp", "dropconnect", "denoise_ae", "stacked_denoise_ae", "cnn"]
    assert re.findall(r"^result: (\w+) ", text, re.MULTILINE) == names
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert {f"{name}_filters.png" for name in names} <= left
    assert {f"{name}.npz" for name in names} <= left
    assert {f"{name}.ckpt" for name in names} <= left


def test_a_missing_data_set_says_where_to_put_it(tmp_path):
    script = next(p for p in EXAMPLES if p.stem == "tutorial_mnist_simple")
    done = subprocess.run(
        [sys.executable, script, "--data", "nowhere", "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            "TORCHLAYER_OFFLINE": "1",
            "PATH": "/usr/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # where torchlayer is, if it was not installed
        },
        timeout=60,
    )
    assert done.returncode == 1
    assert "train-images-idx3-ubyte.gz" in done.stderr
