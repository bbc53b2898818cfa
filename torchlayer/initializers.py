"""Initialisers: ways to fill a parameter, for ``W_init``, ``b_init`` and their like.

An initialiser is any function that fills a tensor in place and returns it: everything in :mod:`torch.nn.init` is one.
The functions here make initialisers from settings, ``W_init=truncated_normal(stddev=0.1)``, under TensorFlow's names.

Those that look at the shape know this library's layouts, dense ``(n_in, n_units)`` and convolution ``(out, in, h, w)``.
torch's take every matrix for ``(out, in)``: on a dense ``W`` give its ``kaiming_*`` functions ``mode="fan_out"``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Initializer",
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "normal",
    "ones",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "uniform",
    "uniform_unit_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

# The standard deviation of a standard normal cut at two: what a draw must be divided by to have the one asked for.
_TRUNCATED_STDDEV = 0.8796256610342398


class Initializer:
    """A way to fill a tensor and its settings: call it on a tensor, which it fills in place and returns.

    A call may change settings, which is how a layer's ``W_init_args`` reach it.

    Shape:
        Any; returns its argument.

    >>> init = truncated_normal(stddev=0.1)
    >>> init
    truncated_normal(mean=0.0, stddev=0.1)
    >>> init(torch.empty(2, 3), stddev=0.02).abs().max() <= 0.04
    tensor(True)
    """

    def __init__(self, factory: Callable[..., Initializer], fill: Callable[..., object], **settings: Any):
        generator = settings.get("generator")
        _refuse_tensor(factory.__name__, "generator", generator)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"{factory.__name__}: generator must be a torch.Generator, got {generator!r}")
        self.factory = factory
        self.fill = fill
        self.settings = settings

    def __call__(self, tensor: Tensor, **changes: Any) -> Tensor:
        if changes:
            return self.factory(**{**self.settings, **changes})(tensor)
        with torch.no_grad():
            self.fill(tensor, **self.settings)
        return tensor

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={_brief(value)}" for key, value in self.settings.items() if value is not None)
        return f"{self.factory.__name__}({shown})"


def truncated_normal(mean: float = 0.0, stddev: float = 1.0, generator: torch.Generator | None = None) -> Initializer:
    """Normal draws, those further than two ``stddev`` from the mean drawn again, as TensorFlow does.

    What is left has a standard deviation of 0.88 ``stddev``. (:func:`torch.nn.init.trunc_normal_` cuts at -2 and 2
    whatever ``std`` is.)
    """
    mean, stddev = _number("truncated_normal", "mean", mean), _spread("truncated_normal", stddev)
    return Initializer(truncated_normal, _fill_truncated_normal, mean=mean, stddev=stddev, generator=generator)


def random_normal(mean: float = 0.0, stddev: float = 1.0, generator: torch.Generator | None = None) -> Initializer:
    """Normal draws."""
    mean, stddev = _number("random_normal", "mean", mean), _spread("random_normal", stddev)
    return Initializer(random_normal, _fill_random_normal, mean=mean, stddev=stddev, generator=generator)


def random_uniform(minval: float = 0.0, maxval: float = 1.0, generator: torch.Generator | None = None) -> Initializer:
    """Uniform draws from ``[minval, maxval)``.

    Raises:
        ValueError: ``minval`` is greater than ``maxval``.
    """
    low, high = _number("random_uniform", "minval", minval), _number("random_uniform", "maxval", maxval)
    if low > high:
        raise ValueError(f"random_uniform: minval {low} is greater than maxval {high}; exchange them")
    return Initializer(random_uniform, _fill_random_uniform, minval=low, maxval=high, generator=generator)


normal = random_normal
uniform = random_uniform


def constant(value: float | Sequence[Any] | np.ndarray = 0.0) -> Initializer:
    """One number everywhere, or the given numbers.

    Args:
        value: a number; or an array of the parameter's shape; or a flat list of as many numbers as it has elements.

    >>> constant([1, 2, 3, 4])(torch.empty(2, 2))
    tensor([[1., 2.],
            [3., 4.]])
    """
    _refuse_tensor("constant", "value", value)
    if isinstance(value, numbers.Real):
        return Initializer(constant, _fill_constant, value=value)
    values = np.array(value)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"constant: value must be a number, a list or an array of numbers, got {value!r}")
    return Initializer(constant, _fill_constant, value=values)


@overload
def zeros(tensor: Tensor) -> Tensor: ...
@overload
def zeros(tensor: None = None) -> Callable[[Tensor], Tensor]: ...
def zeros(tensor: Tensor | None = None) -> Tensor | Callable[[Tensor], Tensor]:
    """Fill with zeros. It has no settings, so ``zeros`` is the initialiser, and ``zeros()`` is ``zeros``."""
    return zeros if tensor is None else nn.init.zeros_(tensor)


@overload
def ones(tensor: Tensor) -> Tensor: ...
@overload
def ones(tensor: None = None) -> Callable[[Tensor], Tensor]: ...
def ones(tensor: Tensor | None = None) -> Tensor | Callable[[Tensor], Tensor]:
    """Fill with ones. It has no settings, so ``ones`` is the initialiser, and ``ones()`` is ``ones``."""
    return ones if tensor is None else nn.init.ones_(tensor)


def identity(gain: float = 1.0) -> Initializer:
    """``gain`` on the diagonal of a matrix, zeros elsewhere: how a plain recurrent network learns to remember.

    Reference:
        Le, Jaitly and Hinton 2015, arXiv:1504.00941.
    """
    return Initializer(identity, _fill_identity, gain=_number("identity", "gain", gain))


def glorot_uniform(generator: torch.Generator | None = None) -> Initializer:
    """Uniform draws of variance ``2 / (fan_in + fan_out)``; also called Xavier.

    Reference:
        Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    return Initializer(glorot_uniform, _fill_glorot_uniform, generator=generator)


def glorot_normal(generator: torch.Generator | None = None) -> Initializer:
    """Normal draws, truncated at two standard deviations, of variance ``2 / (fan_in + fan_out)``; also called Xavier.

    The variance is that of the truncated draws, as in Keras; TensorFlow before 1.13 was 23 % below it.

    Reference:
        Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    return Initializer(glorot_normal, _fill_glorot_normal, generator=generator)


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal


def he_uniform(generator: torch.Generator | None = None) -> Initializer:
    """Uniform draws of variance ``2 / fan_in``, for layers followed by a ReLU; also called Kaiming.

    Reference:
        He, Zhang, Ren and Sun 2015, arXiv:1502.01852.
    """
    return Initializer(he_uniform, _fill_he_uniform, generator=generator)


def he_normal(generator: torch.Generator | None = None) -> Initializer:
    """Normal draws, truncated at two standard deviations, of variance ``2 / fan_in``; also called Kaiming.

    Reference:
        He, Zhang, Ren and Sun 2015, arXiv:1502.01852.
    """
    return Initializer(he_normal, _fill_he_normal, generator=generator)


def uniform_unit_scaling(factor: float = 1.0, generator: torch.Generator | None = None) -> Initializer:
    """Uniform draws within ``factor * sqrt(3 / fan_in)``, which keep a linear layer's variance.

    TensorFlow's default initialiser until 2017. A vector has a fan-in of 1, so its entries reach 1.73.

    Reference:
        Sussillo and Abbott 2014, Random walk initialization, arXiv:1412.6558.
    """
    factor = _number("uniform_unit_scaling", "factor", factor)
    return Initializer(uniform_unit_scaling, _fill_unit_scaling, factor=factor, generator=generator)


def _fill_truncated_normal(tensor: Tensor, mean: float, stddev: float, generator: torch.Generator | None) -> None:
    if stddev == 0:
        tensor.fill_(mean)
        return
    # The inverse of the distribution function is far too coarse in half precision.
    draws = tensor if tensor.dtype.itemsize > 2 else torch.empty_like(tensor, dtype=torch.float32)
    nn.init.trunc_normal_(draws, mean, stddev, mean - 2 * stddev, mean + 2 * stddev, generator=generator)
    if draws is not tensor:
        tensor.copy_(draws)


def _fill_random_normal(tensor: Tensor, mean: float, stddev: float, generator: torch.Generator | None) -> None:
    nn.init.normal_(tensor, mean, stddev, generator=generator)


def _fill_random_uniform(tensor: Tensor, minval: float, maxval: float, generator: torch.Generator | None) -> None:
    nn.init.uniform_(tensor, minval, maxval, generator=generator)


def _fill_constant(tensor: Tensor, value: float | np.ndarray) -> None:
    if not isinstance(value, np.ndarray):
        tensor.fill_(value)
        return
    fits = value.shape == tuple(tensor.shape) or (value.ndim == 1 and value.size == tensor.numel())
    if value.ndim and not fits:
        raise ValueError(
            f"constant holds numbers of shape {value.shape}, the parameter is {tuple(tensor.shape)}; "
            "give that shape, a flat list of as many numbers, or one number"
        )
    values = torch.tensor(value, dtype=tensor.dtype, device=tensor.device)
    tensor.copy_(values.reshape(tensor.shape) if value.ndim else values)


def _fill_identity(tensor: Tensor, gain: float) -> None:
    if tensor.dim() != 2:
        raise ValueError(
            f"identity fills a matrix, got shape {tuple(tensor.shape)}; for a kernel use torch.nn.init.dirac_"
        )
    nn.init.eye_(tensor).mul_(gain)


def _fill_glorot_uniform(tensor: Tensor, generator: torch.Generator | None) -> None:
    _fill_centred_uniform(tensor, 1 / _mean_fan(tensor), generator)


def _fill_glorot_normal(tensor: Tensor, generator: torch.Generator | None) -> None:
    _fill_centred_normal(tensor, 1 / _mean_fan(tensor), generator)


def _fill_he_uniform(tensor: Tensor, generator: torch.Generator | None) -> None:
    _fill_centred_uniform(tensor, 2 / _fans(tensor)[0], generator)


def _fill_he_normal(tensor: Tensor, generator: torch.Generator | None) -> None:
    _fill_centred_normal(tensor, 2 / _fans(tensor)[0], generator)


def _fill_unit_scaling(tensor: Tensor, factor: float, generator: torch.Generator | None) -> None:
    fan_in = _fans(tensor)[0] if tensor.dim() > 1 else 1
    _fill_centred_uniform(tensor, factor**2 / fan_in, generator)


def _fill_centred_uniform(tensor: Tensor, variance: float, generator: torch.Generator | None) -> None:
    limit = math.sqrt(3 * variance)
    _fill_random_uniform(tensor, -limit, limit, generator)


def _fill_centred_normal(tensor: Tensor, variance: float, generator: torch.Generator | None) -> None:
    _fill_truncated_normal(tensor, 0.0, math.sqrt(variance) / _TRUNCATED_STDDEV, generator)


def _fans(tensor: Tensor) -> tuple[int, int]:
    """How many numbers feed one output, and how many one input feeds."""
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        fan_in = fan_out = math.prod(shape)
    elif len(shape) == 2:
        fan_in, fan_out = shape  # a dense (n_in, n_units)
    else:
        n_out, n_in, *window = shape  # a convolution (out, in, h, w)
        fan_in, fan_out = n_in * math.prod(window), n_out * math.prod(window)
    return max(fan_in, 1), max(fan_out, 1)


def _mean_fan(tensor: Tensor) -> float:
    return sum(_fans(tensor)) / 2


def _refuse_tensor(owner: str, key: str, value: object) -> None:
    """Catch ``W_init=truncated_normal``, which would leave the parameter as it was."""
    if isinstance(value, Tensor):
        raise TypeError(
            f"{owner} makes an initialiser and was given a tensor as its {key}; call it first, W_init={owner}(), or "
            f"{owner}()(tensor)"
        )


def _number(owner: str, key: str, value: float) -> float:
    _refuse_tensor(owner, key, value)
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise TypeError(f"{owner}: {key} must be a finite number, got {value!r}")
    return float(value)


def _spread(owner: str, stddev: float) -> float:
    stddev = _number(owner, "stddev", stddev)
    if stddev < 0:
        raise ValueError(f"{owner}: stddev must not be negative, got {stddev}")
    return stddev


def _brief(value: object) -> str:
    return f"<{value.shape} array>" if isinstance(value, np.ndarray) and value.size > 8 else str(value)
