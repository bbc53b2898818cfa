"""Word vectors written and read in both formats, bit for bit; damaged files refused by line, word and byte."""

from __future__ import annotations

import random
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from torchlayer import files
from torchlayer.files import FileFormatError

WORDS = ["the", "été", "日本", "x'y", "</s>", "10", "-", "\u00a0"]


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


def any_floats(n, d, seed=0):
    """Float32 of every size: random bits, less NaN and infinity, and the corner cases."""
    raw = np.random.default_rng(seed).integers(0, 2**32, n * d, dtype=np.uint32).view(np.float32)
    raw = np.where(np.isfinite(raw), raw, np.float32(0.1))
    corners = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, 1.17549435e-38, 16777217, 0.1], np.float32)
    raw[: len(corners)] = corners
    return raw.reshape(n, d)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("told", [False, True], ids=["found out", "told"])
def test_every_bit_comes_back(tmp_path, binary, told):
    words = WORDS + [f"w{i}" for i in range(3000)]
    vectors = any_floats(len(words), 7)
    files.save_word2vec_format(tmp_path / "v", words, vectors, binary=binary)
    read, array = files.load_word2vec_format(tmp_path / "v", binary=binary if told else None)
    assert read == words
    assert (array.dtype, array.shape) == (np.float32, vectors.shape)
    np.testing.assert_array_equal(bits(array), bits(vectors))


def test_binary_file_is_header_then_word_space_and_little_endian_floats(tmp_path):
    files.save_word2vec_format(tmp_path / "v", ["a", "é"], [[1.5, -2.0], [0.1, 3.0]], binary=True)
    expected = b"2 2\na " + struct.pack("<2f", 1.5, -2) + "é ".encode() + struct.pack("<2f", 0.1, 3)
    assert (tmp_path / "v").read_bytes() == expected


def test_text_file_is_header_then_a_word_a_line(tmp_path):
    files.save_word2vec_format(tmp_path / "v", ["a", "é"], [[1.5, -2.0], [0.1, 3.0]])
    assert (tmp_path / "v").read_text("utf-8") == "2 2\na 1.5 -2\né 0.100000001 3\n"


def test_original_tools_line_ends_are_accepted(tmp_path):
    (tmp_path / "t").write_bytes(b"2 2\na 1 2 \nb 3 4 \n")  # it ends lines with a space
    (tmp_path / "b").write_bytes(b"2 2\n" + b"".join(w + b" " + struct.pack("<2f", *v) + b"\n" for w, v in PAIRS))
    for name in ("t", "b"):
        words, vectors = files.load_word2vec_format(tmp_path / name)
        assert words == ["a", "b"]
        assert vectors.tolist() == [[1, 2], [3, 4]]


PAIRS = [(b"a", (1, 2)), (b"b", (3, 4))]


def test_file_without_a_header_says_its_size_by_its_first_line(tmp_path):
    (tmp_path / "glove").write_bytes(b"the 0.5 1 2\n, 3 4 5\n7 6 7 8\n")
    words, vectors = files.load_word2vec_format(tmp_path / "glove")
    assert words == ["the", ",", "7"]
    assert vectors.tolist() == [[0.5, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(("limit", "n"), [(0, 0), (1, 1), (5, 5), (8, 8), (100, 8)])
def test_limit_reads_the_front(tmp_path, binary, limit, n):
    vectors = any_floats(8, 3)
    files.save_word2vec_format(tmp_path / "v", WORDS, vectors, binary=binary)
    words, array = files.load_word2vec_format(tmp_path / "v", limit=limit)
    assert words == WORDS[:n]
    np.testing.assert_array_equal(bits(array), bits(vectors[:n]))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_no_words_make_a_file_of_none(tmp_path, binary):
    files.save_word2vec_format(tmp_path / "v", [], np.empty((0, 3)), binary=binary)
    words, vectors = files.load_word2vec_format(tmp_path / "v")
    assert (words, vectors.shape) == ([], (0, 3))


@pytest.mark.parametrize(
    "vectors",
    [
        torch.nn.Parameter(torch.tensor([[1.0, 2.5]])),
        torch.tensor([[1.0, 2.5]], dtype=torch.bfloat16),
        torch.tensor([[1.0, 2.5]], dtype=torch.float64).T.contiguous().T,
        np.array([[1.0, 2.5]]),
        np.array([[1.0, 2.5]], ">f4"),
        [[1, 2.5]],
    ],
    ids=["parameter", "bfloat16", "turned", "float64", "big-endian", "list"],
)
def test_tensors_and_arrays_are_written_as_float32(tmp_path, vectors):
    files.save_word2vec_format(tmp_path / "v", [b"a"], vectors, binary=True)
    assert (tmp_path / "v").read_bytes() == b"1 2\na " + struct.pack("<2f", 1, 2.5)


ONE = np.ones((1, 2))
TWO = np.ones((2, 2))
REFUSED = [
    ("space", ["New York"], ONE, ValueError, "word 0 is 'New York'; words are not empty and have no white space"),
    ("line end", ["a\n"], ONE, ValueError, "word 0 is 'a.n'"),
    ("carriage return", ["a\r"], ONE, ValueError, "word 0 is 'a.r'"),
    ("NUL", ["a\0"], ONE, ValueError, "word 0 is 'a.x00'"),
    ("empty", ["a", ""], TWO, ValueError, "word 1 is ''; words are not empty"),
    ("twice", ["a", "a"], TWO, ValueError, "words 0 and 1 are both 'a'; each word has one vector"),
    ("surrogate", ["a", "\ud800"], TWO, ValueError, "word 1, '.ud800', has no UTF-8 form"),
    ("bad bytes", [b"\xff"], ONE, ValueError, "word 0, b'.xff', has no UTF-8 form"),
    ("number", [7], ONE, TypeError, "word 0 is a int, 7; words are strings"),
    ("too long", ["a" * 70_000], ONE, ValueError, "word 0 has 70000 bytes, more than 65536"),
    ("too few", ["a"], TWO, ValueError, "there are 1 words and 2 vectors; each word needs one"),
    ("no matrix", ["a"], np.ones(3), ValueError, r"a matrix \(N, D\), got shape \(3,\)"),
    ("no numbers", ["a"], np.ones((1, 0)), ValueError, r"a matrix \(N, D\), got shape \(1, 0\)"),
    ("nan", ["a", "b"], [[1, 2], [3, np.nan]], ValueError, "vector of word 1, 'b', has numbers that are NaN"),
    ("overflow", ["a"], [[1e39, 0]], ValueError, "vector of word 0, 'a', has numbers that are NaN or infinite"),
    ("complex", ["a"], ONE * 1j, TypeError, "word vectors are real numbers, got complex128"),
    ("strings", ["a"], np.array([["x", "y"]]), TypeError, "word vectors are real numbers, got <U1"),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(("words", "vectors", "kind", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_no_reader_would_get_back_is_not_written(tmp_path, words, vectors, kind, text, binary):
    with pytest.raises(kind, match=text):
        files.save_word2vec_format(tmp_path / "v", words, vectors, binary=binary)
    assert list(tmp_path.iterdir()) == []


BAD_TEXT = [
    ("empty", b"", "line 1 is neither 'N D', two whole numbers, nor a word and its vector"),
    ("one word", b"hello\n", "line 1 is neither 'N D'"),
    ("no numbers announced", b"3 0\na\n", "line 1 announces 3 words of no numbers"),
    ("too few lines", b"3 1\na 1.0000\nb 2.0000\n", "ends after 2 of the 3 words that line 1 announces"),
    ("too many lines", b"1 2\na 1 2\nb 3 4\n", "line 3 comes after the 1 words that line 1 announces"),
    ("too few numbers", b"2 2\na 1 2\nb 33333333\n", "line 3 has 1 numbers, expected 2"),
    ("word with space", b"1 2\nNew York 1 2\n", "line 2 has 3 numbers, expected 2"),
    ("no number", b"2 2\na 1 2\nb 1 x\n", "line 3: could not convert string to float: 'x'"),
    ("two spaces", b"1 2\na  1 2\n", "line 2 has 3 numbers, expected 2"),
    ("tab", b"1 2\na\t1 2 3\n", "line 2 has no word in front, or white space other than single spaces"),
    ("no word", b"1 2\n 1 2\n", "line 2 has no word in front"),
    ("nan", b"2 2\na 1 2\nb 1 nan\n", "vector of word 1, 'b', has numbers that are NaN or infinite"),
    ("overflow", b"1 1\na 1e39\n", "vector of word 0, 'a', has numbers that are NaN or infinite"),
    ("cut number", b"1 2\na 1 2.5", "last line does not end, so its last number may be cut off"),
    (
        "lies",
        b"1000000000 300\na 1 2\n",
        "line 1 announces 1000000000 words of 300 numbers, which takes 602000000000 by",
    ),
    ("lies much", b"999999999999999999 999999999999999999\n", "is cut off"),
    (
        "lies without header",
        b"a" + b" 1" * 5000 + b"\n" * 9000,
        "it has 9000 lines, and line 1 has 5000 numbers, which",
    ),
    ("not UTF-8", b"2 2\na 1 2\n\xff 3 4\n", "line 3 is not UTF-8, its byte 0xff cannot stand there .at byte 10"),
    ("CRLF header", b"2 2\r\na 1 2\r\nb 3 4\r\n", "line 1 has a carriage return; convert the line ends"),
    ("CRLF", b"2 2\na 1 2\nb 3 4\r\n", "line 3 has a carriage return; convert the line ends"),
    ("BOM", b"\xef\xbb\xbf2 2\na 1 2\nb 3 4\n", "line 1 starts with a byte order mark"),
    ("NUL", b"2 2\na 1 2\nb\0 3 4\n", "line 3 has a NUL byte"),
    ("long line", b"2 2\na 1 2\nb" + b"x" * 10**7 + b"\n", "line 3 has no line end within 1048576 bytes"),
    ("packed", b"\x1f\x8b\x08\0", "it is packed; unpack it first"),
]


@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BAD_TEXT], ids=[row[0] for row in BAD_TEXT])
def test_bad_text_file_is_refused_by_line(tmp_path, data, text):
    (tmp_path / "v.txt").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"v.txt' cannot be read: .*{text}"):
        files.load_word2vec_format(tmp_path / "v.txt", binary=False)


def record(word, *vector):
    return word + b" " + struct.pack(f"<{len(vector)}f", *vector)


BAD_BINARY = [
    ("no header", record(b"a", 1, 2), "a binary file starts with a line 'N D'"),
    (
        "cut vector",
        b"2 2\n" + record(b"abcdef", 1, 2) + record(b"b", 3, 4)[:-3],
        "within word 1 of 2, after 5 of the 8",
    ),
    ("cut word", b"2 1\n" + record(b"abcdefghij", 1) + b"b", "ends within word 1 of 2, after its word .at byte 20"),
    (
        "cut short",
        b"9 2\n" + record(b"a", 1, 2),
        "announces 9 words of 2 numbers, which takes 90 bytes or more, and 10",
    ),
    ("lies", b"3000000000 300\n" + record(b"a", 1, 2), "which takes 3606000000000 bytes or more, and 10 are there"),
    ("too long", b"1 2\n" + record(b"a", 1, 2) + b"xyz", "goes on after the 1 words that line 1 announces .at byte 14"),
    ("not UTF-8", b"2 1\n" + record(b"a", 1) + record(b"\xff", 2), r"word 1 of 2, b'.xff', is not UTF-8 .at byte 10"),
    (
        "late",
        b"200001 2\n" + record(b"ab", 1, 2) * 200_000 + record(b"\xff", 1, 2),
        "word 200000 of .* .at byte 2200009",
    ),
    ("NUL", b"2 1\n" + record(b"a", 1) + record(b"b\0", 2), "word 1 of 2 is 'b.x00'; words are not empty"),
    ("no word", b"2 1\n" + record(b"ab", 1) + record(b"", 2), "word 1 of 2 is ''"),
    ("long word", b"1 1\n" + record(b"a" * 10**6, 1), "word 0 of 1 is longer than 65536 bytes"),
    ("nan", b"2 1\n" + record(b"a", 1) + record(b"b", np.nan), "vector of word 1, 'b', has numbers that are NaN"),
]


@pytest.mark.parametrize(("data", "text"), [row[1:] for row in BAD_BINARY], ids=[row[0] for row in BAD_BINARY])
def test_bad_binary_file_is_refused_by_word_and_byte(tmp_path, data, text):
    (tmp_path / "v.bin").write_bytes(data)
    with pytest.raises(FileFormatError, match=f"v.bin' cannot be read: .*{text}"):
        files.load_word2vec_format(tmp_path / "v.bin", binary=True)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_file_cut_anywhere_is_refused(tmp_path, binary):
    files.save_word2vec_format(tmp_path / "v", ["the", "été", "of"], [[1.5, -2], [3, 4.25], [5, 6]], binary=binary)
    whole = (tmp_path / "v").read_bytes()
    for n in range(len(whole)):
        (tmp_path / "v").write_bytes(whole[:n])
        with pytest.raises(FileFormatError):
            files.load_word2vec_format(tmp_path / "v", binary=binary)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_damage_raises_nothing_but_the_one_error(tmp_path, binary):
    files.save_word2vec_format(tmp_path / "v", WORDS, any_floats(8, 3), binary=binary)
    good, rng, refused = (tmp_path / "v").read_bytes(), random.Random(0), 0
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        (tmp_path / "v").write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a word may have become another one
            try:
                words, vectors = files.load_word2vec_format(tmp_path / "v")
                assert len(words) == len(vectors)
            except FileFormatError:
                refused += 1
    assert refused > 50


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_second_vector_of_a_word_is_left_out_with_a_warning(tmp_path, binary):
    rows = [(b"a", 1.0), (b"b", 2.0), (b"a", 3.0), (b"c", 4.0), (b"b", 5.0)]
    lines = b"".join(record(w, v) if binary else b"%s %g\n" % (w, v) for w, v in rows)
    (tmp_path / "v").write_bytes(b"5 1\n" + lines)
    with pytest.warns(UserWarning, match="has 2 words again, 'a' the first of them; their later vectors are left out"):
        words, vectors = files.load_word2vec_format(tmp_path / "v")
    assert words == ["a", "b", "c"]
    assert vectors.tolist() == [[1], [2], [4]]


def test_negative_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit must not be negative, got -1"):
        files.load_word2vec_format(tmp_path / "v", limit=-1)


def test_missing_file_is_not_a_bad_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.load_word2vec_format(tmp_path / "v")


def test_reading_takes_little_more_memory_than_its_result(tmp_path):
    vectors = np.ones((20_000, 100), np.float32)
    files.save_word2vec_format(tmp_path / "v", [f"w{i}" for i in range(len(vectors))], vectors, binary=True)
    tracemalloc.start()
    try:
        files.load_word2vec_format(tmp_path / "v")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert vectors.nbytes < peak < 1.8 * vectors.nbytes
