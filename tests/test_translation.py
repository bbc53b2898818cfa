"""The translation model on batches of any shape: padding, losses, options, decoding, and what it refuses."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.kernels import sampled_softmax_loss
from torchlayer.layers import attention_decoder

L = tl.layers
SOURCE = torch.tensor([[7, 8, 9, 4], [5, 0, 0, 0], [6, 3, 0, 0]])
TARGET = torch.tensor([[4, 6, 2], [9, 2, 0], [2, 0, 0]])
LENGTHS = torch.tensor([4, 1, 2])


def made(**options) -> L.EmbeddingAttentionSeq2Seq:
    torch.manual_seed(0)
    return L.EmbeddingAttentionSeq2Seq(12, 11, **{"size": 8, "num_samples": 0, "projection": True, **options})


CELLS = {
    "gru": {},
    "cudnn_gru": {"cell_fn": L.CudnnCompatibleGRUCell},
    "lstm": {"use_lstm": True, "num_layers": 2},
    "both_ways": {"bidirectional": True, "num_layers": 2},
    "lstm_both_ways": {"bidirectional": True, "use_lstm": True, "reverse_source": False},
}
cells = pytest.mark.parametrize("options", CELLS.values(), ids=CELLS)


# Padding -----------------------------------------------------------------------------------------


@cells
def test_padding_changes_nothing_where_lengths_are_known(options):
    model = made(**options).eval()
    padded = model(SOURCE, model.shifted(TARGET), LENGTHS)
    found = model.decode(SOURCE, LENGTHS, max_length=4, beam=2, return_attention=True)
    for n, length in enumerate(LENGTHS):
        alone = SOURCE[n : n + 1, :length]
        torch.testing.assert_close(model(alone, model.shifted(TARGET[n : n + 1]))[0], padded[n])
        decoded = model.decode(alone, max_length=4, beam=2, return_attention=True)
        assert torch.equal(decoded.ids[0], found.ids[n])
        torch.testing.assert_close(decoded.attention[0], found.attention[n, :, :length])
        assert found.attention[n, :, length:].count_nonzero() == 0


@cells
def test_masked_attention_finds_the_lengths_itself(options):
    model = made(**options).eval()
    expected = model(SOURCE, TARGET, LENGTHS)
    model.mask_attention = True
    torch.testing.assert_close(model(SOURCE, TARGET), expected, rtol=0, atol=0)


def test_an_empty_sentence_is_translated_like_any_other():
    model = made(mask_attention=True, use_lstm=True)
    loss = model.loss(torch.tensor([[0, 0], [4, 0]]), TARGET[:2])
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_lengths_the_encoder_reads_padding_as_the_original_did():
    model = made().eval()
    assert not torch.allclose(model(SOURCE, TARGET), model(SOURCE, TARGET, LENGTHS))


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_reading_backwards_is_reading_the_reversed_sentence(lengths):
    backwards, forwards = made().eval(), made(reverse_source=False).eval()
    reversed_source = (
        torch.tensor([[4, 9, 8, 7], [5, 0, 0, 0], [3, 6, 0, 0]]) if lengths is not None else SOURCE.flip(1)
    )
    torch.testing.assert_close(backwards(SOURCE, TARGET, lengths), forwards(reversed_source, TARGET, lengths))
    mine = backwards.decode(SOURCE, lengths, max_length=3, return_attention=True)
    theirs = forwards.decode(reversed_source, lengths, max_length=3, return_attention=True)
    assert torch.equal(mine.ids, theirs.ids)
    for n, length in enumerate([4, 4, 4] if lengths is None else lengths):  # attention is of the source as it was given
        flipped = theirs.attention[n, :, :length].flip(1)
        torch.testing.assert_close(mine.attention[n, :, :length], flipped)


# Losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_torchs(projection, smoothing):
    model = made(projection=projection, label_smoothing=smoothing).double()
    logits = model(SOURCE, model.shifted(TARGET))
    each = F.cross_entropy(logits.flatten(0, 1), TARGET.flatten(), reduction="none", label_smoothing=smoothing)
    words = (TARGET != 0).double()
    each = each.view(3, 3) * words
    torch.testing.assert_close(model.loss(SOURCE, TARGET), each.sum() / words.sum())
    by_sentence = (each.sum(1) / words.sum(1)).mean()
    torch.testing.assert_close(model.loss(SOURCE, TARGET, reduction="sentence"), by_sentence)
    model.eval()
    exact = F.cross_entropy(logits.flatten(0, 1), TARGET.flatten(), ignore_index=0)
    torch.testing.assert_close(model.loss(SOURCE, TARGET), exact)


@pytest.mark.parametrize("reduction", ["token", "sentence"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_are_those_of_the_loss(reduction, smoothing):
    model = made(label_smoothing=smoothing, tie_embeddings=True, mask_attention=True).double()
    model.loss(SOURCE, TARGET, reduction=reduction).backward()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logits = model(SOURCE, model.shifted(TARGET))
    each = F.cross_entropy(logits.flatten(0, 1), TARGET.flatten(), reduction="none", label_smoothing=smoothing)
    words = (TARGET != 0).double()
    each = each.view(3, 3) * words
    loss = each.sum() / words.sum() if reduction == "token" else (each.sum(1) / words.sum(1)).mean()
    loss.backward()
    for a, p in zip(mine, model.parameters()):
        torch.testing.assert_close(a, p.grad)


def drawn_in_turn(labels, n_sampled, n_classes, repeat=False):
    """A sampler of known words: those from the first label on, which are hits for some and not for others."""
    sampled = (labels[0] + torch.arange(n_sampled)) % n_classes
    if repeat:
        sampled[-1] = sampled[0]
    counts = 0.1 + torch.arange(n_classes) / n_classes
    return sampled, counts[labels], counts[sampled]


@pytest.mark.parametrize("repeat", [False, True])
def test_the_sampled_loss_draws_one_set_a_step_and_leaves_out_hits(repeat):
    sampler = partial(drawn_in_turn, repeat=repeat)
    model = made(num_samples=4, sampler=sampler).double()
    loss = model.loss(SOURCE, TARGET)
    loss.backward()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    memory, state = model._encode(SOURCE, None)
    outputs = model._outputs(model.shifted(TARGET), memory, state)
    losses = [
        sampled_softmax_loss(
            model.proj_w,
            model.proj_b,
            outputs[:, t],
            TARGET[:, t],
            tl.kernels.SampledValues(*sampler(TARGET[:, t], 4, 11)),
        )
        for t in range(3)
    ]
    words = (TARGET != 0).double()
    expected = (torch.stack(losses, 1) * words).sum() / words.sum()
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for a, p in zip(mine, model.parameters()):
        torch.testing.assert_close(a, p.grad)


def test_samples_may_be_shared_by_all_steps():
    calls = []

    def sampler(labels, n_sampled, n_classes):
        calls.append(tuple(labels.shape))
        return tl.kernels.log_uniform_sampler(labels, n_sampled, n_classes)

    for share, expected in ((True, [(9,)]), (False, [(3,)] * 3)):
        calls.clear()
        made(num_samples=4, share_samples=share, sampler=sampler).loss(SOURCE, TARGET).backward()
        assert calls == expected


def test_a_sample_of_all_words_is_the_full_softmax():
    every = lambda labels, n, n_classes: tl.kernels.all_candidate_sampler(labels, n_classes, n_classes)  # noqa: E731
    for share in (False, True):
        sampled, full = made(num_samples=4, share_samples=share, sampler=every), made()
        full.load_state_dict(sampled.state_dict())
        torch.testing.assert_close(sampled.loss(SOURCE, TARGET), full.loss(SOURCE, TARGET))


def test_measured_the_loss_is_exact_though_training_samples():
    model = made(num_samples=4).eval()
    logits = model(SOURCE, model.shifted(TARGET))
    expected = F.cross_entropy(logits.flatten(0, 1), TARGET.flatten(), ignore_index=0)
    torch.testing.assert_close(model.loss(SOURCE, TARGET), expected)


# Options -----------------------------------------------------------------------------------------


def test_tied_tables_are_one():
    model = made(tie_embeddings=True, embedding_size=6)
    assert model.proj_w is model.target_embeddings
    assert model.proj_w.shape == (11, 6)
    assert len(model.all_params) == len(set(map(id, model.all_params))) == len(list(model.parameters()))
    other = copy.deepcopy(model)
    assert other.proj_w is other.target_embeddings


def test_dropout_is_of_training_alone():
    model = made(keep=0.5)
    assert model.loss(SOURCE, TARGET) != model.loss(SOURCE, TARGET)
    first, second = (model.decode(SOURCE, max_length=5) for _ in range(2))
    assert torch.equal(first.scores, second.scores)
    assert model.training
    model.encoder.eval()  # someone's choice, which decoding leaves alone
    model.decode(SOURCE, max_length=2)
    assert not model.encoder.training
    model.eval()
    assert model.loss(SOURCE, TARGET) == model.loss(SOURCE, TARGET)


def test_each_probability_of_keeping_has_its_place():
    for i, name in enumerate(("embedding", "encoder", "decoder")):
        keep = [1.0, 1.0, 1.0]
        keep[i] = 1e-6  # as good as nothing is kept
        model = made(keep=keep)
        assert getattr(model.keep, name) == 1e-6
        model.loss(SOURCE, TARGET).backward()
        looked_up = model.source_embeddings.grad
        assert (looked_up.count_nonzero() == 0) == (name != "encoder")  # from its last state the encoder still learns


def test_a_cell_without_a_matrix_in_front_takes_the_long_way_round():
    class Wrapped(L.DropoutWrapper):
        def __init__(self, n):
            super().__init__(L.GRUCell(n))

    plain, wrapped = made().eval(), made(cell_fn=Wrapped).eval()
    names = {name.replace(".cell.", "."): name for name in wrapped.state_dict()}
    wrapped.load_state_dict({names[name]: value for name, value in plain.state_dict().items()})
    torch.testing.assert_close(wrapped(SOURCE, TARGET), plain(SOURCE, TARGET))
    assert not wrapped.decoder.entry().within_cell
    assert plain.decoder.entry().within_cell


# Gradients for all steps at once -----------------------------------------------------------------


@pytest.fixture
def at_each_step(monkeypatch):
    """The decoder's loop is differentiated step by step, by autograd alone."""
    return lambda: monkeypatch.setattr(attention_decoder, "can_defer", lambda cells: False)


DEFERRED = [*CELLS.values(), {"num_layers": 2}, {"num_layers": 2, "cell_fn": L.CudnnCompatibleGRUCell}]
DEFERRED += [{"cell_fn": L.BasicRNNCell, "num_layers": 2}, {"cell_fn": L.LSTMCell}]


@pytest.mark.parametrize("options", DEFERRED)
def test_gradients_for_all_steps_at_once_are_those_of_each_step(options, at_each_step):
    model = made(**options, mask_attention=True).double()
    model.loss(SOURCE, TARGET).backward()
    at_once = [p.grad.clone() for p in model.parameters()]
    at_each_step()
    model.zero_grad()
    model.loss(SOURCE, TARGET).backward()
    for (name, p), a in zip(model.named_parameters(), at_once):
        torch.testing.assert_close(a, p.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("cell", [L.GRUCell, L.CudnnCompatibleGRUCell, L.BasicLSTMCell])
def test_gradients_for_all_steps_at_once_mind_the_ends_of_sequences(cell, at_each_step):
    layer = L.AttentionSeq2Seq(cell_fn=cell, n_hidden=4, n_layer=2)
    given = [torch.randn(3, 5, 3, requires_grad=True), torch.randn(3, 4, 2, requires_grad=True)]
    lengths = torch.tensor([5, 0, 3]), torch.tensor([2, 4, 0])
    layer(*given, *lengths)
    wanted = [*given, *layer.parameters()]
    at_once = torch.autograd.grad(layer(*given, *lengths).square().sum(), wanted)
    at_each_step()
    for a, b in zip(at_once, torch.autograd.grad(layer(*given, *lengths).square().sum(), wanted)):
        torch.testing.assert_close(a, b)


def test_a_graph_that_is_kept_gives_the_same_gradients_again():
    layer = L.AttentionSeq2Seq(cell_fn=L.GRUCell, n_hidden=4)
    x, y = torch.randn(2, 3, 3, requires_grad=True), torch.randn(2, 3, 2)
    cost = layer(x, y).square().sum()
    (first,) = torch.autograd.grad(cost, [x], retain_graph=True)  # without the parameters
    both = torch.autograd.grad(cost, [x, *layer.parameters()], retain_graph=True)
    again = torch.autograd.grad(cost, [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip((first, *both), (both[0], *again)))


def test_a_second_derivative_is_refused_and_not_wrong(at_each_step):
    layer = L.AttentionSeq2Seq(cell_fn=L.GRUCell, n_hidden=4)
    x, y = torch.randn(2, 3, 3, requires_grad=True), torch.randn(2, 3, 2, requires_grad=True)
    for wanted in (x, y):
        (gradient,) = torch.autograd.grad(layer(x, y).sum(), [wanted], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated once, not twice"):
            gradient.square().sum().backward()
    at_each_step()
    (gradient,) = torch.autograd.grad(layer(x, y).sum(), [x], create_graph=True)
    gradient.square().sum().backward()
    assert layer.decode.W_input.grad.isfinite().all()


# Decoding ----------------------------------------------------------------------------------------


@cells
def test_decoding_writes_what_reading_its_own_words_would_predict(options):
    model = made(**options).eval()
    found = model.decode(SOURCE, LENGTHS, max_length=6)
    logits = model(SOURCE, model.shifted(found.ids), LENGTHS)
    for n in range(3):
        end = min(int(found.lengths[n]) + 1, 6)
        assert torch.equal(logits[n, :end].argmax(1), found.ids[n, :end])
        log_p = logits[n].log_softmax(1).gather(1, found.ids[n, :, None])[:end].sum()
        torch.testing.assert_close(found.scores[n], log_p / ((5 + end) / 6))


@cells
def test_scores_of_a_beam_are_those_of_its_sentences(options):
    model = made(**options).eval()
    found = model.decode(SOURCE, LENGTHS, max_length=5, beam=4, length_penalty=0.7)
    log_p = model(SOURCE, model.shifted(found.ids), LENGTHS).log_softmax(2).gather(2, found.ids[..., None])[..., 0]
    for n in range(3):
        end = min(int(found.lengths[n]) + 1, 5)
        torch.testing.assert_close(found.scores[n], log_p[n, :end].sum() / ((5 + end) / 6) ** 0.7)
    assert (
        found.scores >= model.decode(SOURCE, LENGTHS, max_length=5, length_penalty=0.7).scores - 1e-6
    ).float().mean() > 0.5


def test_it_learns_to_reverse():
    generator = torch.Generator().manual_seed(0)
    model = made(size=32, mask_attention=True, reverse_source=False)
    step = tl.TrainStep(model.loss, torch.optim.Adam(model.parameters(), lr=0.01), clip_norm=1.0)
    source = torch.randint(3, 11, (64, 3), generator=generator)
    target = F.pad(source.flip(1), (0, 1), value=model.EOS_ID)
    for _ in range(80):
        step((source, target))
    found = model.decode(source, max_length=6, beam=2)
    assert (found.ids[:, :4] == target).all(1).float().mean() > 0.9


# The rest of PyTorch -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_samples": 4}], ids=["full", "sampled"])
def test_runs_under_autocast(options):
    model = made(**options, mask_attention=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(SOURCE, TARGET)
        found = model.decode(SOURCE, max_length=3, beam=2)
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert found.scores.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does, not we
def test_compiled_equals_eager():
    model = made(mask_attention=True, tie_embeddings=True)
    torch._dynamo.reset()
    compiled = torch.compile(model.loss, backend="aot_eager", fullgraph=True)
    source, target = SOURCE[:, :2], TARGET[:, :2]
    loss, expected = compiled(source, target), model.loss(source, target)
    torch.testing.assert_close(loss, expected)
    mine = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(mine, torch.autograd.grad(expected, list(model.parameters()))):
        torch.testing.assert_close(a, b)


def test_training_mode_of_a_bound_method_is_seen_by_a_step():
    model = made(keep=0.5)
    step = tl.TrainStep(model.loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert set(step._modules) == set(model.modules())


# What is refused -----------------------------------------------------------------------------------

REFUSED = [  # source, target, lengths
    (SOURCE.float(), TARGET, None, TypeError, r"source ids of int64 or int32, got torch.float32; .*\.long\(\)"),
    (SOURCE.bool(), TARGET, None, TypeError, "got torch.bool"),
    (SOURCE.tolist(), TARGET, None, TypeError, "source as a tensor of ids .*, got list"),
    (SOURCE[0], TARGET, None, ValueError, r"source ids \(N, T\), .* got \(4,\)"),
    (SOURCE[:, :0], TARGET, None, ValueError, r"at least one column, got \(3, 0\)"),
    (SOURCE[:0], TARGET, None, ValueError, r"an empty batch, source \(0, 4\)"),
    (SOURCE, TARGET[:2], None, ValueError, r"a target for each source, got source \(3, 4\) and target \(2, 3\)"),
    (SOURCE, TARGET.double(), None, TypeError, "target ids of int64 or int32, got torch.float64"),
    (SOURCE + 4, TARGET, None, IndexError, "source ids from 0 to 11, got 12 in sentence 0 at place 1"),
    (SOURCE, TARGET - 1, None, IndexError, "target ids from 0 to 10, got -1 in sentence 1 at place 2"),
    (SOURCE, TARGET, [4, 1, 2], TypeError, "source_lengths as a tensor of integers, got list"),
    (SOURCE, TARGET, LENGTHS.float(), TypeError, "integers, got torch.float32"),
    (SOURCE, TARGET, LENGTHS[:2], ValueError, r"a length for each of 3 sources, got source_lengths \(2,\)"),
    (SOURCE, TARGET, LENGTHS + 1, ValueError, r"lie in \[0, 4\], and 5 for sentence 0"),
    (SOURCE, TARGET, LENGTHS - 2, ValueError, "-1 for sentence 1"),
]


@pytest.mark.parametrize(("source", "target", "lengths", "error", "text"), REFUSED)
def test_a_batch_is_refused(source, target, lengths, error, text):
    model = made(name="translator")
    for call in (model, model.loss):
        with pytest.raises(error, match=f"EmbeddingAttentionSeq2Seq 'translator'.*{text}"):
            call(source, target, lengths)
    if "target" not in text:
        with pytest.raises(error, match=text):
            model.decode(source, lengths, max_length=3)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'token' or 'sentence', got 'mean'"):
        made().loss(SOURCE, TARGET, reduction="mean")


# CUDA --------------------------------------------------------------------------------------------

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@cells
@pytest.mark.usefixtures("without_tf32")
def test_cuda_equals_cpu(options):
    model = made(**options, mask_attention=True)
    loss = model.loss(SOURCE, TARGET)
    loss.backward()
    found = model.decode(SOURCE, max_length=4, beam=3, return_attention=True)
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.cuda()
    on_gpu = model.loss(SOURCE.cuda(), TARGET.cuda())
    on_gpu.backward()
    torch.testing.assert_close(on_gpu.cpu(), loss, rtol=1e-4, atol=1e-5)
    for a, p in zip(gradients, model.parameters()):
        torch.testing.assert_close(p.grad.cpu(), a, rtol=1e-3, atol=1e-5)
    decoded = model.decode(SOURCE.cuda(), max_length=4, beam=3, return_attention=True)
    assert torch.equal(decoded.ids.cpu(), found.ids)
    torch.testing.assert_close(decoded.attention.cpu(), found.attention, rtol=1e-4, atol=1e-5)


@needs_cuda
@pytest.mark.parametrize("options", [*CELLS.values(), {"num_samples": 4}], ids=[*CELLS, "sampled"])
def test_a_captured_step_trains(options):
    model = made(**options, size=16, mask_attention=True).cuda()
    step = tl.TrainStep(model.loss, torch.optim.Adam(model.parameters(), lr=0.01), clip_norm=1.0, capture=True)
    losses = [float(step((SOURCE.cuda(), TARGET.cuda()))) for _ in range(60)]
    assert step._recordings
    assert losses[-1] < losses[0]
