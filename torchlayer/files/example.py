"""TensorFlow's ``tf.train.Example`` and ``SequenceExample`` as Python values, without TensorFlow.

An Example is a dict of features, a feature a list of bytes, of floats or of integers::

    encode_example({"label": 3, "img_raw": image.tobytes()})

A SequenceExample has such a dict as its context, and for each of its sequences a list of features, one a step.

The bytes are those of ``SerializeToString(deterministic=True)`` in TensorFlow: keys sorted, lists of numbers packed.
The reader takes whatever TensorFlow writes, packed or not, and refuses the rest with the place of the fault: what
protobuf would pass over or merge (unknown fields, a feature given twice) is an error here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .errors import FileFormatError

Feature: TypeAlias = "list[bytes] | np.ndarray"
Features: TypeAlias = "dict[str, Feature]"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_KINDS = {1: "bytes", 2: "floats", 3: "integers"}  # the fields of tf.train.Feature


class Record(bytes):
    """The bytes of one record, which know where they come from, so that errors can tell."""

    path: str | os.PathLike[str] = "record"
    offset: int = 0

    @classmethod
    def of(cls, data: bytes, path: str | os.PathLike[str], offset: int) -> Record:
        """``data``, found in ``path`` at byte ``offset``."""
        record = cls(data)
        record.path, record.offset = path, offset
        return record


# Writing -------------------------------------------------------------------------


def encode_example(features: Mapping[str, Any]) -> bytes:
    """A ``tf.train.Example`` as bytes.

    Args:
        features: each a number, a str or bytes, or a sequence or array of one kind of them. Integers and booleans
            become int64, floats float32, strings UTF-8. ``[]`` is a feature without a kind.

    Raises:
        TypeError: a value is none of these, or a mixture.
        ValueError: an integer beyond 64 bits.

    >>> encode_example({"label": 3}).hex(" ")
    '0a 10 0a 0e 0a 05 6c 61 62 65 6c 12 05 1a 03 0a 01 03'
    >>> decode_example(encode_example({"label": 3, "name": "cat"}))
    {'label': array([3]), 'name': [b'cat']}
    """
    return _field(1, _features(features, "features"))


def encode_sequence_example(context: Mapping[str, Any], feature_lists: Mapping[str, Sequence[Any]]) -> bytes:
    """A ``tf.train.SequenceExample`` as bytes.

    Args:
        context: as the features of `encode_example`.
        feature_lists: for each name a sequence of features, one a step.

    Raises:
        TypeError, ValueError: as `encode_example`.

    >>> step_by_step = encode_sequence_example({"id": 7}, {"words": [b"a", b"cat"]})
    >>> decode_sequence_example(step_by_step)
    ({'id': array([7])}, {'words': [[b'a'], [b'cat']]})
    """
    lists = []
    for name in sorted(feature_lists, key=_utf8):
        steps = feature_lists[name]
        if isinstance(steps, (str, bytes)) or not isinstance(steps, (Sequence, np.ndarray)):
            raise TypeError(f"feature_lists[{name!r}] must be a sequence of features, one a step, got {steps!r:.80}")
        content = b"".join(_field(1, _feature(step, f"feature_lists[{name!r}][{i}]")) for i, step in enumerate(steps))
        lists.append(_field(1, _field(1, _utf8(name)) + _field(2, content)))
    first = _field(1, _features(context, "context")) if context else b""
    return first + (_field(2, b"".join(lists)) if lists else b"")


def _features(features: Mapping[str, Any], what: str) -> bytes:
    entries = []
    for name in sorted(features, key=_utf8):
        entries.append(_field(1, _field(1, _utf8(name)) + _field(2, _feature(features[name], f"{what}[{name!r}]"))))
    return b"".join(entries)


def _feature(value: Any, what: str) -> bytes:
    if isinstance(value, (str, bytes, bytearray)):
        value = [value]
    elif isinstance(value, np.ndarray) and value.dtype.kind in "SUO":
        value = value.reshape(-1).tolist()
    if isinstance(value, Sequence) and all(isinstance(item, (str, bytes, bytearray)) for item in value):
        items = [item.encode() if isinstance(item, str) else bytes(item) for item in value]
        return _field(1, b"".join(_field(1, item) for item in items)) if items else b""
    try:
        array = np.asarray(value).reshape(-1)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.dtype.kind == "f":
        content = array.astype("<f4").tobytes()
        return _field(2, _field(1, content) if content else b"")
    if array.dtype.kind in "uO" and array.size and all(isinstance(item, (int, np.integer)) for item in array):
        if not -(2**63) <= int(array.min()) <= int(array.max()) < 2**63:
            raise ValueError(f"{what} holds {max(array, key=abs)}, and its integers have 64 bits with a sign")
        array = array.astype(np.int64)
    if array.dtype.kind not in "biu":
        raise TypeError(f"{what} must be numbers of one kind, or strings, got {value!r:.80}")
    content = _varints(array.astype(np.int64))
    return _field(3, _field(1, content) if content else b"")


def _utf8(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a feature's name must be a str, got {name!r}")
    return name.encode()


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | _BYTES,)) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _varints(values: np.ndarray) -> bytes:
    if not values.size or (values.min() >= 0 and values.max() < 0x80):
        return values.astype(np.uint8).tobytes()
    return b"".join(_varint(value) for value in values.astype(np.uint64).tolist())  # below zero: two's complement


# Reading -------------------------------------------------------------------------


def decode_example(record: bytes) -> Features:
    """The features of a ``tf.train.Example``: each a list of bytes, or an array of float32 or int64, or ``[]``.

    Raises:
        FileFormatError: it is none; the text says at which byte of the file (of the record, if it is plain bytes).
    """
    reader = _Reader(record)
    features: Features = {}
    for _, content in reader.messages(reader.all, {1: "features"}):
        features = _read_features(reader, content)
    return features


def decode_sequence_example(record: bytes) -> tuple[Features, dict[str, list[Feature]]]:
    """The context of a ``tf.train.SequenceExample``, and for each of its sequences the features, one a step.

    Raises:
        FileFormatError: as `decode_example`.
    """
    reader = _Reader(record)
    context: Features = {}
    lists: dict[str, list[Feature]] = {}
    for number, content in reader.messages(reader.all, {1: "context", 2: "feature lists"}):
        if number == 1:
            context = _read_features(reader, content)
        else:
            for name, steps in _entries(reader, content):
                found = reader.messages(steps, {1: "feature"}, repeated=True)
                lists[name] = [_read_feature(reader, step) for _, step in found]
    return context, lists


_Span: TypeAlias = "tuple[int, int]"  # begin and end within the record


class _Reader:
    """Protobuf's wire format, every length compared with what is there."""

    def __init__(self, record: bytes) -> None:
        self.data = record
        self.all: _Span = (0, len(record))

    def fault(self, at: int, reason: str) -> FileFormatError:
        path, offset = getattr(self.data, "path", Record.path), getattr(self.data, "offset", 0)
        return FileFormatError(path, f"this is no tf.train.Example: {reason}", offset + at)

    def fields(self, span: _Span) -> Iterator[tuple[int, int, int, _Span]]:
        """Place, number, wire type and content of each field."""
        at, end = span
        while at < end:
            begin = at
            key, at = self.varint(at, end)
            number, kind = key >> 3, key & 7
            if kind == _BYTES:
                length, at = self.varint(at, end)
                if length > end - at:
                    raise self.fault(begin, f"field {number} announces {length} bytes and {end - at} are left")
            elif kind == _VARINT:
                length = self.varint(at, end)[1] - at
            elif kind in (_FIXED32, _FIXED64):
                length = 4 if kind == _FIXED32 else 8
                if length > end - at:
                    raise self.fault(begin, f"field {number} is cut off")
            else:
                raise self.fault(begin, f"field {number} is of wire type {kind}")
            yield begin, number, kind, (at, at + length)
            at += length

    def messages(self, span: _Span, names: Mapping[int, str], repeated: bool = False) -> Iterator[tuple[int, _Span]]:
        """The fields of a message that holds messages, strings or bytes; each at most once, if not ``repeated``."""
        seen = set()
        for at, number, kind, content in self.fields(span):
            if number not in names:
                raise self.fault(at, f"field {number} is unknown where only {' and '.join(names.values())} may stand")
            if kind != _BYTES:
                raise self.fault(at, f"field {number} ({names[number]}) is of wire type {kind}, not {_BYTES}")
            if not repeated and number in seen:
                raise self.fault(at, f"field {number} ({names[number]}) stands twice")
            seen.add(number)
            yield number, content

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of at most 64 bits, and where it ends."""
        value = 0
        for i in range(10):
            if at + i >= end:
                raise self.fault(at, "a number is cut off")
            byte = self.data[at + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if value >> 64:
                    break
                return value, at + i + 1
        raise self.fault(at, "a number has more than 64 bits")

    def varints(self, span: _Span) -> np.ndarray:
        """A run of numbers, as int64."""
        begin, end = span
        groups = np.frombuffer(self.data, np.uint8, end - begin, begin) if end > begin else np.empty(0, np.uint8)
        last = groups < 0x80
        if last.all():
            return groups.astype(np.int64)
        if not last[-1]:
            raise self.fault(end - 1, "a number is cut off")
        ends = np.flatnonzero(last)
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends + 1 - starts
        too_long = (lengths > 10) | ((lengths == 10) & (groups[ends] > 1))
        if too_long.any():
            raise self.fault(begin + int(starts[too_long.argmax()]), "a number has more than 64 bits")
        places = np.arange(len(groups)) - np.repeat(starts, lengths)
        parts = (groups & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
        return np.bitwise_or.reduceat(parts, starts).astype(np.int64)

    def text(self, span: _Span) -> str:
        try:
            return self.data[span[0] : span[1]].decode()
        except UnicodeDecodeError as e:
            raise self.fault(span[0] + e.start, "a name is not UTF-8") from None


def _entries(reader: _Reader, span: _Span) -> Iterator[tuple[str, _Span]]:
    """Name and content of each entry of a map."""
    names = set()
    for _, entry in reader.messages(span, {1: "entry"}, repeated=True):
        parts = dict(reader.messages(entry, {1: "name", 2: "value"}))  # an absent part is empty
        name = reader.text(parts.get(1, (entry[0], entry[0])))
        if name in names:
            raise reader.fault(entry[0], f"two entries are called {name!r}")
        names.add(name)
        yield name, parts.get(2, (entry[1], entry[1]))


def _read_features(reader: _Reader, span: _Span) -> Features:
    return {name: _read_feature(reader, feature) for name, feature in _entries(reader, span)}


def _read_feature(reader: _Reader, span: _Span) -> Feature:
    found = list(reader.messages(span, _KINDS))
    if len(found) > 1:
        raise reader.fault(span[0], f"a feature is {' and '.join(_KINDS[number] for number, _ in found)} at once")
    if not found:
        return []
    kind, content = found[0]
    if kind == 1:
        return [reader.data[begin:end] for _, (begin, end) in reader.messages(content, {1: "value"}, repeated=True)]
    read = _read_floats if kind == 2 else _read_integers
    parts = []
    for at, number, wire, values in reader.fields(content):
        if number != 1:
            raise reader.fault(at, f"field {number} is unknown in a list of {_KINDS[kind]}")
        parts.append(read(reader, at, wire, values))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.float32 if kind == 2 else np.int64)


def _read_floats(reader: _Reader, at: int, wire: int, span: _Span) -> np.ndarray:
    n_bytes = span[1] - span[0]
    if wire not in (_BYTES, _FIXED32) or n_bytes % 4:
        raise reader.fault(at, f"floats of wire type {wire} in {n_bytes} bytes")
    if not n_bytes:
        return np.empty(0, np.float32)
    return np.frombuffer(reader.data, "<f4", n_bytes // 4, span[0]).astype(np.float32)


def _read_integers(reader: _Reader, at: int, wire: int, span: _Span) -> np.ndarray:
    if wire not in (_BYTES, _VARINT):
        raise reader.fault(at, f"integers of wire type {wire}")
    return reader.varints(span)
