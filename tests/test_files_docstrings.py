"""The docstring corpus: parsed and not run, kept whole or not at all, split without leaks."""

from __future__ import annotations

import gc
import json
import re
import sys
import sysconfig
import warnings
from pathlib import Path

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError, docstrings

STDLIB = Path(sysconfig.get_path("stdlib"))

SOURCE = '''
"""Of the module."""
import nowhere_to_be_found
open("executed", "w")
if True:
    class A:
        """Of class A: don't use 3.14 max_pool2d.

        >>> A(1)
        ... more
        """
        x = "not a docstring"
        async def method(self):
            "Of a method"
            def inner():
                """Of the inner one"""
try:
    pass
except ValueError:
    def f():
        """of THE module"""
        return 1
def g():
    """+++"""
"""Not one either"""
'''
EXPECTED = """of the module
of class a don't use N max pool N d
of a method
of the inner one""".splitlines()


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A folder that stands for all sources."""
    folder = tmp_path / "sources"
    folder.mkdir()
    monkeypatch.setattr(docstrings, "_roots", lambda: [folder])
    return folder


def write(root, **sources):
    for name, source in sources.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())


def kept(tmp_path):
    return list((tmp_path / "cache").rglob("*.txt"))


def test_docstrings_come_in_order_as_words_and_nothing_is_run(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(root, a=SOURCE)
    words = files.load_docstrings_dataset()
    assert words == " <eos> ".join([*EXPECTED, ""]).split()
    assert not (tmp_path / "executed").exists()


def test_files_go_by_path_and_tests_and_foreign_packages_are_left_out(root):
    names = ["b", "a__z", "a__b", "c", "test__a", "site-packages__a", "tests__a", "a__test_a"]
    write(root, **{name: f"'{name.replace('_', 'q')}'" for name in names})
    assert files.load_docstrings_dataset()[::2] == ["aqqb", "aqqtestqa", "aqqz", "b", "c"]


BROKEN = {
    "syntax": b"def f(:\n",
    "bytes": b"'''\xff'''",
    "nul": b"'''a'''\0",
    "deep": b"(" * 100_000,
    "coding": b"# coding: nonsense\n'''a'''",
}


def test_broken_sources_are_skipped_and_the_others_stay(root, monkeypatch):
    write(root, **BROKEN, last="'''fine'''", first="'''\\d is no escape'''")
    shown = []

    class Bar(docstrings.tqdm):
        def set_postfix(self, *args, **kwargs):
            shown.append(kwargs)

    monkeypatch.setattr(docstrings, "tqdm", Bar)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.load_docstrings_dataset() == ["d", "is", "no", "escape", "<eos>", "fine", "<eos>"]
    assert shown[-1] == {"skipped": len(BROKEN)}


def test_second_call_reads_what_the_first_kept(root, tmp_path):
    write(root, a=SOURCE)
    first = files.load_docstrings_dataset()
    (root / "a.py").unlink()
    assert files.load_docstrings_dataset() == first
    (file,) = kept(tmp_path)
    assert file.name.endswith(f"numpy{np.__version__}-torch{docstrings.torch.__version__}.txt")


def test_other_versions_have_a_file_of_their_own(root, tmp_path, monkeypatch):
    write(root, a="'''one'''")
    files.load_docstrings_dataset()
    monkeypatch.setattr(np, "__version__", "99.0")
    write(root, a="'''two'''")
    assert files.load_docstrings_dataset() == ["two", "<eos>"]
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("place", ["path", "data/docstrings", "data"])
def test_kept_file_is_found_where_other_data_is(root, tmp_path, monkeypatch, place):
    write(root, a="'''one'''")
    files.load_docstrings_dataset(tmp_path / place)
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    (root / "a.py").unlink()
    assert files.load_docstrings_dataset(tmp_path / "path" if place == "path" else None) == ["one", "<eos>"]


def test_interruption_leaves_no_file_and_the_collector_on(root, tmp_path, monkeypatch):
    write(root, a="'''one'''", b="'''two'''")
    whole = docstrings._texts_in

    def broken_off(tree):
        yield from whole(tree)
        raise KeyboardInterrupt

    monkeypatch.setattr(docstrings, "_texts_in", broken_off)
    with pytest.raises(KeyboardInterrupt):
        files.load_docstrings_dataset()
    assert gc.isenabled()
    assert kept(tmp_path) == []
    monkeypatch.setattr(docstrings, "_texts_in", whole)
    assert files.load_docstrings_dataset() == ["one", "<eos>", "two", "<eos>"]


def test_interrupted_write_leaves_no_file(root, tmp_path, monkeypatch):
    write(root, a="'''one'''")

    def broken_off(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchlayer.files.atomic.os.fsync", broken_off)
    with pytest.raises(KeyboardInterrupt):
        files.load_docstrings_dataset()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: d.replace(b"one", b"two"), lambda d: b""])
def test_kept_file_that_was_changed_is_refused(root, tmp_path, spoil):
    write(root, a="'''one'''")
    files.load_docstrings_dataset()
    (file,) = kept(tmp_path)
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(FileFormatError, match=r"docstrings-.*it is not as it was written; delete it"):
        files.load_docstrings_dataset()


def test_folder_that_cannot_be_written_is_a_warning(root, tmp_path):
    write(root, a="'''one'''")
    (tmp_path / "cache").write_bytes(b"a file where a folder should be")
    with pytest.warns(UserWarning, match="could not be kept in .* the next call parses them again"):
        assert files.load_docstrings_dataset() == ["one", "<eos>"]


def test_no_sources_at_all_is_said(root):
    with pytest.raises(FileNotFoundError, match=r"installed without their \.py files"):
        files.load_docstrings_dataset()


def test_splits_share_no_docstring_and_ids_go_by_frequency(root):
    names = ["".join(chr(ord("a") + int(digit)) for digit in str(i)) for i in range(100, 300)]
    write(root, a="\n".join(f"def f{name}():\n  '''the word {name}'''" for name in names))
    train, valid, test, vocabulary = files.load_docstrings_splits(vocabulary_size=20)
    assert vocabulary == 20
    assert [len(train), len(valid), len(test)] == [180 * 4, 10 * 4, 10 * 4]
    kept_names = sorted(n for i, n in enumerate(names) if i % 20 not in (9, 19))[:16]  # once each: by the alphabet
    by_frequency = ["<eos>", "the", "word", "<unk>", *kept_names]
    expected = [by_frequency.index(w if w in by_frequency else "<unk>") for w in f"the word {names[0]} <eos>".split()]
    assert train[:4].tolist() == expected
    for part in (valid, test):
        assert np.unique(part).tolist() == [0, 1, 2, 3]  # words that the training part lacks are all <unk>
    assert {part.dtype for part in (train, valid, test)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("size", [2, 3, 4, 100])
def test_ids_stay_below_the_vocabulary(root, size):
    write(root, a="\n".join(f"def f{i}():\n  '''a b{'c' * i}'''" for i in range(40)))
    train, valid, test, vocabulary = files.load_docstrings_splits(vocabulary_size=size)
    assert max(train.max(), valid.max(), test.max()) < vocabulary <= size


def test_vocabulary_without_room_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size must be at least 2, got 1"):
        files.load_docstrings_splits(vocabulary_size=1)


def test_real_packages_give_their_docstrings(monkeypatch):
    monkeypatch.setattr(docstrings, "_roots", lambda: [STDLIB / "json", Path(np.linalg.__file__).parent])
    text = " ".join(files.load_docstrings_dataset())
    for function in (json.dump, json.JSONEncoder.default, np.linalg.svd):
        first_line = function.__doc__.strip().splitlines()[0].lower()
        assert " ".join(re.findall("[a-z]+", first_line)) in text


def test_the_three_sources_are_found_without_importing():
    assert [root.name for root in docstrings._roots()] == [STDLIB.name, "numpy", "torch"]
    assert all((root / "__init__.py").is_file() for root in docstrings._roots()[1:])
    before = set(sys.modules)
    docstrings._parsed(docstrings._sources(STDLIB / "wsgiref"))
    assert set(sys.modules) == before
