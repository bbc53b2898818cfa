"""Two recurrent networks in a row: one reads a sequence, the other writes one, with what the first remembers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..initializers import random_uniform
from ..network import Network, Shape, stack
from ._recurrence import Keep, masked
from .attention_decoder import AttentionDecoder
from .base import Initializer, Layer, refuse_integers
from .dynamic import DynamicRNNLayer
from .lengths import advanced_indexing_op, retrieve_seq_length_op
from .recurrent import CellFn, _width
from .wrapping import LambdaLayer


class Seq2SeqState(NamedTuple):
    """Where a decoder stands. Given to ``step`` it goes on from there, and the encoder is not run.

    Attributes:
        encode: the encoder's state after its last step.
        decode: the decoder's.
        memory: what else the decoder reads: nothing, the summary ``(N, H)``, or the encoder's outputs prepared as a
            :class:`~torchlayer.layers.attention.Memory`.
    """

    encode: Any
    decode: Any
    memory: Any = ()


class EncoderDecoder(Layer):
    """What the sequence-to-sequence layers share: two inputs, lengths for each, an encoder and a state.

    Called, the layer reads both sequences: the decoder is shown what it should have written so far. To write without
    being shown, call :meth:`step` with one step at a time, and with the state it returned.

    Lengths are networks whose outputs are ``(N,)`` integers; the layer alone takes them when it is called, ``layer(x,
    y, x_lengths, y_lengths)``. Without them they are the numbers of steps that are not all zero, which embeddings of a
    padding id are not: give them.
    """

    length_names: ClassVar[tuple[str, str]] = ("in_sequence_length", "out_sequence_length")

    if not TYPE_CHECKING:  # to a type checker Layer.__new__ says it all

        def __new__(cls, *args, **kwargs):
            given = inspect.signature(cls.__init__).bind(None, *args, **kwargs).arguments
            del given["self"]
            nets = _networks(cls, given)
            if nets is None:
                return nn.Module.__new__(cls)
            return stack(nets, cls(**given))

    def __init__(
        self,
        net_encode_in: None = None,
        net_decode_in: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 256,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        in_sequence_length: None = None,
        out_sequence_length: None = None,
        initial_state: Any = None,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
        return_seq_2d: bool = False,
        name: str | None = None,
        *,
        initial_state_decode: Any = None,
    ):
        super().__init__(name=name)
        nets = (net_encode_in, net_decode_in, in_sequence_length, out_sequence_length)
        for argument, net in zip((*_INPUTS, *self.length_names), nets):
            if net is not None:
                raise TypeError(
                    f"{argument} is a network, got {type(net).__name__}; make the layer alone and call it on tensors, "
                    "layer(encode_in, decode_in, encode_lengths, decode_lengths)"
                )
        self.n_hidden, self.n_layer, self.return_seq_2d = n_hidden, n_layer, return_seq_2d
        self.initial_state_decode = initial_state_decode
        settings: dict[str, Any] = {
            "cell_fn": cell_fn,
            "cell_init_args": cell_init_args,
            "n_hidden": n_hidden,
            "initializer": initializer,
            "dropout": dropout,
            "n_layer": n_layer,
        }
        self.encode = DynamicRNNLayer(None, initial_state=initial_state, name=name and f"{name}_encode", **settings)
        decode: Any = DynamicRNNLayer(None, return_seq_2d=return_seq_2d, name=name and f"{name}_decode", **settings)
        self.decode = self._decoder(decode)

    def _decoder(self, layer: DynamicRNNLayer) -> Any:
        """What decodes, made of the cells of this layer; it itself unless a subclass has something else."""
        return layer

    def ensure_built(self, *shapes: Shape) -> EncoderDecoder:
        if len(shapes) < 2:
            raise TypeError(
                f"it takes two inputs, what the encoder reads and what the decoder reads, got {len(shapes)}; write "
                f"{type(self).__name__}(net_encode_in, net_decode_in, ...)"
            )
        return super().ensure_built(*shapes)

    def forward(
        self,
        encode_in: Tensor,
        decode_in: Tensor,
        encode_lengths: Tensor | None = None,
        decode_lengths: Tensor | None = None,
    ) -> Tensor:
        return self._run(encode_in, decode_in, encode_lengths, decode_lengths, None)[0]

    def step(
        self,
        encode_in: Tensor,
        decode_in: Tensor,
        encode_lengths: Tensor | None = None,
        decode_lengths: Tensor | None = None,
        state: Seq2SeqState | None = None,
    ) -> tuple[Tensor, Seq2SeqState]:
        """Run the decoder from ``state``, or else from what the encoder makes of ``encode_in``.

        Returns its output and where it stands: a :class:`Seq2SeqState`.
        """
        return self._run(encode_in, decode_in, encode_lengths, decode_lengths, state)

    def _run(
        self,
        encode_in: Tensor,
        decode_in: Tensor,
        encode_lengths: Tensor | None,
        decode_lengths: Tensor | None,
        state: Seq2SeqState | None,
    ) -> tuple[Tensor, Seq2SeqState]:
        raise NotImplementedError

    def _encoded(self, encode_in: Tensor, decode_in: Tensor, lengths: Tensor | None) -> tuple[Tensor, Any, Any, Tensor]:
        """The encoder's outputs and last state, the state that the decoder begins with, and the lengths."""
        if encode_in.shape[0] != decode_in.shape[0]:
            raise ValueError(
                f"{type(self).__name__} reads pairs of sequences, got {encode_in.shape[0]} for the encoder and "
                f"{decode_in.shape[0]} for the decoder; one must be written for each that is read"
            )
        _width(tuple(encode_in.shape))
        lengths = retrieve_seq_length_op(encode_in) if lengths is None else lengths
        y, end = self.encode.step(encode_in, lengths)
        return y, end, end if self.initial_state_decode is None else self.initial_state_decode, lengths

    def extra_repr(self) -> str:
        return f"n_hidden={self.n_hidden}, n_layer={self.n_layer}"


class Seq2Seq(EncoderDecoder):
    """An encoder whose last state is the decoder's first: Sutskever's sequence to sequence learning.

    Args:
        net_encode_in, net_decode_in: networks of vectors, what the encoder and what the decoder read. While training
            the latter is a start symbol and then the sequence to write.
        cell_fn, cell_init_args, n_hidden, initializer: as for :class:`torchlayer.layers.RNNLayer`, of both.
        encode_sequence_length, decode_sequence_length: networks of lengths ``(N,)``. Beyond its length a sequence's
            outputs are 0.
        initial_state: where the encoder begins, instead of zero.
        dropout: the probability of keeping, while training, what enters and what leaves each cell: one number, or
            ``(input, output)``. ``None`` keeps all.
        n_layer: the number of cells on top of each other, in the encoder and in the decoder.
        return_seq_2d: give the outputs as ``(N * T, H)``.
        initial_state_decode: where the decoder begins, instead of at the encoder's end.

    Shape:
        ``(N, I, D)`` and ``(N, T, D') -> (N, T, H)``, or ``(N * T, H)`` with ``return_seq_2d``; parameters
        ``encode.cells.0.weight_ih``, …, and ``decode.cells.0.weight_ih``, ….

    Raises:
        ValueError: not two sequences of vectors for each other; a length is beyond its sequence (on the CPU).

    Reference:
        Sutskever, Vinyals, Le 2014, https://arxiv.org/abs/1409.3215

    >>> import torch, torchlayer as tl
    >>> asked = tl.layers.InputLayer((None, None), torch.int64, name="asked")
    >>> told = tl.layers.InputLayer((None, None), torch.int64, name="told")
    >>> words = tl.layers.EmbeddingInputlayer(vocabulary_size=20, embedding_size=8, name="words")  # shared by both
    >>> net = tl.layers.Seq2Seq(
    ...     tl.layers.stack(asked, words, name="asked_words"), tl.layers.stack(told, words, name="told_words"),
    ...     cell_fn=tl.layers.BasicLSTMCell, n_hidden=16, return_seq_2d=True, name="seq2seq")
    >>> net = tl.layers.DenseLayer(net, n_units=20, name="output")
    >>> net(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)).shape
    torch.Size([6, 20])
    >>> asked, word = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 1, dtype=torch.int64)
    >>> state = None
    >>> for _ in range(4):  # write four words, each the most probable one
    ...     logits, state = net.step(asked, word, state=state)
    ...     word = logits.argmax(1, keepdim=True)
    >>> state["seq2seq"].decode.h.shape
    torch.Size([2, 16])
    """

    length_names = ("encode_sequence_length", "decode_sequence_length")

    def __init__(
        self,
        net_encode_in: None = None,
        net_decode_in: None = None,
        cell_fn: CellFn | None = None,
        cell_init_args: Mapping[str, Any] | None = None,
        n_hidden: int = 256,
        initializer: Initializer = random_uniform(-0.1, 0.1),
        encode_sequence_length: None = None,
        decode_sequence_length: None = None,
        initial_state: Any = None,
        dropout: float | Sequence[float] | None = None,
        n_layer: int = 1,
        return_seq_2d: bool = False,
        name: str | None = None,
        *,
        initial_state_decode: Any = None,
    ):
        nets = (net_encode_in, net_decode_in)
        lengths = (encode_sequence_length, decode_sequence_length)
        settings = (initial_state, dropout, n_layer, return_seq_2d, name)
        super().__init__(
            *nets, cell_fn, cell_init_args, n_hidden, initializer, *lengths, *settings,
            initial_state_decode=initial_state_decode,
        )  # fmt: skip

    def build(self, *shapes: Shape) -> None:
        self.encode.ensure_built(shapes[0])
        self.decode.ensure_built(shapes[1])

    def _run(self, encode_in, decode_in, encode_lengths, decode_lengths, state):
        if state is None:
            _, end, begin, _ = self._encoded(encode_in, decode_in, encode_lengths)
            state = Seq2SeqState(end, begin)
        y, decode = self.decode.step(decode_in, decode_lengths, state.decode)
        return y, state._replace(decode=decode)


class PeekySeq2Seq(EncoderDecoder):
    """A :class:`Seq2Seq` whose decoder sees the encoder's last output again at every step, beside its input.

    Args:
        in_sequence_length, out_sequence_length: networks of lengths, of what the encoder and the decoder read.

    The other arguments are those of :class:`Seq2Seq`.

    Shape:
        as :class:`Seq2Seq`; the decoder's first cell reads vectors of width ``D' + H``.

    Reference:
        Cho et al. 2014, https://arxiv.org/abs/1406.1078

    >>> import torch, torchlayer as tl
    >>> layer = tl.layers.PeekySeq2Seq(cell_fn=tl.layers.GRUCell, n_hidden=16)
    >>> layer(torch.randn(2, 5, 8), torch.randn(2, 3, 4)).shape
    torch.Size([2, 3, 16])
    """

    def build(self, *shapes: Shape) -> None:
        self.encode.ensure_built(shapes[0])
        n_in, n_summary = _width(shapes[1]), self.encode.stacks[0].cells()[-1].output_size
        self.decode.ensure_built((*shapes[1][:2], n_in + n_summary))

    def _run(self, encode_in, decode_in, encode_lengths, decode_lengths, state):
        if state is None:
            y, end, begin, lengths = self._encoded(encode_in, decode_in, encode_lengths)
            state = Seq2SeqState(end, begin, advanced_indexing_op(y, lengths))
        if decode_in.dim() == 3:  # else the recurrent layer complains
            decode_lengths = retrieve_seq_length_op(decode_in) if decode_lengths is None else decode_lengths
            summary = state.memory[:, None].expand(-1, decode_in.shape[1], -1)
            decode_in = torch.cat([decode_in, summary.to(decode_in.dtype)], 2)  # (N, T, D' + H)
        y, decode = self.decode.step(decode_in, decode_lengths, state.decode)
        return y, state._replace(decode=decode)


class AttentionSeq2Seq(EncoderDecoder):
    """A :class:`Seq2Seq` whose decoder looks, after every step, at what the encoder put out at each of its steps.

    The decoder is :class:`torchlayer.layers.AttentionDecoder`, TensorFlow's; what lies beyond a sequence's end is not
    looked at.

    Args:
        in_sequence_length, out_sequence_length: networks of lengths, of what the encoder and the decoder read.

    The other arguments are those of :class:`Seq2Seq`.

    Shape:
        as :class:`Seq2Seq`; parameters ``encode.cells.0.weight_ih``, … and those of the decoder, ``decode.W_input``,
        ``decode.cells.0.weight_ih``, ``decode.attention.W_memory``, ….

    Reference:
        Bahdanau, Cho, Bengio 2015, https://arxiv.org/abs/1409.0473

    >>> import torch, torchlayer as tl
    >>> layer = tl.layers.AttentionSeq2Seq(cell_fn=tl.layers.GRUCell, n_hidden=16)
    >>> layer(torch.randn(2, 5, 8), torch.randn(2, 3, 4), torch.tensor([5, 2])).shape
    torch.Size([2, 3, 16])
    """

    decode: AttentionDecoder

    def _decoder(self, layer: DynamicRNNLayer) -> AttentionDecoder:
        cells = layer.stacks[0]
        return AttentionDecoder(cells, self.n_hidden, cells.cells()[-1].output_size)

    def build(self, *shapes: Shape) -> None:
        initializer = self.encode._initializer
        self.encode.ensure_built(shapes[0])
        self.decode.build(_width(shapes[1]), self.encode.stacks[0].cells()[-1].output_size, initializer)

    def _run(self, encode_in, decode_in, encode_lengths, decode_lengths, state):
        _width(tuple(decode_in.shape), self.decode.n_inputs)
        refuse_integers(decode_in, "a recurrent layer")
        if state is None:
            y, end, begin, lengths = self._encoded(encode_in, decode_in, encode_lengths)
            memory = self.decode.attention.prepare(y, lengths)
            (cells,) = self.encode._begin(begin, decode_in)
            state = Seq2SeqState(end, self.decode.begin(cells, memory), memory)
        lengths = decode_lengths
        lengths = retrieve_seq_length_op(decode_in) if lengths is None else self.encode._checked(lengths, decode_in)
        lengths = lengths.to(decode_in.device)
        keep = self.encode.dropout if self.training else Keep()
        y, context, decode = self.decode.run(decode_in, state.memory, state.decode, lengths, keep)
        y = masked(self.decode.read_out(y, context), lengths)  # (N, T, H)
        return y.flatten(0, 1) if self.return_seq_2d else y, state._replace(decode=decode)


_INPUTS = ("net_encode_in", "net_decode_in")


def _networks(cls: type[EncoderDecoder], given: dict[str, Any]) -> list[Network] | None:
    """The networks among the arguments, which are taken out of them; ``None`` if there are none."""
    names = (*_INPUTS, *cls.length_names)
    first = given.get("net_encode_in")
    if isinstance(first, list | tuple):  # Layer([net, net], ...), as any layer that reads several
        given.update(zip(names, first))
    nets = {name: given[name] for name in names if isinstance(given.get(name), Network)}
    if not nets:
        return None
    for name in _INPUTS:
        if name not in nets:
            raise TypeError(
                f"{cls.__name__} got a network as {next(iter(nets))} but {type(given.get(name)).__name__} as {name}; "
                f"give it both, {cls.__name__}(net_encode_in, net_decode_in, ...)"
            )
    encode_length, decode_length = names[2:]
    if decode_length in nets and encode_length not in nets:  # inputs are told apart by their order
        label = f"{given['name']}_lengths" if given.get("name") else None
        nets[encode_length] = stack(nets["net_encode_in"], LambdaLayer(fn=retrieve_seq_length_op, name=label))
    for name in nets:
        given.pop(name, None)
    return [nets[name] for name in names if name in nets]
