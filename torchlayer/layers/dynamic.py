"""Recurrent layers over padded batches, every sequence to its own length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..initializers import random_uniform
from ..network import Network
from .base import Initializer
from .lengths import retrieve_seq_length_op
from .recurrent import CellFn, Recurrent, both_states


class Dynamic(Recurrent):
    """What the layers that mind lengths share: a second input, ``(N,)`` integers.

    Beyond its length a sequence's outputs are 0 and its state stays, so that the state returned by :meth:`step` is that
    after the last step. A length of 0 gives zeros and leaves the state as it was.

    Lengths on the CPU are checked, and skip the work beyond them. Lengths on a GPU never make it wait: an impossible
    one turns its sequence into NaN. Only :meth:`step` has to fetch them.
    """

    def __new__(cls, layer=None, *args, sequence_length=None, **kwargs):
        if isinstance(layer, Network) and isinstance(sequence_length, Network):
            return super().__new__(cls, [layer, sequence_length], *args, **kwargs)
        return super().__new__(cls, layer, *args, sequence_length=sequence_length, **kwargs)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._run(x, lengths, None, with_state=False)[0]

    def step(self, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """Run from ``state``, or from the beginning, and return ``(output, new_state)``."""
        return self._run(x, lengths, state, with_state=True)

    def _run(self, x: Tensor, lengths: Tensor | None, state: Any, with_state: bool) -> tuple[Tensor, Any]:
        if x.dim() == 3:  # else the base complains
            lengths = retrieve_seq_length_op(x) if lengths is None else self._checked(lengths, x)
        return super()._run(x, lengths, state, with_state)

    def _checked(self, lengths: Tensor, x: Tensor) -> Tensor:
        who = f"{type(self).__name__} '{self.name}'" if self.name else type(self).__name__
        if lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise TypeError(f"{who} takes lengths of an integer dtype, got {lengths.dtype}; convert with .long()")
        N, T = x.shape[:2]
        if lengths.shape != (N,):
            raise ValueError(
                f"{who} takes a length for each of {N} sequences, got lengths of shape {tuple(lengths.shape)}"
            )
        if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
            bad = ((lengths < 0) | (lengths > T)).nonzero()
            if len(bad):
                row = int(bad[0])
                raise ValueError(
                    f"{who} reads sequences of {T} steps, so lengths lie in [0, {T}], got {int(lengths[row])} for "
                    f"sequence {row}; pad the batch further, or clamp the lengths"
                )
            return lengths.long()
        return marked(lengths.to(x.device, torch.int64), T)


def marked(lengths: Tensor, n_steps: int) -> Tensor:
    """Lengths that nobody looks at: an impossible one becomes -1, which the outputs show as NaN."""
    return torch.where((lengths >= 0) & (lengths <= n_steps), lengths, -1)


class DynamicRNNLayer(Dynamic):
    """Cells that read every sequence of a padded batch to its own end.

    Args:
        cell_fn, cell_init_args, initializer: as for :class:`torchlayer.layers.RNNLayer`.
        sequence_length: a network whose output is the lengths ``(N,)``. Without one they are the numbers of steps that
            are not all zero, :func:`torchlayer.layers.retrieve_seq_length_op`.
        initial_state: begin at this state instead of zero.
        dropout: the probability of keeping, while training, what enters and what leaves each cell: one number, or
            ``(input, output)``. ``None`` keeps all.
        n_layer: the number of cells on top of each other.
        return_last: give each sequence's last output only.
        return_seq_2d: give all outputs as ``(N * T, H)``, zeros included.

    Shape:
        ``(N, T, D)`` and ``(N,)`` ``-> (N, T, H)``, or ``(N, H)`` with ``return_last``, or ``(N * T, H)`` with
        ``return_seq_2d``.

    Raises:
        ValueError: a length is negative or beyond the input (on the CPU), or their number is not N.
        TypeError: the lengths are no integers.

    >>> import torch, torchlayer as tl
    >>> ids = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    >>> lengths = tl.layers.LambdaLayer(ids, fn=tl.layers.retrieve_seq_length_op2, name="lengths")
    >>> net = tl.layers.EmbeddingInputlayer(ids, vocabulary_size=10, embedding_size=8)
    >>> net = tl.layers.DynamicRNNLayer(net, cell_fn=tl.layers.GRUCell, n_hidden=4, sequence_length=lengths)
    >>> net(torch.tensor([[3, 1, 4, 0], [5, 0, 0, 0]]))[1, 1:].count_nonzero()
    tensor(0)
    """

    def __init__(
        self,
        layer: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 256,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        sequence_length: Network | None = None,
        initial_state: Any = None,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
        return_last: bool = False,
        return_seq_2d: bool = False,
        name: str | None = None,
    ):
        _check_sequence_length(sequence_length)
        super().__init__(
            cell_fn, cell_init_args, n_hidden, initializer, dropout, n_layer, return_last, return_seq_2d, name
        )
        self.initial_state = initial_state


class BiDynamicRNNLayer(Dynamic):
    """Two stacks of cells that read every sequence of a padded batch in both directions, within its own length.

    The directions meet at the top only. Arguments are those of :class:`DynamicRNNLayer`, but for these.

    Args:
        fw_initial_state, bw_initial_state: begin at these states instead of zero.
        return_last: ``True`` gives each direction's output after it has read everything; ``"aligned"`` gives both at
            the last step, as TensorLayer did, where the backward half has read one step only.

    Shape:
        ``(N, T, D)`` and ``(N,)`` ``-> (N, T, 2H)``, or ``(N, 2H)`` with ``return_last``, or ``(N * T, 2H)`` with
        ``return_seq_2d``.
    """

    directions: ClassVar[tuple[str, ...]] = ("fw", "bw")

    def __init__(
        self,
        layer: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 256,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        sequence_length: Network | None = None,
        fw_initial_state: Any = None,
        bw_initial_state: Any = None,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
        return_last: bool | str = False,
        return_seq_2d: bool = False,
        name: str | None = None,
    ):
        _check_sequence_length(sequence_length)
        super().__init__(
            cell_fn, cell_init_args, n_hidden, initializer, dropout, n_layer, return_last, return_seq_2d, name
        )
        self.initial_state = both_states(fw_initial_state, bw_initial_state)


def _check_sequence_length(given: Any) -> None:
    if given is not None:
        raise TypeError(
            f"sequence_length= takes a network of lengths, besides the one to stack on, got {type(given).__name__}; "
            "a layer alone takes the lengths when it is called: layer(x, lengths)"
        )
