"""Listing and making folders, and naming differences."""

from __future__ import annotations

import os

import pytest

from torchlayer import files
from torchlayer.files.compare import differences
from torchlayer.files.folders import natural_key


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("w1pre_10.npz", "w1pre_9.npz", "w1pre_9.npz.txt", "notes.txt", "x.NPZ"):
        (tmp_path / name).touch()
    for name in ("run10", "run9"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("regx", "names"),
    [
        (r"\.npz", ["w1pre_9.npz", "w1pre_9.npz.txt", "w1pre_10.npz"]),
        (r"w1pre_[0-9]+\.(npz)$", ["w1pre_9.npz", "w1pre_10.npz"]),
        ("missing", []),
    ],
)
def test_matching_names_are_listed_in_natural_order(folder, regx, names):
    for path in (folder, str(folder), None, ""):
        assert files.load_file_list(path, regx, printable=False) == names


def test_listing_prints_what_the_original_printed(folder, capsys):
    files.load_file_list(folder, "notes")
    assert capsys.readouterr().out == "Match file list = ['notes.txt']\nNumber of files = 1\n"
    files.load_file_list(folder, printable=False)
    assert capsys.readouterr().out == ""


def test_folders_are_listed_as_paths(folder):
    assert files.load_folder_list(folder) == [str(folder / "run9"), str(folder / "run10")]
    assert files.load_folder_list() == ["run9", "run10"]


@pytest.mark.parametrize("call", [files.load_file_list, files.load_folder_list])
def test_missing_folder_is_an_error(tmp_path, call):
    with pytest.raises(FileNotFoundError):
        call(tmp_path / "missing")


def test_folder_is_made_once_with_its_parents(tmp_path, capsys):
    path = str(tmp_path / "a" / "b")
    assert files.exists_or_mkdir(path) is False
    assert os.path.isdir(path)
    assert files.exists_or_mkdir(path) is True
    assert capsys.readouterr().out == f"[*] creates {path} ...\n[!] {path} exists ...\n"
    assert files.exists_or_mkdir(path, verbose=False) is True
    assert capsys.readouterr().out == ""


def test_file_in_the_place_of_the_folder_is_an_error(folder):
    with pytest.raises(FileExistsError):
        files.exists_or_mkdir(folder / "notes.txt", verbose=False)


def test_natural_order_survives_odd_digits_and_mixed_names():
    names = ["\u00b2", "a", "10", "9", "", "a10b2", "a9b10", "\u0663", "09"]
    assert sorted(names, key=natural_key)[:4] == ["", "09", "9", "10"]
    assert sorted(["a10b2", "a9b10", "a10b1"], key=natural_key) == ["a9b10", "a10b1", "a10b2"]


def test_long_lists_of_differences_are_cut():
    (line,) = differences({}, dict.fromkeys(map(str, range(100)), ""))
    assert line == "missing: " + ", ".join(map(str, range(12))) + ", and 88 more"
