"""Saved weights drawn into pictures beside their files."""

from __future__ import annotations

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError


def save(path, *arrays):
    files.save_npz([np.asarray(a, np.float32) for a in arrays], name=path)


def test_first_array_of_each_matching_file_is_drawn_in_natural_order(tmp_path, capsys):
    weight = np.random.default_rng(0).standard_normal((6, 4))
    for name in ("w1pre_10", "w1pre_9", "other"):
        save(tmp_path / f"{name}.npz", weight, np.zeros(5))
    made = files.npz_to_W_pdf(tmp_path, shape=(2, 3))
    assert made == [tmp_path / "w1pre_9.pdf", tmp_path / "w1pre_10.pdf"]
    assert all(path.read_bytes().startswith(b"%PDF") for path in made)
    assert not (tmp_path / "other.pdf").exists()
    assert "w1pre_9.npz --> w1pre_9.pdf" in capsys.readouterr().out


def test_no_path_is_the_current_folder_and_dots_in_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("run.1.npz", np.ones((784, 4)))
    (made,) = files.npz_to_W_pdf(regx=r"^run\.")
    assert (tmp_path / made).resolve() == tmp_path / "run.1.pdf"
    assert (tmp_path / made).is_file()


def test_weights_that_do_not_fill_the_tiles_are_named_with_their_file(tmp_path):
    save(tmp_path / "w1pre_1.npz", np.ones((6, 4)))
    with pytest.raises(ValueError, match=r"w1pre_1\.npz': each column of W has 6 values, which do not fill shape"):
        files.npz_to_W_pdf(tmp_path)


def test_pickled_file_is_refused(tmp_path):
    np.savez(tmp_path / "w1pre_1.npz", params=np.array([np.ones((6, 4)), np.ones(4)], object))
    with pytest.raises(FileFormatError, match=r"w1pre_1\.npz"):
        files.npz_to_W_pdf(tmp_path, shape=(2, 3))
