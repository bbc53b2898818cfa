"""Saying how what is stored differs from what a network needs."""

from __future__ import annotations

from collections.abc import Mapping

_SHOWN = 12  # a wrong file differs in hundreds of names; the first dozen tell why


def differences(stored: Mapping[str, str], needed: Mapping[str, str]) -> list[str]:
    """List names that are missing, unexpected or described differently, one line a kind; empty if all agree.

    Args:
        stored: description (say, ``"float32 (784, 800)"``) of every name in the file.
        needed: the same for the network.

    >>> differences({"W": "float32 (2, 3)", "c": "float32 (3,)"}, {"W": "float32 (3, 2)", "b": "float32 (3,)"})
    ['missing: b', 'unexpected: c', 'mismatched: W is float32 (2, 3), needed float32 (3, 2)']
    """
    missing = [name for name in needed if name not in stored]
    unexpected = [name for name in stored if name not in needed]
    mismatched = [
        f"{name} is {stored[name]}, needed {needed[name]}"
        for name in needed
        if name in stored and stored[name] != needed[name]
    ]
    return [
        *_line("missing", missing, ", "),
        *_line("unexpected", unexpected, ", "),
        *_line("mismatched", mismatched, "; "),
    ]


def _line(kind: str, items: list[str], separator: str) -> list[str]:
    if not items:
        return []
    rest = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"{kind}: " + separator.join(items[:_SHOWN] + rest)]
