"""Text that a network writes: the words it would write by hand, drawn as it says, and nothing else disturbed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer._waits import reporting_waits

L = tl.layers
V = 12
SEED = torch.tensor([[3, 1, 4], [1, 5, 9]])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def language_model(cell=L.BasicLSTMCell, n_layer=2, seq_2d=True):
    torch.manual_seed(0)
    net = L.InputLayer((None, None), torch.int64, name="ids")
    net = L.EmbeddingInputlayer(net, V, 6, E_init=tl.initializers.random_uniform(-1, 1), name="embed")
    net = L.RNNLayer(
        net, cell_fn=cell, n_hidden=8, n_layer=n_layer, return_seq_2d=seq_2d, dropout=0.5, name="rnn",
        initializer=tl.initializers.random_uniform(-1, 1),
    )  # fmt: skip
    return L.DenseLayer(net, n_units=V, W_init=tl.initializers.random_uniform(-1, 1), name="out") if seq_2d else net


def scores_by_hand(net, ids):
    """All that was written is read anew."""
    net.eval()
    scores = net(ids).view(*ids.shape, V)[:, -1].detach()
    net.train()
    return scores


@pytest.mark.parametrize(("cell", "n_layer"), [(L.BasicLSTMCell, 2), (L.GRUCell, 1)])
def test_without_temperature_the_likeliest_words_come_one_after_another(cell, n_layer):
    net = language_model(cell, n_layer)
    words = tl.nlp.TextGenerator(net, temperature=0)(SEED, 9)
    ids = SEED
    for _ in range(9):
        ids = torch.cat([ids, scores_by_hand(net, ids).argmax(1, keepdim=True)], 1)
    assert torch.equal(words, ids[:, 3:])
    assert len(set(words[0].tolist())) > 1


def test_scores_turn_what_the_network_gives_into_logits():
    net, softmax = language_model(seq_2d=False), tl.nn.LinearCrossEntropyLoss(8, V)
    forbidden = torch.tensor([0, 7])
    with torch.no_grad():
        softmax.bias[forbidden] = 50.0  # what it would write all the time

    def scores(hidden):
        return F.linear(hidden, softmax.weight, softmax.bias).index_fill(1, forbidden, -torch.inf)

    words = tl.nlp.TextGenerator(net, scores)(SEED.repeat(50, 1), 5)
    assert set(words.flatten().tolist()) == set(range(V)) - {0, 7}


def chi_square(words, probabilities):
    """The statistic, and a bound that 1 in 10,000 right samples passes."""
    observed, possible = np.bincount(words, minlength=V), probabilities > 0
    assert not observed[~possible].any()
    expected = probabilities[possible] * len(words)
    statistic = ((observed[possible] - expected) ** 2 / expected).sum()
    spread = 2 / (9 * (possible.sum() - 1))
    return statistic, (possible.sum() - 1) * (1 - spread + 3.719 * np.sqrt(spread)) ** 3  # Wilson and Hilferty 1931


@pytest.mark.parametrize(
    ("settings", "keep"),
    [
        ({}, V),
        ({"top_k": 4}, 4),
        ({"temperature": 0.7}, V),
        ({"temperature": 1.5, "top_k": 6}, 6),
        ({"top_p": 0.6}, None),
    ],
)
def test_words_are_drawn_as_the_network_says(settings, keep):
    net = language_model()
    words = tl.nlp.TextGenerator(net, rng=0, **settings)(SEED[:1].expand(20_000, 3), 2).numpy()

    def probabilities(ids):
        p = F.softmax(scores_by_hand(net, ids)[0].double() / settings.get("temperature", 1.0), 0)
        largest, order = p.sort(descending=True)
        n = keep or int((largest.cumsum(0) < settings["top_p"]).sum()) + 1
        kept = torch.zeros(V, dtype=torch.float64).index_copy_(0, order[:n], largest[:n])
        return (kept / kept.sum()).numpy()

    statistic, bound = chi_square(words[:, 0], probabilities(SEED[:1]))
    assert statistic < bound
    first = np.bincount(words[:, 0]).argmax()  # and what comes after the commonest of them
    after = words[words[:, 0] == first, 1]
    statistic, bound = chi_square(after, probabilities(torch.cat([SEED[:1], torch.tensor([[first]])], 1)))
    assert statistic < bound


def test_each_row_may_be_drawn_in_its_own_way():
    net = language_model()
    settings = {"top_k": torch.tensor([1, V]), "temperature": torch.tensor([1.0, 1e-3])}
    greedy = tl.nlp.TextGenerator(net, temperature=0)(SEED, 6)
    assert torch.equal(tl.nlp.TextGenerator(net, **settings)(SEED, 6), greedy)


def test_a_seed_gives_the_same_words_and_a_stream_goes_on():
    net, before = language_model(), torch.get_rng_state()
    generate = tl.nlp.TextGenerator(net, rng=5)
    first, second = generate(SEED, 20), generate(SEED, 20)
    again = tl.nlp.TextGenerator(net, rng=torch.Generator().manual_seed(5))
    assert torch.equal(again(SEED, 20), first)
    assert torch.equal(again(SEED, 20), second)
    assert not torch.equal(first, second)
    other_batch_between = tl.nlp.TextGenerator(net, rng=5)
    other_batch_between(SEED, 20)
    other_batch_between(SEED[:1], 1)
    assert not torch.equal(other_batch_between(SEED, 20), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_is_not_disturbed_and_what_it_learns_is_used():
    net = language_model()
    net.out.eval()
    carry = tl.Carry(net)
    carry(SEED)
    held = carry.state_0.clone()
    generate = tl.nlp.TextGenerator(net, temperature=0)
    assert not generate(SEED, 4).requires_grad
    assert net.rnn.training
    assert not net.out.training
    assert torch.equal(carry.state_0, held)
    with torch.no_grad():
        net.out.b[7] = 100.0
    assert generate(SEED, 4).tolist() == [[7] * 4] * 2


@pytest.mark.parametrize(
    ("ids", "n_words", "error", "text"),
    [
        ([[1, 2]], 3, ValueError, r"goes on from words \(N, T\), at least one in each row, got list"),
        (torch.tensor([1, 2]), 3, ValueError, r"at least one in each row, got \(2,\)"),
        (torch.zeros(2, 0, dtype=torch.int64), 3, ValueError, r"got \(2, 0\)"),
        (torch.zeros(0, 2, dtype=torch.int64), 3, ValueError, r"got \(0, 2\)"),
        (torch.ones(1, 2), 3, TypeError, r"reads ids, int64 or int32, got torch.float32; look the words up first"),
        (torch.tensor([[1, V]]), 3, IndexError, rf"ids 1 to {V}, and the network's vocabulary is smaller"),
        (torch.tensor([[1, -1]]), 3, IndexError, r"ids -1 to 1"),
        (SEED, 0, ValueError, r"n_words must be at least 1, got 0"),
        (SEED, 2.5, TypeError, r"'float' object cannot be interpreted as an integer"),
    ],
)
def test_what_nothing_can_be_written_after_is_refused(ids, n_words, error, text):
    with pytest.raises(error, match=text):
        tl.nlp.TextGenerator(language_model())(ids, n_words)


def test_bad_settings_and_networks_are_refused():
    net = language_model()
    for settings, text in [({"top_k": 0}, "top_k must be at least 1"), ({"top_p": 2.0}, "top_p must lie above 0")]:
        with pytest.raises(ValueError, match=text):
            tl.nlp.TextGenerator(net, **settings)(SEED, 2)
    with pytest.raises(TypeError, match="takes a network of torchlayer's layers, got Linear"):
        tl.nlp.TextGenerator(torch.nn.Linear(2, 2))
    with torch.no_grad():
        net.out.W[0, 0] = torch.nan
    with pytest.raises(ValueError, match="row 0 is no distribution to draw from"):
        tl.nlp.TextGenerator(net)(SEED, 2)
    no_memory = L.EmbeddingInputlayer(L.InputLayer((None, None), torch.int64), V, V)
    with pytest.raises(ValueError, match="this network has no recurrent layer"):
        tl.nlp.TextGenerator(no_memory)(SEED, 2)


@needs_gpu
def test_a_captured_step_writes_what_an_eager_one_does(without_tf32):
    net = language_model().cuda()
    captured = tl.nlp.TextGenerator(net, temperature=0, capture=True)
    eager = tl.nlp.TextGenerator(net, temperature=0, capture=False)
    assert torch.equal(captured(SEED, 40), eager(SEED, 40))
    assert captured(SEED, 40).device.type == "cuda"
    with torch.no_grad():
        net.out.b[7] = 100.0
    assert captured(SEED[:1], 5).tolist() == [[7] * 5]  # another batch size


@needs_gpu
def test_any_number_of_words_is_drawn_from_the_same_stream_as_eagerly(without_tf32):
    net = language_model().cuda()
    captured, eager = (tl.nlp.TextGenerator(net, top_k=5, rng=3, capture=capture) for capture in (True, False))
    for n_words in (2, 12, 3, 29, 1, 8):  # launches of eight words, and of one
        assert torch.equal(captured(SEED, n_words), eager(SEED, n_words))


@needs_gpu
@pytest.mark.parametrize("rng", [None, 3])
def test_every_replay_draws_afresh_and_nothing_waits(rng):
    net = language_model().cuda()
    generate, seed = tl.nlp.TextGenerator(net, top_k=10, rng=rng, capture=True), SEED.cuda()
    first = generate(seed, 50)
    with reporting_waits("error"):
        second = generate(seed, 50)
    assert len(set(second[0].tolist())) > 3
    assert not torch.equal(first, second)


@needs_gpu
def test_scores_that_cannot_be_captured_run_eagerly_with_a_warning():
    net = language_model().cuda()

    def waits(logits):
        return logits * float(logits.abs().max().item() > 0)

    with pytest.warns(UserWarning, match="cannot be captured"):
        assert tl.nlp.TextGenerator(net, waits)(SEED, 6).shape == (2, 6)
    with pytest.raises(RuntimeError, match="the step from word to word cannot be captured"):
        tl.nlp.TextGenerator(net, waits, capture=True)(SEED, 6)
