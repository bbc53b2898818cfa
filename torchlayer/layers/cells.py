"""Cells: one step of a recurrent network, ``(x, state) -> (output, new_state)``, with TensorFlow's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy

from ..initializers import random_uniform
from .base import Activation, Initializer, fill, shown, size_as_loaded


class LSTMState(NamedTuple):
    """What an LSTM remembers, in torch's order. Beware: TensorFlow's tuple is ``(c, h)``; the names agree."""

    h: Tensor
    c: Tensor


class Cell(nn.Module):
    """The base class of every cell: subclass it to bring your own.

    Write :meth:`build` and :meth:`advance`. If part of the step does not need the state, put it into :meth:`project`:
    a recurrent layer then computes it for all steps at once. :meth:`zero_state` is for states other than one
    ``(N, num_units)`` tensor, ``output_size`` for outputs of another width.

    >>> import torchlayer as tl
    >>> class LeakyCell(tl.layers.Cell):
    ...     def __init__(self, num_units, leak=0.1):
    ...         super().__init__(num_units)
    ...         self.leak, self.weight = leak, nn.UninitializedParameter()
    ...     def build(self, n_in, initializer):
    ...         self.weight.materialize((self.num_units, n_in))
    ...         initializer(self.weight)
    ...     def project(self, x):
    ...         return F.linear(x, self.weight)
    ...     def advance(self, x, state):
    ...         state = (1 - self.leak) * state + self.leak * x
    ...         return state, state
    >>> net = tl.layers.InputLayer((None, 7, 3))
    >>> tl.layers.RNNLayer(net, cell_fn=LeakyCell, cell_init_args={"leak": 0.3}, n_hidden=4).outputs.shape
    (None, 7, 4)
    """

    fused: ClassVar[str | None] = None  # the recurrence of torch that computes the same, see _recurrence.py
    lends_weights: ClassVar[bool] = False  # whether weights() are others at each call, and not the parameters

    def __init__(self, num_units: int):
        super().__init__()
        if num_units < 1:
            raise ValueError(f"a cell needs at least 1 unit, got num_units={num_units}")
        self.num_units = num_units
        self.output_size = num_units

    def build(self, n_in: int, initializer: Initializer) -> None:
        """Size the parameters for inputs of width ``n_in``; ``initializer`` fills the weights in place."""
        raise NotImplementedError(f"{type(self).__name__} needs a method build(n_in, initializer)")

    def zero_state(self, x: Tensor) -> Any:
        """The state to begin with for a batch like ``x``, ``(N, ...)``."""
        return x.new_zeros(x.shape[0], self.num_units)

    def project(self, x: Tensor) -> Tensor:
        """What a step computes of ``x`` alone, ``(N, n_in)`` or ``(N, T, n_in)``; by default nothing."""
        return x

    def advance(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """From a projected input ``(N, ...)`` and a state to ``(output, new_state)``."""
        raise NotImplementedError(f"{type(self).__name__} needs a method advance(x, state)")

    def advancing(self) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
        """:meth:`advance` for the steps of one call of a layer: the place to draw what is the same at all of them."""
        return self.advance

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """One step alone. The first call sizes a cell that no layer has built."""
        if any(map(is_lazy, self.parameters())):
            self.build(x.shape[-1], random_uniform(-0.1, 0.1))
        return self.advance(self.project(x), self.zero_state(x) if state is None else state)

    def extra_repr(self) -> str:
        return f"num_units={self.num_units}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        size_as_loaded(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


Times = Callable[[int, Tensor, Tensor], Tensor]


class _AffineCell(Cell):
    """A cell of ``n_gates`` sums ``W x + U h + b``, under the names, shapes and order of torch's own cells."""

    n_gates: ClassVar[int]
    adds_apart: ClassVar[bool] = False  # whether the state's products are no part of the input's sum
    n_arrays: ClassVar[int] = 2  # of a cell in a file of the original's: one matrix for [x, h] and one bias

    def __init__(self, num_units: int, activation: Activation = torch.tanh):
        super().__init__(num_units)
        self.activation = activation
        rows = self.n_gates * num_units
        self.weight_ih = UninitializedParameter()
        self.weight_hh = UninitializedParameter()
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        # torch's recurrences want a second bias; TensorFlow's cells have one, so this one is constant and no state
        self.register_buffer("bias_hh", torch.zeros(rows), persistent=False)

    def build(self, n_in: int, initializer: Initializer) -> None:
        rows = self.n_gates * self.num_units
        fill(self.weight_ih, (rows, n_in), initializer)
        fill(self.weight_hh, (rows, self.output_size), initializer)

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih, self.bias_ih)

    def advance(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.advance_with(x, state, self._times)

    def advance_with(self, x: Tensor, state: Any, times: Times) -> tuple[Tensor, Any]:
        """:meth:`advance`, with every product ``added + h U_i`` left to ``times(i, added, h)``."""
        raise NotImplementedError

    @property
    def says_where(self) -> bool:
        """Whether :meth:`advance_with` is the whole of :meth:`advance`."""
        return type(self).advance is _AffineCell.advance

    def blocks(self) -> Sequence[Tensor]:
        """The rows of ``weight_hh`` that one product each is with."""
        return [self.weight_hh]

    def _times(self, i: int, added: Tensor, h: Tensor) -> Tensor:
        return torch.addmm(added, h, self.blocks()[i].T)

    def weights(self) -> list[Tensor]:
        """In the order in which torch's recurrences take them."""
        return [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]  # type: ignore[list-item]

    def from_original(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Parameters from the arrays that TensorFlow keeps for this cell: ``[n_in + H, gates * H]`` and a bias."""
        matrix, bias = arrays
        n_in = self.weight_ih.shape[1]
        if matrix.ndim != 2 or len(matrix) != n_in + self.output_size:
            raise ValueError(
                f"TensorFlow's matrix for this {type(self).__name__} has {n_in} + {self.output_size} rows, one for "
                f"each input and output, got {matrix.shape}"
            )
        matrix = self._in_order(matrix.T)
        return {"weight_ih": matrix[:, :n_in], "weight_hh": matrix[:, n_in:], "bias_ih": self._in_order(bias)}

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def extra_repr(self) -> str:
        return f"num_units={self.num_units}, activation={shown(self.activation)}"


class BasicRNNCell(_AffineCell):
    """``h' = act(W x + U h + b)``.

    Shape:
        x ``(N, D)``, state ``(N, H)``; parameters ``weight_ih`` ``(H, D)``, ``weight_hh`` ``(H, H)``, ``bias_ih``
        ``(H,)``.
    """

    n_gates: ClassVar[int] = 1

    @property
    def fused(self) -> str | None:
        return {torch.tanh: "rnn_tanh", torch.relu: "rnn_relu"}.get(self.activation)  # type: ignore[call-overload]

    def advance_with(self, x: Tensor, state: Tensor, times: Times) -> tuple[Tensor, Tensor]:
        h = self.activation(times(0, x, state))
        return h, h


class GRUCell(_AffineCell):
    """A gated recurrent unit whose reset gate acts **before** the product with ``U``, as in the paper and TensorFlow.

    ::

        r, u = sigmoid(W x + U h + b)             # b begins at 1: remember at first
        c = act(W x + U (r * h) + b)
        h' = u * h + (1 - u) * c

    ``nn.GRU`` resets after the product: another function, which trained weights do not survive. It is
    :class:`CudnnCompatibleGRUCell` here, and faster on a GPU.

    Shape:
        x ``(N, D)``, state ``(N, H)``; parameters ``weight_ih`` ``(3H, D)``, ``weight_hh`` ``(3H, H)``, ``bias_ih``
        ``(3H,)`` in the order r, u, c.

    Reference:
        Cho et al. 2014, https://arxiv.org/abs/1406.1078
    """

    n_gates: ClassVar[int] = 3
    n_arrays: ClassVar[int] = 4

    def build(self, n_in: int, initializer: Initializer) -> None:
        super().build(n_in, initializer)
        with torch.no_grad():
            self.bias_ih[: 2 * self.num_units] = 1.0

    def blocks(self) -> Sequence[Tensor]:
        return self.weight_hh.split((2 * self.num_units, self.num_units))

    def advance_with(self, x: Tensor, state: Tensor, times: Times) -> tuple[Tensor, Tensor]:
        of_gates, of_candidate = x.split((2 * self.num_units, self.num_units), 1)
        r, u = torch.sigmoid(times(0, of_gates, state)).chunk(2, 1)
        c = self.activation(times(1, of_candidate, r * state))
        h = torch.addcmul(c, u, state - c)
        return h, h

    def from_original(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        gates, candidate = (super(GRUCell, self).from_original(arrays[i : i + 2]) for i in (0, 2))
        return {name: np.concatenate([gates[name], candidate[name]]) for name in gates}


class CudnnCompatibleGRUCell(_AffineCell):
    """The gated recurrent unit of ``nn.GRU``: the reset gate acts **after** the product. Runs as one cuDNN call.

    ::

        r, u = sigmoid(W x + b + U h + b')
        c = tanh(W x + b + r * (U h + b'))
        h' = u * h + (1 - u) * c

    Shape:
        as :class:`GRUCell`, and a trained ``bias_hh`` ``(3H,)``.
    """

    n_gates: ClassVar[int] = 3
    adds_apart: ClassVar[bool] = True
    fused: ClassVar[str | None] = "gru"

    def __init__(self, num_units: int):
        super().__init__(num_units)
        del self.bias_hh
        self.bias_hh = nn.Parameter(torch.zeros(3 * num_units))

    def advance_with(self, x: Tensor, state: Tensor, times: Times) -> tuple[Tensor, Tensor]:
        sizes = (2 * self.num_units, self.num_units)  # split in one: each slice by itself has a gradient of full width
        of_gates, of_candidate = x.split(sizes, 1)
        h_gates, h_candidate = times(0, self.bias_hh, state).split(sizes, 1)
        r, u = torch.sigmoid(of_gates + h_gates).chunk(2, 1)
        c = torch.tanh(torch.addcmul(of_candidate, r, h_candidate))
        h = torch.addcmul(c, u, state - c)
        return h, h


class BasicLSTMCell(_AffineCell):
    """A long short-term memory.

    ::

        i, f, g, o = W x + U h + b
        c' = sigmoid(f + forget_bias) * c + sigmoid(i) * act(g)
        h' = sigmoid(o) * act(c')

    Args:
        forget_bias: a constant, not trained; see Jozefowicz et al. 2015 for why it is 1.
        state_is_tuple: must be ``True``; the state is an :class:`LSTMState`.

    Shape:
        x ``(N, D)``, state two of ``(N, H)``; parameters ``weight_ih`` ``(4H, D)``, ``weight_hh`` ``(4H, H)``,
        ``bias_ih`` ``(4H,)`` in the order i, f, g, o.

    Reference:
        Hochreiter, Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735; Jozefowicz et al. 2015,
        https://proceedings.mlr.press/v37/jozefowicz15.html
    """

    n_gates: ClassVar[int] = 4

    def __init__(
        self,
        num_units: int,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Activation = torch.tanh,
    ):
        super().__init__(num_units, activation)
        if not state_is_tuple:
            raise ValueError("the state of an LSTM is always a tuple here; drop state_is_tuple=False, read .h and .c")
        self.forget_bias = forget_bias
        self.get_buffer("bias_hh")[num_units : 2 * num_units] = forget_bias

    @property
    def fused(self) -> str | None:
        return "lstm" if self.activation is torch.tanh else None

    def zero_state(self, x: Tensor) -> LSTMState:
        return LSTMState(x.new_zeros(x.shape[0], self.output_size), x.new_zeros(x.shape[0], self.num_units))

    def advance_with(self, x: Tensor, state: tuple[Tensor, Tensor], times: Times) -> tuple[Tensor, LSTMState]:
        h, c = state
        i, f, g, o = (times(0, x, h) + self.bias_hh).chunk(4, 1)  # type: ignore[operator]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.activation(g)
        h = torch.sigmoid(o) * self.activation(c)
        return h, LSTMState(h, c)

    def _in_order(self, rows: np.ndarray) -> np.ndarray:
        i, g, f, o = np.split(rows, 4)
        return np.concatenate([i, f, g, o])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, forget_bias={self.forget_bias}"


class LSTMCell(BasicLSTMCell):
    """A long short-term memory with peepholes, clipping and a projection, each if asked for.

    Args:
        use_peepholes: the gates see the memory: ``i`` and ``f`` the old one, ``o`` the new one.
        cell_clip: the memory is clipped to ``[-cell_clip, cell_clip]`` before it is read.
        initializer: for the weights, instead of the layer's.
        num_proj: the output is ``P h`` of this width.
        proj_clip: the projected output is clipped to ``[-proj_clip, proj_clip]``.

    Shape:
        as :class:`BasicLSTMCell`; parameters ``w_f_diag``, ``w_i_diag``, ``w_o_diag`` ``(H,)`` and ``weight_hr``
        ``(num_proj, H)``, with which ``h`` and ``weight_hh`` are of width ``num_proj``.

    Reference:
        Gers, Schmidhuber 2000, https://doi.org/10.1109/IJCNN.2000.861302; Sak et al. 2014,
        https://arxiv.org/abs/1402.1128
    """

    def __init__(
        self,
        num_units: int,
        use_peepholes: bool = False,
        cell_clip: float | None = None,
        initializer: Initializer | None = None,
        num_proj: int | None = None,
        proj_clip: float | None = None,
        forget_bias: float = 1.0,
        state_is_tuple: bool = True,
        activation: Activation = torch.tanh,
    ):
        super().__init__(num_units, forget_bias, state_is_tuple, activation)
        self.use_peepholes, self.cell_clip, self.proj_clip = use_peepholes, cell_clip, proj_clip
        self.num_proj, self.output_size = num_proj, num_proj or num_units
        self._initializer = initializer
        if use_peepholes:
            self.w_f_diag, self.w_i_diag, self.w_o_diag = (nn.Parameter(torch.zeros(num_units)) for _ in range(3))
        if num_proj:
            self.weight_hr = nn.Parameter(torch.zeros(num_proj, num_units))

    @property
    def fused(self) -> str | None:
        plain = not self.use_peepholes and self.cell_clip is None and self.num_proj is None
        return super().fused if plain else None

    @property
    def n_arrays(self) -> int:  # type: ignore[override]
        return 2 + 3 * self.use_peepholes + (self.num_proj is not None)

    def build(self, n_in: int, initializer: Initializer) -> None:
        initializer, self._initializer = self._initializer or initializer, None
        super().build(n_in, initializer)
        for name in ("w_f_diag", "w_i_diag", "w_o_diag", "weight_hr"):
            if (parameter := getattr(self, name, None)) is not None:
                fill(parameter, tuple(parameter.shape), initializer)

    def advance(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, LSTMState]:
        h, c = state
        i, f, g, o = (x + F.linear(h, self.weight_hh, self.bias_hh)).chunk(4, 1)  # type: ignore[arg-type]
        if self.use_peepholes:
            i, f = i + self.w_i_diag * c, f + self.w_f_diag * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.activation(g)
        if self.cell_clip is not None:
            c = c.clamp(-self.cell_clip, self.cell_clip)
        if self.use_peepholes:
            o = o + self.w_o_diag * c
        h = torch.sigmoid(o) * self.activation(c)
        if self.num_proj is not None:
            h = F.linear(h, self.weight_hr)
            if self.proj_clip is not None:
                h = h.clamp(-self.proj_clip, self.proj_clip)
        return h, LSTMState(h, c)

    def from_original(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        named = super().from_original(arrays[:2])
        rest = list(arrays[2:])
        if self.use_peepholes:
            named.update(zip(("w_f_diag", "w_i_diag", "w_o_diag"), rest))
        if self.num_proj is not None:
            named["weight_hr"] = rest[-1].T
        return named


class MultiRNNCell(Cell):
    """Cells on top of each other, as one: each one's output is the next one's input, the state a tuple of theirs."""

    def __init__(self, cells: Sequence[Cell], state_is_tuple: bool = True):
        if not cells or not state_is_tuple:
            raise ValueError("MultiRNNCell takes a list of cells; its state is always a tuple of their states")
        super().__init__(cells[-1].num_units)
        self.cells = nn.ModuleList(cells)
        self.output_size = cells[-1].output_size

    def build(self, n_in: int, initializer: Initializer) -> None:
        for cell in self.cells:
            cell.build(n_in, initializer)  # type: ignore[operator]
            n_in = cell.output_size  # type: ignore[assignment]

    def zero_state(self, x: Tensor) -> tuple[Any, ...]:
        return tuple(cell.zero_state(x) for cell in self.cells)  # type: ignore[operator]

    def advance(self, x: Tensor, state: Sequence[Any]) -> tuple[Tensor, tuple[Any, ...]]:
        return self.advancing()(x, state)

    def advancing(self) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
        cells: list[Any] = list(self.cells)
        each = [cell.advancing() for cell in cells]

        def advance(x: Tensor, state: Sequence[Any]) -> tuple[Tensor, tuple[Any, ...]]:
            states = []
            for cell, step, old in zip(cells, each, state):
                x, new = step(cell.project(x), old)
                states.append(new)
            return x, tuple(states)

        return advance


class DropoutWrapper(Cell):
    """A cell whose input and output are dropped while training, afresh at every step; its state never is.

    Args:
        input_keep_prob, output_keep_prob: the probabilities of keeping.
    """

    def __init__(self, cell: Cell, input_keep_prob: float = 1.0, output_keep_prob: float = 1.0):
        super().__init__(cell.num_units)
        if not (0 < input_keep_prob <= 1 and 0 < output_keep_prob <= 1):
            raise ValueError(f"probabilities of keeping lie in (0, 1], got {input_keep_prob} and {output_keep_prob}")
        self.cell = cell
        self.output_size = cell.output_size
        self.input_keep_prob, self.output_keep_prob = input_keep_prob, output_keep_prob

    def build(self, n_in: int, initializer: Initializer) -> None:
        self.cell.build(n_in, initializer)

    def zero_state(self, x: Tensor) -> Any:
        return self.cell.zero_state(x)

    def project(self, x: Tensor) -> Tensor:
        return self.cell.project(F.dropout(x, 1 - self.input_keep_prob, self.training))

    def advance(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.advancing()(x, state)

    def advancing(self) -> Callable[[Tensor, Any], tuple[Tensor, Any]]:
        step = self.cell.advancing()

        def advance(x: Tensor, state: Any) -> tuple[Tensor, Any]:
            y, state = step(x, state)
            return F.dropout(y, 1 - self.output_keep_prob, self.training), state

        return advance
