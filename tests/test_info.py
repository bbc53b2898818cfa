from __future__ import annotations

import sys
import types

import pytest
import torch

import torchlayer
from torchlayer import __main__, _info, kernels
from torchlayer.kernels import _library


def test_info_reports_what_a_bug_report_needs(capsys):
    assert __main__.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = {line[:13].strip(): line[13:] for line in lines}
    assert values["torchlayer"].startswith(torchlayer.__version__)
    assert values["torch"].startswith(torch.__version__)
    assert values["cpu kernels"] == ": ".join(kernels.compiled().cpu)
    assert values["cuda kernels"] == ": ".join(kernels.compiled().cuda)
    assert {"python", "numpy", "cpu", "gpu", "compiler", "nvcc", "cache", "settings"} <= set(values)
    assert [name for name in _library.OPS if not any(line.startswith(name) for line in lines)] == []


def test_info_names_a_kernel_that_is_wrong_and_fails(monkeypatch, capsys):
    op = _library.OPS["discounted_sum"]
    monkeypatch.setitem(_library.OPS, "discounted_sum", op._replace(reference=lambda *a: 1.01 * op.reference(*a)))
    assert __main__.main(["info"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.endswith("WRONG")]
    assert {line.split()[0] for line in wrong} == {"discounted_sum"}


def test_a_kernel_that_returns_nan_is_wrong(monkeypatch):
    op = _library.OPS["discounted_sum"]
    monkeypatch.setitem(
        _library.OPS, "discounted_sum", op._replace(reference=lambda *a: op.reference(*a) * float("nan"))
    )
    assert not any(test.passed for test in _info.self_tests() if test.op == "discounted_sum")


def test_info_still_reports_where_the_settings_cannot_be_met(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU")
    monkeypatch.setenv("TORCHLAYER_BACKEND", "cuda")
    _library.load.cache_clear()
    try:
        assert __main__.main(["info"]) == 1
    finally:
        _library.load.cache_clear()
    assert "refused: TORCHLAYER_BACKEND=cuda insists on compiled CUDA kernels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "status", "text"),
    [
        (["--help"], 0, "{info,demo,convert}"),
        (["info", "--help"], 0, "Paste the output into a bug report"),
        ([], 2, "the following arguments are required"),
        (["info", "--fast"], 2, "unrecognized arguments: --fast"),
        (["inform"], 2, "invalid choice: 'inform'"),
    ],
)
def test_command_line(argv, status, text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # no line breaks in what is looked for
    with pytest.raises(SystemExit) as stop:
        __main__.main(argv)
    assert stop.value.code == status
    assert text in "".join(capsys.readouterr())


def test_a_misspelt_setting_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("TORCHLAYER_BACKEND", "gpu")
    _library.load.cache_clear()
    with pytest.raises(SystemExit):
        __main__.main(["info"])
    assert "TORCHLAYER_BACKEND='gpu' is not a choice" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--help"], ["word2vec", "--steps", "5", "out"], ["--out", "x", "word2vec"]])
def test_demo_gets_its_arguments_untouched(argv, monkeypatch):
    seen = []
    demo = types.ModuleType("torchlayer._demo")
    demo.main = seen.extend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchlayer._demo", demo)
    monkeypatch.setattr(torchlayer, "_demo", demo, raising=False)
    assert __main__.main(["demo", *argv]) == 0
    assert seen == argv
