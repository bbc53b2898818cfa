"""Data sets found, parsed and refused; made up here, so that no real one is needed."""

from __future__ import annotations

import builtins
import gzip
import os
import random
import struct

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError
from torchlayer.files.idx import read_idx

NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array, magic=None):
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def packed(data):
    return gzip.compress(data, 1, mtime=0)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)

    def images(n):
        pixels = np.zeros((n, 28, 28), np.uint8)
        pixels[:, 3, 5] = rng.integers(256, size=n)  # few, so that packing is quick
        return pixels

    return {
        NAMES[0]: images(10_003),
        NAMES[1]: rng.integers(10, size=10_003).astype(np.uint8),
        NAMES[2]: images(7),
        NAMES[3]: np.arange(7).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    for name, array in arrays.items():
        (folder / name).write_bytes(packed(idx(array)))
    return folder


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    """No network, no data of the user's."""
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)


def link(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    return target


def test_mnist_is_split_scaled_and_typed_as_documented(folder, arrays):
    X, y, X_val, y_val, X_test, y_test = files.load_mnist_dataset(path=folder)
    expected = arrays[NAMES[0]].reshape(-1, 784).astype(np.float64) / 256
    np.testing.assert_array_equal(np.concatenate([X, X_val]), expected)
    np.testing.assert_array_equal(np.concatenate([y, y_val]), arrays[NAMES[1]])
    np.testing.assert_array_equal(X_test, arrays[NAMES[2]].reshape(-1, 784) / 256)
    np.testing.assert_array_equal(y_test, arrays[NAMES[3]])
    assert [len(a) for a in (X, y, X_val, y_val)] == [3, 3, 10_000, 10_000]
    assert {a.dtype for a in (X, X_val, X_test)} == {np.dtype(np.float32)}
    assert {a.dtype for a in (y, y_val, y_test)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("shape", [(-1, 28, 28, 1), (-1, 1, 28, 28), (-1, 28, 28), (-1, 784)])
def test_images_take_the_shape_asked_for(folder, arrays, shape):
    X_test = files.load_mnist_dataset(shape, path=str(folder))[4]
    np.testing.assert_array_equal(X_test, (arrays[NAMES[2]] / 256).reshape(shape))


@pytest.mark.parametrize("shape", [(-1,), (784,), (-1, 783), (10, 784), (-1, -28, -28), (784, -1), (-1, 0)])
@pytest.mark.parametrize("load", [files.load_mnist_dataset, files.load_digits_dataset])
def test_shape_that_holds_other_pixels_is_refused_first(load, shape):
    n = {"load_mnist_dataset": 784, "load_digits_dataset": 64}[load.__name__]
    with pytest.raises(ValueError, match=rf"{load.__name__}: shape must be .* product is {n}, got \("):
        load(shape)


@pytest.mark.parametrize("place", ["path", "data/mnist", "data", "cache"])
def test_files_are_found_in_every_place(folder, tmp_path, monkeypatch, place):
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    places = {"cache": "cache/torchlayer/data/mnist"}
    link(folder, tmp_path / places.get(place, place))
    assert len(files.load_mnist_dataset(path=tmp_path / "path" if place == "path" else None)[0]) == 3


def test_path_comes_before_the_environment(folder, tmp_path, monkeypatch):
    link(folder, tmp_path / "data" / "mnist")
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    mine = link(folder, tmp_path / "mine")
    (mine / NAMES[3]).unlink()
    (mine / NAMES[3]).write_bytes(packed(idx(np.full(7, 9))))
    assert set(files.load_mnist_dataset(path=mine)[5]) == {9}


def test_unpacked_files_serve_too(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert len(files.load_mnist_dataset(path=tmp_path)[0]) == 3


def test_missing_files_offline_name_files_places_and_cures(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        files.load_mnist_dataset(path=tmp_path / "mine")
    told = [*NAMES, *(str(tmp_path / p) for p in ("mine", "data", "data/mnist", "cache/torchlayer/data/mnist"))]
    for part in [*told, "TORCHLAYER_DATA", "TORCHLAYER_OFFLINE", "path="]:
        assert part in str(error.value)


@pytest.mark.parametrize("given", [True, False], ids=["path given", "no path"])
def test_missing_files_are_downloaded_with_pinned_hashes(tmp_path, monkeypatch, given):
    asked = []

    def stand_in(name, folder, urls, sha256, size):
        asked.append((name, folder, size, len(sha256)))
        assert urls == [f"https://{host}/mnist/{name}" for host in HOSTS]
        raise FileNotFoundError("no network in tests")

    monkeypatch.delenv("TORCHLAYER_OFFLINE")
    monkeypatch.setitem(files.load_mnist_dataset.__globals__, "download", stand_in)
    with pytest.raises(FileNotFoundError, match="no network in tests"):
        files.load_mnist_dataset(path=tmp_path / "mine" if given else None)
    target = tmp_path / ("mine" if given else "cache/torchlayer/data/mnist")
    assert asked == [("train-images-idx3-ubyte.gz", target, 9_912_422, 64)]


HOSTS = ("ossci-datasets.s3.amazonaws.com", "storage.googleapis.com/cvdf-datasets")

ONES = np.ones((2, 3), np.uint8)
BAD_IDX = [
    ("empty", b"", "starts with"),
    ("other magic", idx(ONES, b"\0\0\x0d\2"), "starts with 00 00 0d 02, not 00 00 08 02"),
    ("other axes", idx(np.ones(6)), "starts with 00 00 08 01"),
    ("html", b"<html>404</html>", "starts with 3c 68"),
    ("header cut", idx(ONES)[:9], "header is cut off"),
    ("data cut", idx(ONES)[:-1], "ends after 5 of 6 bytes"),
    ("too long", idx(ONES) + b"x", "goes on after the 6 bytes"),
    ("lies", b"\0\0\x08\2" + b"\xff" * 8 + b"x", "more than the file can hold"),
]


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BAD_IDX], ids=[row[0] for row in BAD_IDX])
def test_bad_idx_is_refused_with_the_reason(tmp_path, data, text, pack):
    path = tmp_path / ("a.gz" if pack else "a")
    path.write_bytes(packed(data) if pack else data)
    with pytest.raises(FileFormatError, match=f"{path.name}'.*{text}"):
        read_idx(path, 2)


def test_lengths_beside_a_zero_that_no_array_can_have_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\x08\3" + bytes(4) + b"\xff" * 8)
    with pytest.raises(FileFormatError, match=r"announces \(0, 4294967295, 4294967295\), which no array can be"):
        read_idx(tmp_path / "a", 3)


@pytest.mark.parametrize(
    "spoil",
    [lambda d: b"", lambda d: idx(ONES), lambda d: d[:-5], lambda d: d[:-8] + b"\0" * 8, lambda d: d + b"junk"],
    ids=["empty", "not packed", "cut", "wrong sum", "junk behind"],
)
def test_bad_gzip_is_refused(tmp_path, spoil):
    (tmp_path / "a.gz").write_bytes(spoil(packed(idx(ONES))))
    with pytest.raises(FileFormatError):
        read_idx(tmp_path / "a.gz", 2)


def test_flipped_bits_never_change_data_silently(tmp_path):
    array = np.random.default_rng(0).integers(256, size=(20, 30)).astype(np.uint8)
    good, path, rng = packed(idx(array)), tmp_path / "a.gz", random.Random(0)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            np.testing.assert_array_equal(read_idx(path, 2), array)  # a flip in gzip's time stamp, say
        except FileFormatError:
            refused += 1
    assert refused > 350


REPLACED = [
    ("other pixels", NAMES[2], idx(np.ones((7, 20, 20))), r"images are \(20, 20\)"),
    ("too few labels", NAMES[3], idx(np.ones(6)), "6 labels for 7 images"),
    ("no digit", NAMES[3], idx(np.full(7, 10)), "label 10 is not a digit"),
    ("labels for images", NAMES[2], idx(np.ones(7)), "starts with"),
]


@pytest.mark.parametrize(("name", "data", "text"), [row[1:] for row in REPLACED], ids=[row[0] for row in REPLACED])
def test_files_that_are_not_mnist_are_named(folder, tmp_path, name, data, text):
    mine = link(folder, tmp_path / "mine")
    (mine / name).unlink()
    (mine / name).write_bytes(packed(data))
    with pytest.raises(FileFormatError, match=f"{name}.*{text}"):
        files.load_mnist_dataset(path=mine)


def test_training_file_without_enough_images_is_refused(folder, tmp_path):
    mine = link(folder, tmp_path / "mine")
    for name in NAMES[:2]:
        (mine / name).unlink()
        (mine / name).write_bytes((folder / name.replace("train", "t10k")).read_bytes())
    with pytest.raises(FileFormatError, match="7 images, and 10000 of them are to be validation"):
        files.load_mnist_dataset(path=mine)


REAL_MNIST = os.path.join(os.environ.get("TORCHLAYER_DATA", "nowhere"), "mnist")  # before the fixture hides it


@pytest.mark.skipif(not os.path.isdir(REAL_MNIST), reason="TORCHLAYER_DATA has no mnist folder")
def test_real_mnist_has_its_published_class_counts():
    _, y, _, y_val, X_test, y_test = files.load_mnist_dataset(path=REAL_MNIST)
    counts = np.bincount(np.concatenate([y, y_val]))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert X_test.max() == 255 / 256


def test_digits_are_real_split_and_always_the_same():
    from sklearn.datasets import load_digits

    first, second = files.load_digits_dataset(), files.load_digits_dataset()
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    X, y = np.concatenate(first[::2]), np.concatenate(first[1::2])
    assert [len(a) for a in first] == [1297, 1297, 200, 200, 300, 300]
    assert (X.dtype, y.dtype, X.min(), X.max()) == (np.float32, np.int64, 0, 1)
    data, target = load_digits(return_X_y=True)
    ours = sorted((*row, label) for row, label in zip((X * 16).tolist(), y.tolist()))
    assert ours == sorted((*row, label) for row, label in zip(data.tolist(), target.tolist()))
    assert all(len(np.unique(labels)) == 10 for labels in first[1::2])


def test_digits_take_the_shape_asked_for_and_leave_the_global_stream_alone():
    before = repr(np.random.get_state())
    flat, square = files.load_digits_dataset()[0], files.load_digits_dataset((-1, 8, 8, 1))[0]
    np.testing.assert_array_equal(square, flat.reshape(-1, 8, 8, 1))
    assert repr(np.random.get_state()) == before


def test_digits_without_scikit_learn_name_the_command(monkeypatch):
    real_import = builtins.__import__

    def without_sklearn(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        files.load_digits_dataset()
