"""How like a translation is to the one that was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Bleu(NamedTuple):
    """A score and how it was computed; scores of different signatures cannot be compared."""

    score: float  # percent
    signature: str


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, tokenize: str = "none", lowercase: bool = False
) -> Bleu:
    """BLEU of a corpus, by sacrebleu.

    Args:
        hypotheses: the translations, whole sentences.
        references: what was expected, one for each.
        tokenize: how sacrebleu splits them: ``"none"`` for sentences whose words stand between spaces already, as
            Multi30k's papers score; ``"13a"`` for sentences as people write them.
        lowercase: make both lower-case first.

    Raises:
        ImportError: sacrebleu is not installed.
        ValueError: not as many of one as of the other, or none.
        TypeError: a sentence is not a string.

    Reference:
        Papineni et al. 2002, https://aclanthology.org/P02-1040/; Post 2018, arXiv:1804.08771, for the signature.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"bleu needs one reference for each hypothesis, got {len(hypotheses)} hypotheses and {len(references)} "
            "references"
        )
    for sentence in (*hypotheses, *references):
        if not isinstance(sentence, str):
            raise TypeError(f"bleu compares strings, got {type(sentence).__name__}; join the words with spaces")
    try:
        from sacrebleu.metrics import BLEU  # pyright: ignore
    except ImportError as e:
        raise ImportError("bleu needs sacrebleu: pip install sacrebleu") from e
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)  # it warns of sentences that end in " ."
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))
