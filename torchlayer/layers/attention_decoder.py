"""The decoder of TensorFlow's translation model: cells that look at a memory after every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..network import map_state
from ._deferred import CellProducts, Products, Reading, can_defer, once
from ._recurrence import CellStack, Keep, masked, where_running
from .attention import AdditiveAttention, Memory
from .base import Initializer, fill, size_as_loaded
from .cells import LSTMState, _AffineCell


class DecoderState(NamedTuple):
    """What a decoder remembers: the state of each cell, and the context that it saw last, ``(N, D)``."""

    cells: tuple[Any, ...]
    context: Tensor


Step = Callable[[int, DecoderState], tuple[Tensor, DecoderState]]


class AttentionDecoder(nn.Module):
    """Cells that read, at each step, the input and the last context, and then look at the memory with their new states.

    ::

        x_t = [input_t, context_(t-1)] W_input + b_input
        o_t, states = cells(x_t, states)
        context_t = attention(all states, memory)
        output_t = [o_t, context_t] W_output + b_output

    Only what depends on the step before is computed step by step. The input's part of ``x_t`` and the output, which is
    :meth:`read_out`'s, are computed for all steps at once, and where the first cell begins with a matrix, as all of
    this library do, the context goes into it through one product instead of two.

    Args:
        cells: a cell, or several on top of each other.
        n_attention: the width in which states and memory meet.
        n_outputs: the width of the output.
        n_between: where given, the cells' output is first mapped to this width, as TensorFlow's model without an output
            projection does; then ``W_between`` ``(H, n_between)`` and ``b_between``, and ``H`` is ``n_between`` in
            ``W_output``.

    Shape:
        Parameters ``W_input`` ``(n_in + D, H)``, ``b_input`` ``(H,)``, ``W_output`` ``(H + D, n_outputs)``,
        ``b_output`` ``(n_outputs,)``, the attention's and the cells'.

    Reference:
        Bahdanau, Cho, Bengio 2015, arXiv:1409.0473; Vinyals et al. 2015, arXiv:1412.7449, whose form of it was
        TensorFlow's ``attention_decoder``.
    """

    def __init__(self, cells: CellStack, n_attention: int, n_outputs: int, n_between: int | None = None):
        super().__init__()
        self.attention = AdditiveAttention(n_attention)
        self.cells = cells
        self.n_outputs, self.n_between = n_outputs, n_between
        self.W_input, self.b_input = UninitializedParameter(), UninitializedParameter()
        if n_between is not None:
            self.W_between, self.b_between = UninitializedParameter(), UninitializedParameter()
        self.W_output, self.b_output = UninitializedParameter(), UninitializedParameter()

    def build(self, n_in: int, n_memory: int, initializer: Initializer) -> AttentionDecoder:
        """Size the parameters for inputs and a memory of these widths; ``initializer`` fills the matrices."""
        first, last = self.cells.cells()[0], self.cells.cells()[-1]
        self.cells.build(first.num_units, initializer)
        self.attention.build(n_memory, sum(self.cells.state_widths()), initializer)
        fill(self.W_input, (n_in + n_memory, first.num_units), initializer)
        fill(self.b_input, (first.num_units,), 0.0)
        n_last = last.output_size
        if self.n_between is not None:
            fill(self.W_between, (n_last, self.n_between), initializer)
            fill(self.b_between, (self.n_between,), 0.0)
            n_last = self.n_between
        fill(self.W_output, (n_last + n_memory, self.n_outputs), initializer)
        fill(self.b_output, (self.n_outputs,), 0.0)
        return self

    @property
    def n_inputs(self) -> int:
        """The width of the inputs."""
        return self.W_input.shape[0] - self.attention.W_memory.shape[0]

    def begin(self, cells: tuple[Any, ...], memory: Memory) -> DecoderState:
        """The state before the first step: the cells' states, and a context of zeros."""
        return DecoderState(cells, memory.values.new_zeros(memory.values.shape[0], memory.values.shape[2]))

    def run(
        self,
        x: Tensor,
        memory: Memory,
        state: DecoderState,
        lengths: Tensor | None = None,
        keep: Keep = Keep(),  # noqa: B008  (a tuple)
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """All steps of ``(N, T, n_in)``: what the cells put out ``(N, T, H)``, the contexts ``(N, T, D)``, and the end.

        Beyond ``lengths`` the outputs are 0 and the state stays.
        """
        entry = self.entry(keep)
        if entry.within_cell and keep.output == 1 and not x.is_meta and can_defer(self.cells.cells()):
            advance, state = self._deferring(x, entry, memory, state)
        else:
            advance = self._each_step(x, entry, memory, keep)
        outputs, contexts = [], []
        for t in range(x.shape[1]):
            y, new = advance(t, state)
            state = new if lengths is None else where_running(lengths > t, new, state)
            outputs.append(y)
            contexts.append(new.context)
            if x.is_meta:  # every step has the shapes of the first
                outputs, contexts = outputs * x.shape[1], contexts * x.shape[1]
                break
        both = torch.stack(outputs, 1), torch.stack(contexts, 1)
        y, context = both if lengths is None else (masked(part, lengths) for part in both)
        return y, context, state

    def _each_step(self, x: Tensor, entry: Entry, memory: Memory, keep: Keep) -> Step:
        """:meth:`advance` of step ``t``."""
        parts = entry.of_inputs(x).unbind(1)

        def advance(t: int, state: DecoderState) -> tuple[Tensor, DecoderState]:
            y, _, new = self.advance(parts[t], entry, memory, state, keep)
            return y, new

        return advance

    def _deferring(self, x: Tensor, entry: Entry, memory: Memory, state: DecoderState) -> tuple[Step, DecoderState]:
        """:meth:`advance` of step ``t``, whose matrices get their gradients for all steps at once; the first state."""
        attention, cells = self.attention, self.cells.cells()
        added = [entry.of_inputs(x.transpose(0, 1))]  # (T, N, ...)
        entering = [entry.of_context]
        for cell in cells[1:]:
            assert isinstance(cell, _AffineCell)  # can_defer has looked
            added.append(cell.bias_ih.expand(*added[0].shape[:2], -1))
            entering.append(cell.weight_ih.T)
        layers = [CellProducts(*parts) for parts in zip(cells, added, entering)]  # type: ignore[arg-type]
        asked = Products(attention.b_query.expand(*added[0].shape[:2], -1), [attention.W_query])
        held: list[Tensor] = []
        map_state(held.append, state)
        values, keys, *held = once(attention.W_query, memory.values, memory.keys, *held)
        rest = iter(held)
        read, guarded = Reading(values, x.shape[1]), Memory(values, keys, memory.bias)

        def advance(t: int, state: DecoderState) -> tuple[Tensor, DecoderState]:
            y, states = state.context, []
            for layer, old in zip(layers, state.cells):
                y, new = layer.advance(t, y, old)
                states.append(new)
            weights = attention.weigh(asked(0, asked.added[t], _flat(states)), guarded)
            return y, DecoderState(tuple(states), read(t, weights))

        return advance, map_state(lambda _: next(rest), state)

    def advance(
        self,
        x: Tensor,
        entry: Entry,
        memory: Memory,
        state: DecoderState,
        keep: Keep = Keep(),  # noqa: B008
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """One step from the input's part ``(N, ...)``: the cells' output, the weights ``(N, I)``, the new state."""
        y, states = torch.addmm(x, state.context, entry.of_context), []
        for i, (cell, old) in enumerate(zip(self.cells.cells(), state.cells)):
            if i > 0 or not entry.within_cell:
                y = cell.project(_drop(y, keep.input))
            y, new = entry.cells[i](y, old)
            y = _drop(y, keep.output)
            states.append(new)
        context, weights = self.attention(_flat(states), memory)
        return y, weights, DecoderState(tuple(states), context)

    def read_out(self, y: Tensor, context: Tensor) -> Tensor:
        """``[y, context] W_output + b_output`` of steps in any number."""
        if self.n_between is not None:
            y = F.linear(y, self.W_between.T, self.b_between)
        return F.linear(torch.cat([y, context], -1), self.W_output.T, self.b_output)

    def entry(self, keep: Keep = Keep()) -> Entry:  # noqa: B008
        """How input and context enter the first cell; valid as long as the parameters are."""
        cells, n_memory = self.cells.cells(), self.attention.W_memory.shape[0]
        cell = cells[0]
        matrix, bias, within_cell = self.W_input, self.b_input, False
        if isinstance(cell, _AffineCell) and keep.input == 1:
            matrix, bias = matrix @ cell.weight_ih.T, F.linear(bias, cell.weight_ih, cell.bias_ih)
            within_cell = True
        return Entry(matrix[:-n_memory], bias, matrix[-n_memory:], within_cell, [cell.advancing() for cell in cells])

    def extra_repr(self) -> str:
        return f"n_outputs={self.n_outputs}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        size_as_loaded(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Entry(NamedTuple):
    """The matrices through which input and context enter a decoder's first cell, whether they end within it, and the
    step of each cell, with what it drew for all steps.
    """

    matrix: Tensor
    bias: Tensor
    of_context: Tensor
    within_cell: bool
    cells: Sequence[Callable[[Tensor, Any], tuple[Tensor, Any]]]

    def of_inputs(self, x: Tensor) -> Tensor:
        """The input's part of the sum, for one step or many."""
        return F.linear(x, self.matrix.T, self.bias)


def _flat(states: list[Any]) -> Tensor:
    """All states side by side, ``(N, Q)``, in TensorFlow's order: of an LSTM the memory comes first."""
    parts: list[Tensor] = []
    for state in states:
        map_state(parts.append, (state.c, state.h) if isinstance(state, LSTMState) else state)
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _drop(x: Tensor, keep: float) -> Tensor:
    return x if keep == 1 else F.dropout(x, 1 - keep)
