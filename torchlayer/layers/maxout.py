"""Units that learn their own activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..initializers import constant, truncated_normal
from ..network import Shape
from .base import Layer, fill, has_bias, refuse_integers


class MaxoutLayer(Layer):
    """Each output is the largest of ``n_pieces`` linear functions of the input, all of them learned.

    Args:
        n_units: the number of outputs.
        n_pieces: how many functions each output chooses from.
        W_init, b_init: an in-place initialiser, or the values; ``b_init=None`` leaves the bias out.
        W_init_args, b_init_args: keyword arguments for the initialisers.

    Shape:
        ``(N, n_in) -> (N, n_units)``; parameters ``W`` ``(n_in, n_pieces * n_units)``, the first piece of every unit,
        then the second of every unit and so on, and ``b`` ``(n_pieces * n_units,)``.

    Raises:
        ValueError: the input is not 2-D, or not of the width the layer was sized for.
        TypeError: the input holds integers.

    Reference:
        Goodfellow et al. 2013, arXiv:1302.4389.

    >>> import torch, torchlayer as tl
    >>> layer = MaxoutLayer(n_units=1, W_init=torch.tensor([[1.0, -1.0]]))  # the absolute value
    >>> layer(torch.tensor([[-3.0], [2.0]])).tolist()
    [[3.0], [2.0]]
    """

    def __init__(
        self,
        layer: None = None,
        n_units: int = 100,
        n_pieces: int = 2,
        W_init: Any = truncated_normal(stddev=0.1),
        b_init: Any = constant(0.0),
        W_init_args: Mapping[str, Any] | None = None,
        b_init_args: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if isinstance(n_pieces, str):  # the original's third argument
            raise TypeError(f"n_pieces is a number, got {n_pieces!r}; a name is given as name={n_pieces!r}")
        if n_units < 1 or n_pieces < 1:
            raise ValueError(f"n_units and n_pieces are at least 1, got {n_units} and {n_pieces}")
        self.n_units, self.n_pieces = n_units, n_pieces
        self.W = nn.UninitializedParameter()
        self.b = nn.UninitializedParameter() if has_bias(b_init) else None
        self._recipes: Any = (W_init, W_init_args, b_init, b_init_args)

    def build(self, *shapes: Shape) -> None:
        n_in, n_out = _width(shapes[0]), self.n_pieces * self.n_units
        W_init, W_init_args, b_init, b_init_args = self._recipes
        fill(self.W, (n_in, n_out), W_init, W_init_args)
        if self.b is not None:
            fill(self.b, (n_out,), b_init, b_init_args)
        self._recipes = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.W.shape[0]:
            _width(tuple(x.shape), self.W.shape[0])
        refuse_integers(x, "a maxout layer")
        y = x @ self.W if self.b is None else torch.addmm(self.b, x, self.W)
        # pieces before units: a maximum over the last axis would read with strides
        return y.unflatten(1, (self.n_pieces, self.n_units)).amax(1)

    def extra_repr(self) -> str:
        return f"n_units={self.n_units}, n_pieces={self.n_pieces}"


def _width(shape: Shape, expected: int | None = None) -> int:
    if len(shape) != 2:
        raise ValueError(f"a maxout layer needs a 2-D input (N, n_in), got {shape}; stack a FlattenLayer first")
    if shape[1] is None:
        raise ValueError(
            f"a maxout layer needs to know the width of its input, got {shape}; give InputLayer that length"
        )
    if shape[1] == 0:
        raise ValueError(f"a maxout layer needs inputs of width 1 or more, got {shape}")
    if expected is not None and shape[1] != expected:
        raise ValueError(f"this maxout layer was sized for inputs of width {expected}, got {shape}")
    return shape[1]
