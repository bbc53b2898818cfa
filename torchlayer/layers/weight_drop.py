"""DropConnect on what a recurrent network remembers by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Activation
from .cells import BasicLSTMCell


class WeightDropLSTMCell(BasicLSTMCell):
    """A long short-term memory whose recurrent weights are dropped while training, the same ones at all steps.

    ::

        i, f, g, o = W x + (U * mask / keep) h + b    # mask: one for a call, all steps and sequences of it

    So the state is regularised without being disturbed, and the recurrence stays one call of cuDNN.

    Args:
        keep: the probability of **keeping** a weight of ``U``.
        forget_bias, state_is_tuple, activation: as for :class:`BasicLSTMCell`, whose parameters it has.

    Reference:
        Merity, Keskar, Socher 2018, Regularizing and optimizing LSTM language models, https://arxiv.org/abs/1708.02182;
        Wan et al. 2013, https://proceedings.mlr.press/v28/wan13.html. As there, what is kept is divided by ``keep``.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, 7, 3))
    >>> net = tl.layers.RNNLayer(net, cell_fn=tl.layers.WeightDropLSTMCell, cell_init_args={"keep": 0.5}, n_hidden=4)
    >>> net.outputs.shape
    (None, 7, 4)
    """

    lends_weights: ClassVar[bool] = True

    def __init__(
        self,
        num_units: int,
        keep: float = 0.5,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Activation = torch.tanh,
    ):
        super().__init__(num_units, forget_bias, state_is_tuple, activation)
        if not 0 < keep <= 1:
            raise ValueError(f"keep is the probability of keeping a weight, in (0, 1], got {keep}")
        self.keep = keep

    def weights(self) -> list[Tensor]:
        return [self.weight_ih, self._kept(), self.bias_ih, self.bias_hh]  # type: ignore[list-item]

    def advance(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
        return self.advancing()(x, state)

    def advancing(self) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
        kept = self._kept()
        return lambda x, state: self.advance_with(x, state, lambda _, added, h: torch.addmm(added, h, kept.T))

    def _kept(self) -> Tensor:
        return F.dropout(self.weight_hh, 1 - self.keep, self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, keep={self.keep}"
