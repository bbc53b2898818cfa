"""Word vectors in the two formats of Google's word2vec tool, which gensim, fastText and spaCy read and write too.

Text is a first line ``N D``, then ``word v1 … vD`` a line. Binary is the same first line, then for each word its
UTF-8 bytes, a space, and D little-endian float32.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch

from .atomic import atomic_write
from .errors import FileFormatError
from .text import MAX_LINE, read_lines

_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18}) ?\n")
_MAX_WORD = 1 << 16
_BLOCK = 1 << 20
_ROWS = 1024
_BREAKS = " \t\n\v\f\r\0"  # would end a word, or a line, for some reader


def save_word2vec_format(
    path: str | os.PathLike[str], words: Sequence[str], vectors: Any, binary: bool = False
) -> None:
    """Save word vectors, atomically, as float32. Both formats give back every bit.

    Give the words the most frequent first: other tools take their order for that.

    Args:
        path: the file.
        words: all different, without white space; ``bytes`` are taken for UTF-8.
        vectors: tensor or array.
        binary: about a third of the size of text, and twenty times as quick.

    Shape:
        vectors ``(N, D)``, real numbers.

    Raises:
        TypeError: a word is no string, or the vectors are no real numbers.
        ValueError: a word is empty, has white space, or occurs twice; a number is NaN or infinite in float32; counts
            differ. Nothing is written then.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_word2vec_format(folder.name + "/v.txt", ["the", "of"], torch.tensor([[0.5, -2.0], [3.0, 0.25]]))
    >>> load_word2vec_format(folder.name + "/v.txt")
    (['the', 'of'], array([[ 0.5 , -2.  ], [ 3.  ,  0.25]], dtype=float32))
    >>> folder.cleanup()
    """
    shape = tuple(getattr(vectors, "shape", None) or np.shape(vectors))
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"word vectors are a matrix (N, D), got shape {shape}")
    if len(words) != shape[0]:
        raise ValueError(f"there are {len(words)} words and {shape[0]} vectors; each word needs one")
    encoded = _encoded(words)
    number = " ".join(["%.9g"] * shape[1])  # nine digits tell any two float32 apart
    with atomic_write(path) as f:
        f.write(b"%d %d\n" % shape)
        for start in range(0, shape[0], _ROWS):
            block = _as_float32(vectors[start : start + _ROWS])
            _check_finite(block, encoded[start : start + _ROWS], start)
            for word, row in zip(encoded[start : start + _ROWS], block):
                f.write(word + b" " + (row.tobytes() if binary else (number % tuple(row.tolist())).encode() + b"\n"))


def load_word2vec_format(
    path: str | os.PathLike[str], binary: bool | None = None, limit: int | None = None
) -> tuple[list[str], np.ndarray]:
    """Load word vectors, in either format. Little more memory is taken than the result itself needs.

    A text file without a first line ``N D``, as GloVe's are, is read too: its first line says how many numbers each
    line has. (A first line of two whole numbers always counts as ``N D``.) Of a word that occurs twice the later vector
    is left out, and a warning says how many were.

    Args:
        path: the file, unpacked.
        binary: ``None`` looks at the first vector.
        limit: read only this many words, from the front.

    Shape:
        ``words, vectors``: a list of N, and ``(N, D)`` float32.

    Raises:
        FileFormatError: cut off, too long, no clean UTF-8, NaN or infinite numbers, or what the first line announces
            is more than the file can hold. The text says at which line or word.
        FileNotFoundError: there is no such file.
        ValueError: ``limit`` is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"load_word2vec_format: limit must not be negative, got {limit}")
    with open(path, "rb") as f:
        header = _header(path, f)
        if binary is None:
            binary = header is not None and _looks_binary(f, header[1])
        if binary:
            if header is None:
                raise FileFormatError(path, "a binary file starts with a line 'N D', two whole numbers; it does not", 0)
            words, vectors = _read_binary(path, f, *header, limit)
        else:
            words, vectors = _read_text(path, f, header, limit)
    return _without_repeats(path, words, vectors)


def _encoded(words: Sequence[str]) -> list[bytes]:
    encoded: dict[bytes, int] = {}
    for i, word in enumerate(words):
        if not isinstance(word, (str, bytes)):
            raise TypeError(f"word {i} is a {type(word).__name__}, {word!r}; words are strings")
        try:
            text = word.decode() if isinstance(word, bytes) else word
            data = text.encode()
        except UnicodeError as e:
            raise ValueError(f"word {i}, {word!r}, has no UTF-8 form ({e})") from None
        if not text or any(c in text for c in _BREAKS):
            raise ValueError(f"word {i} is {word!r}; words are not empty and have no white space, put '_' in its place")
        if len(data) > _MAX_WORD:
            raise ValueError(f"word {i} has {len(data)} bytes, more than {_MAX_WORD}")
        if data in encoded:
            raise ValueError(f"words {encoded[data]} and {i} are both {text!r}; each word has one vector")
        encoded[data] = i
    return list(encoded)


def _as_float32(block: Any) -> np.ndarray:
    if isinstance(block, torch.Tensor):
        block = block.detach()
        block = (block.float() if block.is_floating_point() else block).cpu().numpy()
    array = np.asarray(block)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"word vectors are real numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # too large becomes infinite, which is refused by name
        return np.ascontiguousarray(array, dtype="<f4")


def _check_finite(block: np.ndarray, words: Sequence[bytes], start: int) -> None:
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"the vector of word {start + i}, {words[i].decode()!r}, has numbers that are NaN or infinite")


def _header(path: str | os.PathLike[str], f: IO[bytes]) -> tuple[int, int] | None:
    """``N, D``, with ``f`` behind that line; or ``None``, with ``f`` at the start."""
    line = f.readline(64)
    if line[:2] == b"\x1f\x8b" or line[:4] == b"PK\x03\x04":
        raise FileFormatError(path, "it is packed; unpack it first", 0)
    match = _HEADER.fullmatch(line)
    if match is None:
        f.seek(0)
        return None
    n_words, n_numbers = int(match[1]), int(match[2])
    if n_numbers == 0:
        raise FileFormatError(path, f"line 1 announces {n_words} words of no numbers", 0)
    return n_words, n_numbers


def _looks_binary(f: IO[bytes], n_numbers: int) -> bool:
    """Whether the first vector has what digits lack, or control characters are close behind it."""
    start = f.tell()
    data = f.read(_MAX_WORD + 4 * min(n_numbers, MAX_LINE))
    f.seek(start)
    data = data[data.find(b" ") + 1 :]
    control = any(byte < 32 and byte not in b"\t\n\r" for byte in data[: max(256, 4 * n_numbers)])
    return control or any(byte > 126 for byte in data[: 2 * n_numbers - 1])  # text has no fewer for its first vector


def _check_room(path: str | os.PathLike[str], f: IO[bytes], n_words: int, bytes_a_word: int, what: str) -> None:
    """Before memory is taken for what a file announces, see that it can hold as much."""
    there = os.fstat(f.fileno()).st_size - f.tell()
    needed = n_words * bytes_a_word
    if there < needed - 1:  # the last line end may be missing
        reason = f"{what}, which takes {needed} bytes or more, and {there} are there; the file is cut off"
        raise FileFormatError(path, reason, f.tell() + there)


def _read_binary(
    path: str | os.PathLike[str], f: IO[bytes], n_words: int, n_numbers: int, limit: int | None
) -> tuple[list[str], np.ndarray]:
    n = n_words if limit is None else min(limit, n_words)
    _check_room(path, f, n, 4 * n_numbers + 2, f"line 1 announces {n_words} words of {n_numbers} numbers")
    vectors, words = np.empty((n, n_numbers), np.float32), []
    data, at, offset = b"", 0, f.tell()  # offset: where in the file data starts
    for i in range(n):
        while (space := data.find(b" ", at, at + _MAX_WORD + 2)) < 0 or space + 1 + 4 * n_numbers > len(data):
            if space < 0 and len(data) - at > _MAX_WORD + 2:
                raise FileFormatError(path, f"word {i} of {n_words} is longer than {_MAX_WORD} bytes", offset + at)
            more = f.read(max(_BLOCK, 4 * n_numbers))
            if not more:
                what = (
                    "its word" if space < 0 else f"{len(data) - space - 1} of the {4 * n_numbers} bytes of its vector"
                )
                raise FileFormatError(path, f"it ends within word {i} of {n_words}, after {what}", offset + len(data))
            data, offset, at = data[at:] + more, offset + at, 0
        words.append(_word(path, data[at:space].lstrip(b"\n"), f"word {i} of {n_words}", offset + at))
        vectors[i] = np.frombuffer(data, "<f4", n_numbers, space + 1)
        at = space + 1 + 4 * n_numbers
    if n == n_words and (data[at:] + f.read(_BLOCK)).strip(b"\n"):
        raise FileFormatError(path, f"it goes on after the {n_words} words that line 1 announces", offset + at)
    return words, _finite(path, words, vectors)


def _word(path: str | os.PathLike[str], data: bytes, what: str, offset: int) -> str:
    try:
        word = data.decode()
    except UnicodeDecodeError:
        raise FileFormatError(path, f"{what}, {data[:40]!r}, is not UTF-8", offset) from None
    if not word or any(c in word for c in _BREAKS):
        raise FileFormatError(path, f"{what} is {word[:40]!r}; words are not empty and have no white space", offset)
    return word


def _read_text(
    path: str | os.PathLike[str], f: IO[bytes], header: tuple[int, int] | None, limit: int | None
) -> tuple[list[str], np.ndarray]:
    if header is None:
        first, (n_words, n_numbers) = 1, _size_without_header(path, f)
        what = f"it has {n_words} lines, and line 1 has {n_numbers} numbers"
    else:
        first, (n_words, n_numbers) = 2, header
        what = f"line 1 announces {n_words} words of {n_numbers} numbers"
    n = n_words if limit is None else min(limit, n_words)
    _check_room(path, f, n, 2 * n_numbers + 2, what)
    vectors, words = np.empty((n, n_numbers), np.float32), []
    for number, line in read_lines(path):
        if number < first:
            continue
        if len(words) == n:
            if n < n_words or not line:
                break
            raise FileFormatError(path, f"line {number} comes after the {n_words} words that line 1 announces")
        word, *numbers = line.rstrip(" ").split(" ")  # the original tool ends its lines with a space
        if not word or any(c in line for c in _BREAKS[1:]):
            raise FileFormatError(path, f"line {number} has no word in front, or white space other than single spaces")
        if len(numbers) != n_numbers:
            raise FileFormatError(path, f"line {number} has {len(numbers)} numbers, expected {n_numbers}")
        try:
            with np.errstate(over="ignore"):
                vectors[len(words)] = list(map(float, numbers))
        except ValueError as e:
            raise FileFormatError(path, f"line {number}: {e}") from None
        words.append(word)
    if len(words) < n:
        raise FileFormatError(path, f"it ends after {len(words)} of the {n_words} words that line 1 announces")
    if n == n_words and n and not _ends_a_line(f):
        reason = "its last line does not end, so its last number may be cut off; if it is whole, add a line end"
        raise FileFormatError(path, reason, os.fstat(f.fileno()).st_size)
    return words, _finite(path, words, vectors)


def _size_without_header(path: str | os.PathLike[str], f: IO[bytes]) -> tuple[int, int]:
    line = f.readline(MAX_LINE)
    n_numbers, n_words = len(line.split()) - 1, line.count(b"\n")
    if n_numbers < 1:
        raise FileFormatError(path, "line 1 is neither 'N D', two whole numbers, nor a word and its vector", 0)
    while block := f.read(_BLOCK):
        n_words += block.count(b"\n")
        line = block
    f.seek(0)
    return n_words + (not line.endswith(b"\n")), n_numbers


def _ends_a_line(f: IO[bytes]) -> bool:
    f.seek(-1, os.SEEK_END)
    return f.read(1) == b"\n"


def _finite(path: str | os.PathLike[str], words: list[str], vectors: np.ndarray) -> np.ndarray:
    for start in range(0, len(words), _ROWS):
        bad = ~np.isfinite(vectors[start : start + _ROWS]).all(axis=1)
        if bad.any():
            i = start + int(bad.argmax())
            raise FileFormatError(path, f"the vector of word {i}, {words[i]!r}, has numbers that are NaN or infinite")
    return vectors


def _without_repeats(
    path: str | os.PathLike[str], words: list[str], vectors: np.ndarray
) -> tuple[list[str], np.ndarray]:
    first: dict[str, int] = {}
    for i, word in enumerate(words):
        first.setdefault(word, i)
    if len(first) == len(words):
        return words, vectors
    n = len(words) - len(first)
    again = next(word for i, word in enumerate(words) if first[word] != i)
    warnings.warn(
        f"'{path}' has {n} words again, {again!r} the first of them; their later vectors are left out", stacklevel=3
    )
    return list(first), vectors[list(first.values())]
