"""Normalisation over channels-last tensors: of a batch, of an example, of a group of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..activation import identity
from ..initializers import constant, random_normal, truncated_normal
from ..network import Shape
from .base import Activation, Layer, exporting, fill, refuse_integers, shown
from .padding import FIRST, LAST


class BatchNormLayer(Layer):
    """Give every channel mean ``beta`` and deviation ``gamma``: over the batch in training, from memory in ``eval()``.

    In training ``act((x - m) / sqrt(v + epsilon) * gamma + beta)`` with the mean ``m`` and the variance ``v`` (divided
    by the number of values ``n``, not ``n - 1``) over all axes but the last, and both are remembered::

        moving_mean     = decay * moving_mean     + (1 - decay) * m
        moving_variance = decay * moving_variance + (1 - decay) * v

    torch's own batch norm remembers the variance divided by ``n - 1``. In ``eval()`` the moving ones stand for ``m``
    and ``v`` and stay as they are.

    Args:
        decay: the share of the old in the moving statistics (torch's ``momentum`` is ``1 - decay``).
        epsilon: added to the variance.
        act: applied to the result; ``None`` is the identity.
        is_train: ``None`` follows ``train()`` and ``eval()``; ``True`` or ``False`` holds the layer in that mode. (The
            original knew no modes, and its default was ``False``.)
        beta_init, gamma_init: an in-place initialiser, or the values; ``None`` leaves that parameter out.
        moving_mean_init: where the moving mean begins; the moving variance begins at 1.

    Shape:
        ``(N, C)``, ``(N, T, C)``, ``(N, H, W, C)`` or ``(N, D, H, W, C) ->`` the same; parameters ``beta`` and
        ``gamma``, buffers ``moving_mean`` and ``moving_variance``, each ``(C,)``.

    Raises:
        ValueError: the input has another rank or number of channels, or in training no values at all.

    Reference:
        Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> import torch, torchlayer as tl
    >>> norm = tl.layers.BatchNormLayer(gamma_init=2.0)
    >>> norm(torch.tensor([[1.0], [3.0]])).tolist()
    [[-1.9999899864196777], [1.9999899864196777]]
    >>> norm.moving_mean, norm.moving_variance
    (tensor([0.2000]), tensor([1.]))
    """

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(
        self,
        layer: None = None,
        decay: float = 0.9,
        epsilon: float = 0.00001,
        act: Activation | None = identity,
        is_train: bool | None = None,
        beta_init: Any = constant(0.0),
        gamma_init: Any = random_normal(mean=1.0, stddev=0.002),
        name: str | None = None,
        *,
        moving_mean_init: Any = constant(0.0),
    ):
        super().__init__(name=name)
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is the share of the old in the moving statistics, in [0, 1], got {decay}")
        if is_train is not None and not isinstance(is_train, bool):
            raise TypeError(
                f"is_train is True, False, or None to follow train() and eval(), got {is_train!r} "
                f"(the arguments are decay, epsilon, act, is_train, ...)"
            )
        self.decay, self.epsilon, self.is_train = decay, _positive(epsilon), is_train
        self.act = act or identity
        self.beta = None if beta_init is None else UninitializedParameter()
        self.gamma = None if gamma_init is None else UninitializedParameter()
        self.register_buffer("moving_mean", UninitializedBuffer())
        self.register_buffer("moving_variance", UninitializedBuffer())
        self._recipes: Any = (beta_init, gamma_init, moving_mean_init)

    def build(self, *shapes: Shape) -> None:
        n_channels = _channels(shapes[0], (2, 5), "batch normalisation")
        beta_init, gamma_init, moving_mean_init = self._recipes
        if self.beta is not None:
            fill(self.beta, (n_channels,), beta_init)
        if self.gamma is not None:
            fill(self.gamma, (n_channels,), gamma_init)
        for key, init in (("moving_mean", moving_mean_init), ("moving_variance", 1.0)):
            if isinstance(buffer := self._buffers[key], UninitializedBuffer):
                buffer.materialize((n_channels,))
            fill(getattr(self, key), (n_channels,), init)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, rank = self.moving_mean, self.moving_variance, x.dim()
        if not 2 <= rank <= 5 or x.shape[-1] != mean.shape[0] or not x.is_floating_point():
            _channels(tuple(x.shape), (2, 5), "batch normalisation", mean.shape[0])
            refuse_integers(x, "batch normalisation")
        training = self.training if self.is_train is None else self.is_train
        n = x.numel() // x.shape[-1] if training else 0
        # Seen channels first this is channels_last memory, which the kernels read and write where it lies; three axes
        # have no such memory and get a fourth.
        if rank == 2:
            y = x
        else:
            y = x.unsqueeze(0).permute(FIRST[2]) if rank == 3 else x.permute(FIRST[rank - 2])
        if training and n < 2:
            y = self._over_one(y, n)
        else:
            # torch remembers n / (n - 1) times the variance, so it is given a memory in that measure. A memory of its
            # own: torch keeps it for the backward pass, which would refuse one that was edited since.
            memory = variance * (n / (n - 1)) if training else variance
            how = (training, 1 - self.decay, self.epsilon, torch.backends.cudnn.enabled)
            y = torch.batch_norm(y, self.gamma, self.beta, mean, memory, *how)
            if training:
                torch.mul(memory, (n - 1) / n, out=variance)
        if rank == 3:
            y = y.permute(LAST[2]).squeeze(0)
        elif rank > 3:
            y = y.permute(LAST[rank - 2])
        return self.act(y)

    def _over_one(self, x: Tensor, n: int) -> Tensor:
        """One value a channel is its own mean with variance 0; torch, dividing by ``n - 1``, refuses it."""
        if n == 0:
            raise ValueError(
                f"batch normalisation in training needs values, got none in {tuple(x.shape)} (channels second); "
                "skip empty batches or call eval() first"
            )
        with torch.no_grad():
            self.moving_mean.lerp_(x.reshape(-1).to(self.moving_mean.dtype), 1 - self.decay)
            self.moving_variance.mul_(self.decay)
        zero, one = torch.zeros_like(self.moving_mean), torch.ones_like(self.moving_mean)
        return F.batch_norm(x - x, zero, one, self.gamma, self.beta, False, 0.0, self.epsilon)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key, buffer in self._buffers.items():
            if isinstance(buffer, UninitializedBuffer) and prefix + key in state_dict:
                buffer.materialize(state_dict[prefix + key].shape)
                self._sized_by_loading = True
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        mode = "" if self.is_train is None else f", is_train={self.is_train}"
        return f"decay={self.decay}, epsilon={self.epsilon}, act={shown(self.act)}{mode}"


class InstanceNormLayer(Layer):
    """Normalise every channel of every example by itself: ``act((x - m) / sqrt(v + epsilon) * scale + offset)``.

    Args:
        act: applied to the result; ``None`` is the identity.
        epsilon: added to the variance.

    Shape:
        ``(N, T, C)``, ``(N, H, W, C)`` or ``(N, D, H, W, C) ->`` the same; parameters ``scale`` and ``offset``,
        ``(C,)``.

    Reference:
        Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022.
    """

    def __init__(
        self,
        layer: None = None,
        act: Activation | None = None,
        epsilon: float = 1e-5,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.act = act or identity
        self.epsilon = _positive(epsilon)
        self.scale = UninitializedParameter()
        self.offset = UninitializedParameter()

    def build(self, *shapes: Shape) -> None:
        n_channels = _channels(shapes[0], (3, 5), "instance normalisation")
        fill(self.scale, (n_channels,), truncated_normal(mean=1.0, stddev=0.02))
        fill(self.offset, (n_channels,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if not 3 <= x.dim() <= 5 or x.shape[-1] != self.scale.shape[0] or not x.is_floating_point():
            _channels(tuple(x.shape), (3, 5), "instance normalisation", self.scale.shape[0])
            refuse_integers(x, "instance normalisation")
        if x.dtype == self.scale.dtype in (torch.float32, torch.float64) and not exporting():
            return self.act(self._side_by_side(x))
        # F.instance_norm is this but for refusing one value a channel, which is its own mean: the result is the offset
        y = torch.instance_norm(
            x.movedim(-1, 1), self.scale, self.offset, None, None, True, 0.0, self.epsilon, torch.backends.cudnn.enabled
        )
        return self.act(y.movedim(1, -1).contiguous())  # the kernel wrote channels first, whatever it read

    def _side_by_side(self, x: Tensor) -> Tensor:
        """Batch norm of an image whose channels are all channels of all examples.

        torch's instance norm turns the data channels first and back, twice; here a copy each way lays examples side by
        side. On a CPU batch norm sums up plainly, so the means are taken off beforehand: the result does not depend on
        them. On CUDA it merges means and variances (Welford's way), and that is not needed.
        """
        n, n_channels, sizes = x.shape[0], x.shape[-1], x.shape[1:-1]
        rows = x.movedim(0, -2).reshape(math.prod(sizes), n * n_channels)
        if not x.is_cuda:
            rows = rows - rows.detach().mean(0)
        scale, offset = self.scale.repeat(n), self.offset.repeat(n)
        y = torch.batch_norm(rows, scale, offset, None, None, True, 0.0, self.epsilon, False)
        return y.view(*sizes, n, n_channels).movedim(-2, 0).contiguous()

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}, act={shown(self.act)}"


class GroupNormLayer(Layer):
    """Normalise each example over groups of neighbouring channels: ``act((x - m) / sqrt(v + epsilon) * gamma + beta)``.

    Args:
        groups: how many; divides the number of channels.
        epsilon: added to the variance.
        act: applied to the result; ``None`` is the identity.

    Shape:
        ``(N, T, C)``, ``(N, H, W, C)`` or ``(N, D, H, W, C) ->`` the same; parameters ``gamma`` and ``beta``, ``(C,)``.

    Raises:
        ValueError: ``groups`` does not divide the number of channels, or the input has another rank.

    Reference:
        Wu and He 2018, arXiv:1803.08494.
    """

    def __init__(
        self,
        layer: None = None,
        groups: int = 32,
        epsilon: float = 1e-6,
        act: Activation | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups is how many groups of channels there are, 1 or more, got {groups!r}")
        self.groups, self.epsilon = groups, _positive(epsilon)
        self.act = act or identity
        self.gamma = UninitializedParameter()
        self.beta = UninitializedParameter()

    def build(self, *shapes: Shape) -> None:
        n_channels = _channels(shapes[0], (3, 5), "group normalisation")
        if n_channels % self.groups:
            raise ValueError(
                f"{n_channels} channels do not fall into {self.groups} equal groups; choose groups= among the divisors "
                f"of {n_channels}"
            )
        fill(self.gamma, (n_channels,), 1.0)
        fill(self.beta, (n_channels,), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        if not 3 <= x.dim() <= 5 or x.shape[-1] != self.gamma.shape[0] or not x.is_floating_point():
            _channels(tuple(x.shape), (3, 5), "group normalisation", self.gamma.shape[0])
            refuse_integers(x, "group normalisation")
        wide = x.unsqueeze(1) if x.dim() == 3 else x  # (N, 1, T, C): three axes have no channels_last memory
        # F.group_norm is this but for refusing one value a group, which is its own mean: the result is beta
        y = torch.group_norm(wide.movedim(-1, 1), self.groups, self.gamma, self.beta, self.epsilon)
        y = y.movedim(1, -1)
        return self.act(y.squeeze(1) if x.dim() == 3 else y)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, epsilon={self.epsilon}, act={shown(self.act)}"


class LayerNormLayer(Layer):
    """Normalise each example by itself: ``act((x - m) / sqrt(v + epsilon) * gamma + beta)``.

    ``m`` and ``v`` are over the axes from ``begin_norm_axis`` on, all but the batch unless told otherwise; ``gamma``
    and ``beta`` have the shape from ``begin_params_axis`` on, the channels unless told otherwise. (A transformer's
    layer norm, over the last axis alone, is ``begin_norm_axis=-1``.)

    Args:
        center, scale: whether there is a ``beta``, a ``gamma``.
        act: applied to the result; ``None`` is the identity.
        begin_norm_axis, begin_params_axis: the first of the axes; negative ones count from the end.
        epsilon: added to the variance; TensorFlow's 1e-12.

    Shape:
        ``(N, ..., C) ->`` the same.

    Raises:
        ValueError: the input has no such axis, or a length that ``gamma`` and ``beta`` need is not known.

    Reference:
        Ba, Kiros and Hinton 2016, arXiv:1607.06450.
    """

    def __init__(
        self,
        layer: None = None,
        center: bool = True,
        scale: bool = True,
        act: Activation | None = None,
        begin_norm_axis: int = 1,
        begin_params_axis: int = -1,
        name: str | None = None,
        *,
        epsilon: float = 1e-12,
    ):
        super().__init__(name=name)
        self.act = act or identity
        self.begin_norm_axis, self.begin_params_axis = begin_norm_axis, begin_params_axis
        self.epsilon = _positive(epsilon)
        self.beta = UninitializedParameter() if center else None
        self.gamma = UninitializedParameter() if scale else None

    def build(self, *shapes: Shape) -> None:
        (shape,) = shapes
        _axis(self.begin_norm_axis, shape, "begin_norm_axis")
        own = shape[_axis(self.begin_params_axis, shape, "begin_params_axis") :]
        if any(not n for n in own):
            raise ValueError(
                f"layer normalisation needs to know the axes from begin_params_axis={self.begin_params_axis} on, and "
                f"none of them empty, got {shape}; give InputLayer those lengths"
            )
        sizes = tuple(n for n in own if n is not None)
        if self.beta is not None:
            fill(self.beta, sizes, 0.0)
        if self.gamma is not None:
            fill(self.gamma, sizes, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        shape = tuple(x.shape)
        refuse_integers(x, "layer normalisation")
        over = shape[_axis(self.begin_norm_axis, shape, "begin_norm_axis") :]
        own = shape[_axis(self.begin_params_axis, shape, "begin_params_axis") :]
        for parameter in (self.gamma, self.beta):
            if parameter is not None and tuple(parameter.shape) != own:
                raise ValueError(
                    f"this layer normalises inputs whose last axes are {tuple(parameter.shape)}, got {shape}; make "
                    "another layer for another shape"
                )
        if len(own) > len(over):
            y = F.layer_norm(x, over, None, None, self.epsilon)
            y = y if self.gamma is None else y * self.gamma
            return self.act(y if self.beta is None else y + self.beta)
        # Weights as large as what is normalised let one kernel do it all; they are a batch's fraction of the data.
        gamma, beta = (p if p is None or own == over else p.expand(over) for p in (self.gamma, self.beta))
        return self.act(F.layer_norm(x, over, gamma, beta, self.epsilon))

    def extra_repr(self) -> str:
        axes = f"begin_norm_axis={self.begin_norm_axis}, begin_params_axis={self.begin_params_axis}"
        return f"{axes}, epsilon={self.epsilon}, act={shown(self.act)}"


def _channels(shape: Shape, ranks: tuple[int, int], what: str, expected: int | None = None) -> int:
    """The number of channels, or what is wrong with the shape."""
    low, high = ranks
    if not low <= len(shape) <= high:
        raise ValueError(
            f"{what} needs an input of {low} to {high} axes, the batch first and the channels last, got {shape}; "
            "stack a ReshapeLayer first"
        )
    n_channels = shape[-1]
    if not n_channels:
        raise ValueError(
            f"{what} needs a known number of channels, at least one, got {shape}; give InputLayer that length"
        )
    if expected is not None and n_channels != expected:
        raise ValueError(f"this layer normalises {expected} channels, got an input of shape {shape} with {n_channels}")
    return n_channels


def _axis(axis: int, shape: Sequence[int | None], what: str) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{what}={axis} is no axis of an input of shape {tuple(shape)}")
    return axis % len(shape)


def _positive(epsilon: float) -> float:
    if not epsilon > 0:
        raise ValueError(f"epsilon keeps the division from zero and is positive, got {epsilon}")
    return epsilon
