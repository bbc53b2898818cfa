"""CIFAR-10's binary records, made up here, found, parsed and refused."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError, cifar10

NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
N = 1000  # in place of the 10,000 that a file must have, for speed
PUBLISHED_N = cifar10._N_RECORDS


def batch(seed):
    """A file's bytes: labels that count, and pixels that say which file, record, plane, row and column they are of."""
    records = np.zeros((N, 3073), np.uint8)
    records[:, 0] = np.arange(seed, seed + N) % 10
    records[:, 1 + np.arange(3) * 1024] = seed + np.uint8([0, 50, 100])
    records[:, 1 + 32 * 2 + 5] = np.arange(N) % 251  # red, row 2, column 5
    return records.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "cifar10"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        (folder / name).write_bytes(batch(i))
    return folder


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    """No network, no data of the user's."""
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)
    monkeypatch.setattr(cifar10, "_N_RECORDS", N)


def link(source, target, leave_out=()):
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name not in leave_out:
            (target / path.name).symlink_to(path)
    return target


def test_images_are_turned_typed_and_in_order(folder):
    X, y, X_test, y_test = files.load_cifar10_dataset(path=folder)
    assert (X.shape, X_test.shape) == ((5 * N, 32, 32, 3), (N, 32, 32, 3))
    assert (X.dtype, y.dtype, X_test.dtype, y_test.dtype) == (np.float32, np.int64, np.float32, np.int64)
    np.testing.assert_array_equal(X[::N, 0, 0], [[i, i + 50, i + 100] for i in range(5)])
    np.testing.assert_array_equal(X[:N, 2, 5, 0], np.arange(N) % 251)
    np.testing.assert_array_equal(X_test[:, 0, 0, 2], np.full(N, 105))
    np.testing.assert_array_equal(y, np.concatenate([np.arange(i, i + N) % 10 for i in range(5)]))
    np.testing.assert_array_equal(y_test, np.arange(5, 5 + N) % 10)
    assert X.flags.c_contiguous


@pytest.mark.parametrize("shape", [(-1, 3, 32, 32), (-1, 3072)])
def test_other_shapes_keep_the_planes(folder, shape, monkeypatch):
    monkeypatch.setattr(cifar10, "_TRAIN", cifar10._TRAIN[:1])
    X = files.load_cifar10_dataset(shape, path=folder)[0]
    expected = np.frombuffer((folder / NAMES[0]).read_bytes(), np.uint8).reshape(N, 3073)[:, 1:]
    np.testing.assert_array_equal(X, expected.reshape(shape))


@pytest.mark.parametrize("shape", [(-1,), (-1, 3073), (50000, 3072), (-1, 32, 32)])
def test_shape_that_holds_other_values_is_refused_first(shape):
    with pytest.raises(ValueError, match=r"load_cifar10_dataset: shape must be .* product is 3072, got \("):
        files.load_cifar10_dataset(shape)


@pytest.mark.parametrize("place", ["path", "path/cifar-10-batches-bin", "data/cifar10", "cache"])
def test_files_are_found_in_every_place(folder, tmp_path, monkeypatch, place):
    monkeypatch.setattr(cifar10, "_TRAIN", cifar10._TRAIN[:1])
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    link(folder, tmp_path / ("cache/torchlayer/data/cifar10" if place == "cache" else place))
    given = tmp_path / "path" if place.startswith("path") else None
    assert len(files.load_cifar10_dataset(path=given)[0]) == N


@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_records_are_read(tmp_path, end, pack):
    path = tmp_path / f"a.bin{end}"
    path.write_bytes(pack(batch(3)[: 20 * 3073]))
    images, labels = files.read_cifar10(path)
    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [(3 + i) % 10 for i in range(20)]
    assert images[7, :, 0, 0].tolist() == [3, 53, 103]


def test_missing_files_offline_name_files_places_and_cures(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        files.load_cifar10_dataset(path=tmp_path / "mine")
    told = [str(tmp_path / p) for p in ("mine", "mine/cifar-10-batches-bin", "data", "data/cifar10")]
    for part in [*NAMES, *told, "TORCHLAYER_DATA", "TORCHLAYER_OFFLINE", "path="]:
        assert part in str(error.value)


def test_without_a_home_a_given_path_is_enough_and_else_the_cure_is_named(folder, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("TORCHLAYER_OFFLINE")
    monkeypatch.setattr(Path, "home", homeless)
    assert len(files.load_cifar10_dataset(path=folder)[0]) == 5 * N
    with pytest.raises(FileNotFoundError, match="no home folder to keep data sets in; pass path="):
        files.load_cifar10_dataset()


def test_missing_files_are_downloaded_verified_and_unpacked(folder, tmp_path, monkeypatch):
    asked = []

    def stand_in(name, target, urls, sha256, size):
        asked.append((name, target, [url.rpartition("/")[2] for url in urls], sha256[:8], size))
        target.mkdir(parents=True)
        with tarfile.open(target / name, "w:gz", compresslevel=1) as archive:
            for file in ("data_batch_1.bin", "test_batch.bin"):
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
                data = np.random.RandomState(0).bytes(500)  # whose length is wrong, which shows that it was read
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return target / name

    monkeypatch.delenv("TORCHLAYER_OFFLINE")
    monkeypatch.setattr(cifar10, "download", stand_in)
    with pytest.raises(FileFormatError, match=r"data_batch_1.bin' .* 500 bytes, and 1000 records of 3073 are 3073000"):
        files.load_cifar10_dataset(path=tmp_path / "mine")
    name = "cifar-10-binary.tar.gz"
    assert asked == [(name, tmp_path / "mine", [name, name], "c4a38c50", 170_052_171)]


def test_first_images_can_be_drawn(folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(cifar10, "_TRAIN", cifar10._TRAIN[:1])
    monkeypatch.chdir(tmp_path)
    files.load_cifar10_dataset(path=folder, plotable=True)
    assert (tmp_path / "cifar10.png").read_bytes().startswith(b"\x89PNG")


ONE = bytes([9]) + bytes(range(256)) * 12
BAD = [
    ("empty", b"", "it has 0 bytes, which is no number of records of 3073", 0),
    ("part of a record", ONE * 2 + ONE[:100], "it has 6246 bytes, which is no number of records", 2 * 3073),
    ("label", ONE + b"\x0a" + ONE[1:], "label 10 is none of ten classes", 3073),
]


@pytest.mark.parametrize(("end", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize(("data", "reason", "offset"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_records_are_refused_with_place_and_reason(tmp_path, data, reason, offset, end, pack):
    path = tmp_path / f"bad.bin{end}"
    path.write_bytes(pack(data))
    with pytest.raises(FileFormatError) as error:
        files.read_cifar10(path)
    assert reason in str(error.value)
    assert (error.value.path, error.value.offset) == (str(path), offset)


@pytest.mark.parametrize(
    ("n_records", "reason"),
    [(3, "it has 6146 bytes, and 3 records of 3073 are 9219"), (1, "it has more than 3073 bytes, and 1 records")],
)
def test_another_number_of_records_is_refused(tmp_path, n_records, reason):
    path = tmp_path / "a.bin"
    path.write_bytes(2 * ONE)
    with pytest.raises(FileFormatError, match=reason):
        files.read_cifar10(path, n_records)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: b"",
        lambda d: ONE,
        lambda d: d[:-5],
        lambda d: d[:-20] + bytes(20),
        lambda d: d[:20] + b"\xff" + d[21:],
    ],
    ids=["empty", "not packed", "cut", "wrong sum", "flipped"],
)
@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_bad_packing_is_refused(tmp_path, spoil, end, pack):
    path = tmp_path / f"a.bin{end}"
    path.write_bytes(spoil(pack(2 * ONE)))
    with pytest.raises(FileFormatError, match=r"packing is damaged or cut off|it has 0 bytes"):
        files.read_cifar10(path)


def test_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "a.bin.xz"
    path.write_bytes(lzma.compress(bytes(100_000_000), preset=0))
    with pytest.raises(FileFormatError, match="it has more than 3073 bytes"):
        files.read_cifar10(path, 1)
    greedy = lzma.compress(ONE, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29, "preset": 0}])
    path.write_bytes(greedy)
    with pytest.raises(FileFormatError, match=r"packing is damaged.*[Mm]emory"):
        files.read_cifar10(path, 1)


def quickly(data):
    return lzma.compress(data, preset=0)  # the others ask for megabytes of their own


@pytest.mark.parametrize(("end", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", quickly)])
def test_small_files_take_little_memory_though_any_number_of_records_may_come(tmp_path, end, pack):
    path = tmp_path / f"a.bin{end}"
    path.write_bytes(pack(batch(0)[:3073]))
    tracemalloc.start()
    try:
        files.read_cifar10(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


REAL = Path(os.environ.get("TORCHLAYER_DATA", "nowhere"), "cifar10")  # before the fixture hides it


@pytest.mark.skipif(not REAL.is_dir(), reason="TORCHLAYER_DATA has no cifar10 folder")
def test_real_batch_has_its_published_class_counts():
    found = next(p for p in (REAL / f"data_batch_1.bin{end}" for end in ("", ".gz", ".xz")) if p.is_file())
    images, labels = files.read_cifar10(found, PUBLISHED_N)
    assert np.bincount(labels).tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert images[0, :, 0, 0].tolist() == [59, 62, 63]  # the frog
