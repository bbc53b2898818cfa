"""Text from a language model: word after word, none of which the host waits for."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._captures import capturing
from ..carry import Carry
from ..network import Network
from ..utils.evaluate import modes_kept
from .sampling import sample_logits, torch_stream

_EAGER_WORDS = 2  # cuBLAS and cuDNN set themselves up in these
_AT_ONCE = 8  # words that one launch writes: between launches the GPU idles for some microseconds


class TextGenerator:
    """``generate(ids, n_words)`` reads ``ids`` and goes on: it draws a word, reads that, draws the next.

    The words stay on the device. On CUDA the step from one word to the next (the network, the draw, the new state) is
    captured as a CUDA graph after two words, and from then on eight words are one launch, and of what is left each one.
    On a CPU it runs eagerly.

    The capture is renewed by itself when the batch size changes or the network's parameters lie elsewhere; if what only
    ``scores`` reads is moved, make another generator. The network runs in ``eval()`` and is put back afterwards. Its
    training is not disturbed, and what it learns between two calls is used in the next.

    Args:
        network: a recurrent network from ids ``(N, T)`` to ``(N, T, D)`` or ``(N * T, D)``.
        scores: from its outputs ``(N, D)`` to logits ``(N, V)``; ``None`` if they are the logits. A word that must not
            be drawn gets minus infinity here.
        temperature, top_k, top_p: as in :func:`sample_logits`, a tensor ``(N,)`` if each row has its own.
        rng: ``None`` is torch's global stream of the device, an int the seed of a stream that goes on from call to
            call.
        capture: ``None`` captures where it can and warns where it cannot, ``True`` raises then, ``False`` never does.

    Raises:
        IndexError: an id lies outside the vocabulary (on a CPU; CUDA asserts).
        ValueError: the scores of a row are NaN. (On CUDA the words of that row are -1 from there on.)

    >>> import torch, torchlayer as tl
    >>> net = tl.layers.InputLayer((None, None), torch.int64, name="ids")
    >>> net = tl.layers.EmbeddingInputlayer(net, vocabulary_size=50, embedding_size=8)
    >>> net = tl.layers.RNNLayer(net, cell_fn=tl.layers.BasicLSTMCell, n_hidden=8, return_seq_2d=True)
    >>> net = tl.layers.DenseLayer(net, n_units=50)
    >>> generate = tl.nlp.TextGenerator(net, top_k=10, rng=0)
    >>> generate(torch.tensor([[4, 8, 15], [16, 23, 42]]), n_words=5).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        network: Network,
        scores: Callable[[Tensor], Tensor] | None = None,
        *,
        temperature: float | Tensor | None = 1.0,
        top_k: int | Tensor | None = None,
        top_p: float | Tensor | None = None,
        rng: int | torch.Generator | None = None,
        capture: bool | None = None,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"TextGenerator takes a network of torchlayer's layers, got {type(network).__name__}")
        self.network, self.scores = network, scores
        self._given = temperature, top_k, top_p
        self._rng, self._capture = rng, capture
        self._made_for: Any = None

    @torch.no_grad()
    def __call__(self, ids: Tensor, n_words: int) -> Tensor:
        """Begin at a zero state, read ``ids`` ``(N, T)``, and return the next ``n_words`` words, ``(N, n_words)``."""
        ids = self._checked(ids, n_words)
        words = ids.new_empty(len(ids), n_words)
        with modes_kept(self.network):
            self.network.eval()
            if self._made_for != self._situation(ids):
                self._prepare(ids)
            self._read(ids)
            words[:, 0], n = self._drawn, 1
            while n < n_words:
                drawn = self._advance(n_words - n)
                words[:, n : n + drawn.shape[1]] = drawn
                n += drawn.shape[1]
        return words

    def _checked(self, ids: Tensor, n_words: int) -> Tensor:
        if not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.numel():
            shape = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"a TextGenerator goes on from words (N, T), at least one in each row, got {shape}")
        if ids.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"a TextGenerator reads ids, int64 or int32, got {ids.dtype}; look the words up first")
        if operator.index(n_words) < 1:
            raise ValueError(f"n_words must be at least 1, got {n_words}")
        return ids.to(next(self.network.parameters()).device, torch.int64)

    def _situation(self, ids: Tensor) -> Any:
        """What the state and the capture depend on: the batch size, and where the network's numbers lie."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return len(ids), ids.device, [(t.data_ptr(), t.dtype) for t in tensors]

    def _prepare(self, ids: Tensor) -> None:
        self._carry, self._word = Carry(self.network), ids.new_empty(len(ids))
        self._settings: list[Any] = [x.to(ids.device) if isinstance(x, Tensor) else x for x in self._given]
        if self._made_for is None or self._made_for[1] != ids.device:  # else the stream goes on
            self._draws = torch_stream(self._rng, ids.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}  # by words: a launch, and what it draws
        self._can_capture, self._n_eager = ids.is_cuda and self._capture is not False, 0

    # One word after the other ---------------------------------------------------------

    def _read(self, ids: Tensor) -> None:
        """Read all of ``ids`` from a zero state and draw the first word."""
        self._carry.reset()
        try:
            self._draw(self._carry(ids))
        except IndexError:
            least, most = ids.min().item(), ids.max().item()
            raise IndexError(
                f"the words to go on from have ids {least} to {most}, and the network's vocabulary is smaller; look "
                "them up in the one it was trained with"
            ) from None
        self._made_for = self._situation(ids)  # cuDNN has moved weights into one block when it first met them

    def _step(self) -> None:
        self._draw(self._carry(self._word[:, None]))

    def _draw(self, outputs: Tensor) -> None:
        """The next word of each row, from the network's outputs ``(N, T, D)`` or ``(N * T, D)``."""
        last = outputs.reshape(len(self._word), -1, outputs.shape[-1])[:, -1]  # (N, D)
        scores = last if self.scores is None else self.scores(last)
        self._drawn = sample_logits(scores, *self._settings, rng=self._draws)
        torch.clamp(self._drawn, min=0, out=self._word)  # to be read: -1 was drawn of NaN

    def _advance(self, n_left: int) -> Tensor:
        """The next words of each row, ``(N, n)``: as many as one launch writes, and at most ``n_left``."""
        if self._can_capture and self._n_eager >= _EAGER_WORDS:
            n = _AT_ONCE if n_left >= _AT_ONCE else 1
            if n not in self._graphs:
                self._record(n)
            if n in self._graphs:
                graph, drawn = self._graphs[n]
                graph.replay()
                return drawn
        if self._can_capture:
            self._step_on_side_stream()
        else:
            self._step()
        return self._drawn[:, None]

    # Capturing --------------------------------------------------------------------------

    def _step_on_side_stream(self) -> None:
        if not self._n_eager:
            self._stream = torch.cuda.Stream(self._word.device)
        self._n_eager += 1
        here = torch.cuda.current_stream(self._word.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._step()
        here.wait_stream(self._stream)

    def _record(self, n_words: int) -> None:
        graph, drawn = torch.cuda.CUDAGraph(), []
        try:
            with capturing(graph, self._stream, () if self._draws is None else (self._draws,)):
                for _ in range(n_words):
                    self._step()
                    drawn.append(self._drawn)
                words = torch.stack(drawn, 1)  # (N, n_words)
        except Exception as error:
            why = f"the step from word to word cannot be captured: {str(error).splitlines()[0]}"
            if self._capture:
                raise RuntimeError(why) from error
            self._can_capture = False
            warnings.warn(f"{why}; it runs eagerly (TextGenerator(..., capture=False) is silent)", stacklevel=4)
            return
        self._graphs[n_words] = graph, words
