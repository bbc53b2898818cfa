"""English split into words as in the Penn Treebank."""

from __future__ import annotations

import re

_RULES = [
    (re.compile(r"([«“\u2018„]|[`]+)"), r" \1 "),
    (re.compile(r"^\""), r"``"),
    (re.compile(r"(``)"), r" \1 "),
    (re.compile(r"([ (\[{<])(\"|'{2})"), r"\1 `` "),
    (re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE), "' "),
    (re.compile(r"([:,])([^\d])"), r" \1 \2"),
    (re.compile(r"([:,])$"), r" \1 "),
    (re.compile(r"\.{2,}"), r" \g<0> "),
    (re.compile(r"[;@#$%&]"), r" \g<0> "),
    (re.compile(r"[\u2012-\u2015]"), r" \g<0> "),  # dashes
    (re.compile(r"[?!]"), r" \g<0> "),
    (re.compile(r"([^'])' "), r"\1 ' "),
    (re.compile(r"[*]"), r" \g<0> "),
    (re.compile(r"[\]\[(){}<>]"), r" \g<0> "),
    (re.compile(r"--"), r" -- "),
]
_ENDING_RULES = [
    (re.compile(r"([»”\u2019])"), r" \1 "),
    (re.compile(r"''"), " '' "),
    (re.compile(r"\""), " '' "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"([^' ])('s|'m|'d|') ", re.IGNORECASE), r"\1 \2 "),
    (re.compile(r"([^' ])('ll|'re|'ve|n't) ", re.IGNORECASE), r"\1 \2 "),
    (re.compile(r"\b(can)(not)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"\b(d)('ye)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"\b(gim|lem)(me)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"\b(gon|wan)(na)(?=\s)", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"\b(got)(ta)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r"\b(more)('n)\b", re.IGNORECASE), r" \1 \2 "),
    (re.compile(r" ('t)(is|was)\b", re.IGNORECASE), r" \1 \2 "),
]
_CLOSING = "])}>\"'»”\u2019 "


def treebank_words(text: str) -> list[str]:
    """Marks are words, contractions are two, and the last period is split off.

    Reference:
        The rules are R. MacIntyre's tokenizer.sed, 1995, as in NLTK's ``NLTKWordTokenizer``.

    >>> treebank_words('''they'll say "no, we can't".''')
    ['they', "'ll", 'say', '``', 'no', ',', 'we', 'ca', "n't", "''", '.']
    """
    for pattern, new in _RULES[:5]:
        text = pattern.sub(new, text)
    text = _last_period_apart(text)
    for pattern, new in _RULES[5:]:
        text = pattern.sub(new, text)
    text = f" {text} "
    for pattern, new in _ENDING_RULES:
        text = pattern.sub(new, text)
    return text.split()


def _last_period_apart(text: str) -> str:
    """By hand: as one pattern this takes quadratic time on a line of closing brackets."""
    text = text.rstrip()
    body = text.rstrip(_CLOSING)
    if len(body) > 1 and body[-1] == "." and body[-2] != ".":
        return f"{body[:-1]} . {text[len(body) :]}"
    return text
