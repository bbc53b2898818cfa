"""Output layers whose table is divided among the ranks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels._sampled_loss import REDUCTIONS, sum_dtype
from ..kernels.samplers import SampledValues, log_uniform_sampler
from ..nn import Sampler, _SampledLoss
from ._divided import divided, is_divided
from ._ranks import (
    Group,
    agree,
    describe_batch,
    from_first,
    own_classes,
    ranks_of,
    rows_of,
    same_on_all,
    softmax_over,
    sum_over,
)
from .class_parallel import class_parallel_nce_loss, class_parallel_sampled_softmax_loss

# Rows that are initialised from one seed, so that a table does not depend on how many ranks hold it.
_ROWS_A_SEED = 4096


class _ClassParallelLoss(_SampledLoss):
    """The rows of :attr:`classes`; what all ranks draw alike; a state that any number of ranks can load."""

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
        group: Group = None,
    ):
        super().__init__(
            n_features, n_classes, n_sampled, n_true, sampler, bias, sparse, remove_accidental_hits, subtract_log_q,
            reduction, "meta", dtype,
        )  # fmt: skip
        _check_sampler(type(self).__name__, sampler)
        self.group = group
        self.classes = own_classes(n_classes, group)
        self.weight = nn.Parameter(torch.empty(len(self.classes), n_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(len(self.classes), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in the losses of one process, from the first rank's generator; the same for any number of ranks."""
        if self.weight.is_meta:
            return
        seed = int(from_first(torch.randint(2**62, (1,), device=self.weight.device), ranks_of(self.group)))
        generator = torch.Generator(self.weight.device)
        for first in range(0, self.n_classes, _ROWS_A_SEED):
            begin, end = max(first, self.classes.start), min(first + _ROWS_A_SEED, self.classes.stop)
            if begin < end:
                block = self.weight.new_empty(_ROWS_A_SEED, self.n_features)
                block.normal_(std=self.n_features**-0.5, generator=generator.manual_seed(seed + first))
                with torch.no_grad():
                    self.weight[begin - self.classes.start : end - self.classes.start] = block[
                        begin - first : end - first
                    ]
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, classes={self.classes.start}..{self.classes.stop - 1}"

    def _sample(self, labels: Tensor) -> SampledValues:
        """The same classes on every rank: the sampler's seed is the first rank's."""

        def draw(labels: Tensor, n_sampled: int, n_classes: int) -> SampledValues:
            seed = torch.randint(0, 2**63 - 1, (2,), device=labels.device)
            seed = from_first(seed, ranks_of(self.group))
            return self.sampler(labels, n_sampled, n_classes, seed=seed)  # type: ignore[call-arg]

        return super()._sample(labels, draw)

    def _options(self) -> dict[str, Any]:
        return {
            "n_classes": self.n_classes,
            "group": self.group,
            "remove_accidental_hits": self.remove_accidental_hits,
            "subtract_log_q": self.subtract_log_q,
            "sparse": self.sparse,
            "reduction": self.reduction,
        }

    def _measured(
        self, hidden: Tensor, labels: Tensor, begin: float, add: Callable[[Tensor, Tensor], Tensor],
        of_logits: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What ``of_logits`` makes of this rank's classes, some at a time, and its share of the mean true logit."""
        hidden, labels = self._check_measured(hidden, labels)
        ranks = ranks_of(self.group)
        agree(type(self).__name__, ranks, hidden.device, describe_batch(labels))
        hidden = same_on_all(hidden, ranks)
        found = hidden.new_full((len(hidden),), begin, dtype=sum_dtype(hidden.dtype))
        for share in self._by_classes(hidden, of_logits):
            found = add(found, share)
        return found, self._true_share(hidden, rows_of(labels, self.classes))

    def _true_share(self, hidden: Tensor, labels: Tensor) -> Tensor:
        real, here = sum_dtype(hidden.dtype), labels >= 0
        if len(self.classes):
            places = labels.clamp(min=0)
            rows = F.embedding(places, self.weight).to(real).masked_fill(~here[:, :, None], 0)
            offset = 0 if self.bias is None else self.bias[places].to(real)
        else:
            rows, offset = hidden.new_zeros((*labels.shape, self.n_features), dtype=real), 0
        with torch.autocast(hidden.device.type, enabled=False):
            true = torch.einsum("nd,ntd->nt", hidden.to(real), rows)
        return (true + offset).masked_fill(~here, 0).mean(1)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._parameters:
            if prefix + name in destination:
                destination[prefix + name] = self.whole(destination[prefix + name])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        own = dict(state_dict)
        for name in self._parameters:
            value: Any = own.get(prefix + name)
            if is_divided(value):
                value = value.to_local()
            if isinstance(value, Tensor) and value.dim() and len(value) == self.n_classes:
                value = value[self.classes.start : self.classes.stop]
            if value is not None:
                own[prefix + name] = value
        super()._load_from_state_dict(own, prefix, *args)  # type: ignore[arg-type]

    def whole(self, own: Tensor) -> Tensor:
        """A tensor with a row for each of this rank's classes as a part of that of all: a DTensor, sharded by rows.

        Without a process group it is the tensor itself.
        """
        if ranks_of(self.group).count == 1:
            return own
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import Shard

        group = torch.distributed.group.WORLD if self.group is None else self.group
        mesh = DeviceMesh.from_group(group, own.device.type)  # type: ignore[arg-type]
        return divided(own, (self.n_classes, *own.shape[1:]), mesh, [Shard(0)])


class ClassParallelSampledSoftmaxLoss(_ClassParallelLoss):
    """:class:`torchlayer.nn.SampledSoftmaxLoss` with its table divided among the ranks of a group.

    Every rank calls it with the same ``hidden`` and ``labels`` and gets the same loss, in training and in ``eval()``;
    see :func:`class_parallel_sampled_softmax_loss`. The samples are drawn from the first rank's generator. The
    parameters are this rank's rows, those of ``self.classes``: give them to the optimiser as they are, and keep them
    out of DDP and ``fully_shard``. In ``state_dict`` they are DTensors of the whole shape, which
    ``torch.distributed.checkpoint`` and :func:`save` know to store; it loads what any number of ranks have saved, and
    the whole ``(V, D)`` of the loss of one process.

    Args:
        sampler: as in the loss of one process; it has to take a ``seed``, as all of
            :mod:`torchlayer.kernels.samplers` do.
        group: a process group; by default all processes.

    >>> loss = ClassParallelSampledSoftmaxLoss(n_features=16, n_classes=10000, n_sampled=64)
    >>> loss(torch.randn(8, 16), torch.randint(10000, (8,))).backward()
    >>> loss.classes  # without a process group all are here
    range(0, 10000)
    """

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        if self.training:
            values = self._sample(labels)
            return class_parallel_sampled_softmax_loss(
                self.weight, self.bias, hidden, labels, values, **self._options()
            )
        log_sum, true = self._measured(hidden, labels, -torch.inf, torch.logaddexp, lambda z: z.logsumexp(1))
        return REDUCTIONS[self.reduction](softmax_over(log_sum, true, ranks_of(self.group)))


class ClassParallelNCELoss(_ClassParallelLoss):
    """:class:`torchlayer.nn.NCELoss` with its table divided among the ranks of a group.

    All else is as in :class:`ClassParallelSampledSoftmaxLoss`.

    >>> loss = ClassParallelNCELoss(n_features=16, n_classes=10000, n_sampled=64)
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
            values = self._sample(labels)
            return class_parallel_nce_loss(self.weight, self.bias, hidden, labels, values, **self._options())
        losses, true = self._measured(hidden, labels, 0.0, torch.add, lambda z: F.softplus(z).sum(1))
        return REDUCTIONS[self.reduction](sum_over(losses - true, ranks_of(self.group)))


def _check_sampler(name: str, sampler: Sampler) -> None:
    function = sampler.forward if isinstance(sampler, nn.Module) else sampler
    parameters = inspect.signature(function).parameters.values()
    if not any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise TypeError(
            f"{name} needs a sampler that takes seed=, two int64, so that all ranks draw the same classes; see "
            "torchlayer.kernels.samplers"
        )
