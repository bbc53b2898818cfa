"""Sentences and their translations: two files, line by line, or one with a tab between the two."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np

from .atomic import atomic_write
from .errors import FileFormatError
from .text import read_lines


def load_parallel_text(
    source_path: str | os.PathLike[str], target_path: str | os.PathLike[str] | None = None
) -> list[tuple[str, str]]:
    """Sentences and their translations, whole, empty lines as well, plain or packed by gzip, bzip2, xz or zip.

    Args:
        source_path: sentences, one a line; or, without ``target_path``, ``sentence TAB translation`` a line, as the
            pairs of Tatoeba come.
        target_path: line ``i`` of it translates line ``i`` of the other.

    Raises:
        FileFormatError: one file has more lines than the other; a line has no tab, or more than one; or as
            ``files.text.read_lines`` says: no UTF-8, a carriage return, damage.
        FileNotFoundError: there is no such file.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".tsv") as f:
    ...     _ = f.write("Go.\\tVa !\\nRun!\\tCours !\\n".encode()) and f.flush()
    ...     load_parallel_text(f.name)
    [('Go.', 'Va !'), ('Run!', 'Cours !')]
    """
    if target_path is None:
        return [_split(source_path, number, line) for number, line in read_lines(source_path)]
    pairs: list[tuple[str, str]] = []
    for source, target in zip_longest(read_lines(source_path), read_lines(target_path)):
        if source is None or target is None:
            longer, shorter = (source_path, target_path) if target is None else (target_path, source_path)
            reason = (
                f"it goes on after line {len(pairs)}, where '{os.fspath(shorter)}' ends; line by line they must be "
                "translations of each other"
            )
            raise FileFormatError(longer, reason)
        pairs.append((source[1], target[1]))
    return pairs


def save_parallel_text(
    pairs: Iterable[tuple[str, str]], source_path: str | os.PathLike[str], target_path: str | os.PathLike[str]
) -> None:
    """Write sentences and their translations into two files, line by line.

    Raises:
        ValueError: a sentence has a line end in it.
    """
    with atomic_write(source_path) as source, atomic_write(target_path) as target:
        for pair in pairs:
            for sentence, file in zip(pair, (source, target)):
                if "\n" in sentence or "\r" in sentence:
                    raise ValueError(f"a sentence is a line of the file, and this is more: {sentence[:60]!r}")
                file.write(sentence.encode() + b"\n")


def split_pairs(
    pairs: Sequence[tuple[str, str]], n_valid: int, n_test: int, seed: int = 0
) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[tuple[str, str]]]:
    """Divide pairs into training, validation and test so that all translations of a sentence are in one part.

    A corpus such as Tatoeba translates a sentence several times. Divided by lines, the test would ask for what training
    has shown.

    Args:
        n_valid, n_test: how many different sentences go there; all their translations go with them.
        seed: of the choice. The pairs stay in order, and no global generator is used.

    Raises:
        ValueError: there are not so many different sentences.

    >>> split_pairs([("a", "x"), ("b", "y"), ("a", "z")], n_valid=0, n_test=1, seed=1)
    ([('b', 'y')], [], [('a', 'x'), ('a', 'z')])
    """
    sentences = list(dict.fromkeys(source for source, _ in pairs))
    if min(n_valid, n_test) < 0 or n_valid + n_test > len(sentences):
        raise ValueError(
            f"split_pairs: n_valid={n_valid} and n_test={n_test} are counts that add up to at most the "
            f"{len(sentences)} different sentences"
        )
    order = np.random.RandomState(seed).permutation(len(sentences)).tolist()  # its stream never changes
    part = {sentences[i]: 1 if k < n_valid else 2 for k, i in enumerate(order[: n_valid + n_test])}
    parts: tuple[list[tuple[str, str]], ...] = ([], [], [])
    for pair in pairs:
        parts[part.get(pair[0], 0)].append(pair)
    return parts[0], parts[1], parts[2]


def _split(path: str | os.PathLike[str], number: int, line: str) -> tuple[str, str]:
    source, *targets = line.split("\t")
    if len(targets) != 1:
        what = "no tab" if not targets else f"{len(targets)} tabs"
        raise FileFormatError(path, f"line {number} has {what}; it must be a sentence, a tab and its translation")
    return source, targets[0]
