"""Layers that turn integer ids into vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..initializers import random_uniform
from .base import Layer, fill


class EmbeddingInputlayer(Layer):
    """A row of a table for each id. The table is trained; ``net.embed.embeddings.requires_grad_(False)`` freezes it.

    Args:
        vocabulary_size, embedding_size: the table's rows and columns. No row stands for padding.
        E_init: an in-place initialiser, or the values.
        E_init_args: keyword arguments for the initialiser.
        keep_words: the probability of keeping a word while training. One that is dropped is 0 wherever it stands in
            the batch; the others are divided by ``keep_words``.

    Shape:
        integers ``(N, ...) -> (N, ..., D)``; parameter ``embeddings`` ``(V, D)``.

    Reference:
        Gal, Ghahramani 2016, https://arxiv.org/abs/1512.05287 (``keep_words``).

    Raises:
        TypeError: the ids are not integers.
        IndexError: an id lies outside ``[0, V)`` (on a CPU; CUDA asserts).

    >>> import torch, torchlayer as tl
    >>> words = tl.layers.InputLayer((None, 7), dtype=torch.int64)
    >>> EmbeddingInputlayer(words, vocabulary_size=50, embedding_size=3, name="embed").outputs.shape
    (None, 7, 3)
    """

    def __init__(
        self,
        layer: None = None,
        vocabulary_size: int = 80000,
        embedding_size: int = 200,
        E_init: Any = random_uniform(-0.1, 0.1),
        E_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        keep_words: float = 1.0,
    ):
        super().__init__(name=name)
        if vocabulary_size < 1 or embedding_size < 1:
            raise ValueError(
                f"vocabulary_size and embedding_size are at least 1, got {vocabulary_size} and {embedding_size}"
            )
        if not 0 < keep_words <= 1:
            raise ValueError(f"keep_words is the probability of keeping a word, in (0, 1], got {keep_words}")
        self.vocabulary_size, self.embedding_size = vocabulary_size, embedding_size
        self.keep_words = keep_words
        self.embeddings = nn.Parameter(torch.empty(vocabulary_size, embedding_size))
        fill(self.embeddings, (vocabulary_size, embedding_size), E_init, E_init_args)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(_ids(ids), self.embeddings)
        if not self.training or self.keep_words == 1:
            return x
        kept = F.dropout(self.embeddings.new_ones(self.vocabulary_size, 1), 1 - self.keep_words)
        return x * F.embedding(ids, kept)

    def extra_repr(self) -> str:
        kept = "" if self.keep_words == 1 else f", keep_words={self.keep_words}"
        return f"vocabulary_size={self.vocabulary_size}, embedding_size={self.embedding_size}{kept}"


class AverageEmbeddingInputlayer(EmbeddingInputlayer):
    """The mean of the rows of each sequence's ids, padding left out; zeros where there is nothing but padding.

    Args:
        pad_value: the id that fills up short sequences.

    Shape:
        integers ``(N, T) -> (N, D)``; parameter ``embeddings`` ``(V, D)``.

    >>> import torch
    >>> layer = AverageEmbeddingInputlayer(vocabulary_size=3, embedding_size=1, E_init=torch.tensor([[9.], [1.], [3.]]))
    >>> layer(torch.tensor([[1, 2, 0], [0, 0, 0]])).tolist()
    [[2.0], [0.0]]
    """

    def __init__(
        self,
        layer: None = None,
        vocabulary_size: int = 80000,
        embedding_size: int = 200,
        pad_value: int = 0,
        E_init: Any = random_uniform(-0.1, 0.1),
        E_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(None, vocabulary_size, embedding_size, E_init, E_init_args, name)
        self.pad_value = pad_value

    def forward(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2:
            raise ValueError(
                f"an average embedding needs ids of shape (N, T), got {tuple(ids.shape)}; stack a ReshapeLayer first"
            )
        if ids.is_cuda and ids.numel() and not torch.compiler.is_compiling():
            return _Averaged.apply(self.embeddings, _ids(ids), self.pad_value)
        real = (ids != self.pad_value).unsqueeze(-1)  # (N, T, 1)
        total = (super().forward(ids) * real).sum(1)  # (N, D)
        return total / real.sum(1).clamp(min=1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pad_value={self.pad_value}"


class _Averaged(torch.autograd.Function):
    """The mean of the rows of each sequence's ids by one kernel, which never holds the rows (N, T, D).

    ``F.embedding_bag`` is this, but its gradient cannot be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(table: Tensor, ids: Tensor, pad: int) -> Tensor:  # pyright: ignore
        n, n_steps = ids.shape
        # CUDA's kernel asserts that ids are below V, and not that they are positive
        flat = ids.reshape(-1)
        flat = flat.masked_fill(flat < 0, torch.iinfo(ids.dtype).max)
        begins = torch.arange(0, n * n_steps, n_steps, dtype=ids.dtype, device=ids.device)
        padding = pad if 0 <= pad < table.shape[0] else None
        return torch.embedding_bag(table, flat, begins, False, 1, False, None, False, padding)[0]  # 1: the mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        table, ids, ctx.pad = inputs
        ctx.n_rows = table.shape[0]
        ctx.save_for_backward(ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore
        (ids,) = ctx.saved_tensors
        each = grad / (ids != ctx.pad).sum(1, keepdim=True).clamp(min=1)
        each = each.unsqueeze(1).expand(-1, ids.shape[1], -1)  # (N, T, D)
        return torch.ops.aten.embedding_dense_backward(each, ids, ctx.n_rows, ctx.pad, False), None, None


class OneHotInputLayer(Layer):
    """``on_value`` at each id's place, ``off_value`` elsewhere. An id outside ``[0, depth)`` has no place.

    Args:
        depth: how many places there are.
        on_value, off_value: 1 and 0 unless given.
        axis: where the new axis goes; the end unless given.
        dtype: of the result, float32 unless given.

    Shape:
        integers ``(N, ...) -> (N, ..., depth)``.

    >>> import torch
    >>> OneHotInputLayer(depth=3)(torch.tensor([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        layer: None = None,
        depth: int | None = None,
        on_value: float | None = None,
        off_value: float | None = None,
        axis: int | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if depth is None or depth < 1:
            raise ValueError(f"depth is the number of places and at least 1, got {depth}")
        self.depth = depth
        self.on_value = 1 if on_value is None else on_value
        self.off_value = 0 if off_value is None else off_value
        self.axis = -1 if axis is None else axis
        self.dtype = dtype or torch.float32

    def forward(self, ids: Tensor) -> Tensor:
        hit = _ids(ids).unsqueeze(-1) == torch.arange(self.depth, device=ids.device)  # (N, ..., depth)
        y = hit.to(self.dtype) * (self.on_value - self.off_value) + self.off_value
        return y.to(self.dtype).movedim(-1, self.axis)

    def extra_repr(self) -> str:
        return f"depth={self.depth}, on_value={self.on_value}, off_value={self.off_value}, axis={self.axis}"


def _ids(ids: Tensor) -> Tensor:
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"ids are int64 or int32, got {ids.dtype}; give InputLayer dtype=torch.int64")
    return ids
