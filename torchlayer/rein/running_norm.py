"""Normalisation by the mean and variance of all that was seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RunningNorm(nn.Module):
    """``(x - mean) / sqrt(var + eps)`` with the moments of everything that :meth:`update` was shown.

    Looking and learning are two calls: ``forward`` reads the moments and changes nothing, so a captured training step
    may use it, and inference and training see the same numbers. The moments are buffers, hence part of every
    ``state_dict`` and checkpoint. Before the first update they are 0 and 1.

    Args:
        shape: of one observation; ``()`` for a value.
        clip: limit results to ``± clip``; ``None`` does not.
        eps: added to the variance: what hardly ever moved is not blown up without bound.

    Shape:
        ``(*, shape)`` of any dtype; returns the same in float32.

    Raises:
        ValueError: the last axes are not ``shape``.

    Reference:
        Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance, for merging the moments,
        https://doi.org/10.1080/00031305.1983.10483115

    >>> norm = RunningNorm((), clip=None)
    >>> norm.update(torch.tensor([1.0, 3.0]))
    >>> norm.update(torch.tensor([2.0, 2.0]))
    >>> norm.mean.item(), norm.var.item()
    (2.0, 0.5)
    >>> norm(torch.tensor([2.0]))
    tensor([0.])
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int] = (), *, clip: float | None = 5.0, eps: float = 1e-5):
        super().__init__()
        self.shape, self.clip, self.eps = tuple(shape), clip, eps
        # a float32 count stands still at 16,777,216
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        scale = (self.var + self.eps).rsqrt()
        shift, scale = (-self.mean * scale).float(), scale.float()
        if x.requires_grad:
            y = torch.addcmul(shift, x.float(), scale)
            return y if self.clip is None else y.clamp(-self.clip, self.clip)
        y = x.to(torch.float32, copy=True)  # pictures are large: one new tensor, not three
        torch.addcmul(shift, y, scale, out=y)
        return y if self.clip is None else y.clamp_(-self.clip, self.clip)

    def undo(self, y: Tensor) -> Tensor:
        """The ``x`` that gave ``y``, as far as nothing was clipped."""
        self._check(y)
        return torch.addcmul(self.mean.float(), y.float(), (self.var + self.eps).sqrt().float())

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Let ``x`` count among what was seen; where ``mask`` ``(*,)`` is False it does not."""
        self._check(x)
        rows = x.reshape(-1, *self.shape)
        if mask is None:
            n: Tensor | float = float(len(rows))
            var, mean = torch.var_mean(rows.float(), 0, correction=0)
        else:
            weights = mask.reshape(-1, *(1 for _ in self.shape)).float()
            n = weights.sum(dtype=torch.float64)
            mean = (rows * weights).sum(0) / n.clamp(min=1)
            var = ((rows - mean) ** 2 * weights).sum(0) / n.clamp(min=1)
        total = (self.count + n).clamp(min=1)
        apart = mean - self.mean
        self.var.copy_(
            torch.where(
                self.count + n > 0,
                (self.var * self.count + var * n + apart**2 * self.count * n / total) / total,
                self.var,
            )
        )
        self.mean.add_(apart * n / total)
        self.count.add_(n)

    def _check(self, x: Tensor) -> None:
        if x.shape[x.dim() - len(self.shape) :] != self.shape or x.dim() < len(self.shape):
            raise ValueError(f"this RunningNorm takes (*, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")

    def extra_repr(self) -> str:
        return f"{self.shape}, clip={self.clip}, eps={self.eps}"
