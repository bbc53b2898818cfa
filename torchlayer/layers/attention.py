"""Additive attention: where in a memory to look, and what stands there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .base import Initializer, fill, size_as_loaded


class Memory(NamedTuple):
    """What there is to look at, prepared once for all queries.

    Attributes:
        values: ``(N, I, D)``, what is read.
        keys: ``(N, I, A)``, the part of the scores that no query changes.
        bias: ``(N, I)``, added to the scores: 0, or a number so negative that the place is never looked at. ``None`` is
            0 everywhere.
    """

    values: Tensor
    keys: Tensor
    bias: Tensor | None = None


class AdditiveAttention(nn.Module):
    """Scores ``v . tanh(M W_memory + q W_query + b_query)``, their softmax over the places, the mean of ``M`` under it.

    The product with the memory does not depend on the query: :meth:`prepare` computes it once. Several queries may
    share one memory, as the hypotheses of a beam do.

    Args:
        n_units: ``A``, the width in which memory and query meet.

    Shape:
        memory ``(N, I, D)``, queries ``(N * K, Q)``, those of one memory below each other; returns the contexts
        ``(N * K, D)`` and the weights ``(N * K, I)``. Parameters ``W_memory`` ``(D, A)``, ``v`` ``(A,)``, ``W_query``
        ``(Q, A)``, ``b_query`` ``(A,)``.

    Reference:
        Bahdanau, Cho, Bengio 2015, arXiv:1409.0473; TensorFlow's attention decoder has the bias, too.

    >>> attention = AdditiveAttention(4).build(3, 5, torch.nn.init.xavier_uniform_)
    >>> memory = attention.prepare(torch.randn(2, 7, 3), torch.tensor([7, 2]))
    >>> context, weights = attention(torch.randn(2, 5), memory)
    >>> context.shape, weights[1, 2:].count_nonzero()
    (torch.Size([2, 3]), tensor(0))
    """

    n_arrays = 2  # in TensorFlow's files: the matrix of a 1 x 1 convolution and v

    def __init__(self, n_units: int):
        super().__init__()
        self.n_units = n_units
        self.W_memory, self.v = UninitializedParameter(), UninitializedParameter()
        self.W_query, self.b_query = UninitializedParameter(), UninitializedParameter()

    def build(self, n_memory: int, n_query: int, initializer: Initializer) -> AdditiveAttention:
        """Size the parameters; ``initializer`` fills the matrices, and ``v`` as a matrix of one column."""
        fill(self.W_memory, (n_memory, self.n_units), initializer)
        column = nn.Parameter(torch.empty(self.n_units, 1, device=self.W_memory.device, dtype=self.W_memory.dtype))
        fill(column, (self.n_units, 1), initializer)
        fill(self.v, (self.n_units,), column[:, 0])
        fill(self.W_query, (n_query, self.n_units), initializer)
        fill(self.b_query, (self.n_units,), 0.0)
        return self

    def prepare(self, values: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None) -> Memory:
        """The memory to look at.

        Args:
            lengths: ``(N,)``; nothing beyond them is looked at.
            mask: ``(N, I)`` booleans, where to look. A memory of which nothing may be seen is looked at evenly.
        """
        if lengths is not None:
            within = torch.arange(values.shape[1], device=values.device) < lengths.to(values.device)[:, None]
            mask = within if mask is None else mask & within
        bias = None
        if mask is not None:
            # not -inf: a row of nothing else has no softmax
            bias = torch.zeros_like(mask, dtype=values.dtype).masked_fill(~mask, torch.finfo(values.dtype).min / 2)
        return Memory(values, values @ self.W_memory, bias)

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        weights = self.weigh(torch.addmm(self.b_query, query, self.W_query), memory)
        return (weights @ memory.values).flatten(0, 1), weights.flatten(0, 1)

    def weigh(self, y: Tensor, memory: Memory) -> Tensor:
        """The weights ``(N, K, I)`` of queries that were multiplied before, ``y`` ``(N * K, A)``."""
        y = y.view(memory.keys.shape[0], -1, 1, self.n_units)  # (N, K, 1, A)
        scores = torch.tanh(memory.keys[:, None] + y) @ self.v  # (N, K, I)
        return (scores if memory.bias is None else scores + memory.bias[:, None]).softmax(2)

    def from_original(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Parameters from TensorFlow's arrays: ``AttnW`` ``[1, 1, D, A]`` and ``AttnV`` ``[A]``."""
        matrix, v = arrays
        return {"W_memory": matrix.reshape(matrix.shape[-2:]), "v": v}

    def extra_repr(self) -> str:
        return f"n_units={self.n_units}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        size_as_loaded(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
