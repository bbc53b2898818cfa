"""CIFAR-10 from its binary release: records of fixed length, so nothing is unpickled."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from .archive import extract
from .datasets import check_shape
from .download import download, offline
from .errors import FileFormatError
from .places import home_folder, places

_RECORD = 3073  # a label, then 32 x 32 red, green and blue
_N_RECORDS = 10_000  # a file
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_ARCHIVE = "cifar-10-binary.tar.gz"
_BYTES, _SHA256 = 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_MIRRORS = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
)
_FOLDER = "cifar-10-batches-bin"  # within the archive
_PIECE = 1 << 20  # bytes read at once
_XZ_MEMORY = 1 << 28  # bytes that an xz file may ask for to be unpacked; xz -9 asks for 65 MiB


def load_cifar10_dataset(
    shape: tuple[int, ...] = (-1, 32, 32, 3),
    path: str | os.PathLike[str] | None = None,
    plotable: bool = False,
    second: float = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """CIFAR-10: 50,000 training and 10,000 test images of ten kinds of things, 32 x 32 in colour.

    Pixels stay in 0 to 255, as in the original. Labels are int64, where the original has int32: torch's losses take
    nothing else. Five training files and a test file of 10,000 records each are needed, plain, or packed as ``.gz`` or
    ``.xz``.

    Args:
        shape: of the images, batch first: ``(-1, 32, 32, 3)``, ``(-1, 3, 32, 32)``, or ``(-1, 3072)``, the red plane
            first.
        path: folder with ``data_batch_1.bin`` and the others, or with the archive's ``cifar-10-batches-bin``; else
            places are looked in as for MNIST, the name being ``cifar10``.
        plotable: draw the first 25 training images into ``cifar10.png`` (needs matplotlib).
        second: accepted as in the original, and unused: no window opens.

    Shape:
        ``X_train, y_train, X_test, y_test``; images of ``shape``, float32; labels ``(N,)`` int64.

    Raises:
        FileFormatError: a file is damaged, has another length, or a label above 9.
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        ValueError: ``shape`` does not hold 3,072 values.

    Reference:
        Krizhevsky 2009, Learning multiple layers of features from tiny images,
        https://www.cs.toronto.edu/~kriz/cifar.html, the binary version.
    """
    check_shape(shape, _RECORD - 1, "load_cifar10_dataset")
    files = _fetched(path)
    parts = [read_cifar10(file, _N_RECORDS) for file in files]
    images = np.concatenate([images for images, _ in parts[:-1]])
    labels = np.concatenate([labels for _, labels in parts[:-1]])
    if plotable:
        from ..visualize import images2d  # loads matplotlib

        images2d(images[:25], channels_first=True, name="cifar10.png")
    test_images, test_labels = parts[-1]
    return _shaped(images, shape), labels, _shaped(test_images, shape), test_labels


def read_cifar10(path: str | os.PathLike[str], n_records: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One file of CIFAR-10's binary records, plain, or packed as its name says: ``.gz``, ``.xz``.

    Args:
        path: the file.
        n_records: how many it must have; ``None`` takes any number up to 100,000.

    Shape:
        images ``(N, 3, 32, 32)`` uint8, labels ``(N,)`` int64.

    Raises:
        FileFormatError: another number of records, a part of one, a label above 9, or a damaged packing.
        FileNotFoundError: there is no such file.
    """
    most = _RECORD * (100_000 if n_records is None else n_records)
    with _as_format_error(path), open(path, "rb") as f:
        data = _unpacked(path, f, most + 1)  # a byte more shows that there is more
    if n_records is not None and len(data) != most:
        more = "more than " if len(data) > most else ""
        reason = f"it has {more}{min(len(data), most)} bytes, and {n_records} records of {_RECORD} are {most}"
        raise FileFormatError(path, reason, min(len(data), most))
    if not data or len(data) > most or len(data) % _RECORD:
        whole = len(data) // _RECORD * _RECORD
        reason = f"it has {len(data)} bytes, which is no number of records of {_RECORD} from 1 to 100,000"
        raise FileFormatError(path, reason, whole)
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        bad = int((labels > 9).argmax())
        raise FileFormatError(path, f"label {labels[bad]} is none of ten classes", bad * _RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels.astype(np.int64)


def _shaped(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``(N, 3, 32, 32)`` uint8 as float32 of ``shape``."""
    images = images.transpose(0, 2, 3, 1) if tuple(shape[1:]) == (32, 32, 3) else images
    return images.astype(np.float32, order="C").reshape(shape)


def _fetched(path: str | os.PathLike[str] | None) -> list[Path]:
    """The six files, downloaded and unpacked if they are nowhere."""
    names = (*_TRAIN, _TEST)
    candidates = [folder / inner for folder in places("cifar10", path) for inner in ("", _FOLDER)]
    for folder in candidates:
        files = [_find(folder, name) for name in names]
        if None not in files:
            return [file for file in files if file is not None]
    if offline():
        raise FileNotFoundError(
            f"no folder has all files of CIFAR-10's binary version ({', '.join(names)}; or these with .gz or .xz), and "
            f"TORCHLAYER_OFFLINE is set, so nothing was downloaded. Looked in "
            f"{', '.join(repr(str(p)) for p in candidates)}. Put the files into one of these, pass path=, set "
            "TORCHLAYER_DATA to the folder that holds 'cifar10', or unset TORCHLAYER_OFFLINE"
        )
    home = home_folder("cifar10", path)
    archive = download(_ARCHIVE, home, [mirror + _ARCHIVE for mirror in _MIRRORS], _SHA256, _BYTES)
    extract(archive, home)
    return [home / _FOLDER / name for name in names]


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / (name + end) for end in ("", ".gz", ".xz")) if p.is_file()), None)


def _unpacked(path: str | os.PathLike[str], f: IO[bytes], n_bytes: int) -> bytes:
    """At most so many bytes of the content. Packed ones are read to the end, which is where sums are compared."""
    name = os.fspath(path)
    if name.endswith(".gz"):
        with gzip.GzipFile(fileobj=f) as packed:
            return _read(packed, n_bytes)
    if not name.endswith(".xz"):
        return _read(f, n_bytes)
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    data = unpacker.decompress(f.read(), n_bytes)
    if len(data) < n_bytes and not unpacker.eof:
        raise EOFError("the stream has no end")
    if unpacker.unused_data:
        raise lzma.LZMAError("bytes follow the end of the stream")
    return data


def _read(f: IO[bytes] | gzip.GzipFile, n_bytes: int) -> bytes:
    """At most so many bytes. A file's own ``read`` takes memory for all of them before it looks how many there are."""
    pieces = []
    while n_bytes and (piece := f.read(min(n_bytes, _PIECE))):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _as_format_error(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as e:
        raise FileFormatError(path, f"its packing is damaged or cut off ({e})") from e
