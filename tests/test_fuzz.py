"""What attacks/fuzz.py says of a parser that breaks the promise; test_no_code_execution.py runs it on all others."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from torchlayer.files import FileFormatError

pytest.importorskip("resource", reason="limits of memory are POSIX's")
FUZZ = Path(__file__).resolve().parents[1] / "attacks" / "fuzz.py"


@pytest.fixture
def fuzz():
    spec = importlib.util.spec_from_file_location("attacks_fuzz", FUZZ)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def careless(path):
    if path.read_bytes() != b"good" * 9:
        raise KeyError("oops")


def vague(path):
    if path.read_bytes() != b"good" * 9:
        raise FileFormatError("another file", "it is bad")


def greedy(path):
    return bytes(1 << 30)


@pytest.mark.parametrize(
    ("parse", "fault"),
    [(careless, "KeyError: 'oops'"), (vague, "an error that does not say"), (greedy, "MemoryError")],
)
def test_a_broken_promise_is_counted_and_its_input_kept(fuzz, tmp_path, monkeypatch, parse, fault):
    monkeypatch.setitem(fuzz.TARGETS, "broken", fuzz.Target(parse, lambda: [b"good" * 9]))
    found = fuzz.fuzz("broken", 20, 0, tmp_path)
    assert [text for text in found.faults if not text.startswith(fault)] == []
    assert len(list(tmp_path.glob("broken-0-*"))) == sum(found.faults.values()) > 0


def test_damage_is_the_same_for_a_seed(fuzz):
    once, again = (fuzz.mutated(random.Random(3), [b"abcdef" * 9]) for _ in range(2))
    assert once == again != b"abcdef" * 9
