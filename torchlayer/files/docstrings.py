"""A corpus that every machine has: what the docstrings of Python, NumPy and PyTorch say.

The sources are parsed, never imported or run. Tests are left out (not every machine has Python's), and so are doctest
prompts and any docstring met before word for word. What is left is lower-cased; words are runs of letters, with an
apostrophe or without; a number is ``N``, as in the Penn Treebank; underscores and all other signs only separate. The
order is always the same: Python's library, NumPy, PyTorch, each by path, each file from top to bottom.

The result depends on the three versions, so compare figures only between machines where they are alike.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import os
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .atomic import atomic_write
from .errors import FileFormatError
from .places import home_folder, places
from .text_datasets import ids_by_frequency

_FORMAT = 1  # goes up when the rules above change
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|(\d+(?:\.\d+)*)")
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.).*$", re.MULTILINE)
_EVERY = 20  # of twenty docstrings one is for validation and one for the test


def load_docstrings_dataset(path: str | os.PathLike[str] | None = None) -> list[str]:
    """Words of the docstrings on this machine, a million or so, ``<eos>`` after each docstring.

    The first call takes some ten seconds and keeps the words in a file; later ones take one. A source file that cannot
    be read or parsed is skipped, and the progress bar counts it.

    Args:
        path: folder to keep the words in, by default the user's cache; ``$TORCHLAYER_DATA`` is looked in too.

    Raises:
        FileFormatError: the kept file was changed or damaged.
        FileNotFoundError: Python, NumPy and PyTorch are here without their sources.
    """
    return [word for words in _docstrings_of(path) for word in (*words, "<eos>")]


def load_docstrings_splits(
    path: str | os.PathLike[str] | None = None, vocabulary_size: int = 10_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The docstrings as `load_ptb_dataset` gives its text: ids, in three parts.

    Of every twenty docstrings one is for validation and one for the test; none is in two parts, word for word. Ids go
    by frequency in the training part; all but its most frequent words are ``<unk>``.

    Args:
        path: as `load_docstrings_dataset`.
        vocabulary_size: ids to use at most, ``<unk>`` among them.

    Shape:
        ``train_data, valid_data, test_data, vocabulary``: three ``(N,)`` int64, and the number of ids.

    Raises:
        ValueError: ``vocabulary_size`` is less than 2.
        FileFormatError, FileNotFoundError: as `load_docstrings_dataset`.
    """
    if vocabulary_size < 2:
        raise ValueError(f"load_docstrings_splits: vocabulary_size must be at least 2, got {vocabulary_size}")
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for i, words in enumerate(_docstrings_of(path)):
        parts[{_EVERY // 2 - 1: 1, _EVERY - 1: 2}.get(i % _EVERY, 0)].extend([*words, "<eos>"])
    kept = set(list(ids_by_frequency(parts[0]))[: vocabulary_size - 1])
    table = ids_by_frequency(word if word in kept else "<unk>" for word in parts[0])
    unknown = table.get("<unk>", len(table))
    train, valid, test = (np.array([table.get(word, unknown) for word in part], np.int64) for part in parts)
    return train, valid, test, max(len(table), unknown + 1)


def _docstrings_of(path: str | os.PathLike[str] | None) -> list[list[str]]:
    """Words of each docstring, out of the kept file, or out of the sources and then kept."""
    versions = f"python{platform.python_version()}-numpy{np.__version__}-torch{torch.__version__}"
    name = f"docstrings-{_FORMAT}-{versions}.txt"
    for place in places("docstrings", path):
        if (place / name).is_file():
            return _kept(place / name)
    docstrings = _parsed([file for root in _roots() for file in _sources(root)])
    if not docstrings:
        raise FileNotFoundError(
            "no docstring was found: Python, NumPy and PyTorch are installed without their .py files. Give another "
            "text to load_matt_mahoney_text8_dataset(path=...)"
        )
    _keep(home_folder("docstrings", path) / name, docstrings)
    return docstrings


def _parsed(files: list[Path]) -> list[list[str]]:
    with _no_collection(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsing complains of invalid escapes, which are not ours to mend
        return _unique(_words(text) for text in _texts(files))


def _texts(files: list[Path]) -> Iterator[str]:
    n_skipped = 0
    with tqdm(files, desc="docstrings", unit="file", disable=None) as bar:
        for file in bar:
            try:
                tree = ast.parse(file.read_bytes())
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # written for another Python, say
                n_skipped += 1
                bar.set_postfix(skipped=n_skipped)
                continue
            yield from _texts_in(tree)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and looking for some takes as long as parsing does."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _roots() -> list[Path]:
    folders = [sysconfig.get_path("stdlib")]
    for package in ("numpy", "torch"):
        spec = importlib.util.find_spec(package)
        folders += list(spec.submodule_search_locations or ()) if spec else []
    return [Path(folder) for folder in folders]


def _sources(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _texts_in(tree: ast.Module) -> Iterator[str]:
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield text
        children = ast.iter_child_nodes(node)  # expressions hold no docstring, and are most of the tree
        pending += reversed([c for c in children if isinstance(c, (ast.stmt, ast.ExceptHandler, ast.match_case))])


def _words(text: str) -> list[str]:
    """
    >>> _words("Don't use `max_pool2d` with 3.14.\\n    >>> f(1)\\n")
    ["don't", 'use', 'max', 'pool', 'N', 'd', 'with', 'N']
    """
    return ["N" if match[1] else match[0] for match in _WORD.finditer(_PROMPT.sub("", text).lower())]


def _unique(docstrings: Iterable[list[str]]) -> list[list[str]]:
    """Each once and the empty ones never; equal words are one object."""
    shared: dict[str, str] = {}
    unique: dict[tuple[str, ...], None] = {}
    for words in docstrings:
        unique.setdefault(tuple(map(shared.setdefault, words, words)))
    unique.pop((), None)
    return [list(words) for words in unique]


def _keep(file: Path, docstrings: list[list[str]]) -> None:
    body = "".join(" ".join(words) + "\n" for words in docstrings).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as f:
            f.write(_head(body) + body)
    except OSError as e:
        warnings.warn(
            f"the docstrings could not be kept in '{file}' ({e}); the next call parses them again", stacklevel=4
        )


def _kept(file: Path) -> list[list[str]]:
    head, end, body = file.read_bytes().partition(b"\n")
    if head + end != _head(body):
        raise FileFormatError(file, "it is not as it was written; delete it, and it is made again")
    return _unique(line.split(" ") for line in body.decode().split("\n")[:-1])


def _head(body: bytes) -> bytes:
    return f"torchlayer docstrings {_FORMAT} {len(body)} bytes crc32 {zlib.crc32(body):08x}\n".encode()
