"""Penalties on weights: each function here returns one, ``penalty(weights) -> scalar``, to be added to a loss.

A dense ``W`` is ``(n_in, n_units)``: rows belong to inputs, columns to outputs. A convolution kernel is
``(out, in, h, w)``, so there ``in_axis=1`` and ``out_axis=0``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = [
    "l1_regularizer",
    "l2_regularizer",
    "li_regularizer",
    "lo_regularizer",
    "maxnorm_i_regularizer",
    "maxnorm_o_regularizer",
    "maxnorm_regularizer",
    "sum_regularizer",
]

Penalty = Callable[..., Tensor]  # (weights, name=None) -> scalar


def li_regularizer(scale: float | Tensor, scope: str | None = None, *, in_axis: int = 0) -> Penalty:
    """Group lasso over inputs: ``scale * sum_r ||W[r, :]||``, which switches whole inputs off.

    The gradient of an all-zero row is zero (TensorFlow gives NaN).

    Shape:
        The returned function takes a matrix or kernel of rank 2 or more and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer, negative, or 1.0 and more (a tensor is not checked).

    >>> li_regularizer(0.1)(torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 2.0]]))
    tensor(0.7236)
    """
    _check_scale("li_regularizer", scale, below=1.0)
    return _penalty("li_regularizer", scale, lambda w: torch.linalg.vector_norm(w, dim=_all_but(in_axis, w)).sum())


def lo_regularizer(scale: float | Tensor, scope: str | None = None, *, out_axis: int = 1) -> Penalty:
    """Group lasso over outputs: ``scale * sum_c ||W[:, c]||``, which switches whole units off.

    The gradient of an all-zero column is zero (TensorFlow gives NaN).

    Shape:
        The returned function takes a matrix or kernel of rank 2 or more and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer, negative, or 1.0 and more (a tensor is not checked).
    """
    _check_scale("lo_regularizer", scale, below=1.0)
    return _penalty("lo_regularizer", scale, lambda w: torch.linalg.vector_norm(w, dim=_all_but(out_axis, w)).sum())


def maxnorm_regularizer(scale: float | Tensor = 1.0, scope: str | None = None) -> Penalty:
    """``scale * max |W|``, one number for the whole tensor.

    A penalty on the largest weight, not the max-norm *constraint* of the dropout papers. For that one, project after
    each optimiser step: ``with torch.no_grad(): W.copy_(W.renorm(2, 1, 3.0))`` keeps every unit's norm below 3.

    Shape:
        The returned function takes a tensor of any shape and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer or negative (a tensor is not checked).
    """
    _check_scale("maxnorm_regularizer", scale)
    return _penalty("maxnorm_regularizer", scale, lambda w: w.abs().max())


def maxnorm_o_regularizer(scale: float | Tensor, scope: str | None = None, *, out_axis: int = 1) -> Penalty:
    """``scale * sum_c max_r |W[r, c]|``: each unit pays for its largest incoming weight.

    Shape:
        The returned function takes a matrix or kernel of rank 2 or more and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer or negative (a tensor is not checked).
    """
    _check_scale("maxnorm_o_regularizer", scale)
    return _penalty("maxnorm_o_regularizer", scale, lambda w: w.abs().amax(_all_but(out_axis, w)).sum())


def maxnorm_i_regularizer(scale: float | Tensor, scope: str | None = None, *, in_axis: int = 0) -> Penalty:
    """``scale * sum_r max_c |W[r, c]|``: each input pays for its largest outgoing weight.

    Shape:
        The returned function takes a matrix or kernel of rank 2 or more and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer or negative (a tensor is not checked).
    """
    _check_scale("maxnorm_i_regularizer", scale)
    return _penalty("maxnorm_i_regularizer", scale, lambda w: w.abs().amax(_all_but(in_axis, w)).sum())


def l1_regularizer(scale: float | Tensor, scope: str | None = None) -> Penalty:
    """``scale * sum |W|``.

    Shape:
        The returned function takes a tensor of any shape and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer or negative (a tensor is not checked).
    """
    _check_scale("l1_regularizer", scale)
    return _penalty("l1_regularizer", scale, lambda w: w.abs().sum())


def l2_regularizer(scale: float | Tensor, scope: str | None = None) -> Penalty:
    """``scale * sum W^2 / 2``, TensorFlow's half included: its gradient is ``scale * W``.

    Shape:
        The returned function takes a tensor of any shape and returns a scalar.
    Raises:
        ValueError: ``scale`` is an integer or negative (a tensor is not checked).

    >>> l2_regularizer(0.5)(torch.tensor([3.0, 4.0]))
    tensor(6.2500)
    """
    _check_scale("l2_regularizer", scale)
    return _penalty("l2_regularizer", scale, lambda w: w.square().sum() / 2)


def sum_regularizer(regularizer_list: Iterable[Penalty | None], scope: str | None = None) -> Penalty:
    """The sum of several penalties; ``None`` entries are left out, an empty list gives zero.

    >>> sum_regularizer([l1_regularizer(0.1), l2_regularizer(0.1)])(torch.tensor([3.0, 4.0]))
    tensor(1.9500)
    """
    penalties = [penalty for penalty in regularizer_list if penalty is not None]
    if not penalties:
        return _nothing

    def sum_of_penalties(weights: Tensor, name: str | None = None) -> Tensor:
        total = penalties[0](weights)
        for penalty in penalties[1:]:
            total = total + penalty(weights)
        return total

    return sum_of_penalties


def _penalty(owner: str, scale: float | Tensor, norm: Callable[[Tensor], Tensor]) -> Penalty:
    if isinstance(scale, numbers.Real) and scale == 0:
        return _nothing

    def penalty(weights: Tensor, name: str | None = None) -> Tensor:
        if not isinstance(weights, Tensor):
            raise TypeError(
                f"{owner} penalises a tensor, got {type(weights).__name__}; pass a parameter, as in net.relu1.W"
            )
        return scale * norm(weights.to(torch.promote_types(weights.dtype, torch.float32)))

    penalty.__name__ = owner.removesuffix("_regularizer")
    return penalty


def _nothing(weights: Tensor, name: str | None = None) -> Tensor:
    return torch.zeros((), dtype=torch.promote_types(weights.dtype, torch.float32), device=weights.device)


def _all_but(axis: int, weights: Tensor) -> tuple[int, ...]:
    n_axes = weights.dim()
    if n_axes < 2 or not -n_axes <= axis < n_axes:
        raise ValueError(
            f"a penalty on groups needs weights of rank 2 or more that have axis {axis}, got {tuple(weights.shape)}; "
            "penalise a bias with l1_regularizer or l2_regularizer"
        )
    return tuple(i for i in range(n_axes) if i != axis % n_axes)


def _check_scale(owner: str, scale: float | Tensor, below: float = math.inf) -> None:
    if isinstance(scale, Tensor):
        return  # reading its value would wait for the device
    if isinstance(scale, numbers.Integral):
        raise ValueError(f"{owner}: scale cannot be an integer: {scale!r}; write {float(scale)}")
    if not isinstance(scale, numbers.Real):
        raise TypeError(f"{owner}: scale must be a float or a tensor, got {scale!r}")
    if not scale >= 0:  # a NaN fails this too
        raise ValueError(f"{owner}: scale must not be negative, got {scale}")
    if scale >= below:
        raise ValueError(f"{owner}: scale must be less than {below}, got {scale}")
