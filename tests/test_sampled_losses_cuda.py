"""The sampled losses on CUDA: every way through them against float64, and what only a GPU can get wrong."""

from __future__ import annotations

import importlib

import pytest
import torch
from sampled_loss_cases import FUNCTIONS, differentiable, gradients, inputs, read, run, vectors
from sampler_cases import forget_reports

from torchlayer._op_checks import poisoned_memory
from torchlayer._waits import reporting_waits
from torchlayer.kernels import _library

_sampled_loss = importlib.import_module("torchlayer.kernels._sampled_loss")
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.usefixtures("without_tf32"),
]
both_losses = pytest.mark.parametrize("loss", FUNCTIONS)
BF16 = torch.bfloat16

# (N, T, K, V, D), by the way they take: few samples and features; many in bfloat16; anything else.
FEW = [(1, 1, 1, 5, 1), (7, 2, 5, 30, 3), (128, 1, 64, 5000, 128), (1000, 3, 65, 900, 72), (5000, 1, 64, 500, 128)]
FEW += [(129, 8, 256, 4000, 256)]
MANY = [(1, 1, 300, 500, 64), (257, 3, 264, 3000, 72), (300, 1, 257, 400, 64), (2000, 1, 2048, 6000, 256)]
MANY += [(700, 2, 300, 2000, 1024), (1000, 1, 1000, 5000, 320), (65, 8, 600, 5000, 1000), (900, 1, 4096, 9000, 8)]
OTHERS = [(300, 1, 257, 400, 65), (7, 9, 12, 50, 7), (1000, 1, 1000, 5000, 300)]
CASES = [(shape, dtype) for shape in FEW + OTHERS for dtype in (torch.float32, torch.float64, torch.float16, BF16)]
CASES += [(shape, dtype) for shape in MANY for dtype in (torch.float32, BF16)]
# of the largest number; torch rounds the logits of sixteen-bit factors before we see them
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.float16: 4e-3, BF16: 4e-2}


@pytest.fixture
def bad_on_purpose():
    """Nobody else is told of this test's bad ids."""
    yield
    forget_reports()


def on_gpu(given):
    return type(given)(*(None if x is None else x.cuda() for x in given))


def ops(loss):
    """A loss's op and its backward's, and the reference of each."""
    pair = (_library.OPS[loss], _library.OPS[f"{loss}_backward"])
    return *(op.overload for op in pair), *(op.reference for op in pair)


def error(ours, right):
    """The largest difference over the largest number, which may cancel to nothing where its parts are of order one."""
    ours, right = ours.double(), right.double()
    assert ours.shape == right.shape
    return float((ours - right).abs().max() / right.abs().max().clamp(min=1e-3)) if right.numel() else 0.0


def both_ways(loss, given, keep, remove=True):
    """Losses and all gradients by the ops, and by their references in float64."""
    forward, backward, plain, plain_backward = ops(loss)
    exact = given.to(torch.float64)
    grad = torch.linspace(0.5, 1.5, len(given.hidden), device="cuda")
    out, right = forward(*given, remove, False, keep), plain(*exact, remove, False, 0)
    ours = backward(grad.to(out[0].dtype), *given, *out[1:], remove)
    theirs = plain_backward(grad.double(), *exact, *right[1:], remove)
    return (out[0], *ours), (right[0], *theirs)


def parts(grad):
    """Copies of its numbers, and of where they belong if it is sparse."""
    return [x.clone() for x in ((grad._indices(), grad._values()) if grad.is_sparse else (grad,))]


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_float64_at_every_shape_and_dtype(loss, shape, dtype, bias):
    given = on_gpu(inputs(*shape, bias=bias, dtype=dtype))
    keep = _sampled_loss.kept_bytes(given.weight.requires_grad_(), *given[1:5])
    given.weight.requires_grad_(False)
    for much in (keep, 0):
        for remove in (True, False):
            ours, right = both_ways(loss, given, much, remove)
            assert all(error(a, b) <= TOLERANCE[dtype] for a, b in zip(ours[:4], right[:4]))
            assert torch.equal(ours[4], right[4])


@both_losses
@pytest.mark.parametrize("path", [path for loss in FUNCTIONS for path in vectors(loss)], ids=lambda path: path.stem)
def test_tensorflows_values(loss, path):
    if not path.stem.startswith(loss.removesuffix("_loss")):
        pytest.skip("of the other loss")
    given, arrays, about = read(path)
    losses = run(loss, on_gpu(given), remove_accidental_hits=about["remove_accidental_hits"])
    torch.testing.assert_close(losses.cpu(), arrays["loss"], rtol=1e-5, atol=1e-5)


@both_losses
@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
@pytest.mark.parametrize("shape", MANY[1:6], ids=str)
def test_logits_far_above_the_true_one_do_not_overflow(loss, scale, shape):
    given = inputs(*shape, dtype=BF16)
    given = on_gpu(given._replace(weight=given.weight * scale))
    ours, right = both_ways(loss, given, _sampled_loss._MOST_KEPT)
    assert all(bool(x.isfinite().all()) for x in ours)
    assert all(error(a, b) <= 3e-2 for a, b in zip(ours[:4], right[:4]))


@both_losses
def test_rows_that_are_not_kept_are_computed_again(loss, monkeypatch):
    given = on_gpu(inputs(3000, 1, 1000, 5000, 128, dtype=BF16))
    whole, _ = both_ways(loss, given, 2 * 3000 * 1000 + 2**20)
    partly, right = both_ways(loss, given, 2 * 1024 * 1000 + 2**20)
    assert all(error(a, b) <= 2e-2 for a, b in zip(partly[:4], right[:4]))
    assert torch.equal(whole[0], partly[0])


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), [(FEW[2], torch.float32), (MANY[3], BF16), (OTHERS[2], torch.float32)])
def test_repeats_are_equal_bit_for_bit(loss, shape, dtype):
    given = on_gpu(inputs(*shape, dtype=dtype))
    first, _ = both_ways(loss, given, 2**24)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(both_ways(loss, given, 2**24)[0], first))
    with poisoned_memory():
        poisoned, _ = both_ways(loss, given, 2**24)
    assert all(torch.equal(a, b) for a, b in zip(poisoned, first))


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), [(FEW[2], torch.float32), (MANY[3], BF16), (OTHERS[2], torch.float32)])
@pytest.mark.parametrize("bad", [-1, 2**40, "V"])
@pytest.mark.usefixtures("bad_on_purpose")
def test_a_bad_label_spoils_its_row_alone(loss, shape, dtype, bad):
    given = on_gpu(inputs(*shape, dtype=dtype))
    given.labels[5 % shape[0], 0] = shape[3] if bad == "V" else bad
    leaf = differentiable(given)
    losses = run(loss, leaf)
    row = 5 % shape[0]
    assert losses.isnan().nonzero().flatten().tolist() == [row]
    d_weight, d_bias, d_hidden = gradients(losses, leaf, torch.ones_like(losses))
    assert not bool(d_hidden[row].any())
    assert all(bool(g.isfinite().all()) for g in (d_weight, d_bias, d_hidden))


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), [(FEW[2], torch.float32), (MANY[3], BF16)])
def test_a_captured_step_replays_on_new_data_and_never_waits(loss, shape, dtype):
    given = differentiable(on_gpu(inputs(*shape, dtype=dtype)))
    other = on_gpu(inputs(*shape, dtype=dtype, seed=1))

    def step():
        for leaf in given[:3]:
            leaf.grad = None
        run(loss, given, sparse=True).mean().backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), reporting_waits("error"):
        step()
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    for leaf in given[:3]:
        leaf.grad = None
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        for mine, new in zip(given, other):
            mine.copy_(new)
    graph.replay()
    replayed = [parts(leaf.grad) for leaf in given[:3]]
    step()
    for ours, leaf in zip(replayed, given[:3]):
        assert all(torch.equal(a, b) for a, b in zip(ours, parts(leaf.grad)))


@both_losses
@pytest.mark.parametrize("scale", [1, 300])  # the latter of logits that errors are divided for
def test_a_second_backward_makes_again_what_the_first_replaced(loss, scale):
    given = on_gpu(inputs(600, 2, 520, 900, 24, dtype=BF16))
    given = given._replace(weight=given.weight * scale)
    forward, backward, plain, plain_backward = ops(loss)
    all_errors, errors_of_256 = 2 * 600 * 527, 2 * 256 * 527  # of the rest the backward makes them in their place
    keep = _sampled_loss.kept_on_gpu(given.weight, given.hidden, 2, 520) - all_errors + errors_of_256
    out, grad = forward(*given, True, False, keep), torch.linspace(-1, 1, 600, device="cuda")
    before = out[-1].clone()
    first, second = (backward(grad, *given, *out[1:], True) for _ in range(2))
    assert not torch.equal(before, out[-1])
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    exact = given.to(torch.float64)
    right = plain_backward(grad.double(), *exact, *plain(*exact, True, False, 0)[1:], True)
    assert scale > 1 or max(error(a, b) for a, b in zip(first[:3], right[:3])) <= TOLERANCE[BF16]


# (N, K, D), by the way they take
HUGE = [((8_400_000, 256, 4), torch.float32), ((530_000, 4096, 8), BF16), ((2_200_000, 1000, 4), torch.float32)]


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), HUGE, ids=str)
def test_more_logits_than_32_bits_count(loss, shape, dtype):
    n, n_sampled, n_features = shape
    assert n * n_sampled > 2**31
    if torch.cuda.mem_get_info()[0] < 2**35:
        pytest.skip("needs 32 GiB of the device's memory")
    small = inputs(1, 1, n_sampled, 5000, n_features, dtype=dtype)
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(n, n_features, device="cuda", generator=generator, dtype=dtype)
    labels = torch.randint(5000, (n, 1), device="cuda", generator=generator)
    counts = torch.rand(n, 1, device="cuda", generator=generator) + 0.01
    given = on_gpu(small)._replace(hidden=hidden, labels=labels, true_expected_count=counts)
    forward, backward, plain, plain_backward = ops(loss)
    keep = _sampled_loss.kept_bytes(given.weight.requires_grad_(), *given[1:5])
    given.weight.requires_grad_(False)
    out = forward(*given, True, False, keep)
    d_hidden, d_rows, d_biases, ids = backward(torch.ones(n, device="cuda"), *given, *out[1:], True)
    assert bool(out[0].isfinite().all())
    assert torch.equal(ids, torch.cat((given.sampled, labels.flatten())))

    total = torch.zeros(n_sampled, n_features + 1, device="cuda", dtype=torch.float64)  # of the samples' gradients
    for rows in torch.arange(n, device="cuda").chunk(max(1, n * n_sampled // 2**26)):
        part = given._replace(hidden=hidden[rows], labels=labels[rows], true_expected_count=counts[rows])
        right = plain(*part.to(torch.float64), True, False, 0)
        grads = plain_backward(torch.ones_like(right[0]), *part.to(torch.float64), *right[1:], True)
        total += torch.cat((grads[1][:n_sampled], grads[2][:n_sampled, None]), 1)
        for ours, exact in ((out[0][rows], right[0]), (d_hidden[rows], grads[0])):
            assert error(ours, exact) <= TOLERANCE[dtype]
        assert error(d_rows[n_sampled + rows], grads[1][n_sampled:]) <= TOLERANCE[dtype]
    # sums of millions of numbers of either sign
    assert error(d_rows[:n_sampled], total[:, :-1]) <= 10 * TOLERANCE[dtype]
    assert error(d_biases[:n_sampled], total[:, -1]) <= 10 * TOLERANCE[dtype]


@both_losses
def test_an_empty_batch(loss):
    for dtype in (torch.float32, BF16):
        given = differentiable(on_gpu(inputs(0, 1, 300, 500, 64, dtype=dtype)))
        d_weight, d_bias, d_hidden = gradients(run(loss, given), given, torch.ones(0, device="cuda"))
        assert d_hidden.shape == (0, 64)
        assert not bool(d_weight.any())
        assert not bool(d_bias.any())
