"""A translation model: an encoder, a decoder with attention, and a softmax over the words of the target's language."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..initializers import glorot_uniform, random_uniform
from ..kernels.linear_cross_entropy import linear_cross_entropy
from ..kernels.samplers import log_uniform_sampler
from ..utils.evaluate import modes_kept
from ._encoder import Encoder
from ._recurrence import CellStack, backwards
from ._word_losses import Sampler, above_average, sampled_at_each_step, sampled_at_once
from .attention import Memory
from .attention_decoder import AttentionDecoder, DecoderState
from .base import Activation, Initializer, fill
from .cells import BasicLSTMCell, Cell, GRUCell
from .decoding import Decoded, beam_search, greedy_search
from .dynamic import marked


class KeepProbabilities(NamedTuple):
    """The probabilities of keeping, while training, what each part gives: words' vectors, encoder, decoder."""

    embedding: float = 1.0
    encoder: float = 1.0
    decoder: float = 1.0


class EmbeddingAttentionSeq2Seq(nn.Module):
    """Reads a sentence and writes another: TensorFlow's ``embedding_attention_seq2seq``, and what came after it.

    ``model.loss(source, target)`` trains, ``model.decode(source, max_length=50)`` translates. Sentences are rows of
    ids padded with 0. The plain arguments make TensorFlow's model to the letter: the encoder reads the sentence
    backwards, the attention sees padding, the loss is a sampled softmax. Each of the options leaves that behind.

    Args:
        source_vocab_size, target_vocab_size: ``V_s`` and ``V_t``.
        size: the units of every cell, in all layers.
        num_layers: the cells on top of each other, in the encoder and in the decoder.
        use_lstm: ``BasicLSTMCell`` instead of ``GRUCell``.
        num_samples: the words that training's softmax draws besides the right one. With 0, or no fewer than there are,
            the softmax is full, and as in TensorFlow the decoder maps to the vocabulary by itself, with a matrix of
            ``V_t x V_t``: see ``projection``.
        name: of the model.
        cell_fn: makes the cells, called with ``size``, instead of ``use_lstm``: ``CudnnCompatibleGRUCell`` is the
            fastest on a GPU.
        embedding_size: the width of the words' vectors; ``size`` unless given.
        projection: whether a matrix ``proj_w`` ``(V_t, n)`` turns the decoder's outputs into logits; unless given, as
            TensorFlow, when the softmax is sampled. ``True`` with ``num_samples=0`` is what a small vocabulary wants.
        tie_embeddings: ``proj_w`` is the target's table of vectors; the decoder's outputs have their width.
        bidirectional: a second encoder reads in the other direction.
        reverse_source: the (first) encoder reads each sentence from its end.
        mask_attention: the attention does not see padding. It never sees what lies beyond given lengths.
        keep: the probabilities of keeping, while training, of the words' vectors, the encoder's outputs and the
            decoder's outputs: three, or one for all.
        label_smoothing: the share of the target's probability that is spread evenly over the vocabulary, with a full
            softmax while training.
        output_act: applied to the decoder's outputs before ``proj_w``; ``torch.tanh`` in Bahdanau's model.
        share_samples: draw one set of words for all steps of a batch instead of one for each step.
        sampler: draws them, called as ``sampler(labels, num_samples, target_vocab_size)``.
        initializer: fills the matrices; biases are 0, a GRU's gates 1.

    Shape:
        source ``(N, I)``, target ``(N, O)`` int64. Parameters are named in :attr:`all_params`' order.

    Raises:
        ValueError, TypeError: sizes, dtypes or ids that do not fit.

    Reference:
        Vinyals et al. 2015, Grammar as a Foreign Language, arXiv:1412.7449; Bahdanau, Cho, Bengio 2015,
        arXiv:1409.0473; Jean et al. 2015, arXiv:1412.2007; Press, Wolf 2017, arXiv:1608.05859 for tied tables.

    >>> import torch, torchlayer as tl
    >>> model = EmbeddingAttentionSeq2Seq(50, 40, size=16, num_samples=0, projection=True, mask_attention=True)
    >>> source, target = torch.tensor([[7, 8, 9], [5, 0, 0]]), torch.tensor([[4, 6, 2], [9, 2, 0]])
    >>> model(source, model.shifted(target)).shape
    torch.Size([2, 3, 40])
    >>> model.loss(source, target).backward()
    >>> model.decode(source, max_length=5, beam=3).ids.shape
    torch.Size([2, 5])
    """

    PAD_ID, GO_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        size: int,
        num_layers: int = 1,
        use_lstm: bool = False,
        num_samples: int = 512,
        name: str | None = None,
        *,
        cell_fn: Callable[..., Cell] | None = None,
        embedding_size: int | None = None,
        projection: bool | None = None,
        tie_embeddings: bool = False,
        bidirectional: bool = False,
        reverse_source: bool = True,
        mask_attention: bool = False,
        keep: float | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        output_act: Activation | None = None,
        share_samples: bool = False,
        sampler: Sampler = log_uniform_sampler,
        initializer: Initializer = glorot_uniform(),  # noqa: B008  (a recipe that nothing changes)
    ):
        super().__init__()
        sizes = {
            "source_vocab_size": source_vocab_size,
            "target_vocab_size": target_vocab_size,
            "size": size,
            "num_layers": num_layers,
            "embedding_size": size if embedding_size is None else embedding_size,
        }
        if wrong := {key: n for key, n in sizes.items() if n < 1}:
            raise ValueError(f"sizes of a translation model are at least 1, got {wrong}")
        if num_samples < 0:
            raise ValueError(f"num_samples is the number of words drawn, 0 for a full softmax, got {num_samples}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share of the probability, in [0, 1), got {label_smoothing}")
        sampled = 0 < num_samples < target_vocab_size
        if projection is False and (sampled or tie_embeddings):
            raise ValueError(
                "a sampled softmax and tied embeddings need the projection; leave projection=False away, or pass "
                "num_samples=0, tie_embeddings=False"
            )
        if sampled and label_smoothing:
            raise ValueError("label_smoothing needs a full softmax; pass num_samples=0, projection=True")
        self.name = name
        self.source_vocab_size, self.target_vocab_size = source_vocab_size, target_vocab_size
        self.size, self.num_layers = size, num_layers
        self.num_samples = num_samples if sampled else 0
        self.projection = sampled or tie_embeddings if projection is None else projection
        self.tie_embeddings, self.reverse_source, self.mask_attention = tie_embeddings, reverse_source, mask_attention
        self.keep = _keep(keep)
        if self.keep.decoder < 1 and not self.projection:
            raise ValueError(
                "dropping decoder outputs without a projection would drop logits; pass projection=True, or "
                "keep=(embedding, encoder, 1.0)"
            )
        self.label_smoothing, self.share_samples, self.sampler = label_smoothing, share_samples, sampler
        self.output_act = output_act

        n_embedding = sizes["embedding_size"]
        n_outputs = n_embedding if tie_embeddings else size if self.projection else target_vocab_size
        make = cell_fn or (BasicLSTMCell if use_lstm else GRUCell)
        cells = [[make(size) for _ in range(num_layers)] for _ in range(3 if bidirectional else 2)]
        if not all(isinstance(cell, Cell) for cell in cells[0]):
            raise TypeError(f"cell_fn makes cells, got {type(cells[0][0]).__name__}; subclass tl.layers.Cell")
        if self.projection:
            self.proj_w = nn.Parameter(torch.empty(target_vocab_size, n_outputs))
            self.proj_b = nn.Parameter(torch.zeros(target_vocab_size))
            fill(self.proj_w, tuple(self.proj_w.shape), initializer)
        # TensorFlow's embedding wrapper begins with a variance of 1
        self.source_embeddings = nn.Parameter(torch.empty(source_vocab_size, n_embedding))
        fill(self.source_embeddings, tuple(self.source_embeddings.shape), random_uniform(-math.sqrt(3), math.sqrt(3)))
        self.encoder = Encoder(n_embedding, cells[0], cells[1] if bidirectional else None, initializer)
        if tie_embeddings:
            self.target_embeddings = self.proj_w
        else:
            self.target_embeddings = nn.Parameter(torch.empty(target_vocab_size, n_embedding))
            fill(self.target_embeddings, tuple(self.target_embeddings.shape), initializer)
        # TensorFlow maps the cells' output to the vocabulary before the attention's joins it, if there is no projection
        self.decoder = AttentionDecoder(
            CellStack(cells[-1]), size, n_outputs, n_between=None if self.projection else target_vocab_size
        )
        self.decoder.build(n_embedding, self.encoder.n_outputs, initializer)

    # Training ----------------------------------------------------------------

    def forward(self, source: Tensor, target_in: Tensor, source_lengths: Tensor | None = None) -> Tensor:
        """The logits of every next word, ``(N, O, V_t)``, where the decoder reads ``target_in``.

        Args:
            source_lengths: ``(N,)``; nothing beyond is read or looked at. Without them all columns are, padding
                included, unless the model has ``mask_attention``: then they are the numbers of ids other than 0.
        """
        self._check(source, target_in, source_lengths)
        memory, state = self._encode(source, source_lengths)
        return self._logits(self._outputs(target_in, memory, state))

    def loss(
        self,
        source: Tensor,
        target: Tensor,
        source_lengths: Tensor | None = None,
        *,
        reduction: Literal["token", "sentence"] = "token",
    ) -> Tensor:
        """The cross-entropy of the target's words, padding left out; its exponential is the perplexity.

        While training it is sampled, if the model samples, and smooth, if it smooths; in ``eval()`` it is exact. For a
        captured step, ``tl.TrainStep(model.loss, optimizer)``.

        Args:
            target: each sentence with ``EOS_ID`` at its end, without ``GO_ID``; see :meth:`shifted`.
            source_lengths: as for :meth:`forward`.
            reduction: the mean over all words, or TensorLayer's: over each sentence's words, then over sentences.
        """
        self._check(source, target, source_lengths)
        memory, state = self._encode(source, source_lengths)
        outputs = self._outputs(self.shifted(target), memory, state)
        if reduction == "token" and not (self.training and self.num_samples):
            return self._mean_loss(outputs, target)
        weights = (target != self.PAD_ID).to(outputs.dtype)
        losses = self._losses(outputs, target)
        if reduction == "token":
            return (losses * weights).sum() / weights.sum()
        if reduction != "sentence":
            raise ValueError(f"reduction is 'token' or 'sentence', got {reduction!r}")
        return mean_by_sentence(losses, weights)

    def shifted(self, target: Tensor) -> Tensor:
        """What the decoder reads while it learns to write ``target``: ``GO_ID``, then all but the last column."""
        return F.pad(target[:, :-1], (1, 0), value=self.GO_ID)

    # Translating -------------------------------------------------------------

    @torch.no_grad()
    def decode(
        self,
        source: Tensor,
        source_lengths: Tensor | None = None,
        *,
        max_length: int,
        beam: int = 1,
        length_penalty: float = 1.0,
        return_attention: bool = False,
    ) -> Decoded:
        """Translate: :func:`greedy_search` or, with ``beam`` above 1, :func:`beam_search`. Nothing is dropped.

        Args:
            source_lengths: as for :meth:`forward`.
            max_length: the most words of a translation, its end included.
            length_penalty: 0 prefers short translations, 1 nearly the mean logarithm of a word's probability.
            return_attention: for each word written, the weights over the words read, ``(N, max_length, I)``.
        """
        self._check(source, None, source_lengths)
        with modes_kept(self):
            self.eval()
            memory, state = self._encode(source, source_lengths)
            first = torch.full_like(source[:, 0], self.GO_ID, dtype=torch.int64)
            settings = {
                "max_length": max_length,
                "end_id": self.EOS_ID,
                "pad_id": self.PAD_ID,
                "length_penalty": length_penalty,
                "return_attention": return_attention,
            }
            if beam == 1:
                found = greedy_search(self._advance(memory), state, first, **settings)
            else:
                found = beam_search(self._advance(memory), state, first, beam=beam, **settings)
            if found.attention is None or not self.reverse_source:
                return found
            lengths = self._lengths(source, source_lengths)
            return found._replace(attention=backwards(found.attention.transpose(1, 2), lengths).transpose(1, 2))

    # Parameters --------------------------------------------------------------

    npz_axes: ClassVar = {"proj_w": (1, 0)}  # in the original's files it is (n, V_t)

    @property
    def all_params(self) -> list[Tensor]:
        """Every parameter once, in the original's order."""
        projection = (self.proj_w, self.proj_b) if self.projection else ()
        decoder, attention = self.decoder, self.decoder.attention
        between = () if decoder.n_between is None else (decoder.W_between, decoder.b_between)
        ordered = [
            *(*projection, self.source_embeddings, *self.encoder.parameters(), self.target_embeddings),
            *(attention.W_memory, attention.v, decoder.W_input, decoder.b_input, *decoder.cells.parameters()),
            *(*between, attention.W_query, attention.b_query, decoder.W_output, decoder.b_output),
        ]
        return list(dict.fromkeys(ordered))

    def extra_repr(self) -> str:
        vocabularies = f"{self.source_vocab_size}, {self.target_vocab_size}"
        return f"{vocabularies}, size={self.size}, num_layers={self.num_layers}, num_samples={self.num_samples}"

    # Parts -------------------------------------------------------------------

    def _encode(self, source: Tensor, lengths: Tensor | None) -> tuple[Memory, DecoderState]:
        """Sentences as they are written to what the decoder looks at and begins with."""
        lengths = self._lengths(source, lengths)
        if self.reverse_source:
            source = backwards(source[..., None], lengths)[..., 0]
        return self._read(source, lengths, None)

    def _read(self, ids: Tensor, lengths: Tensor | None, mask: Tensor | None) -> tuple[Memory, DecoderState]:
        """The same of sentences in the order in which the encoder reads them."""
        x = self._drop(F.embedding(ids, self.source_embeddings), self.keep.embedding)
        values, cells = self.encoder(x, lengths)
        values = self._drop(values, self.keep.encoder)
        memory = self.decoder.attention.prepare(values, lengths, mask)
        return memory, self.decoder.begin(cells, memory)

    def _lengths(self, source: Tensor, lengths: Tensor | None) -> Tensor | None:
        if lengths is None:
            return (source != self.PAD_ID).sum(1) if self.mask_attention else None
        return lengths.long() if lengths.device.type == "cpu" else marked(lengths, source.shape[1])

    def _outputs(self, target_in: Tensor, memory: Memory, state: DecoderState) -> Tensor:
        """The decoder's outputs at all steps, ``(N, O, n)``."""
        x = self._drop(F.embedding(target_in, self.target_embeddings), self.keep.embedding)
        y, context, _ = self.decoder.run(x, memory, state)
        return self._drop(self._read_out(y, context), self.keep.decoder)

    def _read_out(self, y: Tensor, context: Tensor) -> Tensor:
        outputs = self.decoder.read_out(y, context)
        return outputs if self.output_act is None else self.output_act(outputs)

    def _logits(self, outputs: Tensor) -> Tensor:
        return F.linear(outputs, self.proj_w, self.proj_b) if self.projection else outputs

    def _advance(self, memory: Memory) -> Callable[..., tuple[Tensor, DecoderState, Tensor]]:
        """One step of the decoder as the searches call it."""
        entry = self.decoder.entry()

        def advance(ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState, Tensor]:
            x = entry.of_inputs(F.embedding(ids, self.target_embeddings))
            y, weights, state = self.decoder.advance(x, entry, memory, state)
            return self._logits(self._read_out(y, state.context)), state, weights

        return advance

    def _drop(self, x: Tensor, keep: float) -> Tensor:
        return F.dropout(x, 1 - keep) if self.training and keep < 1 else x

    # Losses ------------------------------------------------------------------

    def _mean_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The full softmax's, over all words that are no padding: one call that keeps no logits."""
        smoothing = self.label_smoothing if self.training else 0.0
        if not self.projection:
            flat = outputs.flatten(0, 1)
            return F.cross_entropy(flat, target.flatten(), ignore_index=self.PAD_ID, label_smoothing=smoothing)
        loss = linear_cross_entropy(outputs, self.proj_w, target, self.proj_b, ignore_index=self.PAD_ID)
        if smoothing:
            words = target != self.PAD_ID
            above = above_average(outputs, target, self.proj_w, self.proj_b)
            loss = loss + smoothing * (above * words).sum() / words.sum()
        return loss

    def _losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Each word's, ``(N, O)``, padding's too."""
        if self.training and self.num_samples:
            settings = self.proj_w, self.proj_b, self.num_samples, self.sampler
            return (sampled_at_once if self.share_samples else sampled_at_each_step)(outputs, target, *settings)
        smoothing = self.label_smoothing if self.training else 0.0
        if not self.projection:
            flat = F.cross_entropy(outputs.flatten(0, 1), target.flatten(), reduction="none", label_smoothing=smoothing)
            return flat.view(target.shape)
        losses = linear_cross_entropy(outputs, self.proj_w, target, self.proj_b, reduction="none")
        if smoothing:
            losses = losses + smoothing * above_average(outputs, target, self.proj_w, self.proj_b)
        return losses

    # Errors ------------------------------------------------------------------

    def _check(self, source: Tensor, target: Tensor | None, lengths: Tensor | None) -> None:
        who = f"{type(self).__name__} '{self.name}'" if self.name else type(self).__name__
        n = _check_ids(who, "source", source, self.source_vocab_size)
        if target is not None and _check_ids(who, "target", target, self.target_vocab_size) != n:
            raise ValueError(
                f"{who} needs a target for each source, got source {tuple(source.shape)} and target "
                f"{tuple(target.shape)}"
            )
        if lengths is None:
            return
        if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int32, torch.int64):
            kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
            raise TypeError(f"{who} takes source_lengths as a tensor of integers, got {kind}")
        if lengths.shape != (n,):
            raise ValueError(f"{who} needs a length for each of {n} sources, got source_lengths {tuple(lengths.shape)}")
        if lengths.device.type == "cpu" and not torch.compiler.is_compiling():
            bad = ((lengths < 0) | (lengths > source.shape[1])).nonzero()
            if len(bad):
                row = int(bad[0])
                raise ValueError(
                    f"{who} got sources of {source.shape[1]} ids, so lengths lie in [0, {source.shape[1]}], and "
                    f"{int(lengths[row])} for sentence {row}"
                )


def _check_ids(who: str, argument: str, ids: Tensor, n_words: int) -> int:
    if not isinstance(ids, Tensor):
        raise TypeError(f"{who} takes {argument} as a tensor of ids (N, T), got {type(ids).__name__}")
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{who} takes {argument} ids of int64 or int32, got {ids.dtype}; convert with .long()")
    if ids.dim() != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"{who} takes {argument} ids (N, T), a row a sentence, with at least one column, got {tuple(ids.shape)}"
        )
    if ids.shape[0] == 0:
        raise ValueError(f"{who} got an empty batch, {argument} {tuple(ids.shape)}; it needs at least one sentence")
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        bad = ((ids < 0) | (ids >= n_words)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise IndexError(
                f"{who} has {argument} ids from 0 to {n_words - 1}, got {int(ids[row, column])} in sentence {row} at "
                f"place {column}"
            )
    return ids.shape[0]


def _keep(keep: float | Sequence[float] | None) -> KeepProbabilities:
    if keep is None:
        return KeepProbabilities()
    three = (keep,) * 3 if isinstance(keep, int | float) else tuple(keep)
    if len(three) != 3 or not all(0 < k <= 1 for k in three):
        raise ValueError(
            f"keep is a probability of keeping, in (0, 1], or three (embedding, encoder, decoder), got {keep}"
        )
    return KeepProbabilities(*three)


def mean_by_sentence(losses: Tensor, weights: Tensor) -> Tensor:
    """TensorFlow's loss: the weighted mean over each sentence's words, then the mean over sentences."""
    return ((losses * weights).sum(1) / (weights.sum(1) + 1e-12)).mean()
