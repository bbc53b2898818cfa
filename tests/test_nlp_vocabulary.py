from __future__ import annotations

import time

import pytest

from torchlayer.files import FileFormatError
from torchlayer.nlp import SimpleVocabulary, Vocabulary, create_vocab, process_sentence

SENTENCES = [["<S>", "one", "two", ",", "three", "</S>"], ["<S>", "four", "five", "five", "</S>"]]
FILE = b"<PAD> 0\n<S> 2\n</S> 2\nfive 2\none 1"


@pytest.fixture
def written(tmp_path):
    def write(content: bytes):
        path = tmp_path / "vocab.txt"
        path.write_bytes(content)
        return path

    return write


# SimpleVocabulary, Vocabulary ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "word", "expected"),
    [
        ({"a": 0, "b": 1}, "a", 0),
        ({"a": 0, "b": 1}, b"b", 1),
        ({b"a": 0, b"b": 1}, "b", 1),
        ({"UNK": 0, b"b": 1}, "b", 1),
        ({"a": 0}, "x", 9),
        ({"a": 0}, b"\xff", 9),
        ({b"a": 0}, "\udcff", 9),
    ],
)
def test_simple_vocabulary_finds_str_and_bytes(table, word, expected):
    assert SimpleVocabulary(table, 9).word_to_id(word) == expected


@pytest.mark.parametrize(
    "content", [FILE, FILE + b"\n", FILE.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + FILE, FILE.replace(b" ", b"\t")]
)
def test_vocabulary_reads_a_word_a_line(written, capsys, content):
    path = written(content)
    vocabulary = Vocabulary(path)
    assert capsys.readouterr().out == (
        f"  [TL] Vocabulary from {path} : <S> </S> <UNK>\n"
        "    vocabulary with 6 words (includes start_word, end_word, unk_word)\n"
        "      start_id: 1\n      end_id: 2\n      unk_id: 5\n      pad_id: 0\n"
    )
    assert vocabulary.reverse_vocab == ["<PAD>", "<S>", "</S>", "five", "one", "<UNK>"]
    assert vocabulary.vocab == {word: i for i, word in enumerate(vocabulary.reverse_vocab)}
    assert [vocabulary.word_to_id(word) for word in ("one", b"one", "six", "<UNK>")] == [4, 4, 5, 5]
    assert [vocabulary.id_to_word(i) for i in (3, 5, 6, 10**9)] == ["five", "<UNK>", "<UNK>", "<UNK>"]
    with pytest.raises(IndexError, match="a word id counts from 0, got -1"):
        vocabulary.id_to_word(-1)


def test_vocabulary_takes_other_special_words_and_lives_without_padding(written):
    vocabulary = Vocabulary(written("a\nUNK\né\n\u00a0x\nb\n".encode()), "a", "b", "UNK")
    assert (vocabulary.start_id, vocabulary.end_id, vocabulary.unk_id, vocabulary.pad_id) == (0, 4, 1, None)
    assert vocabulary.word_to_id("é") == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"vocab.txt' cannot be read: it holds no words"),
        (b"<S>\n\n</S>\n", r"vocab.txt' cannot be read: line 2 is empty, and a line's number is its word's id"),
        (b"<S>\n</S>\n \t\n", r"line 3 is empty"),
        (b"<S>\n</S>\na 3\nb\na 1\n", r"line 5 repeats the word b'a' of line 3"),
        (b"<S>\n</S>\ncaf\xe9\n", r"line 3 is not utf-8 text; convert it"),
        (b"<S>\n</S>\na\0b\n", r"line 3 holds a NUL, so it is no text"),
        ("<S>\n</S>\n".encode("utf-16"), r"line 1 is not utf-8 text; it looks like UTF-16"),
        (b"</S>\na\n", r"it lacks the start word '<S>'; add it or give start_word"),
        (b"<S>\na\n", r"it lacks the end word '</S>'; add it or give end_word"),
    ],
)
def test_bad_vocabulary_file_is_told_with_its_line(written, content, text):
    with pytest.raises(FileFormatError, match=text):
        Vocabulary(written(content))


def test_missing_vocabulary_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError):
        Vocabulary(tmp_path / "none.txt")


def test_a_word_of_ten_million_letters_is_read_and_told_shortly(written):
    word = b"x" * 10**7
    assert len(Vocabulary(written(b"<S>\n</S>\n" + word)).reverse_vocab[2]) == 10**7
    with pytest.raises(FileFormatError, match="line 4 repeats") as caught:
        Vocabulary(written(b"<S>\n</S>\n" + word + b"\n" + word))
    assert len(str(caught.value)) < 500


# process_sentence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [  # what NLTK 3.9's NLTKWordTokenizer prints
        ("how are you?", "how are you ?"),
        ("one two , three", "one two , three"),
        ("A man's dog can't swim.", "a man 's dog ca n't swim ."),
        ("they'll say \"no, we've won!\"", "they 'll say `` no , we 've won ! ''"),
        ("mr. smith paid $3,000.50 (twice).", "mr. smith paid $ 3,000.50 ( twice ) ."),
        ("wait... what--now?", "wait ... what -- now ?"),
        ("a sign that says 'free dinner'.", "a sign that says ' free dinner ' ."),
        ("i cannot, gonna try; e.g. 50% of it", "i can not , gon na try ; e.g. 50 % of it"),
        ("«ja» \u2013 “so”", "« ja » \u2013 “ so ”"),
        ("u.s.a.", "u.s.a ."),
        ("..", ".."),
        (".", "."),
        ("", ""),
    ],
)
def test_sentences_are_split_as_in_the_treebank(sentence, expected):
    assert process_sentence(sentence) == ["<S>", *expected.split(), "</S>"]
    assert process_sentence(sentence.encode(), None, None) == expected.split()


def test_sentence_takes_another_tokenizer_and_keeps_the_markers_case():
    assert process_sentence("A-B", "BEGIN", None, tokenizer=lambda s: s.split("-")) == ["BEGIN", "a", "b"]


@pytest.mark.parametrize("line", ["a dog's. " * 10**4, ".)" * 10**5, "'" * 10**5, "x" * 10**6, " " * 10**6 + "."])
def test_time_is_linear_in_the_length(line):
    start = time.process_time()
    words = process_sentence(line)
    assert sum(map(len, words)) >= len(line.replace(" ", ""))
    assert time.process_time() - start < 5


# create_vocab --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "content", "unk_id"),
    [  # written by the original, TensorLayer 1.3.11
        (1, "<PAD> 0\n<S> 2\n</S> 2\nfive 2\none 1\ntwo 1\n, 1\nthree 1\nfour 1", 9),
        (2, "<PAD> 0\n<S> 2\n</S> 2\nfive 2", 4),
        (3, "<PAD> 0", 1),
    ],
)
def test_created_vocabulary_is_the_originals(tmp_path, capsys, least, content, unk_id):
    path = tmp_path / "counts.txt"
    vocabulary = create_vocab(SENTENCES, path, least)
    assert path.read_bytes() == content.encode()
    assert capsys.readouterr().out == (
        f"  [TL] Creating vocabulary.\n    Total words: 8\n    Words in vocabulary: {unk_id}\n"
        f"    Wrote vocabulary file: {path}\n"
    )
    words = [line.split()[0] for line in content.split("\n")]
    assert [vocabulary.word_to_id(word) for word in [*words, "six"]] == [*range(unk_id), unk_id]


def test_created_vocabulary_is_read_back_with_the_same_ids(tmp_path):
    sentences = [["<S>", "é", "\u00a0x", "<PAD>", "</S>"], ["<PAD>", "\u2028"]]
    vocabulary = create_vocab(sentences, tmp_path / "v.txt")
    read = Vocabulary(tmp_path / "v.txt")
    for word in ("<PAD>", "<S>", "</S>", "é", "\u00a0x", "\u2028", "other"):
        assert vocabulary.word_to_id(word) == read.word_to_id(word)


@pytest.mark.parametrize(
    ("sentences", "error", "text"),
    [
        ([], ValueError, r"create_vocab got no words to count"),
        ([[], []], ValueError, r"create_vocab got no words to count"),
        (["a b"], TypeError, r"sentence 0 is not a list of words but 'a b'; use process_sentence"),
        ([["New York"]], ValueError, r"the word 'New York' cannot be written: it is empty, or has a space"),
        ([["a", ""]], ValueError, r"the word '' cannot be written"),
        ([["a\n"]], ValueError, r"cannot be written"),
        ([["a\0"]], ValueError, r"a line end or a NUL"),
        ([[3]], TypeError, r"a word must be str or bytes, got int"),
    ],
)
def test_bad_sentences_are_refused_and_nothing_is_written(tmp_path, sentences, error, text):
    with pytest.raises(error, match=text):
        create_vocab(sentences, tmp_path / "v.txt")
    assert list(tmp_path.iterdir()) == []
