"""Text files as ids, for translation: words are bytes, so any text goes through unchanged.

The vocabulary and the ids are files, made once and used again. Beside each lies ``<file>.json``, which says from what
and how it was made; a file that was made otherwise than is asked for now is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from ..files.atomic import atomic_write
from ..files.errors import FileFormatError
from ._text import Path, Word, as_line, listed_words, look_up

Tokenizer = Callable[[bytes], Iterable[Word]]

_MARKS = re.compile(b"([.,!?\"':;)(])")
_DIGITS = re.compile(rb"\d")
_START_WORDS = (b"_PAD", b"_GO", b"_EOS", b"_UNK")
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_SPACES = b" \t\n\r\x0b\x0c"
_NO_SPACE = bytes(sorted(set(range(256)) - set(_SPACES)))
_PIECE = 2**18  # bytes of text split at once
_REPORT = 100_000  # lines


def basic_tokenizer(sentence: Word, _WORD_SPLIT: re.Pattern[bytes] = _MARKS) -> list[bytes]:
    """Split a sentence at spaces, and at the marks ``. , ! ? " ' : ; ) (``, which are words too.

    >>> basic_tokenizer("It's a (small) world!")
    [b'It', b"'", b's', b'a', b'(', b'small', b')', b'world', b'!']
    """
    text = sentence.encode() if isinstance(sentence, str) else sentence
    if _WORD_SPLIT is not _MARKS:
        return [word for part in text.split() for word in _WORD_SPLIT.split(part) if word]
    for mark in (b".", b",", b"!", b"?", b'"', b"'", b":", b";", b")", b"("):
        if mark in text:
            text = text.replace(mark, b" %b " % mark)
    return text.split()


def create_vocabulary(
    vocabulary_path: Path,
    data_path: Path,
    max_vocabulary_size: int,
    tokenizer: Tokenizer | None = None,
    normalize_digits: bool = True,
    _DIGIT_RE: re.Pattern[bytes] = _DIGITS,
    _START_VOCAB: Sequence[bytes] = _START_WORDS,
) -> None:
    """Write the words of a text file, one a line: the four special ones, then the others, the most frequent first.

    A word's id is its line number, from 0. If the vocabulary is there already, nothing is done but a line printed.

    Args:
        max_vocabulary_size: the number of lines at most, the special words among them.
        tokenizer: from a line, as bytes, to its words; :func:`basic_tokenizer` if there is none.
        normalize_digits: make every digit a 0 first.
    Raises:
        ValueError: a vocabulary is there but was made with other arguments or from other data; or the text has no
            words.
    """
    recipe = {
        "max_vocabulary_size": int(max_vocabulary_size),
        "special_words": [word.decode() for word in _START_VOCAB],
        "data": _described(data_path),
        **_how(tokenizer, normalize_digits, _DIGIT_RE),
    }
    if os.path.exists(vocabulary_path):
        _compare(vocabulary_path, recipe)
        print(f"Vocabulary {os.fspath(vocabulary_path)} from data {os.fspath(data_path)} exists")
        return
    if max_vocabulary_size < len(_START_VOCAB):
        raise ValueError(
            f"max_vocabulary_size={max_vocabulary_size} leaves no room for the {len(_START_VOCAB)} special words"
        )
    print(f"Creating vocabulary {os.fspath(vocabulary_path)} from data {os.fspath(data_path)}")
    counter: Counter[bytes] = Counter()
    with open(data_path, "rb") as f:
        for text in _with_reports(_blocks(f) if tokenizer is None else f, "processing"):
            counter.update(_tokens(text, tokenizer, normalize_digits, _DIGIT_RE))
    if not counter:
        raise ValueError(f"'{os.fspath(data_path)}' has no words to make a vocabulary of")
    for word in _START_VOCAB:
        counter.pop(word, None)  # a second line of it would be a second id
    # A stable sort: among words as frequent as each other the first seen comes first.
    words = [*_START_VOCAB, *sorted(counter, key=counter.__getitem__, reverse=True)][:max_vocabulary_size]
    content = b"".join(as_line(word) + b"\n" for word in words)
    _write_recipe(vocabulary_path, recipe)
    with atomic_write(vocabulary_path) as f:
        f.write(content)


def initialize_vocabulary(vocabulary_path: Path) -> tuple[dict[bytes, int], list[bytes]]:
    """Read a vocabulary, one word a line: the id of each word, and the word of each id.

    Raises:
        ValueError: there is no such file.
        FileFormatError: it has an empty line, a word twice, or no words; the message names the line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".txt") as f:
    ...     _ = f.write(b"dog\\ncat\\n") and f.flush()
    ...     initialize_vocabulary(f.name)
    ({b'dog': 0, b'cat': 1}, [b'dog', b'cat'])
    """
    if not os.path.exists(vocabulary_path):
        raise ValueError(f"Vocabulary file {os.fspath(vocabulary_path)} not found.")
    words = listed_words(vocabulary_path, first_of_line=False)
    return {word: i for i, word in enumerate(words)}, words


def sentence_to_token_ids(
    sentence: Word,
    vocabulary: Mapping[Any, int],
    tokenizer: Tokenizer | None = None,
    normalize_digits: bool = True,
    UNK_ID: int = 3,
    _DIGIT_RE: re.Pattern[bytes] = _DIGITS,
) -> list[int]:
    """The ids of a sentence's words. Split and normalise as the vocabulary was made, or its numbers are not found.

    >>> sentence_to_token_ids("I have 2 dogs", {"I": 4, "have": 5, "0": 6, "dogs": 7})
    [4, 5, 6, 7]
    """
    text = sentence.encode() if isinstance(sentence, str) else sentence
    ids = [look_up(vocabulary, word) for word in _tokens(text, tokenizer, normalize_digits, _DIGIT_RE)]
    return [UNK_ID if i is None else i for i in ids]


def data_to_token_ids(
    data_path: Path,
    target_path: Path,
    vocabulary_path: Path,
    tokenizer: Tokenizer | None = None,
    normalize_digits: bool = True,
    UNK_ID: int = 3,
    _DIGIT_RE: re.Pattern[bytes] = _DIGITS,
) -> None:
    """Write the ids of a text file's words, a line for a line. If they are there already, only a line is printed.

    Raises:
        ValueError: the ids are there but were made with other arguments or from other data; or the vocabulary was made
            with another tokenizer or another ``normalize_digits``.
        FileFormatError: the vocabulary is bad, see :func:`initialize_vocabulary`.
    """
    how = _how(tokenizer, normalize_digits, _DIGIT_RE)
    recipe: dict[str, Any] = {"data": _described(data_path), "unknown_id": int(UNK_ID), **how}
    if os.path.exists(vocabulary_path):
        with open(vocabulary_path, "rb") as f:
            recipe["vocabulary_sha256"] = hashlib.sha256(f.read()).hexdigest()
    if os.path.exists(target_path):
        _compare(target_path, recipe)
        print(f"Target path {os.fspath(target_path)} exists")
        return
    _compare(vocabulary_path, how)
    vocabulary, _ = initialize_vocabulary(vocabulary_path)
    print(f"Tokenizing data in {os.fspath(data_path)}")
    id_texts = {word: b"%d" % i for word, i in vocabulary.items()}
    unknown = b"%d" % UNK_ID
    with open(data_path, "rb") as f, atomic_write(target_path) as target:
        for line in _with_reports(f, "tokenizing"):
            between = b""
            for piece in _pieces(line) if tokenizer is None else (line,):
                tokens = _tokens(piece, tokenizer, normalize_digits, _DIGIT_RE)
                ids = b" ".join([id_texts.get(word, unknown) for word in tokens])
                if ids:
                    target.write(between + ids)
                    between = b" "
            target.write(b"\n")
        _write_recipe(target_path, recipe)


def _tokens(
    text: bytes, tokenizer: Tokenizer | None, normalize_digits: bool, digits: re.Pattern[bytes]
) -> Iterable[bytes]:
    if tokenizer is None and normalize_digits and digits is _DIGITS:
        return basic_tokenizer(text.translate(_ZEROS))  # the same as afterwards, word by word, only faster
    words = basic_tokenizer(text) if tokenizer is None else [_as_bytes(word) for word in tokenizer(text)]
    if not normalize_digits:
        return words
    return [word.translate(_ZEROS) if digits is _DIGITS else digits.sub(b"0", word) for word in words]


def _as_bytes(word: Word) -> bytes:
    return word.encode() if isinstance(word, str) else word


def _blocks(f: BinaryIO) -> Iterator[bytes]:
    """A file in pieces of some 256 KiB, which begin and end between words, however long its lines are."""
    rest = b""
    while block := f.read(_PIECE):
        kept = block.rstrip(_NO_SPACE)
        if kept:
            yield rest + kept
            rest = block[len(kept) :]
        else:
            rest += block
    if rest:
        yield rest


def _pieces(line: bytes) -> Iterator[bytes]:
    start = 0
    while len(line) - start > _PIECE:
        block = line[start : start + _PIECE]
        length = len(block.rstrip(_NO_SPACE)) or _to_space(line, start + _PIECE) - start
        yield line[start : start + length]
        start += length
    yield line[start:]


def _to_space(line: bytes, start: int) -> int:
    found = re.compile(rb"[ \t\n\r\x0b\x0c]").search(line, start)
    return len(line) if found is None else found.end()


def _with_reports(texts: Iterable[bytes], doing: str) -> Iterator[bytes]:
    n_lines = 0
    for text in texts:
        before, n_lines = n_lines, n_lines + text.count(b"\n")
        for number in range(before // _REPORT + 1, n_lines // _REPORT + 1):
            print(f"  {doing} line {number * _REPORT}")
        yield text


def _how(tokenizer: Tokenizer | None, normalize_digits: bool, digits: re.Pattern[bytes]) -> dict[str, Any]:
    named = tokenizer if tokenizer is not None else basic_tokenizer
    name = getattr(named, "__qualname__", type(named).__qualname__)
    return {
        "tokenizer": name,
        "normalize_digits": bool(normalize_digits),
        "digits": digits.pattern.decode("latin-1"),
    }


def _described(data_path: Path) -> dict[str, Any] | None:
    """A text that is gone cannot contradict what was made from it."""
    if not os.path.exists(data_path):
        return None
    return {"name": os.path.basename(data_path), "bytes": os.path.getsize(data_path)}


def _recipe_path(path: Path) -> str:
    return f"{os.fspath(path)}.json"


def _write_recipe(path: Path, recipe: dict[str, Any]) -> None:
    with atomic_write(_recipe_path(path)) as f:
        f.write(json.dumps(recipe, indent=1).encode() + b"\n")


def _compare(path: Path, recipe: dict[str, Any]) -> None:
    """A file without a recipe, such as the original's, is taken as it is."""
    try:
        with open(_recipe_path(path), "rb") as f:
            made = json.loads(f.read())
    except FileNotFoundError:
        return
    except (ValueError, RecursionError):
        made = None
    if not isinstance(made, dict):
        raise FileFormatError(_recipe_path(path), "it is not what this package wrote; remove it")
    for key, value in recipe.items():
        if key in made and made[key] != value and value is not None and made[key] is not None:
            raise ValueError(
                f"'{os.fspath(path)}' was made with {key}={made[key]!r}, now it is {value!r}; remove it or pass that"
            )
