"""The script on sequences of different lengths: its own assertions hold, its task is what it says, it goes on."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_dynamic_rnn.py"


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="imported"))


@pytest.fixture
def run(script, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    n_threads = torch.get_num_threads()

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--device", "cpu", "--out", "out", *flags])
        script.main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(n_threads)


def test_all_parts_hold_and_a_finished_run_goes_on_from_its_end(run, tmp_path):
    text = run("--smoke")
    assert re.findall(r"^\d\. ", text, re.MULTILINE) == ["1. ", "2. ", "3. ", "4. "]
    pattern = r"result: mse=\d\.\d{5} mse_without_lengths=\d\.\d{5} mse_of_the_mean=0.16667"
    assert re.fullmatch(pattern, text.splitlines()[-1])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"lengths.ckpt", "no_lengths.ckpt", "lengths.png"}
    again = run("--smoke", "--resume")
    assert "Epoch" not in again
    assert again.splitlines()[-1] == text.splitlines()[-1]


def test_the_sum_of_two_marked_numbers_before_the_end_is_sought(script):
    x, lengths, y = script.adding_problem(500, 20, torch.Generator().manual_seed(0))
    numbers, marked = x.unbind(2)
    inside = torch.arange(20) < lengths[:, None]
    assert torch.equal(marked.sum(1), torch.full((500,), 2.0))
    assert not marked[~inside].any()
    torch.testing.assert_close(y[:, 0], (numbers * marked).sum(1))
    assert (lengths.min(), lengths.max()) == (4, 20)
    assert y.var() == pytest.approx(1 / 6, rel=0.2)  # what guessing the mean costs


def test_with_lengths_it_is_learnt(script, tmp_path):
    args = SimpleNamespace(
        seed=0,
        device="cpu",
        lr=0.01,
        batch_size=50,
        epochs=25,
        examples=500,
        longest=8,
        out=tmp_path,
        resume=False,
        checkpoint_seconds=60,
    )
    errors = script.train("lengths", args)
    assert min(errors) < 0.03 < 0.1 < errors[0]


def test_too_short_sequences_are_refused(run):
    with pytest.raises(SystemExit, match="--longest is 4 or more, got 3: two numbers of at least four are marked"):
        run("--longest", "3")
