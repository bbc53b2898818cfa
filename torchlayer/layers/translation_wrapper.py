"""TensorLayer's translation model: buckets of lengths, batches drawn from them, and a training step of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network import print_tensors
from ..utils.evaluate import modes_kept
from .translation import EmbeddingAttentionSeq2Seq, mean_by_sentence

Batch = tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]
Pair = tuple[Sequence[int], Sequence[int]]


class EmbeddingAttentionSeq2seqWrapper(EmbeddingAttentionSeq2Seq):
    """The translation model of TensorFlow's tutorial with its buckets, its batches and its training step.

    ``step(*model.get_batch(data, bucket), bucket, False)`` trains on one batch. A batch has the shape of its bucket:
    sources are padded in front and reversed, targets padded behind. For batches of any shape, beam search and captured
    steps there is all of :class:`EmbeddingAttentionSeq2Seq`.

    Args:
        source_vocab_size, target_vocab_size, size, num_layers, use_lstm, num_samples: the model's, see
            :class:`EmbeddingAttentionSeq2Seq`.
        buckets: the shapes of batches, ``(I, O)``, from short to long.
        max_gradient_norm: the norm to which a step clips the gradient.
        batch_size: of :meth:`get_batch`; may be changed at any time.
        learning_rate: of plain SGD; may be changed at any time.
        learning_rate_decay_factor: what :meth:`decay_learning_rate` multiplies it with.
        forward_only: the decoder of :meth:`step` reads the words that it has chosen, and cannot be trained.
        name: of the model.
        options: those of :class:`EmbeddingAttentionSeq2Seq`.

    Attributes:
        optimizer: ``torch.optim.SGD``; the learning rate and ``global_step`` are part of its state, so that a
            checkpoint of model and optimizer has all.

    Raises:
        ValueError: buckets that are none, or not in order; numbers out of range.

    Reference:
        Sutskever, Vinyals, Le 2014, arXiv:1409.3215, for reversed sources. The gradient's norm is that of dense
        gradients, where TensorFlow counts each look-up of a word's vector by itself and so clips less.

    >>> import random, torch
    >>> _ = torch.manual_seed(0)
    >>> model = EmbeddingAttentionSeq2seqWrapper(10, 10, [(3, 3), (6, 6)], 32, 2, 5.0, 3, 0.3, 0.99, num_samples=8)
    >>> data = [[([5, 7], [4]), ([6], [8])], [([5, 7, 9, 4], [4, 6, 8, 5])]]  # for each bucket, pairs of sentences
    >>> for _ in range(5):
    ...     norm, loss, _ = model.step(*model.get_batch(data, 0), 0, False)
    >>> model.global_step
    5
    >>> _, loss, logits = model.step(*model.get_batch(data, 1), 1, True)
    >>> len(logits), logits[0].shape
    (6, torch.Size([3, 10]))
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        buckets: Sequence[tuple[int, int]],
        size: int,
        num_layers: int,
        max_gradient_norm: float,
        batch_size: int,
        learning_rate: float,
        learning_rate_decay_factor: float,
        use_lstm: bool = False,
        num_samples: int = 512,
        forward_only: bool = False,
        name: str | None = "wrapper",
        **options: Any,
    ):
        super().__init__(source_vocab_size, target_vocab_size, size, num_layers, use_lstm, num_samples, name, **options)
        self.buckets = [tuple(bucket) for bucket in buckets]
        ordered = all(a < b for a, b in zip(self.buckets, self.buckets[1:]))
        if not self.buckets or not ordered or any(len(bucket) != 2 or min(bucket) < 1 for bucket in self.buckets):
            raise ValueError(
                f"buckets are pairs (source length, target length) from short to long, got {list(buckets)}; "
                "for example [(5, 10), (10, 15), (20, 25), (40, 50)]"
            )
        positive = {
            "max_gradient_norm": max_gradient_norm,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "learning_rate_decay_factor": learning_rate_decay_factor,
        }
        if wrong := {key: value for key, value in positive.items() if not value > 0}:
            raise ValueError(f"these numbers are above 0, got {wrong}")
        self.max_gradient_norm, self.batch_size = max_gradient_norm, batch_size
        self.learning_rate_decay_factor, self.forward_only = learning_rate_decay_factor, forward_only
        self.optimizer = torch.optim.SGD(self.parameters(), lr=learning_rate)
        self.optimizer.param_groups[0]["global_step"] = 0  # so that its state_dict has it, as it has the learning rate

    @property
    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer.param_groups[0]["lr"] = value

    @property
    def global_step(self) -> int:
        """The number of training steps."""
        return self.optimizer.param_groups[0]["global_step"]

    def decay_learning_rate(self) -> float:
        """Multiply the learning rate by the decay factor; returns the new one."""
        self.learning_rate *= self.learning_rate_decay_factor
        return self.learning_rate

    def get_batch(
        self,
        data: Sequence[Sequence[Pair]] | Mapping[int, Sequence[Pair]],
        bucket_id: int,
        PAD_ID: int = 0,
        GO_ID: int = 1,
        EOS_ID: int = 2,
        UNK_ID: int = 3,
        *,
        rng: Any = random,
    ) -> Batch:
        """Draw ``batch_size`` pairs of a bucket, with replacement, in the form that :meth:`step` takes.

        Args:
            data: for each bucket, pairs ``(source ids, target ids)``; to be learned, a target ends with ``EOS_ID``.
            rng: whose ``choice`` draws; Python's ``random``, as the original, or a ``random.Random(seed)``.

        Shape:
            For a bucket ``(I, O)`` three lists: ``I`` times ``(N,)`` int32, the source padded in front and reversed (as
            written with ``reverse_source=False``); ``O`` times ``(N,)`` int32, ``GO_ID``, the target, padding; ``O``
            times ``(N,)`` float32, 1 where the next of these is no padding.

        Raises:
            ValueError: a sentence is longer than its bucket, or the bucket is empty.
        """
        n_source, n_target = self._bucket(bucket_id)
        pairs = data[bucket_id]
        if len(pairs) == 0:
            raise ValueError(f"bucket {bucket_id} {self.buckets[bucket_id]} has no sentences to draw from")
        sources, targets = [], []
        for _ in range(self.batch_size):
            source, target = map(list, rng.choice(pairs))
            if len(source) > n_source or len(target) > n_target - 1:
                raise ValueError(
                    f"bucket {bucket_id} takes up to {n_source} source and {n_target - 1} target ids, got "
                    f"{len(source)} and {len(target)}; put the pair into a longer bucket or cut it"
                )
            padding = [PAD_ID] * (n_source - len(source))
            sources.append(padding + source[::-1] if self.reverse_source else source + padding)
            targets.append([GO_ID, *target, *[PAD_ID] * (n_target - 1 - len(target))])
        encoder_inputs, decoder_inputs = (list(np.array(rows, np.int32).T.copy()) for rows in (sources, targets))
        weights = [(ids != PAD_ID).astype(np.float32) for ids in decoder_inputs[1:]]
        return encoder_inputs, decoder_inputs, [*weights, np.zeros(self.batch_size, np.float32)]

    def step(self, *arguments: Any, **named: Any) -> tuple[Tensor | None, Tensor, list[Tensor] | None]:
        """Train on a batch, or measure it.

        ``step([session,] encoder_inputs, decoder_inputs, target_weights, bucket_id, forward_only)``.

        The target of a word is the next one of ``decoder_inputs``. The loss is the weighted mean over each sentence's
        words, then over the sentences: sampled and with dropout in a training step, exact where only measured.

        Args:
            session: TensorFlow's, ignored.
            encoder_inputs, decoder_inputs, target_weights: lists as :meth:`get_batch` makes them, of arrays or tensors.
            bucket_id: of which bucket these are.
            forward_only: measure only. The decoder reads ``decoder_inputs``, or, in a model that was made with
                ``forward_only=True``, the first of them and then the most probable word, to the end of the bucket.

        Returns:
            ``(gradient_norm, loss, None)`` after a training step, the norm being that before clipping, else
            ``(None, loss, logits)`` with ``O`` times ``(N, V_t)``. The numbers are tensors, for which nothing waits.

        Raises:
            ValueError: lists of other lengths than the bucket's, vectors of several sizes, or a training step of a
                model that was made with ``forward_only=True``.
            TypeError, IndexError: ids that are no integers or name no word.
        """
        encoder_inputs, decoder_inputs, target_weights, bucket_id, forward_only = _bound(arguments, named)
        n_source, n_target = self._bucket(bucket_id)
        for what, given, n in (
            ("Encoder", encoder_inputs, n_source),
            ("Decoder", decoder_inputs, n_target),
            ("Weights", target_weights, n_target),
        ):
            if len(given) != n:
                raise ValueError(f"{what} length must be equal to the one in bucket, {len(given)} != {n}.")
        if self.forward_only and not forward_only:
            raise ValueError("this model was made with forward_only=True, which cannot train; make it without")
        source, target_in, weights = self._columns(encoder_inputs, decoder_inputs, target_weights)
        self._check(source, target_in, None)
        labels = F.pad(target_in[:, 1:], (0, 1))
        mask = source != self.PAD_ID if self.mask_attention else None
        if not forward_only:
            return *self._trained(source, mask, target_in, labels, weights), None
        with torch.no_grad(), modes_kept(self):
            self.eval()
            memory, state = self._read(source, None, mask)
            if self.forward_only:
                logits = torch.stack(self._fed_back(memory, state, target_in), 1)
                losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            else:
                outputs = self._outputs(target_in, memory, state)
                logits, losses = self._logits(outputs), self._losses(outputs, labels)
            return None, mean_by_sentence(losses, weights), list(logits.unbind(1))

    def print_params(self, details: bool = True) -> None:
        """Print one line a parameter (with its statistics), in the original's order, then their number."""
        names = {id(p): name for name, p in self.named_parameters()}
        print_tensors([(names[id(p)], p) for p in self.all_params], details)

    # Parts -------------------------------------------------------------------

    def _trained(
        self, source: Tensor, mask: Tensor | None, target_in: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        was_training = self.training
        self.train()
        memory, state = self._read(source, None, mask)
        loss = mean_by_sentence(self._losses(self._outputs(target_in, memory, state), labels), weights)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        scale = self.max_gradient_norm / norm.clamp(min=self.max_gradient_norm)
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        self.optimizer.param_groups[0]["global_step"] += 1
        self.train(was_training)
        return norm, loss.detach()

    def _fed_back(self, memory: Any, state: Any, target_in: Tensor) -> list[Tensor]:
        """The logits of all steps, each of which reads the word chosen in the one before."""
        advance, ids, logits = self._advance(memory), target_in[:, 0], []
        for _ in range(target_in.shape[1]):
            row, state, _ = advance(ids, state)
            logits.append(row)
            ids = row.argmax(1)
        return logits

    def _columns(self, *lists: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Lists of vectors as rows of sentences, on the model's device: int64 ids twice, then weights."""
        device, dtype = self.source_embeddings.device, self.source_embeddings.dtype
        sizes = {len(vector) for vectors in lists for vector in vectors}
        if len(sizes) != 1 or sizes == {0}:
            raise ValueError(
                f"all vectors of a step are as long as the batch, and that at least 1, got lengths {sorted(sizes)}"
            )
        columns = []
        for what, vectors in zip(("encoder_inputs", "decoder_inputs", "target_weights"), lists):
            x = torch.stack([torch.as_tensor(vector) for vector in vectors], 1)
            if what != "target_weights" and (x.is_floating_point() or x.dtype == torch.bool):
                raise TypeError(f"{what} are vectors of integer ids, got {x.dtype}")
            columns.append(x.to(device, dtype if what == "target_weights" else torch.int64))
        return tuple(columns)

    def _bucket(self, bucket_id: int) -> tuple[int, int]:
        if not 0 <= bucket_id < len(self.buckets):
            raise ValueError(f"there are buckets 0 to {len(self.buckets) - 1}, {self.buckets}, got {bucket_id}")
        return self.buckets[bucket_id]  # type: ignore[return-value]


_STEP = ("encoder_inputs", "decoder_inputs", "target_weights", "bucket_id", "forward_only")


def _bound(arguments: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """The arguments of a step in order, without the session."""
    rest = arguments[1:] if len(arguments) + len(named) == len(_STEP) + 1 and "session" not in named else arguments
    given = {**dict(zip(_STEP, rest)), **{key: value for key, value in named.items() if key != "session"}}
    if len(rest) + len(given.keys() - set(_STEP[: len(rest)])) != len(_STEP) or set(given) != set(_STEP):
        raise TypeError(
            f"step takes ([session,] {', '.join(_STEP)}), got {len(arguments)} positional arguments and {sorted(named)}"
        )
    return [given[key] for key in _STEP]
