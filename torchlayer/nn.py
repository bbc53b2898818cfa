"""Output layers for large vocabularies: they own the classes' weights, and never hold all of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .kernels._sampled_loss import REDUCTIONS, autocasting, sum_dtype
from .kernels.linear_cross_entropy import linear_cross_entropy
from .kernels.nce import nce_loss
from .kernels.sampled_softmax import sampled_softmax_loss
from .kernels.samplers import SampledValues, log_uniform_sampler

Sampler = Callable[[Tensor, int, int], SampledValues]

# Logits held at a time while measuring: 16 MB of float32.
_CHUNK = 1 << 22


class _SampledLoss(nn.Module):
    """Weight and bias of ``n_classes``, and the choice between the sampled and the full loss."""

    bias: nn.Parameter | None

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        n_sampled: int,
        n_true: int = 1,
        sampler: Sampler = log_uniform_sampler,
        bias: bool = True,
        sparse: bool = False,
        remove_accidental_hits: bool = True,
        subtract_log_q: bool = True,
        reduction: str = "mean",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        name = type(self).__name__
        sizes = {"n_features": n_features, "n_classes": n_classes, "n_sampled": n_sampled, "n_true": n_true}
        for argument, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name} needs {argument} as an int, got {size!r}")
            if size < 1:
                raise ValueError(f"{name} needs {argument} of at least 1, got {size}")
        if not callable(sampler):
            raise TypeError(
                f"{name} needs sampler as a function of (labels, n_sampled, n_classes), got {type(sampler).__name__}; "
                "see torchlayer.kernels.samplers"
            )
        if reduction not in REDUCTIONS:
            raise ValueError(f"{name} needs reduction 'none', 'mean' or 'sum', got {reduction!r}")
        super().__init__()
        self.n_features, self.n_classes, self.n_sampled, self.n_true = n_features, n_classes, n_sampled, n_true
        self.sampler = sampler
        self.sparse, self.reduction = sparse, reduction
        self.remove_accidental_hits, self.subtract_log_q = remove_accidental_hits, subtract_log_q
        self.weight = nn.Parameter(torch.empty(n_classes, n_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(n_classes, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of standard deviation ``1 / sqrt(n_features)``, so that logits start near one; biases of zero."""
        nn.init.normal_(self.weight, std=self.n_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.n_features}, {self.n_classes}, n_sampled={self.n_sampled}, n_true={self.n_true}, "
            f"bias={self.bias is not None}, sparse={self.sparse}"
        )

    def _sample(self, labels: Tensor, sampler: Sampler | None = None) -> SampledValues:
        if not isinstance(labels, Tensor):
            raise TypeError(f"{type(self).__name__} needs labels as a tensor, got {type(labels).__name__}")
        n_true = labels.shape[1] if labels.dim() == 2 else 1
        if labels.dim() not in (1, 2) or n_true != self.n_true:
            shape = "(N,)" if self.n_true == 1 else f"(N, {self.n_true})"
            raise ValueError(f"{type(self).__name__} needs labels {shape}, got {tuple(labels.shape)}")
        return (sampler or self.sampler)(labels, self.n_sampled, self.n_classes)

    def _check_measured(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` in the weights' precision, ``labels`` as ``(N, T)``."""
        name = type(self).__name__
        for argument, value in (("hidden", hidden), ("labels", labels)):
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} needs {argument} as a tensor, got {type(value).__name__}")
        if autocasting(hidden):
            hidden = hidden.to(self.weight.dtype)
        if hidden.dtype != self.weight.dtype:
            raise TypeError(f"{name} needs hidden in {self.weight.dtype}, as its weight is, got {hidden.dtype}")
        if hidden.dim() != 2 or hidden.shape[1] != self.n_features:
            raise ValueError(f"{name} needs hidden (N, {self.n_features}), got {tuple(hidden.shape)}")
        if labels.dtype != torch.int64:
            raise TypeError(f"{name} needs int64 labels, got {labels.dtype}; call labels.long()")
        if labels.dim() == 1:
            labels = labels[:, None]
        if labels.dim() != 2 or len(labels) != len(hidden) or labels.shape[1] != self.n_true:
            raise ValueError(f"{name} needs labels ({len(hidden)}, {self.n_true}), got {tuple(labels.shape)}")
        if labels.device.type == "cpu" and bool(((labels < 0) | (labels >= self.n_classes)).any()):
            row, column = ((labels < 0) | (labels >= self.n_classes)).nonzero()[0].tolist()
            raise IndexError(
                f"{name} needs labels from 0 to {self.n_classes - 1}, got {labels[row, column]} in row {row}"
            )
        return hidden, labels

    def _true_logits(self, hidden: Tensor, labels: Tensor) -> Tensor:
        real = sum_dtype(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            true = torch.einsum("nd,ntd->nt", hidden.to(real), F.embedding(labels, self.weight).to(real))
        return true if self.bias is None else true + self.bias[labels]

    def _by_classes(self, hidden: Tensor, of_logits: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """``of_logits`` of the logits, some classes at a time; computed again in the backward, so nothing piles up."""

        def part(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            with torch.autocast(hidden.device.type, enabled=False):
                return of_logits(F.linear(hidden, weight, bias).to(sum_dtype(hidden.dtype)))

        n = max(1, _CHUNK // max(1, len(hidden)))
        for first in range(0, len(self.weight), n):
            weight = self.weight[first : first + n]
            bias = None if self.bias is None else self.bias[first : first + n]
            if torch.is_grad_enabled():
                yield checkpoint(part, hidden, weight, bias, use_reentrant=False, preserve_rng_state=False)  # type: ignore
            else:
                yield part(hidden, weight, bias)


class SampledSoftmaxLoss(_SampledLoss):
    """Softmax over a large vocabulary: sampled while training, over all classes in ``eval()``.

    In training, :func:`torchlayer.kernels.sampled_softmax_loss` of freshly drawn classes; in ``eval()`` the exact
    softmax cross-entropy, computed a few classes at a time so that the ``(N, V)`` logits never exist. With several
    true classes each has the probability ``1 / n_true``. For predictions use the parameters:
    ``F.linear(hidden, loss.weight, loss.bias)``.

    Args:
        n_features: size ``D`` of a row of ``hidden``.
        n_classes: ``V``. The default sampler expects them sorted from frequent to rare.
        n_sampled: classes ``K`` drawn in each call, shared by all rows.
        n_true: labels ``T`` a row.
        sampler: called as ``sampler(labels, n_sampled, n_classes)``; see :mod:`torchlayer.kernels.samplers`. A module
            becomes a part of this one.
        bias: whether classes have a bias.
        sparse: give weight and bias sparse gradients, for ``torch.optim.SparseAdam`` and its like. In ``eval()`` they
            are dense.
        remove_accidental_hits: leave out samples that are among the row's labels.
        subtract_log_q: correct the logits by the logarithms of the expected counts.
        reduction: "none", "mean" or "sum".

    Shape:
        hidden ``(N, D)``, labels ``(N,)`` or ``(N, T)`` int64; returns a scalar, or ``(N,)`` without a reduction.

    Reference:
        Jean, Cho, Memisevic, Bengio 2015, arXiv:1412.2007.

    >>> loss = SampledSoftmaxLoss(n_features=16, n_classes=10000, n_sampled=64)
    >>> hidden, labels = torch.randn(8, 16), torch.randint(10000, (8,))
    >>> loss(hidden, labels).backward()
    >>> with torch.no_grad():
    ...     perplexity = loss.eval()(hidden, labels).exp()
    """

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            return sampled_softmax_loss(
                self.weight,
                self.bias,
                hidden,
                labels,
                self._sample(labels),
                remove_accidental_hits=self.remove_accidental_hits,
                subtract_log_q=self.subtract_log_q,
                sparse=self.sparse,
                reduction=self.reduction,
            )
        hidden, labels = self._check_measured(hidden, labels)
        log_sum = hidden.new_full((len(hidden),), -torch.inf, dtype=sum_dtype(hidden.dtype))
        for part in self._by_classes(hidden, lambda logits: logits.logsumexp(1)):
            log_sum = torch.logaddexp(log_sum, part)
        return REDUCTIONS[self.reduction](log_sum - self._true_logits(hidden, labels).mean(1))


class NCELoss(_SampledLoss):
    """Noise-contrastive estimation over a large vocabulary: sampled while training, over all classes in ``eval()``.

    In training, :func:`torchlayer.kernels.nce_loss` of freshly drawn classes; in ``eval()`` the sum of the logistic
    losses of all classes, as TensorFlow recommends, computed a few classes at a time so that the ``(N, V)`` logits
    never exist. The target of a true class is ``1 / n_true``.

    Args:
        n_features: size ``D`` of a row of ``hidden``.
        n_classes: ``V``. The default sampler expects them sorted from frequent to rare.
        n_sampled: classes ``K`` drawn in each call, shared by all rows.
        n_true: labels ``T`` a row.
        sampler: called as ``sampler(labels, n_sampled, n_classes)``; see :mod:`torchlayer.kernels.samplers`. A module
            becomes a part of this one.
        bias: whether classes have a bias.
        sparse: give weight and bias sparse gradients, for ``torch.optim.SparseAdam`` and its like. In ``eval()`` they
            are dense.
        remove_accidental_hits: leave out samples that are among the row's labels.
        subtract_log_q: correct the logits by the logarithms of the expected counts; False is word2vec's negative
            sampling.
        reduction: "none", "mean" or "sum".

    Shape:
        hidden ``(N, D)``, labels ``(N,)`` or ``(N, T)`` int64; returns a scalar, or ``(N,)`` without a reduction.

    Reference:
        Gutmann, Hyvärinen 2010, proceedings.mlr.press/v9/gutmann10a; Mnih, Teh 2012, arXiv:1206.6426.

    >>> loss = NCELoss(n_features=16, n_classes=10000, n_sampled=64)
    >>> loss(torch.randn(8, 16), torch.randint(10000, (8,))).backward()
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        n_sampled: int,
        n_true: int = 1,
        sampler: Sampler = log_uniform_sampler,
        bias: bool = True,
        sparse: bool = False,
        remove_accidental_hits: bool = False,
        **kwargs: Any,
    ):
        super().__init__(
            n_features, n_classes, n_sampled, n_true, sampler, bias, sparse, remove_accidental_hits, **kwargs
        )

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            return nce_loss(
                self.weight,
                self.bias,
                hidden,
                labels,
                self._sample(labels),
                remove_accidental_hits=self.remove_accidental_hits,
                subtract_log_q=self.subtract_log_q,
                sparse=self.sparse,
                reduction=self.reduction,
            )
        hidden, labels = self._check_measured(hidden, labels)
        losses = hidden.new_zeros((len(hidden),), dtype=sum_dtype(hidden.dtype))
        for part in self._by_classes(hidden, lambda logits: F.softplus(logits).sum(1)):
            losses = losses + part
        return REDUCTIONS[self.reduction](losses - self._true_logits(hidden, labels).mean(1))


class LinearCrossEntropyLoss(nn.Module):
    """Softmax over all classes, as exact as ``F.cross_entropy``, that never holds the ``(N, V)`` logits.

    :func:`torchlayer.kernels.linear_cross_entropy` with a weight and a bias of its own. To share an embedding's
    weight, assign it: ``loss.weight = net.embedding.embeddings``. For predictions use the parameters:
    ``F.linear(hidden, loss.weight, loss.bias)``.

    Args:
        n_features: size ``D`` of a row of ``hidden``.
        n_classes: ``V``.
        bias: whether classes have a bias.
        reduction: "none", "mean" or "sum".
        ignore_index: targets of this value count for nothing.
        chunk_size: rows of ``hidden`` at a time; by default as many as make four million logits, at least 128.

    Shape:
        hidden ``(N, D)`` or ``(..., D)``, target ``(N,)`` or ``(...)`` of any integer type; returns a scalar, or the
        target's shape without a reduction. Parameters ``weight`` ``(V, D)`` and ``bias`` ``(V,)``.

    >>> loss = LinearCrossEntropyLoss(n_features=16, n_classes=10000)
    >>> loss(torch.randn(8, 16), torch.randint(10000, (8,))).backward()
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        bias: bool = True,
        reduction: str = "mean",
        ignore_index: int | None = None,
        chunk_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if n_features < 1 or n_classes < 1:
            raise ValueError(f"n_features and n_classes are at least 1, got {n_features} and {n_classes}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"LinearCrossEntropyLoss needs reduction 'none', 'mean' or 'sum', got {reduction!r}")
        self.n_features, self.n_classes = n_features, n_classes
        self.reduction, self.ignore_index, self.chunk_size = reduction, ignore_index, chunk_size
        self.weight = nn.Parameter(torch.empty(n_classes, n_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(n_classes, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of standard deviation ``1 / sqrt(n_features)``, so that logits start near one; biases of zero."""
        nn.init.normal_(self.weight, std=self.n_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden, self.weight, target, self.bias, self.reduction, self.ignore_index, self.chunk_size
        )

    def extra_repr(self) -> str:
        return f"{self.n_features}, {self.n_classes}, bias={self.bias is not None}, reduction={self.reduction!r}"
