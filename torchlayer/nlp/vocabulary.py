"""Vocabularies in files, a word a line with its count behind it, and sentences made into words for them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..files.atomic import atomic_write
from ..files.errors import FileFormatError
from ._text import Path, Word, as_line, decoded, listed_words, look_up, shown
from ._treebank import treebank_words


class SimpleVocabulary:
    """Word ids, with one id for all words that have none.

    >>> vocabulary = SimpleVocabulary({"a": 0, "b": 1}, unk_id=2)
    >>> vocabulary.word_to_id("b"), vocabulary.word_to_id("c")
    (1, 2)
    """

    def __init__(self, vocab: dict[Any, int], unk_id: int):
        self._vocab = vocab
        self._unk_id = unk_id

    def word_to_id(self, word: Word) -> int:
        """The id of a word, given as str or bytes, or that of the unknown ones."""
        found = look_up(self._vocab, word)
        return self._unk_id if found is None else found


class Vocabulary:
    """The words of a file, whose ids are their line numbers, from 0.

    The word of a line is what comes before the first space: a count may follow. ``unk_word`` gets the id after the last
    if it is not in the file. Prints what it found.

    Attributes:
        vocab: the id of each word, a dict.
        reverse_vocab: the word of each id, a list.
        start_id, end_id, unk_id: ids of the special words.
        pad_id: ``None`` if ``pad_word`` is not in the file.

    Raises:
        FileFormatError: the file is not UTF-8, has an empty line, a word twice, no words, or no start or end word. The
            message names the line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(mode="w", suffix=".txt") as f:
    ...     _ = f.write("<PAD> 0\\n<S> 2\\n</S> 2\\nfive 2\\n") and f.flush()
    ...     vocabulary = Vocabulary(f.name)  # doctest: +ELLIPSIS
      [TL] Vocabulary from ... : <S> </S> <UNK>
        vocabulary with 5 words (includes start_word, end_word, unk_word)
          start_id: 1
          end_id: 2
          unk_id: 4
          pad_id: 0
    >>> vocabulary.word_to_id("six"), vocabulary.id_to_word(3)
    (4, 'five')
    """

    def __init__(
        self,
        vocab_file: Path,
        start_word: str = "<S>",
        end_word: str = "</S>",
        unk_word: str = "<UNK>",
        pad_word: str = "<PAD>",
    ):
        words = [decoded(vocab_file, number, word) for number, word in enumerate(listed_words(vocab_file, True), 1)]
        if unk_word not in words:
            words.append(unk_word)
        self.reverse_vocab = words
        self.vocab = {word: i for i, word in enumerate(words)}
        for what, word in (("start", start_word), ("end", end_word)):
            if word not in self.vocab:
                raise FileFormatError(vocab_file, f"it lacks the {what} word {word!r}; add it or give {what}_word")
        self.start_id, self.end_id = self.vocab[start_word], self.vocab[end_word]
        self.unk_id, self.pad_id = self.vocab[unk_word], self.vocab.get(pad_word)
        print(f"  [TL] Vocabulary from {vocab_file} : {start_word} {end_word} {unk_word}")
        print(f"    vocabulary with {len(words)} words (includes start_word, end_word, unk_word)")
        print(f"      start_id: {self.start_id}")
        print(f"      end_id: {self.end_id}")
        print(f"      unk_id: {self.unk_id}")
        print(f"      pad_id: {self.pad_id}")

    def word_to_id(self, word: Word) -> int:
        """The id of a word, given as str or bytes, or ``unk_id``."""
        found = look_up(self.vocab, word)
        return self.unk_id if found is None else found

    def id_to_word(self, word_id: int) -> str:
        """The word of an id; the unknown word for ids beyond the last.

        Raises:
            IndexError: the id is negative.
        """
        index = operator.index(word_id)
        if index < 0:
            raise IndexError(f"a word id counts from 0, got {index}")
        return self.reverse_vocab[index if index < len(self.reverse_vocab) else self.unk_id]


def process_sentence(
    sentence: Word,
    start_word: str | None = "<S>",
    end_word: str | None = "</S>",
    tokenizer: Callable[[str], Sequence[str]] | None = None,
) -> list[str]:
    """Split a sentence into lower-case words and marks, between ``start_word`` and ``end_word`` (``None``: without).

    Args:
        tokenizer: a function from a sentence to its words. Without one they are split as in the Penn Treebank:
            ``can't`` is ``ca n't``. NLTK's ``word_tokenize``, which the original used, does the same but first divides
            a text into sentences, by a model that must be downloaded; here only the last period is split off.

    >>> process_sentence("How are you?")
    ['<S>', 'how', 'are', 'you', '?', '</S>']
    """
    text = (sentence.decode() if isinstance(sentence, bytes) else sentence).lower()
    words = list((treebank_words if tokenizer is None else tokenizer)(text))
    return [*([] if start_word is None else [start_word]), *words, *([] if end_word is None else [end_word])]


def create_vocab(
    sentences: Iterable[Sequence[Word]], word_counts_output_file: Path, min_word_count: int = 1
) -> SimpleVocabulary:
    """Count the words of sentences, and write those that occur ``min_word_count`` times, the most frequent first.

    The first line is ``<PAD> 0``. The id of a word is its line number, from 0; unknown words get the id after the last,
    which is also what :class:`Vocabulary` gives them when it reads the file. Prints what it does.

    Args:
        sentences: lists of words, as :func:`process_sentence` makes them.
    Raises:
        ValueError: there are no words, or one cannot stand in a line, having a space in it.
        TypeError: a sentence is not split into words.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> sentences = [["<S>", "one", "two", "</S>"], ["<S>", "five", "five", "</S>"]]
    >>> vocabulary = create_vocab(sentences, folder.name + "/vocab.txt")  # doctest: +ELLIPSIS
      [TL] Creating vocabulary.
        Total words: 5
        Words in vocabulary: 6
        Wrote vocabulary file: ...vocab.txt
    >>> vocabulary.word_to_id("five"), vocabulary.word_to_id("six")
    (3, 6)
    >>> folder.cleanup()
    """
    print("  [TL] Creating vocabulary.")
    counter: Counter[Word] = Counter()
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, (str, bytes)):
            raise TypeError(f"sentence {number} is not a list of words but {shown(sentence)}; use process_sentence")
        counter.update(sentence)
    if not counter:
        raise ValueError("create_vocab got no words to count")
    print(f"    Total words: {len(counter)}")
    for padding in ("<PAD>", b"<PAD>"):
        counter.pop(padding, None)  # it has the first line already, and a second one would be a second id
    # A stable sort: among words as frequent as each other the first seen comes first.
    kept = sorted((item for item in counter.items() if item[1] >= min_word_count), key=lambda item: -item[1])
    counts: list[tuple[Word, int]] = [("<PAD>", 0), *kept]
    print(f"    Words in vocabulary: {len(counts)}")
    content = b"\n".join(b"%b %d" % (as_line(word), count) for word, count in counts)
    with atomic_write(word_counts_output_file) as f:
        f.write(content)
    print(f"    Wrote vocabulary file: {word_counts_output_file}")
    return SimpleVocabulary({word: i for i, (word, _) in enumerate(counts)}, unk_id=len(counts))
