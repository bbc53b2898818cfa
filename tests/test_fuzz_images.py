"""A few thousand of fuzz_images.py's inputs, other ones for every kind of file."""

from __future__ import annotations

import pytest
from fuzz_images import damaged, framed, fuzz, targets

from torchlayer.files import FileFormatError


@pytest.mark.parametrize("name", targets())
def test_damaged_files_are_read_or_refused_with_the_one_error(name, tmp_path):
    report = fuzz(name, 300, seed=1, folder=tmp_path)
    assert report.outcomes["refused"] > 30
    assert sum(report.outcomes.values()) == 300


@pytest.mark.parametrize("name", targets())
def test_undamaged_files_are_read(name, tmp_path):
    target = targets()[name]
    path = tmp_path / name.replace(" ", "_")
    for seed in target.seeds[:1]:
        path.write_bytes(target.finish(seed))
        if name == "tfrecord lengths":
            with pytest.raises(FileFormatError):  # the length is wrong on purpose
                target.read(path)
        elif name == "tfrecord":
            with pytest.raises(FileFormatError, match=r"no tf\.train\.Example"):  # its last record is a SequenceExample
                target.read(path)
        else:
            target.read(path)


def test_a_broken_promise_is_noticed_and_kept(tmp_path, monkeypatch):
    import fuzz_images

    def careless(path):
        if path.read_bytes()[:3] != framed(b"")[:3]:
            raise KeyError("oops")

    broken = targets()["example"]._replace(read=careless)
    monkeypatch.setattr(fuzz_images, "targets", lambda: {"example": broken})
    with pytest.raises(AssertionError, match=r"example, input 0, kept as .*KeyError\('oops'\)"):
        fuzz("example", 10, seed=0, folder=tmp_path, keep=tmp_path)
    assert len(list(tmp_path.glob("fuzz_example_0_0"))) == 1


def test_damage_is_the_same_for_a_seed():
    import random

    assert damaged(b"abcdef" * 9, random.Random(3)) == damaged(b"abcdef" * 9, random.Random(3)) != b"abcdef" * 9
