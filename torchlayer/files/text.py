"""Text read block by block, packed or not, and refused where it is no clean UTF-8.

A carriage return, a NUL or a byte order mark would end up inside a word and go unnoticed there, so each is an error
that names file, line and byte.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import os
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from .atomic import DISK_ERRORS
from .errors import FileFormatError

MAX_LINE = 1 << 20
_BLOCK = 1 << 20
_MAX_RATIO = 200  # text packs 3 to 10 times
_SMALL = 1 << 24  # below this the ratio says nothing


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line, without its newline. gzip, bzip2, xz and zip (first member) are unpacked.

    Raises:
        FileFormatError: not UTF-8; a line of more than a megabyte; a NUL, a carriage return, a byte order mark; a
            damaged packing.
        FileNotFoundError: there is no such file.
    """
    for first, piece in _pieces(path, (b"\n",), "a line end"):
        lines = piece.split("\n")
        if not lines[-1]:
            lines.pop()
        for number, line in enumerate(lines, first):
            if len(line) > MAX_LINE:
                raise FileFormatError(path, f"line {number} is longer than {MAX_LINE} bytes")
            yield number, line


def read_text(path: str | os.PathLike[str]) -> str:
    """All of a text.

    Raises:
        FileFormatError, FileNotFoundError: as `read_lines`.
    """
    return "".join(piece for _, piece in _pieces(path, (b"\n",), "a line end"))


def read_words(path: str | os.PathLike[str]) -> list[str]:
    """What stands between white space, however long the lines are. Equal words are one object, so each takes 8 bytes.

    Raises:
        FileFormatError, FileNotFoundError: as `read_lines`.
    """
    shared: dict[str, str] = {}
    words: list[str] = []
    for _, piece in _pieces(path, (b" ", b"\n", b"\t"), "a space"):
        found = piece.split()
        words.extend(map(shared.setdefault, found, found))
    return words


def _pieces(path: str | os.PathLike[str], separators: tuple[bytes, ...], what: str) -> Iterator[tuple[int, str]]:
    """Blocks that end at a separator, each with the number of its first line."""
    line, offset, rest = 1, 0, b""
    for block in _blocks(path):
        data = rest + block
        cut = max(data.rfind(separator) for separator in separators) + 1
        piece, rest = data[:cut], data[cut:]
        if piece:
            yield line, _decoded(path, piece, line, offset)
        line, offset = line + piece.count(b"\n"), offset + cut
        if len(rest) > MAX_LINE:
            raise FileFormatError(path, f"line {line} has no {what[2:]} within {MAX_LINE} bytes", offset)
    if rest:
        yield line, _decoded(path, rest, line, offset)


def _decoded(path: str | os.PathLike[str], data: bytes, line: int, offset: int) -> str:
    def fault(at: int, what: str) -> FileFormatError:
        return FileFormatError(path, f"line {line + data.count(10, 0, at)} {what}", offset + at)

    if offset == 0 and data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise fault(0, "starts with a byte order mark; save the text as UTF-8 without one")
    if (at := data.find(b"\0")) >= 0:
        raise fault(at, "has a NUL byte; it is binary, or not UTF-8")
    if (at := data.find(b"\r")) >= 0:
        raise fault(at, r"has a carriage return; convert the line ends with: tr -d '\r'")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise fault(e.start, f"is not UTF-8, its byte {data[e.start]:#04x} cannot stand there") from None


def _blocks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb") as f, contextlib.ExitStack() as stack:
        start = f.read(6)
        f.seek(0)
        budget = max(_MAX_RATIO * os.fstat(f.fileno()).st_size, _SMALL)
        n_bytes = 0
        with _as_format_error(path):
            content = _unpacked(path, f, start, stack)
        while True:
            with _as_format_error(path):
                block = content.read(_BLOCK)
            n_bytes += len(block)
            if n_bytes > budget:
                raise FileFormatError(path, f"it unpacks to more than {budget} bytes")
            if not block:
                return
            yield block


def _unpacked(path: str | os.PathLike[str], f: IO[bytes], start: bytes, stack: contextlib.ExitStack) -> Any:
    if start[:2] == b"\x1f\x8b":
        return stack.enter_context(gzip.GzipFile(fileobj=f))
    if start[:3] == b"BZh":
        return stack.enter_context(bz2.BZ2File(f))
    if start == b"\xfd7zXZ\x00":
        return stack.enter_context(lzma.LZMAFile(f))
    if start[:4] != b"PK\x03\x04":
        return f
    archive = stack.enter_context(zipfile.ZipFile(f))
    member = next((info for info in archive.infolist() if not info.is_dir()), None)
    if member is None:
        raise FileFormatError(path, "the zip has no file in it")
    return stack.enter_context(archive.open(member))


@contextlib.contextmanager
def _as_format_error(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except OSError as e:
        if e.errno in DISK_ERRORS:
            raise
        raise FileFormatError(path, f"its packing is damaged or cut off ({e})") from e
    except Exception as e:  # zipfile and the three decompressors raise a dozen kinds on damaged bytes
        raise FileFormatError(path, f"its packing is damaged or cut off ({e!r})") from e
