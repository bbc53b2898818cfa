"""Text as lists of words, words as ids, and the files that hold them.

Words are str or bytes, whichever the text is. A look-up finds a word also if the dictionary has the other kind.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..files.atomic import atomic_write
from ._text import Path, Word, as_line, decoded, lines, look_up, other_kind, read_text, shown


def simple_read_words(filename: Path = "nietzsche.txt", encoding: str = "utf-8") -> str:
    """The text of a file in one string, its lines ended by ``\\n``, without a byte order mark.

    Raises:
        FileFormatError: the file is no text in that encoding; the message names the line.
    """
    return read_text(filename, encoding)


def read_words(
    filename: Path = "nietzsche.txt", replace: Sequence[str] = ("\n", "<eos>"), encoding: str = "utf-8"
) -> list[str]:
    """The words of a file, split at spaces, after ``replace[0]`` was replaced by ``replace[1]``.

    The default makes ``<eos>`` a word of texts whose lines begin and end with a space, as PTB's do. In others it sticks
    to its neighbours (``two<eos>three``): pass ``replace=("\\n", " <eos> ")``. ``("", "")`` replaces nothing.

    Raises:
        FileFormatError: the file is no text in that encoding; the message names the line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(mode="w", suffix=".txt") as f:
    ...     _ = f.write("one two\\nthree\\n") and f.flush()
    ...     read_words(f.name, replace=("\\n", " <eos> "))
    ['one', 'two', '<eos>', 'three', '<eos>']
    """
    if isinstance(replace, (str, bytes)) or len(replace) != 2:
        raise ValueError(f"replace must be two strings, what to replace and by what, got {replace!r}")
    old, new = replace
    text = read_text(filename, encoding)
    return (text.replace(old, new) if old else text).split()


def read_analogies_file(
    eval_file: Path = "questions-words.txt", word2id: Mapping[Any, int] | None = None
) -> np.ndarray:
    """The questions of an analogy file as ids, those of them whose four words are all in ``word2id``.

    A line has four words, which are made lower-case (ASCII letters only); a line that starts with ``:`` is a heading.
    Prints how many questions were kept, and how many skipped for a word that is missing or a word too many or too few.

    Args:
        word2id: the ids of words, which may be str or bytes.
    Shape:
        Returns ``(n, 4)`` int32.
    Raises:
        FileFormatError: the file is no text; the message names the line.
    """
    if word2id is None:
        raise TypeError("read_analogies_file needs word2id, the dictionary of word ids")
    questions, n_skipped = [], 0
    for number, line in lines(eval_file):
        if line.startswith(b":"):
            continue
        words = decoded(eval_file, number, line.strip().lower()).split(" ")
        ids = [look_up(word2id, word.strip()) for word in words] if len(words) == 4 else [None]
        if None in ids:
            n_skipped += 1
        else:
            questions.append(ids)
    print("Eval analogy file: ", eval_file)
    print("Questions: ", len(questions))
    print("Skipped: ", n_skipped)
    return np.array(questions, dtype=np.int32).reshape(-1, 4)


def build_vocab(data: Iterable[Word]) -> dict[Any, int]:
    """The ids of all words of a text, the most frequent first, in alphabetical order where that is equal.

    Raises:
        ValueError: there are no words.
        TypeError: they are bytes and str mixed, or the text is not split into words.

    >>> build_vocab("b a c a b d".split())
    {'a': 0, 'b': 1, 'c': 2, 'd': 3}
    """
    counter = Counter(_split(data, "build_vocab"))
    if not counter:
        raise ValueError("build_vocab got a text without words")
    try:
        pairs = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
    except TypeError:
        raise TypeError("build_vocab got str and bytes mixed, which have no common order; decode the bytes") from None
    return {word: i for i, (word, _) in enumerate(pairs)}


def build_reverse_dictionary(word_to_id: Mapping[Any, int]) -> dict[int, Any]:
    """The word of each id.

    >>> build_reverse_dictionary({"a": 0, "b": 1})
    {0: 'a', 1: 'b'}
    """
    return {i: word for word, i in word_to_id.items()}


def build_words_dataset(
    words: Iterable[Word], vocabulary_size: int = 50000, printable: bool = True, unk_key: str = "UNK"
) -> tuple[list[int], list[Any], dict[Any, int], dict[int, Any]]:
    """Keep the ``vocabulary_size - 1`` most frequent words of a text and call all others ``unk_key``.

    The id of ``unk_key`` is 0, that of the most frequent word 1. Words as frequent as each other come in the order of
    the text.

    Returns:
        The ids of the text; the counts, ``[[unk_key, n], (word, n), …]``, where unknown words are counted but not
        ``unk_key`` where the text itself has it; the id of each word; the word of each id.
    Raises:
        ValueError: there are no words, or ``vocabulary_size`` is less than 1.

    >>> ids, count, ids_of, words_of = build_words_dataset("a b a c a b d".split(), 3, printable=False)
    >>> ids, count
    ([1, 2, 1, 0, 1, 2, 0], [['UNK', 2], ('a', 3), ('b', 2)])
    """
    words = list(_split(words, "build_words_dataset"))
    if not words:
        raise ValueError("build_words_dataset got a text without words")
    if operator.index(vocabulary_size) < 1:
        raise ValueError(f"vocabulary_size must be at least 1, for {unk_key!r} alone, got {vocabulary_size}")
    counter = Counter(words)
    n_distinct = len(counter)
    # Were it counted among the others, it would take a second id, and 0 would be no word's.
    n_literal = counter.pop(unk_key, 0)
    twin = other_kind(unk_key)
    n_twin = 0 if twin is None else counter.pop(twin, 0)
    size = min(vocabulary_size, len(counter) + 1)
    if size < vocabulary_size:
        warnings.warn(
            f"vocabulary_size={vocabulary_size} is more than the {len(counter)} distinct words and {unk_key!r}; "
            f"{size} is used",
            stacklevel=2,
        )
    kept = counter.most_common(size - 1)
    dictionary: dict[Any, int] = {unk_key: 0}
    for word, _ in kept:
        dictionary[word] = len(dictionary)
    data = [dictionary.get(word, 0) for word in words]
    n_unknown = len(words) - n_literal - n_twin - sum(n for _, n in kept)
    if printable:
        print(f"Real vocabulary size    {n_distinct}")
        print(f"Limited vocabulary size {size}")
    return data, [[unk_key, n_unknown], *kept], dictionary, build_reverse_dictionary(dictionary)


def words_to_word_ids(data: Iterable[Word], word_to_id: Mapping[Any, int], unk_key: str = "UNK") -> list[int]:
    """The id of each word, that of ``unk_key`` for words without one. (PTB's is ``"<unk>"``.)

    Raises:
        ValueError: a word has no id, and ``unk_key`` has none either.

    >>> words_to_word_ids(["a", b"b", "x"], {"UNK": 0, "a": 1, "b": 2})
    [1, 2, 0]
    """
    unknown = look_up(word_to_id, unk_key)
    ids = []
    for position, word in enumerate(_split(data, "words_to_word_ids")):
        i = look_up(word_to_id, word)
        i = unknown if i is None else i
        if i is None:
            raise ValueError(
                f"word {position}, {shown(word)}, is not in the vocabulary, nor is {unk_key!r}; give unk_key the word "
                "that stands for the unknown ones there"
            )
        ids.append(i)
    return ids


def word_ids_to_words(data: Iterable[int], id_to_word: Mapping[int, Any] | Sequence[Any]) -> list[Any]:
    """The word of each id, from a dict or a list of words.

    Raises:
        IndexError: an id has no word.

    >>> word_ids_to_words([1, 0, 1], ["a", "b"])
    ['b', 'a', 'b']
    """
    words = []
    for position, i in enumerate(data.tolist() if isinstance(data, (np.ndarray, Tensor)) else data):
        index = operator.index(i)
        try:
            if index < 0 and not isinstance(id_to_word, Mapping):
                raise IndexError  # it would count from the end
            words.append(id_to_word[index])
        except LookupError:
            raise IndexError(f"id {index} at position {position} is not one of the {len(id_to_word)} words") from None
    return words


def save_vocab(count: Sequence[Any], name: Path = "vocab.txt") -> str:
    """Write words and their counts, a pair a line, and say so. See :func:`build_words_dataset`.

    Returns:
        The file's full path.
    Raises:
        ValueError: a word cannot stand in a line: it is empty or has a space in it.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = save_vocab([["UNK", 3], ("the", 3)], folder.name + "/vocab.txt")  # doctest: +ELLIPSIS
    2 vocab saved to vocab.txt in ...
    >>> read_words(path)
    ['UNK', '3<eos>the', '3<eos>']
    >>> folder.cleanup()
    """
    content = b"".join(b"%b %d\n" % (as_line(word), n) for word, n in count)
    folder, base = os.path.split(name) if os.path.isabs(name) else (os.getcwd(), os.fspath(name))
    path = os.path.join(folder, base)
    with atomic_write(path) as f:
        f.write(content)
    print(f"{len(count)} vocab saved to {base} in {folder}")
    return path


def _split(words: Iterable[Any], owner: str) -> Iterable[Any]:
    """A text is a list of words; bytes would count as numbers, and a str as letters."""
    if isinstance(words, (str, bytes)):
        raise TypeError(f"{owner} takes a list of words, got {shown(words)}; split it, or for letters take list(text)")
    return words.tolist() if isinstance(words, np.ndarray) else words
