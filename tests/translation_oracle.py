"""TensorFlow's embedding_attention_seq2seq in NumPy, from its definition: one sentence pair, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

Arrays = list[np.ndarray]


def shapes(
    n_source: int, n_target: int, size: int, n_layer: int, lstm: bool, projection: bool
) -> list[tuple[int, ...]]:
    """The shapes of the arrays in the order in which TensorFlow keeps them."""
    s, V = size, n_target
    cell = [(2 * s, 4 * s), (4 * s,)] if lstm else [(2 * s, 2 * s), (2 * s,), (2 * s, s), (s,)]
    n_query = n_layer * s * (2 if lstm else 1)
    return [
        *([(s, V), (V,)] if projection else []),
        (n_source, s),
        *cell * n_layer,
        (V, s),
        *((1, 1, s, s), (s,), (2 * s, s), (s,)),
        *cell * n_layer,
        *([] if projection else [(s, V), (V,)]),
        *((n_query, s), (s,)),
        *([(2 * s, s), (s,)] if projection else [(V + s, V), (V,)]),
    ]


def filled(arrays: Sequence[tuple[int, ...]], seed: int | None = None) -> Arrays:
    """Random values, or without a seed the specification's: 0.3 sin(0.7 k) for the k-th of all scalars."""
    n = sum(int(np.prod(shape)) for shape in arrays)
    if seed is None:
        flat = 0.3 * np.sin(0.7 * np.arange(n))
    else:
        flat = np.random.RandomState(seed).uniform(-0.7, 0.7, n)
    ends = np.cumsum([int(np.prod(shape)) for shape in arrays])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), arrays)]


def logits(
    arrays: Arrays,
    size: int,
    n_layer: int,
    lstm: bool,
    projection: bool,
    source: Sequence[int],
    words: Sequence[int],
    feed_back: bool,
) -> np.ndarray:
    """``(O, V)`` for one sentence, read in the order given; with ``feed_back`` only the first word is read."""
    rest = iter(arrays)
    if projection:
        proj_w, proj_b = next(rest), next(rest)
    E_source = next(rest)
    encoder = [_cell(rest, lstm) for _ in range(n_layer)]
    E_target, AttnW, V, Wx, bx = (next(rest) for _ in range(5))
    decoder = [_cell(rest, lstm) for _ in range(n_layer)]
    if not projection:
        Wo, bo = next(rest), next(rest)
    Wq, bq, Wf, bf = (next(rest) for _ in range(4))
    assert next(rest, None) is None

    states = [[np.zeros(size)] * (2 if lstm else 1) for _ in range(n_layer)]
    memory = []
    for word in source:
        x = E_source[word]
        for k, cell in enumerate(encoder):
            states[k] = cell(x, states[k])
            x = states[k][-1]
        memory.append(x)
    M = np.stack(memory)
    context, found, word = np.zeros(size), [], words[0]
    for t in range(len(words)):
        word = words[t] if not feed_back or t == 0 else int(found[-1].argmax())
        x = np.concatenate([E_target[word], context]) @ Wx + bx
        for k, cell in enumerate(decoder):
            states[k] = cell(x, states[k])
            x = states[k][-1]
        o = x if projection else x @ Wo + bo
        y = np.concatenate([part for state in states for part in state]) @ Wq + bq
        scores = np.tanh(M @ AttnW[0, 0] + y) @ V
        weights = np.exp(scores - scores.max())
        context = (weights / weights.sum()) @ M
        out = np.concatenate([o, context]) @ Wf + bf
        found.append(out @ proj_w + proj_b if projection else out)
    return np.stack(found)


def loss(logits: np.ndarray, words: Sequence[int], weights: Sequence[float]) -> float:
    """The weighted mean over one sentence; the target of a word is the next one, of the last one 0."""
    targets = [*words[1:], 0]
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    losses = -log_p[np.arange(len(targets)), targets]
    return float((losses * weights).sum() / (sum(weights) + 1e-12))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _cell(rest: Iterator[np.ndarray], lstm: bool):
    if lstm:
        W, b = next(rest), next(rest)

        def long_short(x, state):
            c, h = state
            i, j, f, o = np.split(np.concatenate([x, h]) @ W + b, 4)
            c = c * _sigmoid(f + 1) + _sigmoid(i) * np.tanh(j)
            return [c, np.tanh(c) * _sigmoid(o)]

        return long_short
    Wg, bg, Wc, bc = (next(rest) for _ in range(4))

    def gated(x, state):
        (h,) = state
        r, u = np.split(_sigmoid(np.concatenate([x, h]) @ Wg + bg), 2)
        c = np.tanh(np.concatenate([x, r * h]) @ Wc + bc)
        return [u * h + (1 - u) * c]

    return gated
