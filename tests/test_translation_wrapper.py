"""The translation model with buckets: TensorFlow's numbers, its batches, its step, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
import translation_oracle as oracle

import torchlayer as tl

Wrapper = tl.layers.EmbeddingAttentionSeq2seqWrapper
KINDS = [(lstm, n_layer, projection) for lstm in (False, True) for n_layer in (1, 2) for projection in (False, True)]


def made(lstm=False, n_layer=1, projection=False, forward_only=False, seed=None, **options):
    """The model of the specification's vectors, in double precision, and its arrays."""
    model = Wrapper(
        *(5, 5, [(2, 3)], 3, n_layer, 0.05, 2, 0.5, 0.9),
        use_lstm=lstm,
        num_samples=2 if projection else 0,
        forward_only=forward_only,
        **options,
    ).double()
    arrays = oracle.filled(oracle.shapes(5, 5, 3, n_layer, lstm, projection), seed)
    tl.files.assign_params(arrays, model)
    return model, arrays


# the specification's batch
ENCODER = [np.array([0, 0]), np.array([3, 4])]
DECODER = [np.array([1, 1]), np.array([2, 3]), np.array([4, 0])]
WEIGHTS = [np.array([1.0, 1.0]), np.array([1.0, 0.0]), np.array([0.0, 0.0])]
BATCH = (ENCODER, DECODER, WEIGHTS, 0)


# TensorFlow's numbers ----------------------------------------------------------------------------

GRU_LOGITS = [  # of the class itself, run under TensorFlow: a row a step, of the first sentence
    [-0.272186, -0.323688, -0.222955, -0.017362, 0.196396],
    [-0.272541, -0.322329, -0.220521, -0.014998, 0.197578],
    [-0.272763, -0.321897, -0.219638, -0.01408, 0.1981],
]
LSTM_LOGITS = [
    [-0.294877, -0.298485, -0.16171, 0.051119, 0.239906],
    [-0.292722, -0.297391, -0.162192, 0.049288, 0.237588],
    [-0.291204, -0.296683, -0.162627, 0.047915, 0.235921],
]
GRU_STEPS = [(0.660505, 1.697444), (0.650128, 1.681061), (0.639921, 1.664936)]
LSTM_STEPS = [(0.459317, 1.489869), (0.450711, 1.478494), (0.442265, 1.467332)]


@pytest.mark.parametrize(
    ("lstm", "n_layer", "n_scalars", "expected"), [(False, 2, 377, GRU_LOGITS), (True, 1, 293, LSTM_LOGITS)]
)
def test_logits_are_tensorflows(lstm, n_layer, n_scalars, expected):
    model, arrays = made(lstm, n_layer, projection=True, forward_only=True)
    assert sum(a.size for a in arrays) == n_scalars
    _, _, logits = model.step(*BATCH, True)
    np.testing.assert_allclose(torch.stack([row[0] for row in logits]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lstm", "n_layer", "n_scalars", "expected"), [(False, 2, 401, GRU_STEPS), (True, 1, 317, LSTM_STEPS)]
)
def test_training_steps_are_tensorflows(lstm, n_layer, n_scalars, expected):
    model, arrays = made(lstm, n_layer)
    assert sum(a.size for a in arrays) == n_scalars
    steps = [model.step(*BATCH, False) for _ in range(3)]
    np.testing.assert_allclose([[float(norm), float(loss)] for norm, loss, _ in steps], expected, rtol=0, atol=2e-5)
    if not lstm:
        row = [-0.000174, 0.193283, 0.295791]
        np.testing.assert_allclose(model.source_embeddings[0].detach(), row, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("lstm", "n_layer", "projection"), KINDS)
def test_agrees_with_the_definition_in_numpy(lstm, n_layer, projection):
    kind = (3, n_layer, lstm, projection)
    for feed_back in (False, True):
        model, arrays = made(lstm, n_layer, projection, forward_only=feed_back, seed=n_layer)
        _, loss, logits = model.step(*BATCH, True)
        expected = [
            oracle.logits(arrays, *kind, [v[n] for v in ENCODER], [v[n] for v in DECODER], feed_back) for n in (0, 1)
        ]
        np.testing.assert_allclose(torch.stack(logits, 1), expected, rtol=0, atol=1e-9)
        by_hand = [
            oracle.loss(rows, [v[n] for v in DECODER], [v[n] for v in WEIGHTS]) for n, rows in enumerate(expected)
        ]
        assert float(loss) == pytest.approx(np.mean(by_hand), abs=1e-9)


def test_parameters_have_the_originals_order():
    model, arrays = made(projection=True)
    assert len(model.all_params) == len(list(model.parameters()))
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in model.all_params][:3] == ["proj_w", "proj_b", "source_embeddings"]
    np.testing.assert_allclose(model.proj_w.detach(), arrays[0].T)
    np.testing.assert_allclose(model.all_params[-1].detach(), arrays[-1])


def test_first_values_are_those_of_the_specification():
    model = Wrapper(500, 400, [(2, 3)], 64, 1, 5.0, 2, 0.5, 0.9)
    assert model.num_samples == 0  # 512 is more than 400 words
    model = Wrapper(500, 900, [(2, 3)], 64, 1, 5.0, 2, 0.5, 0.9)
    assert model.proj_b.count_nonzero() == 0
    assert model.source_embeddings.std().item() == pytest.approx(1, abs=0.02)
    assert model.source_embeddings.abs().max() <= math.sqrt(3)
    assert model.proj_w.abs().max() <= math.sqrt(6 / (900 + 64))
    assert (model.decoder.cells[0].bias_ih == torch.tensor([1.0] * 128 + [0.0] * 64)).all()


# The step ----------------------------------------------------------------------------------------


def test_a_step_clips_by_the_global_norm_and_reports_it_from_before():
    model, _ = made()
    before = [p.detach().clone() for p in model.parameters()]
    norm, _, _ = model.step(*BATCH, False)
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, model.parameters())]).norm()
    assert norm > model.max_gradient_norm
    assert moved.item() == pytest.approx(model.learning_rate * model.max_gradient_norm)
    model.max_gradient_norm = 100.0  # nothing to clip
    before = [p.detach().clone() for p in model.parameters()]
    norm, _, _ = model.step(*BATCH, False)
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, model.parameters())]).norm()
    assert moved.item() == pytest.approx(model.learning_rate * norm.item())


@pytest.mark.parametrize("how", ["positional", "keyword", "named"])
def test_a_session_is_accepted_and_ignored(how):
    model, _ = made()
    _, expected, _ = model.step(*BATCH, True)
    names = ("encoder_inputs", "decoder_inputs", "target_weights", "bucket_id")
    calls = {
        "positional": lambda: model.step("session", *BATCH, True),
        "keyword": lambda: model.step(*BATCH, forward_only=True, session=None),
        "named": lambda: model.step(None, **dict(zip(names, BATCH)), forward_only=True),
    }
    assert calls[how]()[1] == expected


def test_measuring_is_exact_repeatable_and_changes_nothing():
    model = Wrapper(20, 20, [(4, 5)], 8, 1, 5.0, 4, 0.5, 0.9, num_samples=6, keep=0.5)
    data = [[([5, 6, 7], [8, 9, 2])]]
    batch = model.get_batch(data, 0)
    before = copy.deepcopy(model.state_dict())
    (_, first, logits), (_, second, _) = model.step(*batch, 0, True), model.step(*batch, 0, True)
    assert first == second
    labels = torch.tensor([8, 9, 2])
    expected = torch.nn.functional.cross_entropy(torch.stack(logits)[:3, 0], labels)
    torch.testing.assert_close(first, expected)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


def test_a_sentence_without_words_counts_in_the_mean():
    model, _ = made()
    silent = [np.array([w[0], 0.0]) for w in WEIGHTS]
    _, both, _ = model.step(ENCODER, DECODER, silent, 0, True)
    alone = [[v[:1] for v in vectors] for vectors in (ENCODER, DECODER, silent)]
    _, one, _ = model.step(*alone, 0, True)
    torch.testing.assert_close(both, one / 2)


def test_learning_rate_step_count_and_batch_size_can_be_changed():
    model, _ = made()
    assert model.decay_learning_rate() == model.learning_rate == 0.5 * 0.9
    model.learning_rate = 0.1
    model.batch_size = 5
    batch = model.get_batch({0: [([3, 4], [2])]}, 0)
    model.step(*batch, 0, False)
    assert (model.global_step, len(batch[0][0])) == (1, 5)
    other, _ = made()
    other.load_state_dict(model.state_dict())
    other.optimizer.load_state_dict(model.optimizer.state_dict())
    assert (other.global_step, other.learning_rate) == (1, 0.1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_copy_trains_itself(clone):
    model, _ = made()
    other = clone(model)
    before = copy.deepcopy(model.state_dict())
    other.step(*BATCH, False)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert not torch.equal(other.source_embeddings, model.source_embeddings)


def test_parameters_are_printed_in_order(capsys):
    model, _ = made(projection=True)
    model.print_params()
    lines = capsys.readouterr().out.splitlines()
    assert "proj_w" in lines[0]
    assert "decoder.b_output" in lines[-2]
    assert lines[-1].split()[-1] == str(sum(p.numel() for p in model.parameters()))


def test_npz_files_travel_both_ways(tmp_path):
    model, arrays = made(lstm=True, projection=True)
    tl.files.save_npz(model, str(tmp_path / "model.npz"))
    saved = tl.files.load_npz(str(tmp_path), "model.npz")
    np.testing.assert_allclose(saved[0], arrays[0])  # the projection lies as in the original's files
    other, _ = made(lstm=True, projection=True, seed=1)
    tl.files.load_and_assign_npz(str(tmp_path / "model.npz"), other)
    assert torch.equal(other.step(*BATCH, True)[1], model.step(*BATCH, True)[1])


# Batches -----------------------------------------------------------------------------------------


def test_batches_are_the_originals():
    model = Wrapper(10, 10, [(3, 4), (5, 10)], 4, 1, 5.0, 3, 0.5, 0.9)

    class InTurn:
        def __init__(self):
            self.i = -1

        def choice(self, pairs):
            self.i += 1
            return pairs[self.i % 2]

    encoder, decoder, weights = model.get_batch({0: [([7], [8, 9, 2]), ([4, 5], [6, 2])]}, 0, rng=InTurn())
    assert np.stack(encoder).tolist() == [[0, 0, 0], [0, 5, 0], [7, 4, 7]]
    assert np.stack(decoder).tolist() == [[1, 1, 1], [8, 6, 8], [9, 2, 9], [2, 0, 2]]
    assert np.stack(weights).tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 0, 0]]
    assert {v.dtype for v in encoder + decoder} == {np.dtype(np.int32)}
    assert {v.dtype for v in weights} == {np.dtype(np.float32)}

    model.batch_size = 1
    encoder, decoder, weights = model.get_batch({1: [([10, 11, 12], [20, 21, 22, 2])]}, 1)
    assert [int(v[0]) for v in encoder] == [0, 0, 12, 11, 10]
    assert [int(v[0]) for v in decoder] == [1, 20, 21, 22, 2, 0, 0, 0, 0, 0]
    assert [int(v[0]) for v in weights] == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    encoder, decoder, weights = model.get_batch({1: [([10, 11, 12], [])]}, 1)  # to be translated
    assert [int(v[0]) for v in decoder] == [1] + [0] * 9
    assert not np.any(weights)


def test_batches_are_drawn_by_pythons_random_or_by_a_generator_of_ones_own():
    model = Wrapper(50, 50, [(3, 4)], 4, 1, 5.0, 8, 0.5, 0.9)
    data = [[([n], [n, 2]) for n in range(3, 50)]]
    random.seed(7)
    expected = [random.choice(data[0])[0][0] for _ in range(8)]
    random.seed(7)
    assert model.get_batch(data, 0)[0][-1].tolist() == expected
    assert model.get_batch(data, 0, rng=random.Random(7))[0][-1].tolist() == expected


def test_a_model_that_reads_forwards_gets_sentences_as_written():
    model = Wrapper(10, 10, [(3, 4)], 4, 1, 5.0, 1, 0.5, 0.9, reverse_source=False)
    encoder, _, _ = model.get_batch([[([7, 8], [2])]], 0)
    assert [int(v[0]) for v in encoder] == [7, 8, 0]


@pytest.mark.parametrize("options", [{}, {"mask_attention": True}, {"reverse_source": False}, {"bidirectional": True}])
def test_buckets_and_whole_tensors_are_one_model(options):
    model = Wrapper(10, 10, [(5, 6)], 8, 2, 5.0, 4, 0.5, 0.9, projection=True, **options)
    pairs = [([5, 6, 7], [4, 9, 8, 2])]
    encoder, decoder, weights = model.get_batch([pairs], 0)
    _, loss, logits = model.step(encoder, decoder, weights, 0, True)
    source, target = torch.tensor([[5, 6, 7, 0, 0]] * 4), torch.tensor([[4, 9, 8, 2, 0]] * 4)
    lengths = torch.full((4,), 5) if options.get("mask_attention") else None
    if lengths is None:  # the encoder of a bucket reads the padding, too
        torch.testing.assert_close(model(source, model.shifted(target)), torch.stack(logits, 1)[:, :5])
        torch.testing.assert_close(model.eval().loss(source, target, reduction="sentence"), loss)
    else:
        padded = torch.stack(logits, 1)[:, :5]
        assert padded.isfinite().all()


def test_the_originals_self_test():
    """main_test() of tutorial_translate.py: the loss falls, and shapes are right."""
    torch.manual_seed(0)
    random.seed(0)
    model = Wrapper(10, 10, [(3, 3), (6, 6)], 32, 2, 5.0, 32, 0.3, 0.99, num_samples=8)
    data = (
        [([1, 1], [2, 2]), ([3, 3], [4]), ([5], [6])],
        [([1, 1, 1, 1, 1], [2, 2, 2, 2, 2]), ([3, 3, 3], [5, 6])],
    )
    losses = []
    for _ in range(5):  # five steps, as there
        bucket = random.choice([0, 1])
        norm, loss, nothing = model.step(None, *model.get_batch(data, bucket), bucket, False)
        assert nothing is None
        assert norm > 0
        losses.append(float(loss))
    measured = []
    for _ in range(2):
        _, loss, logits = model.step(*model.get_batch(data, 1, rng=random.Random(1)), 1, True)
        assert [tuple(row.shape) for row in logits] == [(32, 10)] * 6
        measured.append(float(loss))
        for _ in range(25):
            bucket = random.choice([0, 1])
            model.step(*model.get_batch(data, bucket), bucket, False)
    assert measured[1] < 0.8 * measured[0]
    assert model.global_step == 55


# What is refused -----------------------------------------------------------------------------------


def arrays(*rows):
    return [np.array(row) for row in rows]


REFUSED_STEPS = [
    ((arrays([0], [0], [0]), DECODER, WEIGHTS, 0, True), ValueError, "Encoder length must be equal .* 3 != 2"),
    ((ENCODER, DECODER[:2], WEIGHTS, 0, True), ValueError, "Decoder length must be equal .* 2 != 3"),
    ((ENCODER, DECODER, WEIGHTS * 2, 0, True), ValueError, "Weights length must be equal .* 6 != 3"),
    ((ENCODER, DECODER, WEIGHTS, 1, True), ValueError, r"buckets 0 to 0, \[\(2, 3\)\], got 1"),
    ((ENCODER, DECODER, WEIGHTS, -1, True), ValueError, r"got -1"),
    ((arrays([0, 0, 0], [1, 2, 3]), DECODER, WEIGHTS, 0, True), ValueError, r"got lengths \[2, 3\]"),
    ((arrays([], []), arrays([], [], []), arrays([], [], []), 0, True), ValueError, r"at least 1, got lengths \[0\]"),
    ((arrays([0.0, 1.0], [0.0, 1.0]), DECODER, WEIGHTS, 0, True), TypeError, "encoder_inputs .* got torch.float64"),
    ((ENCODER, [w > 0 for w in WEIGHTS], WEIGHTS, 0, True), TypeError, "decoder_inputs .* got torch.bool"),
    ((arrays([0, 0], [3, 5]), DECODER, WEIGHTS, 0, True), IndexError, "from 0 to 4, got 5 in sentence 1 at place 1"),
    ((ENCODER, arrays([1, 1], [-1, 3], [4, 0]), WEIGHTS, 0, True), IndexError, "got -1 in sentence 0 at place 1"),
    ((ENCODER, DECODER, WEIGHTS), TypeError, "got 3 positional arguments"),
    ((1, 2, 3, 4, 5, 6, 7), TypeError, "got 7 positional arguments"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), REFUSED_STEPS)
def test_a_step_refuses(arguments, error, text):
    model, _ = made()
    with pytest.raises(error, match=text):
        model.step(*arguments)


def test_a_step_refuses_what_it_does_not_know():
    model, _ = made()
    with pytest.raises(TypeError, match=r"\['forward', 'forward_only'\]"):
        model.step(*BATCH, forward_only=True, forward=True)


def test_a_model_for_decoding_does_not_train():
    model, _ = made(forward_only=True)
    with pytest.raises(ValueError, match="made with forward_only=True, which cannot train"):
        model.step(*BATCH, False)


REFUSED_BATCHES = [
    ([[([4] * 4, [2])]], 0, "takes up to 3 source and 3 target ids, got 4 and 1"),
    ([[([4], [4, 5, 6, 2])]], 0, "takes up to 3 source and 3 target ids, got 1 and 4"),
    ([[]], 0, r"bucket 0 \(3, 4\) has no sentences"),
    ([[], []], 2, "buckets 0 to 0"),
]


@pytest.mark.parametrize(("data", "bucket", "text"), REFUSED_BATCHES)
def test_a_batch_refuses(data, bucket, text):
    model = Wrapper(10, 10, [(3, 4)], 4, 1, 5.0, 2, 0.5, 0.9)
    with pytest.raises(ValueError, match=text):
        model.get_batch(data, bucket)


REFUSED_MODELS = [
    ({"buckets": []}, r"from short to long, got \[\]"),
    ({"buckets": [(5, 10), (3, 4)]}, "from short to long"),
    ({"buckets": [(5, 0)]}, "from short to long"),
    ({"max_gradient_norm": 0}, "above 0, got {'max_gradient_norm': 0}"),
    ({"batch_size": -1}, "above 0, got {'batch_size': -1}"),
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"size": 0}, "at least 1, got {'size': 0, 'embedding_size': 0}"),
    ({"num_layers": 0}, "num_layers"),
    ({"num_samples": -1}, "num_samples is the number of words drawn"),
    ({"keep": 0.0}, r"in \(0, 1\]"),
    ({"keep": (0.5, 0.5)}, "three .* got"),
    ({"keep": 0.5, "num_samples": 0}, "pass projection=True"),
    ({"projection": False}, "need the projection"),
    ({"projection": False, "num_samples": 0, "tie_embeddings": True}, "need the projection"),
    ({"label_smoothing": 1.0}, r"in \[0, 1\)"),
    ({"label_smoothing": 0.1}, "needs a full softmax; pass num_samples=0, projection=True"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED_MODELS)
def test_a_model_refuses(change, text):
    given = {"source_vocab_size": 10, "target_vocab_size": 10, "buckets": [(3, 4)], "size": 4, "num_layers": 1}
    given |= {"max_gradient_norm": 5.0, "batch_size": 2, "learning_rate": 0.5, "learning_rate_decay_factor": 0.9}
    with pytest.raises(ValueError, match=text):
        Wrapper(**{**given, "num_samples": 4, **change})


def test_a_model_refuses_what_makes_no_cells():
    with pytest.raises(TypeError, match="cell_fn makes cells, got Linear"):
        Wrapper(5, 5, [(2, 3)], 3, 1, 5.0, 2, 0.5, 0.9, cell_fn=lambda n: torch.nn.Linear(n, n))
