"""The output layers for large vocabularies: sampled in training, exact and thrifty in eval()."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch.nn import functional as F

import torchlayer.nn as tl_nn
from torchlayer.kernels.nce import nce_loss
from torchlayer.kernels.sampled_softmax import sampled_softmax_loss
from torchlayer.kernels.samplers import all_candidate_sampler, log_uniform_sampler, uniform_sampler
from torchlayer.nn import NCELoss, SampledSoftmaxLoss

BOTH = [SampledSoftmaxLoss, NCELoss]
both_losses = pytest.mark.parametrize("loss_class", BOTH)


def batch(n=6, n_features=8, n_classes=50, n_true=1, dtype=torch.float32):
    labels = torch.randint(n_classes, (n, n_true))
    return torch.randn(n, n_features, dtype=dtype), labels[:, 0] if n_true == 1 else labels


@both_losses
@pytest.mark.parametrize(("n_true", "bias"), [(1, True), (3, False)])
def test_training_is_the_function_on_freshly_drawn_classes(loss_class, n_true, bias):
    fixed = []

    def sampler(labels, n_sampled, n_classes):
        fixed.append(uniform_sampler(labels, n_sampled, n_classes))
        return fixed[-1]

    loss = loss_class(8, 50, 20, n_true=n_true, bias=bias, sampler=sampler, reduction="none")
    hidden, labels = batch(n_true=n_true)
    function = sampled_softmax_loss if loss_class is SampledSoftmaxLoss else nce_loss
    for _ in range(2):
        losses = loss(hidden, labels)
        assert torch.equal(losses, function(loss.weight, loss.bias, hidden, labels, fixed[-1]))
    assert not torch.equal(fixed[0].sampled, fixed[1].sampled)


def full(loss, hidden, labels):
    """All logits at once."""
    logits = F.linear(hidden, loss.weight, loss.bias).double()
    targets = torch.zeros_like(logits)
    for column in labels.view(len(hidden), -1).T:
        targets[torch.arange(len(hidden)), column] += 1 / loss.n_true
    if isinstance(loss, SampledSoftmaxLoss):
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)


@both_losses
@pytest.mark.parametrize("chunk", [1, 40, 10**9])
@pytest.mark.parametrize(("n_true", "bias"), [(1, True), (3, False)])
def test_eval_is_the_loss_over_all_classes_whatever_the_chunk(monkeypatch, loss_class, chunk, n_true, bias):
    monkeypatch.setattr(tl_nn, "_CHUNK", chunk)
    loss = loss_class(8, 50, 20, n_true=n_true, bias=bias, reduction="none", dtype=torch.float64).eval()
    hidden, labels = batch(n_true=n_true, dtype=torch.float64)
    hidden.requires_grad_()
    parameters = [hidden, *loss.parameters()]
    ours, right = loss(hidden, labels), full(loss, hidden, labels)
    torch.testing.assert_close(ours, right)
    for a, b in zip(torch.autograd.grad(ours.sum(), parameters), torch.autograd.grad(right.sum(), parameters)):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(loss(hidden, labels), right.detach())


@both_losses
def test_eval_never_holds_all_logits(monkeypatch, loss_class):
    monkeypatch.setattr(tl_nn, "_CHUNK", 64 * 10)
    loss, (hidden, labels) = loss_class(8, 3000, 20).eval(), batch(64, n_classes=3000)
    largest = 0

    def see(tensor):
        nonlocal largest
        if tensor.shape[:1] == (64,):
            largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss(hidden, labels).backward()
    assert largest <= 64 * 10  # saved for the backward; what a chunk saves itself is made again in it
    widths = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda *a: widths.append(linear(*a).shape[1]) or linear(*a))
    with torch.no_grad():
        loss(hidden, labels)
    assert (max(widths), sum(widths)) == (10, 3000)


@both_losses
def test_eval_is_deterministic_and_training_is_not(loss_class):
    loss, (hidden, labels) = loss_class(8, 500, 5), batch(n_classes=500)
    assert float(loss(hidden, labels).detach()) != float(loss(hidden, labels).detach())
    loss.eval()
    assert torch.equal(loss(hidden, labels), loss(hidden, labels))


@both_losses
def test_training_obeys_the_seed(loss_class):
    loss, (hidden, labels) = loss_class(8, 500, 5), batch(n_classes=500)
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(loss(hidden, labels))
    assert torch.equal(*losses)


@both_losses
def test_the_state_is_weight_and_bias(loss_class):
    loss = loss_class(8, 50, 5)
    assert {name: tuple(value.shape) for name, value in loss.state_dict().items()} == {"weight": (50, 8), "bias": (50,)}
    assert list(loss_class(8, 50, 5, bias=False).state_dict()) == ["weight"]
    other = loss_class(8, 50, 5).eval()
    other.load_state_dict(loss.state_dict())
    hidden, labels = batch()
    for twin in (other, copy.deepcopy(loss).eval(), pickle.loads(pickle.dumps(loss)).eval()):
        assert torch.equal(twin(hidden, labels), loss.eval()(hidden, labels))


@both_losses
def test_a_module_as_sampler_is_a_part_of_it(loss_class):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n_calls", torch.zeros(()))

        def forward(self, labels, n_sampled, n_classes):
            self.n_calls += 1
            return log_uniform_sampler(labels, n_sampled, n_classes)

    loss = loss_class(8, 50, 5, sampler=Counting())
    loss(*batch())
    assert float(loss.state_dict()["sampler.n_calls"]) == 1


@both_losses
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_as_asked(loss_class, sparse):
    loss, (hidden, labels) = loss_class(8, 50, 5, sparse=sparse), batch()
    loss(hidden, labels).backward()
    assert [parameter.grad.is_sparse for parameter in loss.parameters()] == [sparse, sparse]


@both_losses
def test_it_learns_what_it_measures(loss_class):
    hidden, labels = batch(200, n_classes=100)
    loss = loss_class(8, 100, 30)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    with torch.no_grad():
        before = float(loss.eval()(hidden, labels))
    loss.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss(hidden, labels).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(loss.eval()(hidden, labels)) < 0.9 * before


def test_all_candidates_make_sampled_softmax_the_full_one():
    loss, (hidden, labels) = SampledSoftmaxLoss(8, 50, 50, sampler=all_candidate_sampler), batch()
    torch.testing.assert_close(loss(hidden, labels), loss.eval()(hidden, labels))


@both_losses
@pytest.mark.parametrize("training", [True, False])
def test_reductions(loss_class, training):
    hidden, labels = batch()
    values = {}
    for reduction in ("none", "mean", "sum"):
        loss = loss_class(8, 50, 50, sampler=all_candidate_sampler, reduction=reduction).train(training)
        torch.nn.init.ones_(loss.weight)
        values[reduction] = loss(hidden, labels).detach()
    torch.testing.assert_close(values["mean"], values["none"].mean())
    torch.testing.assert_close(values["sum"], values["none"].sum())


@both_losses
@pytest.mark.parametrize("training", [True, False])
def test_sixteen_bit_hidden_under_autocast(loss_class, training):
    loss, (hidden, labels) = loss_class(8, 50, 50, sampler=all_candidate_sampler).train(training), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(hidden.bfloat16(), labels)
    assert torch.equal(value, loss(hidden.bfloat16().float(), labels))


@both_losses
def test_sixteen_bit_weights_are_measured_in_float32(loss_class):
    loss, (hidden, labels) = loss_class(8, 50, 5, dtype=torch.bfloat16).eval(), batch(dtype=torch.bfloat16)
    value = loss(hidden, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), full(loss, hidden, labels).mean(), rtol=2e-2, atol=0)


@both_losses
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch(loss_class, training):
    loss = loss_class(8, 50, 5, reduction="sum").train(training)
    loss(*batch(0)).backward()
    assert float(loss.weight.grad.abs().sum()) == 0


@both_losses
def test_its_line_says_what_it_is(loss_class):
    text = f"{loss_class.__name__}(8, 50, n_sampled=5, n_true=1, bias=True, sparse=False)"
    assert repr(loss_class(8, 50, 5, sampler=partial(log_uniform_sampler, unique=False))) == text


MADE_BAD = [
    *(
        ({name: value}, TypeError, f"needs {name} as an int, got")
        for name in ("n_features", "n_classes", "n_sampled", "n_true")
        for value in (1.5, None, "9", True)
    ),
    *(
        ({name: value}, ValueError, f"needs {name} of at least 1, got {value}")
        for name in ("n_features", "n_classes", "n_sampled", "n_true")
        for value in (0, -1)
    ),
    ({"sampler": None}, TypeError, r"needs sampler as a function of \(labels, n_sampled, n_classes\), got NoneType"),
    ({"sampler": "uniform"}, TypeError, "needs sampler as a function of .* got str"),
    ({"reduction": "max"}, ValueError, "needs reduction 'none', 'mean' or 'sum', got 'max'"),
]


@both_losses
@pytest.mark.parametrize(("change", "error", "text"), MADE_BAD)
def test_bad_settings(loss_class, change, error, text):
    with pytest.raises(error, match=f"^{loss_class.__name__} {text}"):
        loss_class(**{"n_features": 8, "n_classes": 50, "n_sampled": 5} | change)


HIDDEN, LABELS = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64)
#            hidden, labels, error, text in training, text in eval
CALLED_BAD = [
    ([1.0], LABELS, TypeError, "needs hidden as a tensor, got list", "needs hidden as a tensor, got list"),
    (HIDDEN, [1, 2], TypeError, "needs labels as a tensor, got list", "needs labels as a tensor, got list"),
    (HIDDEN[0], LABELS, ValueError, r"needs hidden \(N, 8\)", r"needs hidden \(N, 8\), got \(8,\)"),
    (HIDDEN[:, :7], LABELS, ValueError, r"needs hidden \(N, 8\)", r"needs hidden \(N, 8\), got \(4, 7\)"),
    (HIDDEN.double(), LABELS, TypeError, "of one dtype", "needs hidden in torch.float32, as its weight is, got"),
    (HIDDEN.long(), LABELS, TypeError, "of one dtype", "needs hidden in torch.float32, as its weight is, got"),
    (HIDDEN, LABELS.float(), TypeError, "label", "needs int64 labels, got torch.float32; call labels.long"),
    (HIDDEN, LABELS.bool(), TypeError, "label", "needs int64 labels, got torch.bool; call labels.long"),
    (HIDDEN, LABELS[:3], ValueError, r"needs labels \(4,\)", r"needs labels \(4, 1\), got \(3, 1\)"),
    (
        HIDDEN,
        LABELS.view(2, 2),
        ValueError,
        r"needs labels \(N,\), got \(2, 2\)",
        r"needs labels \(4, 1\), got \(2, 2\)",
    ),
    (HIDDEN, LABELS[0], ValueError, r"needs labels \(N,\), got \(\)", r"needs labels \(4, 1\), got \(\)"),
    (HIDDEN, LABELS - 1, IndexError, "-1", "needs labels from 0 to 49, got -1 in row 0"),
    (HIDDEN, LABELS + 50, IndexError, "50", "needs labels from 0 to 49, got 50 in row 0"),
    (HIDDEN, LABELS + 2**40, IndexError, "1099511627776", "needs labels from 0 to 49, got 1099511627776 in row 0"),
]


@both_losses
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("hidden", "labels", "error", "in_training", "in_eval"), CALLED_BAD)
def test_bad_calls(loss_class, training, hidden, labels, error, in_training, in_eval):
    loss = loss_class(8, 50, 5).train(training)
    with pytest.raises(error, match=in_training if training else in_eval):
        loss(hidden, labels)
