"""Words and punctuation as Moses, the translation system, splits them: how many corpora are scored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def moses_tokenize(sentences: Iterable[str], language: str, lowercase: bool = True) -> list[str]:
    """Lower-case, normalise the punctuation, and put spaces between words: ``l&apos; herbe , verte .``

    Args:
        language: ``"en"``, ``"fr"``, …, by whose rules.
    Raises:
        ImportError: sacremoses is not installed.

    Reference:
        Koehn et al. 2007, https://aclanthology.org/P07-2045/
    """
    sacremoses = _sacremoses("moses_tokenize")
    normalize = sacremoses.MosesPunctNormalizer(language).normalize
    tokenize = sacremoses.MosesTokenizer(language).tokenize
    return [tokenize(normalize(s.lower() if lowercase else s), return_str=True) for s in sentences]


def moses_detokenize(sentences: Iterable[str], language: str) -> list[str]:
    """The other way round: ``l'herbe, verte.``

    Raises:
        ImportError: sacremoses is not installed.
    """
    detokenize = _sacremoses("moses_detokenize").MosesDetokenizer(language).detokenize
    return [detokenize(s.split()) for s in sentences]


def _sacremoses(owner: str) -> Any:
    try:
        import sacremoses  # pyright: ignore
    except ImportError as e:
        raise ImportError(f"{owner} needs sacremoses: pip install sacremoses") from e
    return sacremoses
