"""Corpora for translation from English into French.

Folders are looked for in the order of `datasets`; what is nowhere is downloaded, unless ``TORCHLAYER_OFFLINE=1``.
"""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from pathlib import Path

from .archive import extract
from .atomic import atomic_write
from .download import download
from .errors import FileFormatError
from .parallel_text import load_parallel_text
from .places import find_file, find_folder, home_folder, places

Pairs = list[tuple[str, str]]

_LANGUAGES = ("en", "fr")
_WMT = {  # part: (the files' stem, the archive that holds them, where that was published)
    "train": ("giga-fren.release2.fixed", "training-giga-fren.tar", "https://www.statmt.org/wmt10/"),
    "dev": ("newstest2013", "dev-v2.tgz", "https://www.statmt.org/wmt15/"),
}
_MULTI30K = {  # name: (bytes, sha256)
    "train.en.gz": (568929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "train.fr.gz": (604242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
    "val.en.gz": (21650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "val.fr.gz": (23001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
    "test_2016_flickr.en.gz": (21077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
    "test_2016_flickr.fr.gz": (22310, "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
}
_MULTI30K_MIRRORS = ("https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/",)
_PARTS = ("train", "val", "test_2016_flickr")


def load_wmt_en_fr_dataset(path: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """The 22.5 million sentence pairs of the WMT'10 giga corpus, and newstest2013: paths without ``.en`` and ``.fr``.

    The texts are too large to return: 3.8 and 4.6 GB, out of a download of 2.6 GB. They are unpacked once.

    Args:
        path: folder with ``giga-fren.release2.fixed.en`` and ``.fr``, the same with ``.gz``, or
            ``training-giga-fren.tar``; and, there or under ``dev``, ``newstest2013.en`` and ``.fr``, or ``dev-v2.tgz``.

    Shape:
        ``train_path, dev_path``: ``f"{train_path}.en"`` and ``f"{train_path}.fr"`` are files.

    Raises:
        FileFormatError: an archive is damaged, or lacks these files.
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        OSError: the disk is full or cannot be written.

    Reference:
        Callison-Burch et al. 2010, Findings of the 2010 Joint Workshop on Statistical Machine Translation,
        https://aclanthology.org/W10-1703/
    """
    train, dev = (_unpacked_texts(*_WMT[part], path) for part in ("train", "dev"))
    return train, dev


def load_multi30k_dataset(
    path: str | os.PathLike[str] | None = None, tokenized: bool = True
) -> tuple[Pairs, Pairs, Pairs]:
    """Multi30k, captions of photographs: 29,000 training, 1,014 validation and 1,000 test sentences (2016, Flickr).

    Tokenized is what its papers score: lower case, Moses' punctuation and words between spaces, ``l&apos; herbe``. The
    official ``*.lc.norm.tok.en`` and ``.fr`` are read where they lie beside each other; otherwise the raw sentences are
    tokenized by sacremoses. (Its English has the official number of tokens, its French 14 of 409,845 fewer.)

    Args:
        path: folder with ``train.en.gz``, ``val.en.gz``, ``test_2016_flickr.en.gz`` and the same in ``fr``; or with
            ``train.lc.norm.tok.en`` and so on.
        tokenized: ``False`` gives the sentences as they were written.

    Shape:
        ``train, valid, test``: lists of ``(english, french)``.

    Raises:
        FileFormatError: a file is damaged, or two have different numbers of lines.
        FileNotFoundError: the files are nowhere and cannot be downloaded.
        ImportError: sacremoses is needed and not installed.

    Reference:
        Elliott et al. 2016, arXiv:1605.00459 and 2017, arXiv:1710.07177. The captions may be used for research and
        education, not commercially.
    """
    if tokenized:
        official = [f"{part}.lc.norm.tok.{language}" for part in _PARTS for language in _LANGUAGES]
        for place in places("multi30k", path):
            files = [find_file(place, name) for name in official]
            if all(files):
                return _three([file for file in files if file])
    folder = find_folder("multi30k", tuple(_MULTI30K), path)
    raw = [
        find_file(folder, name) or download(name, folder, [m + name for m in _MULTI30K_MIRRORS], sha256, size)
        for name, (size, sha256) in _MULTI30K.items()
    ]
    train, valid, test = _three(raw)
    if not tokenized:
        return train, valid, test
    return _moses(train), _moses(valid), _moses(test)


def _three(files: list[Path]) -> tuple[Pairs, Pairs, Pairs]:
    train, valid, test = (load_parallel_text(files[i], files[i + 1]) for i in (0, 2, 4))
    return train, valid, test


def _moses(pairs: Pairs) -> Pairs:
    """As the corpus's own script."""
    from ..nlp.moses import moses_tokenize  # nlp imports this package

    return list(zip(*[moses_tokenize(side, language) for side, language in zip(zip(*pairs), _LANGUAGES)]))


def _unpacked_texts(stem: str, archive: str, url: str, path: str | os.PathLike[str] | None) -> str:
    """The prefix of two plain texts, which lie there, or are unpacked out of what lies there or is downloaded."""
    found = _found(stem, path)
    if found is None:
        folder = next((p for p in places("wmt_en_fr", path) if (p / archive).is_file()), home_folder("wmt_en_fr", path))
        extract(download(archive, folder, [url + archive]), folder)
        found = _found(stem, folder)
        if found is None:
            raise FileFormatError(folder / archive, f"it has no '{stem}.en' and '{stem}.fr'")
    for language in _LANGUAGES:
        plain = found / f"{stem}.{language}"
        if not plain.exists():
            packed = plain.with_name(f"{plain.name}.gz")
            try:
                with gzip.open(packed) as source, atomic_write(plain) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (EOFError, gzip.BadGzipFile, zlib.error) as e:
                raise FileFormatError(packed, f"its packing is damaged or cut off ({e})") from e
    return str(found / stem)


def _found(stem: str, path: str | os.PathLike[str] | None) -> Path | None:
    for place in places("wmt_en_fr", path):
        for folder in (place, place / "dev"):
            if all(find_file(folder, f"{stem}.{language}") for language in _LANGUAGES):
                return folder
    return None
