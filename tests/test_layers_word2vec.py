"""The layer that trains word vectors, its cost and its handle."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.layers import EmbeddingInputlayer, InputLayer, Word2vecEmbeddingInputlayer, Word2vecNetwork

V, D, K = 30, 6, 5
IDS, LABELS = torch.tensor([3, 0, 7, 3]), torch.tensor([[1], [9], [29], [4]])


def stacked(**settings):
    torch.manual_seed(0)
    words = InputLayer((None,), dtype=torch.int64, name="words")
    labels = InputLayer((None, 1), dtype=torch.int64, name="labels")
    return Word2vecEmbeddingInputlayer(words, labels, V, D, K, **{"name": "word2vec", **settings})


def by_definition(layer, ids, labels, sampled, true_count, sampled_count):
    """The mean loss in float64, logit by logit."""
    table, weights, biases = (p.double() for p in layer.parameters())
    losses = []
    for i, own in zip(ids, labels):
        true = torch.stack([table[i] @ weights[k] + biases[k] - q.log() for k, q in zip(own, true_count)])
        noise = torch.stack([table[i] @ weights[k] + biases[k] - q.log() for k, q in zip(sampled, sampled_count)])
        losses.append((F.softplus(true) - true / len(own)).sum() + F.softplus(noise).sum())
    return torch.stack(losses).mean()


def test_outputs_are_rows_of_the_table_and_parameters_have_the_originals_order():
    net = stacked()
    assert isinstance(net, Word2vecNetwork)
    assert net.outputs.shape == (None, D)
    assert torch.equal(net(IDS), net.word2vec.embeddings[IDS])
    assert [tuple(p.shape) for p in net.all_params] == [(V, D), (V, D), (V,)]
    assert list(net.state_dict()) == ["word2vec.embeddings", "word2vec.nce_weights", "word2vec.nce_biases"]
    assert net.all_drop == {}


def test_starts_where_the_original_starts():
    torch.manual_seed(0)
    layer = Word2vecEmbeddingInputlayer(vocabulary_size=2000, embedding_size=50)
    assert -1 <= layer.embeddings.min() < -0.99
    assert 0.99 < layer.embeddings.max() <= 1
    assert layer.nce_weights.abs().max() <= 0.06
    assert layer.nce_weights.std().item() == pytest.approx(0.03 * 0.8796, rel=0.02)  # of a normal cut at two sigma
    assert not layer.nce_biases.any()


@pytest.mark.parametrize("n_true", [1, 3])
def test_cost_is_the_mean_of_the_definition(n_true):
    torch.manual_seed(0)
    layer = Word2vecEmbeddingInputlayer(None, None, V, D, K, {"num_true": n_true})
    labels = torch.randint(V, (4, n_true), generator=torch.Generator().manual_seed(1))
    sampled = torch.tensor([2, 11, 4])
    counts = torch.rand(4, n_true) + 0.1, torch.rand(3) + 0.1
    expected = torch.stack(
        [by_definition(layer, IDS[i : i + 1], labels[i : i + 1], sampled, counts[0][i], counts[1]) for i in range(4)]
    ).mean()
    cost = layer.nce_cost(IDS, labels, (sampled, *counts))
    assert cost.shape == ()
    torch.testing.assert_close(cost.double(), expected, rtol=1e-5, atol=1e-6)


def test_negatives_are_drawn_afresh_and_obey_the_seed():
    net = stacked()
    with torch.no_grad():
        torch.manual_seed(3)
        first, second = net.nce_cost(IDS, LABELS), net.nce_cost(IDS, LABELS)
        torch.manual_seed(3)
        again = net.nce_cost(IDS, LABELS)
    assert first != second
    assert first == again


def test_given_sampled_values_rule_in_every_call_and_a_call_may_have_its_own():
    values = tl.kernels.log_uniform_sampler(LABELS, K, V, seed=torch.tensor([1, 2]))
    other = tl.kernels.log_uniform_sampler(LABELS, K, V, seed=torch.tensor([3, 4]))
    net = stacked(nce_loss_args={"sampled_values": values, "partition_strategy": "div"})
    assert net.nce_cost(IDS, LABELS) == net.nce_cost(IDS, LABELS) == net.nce_cost(IDS, LABELS, values)
    assert net.nce_cost(IDS, LABELS, other) != net.nce_cost(IDS, LABELS)


def test_loss_arguments_reach_the_loss():
    values = torch.tensor([1, 2, 9]), torch.full((4, 1), 0.5), torch.full((3,), 0.5)
    plain = stacked().nce_cost(IDS, LABELS, values)
    removed = stacked(nce_loss_args={"remove_accidental_hits": True}).nce_cost(IDS, LABELS, values)
    uncorrected = stacked(nce_loss_args={"subtract_log_q": False}).nce_cost(IDS, LABELS, values)
    halves = torch.full((4, 1), 1.0), torch.full((3,), 1.0)
    assert removed < plain  # words 1 and 9 are labels
    torch.testing.assert_close(uncorrected, stacked().nce_cost(IDS, LABELS, (values[0], *halves)))


def test_any_sampler_can_draw():
    unigram = tl.kernels.FixedUnigram([1.0] * 10 + [0.0] * 20)
    layer = Word2vecEmbeddingInputlayer(
        vocabulary_size=V, embedding_size=D, num_sampled=9, sampler=unigram, sparse=True
    )
    layer.nce_cost(IDS, LABELS % 10).backward()
    assert layer.nce_weights.grad.coalesce().indices().max() < 10
    assert "sampler.alias" not in layer.state_dict()  # made anew from its weights
    drawn = []
    repeats = partial(tl.kernels.log_uniform_sampler, unique=False)

    def watched(labels, n, v):
        drawn.append(repeats(labels, n, v))
        return drawn[-1]

    Word2vecEmbeddingInputlayer(vocabulary_size=V, embedding_size=D, num_sampled=70, sampler=watched).nce_cost(
        IDS, LABELS
    )
    assert len(drawn[0].sampled) == 70


def test_sparse_gradients_are_the_dense_ones():
    values = tl.kernels.log_uniform_sampler(LABELS, K, V, seed=torch.tensor([1, 2]))
    dense, sparse = stacked(), stacked(sparse=True)
    for net in (dense, sparse):
        net.nce_cost(IDS, LABELS, values).backward()
    for a, b in zip(dense.parameters(), sparse.parameters()):
        assert (a.grad.layout, b.grad.layout) == (torch.strided, torch.sparse_coo)
        assert b.grad._nnz() <= len(IDS) + K
        torch.testing.assert_close(b.grad.to_dense(), a.grad)


def test_normalized_embeddings_have_length_one_as_tensorflow_bounds_it():
    table = torch.randn(V, D)
    table[3], table[4] = 0, 1e-8
    net = stacked(E_init=table)
    rule = table * torch.rsqrt(table.square().sum(1, keepdim=True).clamp(min=1e-12))
    torch.testing.assert_close(net.normalized_embeddings, rule)
    net.normalized_embeddings.sum().backward()
    assert net.word2vec.embeddings.grad is not None


def test_labels_may_be_flat_and_ids_short():
    values = tl.kernels.log_uniform_sampler(LABELS, K, V)
    net = stacked()
    cost = net.nce_cost(IDS, LABELS, values)
    assert net.nce_cost(IDS.int(), LABELS.int(), values) == cost
    flat = values[0], values[1][:, 0], values[2]
    assert net.nce_cost(IDS, LABELS[:, 0], flat) == cost


@pytest.mark.parametrize("sparse", [False, True])
def test_neighbours_grow_alike(sparse):
    """Words 0 to 9 occur with each other, so do 10 to 19: after training, the nearest of a word is of its group."""
    torch.manual_seed(0)
    words = InputLayer((None,), dtype=torch.int64)
    net = Word2vecEmbeddingInputlayer(words, None, 20, 8, 6, sparse=sparse, sampler=tl.kernels.uniform_sampler)
    step = tl.TrainStep(net.nce_cost, tl.optim.RowAdagrad(net.parameters(), lr=1.0))
    for _ in range(300):
        group = torch.randint(2, (64,)) * 10
        step((group + torch.randint(10, (64,)), group + torch.randint(10, (64,))))
    unit = net.normalized_embeddings.detach()
    nearest = (unit @ unit.T - 2 * torch.eye(20)).argmax(1)
    assert torch.equal(nearest // 10, torch.arange(20) // 10)


def test_without_biases():
    net = stacked(nce_b_init=None)
    assert list(net.state_dict()) == ["word2vec.embeddings", "word2vec.nce_weights"]
    net.nce_cost(IDS, LABELS).backward()


def test_the_network_may_have_layers_before_and_after():
    words = InputLayer((None,), dtype=torch.int64)
    folded = tl.layers.LambdaLayer(words, fn=lambda ids: ids % V, name="fold")
    net = Word2vecEmbeddingInputlayer(
        inputs=folded, vocabulary_size=V, embedding_size=D, num_sampled=K, name="word2vec"
    )
    values = tl.kernels.log_uniform_sampler(LABELS, K, V)
    assert net.nce_cost(IDS + V, LABELS, values) == net.nce_cost(IDS, LABELS, values)
    longer = tl.layers.DenseLayer(net, n_units=2, name="head")
    assert longer(IDS).shape == (4, 2)
    assert not isinstance(longer, Word2vecNetwork)


def test_an_embedding_layer_is_restored_from_it(tmp_path):
    net = stacked()
    alone = EmbeddingInputlayer(vocabulary_size=V, embedding_size=D)
    alone.load_state_dict({"embeddings": net.word2vec.embeddings.detach()})
    assert torch.equal(alone(IDS), net(IDS))

    words = InputLayer((None, 4), dtype=torch.int64)
    other = EmbeddingInputlayer(words, vocabulary_size=V, embedding_size=D, name="word2vec")
    missing, unexpected = other.load_state_dict(net.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["word2vec.nce_weights", "word2vec.nce_biases"])
    assert torch.equal(other(IDS[None])[0], net(IDS))


def test_parameters_travel_through_a_file(tmp_path, capsys):
    net, file = stacked(), tmp_path / "model.npz"
    tl.files.save_npz(net, file)
    fresh = stacked(E_init=torch.zeros(V, D))
    tl.files.load_and_assign_npz(file, fresh)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), net.parameters()))

    words = InputLayer((None,), dtype=torch.int64)
    embedding = EmbeddingInputlayer(words, vocabulary_size=V, embedding_size=D, name="embed")
    tl.files.assign_params(tl.files.load_npz(name=file)[:1], embedding)  # as the original: the first array
    assert torch.equal(embedding(IDS), net(IDS))

    tl.files.save_npz(list(net.all_params), file)  # three arrays without names, two of one shape, as the original's
    assert [a.shape for a in tl.files.load_npz(name=file)] == [(V, D), (V, D), (V,)]
    capsys.readouterr()


REFUSED = [
    ({"vocabulary_size": 0}, ValueError, "vocabulary_size and embedding_size are at least 1, got 0"),
    ({"num_sampled": 0}, ValueError, "num_sampled and num_true are at least 1, got 0 and 1"),
    ({"num_sampled": 31}, ValueError, "num_sampled=31 different words cannot be drawn of vocabulary_size=30"),
    ({"nce_loss_args": {"num_true": 0}}, ValueError, "num_sampled and num_true are at least 1, got 5 and 0"),
    ({"nce_loss_args": {"seed": 1}}, ValueError, "nce_loss_args may have num_true, .*; got 'seed'"),
    (
        {"train_labels": LABELS},
        TypeError,
        r"train_labels is an InputLayer .*, got Tensor; .*net.nce_cost\(ids, labels\)",
    ),
    ({"train_labels": InputLayer((None, 2), dtype=torch.int64)}, ValueError, r"declares \(None, 2\) torch.int64, but"),
    ({"train_labels": InputLayer((None, 1))}, ValueError, r"torch.float32, but labels are integers \(None, 1\)"),
    (
        {"train_labels": InputLayer((None,), dtype=torch.int64), "nce_loss_args": {"num_true": 2}},
        ValueError,
        r"labels are integers \(None, 2\)",
    ),
    ({"E_init": torch.zeros(2, 2)}, ValueError, r"initial values of shape \(2, 2\) do not fit"),
]


@pytest.mark.parametrize(("settings", "error", "text"), REFUSED)
def test_settings_that_cannot_be(settings, error, text):
    with pytest.raises(error, match=text):
        Word2vecEmbeddingInputlayer(**{"vocabulary_size": V, "embedding_size": D, "num_sampled": K, **settings})


BATCHES = [
    (IDS.float(), LABELS, TypeError, "ids are int64 or int32, got torch.float32"),
    (IDS, LABELS.float(), TypeError, "ids are int64 or int32, got torch.float32"),
    (IDS[:3], LABELS, ValueError, r"labels \(3,\) or \(3, 1\), got \(4, 1\)"),
    (IDS, LABELS.repeat(1, 2), ValueError, r"labels \(4,\) or \(4, 1\), got \(4, 2\)"),
    (IDS[:, None], LABELS, ValueError, r"one id an example, \(N,\), got ids \(4, 1\); flatten"),
    (IDS + V, LABELS, IndexError, "out of range"),
    (IDS, LABELS + V, IndexError, r"label 31 at row \(0, 0\) is outside \[0, 30\)"),
]


@pytest.mark.parametrize(("ids", "labels", "error", "text"), BATCHES)
def test_batches_that_cannot_be(ids, labels, error, text):
    layer = Word2vecEmbeddingInputlayer(vocabulary_size=V, embedding_size=D, num_sampled=K)
    with pytest.raises(error, match=text):
        layer.nce_cost(ids, labels)


def test_the_cost_compiles():
    net = stacked()
    values = tl.kernels.log_uniform_sampler(LABELS, K, V)
    torch._dynamo.reset()
    compiled = torch.compile(net.nce_cost, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS, LABELS, tuple(values)), net.nce_cost(IDS, LABELS, values))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_draws_afresh_and_trains_on_cuda():
    torch.manual_seed(0)
    words = InputLayer((None,), dtype=torch.int64)
    net = Word2vecEmbeddingInputlayer(words, None, 20, 8, 6, sparse=True, sampler=tl.kernels.uniform_sampler).cuda()
    optimizer = tl.optim.RowAdagrad(net.parameters(), lr=1.0)
    step = tl.TrainStep(net.nce_cost, optimizer, capture=True)
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(300):
        group = torch.randint(2, (64,), device="cuda", generator=generator) * 10
        ids, labels = (group + torch.randint(10, (64,), device="cuda", generator=generator) for _ in "xy")
        step((ids, labels))
    optimizer.param_groups[0]["lr"] = 0.0
    losses = {round(float(step((ids, labels))), 6) for _ in range(8)}
    assert len(losses) > 1  # the same batch, other negatives
    unit = net.normalized_embeddings.detach()
    nearest = (unit @ unit.T - 2 * torch.eye(20, device="cuda")).argmax(1)
    assert torch.equal(nearest // 10, torch.arange(20, device="cuda") // 10)
