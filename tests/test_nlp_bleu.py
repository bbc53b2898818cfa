from __future__ import annotations

import sys

import pytest

from torchlayer.nlp import bleu


@pytest.fixture(autouse=True)
def needs_sacrebleu(request):
    if "without" not in request.node.name:
        pytest.importorskip("sacrebleu", reason="pip install sacrebleu")


def test_score_is_the_papers_formula():
    # 6 of 7 words, 4 of 6, 2 of 5 and 1 of 4 runs of two, three and four are right, and the lengths are equal
    found = bleu(["a b c d X f g"], ["a b c d e f g"])
    assert found.score == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:")


def test_lower_case_and_tokenizer_are_in_the_signature():
    found = bleu(["A dog runs."], ["a dog runs ."], tokenize="13a", lowercase=True)
    assert found.score == pytest.approx(100)
    assert "|case:lc|" in found.signature
    assert "|tok:13a|" in found.signature


@pytest.mark.parametrize(
    ("hypotheses", "references", "kind", "error"),
    [
        (["a"], ["a", "b"], ValueError, "one reference for each hypothesis, got 1 hypotheses and 2 references"),
        ([], [], ValueError, "got 0 hypotheses and 0 references"),
        ([["a", "b"]], ["a b"], TypeError, "bleu compares strings, got list; join the words with spaces"),
    ],
)
def test_what_cannot_be_scored_is_refused(hypotheses, references, kind, error):
    with pytest.raises(kind, match=error):
        bleu(hypotheses, references)


def test_without_sacrebleu_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ImportError, match="bleu needs sacrebleu: pip install sacrebleu"):
        bleu(["a"], ["a"])
