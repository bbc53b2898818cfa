"""Sentences in, sentences out: what stands between people and a translation model, which knows nothing but ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._text import Path
from .tokens import Tokenizer, basic_tokenizer, initialize_vocabulary, sentence_to_token_ids

PAD_ID, UNK_ID = 0, 3


class Language:
    """A vocabulary, and how its language is split into words and put together again.

    Args:
        vocabulary_path: a file of :func:`create_vocabulary`.
        tokenizer, normalize_digits: those that the file was made with.
        joined: what follows the space that words are joined with and is written without it. ``"-"`` joins
            ``quatre -vingt`` to ``quatre-vingt``.

    Attributes:
        words: the word of each id.
        ids: the id of each word, as bytes.
        sha256: the digest of the file. A model can speak no other vocabulary than that it was trained with, so keep
            this beside its weights.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as f:
    ...     _ = f.write(b"_PAD\\n_GO\\n_EOS\\n_UNK\\nHello\\nworld\\n,\\n") and f.flush()
    ...     english = Language(f.name)
    >>> english.split("Hello, you"), english.read("Hello, you"), len(english)
    (['Hello', ',', 'you'], [4, 6, 3], 7)
    """

    def __init__(
        self,
        vocabulary_path: Path,
        tokenizer: Tokenizer | None = None,
        normalize_digits: bool = True,
        joined: str = "",
    ):
        self.ids, words = initialize_vocabulary(vocabulary_path)
        self.words = [word.decode("utf-8", "replace") for word in words]
        self.tokenizer, self.normalize_digits, self.joined = tokenizer, normalize_digits, joined
        with open(vocabulary_path, "rb") as f:
            self.sha256 = hashlib.sha256(f.read()).hexdigest()

    def __len__(self) -> int:
        return len(self.words)

    def split(self, sentence: str) -> list[str]:
        """The words of a sentence, known or not."""
        words = (self.tokenizer or basic_tokenizer)(sentence.encode())
        return [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in words]

    def read(self, sentence: str) -> list[int]:
        """The ids of a sentence's words."""
        return sentence_to_token_ids(sentence, self.ids, self.tokenizer, self.normalize_digits)

    def say(self, words: Sequence[str]) -> str:
        """The sentence of some words."""
        text = " ".join(words)
        return text.replace(f" {self.joined}", self.joined) if self.joined else text


class Translation(NamedTuple):
    """A sentence that was translated.

    Attributes:
        text: the translation.
        source: the words that were read, ``I`` of them.
        words: the words that were written, ``T`` of them.
        attention: ``(T, I)``, where was looked for each word written.
    """

    text: str
    source: list[str]
    words: list[str]
    attention: Tensor


def translate(
    model: Any,
    source: Language,
    target: Language,
    sentences: Sequence[str],
    *,
    beam: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 100,
    max_length: int | None = None,
) -> list[Translation]:
    """Translate sentences with :class:`torchlayer.layers.EmbeddingAttentionSeq2Seq`, those of like lengths together.

    Where the model writes ``_UNK``, the word that it looks at most is copied: often a name or a number.

    A model with ``buckets`` gets each sentence as it was trained, padded to the smallest bucket that is longer.

    Args:
        beam, length_penalty: of ``model.decode``.
        max_length: the most words of a translation; by default half as many again as the source has, and ten.
    Raises:
        ValueError: a sentence has no words, or too many for every bucket.

    Reference:
        Luong et al. 2015, arXiv:1410.8206, for copying what is unknown.
    """
    device, buckets = model.source_embeddings.device, getattr(model, "buckets", None)
    ids = [source.read(sentence) for sentence in sentences]
    batches: dict[Any, list[int]] = {}
    for place, i in enumerate(sorted(range(len(ids)), key=lambda i: len(ids[i]))):
        shape = None if buckets is None else _bucket(len(ids[i]), buckets)
        if not ids[i]:
            raise ValueError(f"sentence {i} has no words: {sentences[i]!r}")
        batches.setdefault((shape, place // batch_size), []).append(i)
    found: dict[int, Translation] = {}
    for (shape, _), chosen in batches.items():
        lengths = torch.tensor([len(ids[i]) for i in chosen])
        longest = int(lengths.max())
        width, limit = shape or (longest, longest * 3 // 2 + 10)
        rows = torch.tensor([ids[i] + [PAD_ID] * (width - len(ids[i])) for i in chosen], device=device)
        known = lengths.to(device) if shape is None else None  # TensorLayer's model reads the padding, too
        settings = {"beam": beam, "length_penalty": length_penalty, "return_attention": True}
        out = model.decode(rows, known, max_length=max_length or limit, **settings)
        for i, row, n, looks in zip(chosen, out.ids.tolist(), out.lengths.tolist(), out.attention.cpu()):
            read, looks = source.split(sentences[i]), looks[:n, : len(ids[i])]
            words = [read[int(at.argmax())] if k == UNK_ID else target.words[k] for k, at in zip(row[:n], looks)]
            found[i] = Translation(target.say(words), read, words, looks)
    return [found[i] for i in range(len(ids))]


def _bucket(n: int, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    for bucket in buckets:
        if bucket[0] > n:
            return bucket
    raise ValueError(f"a sentence has {n} words, and the largest bucket takes {buckets[-1][0] - 1}; divide it")
