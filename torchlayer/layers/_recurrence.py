"""Running cells over time: as one call into torch where its recurrence is the same function, else as a loop.

Three ways to honour the lengths of a padded batch, where outputs beyond the length are 0 and the state stays:

* packed: lengths on the CPU. Torch's own way, and the one whose work shrinks with the lengths.
* masked: lengths on a GPU, or an export. The whole batch runs and what lies beyond the end is cut off, so
  nothing waits for the device. The final state of one cell that remembers its output, as a GRU does, is that output at
  the end. What an LSTM, or a cell below another one, remembers there is lost on the way.
* looped: cells that torch does not know, and final states where nothing may wait, as in a CUDA graph. At every step,
  sequences that have ended keep their old state.

A single step without gradients is looped on a CPU, too: torch would bring all weights into another order first. On a
GPU, LSTM cells have a kernel for it, see _lstm_step.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ..network import map_state
from ._lstm_step import step, steps_by_kernel
from .base import Initializer, exporting
from .cells import Cell, LSTMState

State = tuple[Any, ...]  # of a stack: its cells' states


class Keep(NamedTuple):
    """The probabilities of keeping what enters and what leaves each cell."""

    input: float = 1.0
    output: float = 1.0


class CellStack(nn.ModuleList):
    """Cells on top of each other."""

    def cells(self) -> list[Cell]:
        return list(self)  # type: ignore[arg-type]

    def build(self, n_in: int, initializer: Initializer) -> None:
        for cell in self.cells():
            cell.build(n_in, initializer)
            n_in = cell.output_size

    def zero_state(self, x: Tensor) -> State:
        """The states to begin with for a batch like ``x``, ``(N, ...)``."""
        return tuple(cell.zero_state(x) for cell in self.cells())

    def state_widths(self) -> list[int]:
        """The widths of the tensors that all states consist of."""
        widths: list[int] = []
        map_state(lambda h: widths.append(h.shape[1]), self.zero_state(torch.zeros(1, 1)))
        return widths

    @property
    def fused(self) -> str | None:
        """The name of torch's recurrence that computes all of this stack in one call, if there is one."""
        kinds = {cell.fused for cell in self.cells()}
        return kinds.pop() if len(kinds) == 1 else None


def run(
    stack: CellStack, x: Tensor, state: State | None, lengths: Tensor | None, keep: Keep, with_state: bool
) -> tuple[Tensor, State | None]:
    """Outputs ``(N, T, H)`` of the top cell, and the state at each sequence's end if it is asked for."""
    if keep == Keep() and steps_by_kernel(stack.cells(), x, state, lengths):
        y, end = step(stack.cells(), x[:, 0], stack.zero_state(x[:, 0]) if state is None else state)
        return y[:, None], end
    if with_state and lengths is not None and _ends_in_outputs(stack, x, keep) and not packable(lengths, False):
        begin = stack.zero_state(x[:, 0]) if state is None else state
        y, _ = run_fused([stack], x, [begin], lengths, keep, with_state=False)
        return y, (_last(y, lengths, begin[0]),)
    stateless = with_state and lengths is not None and not packable(lengths, with_state)  # since masked
    # on meta tensors torch's recurrence would go through all steps in Python
    if not stack.fused or stateless or x.is_meta or _one_word(x, lengths):
        return _looped(stack, x, state, lengths, keep)
    y, states = run_fused([stack], x, None if state is None else [state], lengths, keep, with_state)
    return y, None if states is None else states[0]


def _ends_in_outputs(stack: CellStack, x: Tensor, keep: Keep) -> bool:
    """Whether the state at a sequence's end can be read off the outputs."""
    return len(stack) == 1 and stack.fused not in (None, "lstm") and keep.output == 1 and not x.is_meta


def _last(y: Tensor, lengths: Tensor, begin: Tensor) -> Tensor:
    """Each sequence's output at its end, ``(N, H)``, and what it began with if it is empty."""
    lengths = lengths.to(y.device)[:, None]
    index = (lengths - 1).clamp(min=0)[..., None].expand(-1, -1, y.shape[2])
    return torch.where(lengths == 0, begin.to(y.dtype), y.gather(1, index)[:, 0])


def run_fused(
    stacks: Sequence[CellStack],
    x: Tensor,
    states: Sequence[State] | None,
    lengths: Tensor | None,
    keep: Keep,
    with_state: bool,
) -> tuple[Tensor, list[State] | None]:
    """One stack forwards, or two of one cell each in both directions at once, by torch's own recurrence."""
    if torch.compiler.is_dynamo_compiling() and not exporting():
        return _uncompiled(stacks, x, states, lengths, keep, with_state)
    kind: str = stacks[0].fused or ""
    cells = [cell for layer in zip(*stacks) for cell in layer]  # torch's order: by layer, then by direction
    weights = [w for cell in cells for w in cell.weights()]
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        x = x.to(weights[0].dtype)  # autocast does this for CUDA only
    x = _drop(x, keep.input)
    begin = _joined(states, x, cells)
    # the masks on a layer's output and on the next one's input are one mask that keeps their product
    between = 1 - keep.input * keep.output
    settings = (True, len(stacks[0]), between, torch.is_grad_enabled() or between > 0, len(stacks) == 2)
    if x.is_cuda and not exporting():
        if any(cell.lends_weights for cell in cells):
            weights = _in_one_block(weights)
        else:
            _compact(stacks, kind, weights, x.shape[2])

    recurrence: Callable[..., Any] = getattr(torch, kind)
    if lengths is not None and packable(lengths, with_state):
        y, end = _packed(recurrence, x, begin, lengths.cpu(), weights, settings)
    else:
        y, *end = recurrence(x, begin if len(begin) > 1 else begin[0], weights, *settings, True)
        if lengths is not None:
            return _drop(masked(y, lengths), keep.output), None
    return _drop(y, keep.output), _parted(end, stacks) if with_state else None


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
def _uncompiled(*args: Any) -> tuple[Tensor, list[State] | None]:
    """Run between two graphs, as ``nn.LSTM`` is: torch 2.13 traces a recurrence, and fails on its gradient."""
    return run_fused(*args)


def _one_word(x: Tensor, lengths: Tensor | None) -> bool:
    """Whether this is a step of text generation on a CPU: two cells of 1500 units take 13 ms looped, and 90 fused."""
    if x.is_cuda or lengths is not None or torch.is_grad_enabled() or torch.compiler.is_compiling() or exporting():
        return False
    return x.shape[1] == 1 and not torch.is_autocast_enabled("cpu")


def packable(lengths: Tensor, with_state: bool) -> bool:
    """Whether to pack: where it costs no wait for the device, or is the fastest way to a state."""
    if lengths.is_meta or exporting():
        return False  # nobody can look at them
    return not lengths.is_cuda or (with_state and _may_wait())


def _may_wait() -> bool:
    """Whether nobody minds a wait for the device: no capture does now, and none is being prepared.

    Who has torch report waits, as :class:`torchlayer.TrainStep` does before a capture, is shown the way without them.
    """
    if torch.compiler.is_compiling():
        return True
    return not (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode())


def masked(y: Tensor, lengths: Tensor) -> Tensor:
    """0 beyond each sequence's length, and NaN all along where a length is negative: nothing waits here to raise."""
    lengths = lengths.to(y.device)[:, None, None]
    running = torch.arange(y.shape[1], device=y.device)[:, None] < lengths  # (N, T, 1)
    return torch.where(running, y, torch.where(lengths < 0, torch.nan, 0.0).to(y.dtype))


def backwards(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Every sequence reversed within its own length; what lies beyond stays where it is."""
    if lengths is None:
        return x.flip(1)
    T, lengths = x.shape[1], lengths.to(x.device)[:, None]
    t = torch.arange(T, device=x.device)
    index = torch.where(t < lengths, lengths - 1 - t, t).clamp(0, T - 1)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _looped(
    stack: CellStack, x: Tensor, state: State | None, lengths: Tensor | None, keep: Keep
) -> tuple[Tensor, State]:
    end = []
    lengths = None if lengths is None else lengths.to(x.device)
    for i, cell in enumerate(stack.cells()):
        x = _drop(x, keep.input)
        held = cell.zero_state(x[:, 0]) if state is None else state[i]
        outputs, advance = [], cell.advancing()
        for t, x_t in enumerate(cell.project(x).unbind(1)):
            y, new = advance(x_t, held)
            held = new if lengths is None else where_running(lengths > t, new, held)
            outputs.append(y)
            if x.is_meta:  # every step has the shapes of the first
                outputs *= x.shape[1]
                break
        x = torch.stack(outputs, 1)
        x = _drop(x if lengths is None else masked(x, lengths), keep.output)
        end.append(held)
    return x, tuple(end)


def where_running(running: Tensor, new: Any, old: Any) -> Any:
    """``new`` for the sequences that run, ``old`` for the others, in any nesting of tensors."""
    olds: list[Tensor] = []
    map_state(olds.append, old)
    kept = iter(olds)
    return map_state(lambda x: torch.where(running.view(-1, *[1] * (x.dim() - 1)), x, next(kept)), new)


def _packed(
    recurrence: Callable[..., Any],
    x: Tensor,
    begin: list[Tensor],
    lengths: Tensor,
    weights: list[Tensor],
    settings: tuple[Any, ...],
) -> tuple[Tensor, list[Tensor]]:
    shortest = int(lengths.min()) if len(lengths) else x.shape[1]
    if shortest == x.shape[1]:  # nothing to skip
        y, *end = recurrence(x, begin if len(begin) > 1 else begin[0], weights, *settings, True)
        return y, end
    packed = pack_padded_sequence(x, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
    _, sizes, order, back = packed
    assert order is not None
    assert back is not None  # since the lengths may not be sorted
    hx = [h.index_select(1, order) for h in begin]
    y, *end = recurrence(packed.data, sizes, hx if len(hx) > 1 else hx[0], weights, *settings)
    y, _ = pad_packed_sequence(PackedSequence(y, sizes, order, back), batch_first=True, total_length=x.shape[1])
    end = [h.index_select(1, back) for h in end]
    if shortest == 0:  # packing knows no empty sequence: it has read one step, which is taken back
        empty = (lengths == 0).to(x.device)[:, None]
        y = y.masked_fill(empty[..., None], 0.0)
        end = [torch.where(empty, old, new) for old, new in zip(begin, end)]
    return y, end


def _joined(states: Sequence[State] | None, x: Tensor, cells: list[Any]) -> list[Tensor]:
    """The states of all cells as torch takes them: one tensor ``(n_cells, N, H)``, or two for an LSTM."""
    is_lstm = cells[0].fused == "lstm"
    if states is None:
        zeros = x.new_zeros(len(cells), x.shape[0], cells[0].num_units)
        return [zeros, zeros] if is_lstm else [zeros]
    each = [state for layer in zip(*states) for state in layer]
    parts = zip(*each) if is_lstm else [each]
    return [part[0][None] if len(part) == 1 else torch.stack(part) for part in map(list, parts)]


def _parted(end: Sequence[Tensor], stacks: Sequence[CellStack]) -> list[State]:
    """The reverse of `_joined`: for each stack, the states of its cells."""
    each = [LSTMState(*parts) if len(parts) == 2 else parts[0] for parts in zip(*(h.unbind(0) for h in end))]
    return [tuple(each[i :: len(stacks)]) for i in range(len(stacks))]


def _compact(stacks: Sequence[CellStack], kind: str, weights: list[Tensor], n_in: int) -> None:
    """Move the weights into one block of memory, in cuDNN's order, or it would copy them there at every call.

    Each weight becomes a view of the block and stays the same parameter, as in ``nn.LSTM.flatten_parameters``. Done
    once: copying a layer or moving it to another device breaks the block up, which the addresses tell.
    """
    addresses = tuple(w.data_ptr() for w in weights)
    if addresses == getattr(stacks[0], "_block", None) or not _cudnn_takes(weights[0]):
        return
    own = all(w.is_leaf for w in weights)  # and not what torch.func.functional_call put in their place
    if own and len(set(addresses)) == len(weights) and len({w.dtype for w in weights}) == 1:
        with torch.no_grad(), torch.cuda.device_of(weights[0]):
            mode, hidden = get_cudnn_mode(kind.upper()), stacks[0].cells()[0].num_units
            both_ways = len(stacks) == 2
            torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage]
                weights, 4, n_in, mode, hidden, 0, len(stacks[0]), True, both_ways
            )
    stacks[0]._block = tuple(w.data_ptr() for w in weights)  # type: ignore[assignment]


def _cudnn_takes(weight: Tensor) -> bool:
    """torch's own test knows no bfloat16, for which cuDNN then copies all weights at each call."""
    as_half = weight.new_empty(0, dtype=torch.float16) if weight.dtype == torch.bfloat16 else weight
    return torch.backends.cudnn.is_acceptable(as_half)


def _in_one_block(weights: list[Tensor]) -> list[Tensor]:
    """Copies of weights that are others at each call, in one block as cuDNN orders it: matrices before biases."""
    order = sorted(range(len(weights)), key=lambda i: weights[i].dim() == 1)
    parts = torch.cat([weights[i].reshape(-1) for i in order]).split([weights[i].numel() for i in order])
    placed = dict(zip(order, parts))
    return [placed[i].view(w.shape) for i, w in enumerate(weights)]


def _drop(x: Tensor, keep: float) -> Tensor:
    return x if keep == 1 else F.dropout(x, 1 - keep)
