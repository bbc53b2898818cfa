"""Decoding: the sentence that a step-by-step model finds most probable, by greedy choice or with a beam.

Both searches run whole batches on the device, with shapes that depend on no data, and look only every few steps
whether all sentences have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..network import map_state

Advance = Callable[[Tensor, Any], tuple[Tensor, Any, "Tensor | None"]]

_STEPS_BETWEEN_LOOKS = 8  # on a GPU, where a look waits for the device


class Decoded(NamedTuple):
    """What a search found, a row a sentence.

    Attributes:
        ids: ``(N, T)`` int64 with ``T = max_length``; behind the end of a sentence stands ``pad_id``.
        lengths: ``(N,)`` int64, the number of ids in front of the end; ``ids[n, : lengths[n]]`` is the sentence.
        scores: ``(N,)``, the logarithm of its probability, the end's included, over the length penalty.
        attention: ``(N, T, I)``, where the model looked at each step, 0 behind the end; ``None`` unless asked for.
    """

    ids: Tensor
    lengths: Tensor
    scores: Tensor
    attention: Tensor | None = None


def greedy_search(
    advance: Advance,
    state: Any,
    first_ids: Tensor,
    *,
    max_length: int,
    end_id: int,
    pad_id: int = 0,
    length_penalty: float = 1.0,
    return_attention: bool = False,
) -> Decoded:
    """Take the most probable id at every step, until ``end_id`` or ``max_length``.

    Args:
        advance: one step of the model, ``(ids (N,), state) -> (logits (N, V), state, weights (N, I) or None)``.
        state: any nesting of tensors whose first axis is the batch.
        first_ids: ``(N,)`` int64, what the first step reads.
        length_penalty: as for :func:`beam_search`; it changes nothing but the scores.
        return_attention: keep the weights of every step.

    Raises:
        ValueError: ``max_length`` is below 1, there is no sentence, or no attention to return.

    >>> def count_up(ids, state):
    ...     return torch.nn.functional.one_hot((ids + 1) % 5, 5).float(), state, None
    >>> greedy_search(count_up, (), torch.tensor([0, 2]), max_length=4, end_id=4).ids
    tensor([[1, 2, 3, 4],
            [3, 4, 0, 0]])
    """
    _check(first_ids, max_length, 1)
    ids, total = first_ids, None
    done = torch.zeros_like(first_ids, dtype=torch.bool)
    n_ids = torch.zeros_like(first_ids)  # the end's included
    chosen, looks = [], []
    for t in range(max_length):
        logits, state, weights = advance(ids, state)
        log_p, ids = _log_softmax(logits).max(1)
        total = torch.where(done, 0.0, log_p) if total is None else total + torch.where(done, 0.0, log_p)
        ids = torch.where(done, pad_id, ids)
        if return_attention:
            looks.append(torch.where(done[:, None], 0.0, _there(weights)))
        n_ids = n_ids + ~done
        done = done | (ids == end_id)
        chosen.append(ids)
        if _all(done, t):
            break
    assert total is not None
    found = torch.stack(chosen, 1)
    lengths = n_ids - (found == end_id).any(1).long()
    attention = _lengthened(torch.stack(looks, 1), max_length, 0) if looks else None
    return Decoded(_lengthened(found, max_length, pad_id), lengths, total / _penalty(n_ids, length_penalty), attention)


def beam_search(
    advance: Advance,
    state: Any,
    first_ids: Tensor,
    *,
    beam: int,
    max_length: int,
    end_id: int,
    pad_id: int = 0,
    length_penalty: float = 1.0,
    return_attention: bool = False,
) -> Decoded:
    """Keep the ``beam`` most probable beginnings of every sentence; return the best sentence that was finished.

    A hypothesis is finished when its ``end_id`` is among the ``beam`` best continuations, or at ``max_length``. The
    search goes on with as many unfinished ones until ``beam`` are finished and none of the others, as long as they are
    then, scores more than the best of these. The score is ``log P / ((5 + n) / 6) ** length_penalty``, ``n`` being the
    number of ids with the end. ``beam=1`` is :func:`greedy_search`.

    Args:
        advance: one step of the model, ``(ids (N * beam,), state) -> (logits (N * beam, V), state, weights or None)``.
            The hypotheses of one sentence are neighbours.
        state: any nesting of tensors whose first axis is the sentences, ``N``; repeated and reordered here.
        first_ids: ``(N,)`` int64, what the first step reads.
        length_penalty: 0 prefers short sentences, 1 nearly the mean logarithm.
        return_attention: keep the weights of every step.

    Raises:
        ValueError: ``max_length`` or ``beam`` is below 1, there is no sentence, fewer than two ids, or no attention to
            return.

    Reference:
        Wu et al. 2016, arXiv:1609.08144, for the penalty.

    >>> bigrams = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.0, 0.3, 0.3, 0.4], [0.0, 0.0, 0.1, 0.9], [0.0, 0.0, 0.0, 1.0]])
    >>> def advance(ids, state):
    ...     return bigrams[ids].log(), state, None
    >>> start = torch.tensor([0])
    >>> greedy_search(advance, (), start, max_length=3, end_id=3).ids, beam_search(
    ...     advance, (), start, beam=2, max_length=3, end_id=3).ids
    (tensor([[1, 3, 0]]), tensor([[2, 3, 0]]))
    """
    _check(first_ids, max_length, beam)
    N, device = len(first_ids), first_ids.device
    row = torch.arange(N, device=device)[:, None] * beam  # the first hypothesis of each sentence
    state = map_state(lambda x: x.repeat_interleave(beam, 0), state)
    ids = first_ids[:, None].expand(N, beam)
    live = torch.zeros(N, beam, device=device)
    live[:, 1:] = -torch.inf  # all begin alike: one of them is enough
    pool = _Pool(N, beam, max_length, length_penalty, device)
    tokens, parents, looks = [], [], []
    for t in range(max_length):
        logits, state, weights = advance(ids.reshape(-1), state)
        n_classes = logits.shape[1]
        if n_classes < 2:
            raise ValueError(f"a beam search chooses among two ids at least, got logits {tuple(logits.shape)}")
        log_p = _log_softmax(logits).view(N, beam, n_classes)
        # at most one continuation of a hypothesis ends it, so that among twice as many enough go on
        best, index = (live[:, :, None].to(log_p.dtype) + log_p).flatten(1).topk(2 * beam)  # (N, 2 beam)
        parent, token = index // n_classes, index % n_classes
        ends = token == end_id
        pool.add(torch.where(ends, best, -torch.inf)[:, :beam], parent[:, :beam], t)
        live, kept = torch.where(ends, -torch.inf, best).topk(beam)
        done = pool.done(live, t)
        live = torch.where(done[:, None], -torch.inf, live)  # all that follows is void
        ids, parent = token.gather(1, kept), parent.gather(1, kept)
        tokens.append(ids)
        parents.append(parent)
        if return_attention:
            looks.append(_there(weights).view(N, beam, -1))
        if t + 1 < max_length:
            if _all(done, t):
                break
            state = map_state(partial(torch.index_select, dim=0, index=(row + parent).flatten()), state)
    pool.add(live, torch.arange(beam, device=device).expand(N, beam), max_length)
    return pool.best(tokens, parents, looks, end_id, pad_id)


class _Pool:
    """The ``beam`` best finished hypotheses of every sentence: their scores, and from where they ended.

    Hypotheses are not copied while the search runs. Each step leaves its ids and which hypothesis each continues, and
    :meth:`best` walks back once.
    """

    def __init__(self, n: int, beam: int, max_length: int, length_penalty: float, device: torch.device):
        self.beam, self.max_length, self.length_penalty = beam, max_length, length_penalty
        self.n_finished = torch.zeros(n, dtype=torch.int64, device=device)
        self.scores = torch.full((n, beam), -torch.inf, device=device)
        self.end = torch.zeros(n, beam, dtype=torch.int64, device=device)  # the step that ended it
        self.slot = torch.zeros_like(self.end)  # its place among the hypotheses that entered this step

    def done(self, live: Tensor, step: int) -> Tensor:
        """Where nothing better is to be expected of the others, ``(N,)``.

        A sure model finishes ``beam`` bad sentences on its way to the good one; to count them is not enough.
        """
        best = live[:, 0] / _penalty(step + 1, self.length_penalty)
        return (self.n_finished >= self.beam) & (self.scores[:, 0] >= best)

    def add(self, log_p: Tensor, slot: Tensor, step: int) -> None:
        """Hypotheses that end at ``step``, which ``max_length`` stands for where they were cut; ``-inf`` is none."""
        scores = log_p / _penalty(min(step + 1, self.max_length), self.length_penalty)
        self.n_finished = self.n_finished + (log_p > -torch.inf).sum(1)
        self.scores, order = torch.cat([self.scores.to(scores.dtype), scores], 1).topk(self.beam)
        self.end = torch.cat([self.end, torch.full_like(slot, step)], 1).gather(1, order)
        self.slot = torch.cat([self.slot, slot], 1).gather(1, order)

    def best(
        self, tokens: list[Tensor], parents: list[Tensor], looks: list[Tensor], end_id: int, pad_id: int
    ) -> Decoded:
        """Walk from the end of each sentence's best hypothesis to its beginning."""
        end, slot = self.end[:, :1], self.slot[:, :1]  # (N, 1): topk sorts
        ids, weights = [], []
        for t in reversed(range(len(tokens))):
            token = torch.where(end > t, tokens[t].gather(1, slot), pad_id)
            ids.append(torch.where(end == t, end_id, token))
            slot = torch.where(end > t, parents[t].gather(1, slot), slot)
            if looks:
                look = looks[t].take_along_dim(slot[..., None], 1)  # (N, 1, I)
                weights.append(torch.where(end[..., None] >= t, look, 0.0))
        found = torch.cat(ids[::-1], 1)
        attention = _lengthened(torch.cat(weights[::-1], 1), self.max_length, 0) if weights else None
        return Decoded(_lengthened(found, self.max_length, pad_id), end[:, 0], self.scores[:, 0], attention)


def _penalty(n_ids: Any, power: float) -> Any:
    return ((5 + n_ids) / 6) ** power


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(1, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)


def _there(weights: Tensor | None) -> Tensor:
    if weights is None:
        raise ValueError(
            "return_attention=True, but the model gives no weights; advance returns them as its third value"
        )
    return weights


def _all(done: Tensor, step: int) -> bool:
    """Whether all are done, where it is time to look."""
    return (not done.is_cuda or step % _STEPS_BETWEEN_LOOKS == _STEPS_BETWEEN_LOOKS - 1) and bool(done.all())


def _lengthened(x: Tensor, n_steps: int, value: int) -> Tensor:
    """``(N, T, ...)`` with ``value`` behind it, up to ``n_steps``."""
    if x.shape[1] == n_steps:
        return x
    return torch.cat([x, x.new_full((x.shape[0], n_steps - x.shape[1], *x.shape[2:]), value)], 1)


def _check(first_ids: Tensor, max_length: int, beam: int) -> None:
    if max_length < 1 or beam < 1:
        raise ValueError(f"max_length and beam are at least 1, got {max_length} and {beam}")
    if first_ids.dim() != 1 or first_ids.dtype != torch.int64:
        raise ValueError(
            f"first_ids are (N,) int64, the id that each sentence begins with, got {tuple(first_ids.shape)} "
            f"{first_ids.dtype}"
        )
    if len(first_ids) == 0:
        raise ValueError("there is no sentence to decode: the batch is empty")
