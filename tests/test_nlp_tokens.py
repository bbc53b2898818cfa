from __future__ import annotations

import json
import random
import re
import time
import tracemalloc
from collections import Counter

import pytest

from torchlayer.files import FileFormatError
from torchlayer.nlp import (
    basic_tokenizer,
    create_vocabulary,
    data_to_token_ids,
    initialize_vocabulary,
    sentence_to_token_ids,
)
from torchlayer.nlp import tokens as module

TEXT = b"In 1990 there were 12 cats.\nIn 2005 there were 7 cats, and 12 dogs.\n"
SPECIAL = b"_PAD _GO _EOS _UNK"


@pytest.fixture
def files(tmp_path):
    data = tmp_path / "data.en"
    data.write_bytes(TEXT)
    return data, tmp_path / "vocab.en", tmp_path / "ids.en"


def words_of(path):
    return b" ".join(path.read_bytes().split(b"\n")[:-1])


def split_in_two_steps(text: bytes) -> list[bytes]:
    """The definition: at ASCII spaces, then each piece at the marks, which are kept."""
    return [word for piece in text.strip().split() for word in re.split(b"([.,!?\"':;)(])", piece) if word]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [  # printed by the original
        (
            b'Hello, world! (1990-05) "it\'s" a:b; c.d.\n',
            b'Hello , world ! ( 1990-05 ) " it \' s " a : b ; c . d .',
        ),
        (b"a...b", b"a . . . b"),
        (b"A | B|C", b"A | B|C"),
        (b"", b""),
        ("Qu\u2019est-ce «là»?", "Qu\u2019est-ce «là» ?".encode()),
        (b"\xff\xfe(\x0b\x0c\r\n", b"\xff\xfe ("),
        (b"(1990-05) a...b A|B", b"( 1990-05 ) a . . . b A|B"),
    ],
)
def test_basic_tokenizer_splits_at_spaces_and_marks(sentence, expected):
    assert basic_tokenizer(sentence) == expected.split()
    if isinstance(sentence, bytes):
        assert basic_tokenizer(sentence) == split_in_two_steps(sentence)


def test_basic_tokenizer_agrees_with_its_definition_on_any_bytes():
    source = random.Random(0)
    for _ in range(300):
        text = bytes(source.choices(b"ab.,!?\"':;)( \t\n\r\x0b\x0c\x1c\x85\xa0\xff\x00", k=40))
        assert basic_tokenizer(text) == split_in_two_steps(text)


def test_basic_tokenizer_takes_other_marks():
    assert basic_tokenizer(b"a-b c.", re.compile(b"(-)")) == [b"a", b"-", b"b", b"c."]


@pytest.mark.parametrize(
    ("normalize", "vocabulary", "ids"),
    [  # written by the original
        (True, b"In 0000 there were 00 cats . 0 , and dogs", b"4 5 6 7 8 9 10\n4 5 6 7 11 9 12 13 8 14 10\n"),
        (False, b"In there were 12 cats . 1990 2005 7 , and dogs", b"4 10 5 6 7 8 9\n4 11 5 6 12 8 13 14 7 15 9\n"),
    ],
)
@pytest.mark.parametrize("tokenizer", [None, split_in_two_steps, lambda line: basic_tokenizer(line.decode())])
def test_vocabulary_and_ids_are_the_originals(files, capsys, normalize, vocabulary, ids, tokenizer):
    data, vocab, target = files
    for done in ("Creating vocabulary {v} from data {d}", "Vocabulary {v} from data {d} exists"):
        create_vocabulary(vocab, data, 50, tokenizer, normalize)
        assert capsys.readouterr().out == done.format(v=vocab, d=data) + "\n"
    assert words_of(vocab) == SPECIAL + b" " + vocabulary
    for done in (f"Tokenizing data in {data}", f"Target path {target} exists"):
        data_to_token_ids(data, target, vocab, tokenizer, normalize)
        assert capsys.readouterr().out == done + "\n"
    assert target.read_bytes() == ids
    table, words = initialize_vocabulary(vocab)
    assert words == words_of(vocab).split()
    assert table == {word: i for i, word in enumerate(words)}
    found = [sentence_to_token_ids(line, table, tokenizer, normalize) for line in TEXT.split(b"\n")[:-1]]
    assert found == [[int(i) for i in line.split()] for line in ids.split(b"\n")[:-1]]


def test_normalising_unlike_the_vocabulary_finds_no_number(files):
    data, vocab, target = files
    create_vocabulary(vocab, data, 50)
    table, _ = initialize_vocabulary(vocab)
    first = sentence_to_token_ids(TEXT.split(b"\n")[0], table, normalize_digits=False)
    assert first == [4, 3, 6, 7, 3, 9, 10]
    with pytest.raises(ValueError, match=r"was made with normalize_digits=True, now it is False; remove it or pass"):
        data_to_token_ids(data, target, vocab, normalize_digits=False)
    assert not target.exists()


def test_the_vocabulary_is_cut_with_its_special_words(files):
    data, vocab, _ = files
    create_vocabulary(vocab, data, 8)
    assert words_of(vocab) == SPECIAL + b" In 0000 there were"
    table, _ = initialize_vocabulary(vocab)
    assert sentence_to_token_ids(b"In 33 cats fly.", table) == [4, 3, 3, 3, 3]
    assert sentence_to_token_ids("In 3333", {"In": 1, "0000": 2}, UNK_ID=9) == [1, 2]


def test_special_words_in_the_text_get_no_second_id(files):
    data, vocab, _ = files
    data.write_bytes(b"_UNK _UNK x _UNK\n")
    create_vocabulary(vocab, data, 50)
    assert words_of(vocab) == SPECIAL + b" x"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_vocabulary_size": 9}, r"vocab.en' was made with max_vocabulary_size=50, now it is 9; remove it"),
        ({"normalize_digits": False}, r"was made with normalize_digits=True, now it is False"),
        ({"tokenizer": bytes.split}, r"was made with tokenizer='basic_tokenizer', now it is 'bytes.split'"),
        ({"_START_VOCAB": [b"_PAD"]}, r"was made with special_words="),
        ({"_DIGIT_RE": re.compile(rb"[5-9]")}, r"was made with digits="),
    ],
)
def test_a_vocabulary_made_otherwise_is_not_used_again(files, change, text):
    data, vocab, _ = files
    create_vocabulary(vocab, data, 50)
    before = vocab.read_bytes()
    with pytest.raises(ValueError, match=text):
        create_vocabulary(**{"vocabulary_path": vocab, "data_path": data, "max_vocabulary_size": 50, **change})
    assert vocab.read_bytes() == before


def test_a_changed_text_or_vocabulary_is_noticed(files):
    data, vocab, target = files
    create_vocabulary(vocab, data, 50)
    data_to_token_ids(data, target, vocab)
    with pytest.raises(ValueError, match=r"ids.en' was made with unknown_id=3, now it is 5"):
        data_to_token_ids(data, target, vocab, UNK_ID=5)
    data.write_bytes(TEXT * 2)
    with pytest.raises(ValueError, match=r"vocab.en' was made with data=.*'bytes': 68}, now it is .*'bytes': 136"):
        create_vocabulary(vocab, data, 50)
    with pytest.raises(ValueError, match=r"ids.en' was made with data="):
        data_to_token_ids(data, target, vocab)
    data.write_bytes(TEXT)
    vocab.write_bytes(vocab.read_bytes() + b"more\n")
    with pytest.raises(ValueError, match=r"ids.en' was made with vocabulary_sha256="):
        data_to_token_ids(data, target, vocab)


def test_files_of_the_original_are_used_as_they_are(files, capsys):
    data, vocab, target = files
    vocab.write_bytes(b"_PAD\n_GO\n_EOS\n_UNK\nIn\n")
    create_vocabulary(vocab, data, 40000)
    data.unlink()
    create_vocabulary(vocab, data, 40000)
    assert capsys.readouterr().out == f"Vocabulary {vocab} from data {data} exists\n" * 2
    assert initialize_vocabulary(vocab)[1][4] == b"In"
    data.write_bytes(b"In x\n")
    data_to_token_ids(data, target, vocab)
    assert target.read_bytes() == b"4 3\n"


@pytest.mark.parametrize("piece", [1, 7, 64, 2**20])
def test_pieces_change_nothing(files, monkeypatch, piece):
    data, vocab, target = files
    source = random.Random(1)
    text = bytes(source.choices(b"ab1.( \t\r\n", k=3000)) + b"x" * 200 + b" y\n\n \nz"
    data.write_bytes(text)
    monkeypatch.setattr(module, "_PIECE", piece)
    create_vocabulary(vocab, data, 10**6)
    counts = Counter(word.replace(b"1", b"0") for word in split_in_two_steps(text))
    expected = [*SPECIAL.split(), *(word for word, _ in counts.most_common())]
    assert vocab.read_bytes() == b"\n".join(expected) + b"\n"
    data_to_token_ids(data, target, vocab)
    number = {word: i for i, word in enumerate(expected)}
    lines = [[number[word.replace(b"1", b"0")] for word in split_in_two_steps(line)] for line in text.split(b"\n")]
    assert [[int(i) for i in line.split()] for line in target.read_bytes().split(b"\n")[:-1]] == lines


def test_progress_is_printed_as_by_the_original(files, monkeypatch, capsys):
    data, vocab, target = files
    data.write_bytes(b"a b\n" * 7)
    monkeypatch.setattr(module, "_REPORT", 3)
    create_vocabulary(vocab, data, 50)
    data_to_token_ids(data, target, vocab)
    assert capsys.readouterr().out.split("\n")[1:-1] == [
        "  processing line 3",
        "  processing line 6",
        f"Tokenizing data in {data}",
        "  tokenizing line 3",
        "  tokenizing line 6",
    ]


@pytest.mark.parametrize(
    ("text", "n_words"),
    [(b"ab, cd 12. " * 909_091, 5 * 909_091), (b"." * 10**6, 10**6), (b"x" * 10**7, 1), (b" " * 10**7 + b"a", 1)],
    ids=["words", "marks", "word", "spaces"],
)
def test_a_line_of_millions_of_bytes_takes_seconds(files, text, n_words):
    data, vocab, target = files
    data.write_bytes(text)
    start = time.process_time()
    create_vocabulary(vocab, data, 50)
    data_to_token_ids(data, target, vocab)
    assert time.process_time() - start < 10
    ids = target.read_bytes()
    assert ids.endswith(b"\n")
    assert ids.count(b" ") == n_words - 1


def test_memory_does_not_grow_with_the_number_of_words_in_a_line(files):
    data, vocab, target = files
    data.write_bytes(b"ab cd, 12. " * 100_000)  # 500,000 tokens: as a list some 22 MB, and as much for their ids
    tracemalloc.start()
    create_vocabulary(vocab, data, 50)
    data_to_token_ids(data, target, vocab)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"vocab.en' cannot be read: it holds no words"),
        (b"a\n\nb\n", r"line 2 is empty, and a line's number is its word's id; remove it"),
        (b"a\nb\r\n b\n", r"line 3 repeats the word b'b' of line 2"),
        (b"a\nb\0\n", r"line 2 holds a NUL"),
        ("a\n".encode("utf-16"), r"line 1 is not utf-8 text; it looks like UTF-16"),
    ],
)
def test_bad_vocabulary_is_told_with_its_line(files, content, text):
    data, vocab, target = files
    vocab.write_bytes(content)
    with pytest.raises(FileFormatError, match=text):
        initialize_vocabulary(vocab)
    with pytest.raises(FileFormatError, match=text):
        data_to_token_ids(data, target, vocab)
    assert not target.exists()


def test_byte_order_mark_line_ends_and_odd_bytes_are_no_part_of_words(files):
    _, vocab, _ = files
    vocab.write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n\xff\xc3\n")
    assert initialize_vocabulary(vocab) == ({b"dog": 0, b"cat": 1, b"\xff\xc3": 2}, [b"dog", b"cat", b"\xff\xc3"])


def test_missing_files_and_empty_texts_are_told(files):
    data, vocab, target = files
    with pytest.raises(ValueError, match=rf"Vocabulary file {vocab} not found."):
        initialize_vocabulary(vocab)
    with pytest.raises(ValueError, match=r"vocab.en not found"):
        data_to_token_ids(data, target, vocab)
    with pytest.raises(ValueError, match=r"max_vocabulary_size=3 leaves no room for the 4 special words"):
        create_vocabulary(vocab, data, 3)
    data.write_bytes(b" \n\n")
    with pytest.raises(ValueError, match=r"data.en' has no words to make a vocabulary of"):
        create_vocabulary(vocab, data, 50)
    data.unlink()
    with pytest.raises(FileNotFoundError):
        create_vocabulary(vocab, data, 50)
    assert list(vocab.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 10**5])
def test_a_damaged_recipe_is_told(files, content):
    data, vocab, _ = files
    create_vocabulary(vocab, data, 50)
    recipe = vocab.with_name("vocab.en.json")
    assert json.loads(recipe.read_bytes())["max_vocabulary_size"] == 50
    recipe.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"vocab.en.json' cannot be read: it is not what this package wrote"):
        create_vocabulary(vocab, data, 50)
