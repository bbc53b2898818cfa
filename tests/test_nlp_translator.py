"""From sentences to sentences: with a model that copies, whose answers are known."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

import torchlayer as tl
from torchlayer.nlp import Language, translate

WORDS = ["_PAD", "_GO", "_EOS", "_UNK", "the", "dog", "-house", "é"]


@pytest.fixture
def language(tmp_path):
    (tmp_path / "vocab").write_text("".join(word + "\n" for word in WORDS), encoding="utf-8")
    return Language(tmp_path / "vocab", bytes.split, False, joined="-")


class Copier:
    """Writes what it reads, backwards, and looks at what it writes."""

    def __init__(self):
        self.source_embeddings, self.calls = torch.zeros(1), []

    def decode(self, source, lengths, *, max_length, beam, length_penalty, return_attention):
        self.calls.append((source.tolist(), None if lengths is None else lengths.tolist(), max_length, beam))
        n = (source != 0).sum(1)
        ids = torch.zeros(len(source), max_length, dtype=torch.int64)
        attention = torch.zeros(len(source), max_length, source.shape[1])
        for row, k in enumerate(n.tolist()):
            ids[row, :k] = source[row, :k].flip(0)
            attention[row, torch.arange(k), torch.arange(k).flip(0)] = 1.0
        return SimpleNamespace(ids=ids, lengths=n, attention=attention)


def test_a_language_reads_and_says(language):
    assert language.read("the dog é cat") == [4, 5, 7, 3]
    assert language.split("the  cat") == ["the", "cat"]
    assert language.say(["the", "dog", "-house"]) == "the dog-house"
    assert len(language) == len(WORDS)
    assert language.ids["é".encode()] == 7


def test_a_language_without_options_is_the_tokenizers(tmp_path):
    (tmp_path / "vocab").write_text("_PAD\n_GO\n_EOS\n_UNK\nthe\n0000\n.\n")
    language = Language(tmp_path / "vocab")
    assert language.read("the 1990.") == [4, 5, 6]
    assert language.split("the 1990.") == ["the", "1990", "."]
    assert language.say(["the", "-", "dog"]) == "the - dog"


def test_the_digest_is_the_files(language, tmp_path):
    (tmp_path / "other").write_text("".join(word + "\n" for word in [*WORDS, "more"]), encoding="utf-8")
    assert Language(tmp_path / "other").sha256 != language.sha256 == Language(tmp_path / "vocab").sha256


def test_translations_come_in_the_order_of_the_sentences(language):
    model = Copier()
    lines = ["the dog -house", "dog", "dog the", "é é é é"]
    found = translate(model, language, language, lines, beam=3, batch_size=2)
    assert [t.text for t in found] == ["-house dog the".replace(" -", "-"), "dog", "the dog", "é é é é"]
    assert [len(call[0]) for call in model.calls] == [2, 2]  # like lengths together
    assert model.calls[0] == ([[5, 0], [5, 4]], [1, 2], 13, 3)
    for t in found:
        assert t.attention.shape == (len(t.words), len(t.source))


def test_unknown_words_are_copied_from_where_the_model_looks(language):
    (found,) = translate(Copier(), language, language, ["the zebra dog"])
    assert found.words == ["dog", "zebra", "the"]
    assert found.source == ["the", "zebra", "dog"]


def test_a_model_with_buckets_gets_its_shapes(language):
    model = Copier()
    model.buckets = [(3, 9), (5, 11)]
    translate(model, language, language, ["dog", "the dog", "the dog é"])
    assert model.calls == [([[5, 0, 0], [4, 5, 0]], None, 9, 1), ([[4, 5, 7, 0, 0]], None, 11, 1)]


@pytest.mark.parametrize(
    ("lines", "buckets", "error"),
    [
        (["dog", " "], None, "sentence 1 has no words: ' '"),
        (["dog dog dog"], [(2, 5), (3, 6)], "a sentence has 3 words, and the largest bucket takes 2; divide it"),
    ],
)
def test_what_cannot_be_read_is_refused(lines, buckets, error, language):
    model = Copier()
    model.buckets = buckets
    with pytest.raises(ValueError, match=re.escape(error)):
        translate(model, language, language, lines)


def test_the_librarys_model_is_decoded_as_by_hand(language):
    torch.manual_seed(0)
    n = len(WORDS)
    model = tl.layers.EmbeddingAttentionSeq2Seq(n, n, 16, num_samples=0, projection=True, mask_attention=True)
    lines = ["the dog é", "dog"]
    found = translate(model, language, language, lines, max_length=4)
    for line, t in zip(lines, found):
        ids = torch.tensor([language.read(line)])
        out = model.decode(ids, max_length=4, return_attention=True)
        row, looks = out.ids[0, : out.lengths[0]], out.attention[0, : out.lengths[0]]
        torch.testing.assert_close(t.attention, looks)
        words = [t.source[int(at.argmax())] if k == 3 else WORDS[k] for k, at in zip(row.tolist(), looks)]
        assert t.words == words


def test_moses_splits_and_joins():
    pytest.importorskip("sacremoses", reason="pip install sacremoses")
    assert tl.nlp.moses_tokenize(["A dog's life."], "en") == ["a dog &apos;s life ."]
    assert tl.nlp.moses_tokenize(["L'herbe."], "fr", lowercase=False) == ["L&apos; herbe ."]
    assert tl.nlp.moses_detokenize(["l&apos; herbe , verte ."], "fr") == ["l'herbe, verte."]
