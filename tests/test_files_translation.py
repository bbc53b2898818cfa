"""Parallel texts and corpora for translation, made up here."""

from __future__ import annotations

import gzip
import io
import lzma
import sys
import tarfile

import pytest

from torchlayer import files
from torchlayer.files import (
    FileFormatError,
    load_multi30k_dataset,
    load_parallel_text,
    load_wmt_en_fr_dataset,
    save_parallel_text,
    split_pairs,
)


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    """No network, no data of the user's."""
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)


def test_two_files_are_read_line_by_line_and_whole(tmp_path):
    (tmp_path / "en").write_bytes(gzip.compress(b"Go.\n\nRun!"))
    (tmp_path / "fr").write_bytes(lzma.compress("Va !\nVide\nCours\u202f!\n".encode()))
    pairs = load_parallel_text(tmp_path / "en", tmp_path / "fr")
    assert pairs == [("Go.", "Va !"), ("", "Vide"), ("Run!", "Cours\u202f!")]


@pytest.mark.parametrize(
    ("en", "fr", "error"),
    [
        (
            b"a\nb\n",
            b"a\n",
            r"en' cannot be read: it goes on after line 1, where '.*fr' ends; line by line they must",
        ),
        (b"a\n", b"a\n\n", r"fr' cannot be read: it goes on after line 1, where '.*en' ends"),
        (b"a\n", b"\xff\n", r"fr' cannot be read: line 1 is not UTF-8"),
        (
            b"a\tb\nc\n",
            None,
            r"en' cannot be read: line 2 has no tab; it must be a sentence, a tab and its",
        ),
        (b"a\tb\tc\n", None, r"en' cannot be read: line 1 has 2 tabs"),
    ],
)
def test_what_is_no_parallel_text_is_refused(en, fr, error, tmp_path):
    (tmp_path / "en").write_bytes(en)
    if fr is not None:
        (tmp_path / "fr").write_bytes(fr)
    with pytest.raises(FileFormatError, match=error):
        load_parallel_text(tmp_path / "en", tmp_path / "fr" if fr is not None else None)


def test_what_is_saved_is_loaded(tmp_path):
    pairs = [("A dog.", "Un chien."), ("", "é\u202f!")]
    save_parallel_text(iter(pairs), tmp_path / "en", tmp_path / "fr")
    assert load_parallel_text(tmp_path / "en", tmp_path / "fr") == pairs


@pytest.mark.parametrize("sentence", ["two\nlines", "two\rlines"])
def test_a_sentence_of_two_lines_is_not_saved(sentence, tmp_path):
    with pytest.raises(ValueError, match="a sentence is a line of the file, and this is more: 'two"):
        save_parallel_text([("a", "b"), ("c", sentence)], tmp_path / "en", tmp_path / "fr")
    assert not [*tmp_path.iterdir()]


def test_a_sentence_is_in_one_part_with_all_its_translations():
    pairs = [(f"s{i % 30}", f"t{i}") for i in range(100)]
    parts = split_pairs(pairs, 5, 7, seed=3)
    sources = [{source for source, _ in part} for part in parts]
    assert [*map(len, sources)] == [18, 5, 7]
    assert len(set.union(*sources)) == 30
    assert sorted(pair for part in parts for pair in part) == sorted(pairs)
    assert parts == split_pairs(pairs, 5, 7, seed=3) != split_pairs(pairs, 5, 7, seed=4)


@pytest.mark.parametrize("sizes", [(2, 1), (-1, 1)])
def test_a_split_needs_sentences(sizes):
    with pytest.raises(ValueError, match="counts that add up to at most the 2 different sentences"):
        split_pairs([("a", "b"), ("a", "c"), ("b", "d")], *sizes)


# Multi30k --------------------------------------------------------------------------


def multi30k(folder):
    for part, text in (("train", "A dog's «life» here.\n"), ("val", "Two men.\n"), ("test_2016_flickr", "A man.\n")):
        (folder / f"{part}.en.gz").write_bytes(gzip.compress(text.encode()))
        (folder / f"{part}.fr.gz").write_bytes(gzip.compress("L'herbe, qu'on…\n".encode()))


def test_multi30k_is_tokenized_as_its_papers_do(tmp_path):
    pytest.importorskip("sacremoses", reason="pip install sacremoses")
    multi30k(tmp_path)
    train, valid, test = load_multi30k_dataset(tmp_path)
    assert train == [("a dog &apos;s &quot; life &quot; here .", "l&apos; herbe , qu&apos; on ...")]
    assert (valid[0][0], test[0][0]) == ("two men .", "a man .")
    raw, _, _ = load_multi30k_dataset(tmp_path, tokenized=False)
    assert raw == [("A dog's «life» here.", "L'herbe, qu'on…")]


def test_multi30k_takes_the_official_tokens_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    multi30k(tmp_path)
    with pytest.raises(ImportError, match="moses_tokenize needs sacremoses: pip install sacremoses"):
        load_multi30k_dataset(tmp_path)
    for part in ("train", "val", "test_2016_flickr"):
        (tmp_path / f"{part}.lc.norm.tok.en").write_text(f"{part} .\n")
        (tmp_path / f"{part}.lc.norm.tok.fr").write_text(f"le {part} .\n")
    train, _, test = load_multi30k_dataset(tmp_path)
    assert (train, test) == ([("train .", "le train .")], [("test_2016_flickr .", "le test_2016_flickr .")])


def test_multi30k_that_is_nowhere_says_where_it_may_be():
    with pytest.raises(FileNotFoundError, match=r"no folder has all files of 'multi30k' \(train\.en\.gz, train\.fr"):
        load_multi30k_dataset("nowhere")


# WMT -------------------------------------------------------------------------------


def archive(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


STEM = "giga-fren.release2.fixed"


def test_wmt_is_unpacked_once(tmp_path):
    packed = {f"{STEM}.{language}.gz": gzip.compress(b"a\nb\n") for language in ("en", "fr")}
    archive(tmp_path / "training-giga-fren.tar", packed)
    archive(tmp_path / "dev-v2.tgz", {f"dev/newstest2013.{language}": b"c\n" for language in ("en", "fr")})
    train, dev = load_wmt_en_fr_dataset(tmp_path)
    assert (train, dev) == (str(tmp_path / STEM), str(tmp_path / "dev" / "newstest2013"))
    for language in ("en", "fr"):
        assert (tmp_path / f"{STEM}.{language}").read_bytes() == b"a\nb\n"
    (tmp_path / f"{STEM}.en").write_bytes(b"kept\n")
    for name in ("training-giga-fren.tar", "dev-v2.tgz"):
        (tmp_path / name).unlink()
    assert load_wmt_en_fr_dataset(tmp_path) == (train, dev)
    assert (tmp_path / f"{STEM}.en").read_bytes() == b"kept\n"


def test_wmt_damaged_leaves_no_half_text(tmp_path):
    for language in ("en", "fr"):
        (tmp_path / f"{STEM}.{language}.gz").write_bytes(gzip.compress(b"a line\n" * 99)[:-9])
        (tmp_path / f"newstest2013.{language}").write_text("c\n")
    with pytest.raises(FileFormatError, match=r"fixed\.en\.gz' cannot be read: its packing is damaged or cut off"):
        load_wmt_en_fr_dataset(tmp_path)
    assert not (tmp_path / f"{STEM}.en").exists()


def test_wmt_in_an_archive_of_something_else_is_refused(tmp_path):
    archive(tmp_path / "training-giga-fren.tar", {"readme": b"no"})
    with pytest.raises(FileFormatError, match=rf"it has no '{STEM}\.en' and '{STEM}\.fr'"):
        load_wmt_en_fr_dataset(tmp_path)


def test_wmt_that_is_nowhere_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training-giga-fren\.tar"):
        files.load_wmt_en_fr_dataset(tmp_path)
