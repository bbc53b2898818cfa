"""Corpora found, parsed and refused; made up here, so that no real one is needed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zipfile

import numpy as np
import pytest

from torchlayer import files
from torchlayer.files import FileFormatError
from torchlayer.files.text import MAX_LINE, read_lines, read_text, read_words

DATA = os.environ.get("TORCHLAYER_DATA", "nowhere")  # before the fixture hides it


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    """No network, no data of the user's."""
    monkeypatch.setenv("TORCHLAYER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)


def zipped(data, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/text", data)
        archive.writestr("other", b"not this")


PACKED = {
    "plain": lambda data, path: path.write_bytes(data),
    "gz": lambda data, path: path.write_bytes(gzip.compress(data, mtime=0)),
    "bz2": lambda data, path: path.write_bytes(bz2.compress(data)),
    "xz": lambda data, path: path.write_bytes(lzma.compress(data)),
    "zip": zipped,
}


@pytest.mark.parametrize("pack", PACKED)
def test_text_is_read_out_of_any_packing(tmp_path, pack):
    text = "".join(f"line {i} é日本 \n" * 20 for i in range(5000)) + "no end"  # several blocks
    PACKED[pack](text.encode(), tmp_path / "t")
    assert read_text(tmp_path / "t") == text
    assert read_words(tmp_path / "t") == text.split()
    assert list(read_lines(tmp_path / "t")) == list(enumerate(text.split("\n"), 1))


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("a\n\nb", ["a", "", "b"]), ("\n\n", ["", ""])],
)
def test_lines_are_those_between_newlines(tmp_path, text, lines):
    (tmp_path / "t").write_text(text, newline="")
    assert list(read_lines(tmp_path / "t")) == list(enumerate(lines, 1))


def test_line_longer_than_a_block_is_words_like_any_other(tmp_path):
    (tmp_path / "t").write_bytes(b"abc " * 2_500_000)
    words = read_words(tmp_path / "t")
    assert len(words) == 2_500_000
    assert len({id(word) for word in words}) == 1  # equal words are one object


LATE = b"ok ok ok\n" * 300_000  # the fault lies in the third block
BAD_TEXT = [
    ("not UTF-8", b"one\ntwo \xe9t\xe9\n", "line 2 is not UTF-8, its byte 0xe9 cannot stand there .at byte 8"),
    ("cut UTF-8", "one\né".encode()[:-1], "line 2 is not UTF-8, its byte 0xc3 cannot stand there .at byte 4"),
    ("CRLF", b"one\ntwo\r\n", "line 2 has a carriage return; convert the line ends with: tr -d .* .at byte 7"),
    ("NUL", b"one\ntwo\nth\0ree\n", "line 3 has a NUL byte; it is binary, or not UTF-8 .at byte 10"),
    ("BOM", b"\xef\xbb\xbfone\n", "line 1 starts with a byte order mark; save the text as UTF-8 without one"),
    ("UTF-16", "one\n".encode("utf-16"), "line 1 starts with a byte order mark"),
    ("late fault", LATE + b"\xff\n", "line 300001 is not UTF-8, its byte 0xff cannot stand there .at byte 2700000"),
    ("late NUL", LATE + b"a\0\n", "line 300001 has a NUL byte"),
    ("cut gzip", gzip.compress(b"one\n" * 100)[:-6], "its packing is damaged or cut off"),
    ("cut xz", lzma.compress(b"one\n" * 100)[:-6], "its packing is damaged or cut off"),
    ("cut bz2", bz2.compress(b"one\n" * 100)[:-6], "its packing is damaged or cut off"),
    ("cut zip", b"PK\x03\x04" + b"x" * 50, "its packing is damaged or cut off"),
    ("wrong sum", gzip.compress(b"one\n" * 100)[:-8] + b"\0" * 8, "its packing is damaged or cut off"),
    ("bomb", gzip.compress((b"one " * 100 + b"\n") * 50_000), "it unpacks to more than"),
]


@pytest.mark.parametrize(
    "read", [read_text, read_words, lambda path: list(read_lines(path))], ids=["text", "words", "lines"]
)
@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BAD_TEXT], ids=[row[0] for row in BAD_TEXT])
def test_what_is_no_clean_text_is_refused_by_line_and_byte(tmp_path, data, text, read):
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"t.txt' cannot be read: {text}"):
        read(tmp_path / "t.txt")


@pytest.mark.parametrize(
    ("read", "data", "text"),
    [
        (read_lines, b"a\n" + b"b " * 5_000_000, "line 2 has no line end within 1048576 bytes"),
        (read_lines, b"a\n" + b"b " * (MAX_LINE // 2 + 1) + b"\n", "line 2 is longer than 1048576 bytes"),
        (read_words, b"a\n" + b"b" * 10_000_000, "line 2 has no space within 1048576 bytes"),
    ],
    ids=["line", "line just too long", "word"],
)
def test_endless_line_or_word_is_refused(tmp_path, read, data, text):
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"t.txt' cannot be read: {text}"):
        list(read(tmp_path / "t.txt"))


PTB = {
    "ptb.train.txt": " the cat saw the dog \n a <unk> saw N dogs \n",
    "ptb.valid.txt": " the dog saw a cat \n",
    "ptb.test.txt": " the zebra saw \n\n",
}


def ptb_folder(folder, replaced=(), pack=False):
    folder.mkdir(parents=True)
    for name, text in {**PTB, **dict(replaced)}.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / (name + ".gz" * pack)).write_bytes(gzip.compress(data) if pack else data)
    return folder


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gz"])
def test_ptb_is_ids_by_frequency_in_the_training_part(tmp_path, pack):
    train, valid, test, vocabulary = files.load_ptb_dataset(ptb_folder(tmp_path / "ptb", pack=pack))
    words = ["<eos>", "saw", "the", "<unk>", "N", "a", "cat", "dog", "dogs"]  # twice: first three; then the alphabet
    assert vocabulary == len(words)
    assert " ".join(words[i] for i in train) == "the cat saw the dog <eos> a <unk> saw N dogs <eos>"
    assert " ".join(words[i] for i in valid) == "the dog saw a cat <eos>"
    assert " ".join(words[i] for i in test) == "the <unk> saw <eos> <eos>"
    assert {train.dtype, valid.dtype, test.dtype} == {np.dtype(np.int64)}


BAD_PTB = [
    ("empty", "ptb.train.txt", "", "ptb.train.txt' cannot be read: it has no words"),
    ("blank", "ptb.valid.txt", "\n \n", "ptb.valid.txt' cannot be read: it has no words"),
    ("CRLF", "ptb.test.txt", "a\r\n", "ptb.test.txt' cannot be read: line 1 has a carriage return"),
    ("not UTF-8", "ptb.valid.txt", b"the\n\xff\n", "ptb.valid.txt' cannot be read: line 2 is not UTF-8"),
    (
        "no <unk>",
        "ptb.train.txt",
        "the dog saw a cat\n",
        "ptb.test.txt' .*line 1 has the word 'zebra', and the training",
    ),
]


@pytest.mark.parametrize(("name", "content", "text"), [row[1:] for row in BAD_PTB], ids=[row[0] for row in BAD_PTB])
def test_bad_ptb_file_is_named_with_its_line(tmp_path, name, content, text):
    folder = ptb_folder(tmp_path / "ptb", {name: content})
    with pytest.raises(FileFormatError, match=text):
        files.load_ptb_dataset(folder)


@pytest.mark.parametrize("place", ["path", "data/ptb", "data", "cache/torchlayer/data/ptb"])
def test_files_are_found_in_every_place(tmp_path, monkeypatch, place):
    monkeypatch.setenv("TORCHLAYER_DATA", str(tmp_path / "data"))
    ptb_folder(tmp_path / place)
    assert files.load_ptb_dataset(path=tmp_path / "path" if place == "path" else None)[3] == 9


@pytest.mark.parametrize("pack", PACKED)
def test_text8_may_be_any_file_of_words(tmp_path, pack):
    PACKED[pack](b" anarchism originated as\na  term\tof ", tmp_path / "mine")
    words = files.load_matt_mahoney_text8_dataset(tmp_path / "mine")
    assert words == ["anarchism", "originated", "as", "a", "term", "of"]


@pytest.mark.parametrize("name", ["text8.zip", "text8", "text8.gz"])
def test_text8_is_found_in_a_folder(tmp_path, name):
    PACKED[name.partition(".")[2] or "plain"](b"one two", tmp_path / name)
    assert files.load_matt_mahoney_text8_dataset(tmp_path) == ["one", "two"]


def test_text8_without_words_is_refused(tmp_path):
    (tmp_path / "text8").write_bytes(b" \n ")
    with pytest.raises(FileFormatError, match="text8' cannot be read: it has no words"):
        files.load_matt_mahoney_text8_dataset(tmp_path)


@pytest.mark.parametrize("text", ["PREFACE\n\n\nSUPPOSING that Truth is a woman", "Ærlig\n"])
def test_nietzsche_is_the_text_character_for_character(tmp_path, text):
    (tmp_path / "nietzsche.txt").write_text(text, "utf-8", newline="")
    assert files.load_nietzsche_dataset(tmp_path) == text


def test_empty_nietzsche_is_refused(tmp_path):
    (tmp_path / "nietzsche.txt").touch()
    with pytest.raises(FileFormatError, match=r"nietzsche\.txt' cannot be read: it is empty"):
        files.load_nietzsche_dataset(tmp_path)


LOADERS = [
    (files.load_ptb_dataset, "ptb", "ptb.train.txt", 5_101_618),
    (files.load_matt_mahoney_text8_dataset, "text8", "text8.zip", 31_344_016),
    (files.load_nietzsche_dataset, "nietzsche", "nietzsche.txt", 600_901),
]


@pytest.mark.parametrize(("load", "dataset", "name", "size"), LOADERS)
def test_missing_files_are_downloaded_with_pinned_hashes(tmp_path, monkeypatch, load, dataset, name, size):
    asked = []

    def stand_in(name, folder, urls, sha256, size):
        asked.append((name, folder, size, len(sha256)))
        assert all(url.startswith("https://") and url.endswith("/" + name) for url in urls)
        raise FileNotFoundError("no network in tests")

    monkeypatch.delenv("TORCHLAYER_OFFLINE")
    monkeypatch.setitem(load.__globals__, "download", stand_in)
    with pytest.raises(FileNotFoundError, match="no network in tests"):
        load()
    assert asked == [(name, tmp_path / "cache/torchlayer/data" / dataset, size, 64)]


@pytest.mark.parametrize(("load", "dataset", "name", "size"), LOADERS)
def test_missing_files_offline_name_files_places_and_cures(tmp_path, load, dataset, name, size):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path / "mine")
    for part in [name, str(tmp_path / "mine"), f"cache/torchlayer/data/{dataset}", "TORCHLAYER_OFFLINE", "path="]:
        assert part in str(error.value)


REVIEWS = [[1, 5, 9], [2], [], [7, 7, 3, 2, 1], [4, 6], [8, 9, 1, 1], [3, 3, 3], [9]]
LABELS = [1, 0, 1, 0, 1, 0, 1, 0]


def imdb_folder(folder, **arrays):
    given = {
        "ids": np.array([i for review in REVIEWS for i in review]),
        "lengths": [len(r) for r in REVIEWS],
        "labels": LABELS,
        **arrays,
    }
    np.savez(folder / "imdb.npz", **{name: array for name, array in given.items() if array is not None})
    return folder


def imdb_expected(nb_words, skip_top, maxlen, test_split, seed, start_char, oov_char, index_from):
    """What the documentation says, on plain lists; shuffled as the original does, the two lists one after the other."""
    reviews, labels = [list(r) for r in REVIEWS], list(LABELS)
    for values in (reviews, labels):
        np.random.RandomState(seed).shuffle(values)
    reviews = [([] if start_char is None else [start_char]) + [w + index_from for w in r] for r in reviews]
    pairs = [(r, y) for r, y in zip(reviews, labels) if maxlen is None or len(r) < maxlen]
    known = range(skip_top, 10**9 if nb_words is None else nb_words)
    if oov_char is None:
        pairs = [([w for w in r if w in known], y) for r, y in pairs]
    else:
        pairs = [([w if w in known else oov_char for w in r], y) for r, y in pairs]
    n = int(len(pairs) * (1 - test_split))
    return [[r for r, _ in pairs[:n]], [y for _, y in pairs[:n]], [r for r, _ in pairs[n:]], [y for _, y in pairs[n:]]]


DEFAULTS = {
    "nb_words": None,
    "skip_top": 0,
    "maxlen": None,
    "test_split": 0.2,
    "seed": 113,
    "start_char": 1,
    "oov_char": 2,
    "index_from": 3,
}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"nb_words": 10},
        {"nb_words": 12, "skip_top": 5},
        {"oov_char": None, "nb_words": 10, "skip_top": 5},
        {"maxlen": 4},
        {"test_split": 0.5, "seed": 7},
        {"test_split": 0, "start_char": None},
        {"test_split": 1, "index_from": 0},
    ],
    ids=str,
)
def test_imdb_is_shuffled_shifted_cut_and_split_as_documented(tmp_path, given):
    before = repr(np.random.get_state())
    found = files.load_imdb_dataset(imdb_folder(tmp_path), **given)
    assert repr(np.random.get_state()) == before
    assert [part.tolist() for part in found] == imdb_expected(**{**DEFAULTS, **given})
    assert [part.dtype for part in found] == [object, np.int64, object, np.int64]


def test_imdb_answers_to_the_name_that_the_originals_documentation_has():
    assert files.load_imbd_dataset is files.load_imdb_dataset


BAD_IMDB = [
    ("no ids", {"ids": None}, "no one-dimensional array of integers 'ids'; write it so: d = numpy.load"),
    ("floats", {"labels": [0.5] * 8}, "no one-dimensional array of integers 'labels'"),
    ("labels", {"labels": [1, 0]}, "it has 8 lengths and 2 labels"),
    ("lengths", {"lengths": [3] * 8}, "its lengths add up to 24, and there are 19 ids"),
    ("negative", {"lengths": [-1, 20] + [0] * 6}, "its lengths add up to 19"),
    ("pickle", {"ids": np.array([[1], [1, 2]], object)}, "If it is the public pickle and you trust it: d = numpy.load"),
]


@pytest.mark.parametrize(("arrays", "text"), [row[1:] for row in BAD_IMDB], ids=[row[0] for row in BAD_IMDB])
def test_bad_imdb_file_is_refused_with_the_cure(tmp_path, arrays, text):
    with pytest.raises(FileFormatError, match=f"imdb.npz' cannot be read: .*{text}"):
        files.load_imdb_dataset(imdb_folder(tmp_path, **arrays))


def test_imdb_line_that_the_errors_show_does_convert_the_public_form(tmp_path):
    """Run the very line, on a file laid out as the public pickle is."""
    half = len(REVIEWS) // 2
    parts = {}
    for name, part in (("train", slice(None, half)), ("test", slice(half, None))):
        parts[f"x_{name}"] = np.array(REVIEWS[part], object)
        parts[f"y_{name}"] = np.array(LABELS[part])
    np.savez(tmp_path / "public.npz", **parts)
    with pytest.raises(FileNotFoundError, match=r"is a pickle\. If you trust it, convert it") as error:
        files.load_imdb_dataset(tmp_path)
    line = str(error.value).partition("these folders: ")[2].replace('"imdb.npz"', "source")
    exec(line, {"numpy": np, "source": tmp_path / "public.npz", "new_path": tmp_path / "imdb.npz"})
    found = files.load_imdb_dataset(tmp_path)
    assert [part.tolist() for part in found] == imdb_expected(**DEFAULTS)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"maxlen": 1}, "none of 8 reviews is shorter than maxlen=1"), ({"test_split": 1.5}, "from 0 to 1, got 1.5")],
    ids=["maxlen", "test_split"],
)
def test_imdb_arguments_that_leave_nothing_are_refused(tmp_path, given, text):
    with pytest.raises(ValueError, match=text):
        files.load_imdb_dataset(imdb_folder(tmp_path), **given)


@pytest.mark.skipif(not os.path.isdir(os.path.join(DATA, "ptb")), reason="TORCHLAYER_DATA has no ptb folder")
def test_real_ptb_has_its_published_counts():
    train, valid, test, vocabulary = files.load_ptb_dataset(os.path.join(DATA, "ptb"))
    assert (len(train), len(valid), len(test), vocabulary) == (929_589, 73_760, 82_430, 10_000)
    assert [np.bincount(part)[1:3].tolist() for part in (train, valid, test)] == [
        [45_020, 42_068],
        [3_485, 3_370],
        [4_794, 3_761],
    ]
