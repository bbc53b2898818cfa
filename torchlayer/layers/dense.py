"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activation import identity
from ..initializers import constant, truncated_normal
from ..network import Shape
from .base import Activation, Layer, fill, has_bias, refuse_integers, shown


class DenseLayer(Layer):
    """A fully connected layer: ``act(x @ W + b)``.

    Args:
        n_units: the number of outputs.
        act: applied to the result; ``None`` is the identity.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, n_in) -> (N, n_units)``; parameters ``W`` ``(n_in, n_units)`` and ``b`` ``(n_units,)``.

    Raises:
        ValueError: the input is not 2-D, or not of the width the layer was sized for.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 784))
    >>> net = tl.layers.DenseLayer(net, n_units=800, act=torch.relu, name="relu1")
    >>> list(net.state_dict())
    ['relu1.W', 'relu1.b']
    """

    def __init__(
        self,
        layer: None = None,
        n_units: int = 100,
        act: Activation | None = identity,
        W_init: Any = truncated_normal(stddev=0.1),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if n_units < 1:
            raise ValueError(f"n_units is the number of outputs and at least 1, got {n_units}")
        self.n_units = n_units
        self.act = act or identity
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(b_init) else None
        self._recipes: Any = (W_init, W_init_args, b_init, b_init_args)

    def build(self, *shapes: Shape) -> None:
        n_in = _width(shapes[0])
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill(self.W, (n_in, self.n_units), W_init, W_init_args)
        if self.b is not None:
            fill(self.b, (self.n_units,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.affine(x, self.W))

    def affine(self, x: Tensor, W: Tensor) -> Tensor:
        """``x @ W + b`` with this layer's bias."""
        if x.dim() != 2 or x.shape[1] != W.shape[0]:
            _width(tuple(x.shape), W.shape[0])
        refuse_integers(x, "a dense layer")
        return x @ W if self.b is None else torch.addmm(self.b, x, W)

    def extra_repr(self) -> str:
        return f"n_units={self.n_units}, act={shown(self.act)}"


class DropconnectDenseLayer(DenseLayer):
    """A fully connected layer that drops weights instead of activations while training.

    One mask a batch; kept weights are divided by ``keep``; the bias is never dropped.

    Args:
        keep: the probability of keeping a weight.

    Shape:
        ``(N, n_in) -> (N, n_units)``, as :class:`DenseLayer`.

    Reference:
        Wan et al. 2013, "Regularization of Neural Networks using DropConnect",
        https://proceedings.mlr.press/v28/wan13.html. The paper draws a mask for each example and samples at
        inference; here, as in TensorLayer, the batch shares one mask and inference uses the weights themselves.
    """

    def __init__(
        self,
        layer: None = None,
        keep: float = 0.5,
        n_units: int = 100,
        act: Activation | None = identity,
        W_init: Any = truncated_normal(stddev=0.1),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(None, n_units, act, W_init, b_init, W_init_args, b_init_args, name)
        if not 0 < keep <= 1:
            raise ValueError(f"keep is the probability of keeping a weight, in (0, 1], got {keep}")
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.affine(x, F.dropout(self.W, 1 - self.keep, self.training)))

    def extra_repr(self) -> str:
        return f"keep={self.keep}, {super().extra_repr()}"


def _width(shape: Shape, expected: int | None = None) -> int:
    if len(shape) != 2:
        raise ValueError(f"a dense layer needs a 2-D input, got {shape}; stack a FlattenLayer first")
    if shape[1] is None:
        raise ValueError(
            f"a dense layer needs to know the width of its input, got {shape}; give InputLayer that length"
        )
    if expected is not None and shape[1] != expected:
        raise ValueError(f"this dense layer was sized for inputs of width {expected}, got {shape}")
    return shape[1]
