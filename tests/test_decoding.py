"""Greedy and beam search against an exhaustive one, and what they promise of batches, ends and attention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchlayer.layers import beam_search, decoding, greedy_search

END, WORDS, LONGEST = 3, 4, 4


class Model:
    """Random logits for each sentence, step, and the last two words: what a state of three tensors has to get right."""

    def __init__(self, n: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(n, LONGEST, WORDS, WORDS, WORDS, generator=generator)
        self.state = (torch.arange(n), [torch.zeros(n, dtype=torch.int64), {"last": torch.zeros(n, dtype=torch.int64)}])
        self.first = torch.ones(n, dtype=torch.int64)

    def advance(self, ids, state):
        sentence, (step, held) = state
        logits = self.logits[sentence, step, held["last"], ids]
        return logits, (sentence, [step + 1, {"last": ids}]), logits.softmax(1)

    def score(self, sentence: int, words: tuple[int, ...], penalty: float) -> float:
        total, last, word = 0.0, 0, 1
        for t, chosen in enumerate(words):
            total += self.logits[sentence, t, last, word].log_softmax(0)[chosen].item()
            last, word = word, chosen
        return total / ((5 + len(words)) / 6) ** penalty

    def best(self, sentence: int, penalty: float) -> tuple[float, tuple[int, ...]]:
        """Of all sentences that end, or are as long as they may be."""
        inner = [word for word in range(WORDS) if word != END]
        ended = [(*words, END) for n in range(LONGEST) for words in itertools.product(inner, repeat=n)] + list(
            itertools.product(inner, repeat=LONGEST)
        )
        return max((self.score(sentence, words, penalty), words) for words in ended)


def search(model: Model, beam: int | None, **settings):
    settings = {"max_length": LONGEST, "end_id": END, **settings}
    if beam is None:
        return greedy_search(model.advance, model.state, model.first, **settings)
    return beam_search(model.advance, model.state, model.first, beam=beam, **settings)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_that_holds_everything_finds_the_best(penalty):
    model = Model(20)
    found = search(model, 3**LONGEST, length_penalty=penalty)
    for n in range(20):
        score, words = model.best(n, penalty)
        assert found.ids[n].tolist() == [*words, *[0] * (LONGEST - len(words))]
        assert found.lengths[n] == len(words) - (words[-1] == END)
        assert found.scores[n].item() == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("beam", [None, 1, 2, 3, 5])
def test_scores_are_those_of_the_words_returned(beam):
    model = Model(50, seed=1)
    found = search(model, beam, length_penalty=0.8)
    for n in range(50):
        words = found.ids[n, : found.lengths[n]].tolist()
        assert END not in words
        words += [END] * (len(words) < LONGEST)
        assert found.scores[n].item() == pytest.approx(model.score(n, tuple(words), 0.8), abs=1e-5)


def test_wider_beams_find_no_worse_sentences_on_average():
    means = [search(Model(300, seed=2), beam, length_penalty=0.0).scores.mean().item() for beam in (1, 2, 81)]
    assert means == sorted(means)
    assert means[0] < means[1] - 0.05


@pytest.mark.parametrize("beam", [2, 3])
def test_a_sure_model_is_not_stopped_by_bad_sentences_on_its_way(beam):
    likely, end = torch.tensor([0.01, 0.9, 0.03, 0.06]).log(), torch.tensor([0.01, 0.01, 0.01, 0.97]).log()

    def advance(ids, n_written):  # word 1 four times; the end is always second, and so is finished early
        return torch.where(n_written[:, None] < 4, likely, end), n_written + 1, None

    start = torch.zeros(1, dtype=torch.int64)
    found = beam_search(advance, start, start, beam=beam, max_length=9, end_id=3)
    assert found.ids[0].tolist() == [1, 1, 1, 1, 3, 0, 0, 0, 0]
    assert found.scores.item() == pytest.approx((4 * math.log(0.9) + math.log(0.97)) / (10 / 6))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(penalty):
    model = Model(100, seed=3)
    greedy, beam = (search(model, k, length_penalty=penalty, return_attention=True) for k in (None, 1))
    assert torch.equal(greedy.ids, beam.ids)
    assert torch.equal(greedy.lengths, beam.lengths)
    torch.testing.assert_close(greedy.scores, beam.scores)
    torch.testing.assert_close(greedy.attention, beam.attention)


def test_greedy_takes_the_most_probable_word_at_each_step():
    model = Model(30, seed=4)
    found = search(model, None)
    for n in range(30):
        last, word, words = 0, 1, []
        for t in range(LONGEST):
            last, word = word, int(model.logits[n, t, last, word].argmax())
            words.append(word)
            if word == END:
                break
        assert found.ids[n].tolist() == words + [0] * (LONGEST - len(words))


@pytest.mark.parametrize("beam", [None, 3])
def test_a_sentence_is_translated_alike_in_every_batch(beam):
    model = Model(20, seed=5)
    whole = search(model, beam, return_attention=True)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    model.state = (order, model.state[1])
    shuffled = search(model, beam, return_attention=True)
    for a, b in zip(whole, shuffled):
        torch.testing.assert_close(a[order], b)
    model.state, model.first = (
        (torch.tensor([7]), [torch.zeros(1, dtype=torch.int64), {"last": torch.zeros(1).long()}]),
        model.first[:1],
    )
    for a, b in zip(whole, search(model, beam, return_attention=True)):
        torch.testing.assert_close(a[7:8], b)


@pytest.mark.parametrize("beam", [None, 1, 4])
def test_attention_is_of_the_words_returned_and_nothing_behind_the_end(beam):
    model = Model(40, seed=6)
    found = search(model, beam, return_attention=True)
    for n in range(40):
        last, word = 0, 1
        for t in range(LONGEST):
            if t > found.lengths[n]:
                assert found.attention[n, t].count_nonzero() == 0
                continue
            torch.testing.assert_close(found.attention[n, t], model.logits[n, t, last, word].softmax(0))
            last, word = word, int(found.ids[n, t])


def test_a_long_limit_costs_nothing_where_all_have_ended():
    calls = []

    def advance(ids, state):
        calls.append(len(ids))
        return torch.tensor([[0.0, 0.0, 0.0, 9.0]]).expand(len(ids), -1), state, None

    first = torch.ones(2, dtype=torch.int64)
    greedy = greedy_search(advance, (), first, max_length=1000, end_id=END)
    beam = beam_search(advance, (), first, beam=1, max_length=1000, end_id=END)
    assert len(calls) == 2
    assert greedy.ids.shape == beam.ids.shape == (2, 1000)
    assert greedy.lengths.tolist() == beam.lengths.tolist() == [0, 0]


def test_looking_seldom_changes_nothing(monkeypatch):
    """As on a GPU, where the searches run on past the end of all sentences."""
    model = Model(10, seed=7)
    model.logits[..., END] += 3
    seen = [search(model, k, return_attention=True) for k in (None, 3)]
    monkeypatch.setattr(decoding, "_all", lambda done, step: False)
    for a, b in zip(seen, [search(model, k, return_attention=True) for k in (None, 3)]):
        for x, y in zip(a, b):
            assert torch.equal(x, y)


def test_another_padding_and_half_precision():
    model = Model(10, seed=8)
    model.logits = model.logits.bfloat16()
    for beam in (None, 2):
        found = search(model, beam, pad_id=-1)
        assert found.scores.dtype == torch.float32
        assert ((found.ids == -1).sum(1) == (LONGEST - found.lengths - 1).clamp(min=0)).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_length": 0}, "at least 1, got 0 and 2"),
        ({"beam": 0}, "at least 1, got 4 and 0"),
        ({"first_ids": torch.ones(2)}, r"\(N,\) int64, .* got \(2,\) torch.float32"),
        ({"first_ids": torch.ones(2, 1, dtype=torch.int64)}, r"got \(2, 1\)"),
        ({"first_ids": torch.ones(0, dtype=torch.int64)}, "the batch is empty"),
        ({"advance": lambda ids, state: (torch.zeros(len(ids), 1), state, None)}, r"two ids at least, got .*\(4, 1\)"),
        (
            {"advance": lambda ids, state: (torch.zeros(len(ids), 4), state, None), "return_attention": True},
            "no weights",
        ),
    ],
)
def test_a_search_refuses(change, text):
    model = Model(2)
    given = {"advance": model.advance, "state": model.state, "first_ids": model.first, "beam": 2, "max_length": LONGEST}
    with pytest.raises(ValueError, match=text):
        beam_search(**{**given, "end_id": END, **change})


def test_greedy_search_refuses_attention_that_is_not_there():
    with pytest.raises(ValueError, match="no weights"):
        greedy_search(
            lambda ids, state: (torch.zeros(len(ids), 4), state, None),
            (),
            torch.ones(1, dtype=torch.int64),
            max_length=2,
            end_id=END,
            return_attention=True,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("beam", [None, 1, 3])
def test_cuda_equals_cpu(beam):
    model = Model(30, seed=9)
    expected = search(model, beam, return_attention=True)
    model.logits, model.first = model.logits.cuda(), model.first.cuda()
    sentence, (step, held) = model.state
    model.state = (sentence.cuda(), [step.cuda(), {"last": held["last"].cuda()}])
    for a, b in zip(expected, search(model, beam, return_attention=True)):
        torch.testing.assert_close(b.cpu(), a)
