"""Word vectors trained by noise-contrastive estimation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..initializers import constant, random_uniform, truncated_normal
from ..kernels.nce import nce_loss
from ..kernels.samplers import SampledValues, log_uniform_sampler
from ..network import Network, stack
from .base import fill, has_bias
from .embedding import EmbeddingInputlayer, _ids

Sampler = Callable[[Tensor, int, int], SampledValues]

_NCE_ARGS = ("num_true", "sampled_values", "remove_accidental_hits", "subtract_log_q", "partition_strategy", "name")


class Word2vecNetwork(Network):
    """The handle that ends in a :class:`Word2vecEmbeddingInputlayer`: it knows its cost and its table of unit rows."""

    @property
    def _layer(self) -> Word2vecEmbeddingInputlayer:
        return self.get_submodule(self._nodes[-1].module or "")  # type: ignore[return-value]

    def nce_cost(self, inputs: Tensor, train_labels: Tensor, sampled_values: Sequence[Tensor] | None = None) -> Tensor:
        """The mean loss of a batch, one number; see :meth:`Word2vecEmbeddingInputlayer.nce_cost`."""
        return self._layer.cost(self(inputs), train_labels, sampled_values)

    @property
    def normalized_embeddings(self) -> Tensor:
        """The table with rows of length 1, ``(V, D)``: products of these are cosines."""
        return self._layer.normalized_embeddings


class Word2vecEmbeddingInputlayer(EmbeddingInputlayer):
    """A row of a table for each word, and the cost that trains it to tell the words nearby from sampled ones.

    ``net = Word2vecEmbeddingInputlayer(...)`` is a :class:`Word2vecNetwork`: ``net(ids)`` are vectors,
    ``net.nce_cost(ids, labels)`` is the cost, ``net.normalized_embeddings`` the table to search. An
    :class:`EmbeddingInputlayer` of the same name loads its ``embeddings``.

    Args:
        inputs: a network whose output is one id an example.
        train_labels: an ``InputLayer`` that declares the labels, or nothing: they are given to ``nce_cost``.
        vocabulary_size, embedding_size: rows and columns of the table. The default sampler expects ids sorted from
            frequent to rare, as :func:`torchlayer.nlp.build_words_dataset` numbers them.
        num_sampled: words drawn in each call, shared by the batch.
        nce_loss_args: TensorFlow's, ``num_true``, ``sampled_values``, ``remove_accidental_hits`` and
            ``partition_strategy`` (which changes nothing: no table is split); also ``subtract_log_q``, see
            :func:`torchlayer.kernels.nce_loss`.
        E_init, nce_W_init, nce_b_init: in-place initialisers, or the values; ``nce_b_init=None`` leaves biases out.
        E_init_args, nce_W_init_args, nce_b_init_args: keyword arguments for the initialisers.
        sampler: draws the words, called as ``sampler(labels, num_sampled, vocabulary_size)``.
        sparse: give all parameters ``torch.sparse_coo`` gradients of the rows a batch has touched, for
            :mod:`torchlayer.optim` and ``torch.optim.SparseAdam``; otherwise gradients are as large as the tables.

    Shape:
        integers ``(N, ...) -> (N, ..., D)``; parameters ``embeddings`` and ``nce_weights`` ``(V, D)``, ``nce_biases``
        ``(V,)``.

    Raises:
        ValueError, TypeError: a size below 1, more samples than words, an unknown loss argument, labels that are no
            ``InputLayer`` of integers.

    Reference:
        Mikolov et al. 2013, arXiv:1310.4546; Mnih, Kavukcuoglu 2013, Learning word embeddings efficiently with
        noise-contrastive estimation, https://papers.nips.cc/paper/5165. Negatives are shared by the batch, as in
        TensorFlow.

    >>> import torch, torchlayer as tl
    >>> words = tl.layers.InputLayer((None,), dtype=torch.int64)
    >>> net = Word2vecEmbeddingInputlayer(words, vocabulary_size=50, embedding_size=8, num_sampled=4, name="word2vec")
    >>> net.nce_cost(torch.tensor([1, 2]), torch.tensor([[2], [3]])).shape
    torch.Size([])
    >>> list(net.state_dict())
    ['word2vec.embeddings', 'word2vec.nce_weights', 'word2vec.nce_biases']
    """

    handle = Word2vecNetwork

    def __new__(cls, inputs=None, *args, **kwargs):  # as the base, whose first argument has another name
        if inputs is None:
            return nn.Module.__new__(cls)
        return stack(inputs, cls(None, *args, **kwargs))

    def __init__(
        self,
        inputs: None = None,
        train_labels: Network | None = None,
        vocabulary_size: int = 80000,
        embedding_size: int = 200,
        num_sampled: int = 64,
        nce_loss_args: Mapping[str, Any] | None = None,
        E_init: Any = random_uniform(-1.0, 1.0),
        E_init_args: Mapping[str, Any] | None = None,
        nce_W_init: Any = truncated_normal(stddev=0.03),
        nce_W_init_args: Mapping[str, Any] | None = None,
        nce_b_init: Any = constant(0.0),
        nce_b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        sampler: Sampler = log_uniform_sampler,
        sparse: bool = False,
    ):
        super().__init__(None, vocabulary_size, embedding_size, E_init, E_init_args, name)
        self.num_sampled, self.sampler, self.sparse = num_sampled, sampler, sparse
        args = dict(nce_loss_args or {})
        if unknown := sorted(set(args) - set(_NCE_ARGS)):
            raise ValueError(f"nce_loss_args may have {', '.join(_NCE_ARGS)}; got {', '.join(map(repr, unknown))}")
        self.num_true = int(args.get("num_true", 1))
        self.sampled_values = args.get("sampled_values")
        self.remove_accidental_hits = bool(args.get("remove_accidental_hits", False))
        self.subtract_log_q = bool(args.get("subtract_log_q", True))
        if num_sampled < 1 or self.num_true < 1:
            raise ValueError(f"num_sampled and num_true are at least 1, got {num_sampled} and {self.num_true}")
        if sampler is log_uniform_sampler and self.sampled_values is None and num_sampled > vocabulary_size:
            raise ValueError(
                f"num_sampled={num_sampled} different words cannot be drawn of vocabulary_size={vocabulary_size}"
            )
        _check_labels(train_labels, self.num_true)
        self.nce_weights = nn.Parameter(torch.empty(vocabulary_size, embedding_size))
        fill(self.nce_weights, (vocabulary_size, embedding_size), nce_W_init, nce_W_init_args)
        self.nce_biases = nn.Parameter(torch.empty(vocabulary_size)) if has_bias(nce_b_init) else None
        if self.nce_biases is not None:
            fill(self.nce_biases, (vocabulary_size,), nce_b_init, nce_b_init_args)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(_ids(ids), self.embeddings, sparse=self.sparse)

    def nce_cost(self, inputs: Tensor, train_labels: Tensor, sampled_values: Sequence[Tensor] | None = None) -> Tensor:
        """The mean over the batch of :func:`torchlayer.kernels.nce_loss`, one number, with freshly drawn words.

        They are drawn from torch's generator of the device, in ``eval()`` too.

        Args:
            sampled_values: words to take instead of drawing, as a sampler returns them.
        Shape:
            inputs ``(N,)``, train_labels ``(N,)`` or ``(N, num_true)``, int64 or int32.
        """
        return self.cost(self(inputs), train_labels, sampled_values)

    def cost(self, vectors: Tensor, labels: Tensor, sampled_values: Sequence[Tensor] | None = None) -> Tensor:
        """:meth:`nce_cost` of vectors ``(N, D)`` that were looked up before."""
        if vectors.dim() != 2:
            raise ValueError(
                f"nce_cost needs one id an example, (N,), got ids {tuple(vectors.shape[:-1])}; flatten them"
            )
        labels = _ids(labels).long()
        n_true = labels.shape[1] if labels.dim() == 2 else 1
        if labels.dim() not in (1, 2) or n_true != self.num_true or len(labels) != len(vectors):
            n = len(vectors)
            either = f"({n},) or " if self.num_true == 1 else ""
            raise ValueError(f"nce_cost needs labels {either}({n}, {self.num_true}), got {tuple(labels.shape)}")
        sampled_values = self.sampled_values if sampled_values is None else sampled_values
        if sampled_values is None:
            sampled_values = self.sampler(labels, self.num_sampled, self.vocabulary_size)
        return nce_loss(
            self.nce_weights,
            self.nce_biases,
            vectors,
            labels,
            tuple(sampled_values),
            remove_accidental_hits=self.remove_accidental_hits,
            subtract_log_q=self.subtract_log_q,
            sparse=self.sparse,
            reduction="mean",
        )

    @property
    def normalized_embeddings(self) -> Tensor:
        """The table with rows of length 1, ``(V, D)``; a row of zeros stays so."""
        return F.normalize(self.embeddings, eps=1e-6)  # TensorFlow bounds the square, by 1e-12

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_sampled={self.num_sampled}"


def _check_labels(train_labels: Any, num_true: int) -> None:
    """Labels are no input of the network, which can then look up words without them; what is declared must fit."""
    if train_labels is None:
        return
    if not isinstance(train_labels, Network):
        raise TypeError(
            f"train_labels is an InputLayer that declares the labels, got {type(train_labels).__name__}; "
            "give the labels themselves to net.nce_cost(ids, labels)"
        )
    shape, dtype = train_labels.outputs
    fits = shape == (None, num_true) or (shape == (None,) and num_true == 1)
    if not fits or dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"train_labels declares {shape} {dtype}, but labels are integers (None, {num_true}); "
            "nce_loss_args={'num_true': n} has n for each example"
        )
