"""TensorFlow's TFRecord files, written and read without TensorFlow.

A file is its records one after the other: the length in eight bytes, lowest first; the checksum of these; the record;
the checksum of the record (`crc32c`). What a record holds is its own affair; mostly a `tf.train.Example` (`example`).

`TFRecordWriter` writes, `read_tfrecord` reads from the first to the last, `TFRecordFile` any record in any order, so it
is a data set for `torch.utils.data.DataLoader`, shuffled as a whole where TensorFlow shuffles what fits in a buffer.
"""

from __future__ import annotations

import contextlib
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO

from .atomic import atomic_write
from .crc32c import masked_crc32c
from .errors import FileFormatError
from .example import Record

_HEAD = struct.Struct("<QI")  # length, checksum of the length
_TAIL = struct.Struct("<I")  # checksum of the record
_FRAME = _HEAD.size + _TAIL.size
_BLOCK = 1 << 20


class TFRecordWriter:
    """A file of records, as TensorFlow writes it: there as a whole once it is closed, or not at all.

    Args:
        path: the file; one that is there is replaced when the writer is closed.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with TFRecordWriter(folder.name + "/a.tfrecords") as writer:
    ...     writer.write(b"first")
    ...     writer.write(b"second")
    >>> [bytes(record) for record in read_tfrecord(folder.name + "/a.tfrecords")]
    [b'first', b'second']
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.n_records = 0
        self._stack = contextlib.ExitStack()
        self._f: BinaryIO | None = self._stack.enter_context(atomic_write(path))

    def write(self, record: bytes | bytearray | memoryview) -> None:
        """Append one record.

        Raises:
            TypeError: not bytes.
            ValueError: the writer is closed.
        """
        if self._f is None:
            raise ValueError(f"the writer of '{os.fspath(self.path)}' is closed")
        if not isinstance(record, (bytes, bytearray, memoryview)):
            raise TypeError(f"a record must be bytes (encode_example makes them), got {type(record).__name__}")
        length = len(record).to_bytes(8, "little")
        self._f.write(length + _TAIL.pack(masked_crc32c(length)))
        self._f.write(record)
        self._f.write(_TAIL.pack(masked_crc32c(record)))
        self.n_records += 1

    def close(self) -> None:
        """Give the file its name."""
        self._f = None
        self._stack.close()

    def __enter__(self) -> TFRecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._f = None
        self._stack.__exit__(kind, error, trace)  # after an error the file is as it was before


def write_tfrecord(path: str | os.PathLike[str], records: Iterable[bytes]) -> int:
    """Write all of ``records`` to a file, and return how many they are."""
    with TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return writer.n_records


def read_tfrecord(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of a file in their order, each compared with its checksum before it is given out.

    Raises:
        FileFormatError: cut off, damaged or no TFRecord file; nothing is allocated that the file cannot hold.
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb", buffering=_BLOCK) as f:
        size, at = os.fstat(f.fileno()).st_size, 0
        while at < size:
            length = _length(path, f.read(_HEAD.size), at, size)
            yield _record(path, f.read(length + _TAIL.size), at + _HEAD.size)
            at += _FRAME + length


class TFRecordFile(Sequence[Record]):
    """The records of a file by number. Their places are found once, by reading the lengths and nothing else.

    Workers and threads may share one, and it pickles: each reads where it needs, without a common position.

    Args:
        path: the file.

    Raises:
        FileFormatError: a length is damaged, or the file cut off; a record that is damaged, when it is asked for.
        FileNotFoundError: there is no such file.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_tfrecord(folder.name + "/a.tfrecords", [b"first", b"second", b"third"])
    3
    >>> records = TFRecordFile(folder.name + "/a.tfrecords")
    >>> len(records), records[-1], [bytes(record) for record in records[:2]]
    (3, b'third', [b'first', b'second'])
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._places, self._lengths = array("Q"), array("Q")
        self._f = f = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as this is
        size, at = os.fstat(f.fileno()).st_size, 0
        while at < size:
            f.seek(at)
            length = _length(path, f.read(_HEAD.size), at, size)
            self._places.append(at + _HEAD.size)
            self._lengths.append(length)
            at += _FRAME + length

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place, length = self._places[index], self._lengths[index]
        return _record(self.path, _read_at(self._f, length + _TAIL.size, place), place)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_f"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._f = open(self.path, "rb", buffering=0)  # noqa: SIM115

    def close(self) -> None:
        """Close the file; a reader that nobody holds any more does so by itself."""
        if "_f" in self.__dict__:  # not where it could not be opened
            self._f.close()

    __del__ = close


def _length(path: str | os.PathLike[str], head: bytes, at: int, size: int) -> int:
    """The length that a record begins with, once its checksum and the size of the file allow to believe it."""
    if head[:2] == b"\x1f\x8b" and at == 0:
        raise FileFormatError(path, "it is packed by gzip; unpack it first (gzip -d)", 0)
    if len(head) < _HEAD.size:
        raise FileFormatError(path, "it is cut off within the length of a record", at)
    length, checksum = _HEAD.unpack(head)
    if masked_crc32c(head[:8]) != checksum:
        what = "a record's length is damaged" if at else "it is no TFRecord file, or its first length is damaged"
        raise FileFormatError(path, f"{what} (the checksum differs)", at)
    if length > size - at - _FRAME:
        raise FileFormatError(path, f"a record of {length} bytes is announced, and {size - at - _FRAME} are there", at)
    return length


def _record(path: str | os.PathLike[str], found: bytes, at: int) -> Record:
    """The record without its checksum, which agrees."""
    record = memoryview(found)[: -_TAIL.size]
    if len(found) < _TAIL.size or masked_crc32c(record) != _TAIL.unpack(found[-_TAIL.size :])[0]:
        raise FileFormatError(path, "a record is damaged (its checksum differs)", at)
    return Record.of(record, path, at)  # type: ignore[arg-type]


def _read_at(f: Any, n_bytes: int, at: int) -> bytes:
    if hasattr(os, "pread"):  # leaves the position alone, which forked workers share
        parts = []
        while n_bytes and (part := os.pread(f.fileno(), n_bytes, at)):  # at most 2 GiB at once
            parts.append(part)
            n_bytes, at = n_bytes - len(part), at + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    f.seek(at)
    return f.read(n_bytes)
