from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

from torchlayer.files import FileFormatError
from torchlayer.nlp import (
    build_reverse_dictionary,
    build_vocab,
    build_words_dataset,
    read_analogies_file,
    read_words,
    save_vocab,
    simple_read_words,
    word_ids_to_words,
    words_to_word_ids,
)


@pytest.fixture
def written(tmp_path):
    def write(content: bytes):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        return path

    return write


# reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "replace", "expected"),
    [  # the first two as the original
        (b" aer banknote <unk> \n pierre N years \n", None, "aer banknote <unk> <eos> pierre N years <eos>"),
        (b"one two\nthree four\n", None, "one two<eos>three four<eos>"),
        (b"one two\nthree four\n", ("\n", " <eos> "), "one two <eos> three four <eos>"),
        (b"one two\r\nthree\r", ["\n", " <eos> "], "one two <eos> three <eos>"),
        (b"\xef\xbb\xbfone two\n", ("", ""), "one two"),
        ("é ü\n".encode(), ("", ""), "é ü"),
        (b"", None, ""),
        (b"a" * 10**7, None, "a" * 10**7),
        (b"a b " * 2_500_000, None, "a b " * 2_500_000),
    ],
    ids=range(9),
)
def test_words_are_read(written, content, replace, expected):
    path = written(content)
    assert (read_words(path) if replace is None else read_words(path, replace)) == expected.split()


def test_text_is_read_from_the_file_that_was_named(written):
    path = written(b"\xef\xbb\xbfPREFACE\r\n\r\nSUPPOSING that\rTruth\n")
    assert simple_read_words(path) == "PREFACE\n\nSUPPOSING that\nTruth\n"
    assert simple_read_words(written("a\né".encode("utf-16")), "utf-16") == "a\né"
    assert read_words(written(b"caf\xe9 x"), encoding="latin-1") == ["café", "x"]


@pytest.mark.parametrize("read", [simple_read_words, read_words])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\nb\ncaf\xe9 x\n", r"text.txt' cannot be read: line 3 is not utf-8 text; convert it \(at byte 7\)"),
        ("a\n".encode("utf-16"), r"line 1 is not utf-8 text; it looks like UTF-16"),
        (b"a\nb\0c\n", r"line 2 holds a NUL, so it is no utf-8 text"),
        (b"x" * 10**7 + b"\n\xff", r"line 2 is not utf-8 text"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(written, read, content, text):
    with pytest.raises(FileFormatError, match=text):
        read(written(content))


def test_bad_arguments_of_reading_are_refused(written):
    path = written(b"a")
    with pytest.raises(ValueError, match=r"encoding='utf-9' is unknown; use a name that Python knows"):
        read_words(path, encoding="utf-9")
    with pytest.raises(ValueError, match=r"replace must be two strings"):
        read_words(path, replace="\n")
    with pytest.raises(FileNotFoundError):
        simple_read_words(path.parent / "none.txt")


QUESTIONS = (
    b": capital\nAthens Greece Oslo Norway\nathens greece paris france\r\n\na b c\nathens greece oslo norway x\n"
)
IDS = {"athens": 5, "greece": 6, "oslo": 7, "norway": 8}


@pytest.mark.parametrize("table", [IDS, {word.encode(): i for word, i in IDS.items()}])
def test_analogies_are_found_in_str_and_bytes(written, capsys, table):
    path = written(QUESTIONS)
    found = read_analogies_file(path, table)
    assert (found.tolist(), found.dtype) == ([[5, 6, 7, 8]], np.int32)
    assert capsys.readouterr().out == f"Eval analogy file:  {path}\nQuestions:  1\nSkipped:  4\n"


def test_no_analogy_gives_an_empty_table(written):
    assert read_analogies_file(written(QUESTIONS), {"x": 1}).shape == (0, 4)
    assert read_analogies_file(written(b""), IDS).shape == (0, 4)
    assert read_analogies_file(written(b"a " * 5_000_000), IDS).shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b": x\nathens greece oslo \xff\n", r"line 2 is not utf-8"), (b": x\na\n\0\n", r"line 3 holds a NUL")],
)
def test_bad_analogy_file_is_told_with_its_line(written, content, text):
    with pytest.raises(FileFormatError, match=text):
        read_analogies_file(written(content), IDS)
    with pytest.raises(TypeError, match=r"needs word2id, the dictionary of word ids"):
        read_analogies_file(written(content))


# vocabularies --------------------------------------------------------------------------------------------------------


def test_vocabulary_is_sorted_by_count_then_by_letter():
    text = [f"w{i}" for i in np.random.default_rng(0).zipf(1.5, 500).clip(max=60)]
    expected = sorted(set(text), key=lambda word: (-text.count(word), word))
    assert build_vocab(text) == {word: i for i, word in enumerate(expected)}
    assert build_vocab(list("bacabd")) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert build_vocab(np.array(["x"])) == {"x": 0}
    assert build_reverse_dictionary({"a": 0, b"b": 1}) == {0: "a", 1: b"b"}


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (  # the original
            "a b a c a b d UNK e",
            4,
            (
                [1, 2, 1, 3, 1, 2, 0, 0, 0],
                [["UNK", 2], ("a", 3), ("b", 2), ("c", 1)],
                {"UNK": 0, "a": 1, "b": 2, "c": 3},
                {0: "UNK", 1: "a", 2: "b", 3: "c"},
            ),
        ),
        (  # where ids of the original collide
            "UNK UNK UNK a a b b c",
            3,
            (
                [0, 0, 0, 1, 1, 2, 2, 0],
                [["UNK", 1], ("a", 2), ("b", 2)],
                {"UNK": 0, "a": 1, "b": 2},
                {0: "UNK", 1: "a", 2: "b"},
            ),
        ),
        ("a", 1, ([0], [["UNK", 1]], {"UNK": 0}, {0: "UNK"})),
        ("a", 2, ([1], [["UNK", 0], ("a", 1)], {"UNK": 0, "a": 1}, {0: "UNK", 1: "a"})),
    ],
)
def test_words_dataset(text, size, expected):
    assert build_words_dataset(text.split(), size, False) == expected


def test_words_dataset_of_bytes_counts_a_literal_unknown_word_once(capsys):
    data, count, dictionary, reverse = build_words_dataset(b"UNK a a UNK b".split(), 2)
    assert (data, count) == ([0, 1, 1, 0, 0], [["UNK", 1], (b"a", 2)])
    assert (dictionary, reverse) == ({"UNK": 0, b"a": 1}, {0: "UNK", 1: b"a"})
    assert capsys.readouterr().out == "Real vocabulary size    3\nLimited vocabulary size 2\n"


def test_vocabulary_larger_than_the_text_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match=r"vocabulary_size=9 is more than the 2 distinct words and 'UNK'; 3 is used"):
        data, count, _, _ = build_words_dataset(["a", "b", "a"], 9, False)
    assert (data, count) == ([1, 2, 1], [["UNK", 0], ("a", 2), ("b", 1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_words_dataset(["a", "b", "a"], 3, False)


def test_words_and_ids_go_both_ways():
    words = ["the", "cat", "sat"]
    data, _, dictionary, reverse = build_words_dataset(words, 4, False)
    assert words_to_word_ids(words, dictionary) == data
    for ids in (data, np.array(data), torch.tensor(data)):
        assert word_ids_to_words(ids, reverse) == words
        assert word_ids_to_words(ids, list(dictionary)) == words
    assert words_to_word_ids([b"cat", "dog", b"\xff"], {"cat": 0, b"<unk>": 7}, unk_key="<unk>") == [0, 7, 7]
    assert words_to_word_ids(["a"], {"a": 0}) == [0]  # id 0 is an id; and nobody asks for UNK
    assert word_ids_to_words([], {}) == words_to_word_ids([], {}) == []


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: build_vocab([]), ValueError, r"build_vocab got a text without words"),
        (lambda: build_vocab(["a", b"a"]), TypeError, r"str and bytes mixed"),
        (lambda: build_vocab("a b"), TypeError, r"takes a list of words, got 'a b'; split it"),
        (lambda: build_words_dataset([]), ValueError, r"build_words_dataset got a text without words"),
        (lambda: build_words_dataset(b"a b"), TypeError, r"takes a list of words, got b'a b'; split it"),
        (lambda: build_words_dataset(["a"], 0), ValueError, r"vocabulary_size must be at least 1, for 'UNK' alone"),
        (lambda: words_to_word_ids(["a", "x"], {"a": 0}), ValueError, r"word 1, 'x', is not in the vocabulary, nor is"),
        (lambda: words_to_word_ids("a", {"a": 0}), TypeError, r"words_to_word_ids takes a list of words"),
        (lambda: words_to_word_ids(["x" * 10**7], {}), ValueError, r"word 0, 'x{60}'…, is not"),
        (lambda: word_ids_to_words([0, 2], ["a", "b"]), IndexError, r"id 2 at position 1 is not one of the 2 words"),
        (lambda: word_ids_to_words([-1], ["a", "b"]), IndexError, r"id -1 at position 0 is not one of the 2 words"),
        (lambda: word_ids_to_words([5], {0: "a"}), IndexError, r"id 5 at position 0 is not one of the 1 words"),
        (lambda: word_ids_to_words([0.5], ["a"]), TypeError, r"'float' object cannot be interpreted as an integer"),
    ],
)
def test_bad_words_and_ids_are_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_vocabulary_is_saved_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    count = [["UNK", 3], ("the", 3), (b"cat", 2), ("é", 1)]
    content = "UNK 3\nthe 3\ncat 2\né 1\n".encode()
    assert save_vocab(count, "v.txt") == str(tmp_path / "v.txt")
    assert (tmp_path / "v.txt").read_bytes() == content
    (tmp_path / "sub").mkdir()
    assert save_vocab(count, tmp_path / "sub" / "w.txt") == str(tmp_path / "sub" / "w.txt")
    assert (tmp_path / "sub" / "w.txt").read_bytes() == content
    assert (
        capsys.readouterr().out
        == f"4 vocab saved to v.txt in {os.getcwd()}\n4 vocab saved to w.txt in {tmp_path}/sub\n"
    )


@pytest.mark.parametrize("word", ["", "a b", "a\nb", b"a\t", "a\0"])
def test_a_word_that_no_line_can_hold_is_refused_and_the_old_file_kept(tmp_path, word):
    path = tmp_path / "v.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"cannot be written: it is empty, or has a space, a line end or a NUL in it"):
        save_vocab([["UNK", 0], (word, 1)], path)
    assert [p.name for p in tmp_path.iterdir()] == ["v.txt"]
    assert path.read_text() == "old"
