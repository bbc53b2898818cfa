"""Word vectors from skip-grams and negative samples: word2vec's step for a whole piece of text, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _library, _rows
from ._sampled_loss import check_dense


def skip_gram_(
    embeddings: Tensor,
    weights: Tensor,
    words: Tensor,
    radius: Tensor,
    negatives: Tensor,
    lr: float | Tensor,
    window: int,
    group: int = 1024,
    limit: int = 64,
) -> Tensor:
    """Train word vectors on a piece of text, in place; returns the loss of each word's window.

    Each word ``words[i]`` and its neighbours, at most ``radius[i]`` away, are a window. For it, in words of PyTorch::

        x = embeddings[neighbours]                                        # (C, D)
        y = weights[torch.cat([words[i : i + 1], negatives[i]])]          # (1 + K, D), the word first
        loss = F.softplus(x @ y.T * sign).sum()                           # sign: -1 for the word, 1 for the negatives
        embeddings[neighbours] -= lr * x_grad;  weights[...] -= lr * y_grad

    A negative that is the word itself is passed over. The windows of ``group`` words in a row are computed on the same
    tables, and their gradients added up; the next group meets the tables that they have left. With ``group=1`` this is
    the word2vec of one thread; large groups fill a machine. A frequent word is in many windows of a large group, and
    sums of that many gradients may diverge: a row that is in more than ``limit`` windows has its sum scaled down to
    ``limit`` windows' worth.

    A window has one set of negatives, where word2vec draws one for each neighbour: the same expectation from a sixth of
    the memory traffic. On a CPU the result is the same for any number of threads, bit for bit. On CUDA rows are summed
    in no fixed order, unless ``torch.use_deterministic_algorithms`` asks for one, which runs plain PyTorch.

    Args:
        lr: a number, or a tensor on the device, so that a captured step can follow a schedule.
        window: the widest radius.
        group: words whose windows are computed at once. On the whole of wiki8, 8192 learn as gensim does, and 1024 a
            little better: 0.311 against 0.301 in SimLex-999.
        limit: windows of a group that a row may follow in full. There, with groups of 8192, ``limit * lr`` of 1.6 was
            stable and 3.2 was not.

    Shape:
        embeddings, weights ``(V, D)`` float32 or float64, contiguous; words ``(N,)``, radius ``(N,)`` and negatives
        ``(N, K)`` int64; lr ``()`` float32 or float64; returns ``(N,)``.

    Raises:
        IndexError: a word or a negative lies outside ``[0, V)`` (on a CPU; on CUDA its window becomes NaN, for looking
            would wait).
        ValueError: shapes, devices, strides or a number do not fit; a radius lies outside ``[0, window]`` (on a CPU; on
            CUDA it is moved there); the tables share memory.
        TypeError: a dtype does not fit.
        RuntimeError: a gradient is required, outside ``torch.no_grad()``.

    Reference:
        Mikolov et al. 2013, arXiv:1310.4546. Negatives are shared by a window as in Ji, Satish, Li, Dubey 2016,
        arXiv:1604.04661.

    >>> embeddings, weights = torch.ones(4, 2), torch.zeros(4, 2)
    >>> words, radius, negatives = torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[2], [3]])
    >>> skip_gram_(embeddings, weights, words, radius, negatives, lr=0.5, window=1)  # word 1 is the neighbour of word 0
    tensor([1.3863, 0.0000])
    >>> weights
    tensor([[ 0.2500,  0.2500],
            [ 0.0000,  0.0000],
            [-0.2500, -0.2500],
            [ 0.0000,  0.0000]])
    """
    _check(embeddings, weights, words, radius, negatives, lr, window, group, limit)
    rate = _rows.as_rate(lr, embeddings)
    arguments = (embeddings, weights, words.contiguous(), radius.contiguous(), negatives.contiguous(), rate)
    in_order = embeddings.is_cuda and torch.are_deterministic_algorithms_enabled()
    losses = (_reference if in_order else torch.ops.torchlayer.skip_gram_)(*arguments, window, group, limit)
    _rows.mark_written(embeddings, weights)
    return losses


def _check(
    embeddings: Tensor,
    weights: Tensor,
    words: Tensor,
    radius: Tensor,
    negatives: Tensor,
    lr: float | Tensor,
    window: int,
    group: int,
    limit: int,
) -> None:
    """Refuse what shows without reading a value."""
    tensors = {"embeddings": embeddings, "weights": weights, "words": words, "radius": radius, "negatives": negatives}
    for name, tensor in tensors.items():
        check_dense("skip_gram_", name, tensor)
        if tensor.device != embeddings.device:
            raise ValueError(
                f"skip_gram_ needs {name} on {embeddings.device}, where embeddings is, got {tensor.device}"
            )
        if name in ("embeddings", "weights"):
            if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != embeddings.dtype:
                raise TypeError(
                    f"skip_gram_ needs both tables in float32 or both in float64, got {name} in {tensor.dtype}"
                )
            if tensor.dim() != 2 or 0 in tensor.shape or tensor.shape != embeddings.shape:
                raise ValueError(f"skip_gram_ needs two tables of one shape (V, D), got {name} {tuple(tensor.shape)}")
            if not tensor.is_contiguous():
                raise ValueError(f"skip_gram_ needs {name} contiguous, got strides {tensor.stride()}")
            if torch.is_grad_enabled() and tensor.requires_grad:
                raise RuntimeError(
                    f"skip_gram_ changes {name} in place and has no gradient; call it under torch.no_grad()"
                )
        elif tensor.dtype != torch.int64:
            raise TypeError(f"skip_gram_ needs {name} in torch.int64, got {tensor.dtype}; call {name}.long()")
    if words.dim() != 1 or radius.shape != words.shape:
        raise ValueError(
            f"skip_gram_ needs words and radius of one shape (N,), got {tuple(words.shape)} and {tuple(radius.shape)}"
        )
    if negatives.dim() != 2 or len(negatives) != len(words):
        raise ValueError(f"skip_gram_ needs negatives of shape ({len(words)}, K), got {tuple(negatives.shape)}")
    for name, value in (("window", window), ("group", group), ("limit", limit)):
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < 1:
            raise ValueError(f"skip_gram_ needs {name} of 1 or more, got {value!r}")
    _rows.check_rate("skip_gram_", lr, embeddings)


def _check_values(
    embeddings: Tensor, weights: Tensor, words: Tensor, radius: Tensor, negatives: Tensor, lr: Tensor, window: int
) -> None:
    """Refuse what only memory shows."""
    if _rows.overlap(embeddings, weights):
        raise ValueError(
            "skip_gram_ needs embeddings and weights in memory of their own, but they overlap; clone() one"
        )
    if embeddings.device.type != "cpu":
        return
    if not lr >= 0:
        raise ValueError(f"skip_gram_ needs lr of 0 or more, got {lr.item():g}")
    for name, ids in (("word", words), ("negative", negatives)):
        bad = ((ids < 0) | (ids >= len(embeddings))).nonzero()
        if len(bad):
            raise IndexError(
                f"skip_gram_ was given {name} {int(ids[tuple(bad[0])])} at position {int(bad[0, 0])}, but there are "
                f"{len(embeddings)} words; ids count from 0"
            )
    bad = ((radius < 0) | (radius > window)).nonzero()
    if len(bad):
        position = int(bad[0])
        raise ValueError(
            f"skip_gram_ needs radius from 0 to window={window}, got {int(radius[position])} at position {position}"
        )


def _reference(
    embeddings: Tensor,
    weights: Tensor,
    words: Tensor,
    radius: Tensor,
    negatives: Tensor,
    lr: Tensor,
    window: int,
    group: int,
    limit: int,
) -> Tensor:
    _check(embeddings, weights, words, radius, negatives, lr, window, group, limit)
    _check_values(embeddings, weights, words, radius, negatives, lr, window)
    n = len(words)
    losses = embeddings.new_empty(n)
    rate = lr.to(embeddings.dtype)
    offsets = torch.tensor([d for d in range(-window, window + 1) if d], device=words.device)
    for first in range(0, n, group):
        i = torch.arange(first, min(first + group, n), device=words.device)
        places = i[:, None] + offsets  # (G, 2 w)
        is_near = (offsets.abs() <= radius[i, None]) & (places >= 0) & (places < n)
        x, inputs = _rows_of(embeddings, words[places.clamp(0, n - 1)])  # (G, 2 w, D), (G, 2 w)
        y, outputs = _rows_of(weights, torch.cat([words[i, None], negatives[i]], 1))  # (G, 1 + K, D), (G, 1 + K)
        logits = x @ y.transpose(1, 2)  # (G, 2 w, 1 + K)
        counts = is_near[:, :, None] & torch.cat([i[:, None] >= 0, negatives[i] != words[i, None]], 1)[:, None]
        sign = torch.ones_like(logits)
        sign[..., 0] = -1
        terms = torch.nn.functional.softplus(logits * sign)
        losses[i] = torch.where(counts, terms, 0).sum((1, 2))
        step = torch.where(counts, -rate * sign * torch.sigmoid(logits * sign), 0)  # (G, 2 w, 1 + K)
        _add(embeddings, inputs, step @ y, is_near, limit)
        _add(weights, outputs, step.transpose(1, 2) @ x, torch.ones_like(outputs, dtype=torch.bool), limit)
    return losses


def _rows_of(table: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows, NaN for ids out of range, and the ids moved into range."""
    inside = ids.clamp(0, len(table) - 1)
    rows = table[inside]
    if table.device.type != "cpu":  # where ids were not looked at
        rows = rows.masked_fill((inside != ids)[..., None], torch.nan)
    return rows, inside


def _add(table: Tensor, ids: Tensor, values: Tensor, counts: Tensor, limit: int) -> None:
    """Add to the rows, those scaled down that are in more than ``limit`` windows."""
    n_windows = torch.zeros(len(table), dtype=table.dtype, device=table.device)
    n_windows.index_add_(0, ids.view(-1), counts.view(-1).to(table.dtype))
    values = values * (limit / n_windows.clamp(min=limit))[ids][..., None]
    table.index_add_(0, ids.view(-1), values.view(-1, table.shape[1]))


def _fake(embeddings: Tensor, weights: Tensor, words: Tensor, *_: Any) -> Tensor:
    return embeddings.new_empty(words.shape)


def _example(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, int, int]:
    generator = torch.Generator(device).manual_seed(0)
    embeddings, weights = (torch.randn(5000, 128, device=device, generator=generator) / 8 for _ in range(2))
    draws = torch.rand(1024, 6, device=device, generator=generator)
    ids = (5000 * draws**3).long()
    radius = torch.randint(1, 6, (1024,), device=device, generator=generator)
    lr = torch.full((), 0.025, dtype=torch.float64, device=device)
    return embeddings, weights, ids[:, 0].contiguous(), radius, ids[:, 1:].contiguous(), lr, 5, 256, 16


_library.define(
    "skip_gram_(Tensor(a!) embeddings, Tensor(b!) weights, Tensor words, Tensor radius, Tensor negatives, Tensor lr, "
    "int window, int group, int limit) -> Tensor",
    _reference,
    _fake,
    _example,
)
