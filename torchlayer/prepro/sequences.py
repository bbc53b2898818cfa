"""Sequences of ids made equally long, ended, begun and masked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "post",
    truncating: str = "pre",
    value: float = 0.0,
) -> np.ndarray:
    """Sequences as one array: shorter ones padded with ``value``, longer ones cut.

    Args:
        maxlen: by default the length of the longest.
        padding: at the end (``post``) or before the beginning (``pre``).
        truncating: what is cut: the beginning (``pre``) or the end (``post``).
    Shape:
        sequences of ``(T_i, ...)``, lists, arrays or tensors on the CPU; returns ``(n, maxlen, ...)``.
    Raises:
        ValueError: there are no sequences; their items differ in shape; no such ``padding`` or ``truncating``.

    >>> pad_sequences([[1, 2, 3, 4, 5], [6, 7, 8], [9]], maxlen=4)
    array([[2, 3, 4, 5],
           [6, 7, 8, 0],
           [9, 0, 0, 0]], dtype=int32)
    """
    for name, choice in (("padding", padding), ("truncating", truncating)):
        if choice not in ("pre", "post"):
            raise ValueError(f"pad_sequences: {name} is 'pre' or 'post', got {choice!r}")
    if len(sequences) == 0:
        raise ValueError("pad_sequences got no sequences, so the array would have no shape")
    lengths = [len(sequence) for sequence in sequences]
    length = max(lengths) if maxlen is None else _length(maxlen)
    arrays = [np.asarray(sequence) for sequence in sequences]
    shape = next((array.shape[1:] for array in arrays if len(array)), ())
    padded = np.full((len(arrays), length, *shape), value).astype(dtype)
    for i, array in enumerate(arrays):
        if not len(array):
            continue
        if array.shape[1:] != shape:
            raise ValueError(
                f"pad_sequences: the items of sequence {i} have shape {array.shape[1:]}, those before {tuple(shape)}"
            )
        n = min(len(array), length)
        array = array[len(array) - n :] if truncating == "pre" else array[:n]
        padded[i, : n if padding == "post" else None][(0 if padding == "post" else length - n) :] = array
    return padded


def process_sequences(
    sequences: Any,
    end_id: int = 0,
    pad_val: int = 0,
    is_shorten: bool = True,
    remain_end_id: bool = False,
) -> Any:
    """Sequences of a network's output, each ended at its first ``end_id``: from there on they are ``pad_val``.

    One without an ``end_id`` counts whole. (TensorLayer 1.3 cut it to where the others ended.) What is given is not
    changed.

    Args:
        is_shorten: cut all of them to the length of the longest. (Of a tensor on a GPU the host waits for it.)
        remain_end_id: keep the ``end_id`` itself.
    Shape:
        sequences ``n`` lists, which returns lists; or an array or a tensor ``(n, T)``, which returns one.

    >>> S = [[4, 3, 5, 3, 2, 2, 2, 2], [5, 3, 9, 4, 9, 2, 2, 3]]
    >>> process_sequences(S, end_id=2)
    [[4, 3, 5, 3, 0], [5, 3, 9, 4, 9]]
    >>> process_sequences(S, end_id=2, remain_end_id=True)
    [[4, 3, 5, 3, 2, 0], [5, 3, 9, 4, 9, 2]]
    """
    rows = _as_rows(sequences)
    if rows is not None:
        at = _positions(rows)
        ended = rows == end_id
        first = (~ended).cumprod(1).sum(1)  # places before the first end
        lengths = (first + bool(remain_end_id)).clip(max=rows.shape[1])
        kept = at < lengths[:, None]
        result: Any = torch.where(kept, rows, pad_val) if isinstance(rows, Tensor) else np.where(kept, rows, pad_val)
        return result[:, : int(lengths.max())] if is_shorten and len(rows) else result
    ended_lists, lengths = [], []
    for sequence in (_as_list(sequence) for sequence in sequences):
        n = sequence.index(end_id) + bool(remain_end_id) if end_id in sequence else len(sequence)
        ended_lists.append(sequence[:n] + [pad_val] * (len(sequence) - n))
        lengths.append(n)
    longest = max(lengths, default=0)
    return [sequence[:longest] for sequence in ended_lists] if is_shorten else ended_lists


def sequences_add_start_id(sequences: Any, start_id: int = 0, remove_last: bool = False) -> Any:
    """Each sequence with ``start_id`` before it, and with ``remove_last`` without its last item: a decoder's input.

    Shape:
        sequences ``n`` lists, which returns lists; or an array or a tensor ``(n, T)``, which returns ``(n, T + 1)``, or
        ``(n, T)``.

    >>> sequences_add_start_id([[4, 3, 5], [5]], start_id=2)
    [[2, 4, 3, 5], [2, 5]]
    >>> sequences_add_start_id([[4, 3, 5], [5]], start_id=2, remove_last=True)
    [[2, 4, 3], [2]]
    """
    rows = _as_rows(sequences)
    if rows is not None:
        kept = rows[:, :-1] if remove_last else rows
        if isinstance(kept, Tensor):
            return torch.nn.functional.pad(kept, (1, 0), value=start_id)
        return np.pad(kept, ((0, 0), (1, 0)), constant_values=start_id)
    lists = [_as_list(sequence) for sequence in sequences]
    return [[start_id, *(sequence[:-1] if remove_last else sequence)] for sequence in lists]


def sequences_get_mask(sequences: Any, pad_val: int = 0) -> Any:
    """1 for what belongs to a sequence, 0 for the padding at its end; ``pad_val`` within it belongs to it.

    Shape:
        sequences ``(n, T)``: a tensor returns an int64 tensor on its device, anything else an int64 array.
    Raises:
        ValueError: the sequences differ in length.

    >>> sequences_get_mask([[4, 0, 5, 3, 0, 0], [5, 3, 9, 4, 9, 0]])
    array([[1, 1, 1, 1, 0, 0],
           [1, 1, 1, 1, 1, 0]])
    """
    rows = _as_rows(sequences)
    if rows is None:
        lengths = sorted({len(sequence) for sequence in sequences})
        if len(lengths) > 1:
            raise ValueError(
                f"sequences_get_mask: the sequences have different lengths, {lengths}; pad them with pad_sequences"
            )
        rows = np.array([_as_list(sequence) for sequence in sequences]).reshape(len(sequences), -1)
    words = rows != pad_val
    if isinstance(words, Tensor):
        return words.long().flip(1).cummax(1).values.flip(1)
    return np.maximum.accumulate(words[:, ::-1].astype(np.int64), axis=1)[:, ::-1].copy()


def _as_rows(sequences: Any) -> Any:
    """An array or a tensor ``(n, T)`` as it is, None for anything else."""
    if not isinstance(sequences, (np.ndarray, Tensor)) or (
        isinstance(sequences, np.ndarray) and sequences.dtype == object
    ):
        return None
    if sequences.ndim != 2:
        raise ValueError(f"sequences are lists, or an array or a tensor (n, T), got shape {tuple(sequences.shape)}")
    return sequences


def _as_list(sequence: Any) -> list[Any]:
    return sequence.tolist() if isinstance(sequence, (np.ndarray, Tensor)) else list(sequence)


def _positions(rows: Any) -> Any:
    n = rows.shape[1]
    return torch.arange(n, device=rows.device) if isinstance(rows, Tensor) else np.arange(n)


def _length(maxlen: Any) -> int:
    try:
        length = operator.index(maxlen)
    except TypeError:
        raise TypeError(f"pad_sequences: maxlen is a number of items, an integer, got {maxlen!r}") from None
    if length < 0:
        raise ValueError(f"pad_sequences: maxlen is at least 0, got {length}")
    return length
