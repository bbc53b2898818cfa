"""The pole's script: it learns, and goes on where it was."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_cartpole.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """``run(*flags)`` as from the command line, in this process; returns what was printed."""
    n_threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, flags)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(n_threads)


def test_it_learns(run):
    pytest.importorskip("gymnasium", reason="needs gymnasium: pip install torchlayer[rl]")
    text = run("--epochs", 8, "--out", "out")
    first = float(re.search(r"^16,384 steps, mean return of \d+ episodes (\S+)$", text, re.MULTILINE)[1])
    result = re.search(r"^result: cartpole mean_return=(\S+) error=\S+ least=\d+$", text, re.MULTILINE)
    assert first > 60  # 20 in the beginning
    assert float(result[1]) > 80
    assert {p.name for p in Path("out").iterdir()} == {"run.ckpt", "learning_curve.png"}


def test_it_goes_on_after_its_last_rollout(run):
    pytest.importorskip("gymnasium", reason="needs gymnasium: pip install torchlayer[rl]")
    assert "256 steps, mean return of" in run("--smoke", "--out", "out")
    assert "steps, mean return of" not in run("--smoke", "--out", "out", "--resume")  # both were done


def test_without_gymnasium_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(SystemExit, match=r"^CartPole is Gymnasium's: pip install gymnasium$"):
        run("--smoke")
