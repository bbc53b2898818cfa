from __future__ import annotations

import os
import site
import subprocess
import sys

import pytest
import torch

from torchlayer import ops


@pytest.fixture
def no_process(monkeypatch):
    """Fail on anything that starts a program or signals one."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"started or signalled a process: {args}")

    for owner, name in [(os, "system"), (os, "kill"), (subprocess, "Popen"), (os, "remove"), (os, "unlink")]:
        monkeypatch.setattr(owner, name, refuse)


def test_exit_torch_only_leaves_when_given_a_status(no_process):
    ops.exit_torch()
    with pytest.raises(SystemExit) as left:
        ops.exit_torch(3)
    assert left.value.code == 3


def test_exit_tf_touches_no_process_and_warns(no_process):
    with pytest.warns(DeprecationWarning, match="exit_tf is now exit_torch: there is no session to close"):
        ops.exit_tf(sess=None)


def test_clear_all_does_nothing_and_warns():
    with pytest.warns(
        DeprecationWarning, match=r"clear_all does nothing: there are no placeholders; call net.eval\(\)"
    ):
        ops.clear_all()


def test_empty_trash_refuses(no_process):
    with pytest.raises(
        NotImplementedError, match="empty_trash deleted everything in the user's trash, which torchlayer"
    ):
        ops.empty_trash()


@pytest.mark.parametrize(
    ("fraction", "error", "message"),
    [
        (0, ValueError, r"gpu_fraction must be in \(0, 1\], got 0"),
        (1.01, ValueError, r"gpu_fraction must be in \(0, 1\], got 1.01"),
        (float("nan"), ValueError, r"gpu_fraction must be in \(0, 1\], got nan"),
        (None, TypeError, r"gpu_fraction must be a number, got None; there is no session: set_gpu_fraction\(0.3\)"),
    ],
)
def test_set_gpu_fraction_checks_its_share(fraction, error, message):
    with pytest.raises(error, match=message):
        ops.set_gpu_fraction(fraction)


def test_set_gpu_fraction_tells_torch(monkeypatch):
    told = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: told.append(args))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ops.set_gpu_fraction(0.5)
    assert told == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ops.set_gpu_fraction(1, device=1)
    assert told == [(1.0, 1)]


def test_printing_stops_and_starts_again(capsys):
    stdout, stderr = sys.stdout, sys.stderr
    ops.disable_print()
    ops.disable_print()
    print("unseen")
    print("unseen", file=sys.stderr)
    silent = sys.stdout
    ops.enable_print()
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert silent.closed
    ops.enable_print()
    print("seen")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("seen\n", "")


def test_suppress_stdout_hides_prints_but_not_errors(capsys):
    def fail_aloud():
        with ops.suppress_stdout(), ops.suppress_stdout():
            print("unseen")
            print("error", file=sys.stderr)
            raise KeyError

    with pytest.raises(KeyError):
        fail_aloud()
    print("seen")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("seen\n", "error\n")


def test_site_packages_are_printed_and_returned(capsys):
    folders = ops.get_site_packages_directory()
    assert folders == site.getsitepackages()
    assert capsys.readouterr().out == f"  tl.ops : site-packages in  {folders}\n"
