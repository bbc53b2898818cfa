"""Recurrent layers over all steps of their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..initializers import random_uniform
from ..network import Shape, map_state
from ._recurrence import CellStack, Keep, backwards, packable, run, run_fused
from .base import Initializer, Layer
from .cells import Cell

CellFn = Callable[..., Cell]


class Recurrent(Layer):
    """What the recurrent layers share: a stack of cells for each direction, run over ``(N, T, D)``.

    Called, the layer begins at ``initial_state``, or at zero, and forgets. :meth:`step` begins at the state it is given
    and returns the next one. A state is what the cell makes of it: an ``(N, H)`` tensor, or an ``LSTMState`` ``(h, c)``
    of two; several cells have a tuple of them, two directions the tuple ``(fw, bw)``.

    Parameters are the cells', under torch's own names: ``cells.0.weight_ih``, or ``fw.0.weight_ih`` and
    ``bw.0.weight_ih``.
    """

    directions: ClassVar[tuple[str, ...]] = ("cells",)

    def __init__(
        self,
        cell_fn: CellFn | None,
        cell_init_args: Mapping[str, Any] | None,
        n_hidden: int,
        initializer: Initializer,
        dropout: float | Sequence[float] | None,
        n_layer: int,
        return_last: bool | str,
        return_seq_2d: bool,
        name: str | None,
    ):
        super().__init__(name=name)
        if cell_fn is None:
            raise ValueError("a recurrent layer needs a cell_fn, such as tl.layers.BasicLSTMCell")
        if n_layer < 1:
            raise ValueError(f"n_layer is the number of cells on top of each other and at least 1, got {n_layer}")
        if return_last not in (True, False, "aligned"):
            raise ValueError(f"return_last is True, False or 'aligned', got {return_last!r}")
        self.n_hidden, self.n_layer = n_hidden, n_layer
        self.return_last, self.return_seq_2d = return_last, return_seq_2d
        self.dropout = _keep(dropout)
        self.initial_state: Any = None
        self.n_steps: int | None = None
        for direction in self.directions:
            cells = [cell_fn(n_hidden, **(cell_init_args or {})) for _ in range(n_layer)]
            if not all(isinstance(cell, Cell) for cell in cells):
                raise TypeError(
                    f"cell_fn makes cells, got {type(cells[0]).__name__}; take tl.layers.BasicLSTMCell, GRUCell, … or "
                    "subclass tl.layers.Cell"
                )
            self.add_module(direction, CellStack(cells))
        self._initializer: Any = initializer

    @property
    def stacks(self) -> list[CellStack]:
        """The cells of each direction."""
        return [self.get_submodule(direction) for direction in self.directions]  # type: ignore[misc]

    def build(self, *shapes: Shape) -> None:
        n_in = _width(shapes[0])
        for stack in self.stacks:
            stack.build(n_in, self._initializer)
        self._initializer = None  # a user's lambda would keep the layer from being pickled

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None, None, with_state=False)[0]

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run from ``state``, or from the beginning, and return ``(output, new_state)``."""
        return self._run(x, None, state, with_state=True)

    def _run(self, x: Tensor, lengths: Tensor | None, state: Any, with_state: bool) -> tuple[Tensor, Any]:
        x = _cut(x, self.n_steps)
        self.ensure_built(tuple(x.shape))
        weight = getattr(self.stacks[0][0], "weight_ih", None)  # a user's cell may have none
        if x.dim() != 3 or x.shape[1] == 0 or (weight is not None and x.shape[2] != weight.shape[1]):
            _width(tuple(x.shape), None if weight is None else weight.shape[1])
        if not x.is_floating_point():
            raise TypeError(f"a recurrent layer reads vectors, got {x.dtype}; stack an EmbeddingInputlayer under it")
        state = self._begin(state, x)
        keep = self.dropout if self.training else Keep()
        if len(self.stacks) == 1:
            y, end = run(self.stacks[0], x, state and state[0], lengths, keep, with_state)
            end = end and self._outside(end)
        else:
            y, end = self._both_ways(x, lengths, state, keep, with_state)
            end = end and tuple(map(self._outside, end))
        return self._returned(y, lengths), end

    def _both_ways(
        self, x: Tensor, lengths: Tensor | None, states: Any, keep: Keep, with_state: bool
    ) -> tuple[Tensor, Any]:
        """``(N, T, 2H)``, the backward half aligned with the input, and both final states."""
        fw, bw = self.stacks
        at_once = fw.fused and self.n_layer == 1 and not x.is_meta
        if at_once and (lengths is None or packable(lengths, with_state)):
            return run_fused([fw, bw], x, states, lengths, keep, with_state)
        begin = states or (None, None)
        forth, fw_end = run(fw, x, begin[0], lengths, keep, with_state)
        back, bw_end = run(bw, backwards(x, lengths), begin[1], lengths, keep, with_state)
        ends = None if fw_end is None else (fw_end, bw_end)
        return torch.cat([forth, backwards(back, lengths)], 2), ends

    def _returned(self, y: Tensor, lengths: Tensor | None) -> Tensor:
        if not self.return_last:
            return y.reshape(-1, y.shape[2]) if self.return_seq_2d else y  # (N * T, H)
        if lengths is None:
            last = y[:, -1]
        else:  # an empty sequence has 0 everywhere
            index = (lengths.to(y.device) - 1).clamp(0, y.shape[1] - 1)
            last = y.gather(1, index[:, None, None].expand(-1, 1, y.shape[2])).squeeze(1)
        if len(self.stacks) == 1 or self.return_last == "aligned":
            return last
        half = y.shape[2] // 2  # backwards, the last step read is the first of the sequence
        return torch.cat([last[:, :half], y[:, 0, half:]], 1)

    def _begin(self, state: Any, x: Tensor) -> Any:
        """The state to begin with, for each direction a tuple over its cells; ``None`` is zero."""
        if state is None:
            if self.initial_state is None:
                return None
            state = map_state(lambda tensor: tensor.to(x), self.initial_state)
        each = [state] if len(self.stacks) == 1 else state
        if len(each) != len(self.stacks) or (self.n_layer > 1 and any(len(s) != self.n_layer for s in each)):
            raise ValueError(
                f"the state of this layer is one of {len(self.stacks)} direction(s) of {self.n_layer} cell(s), and the "
                "one given is nested otherwise; pass on what step() returned"
            )
        sizes: list[int] = []
        map_state(lambda tensor: sizes.append(tensor.shape[0]), state)
        if any(n != x.shape[0] for n in sizes):
            raise ValueError(
                f"a state of {sorted(set(sizes))} sequences does not fit a batch of {x.shape[0]}; "
                "state=None begins anew"
            )
        return tuple((s,) if self.n_layer == 1 else tuple(s) for s in each)

    def _outside(self, state: tuple[Any, ...]) -> Any:
        return state[0] if self.n_layer == 1 else state

    def extra_repr(self) -> str:
        return f"n_hidden={self.n_hidden}, n_layer={self.n_layer}, return_last={self.return_last}"


class RNNLayer(Recurrent):
    """A cell, or several on top of each other, that read a sequence step by step.

    Args:
        cell_fn: makes the cell, called with ``n_hidden`` and ``cell_init_args``: ``tl.layers.BasicLSTMCell``,
            ``GRUCell``, ``BasicRNNCell``, … or a subclass of ``tl.layers.Cell``.
        initializer: fills the weights in place; biases are the cell's affair.
        n_steps: how many steps to read; ``None`` is all there are.
        initial_state: begin at this state instead of zero.
        return_last: give the last output only.
        return_seq_2d: give all outputs as ``(N * T, H)``, the steps of one sequence below each other.
        dropout: the probability of keeping, while training, what enters and what leaves each cell: one number, or
            ``(input, output)``. ``None`` keeps all.
        n_layer: the number of cells on top of each other. On a GPU they run as one call of cuDNN, in which the second
            cell reads a step while the first computes the next; between them it draws the dropout from its own stream.

    Shape:
        ``(N, T, D) -> (N, T, H)``, or ``(N, H)`` with ``return_last``, or ``(N * T, H)`` with ``return_seq_2d``.

    Raises:
        ValueError: the input is not 3-D, has no steps or fewer than ``n_steps``.
        TypeError: the input is not of a floating dtype, or ``cell_fn`` makes no cell.

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, None, 8))
    >>> net = tl.layers.RNNLayer(net, cell_fn=tl.layers.BasicLSTMCell, n_hidden=16, name="lstm1")
    >>> y, state = net.step(torch.randn(2, 5, 8))
    >>> y, state = net.step(torch.randn(2, 5, 8), state=tl.layers.detach(state))
    >>> y.shape, state["lstm1"].c.shape
    (torch.Size([2, 5, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        layer: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 100,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        n_steps: int | None = None,
        initial_state: Any = None,
        return_last: bool = False,
        return_seq_2d: bool = False,
        name: str | None = None,
        *,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
    ):
        super().__init__(
            cell_fn, cell_init_args, n_hidden, initializer, dropout, n_layer, return_last, return_seq_2d, name
        )
        self.n_steps = n_steps
        self.initial_state = initial_state


class BiRNNLayer(Recurrent):
    """Two stacks of cells that read a sequence in both directions; their outputs side by side.

    The directions meet at the top only, unlike in ``nn.LSTM(bidirectional=True, num_layers=2)``, whose second layer
    reads both.

    Args:
        cell_fn, cell_init_args, initializer, n_steps: as for :class:`RNNLayer`.
        fw_initial_state, bw_initial_state: begin at these states instead of zero.
        dropout: the probability of keeping, while training, what enters and what leaves each cell: one number, or
            ``(input, output)``. ``None`` keeps all.
        n_layer: the number of cells on top of each other, each with weights of its own.
        return_last: ``True`` gives each direction's output after it has read everything; ``"aligned"`` gives both at
            the last step, as TensorLayer did, where the backward half has read one step only.
        return_seq_2d: give all outputs as ``(N * T, 2H)``.

    Shape:
        ``(N, T, D) -> (N, T, 2H)``, or ``(N, 2H)`` with ``return_last``, or ``(N * T, 2H)`` with ``return_seq_2d``.
    """

    directions: ClassVar[tuple[str, ...]] = ("fw", "bw")

    def __init__(
        self,
        layer: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 100,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        n_steps: int | None = None,
        fw_initial_state: Any = None,
        bw_initial_state: Any = None,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
        return_last: bool | str = False,
        return_seq_2d: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            cell_fn, cell_init_args, n_hidden, initializer, dropout, n_layer, return_last, return_seq_2d, name
        )
        self.n_steps = n_steps
        self.initial_state = both_states(fw_initial_state, bw_initial_state)


def _cut(x: Tensor, n_steps: int | None) -> Tensor:
    if n_steps is None or x.dim() != 3:
        return x
    if x.shape[1] < n_steps:
        raise ValueError(f"n_steps={n_steps}, but the input has {x.shape[1]}; n_steps=None reads what there is")
    return x[:, :n_steps]


def both_states(fw: Any, bw: Any) -> Any:
    if (fw is None) != (bw is None):
        raise ValueError("give initial states for both directions or none; tl.layers.initialize_rnn_state makes zeros")
    return None if fw is None else (fw, bw)


def _keep(dropout: float | Sequence[float] | None) -> Keep:
    if dropout is None or (isinstance(dropout, int | float) and dropout == 0):
        return Keep()
    both = (dropout, dropout) if isinstance(dropout, int | float) else tuple(dropout)
    if len(both) != 2 or not all(0 < keep <= 1 for keep in both):
        raise ValueError(f"dropout is a probability of keeping, in (0, 1], or two (input, output), got {dropout}")
    return Keep(*both)


def _width(shape: Shape, expected: int | None = None) -> int:
    if len(shape) != 3:
        raise ValueError(f"a recurrent layer reads sequences (N, T, D), got {shape}; a ReshapeLayer makes them 3-D")
    if shape[1] == 0 or not shape[2]:
        raise ValueError(
            f"a recurrent layer needs at least one step and a known, non-zero width, got {shape}; "
            "give InputLayer that length"
        )
    if expected is not None and shape[2] != expected:
        raise ValueError(f"this recurrent layer was sized for inputs of width {expected}, got {shape}")
    return shape[2]
