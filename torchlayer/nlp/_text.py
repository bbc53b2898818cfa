"""Text files as they come: BOMs, carriage returns, bytes that are no text; and words that are bytes here, str there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ..files.errors import FileFormatError

Path = str | os.PathLike[str]
Word = str | bytes
Value = TypeVar("Value")

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The whole file, its lines ended by ``\\n`` alone, without a byte order mark."""
    with open(path, "rb") as f:
        raw = f.read()
    try:
        text = raw.decode(encoding)
    except LookupError:
        raise ValueError(f"encoding={encoding!r} is unknown; use a name that Python knows, such as 'utf-8'") from None
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise _no_text(path, line, encoding, e.start, raw) from None
    nul = text.find("\0")
    if nul >= 0:
        line = text.count("\n", 0, nul) + 1
        raise FileFormatError(path, f"line {line} holds a NUL, so it is no {encoding} text; convert it")
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, from 1, and what ends it; without a byte order mark."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            if number == 1:
                if line.startswith(_UTF16):
                    raise _no_text(path, 1, "utf-8", 0, line)
                line = line.removeprefix(_BOM)
            if b"\0" in line:
                raise FileFormatError(path, f"line {number} holds a NUL, so it is no text; convert it")
            yield number, line


def decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise _no_text(path, number, "utf-8", None, b"") from None


def listed_words(path: Path, first_of_line: bool) -> list[bytes]:
    """The word of each line, whose number is its id; so each line must have one, and another one."""
    found: dict[bytes, int] = {}
    for number, line in lines(path):
        word = line.strip()
        if not word:
            raise FileFormatError(path, f"line {number} is empty, and a line's number is its word's id; remove it")
        if first_of_line:
            word = word.split(None, 1)[0]
        if word in found:
            reason = f"line {number} repeats the word {shown(word)} of line {found[word]}; a word has one id"
            raise FileFormatError(path, reason)
        found[word] = number
    if not found:
        raise FileFormatError(path, "it holds no words")
    return list(found)


def as_line(word: Any) -> bytes:
    """A word as a file takes it, where the end of the word is a space or the end of the line."""
    if not isinstance(word, (str, bytes)):
        raise TypeError(f"a word must be str or bytes, got {type(word).__name__}")
    raw = word.encode() if isinstance(word, str) else word
    if raw.split() != [raw] or b"\0" in raw:
        raise ValueError(
            f"the word {shown(word)} cannot be written: it is empty, or has a space, a line end or a NUL in it; "
            "split or replace it first"
        )
    return raw


def look_up(table: Mapping[Any, Value], word: Any) -> Value | None:
    """What ``table`` says of a word, or else of the same word as str instead of bytes or the other way round."""
    value = table.get(word)
    if value is None and isinstance(word, (str, bytes)):
        twin = other_kind(word)
        return None if twin is None else table.get(twin)
    return value


def other_kind(word: Word) -> Word | None:
    try:
        return word.encode() if isinstance(word, str) else word.decode()
    except UnicodeError:
        return None  # no such word as the other kind


def shown(word: Any) -> str:
    """For a message: a word of 10 million letters is bad input too."""
    text = repr(word[:60]) if isinstance(word, (str, bytes)) else repr(word)
    return text if not isinstance(word, (str, bytes)) or len(word) <= 60 else f"{text}…"


def _no_text(path: Path, line: int, encoding: str, offset: int | None, raw: bytes) -> FileFormatError:
    cure = "it looks like UTF-16" if raw.startswith(_UTF16) else "convert it"
    return FileFormatError(path, f"line {line} is not {encoding} text; {cure}", offset)
