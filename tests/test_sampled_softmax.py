"""What both sampled losses promise, checked for each: TensorFlow's numbers, the definition in float64 at every shape
and dtype, gradients dense and sparse, and an answer to every kind of bad input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from sampled_loss_cases import (
    DTYPES,
    FUNCTIONS,
    MODULES,
    Inputs,
    by_definition,
    differentiable,
    gradients,
    has_compiler,
    inputs,
    read,
    run,
    vectors,
)

from torchlayer.kernels import _library, _sampled_loss, compiled
from torchlayer.kernels._sampled_loss import Logits

OPS = torch.ops.torchlayer
KEPT = torch.empty(0, dtype=torch.uint8)  # of a forward that left nothing for the backward
both_losses = pytest.mark.parametrize("loss", FUNCTIONS)
compiled_only = pytest.mark.skipif(
    not has_compiler() or bool(os.environ.get("TORCHLAYER_BACKEND")), reason="no C++ kernels here"
)
FILES = [pytest.param(loss, path, id=path.stem) for loss in FUNCTIONS for path in vectors(loss)]


def close(actual, expected, factor=1.0):
    """To 1e-5 of the largest number in float32; in sixteen bits to a few roundings; in float64 to 1e-12."""
    slack = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2}[actual.dtype]
    scale = expected.abs().max().clamp(min=1e-2) if expected.numel() else 1.0
    assert actual.shape == expected.shape
    assert float((actual.double() - expected).abs().max()) <= factor * slack * float(scale) if actual.numel() else True


@pytest.mark.parametrize(("loss", "path"), FILES)
@pytest.mark.parametrize("sparse", [False, True])
def test_tensorflows_values_and_gradients(loss, path, sparse):
    given, arrays, about = read(path)
    given = differentiable(given)
    losses = run(loss, given, remove_accidental_hits=about["remove_accidental_hits"], sparse=sparse)
    close(losses.detach(), arrays["loss"].double())
    n = len(losses)
    for grad, name in zip(gradients(losses, given, torch.arange(1, n + 1) / n), ("dW", "db", "dh")):
        close(grad.to_dense(), arrays[name].double())


def test_there_are_vectors_for_each_loss():
    assert [len(vectors(loss)) for loss in FUNCTIONS] == [8, 8]


#        N, T, K, V, D
SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 1, 1, 2, 3),
    (3, 1, 5, 7, 8),
    (2, 2, 65, 9, 31),
    (7, 3, 64, 100, 64),
    (33, 1, 17, 50, 65),
    (5, 8, 130, 40, 7),
    (40, 5, 9, 2000, 20),
    (300, 1, 1000, 3000, 5),  # several blocks of rows
    (2, 1, 3, 4, 1500),
    (600, 1, 530, 700, 37),  # several steps of every product
]
WAYS = [(True, True, True), (False, False, True), (True, True, False)]  # bias, remove, subtract
CASES = [(shape, way) for shape in SHAPES for way in WAYS if shape != SHAPES[-1] or way == WAYS[0]]


@both_losses
@pytest.mark.parametrize(("shape", "way"), CASES, ids=str)
def test_equals_the_definition_at_every_shape_and_dtype(loss, shape, way):
    bias, remove, subtract = way
    for dtype in DTYPES:
        given = differentiable(inputs(*shape, bias=bias, dtype=dtype))
        exact = differentiable(inputs(*shape, bias=bias, dtype=dtype).to(torch.float64))
        expected = by_definition(loss, exact, remove, subtract)
        losses = run(loss, given, remove_accidental_hits=remove, subtract_log_q=subtract)
        assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        close(losses.detach(), expected.detach(), 2)  # relative to the largest; sums are not kept in sixteen bits

        upstream = torch.rand(shape[0], dtype=torch.float64) + 0.5
        for ours, theirs in zip(gradients(losses, given, upstream), gradients(expected, exact, upstream)):
            assert ours.dtype == dtype
            close(ours, theirs)


@both_losses
def test_the_op_equals_its_reference(loss):
    for name in (loss, f"{loss}_backward"):
        op = _library.OPS[name]
        arguments = op.example(torch.device("cpu"))
        ours, reference = op.overload(*arguments), op.reference(*arguments)
        for a, b in zip(ours, reference):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t() if x.dim() == 2 else x,
    "every other row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "a slice with an offset": lambda x: torch.cat((x[:1], x))[1:],
    "unaligned": lambda x: torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape),
    "reversed twice": lambda x: x.flip(0).flip(0),
}


@both_losses
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_the_same(loss, layout):
    given = inputs(6, 2, 9, 20, 12, dtype=torch.float32)
    moved = differentiable(given)
    moved = Inputs(*(LAYOUTS[layout](tensor) for tensor in moved))
    plain = differentiable(given)
    close(run(loss, moved).detach(), run(loss, plain).detach().double())
    ones = torch.ones(6)
    for a, b in zip(gradients(run(loss, moved), moved, ones), gradients(run(loss, plain), plain, ones)):
        close(a, b.double())


@both_losses
def test_one_expanded_row_of_hidden(loss):
    given = inputs(1, 1, 5, 9, 4, dtype=torch.float64)
    three = given._replace(hidden=given.hidden.expand(3, 4), labels=given.labels.expand(3, 1))
    three = three._replace(true_expected_count=given.true_expected_count.expand(3, 1))
    close(run(loss, three), by_definition(loss, three, loss != "nce_loss"))


@both_losses
def test_labels_of_one_axis_are_one_true_class_each(loss):
    given = inputs(4, 1, 5, 9, 3)
    flat = given._replace(labels=given.labels[:, 0], true_expected_count=given.true_expected_count[:, 0])
    assert torch.equal(run(loss, flat), run(loss, given))


@both_losses
@pytest.mark.parametrize("which", ["overload", "reference"])
def test_ops_take_labels_of_one_axis(loss, which):
    given = inputs(4, 1, 5, 9, 3)
    flat = given._replace(labels=given.labels[:, 0], true_expected_count=given.true_expected_count[:, 0])
    forward, backward = (getattr(_library.OPS[name], which) for name in (loss, f"{loss}_backward"))
    losses, *kept = forward(*given, True, False, 0)
    assert torch.equal(forward(*flat, True, False, 0)[0], losses)
    for a, b in zip(backward(losses, *flat, *kept, True), backward(losses, *given, *kept, True)):
        assert torch.equal(a, b)


@both_losses
def test_a_tensor_that_outlived_its_transform_is_an_ordinary_one(loss):
    given, left = inputs(4, 1, 5, 9, 3), []
    torch.func.grad(lambda x: (left.append(x * 1), x.sum())[1])(given.hidden)
    given = differentiable(given)
    ours, right = (run(loss, given._replace(hidden=hidden)) for hidden in (left[0], left[0].detach().clone()))
    assert torch.equal(ours, right)
    assert torch.equal(*(torch.autograd.grad(losses.sum(), given.weight)[0] for losses in (ours, right)))


@both_losses
def test_nothing_to_differentiate_leaves_no_graph(loss):
    given = inputs(4, 1, 5, 9, 3)
    assert run(loss, given).grad_fn is None
    with torch.no_grad():
        assert run(loss, differentiable(given)).grad_fn is None


@both_losses
def test_reductions(loss):
    given = inputs(4, 2, 5, 9, 3)
    losses = run(loss, given)
    assert torch.equal(run(loss, given, reduction="none"), losses)
    assert torch.equal(run(loss, given, reduction="mean"), losses.mean())
    assert torch.equal(run(loss, given, reduction="sum"), losses.sum())


@both_losses
def test_every_repetition_of_a_hit_is_removed_and_gets_no_gradient(loss):
    given = inputs(2, 1, 6, 10, 4)
    given.labels[:] = torch.tensor([[3], [4]])
    given.sampled[:] = torch.tensor([3, 5, 3, 3, 6, 5])
    without = given._replace(
        hidden=given.hidden[:1],
        labels=given.labels[:1],
        true_expected_count=given.true_expected_count[:1],
        sampled=given.sampled[[1, 4, 5]],
        sampled_expected_count=given.sampled_expected_count[[1, 4, 5]],
    )
    first = run(loss, given, remove_accidental_hits=True)[0]
    close(first, run(loss, without)[0])

    # Only the first row is differentiated: what is left for class 3 is the gradient of the true class.
    leaf = differentiable(given)
    d_weight = gradients(run(loss, leaf, remove_accidental_hits=True), leaf, torch.tensor([1.0, 0.0]))[0]
    alone = differentiable(without)
    close(d_weight, gradients(run(loss, alone), alone, torch.ones(1))[0])


@both_losses
def test_a_row_whose_samples_are_all_hits_has_only_its_true_class(loss):
    for dtype in DTYPES:
        given = inputs(3, 1, 4, 5, 3, dtype=dtype)
        given.labels[:], given.sampled[:] = 2, 2
        leaf = differentiable(given)
        losses = run(loss, leaf, remove_accidental_hits=True)
        close(losses.detach(), by_definition(loss, given, True))
        assert all(bool(grad.isfinite().all()) for grad in gradients(losses, leaf, torch.ones(3)))


@both_losses
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("op_or_reference", ["op", "reference"])
def test_what_is_not_finite_stays_in_its_row(loss, bad, op_or_reference):
    given = inputs(5, 1, 80, 90, 6, dtype=torch.float32)
    given.hidden[2, 3] = bad
    arguments = (*given, True, False, 0)
    forward = getattr(OPS, loss) if op_or_reference == "op" else MODULES[loss]._reference
    losses = forward(*arguments)[0]
    others = [0, 1, 3, 4]
    assert bool(losses[others].isfinite().all())
    assert not bool(losses[2].isfinite())

    leaf = differentiable(given)
    d_hidden = gradients(run(loss, leaf), leaf, torch.ones(5))[2]
    assert bool(d_hidden[others].isfinite().all())
    if bad != bad:
        assert bool(d_hidden[2].isnan().all())


@both_losses
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_a_nan_among_the_parameters_of_a_true_class_reaches_the_rows_that_have_it(loss, where):
    given = inputs(4, 1, 6, 30, 5, dtype=torch.float32)
    given.labels[:, 0], given.sampled[:] = torch.tensor([1, 2, 3, 2]), torch.arange(10, 16)
    getattr(given, where)[2] = torch.nan
    assert run(loss, given).isnan().tolist() == [False, True, False, True]


@both_losses
def test_a_count_of_zero_gives_tensorflows_infinity(loss):
    given = inputs(2, 1, 4, 30, 5, dtype=torch.float32)
    given.sampled_expected_count[1] = 0
    assert run(loss, given, remove_accidental_hits=False).isposinf().tolist() == [True, True]


@both_losses
@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0])
def test_small_and_huge_logits(loss, scale):
    given = inputs(20, 2, 100, 300, 16, dtype=torch.float32)
    given = given._replace(weight=given.weight * scale)
    leaf, exact = differentiable(given), differentiable(given.to(torch.float64))
    expected = by_definition(loss, exact, True)
    losses = run(loss, leaf, remove_accidental_hits=True)
    close(losses.detach(), expected.detach())
    for a, b in zip(gradients(losses, leaf, torch.ones(20)), gradients(expected, exact, torch.ones(20))):
        close(a, b, 20 if scale > 1 else 1)  # float32's error of a logit of a thousand is 6e-5


@both_losses
@pytest.mark.parametrize("sparse", [False, True])
def test_an_empty_batch_costs_nothing_and_has_zero_gradients(loss, sparse):
    given = differentiable(inputs(0, 2, 4, 6, 3, dtype=torch.float32))
    losses = run(loss, given, sparse=sparse)
    assert losses.shape == (0,)
    d_weight, d_bias, d_hidden = torch.autograd.grad(losses.sum(), given[:3])
    assert d_hidden.shape == (0, 3)
    assert float(d_weight.to_dense().abs().sum() + d_bias.to_dense().abs().sum()) == 0


@both_losses
def test_sparse_gradients_hold_one_row_for_each_sample_and_label(loss):
    given = inputs(7, 3, 6, 50, 5)
    dense, sparse = differentiable(given), differentiable(given)
    ones = torch.ones(7)
    d_weight, d_bias, d_hidden = gradients(run(loss, sparse, sparse=True), sparse, ones)
    assert not d_weight.is_coalesced()
    ids = torch.cat((given.sampled, given.labels.flatten()))
    assert torch.equal(d_weight._indices()[0], ids)
    assert torch.equal(d_bias._indices()[0], ids)
    assert d_weight._values().shape == (6 + 7 * 3, 5)
    for a, b in zip((d_weight, d_bias, d_hidden), gradients(run(loss, dense), dense, ones)):
        close(a.to_dense(), b)


@both_losses
def test_sparse_adam_and_dense_adam_both_learn(loss):
    for sparse, optimizer in ((True, torch.optim.SparseAdam), (False, torch.optim.Adam)):
        given = differentiable(inputs(16, 1, 20, 60, 8, dtype=torch.float32))
        assert given.bias is not None
        update = optimizer([given.weight, given.bias], lr=0.05)
        before = float(run(loss, given).mean().detach())
        for _ in range(20):
            update.zero_grad()
            run(loss, given, sparse=sparse, reduction="mean").backward()
            update.step()
        assert float(run(loss, given).mean().detach()) < 0.8 * before


@both_losses
@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_only_what_asks_gets_a_gradient(loss, wanted):
    given = inputs(3, 1, 4, 9, 5)
    leaves = [leaf.requires_grad_(want) for leaf, want in zip(given[:3], wanted)]
    run(loss, Inputs(*leaves, *given[3:]), reduction="sum").backward()
    assert tuple(leaf.grad is not None for leaf in leaves) == wanted


@both_losses
def test_sampled_values_are_constants(loss):
    given = differentiable(inputs(3, 1, 4, 9, 5))
    counts = [count.requires_grad_() for count in given[5:]]
    run(loss, given._replace(true_expected_count=counts[0], sampled_expected_count=counts[1])).sum().backward()
    assert counts[0].grad is None
    assert counts[1].grad is None


@both_losses
@pytest.mark.parametrize(("n_true", "remove", "subtract"), [(1, True, True), (3, True, False), (2, False, True)])
def test_gradcheck(loss, n_true, remove, subtract):
    given = differentiable(inputs(4, n_true, 6, 12, 3))

    def function(weight, bias, hidden):
        options = {"remove_accidental_hits": remove, "subtract_log_q": subtract}
        return FUNCTIONS[loss](weight, bias, hidden, given.labels, given.sampled_values, **options)

    assert torch.autograd.gradcheck(function, given[:3])


@both_losses
@pytest.mark.parametrize("of", [0, 1, 2])
def test_differentiating_twice_raises(loss, of):
    given = differentiable(inputs(3, 1, 4, 9, 5))
    (grad,) = torch.autograd.grad(run(loss, given).sum(), given[of], create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        (grad**2).sum().backward()


def eager(loss, given, remove):
    """Plain PyTorch in the inputs' own dtype, as one writes it."""
    weight, bias, hidden, labels, sampled, true_count, sampled_count = given
    true = (hidden[:, None] * weight[labels]).sum(-1) + bias[labels] - true_count.log().to(hidden.dtype)
    noise = hidden @ weight[sampled].T + bias[sampled] - sampled_count.log().to(hidden.dtype)
    if remove:
        noise = noise.masked_fill((labels[:, :, None] == sampled).any(1), -1e4)
    logits, softplus = torch.cat((true, noise), 1), torch.nn.functional.softplus
    return softplus(logits).sum(1) - true.mean(1) if loss == "nce_loss" else logits.logsumexp(1) - true.mean(1)


@both_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_errors_are_no_larger_than_plain_pytorchs(loss, dtype):
    given = inputs(200, 2, 100, 150, 64, dtype=dtype)
    given.labels[:] = given.labels % 10  # classes that collect many rows of gradient
    exact, ours, plain = differentiable(given.to(torch.float64)), differentiable(given), differentiable(given)
    ones = torch.ones(200)
    expected = gradients(by_definition(loss, exact, True), exact, ones)
    here = gradients(run(loss, ours, remove_accidental_hits=True), ours, ones)
    there = gradients(eager(loss, plain, True), plain, ones)
    for mine, theirs, right in zip(here, there, expected):
        assert float((mine.double() - right).norm()) <= float((theirs.double() - right).norm())


@both_losses
def test_repeats_are_equal_bit_for_bit(loss):
    given = inputs(300, 2, 700, 900, 33, dtype=torch.float32)

    def once():
        leaf = differentiable(given)
        losses = run(loss, leaf)
        return [losses.detach(), *gradients(losses, leaf, torch.ones(300))]

    first = once()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, once()))


@both_losses
def test_two_threads_agree_with_one(loss):
    given = inputs(3000, 1, 64, 900, 40, dtype=torch.float32)
    n_threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            leaf = differentiable(given)
            losses = run(loss, leaf)
            results.append([losses.detach(), *gradients(losses, leaf, torch.ones(3000))])
    finally:
        torch.set_num_threads(n_threads)
    for a, b in zip(*results):
        close(a, b.double())


@both_losses
def test_inputs_are_left_as_they_were(loss):
    given = inputs(5, 2, 7, 20, 6)
    before = [tensor.clone() for tensor in given]
    leaf = differentiable(given)
    gradients(run(loss, leaf), leaf, torch.ones(5))
    assert all(torch.equal(a, b) for a, b in zip(before, leaf))


@both_losses
def test_under_autocast_hidden_is_taken_in_the_weights_dtype(loss):
    given = inputs(5, 1, 7, 20, 6, dtype=torch.float32)
    half = given._replace(hidden=given.hidden.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = run(loss, half)
    assert torch.equal(losses, run(loss, given._replace(hidden=half.hidden.float())))


@both_losses
def test_the_reference_is_exact_under_autocast_too(loss):
    for name in (loss, f"{loss}_backward"):
        op = _library.OPS[name]
        arguments = op.example(torch.device("cpu"))
        plain = op.reference(*arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = op.reference(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(plain, under))


@both_losses
@pytest.mark.parametrize("shape", [(3, 1, 4, 9, 5), (2, 3, 5, 6, 2), (1, 1, 1, 1, 1)])
def test_opcheck(loss, shape):
    given = differentiable(inputs(*shape, dtype=torch.float32))
    torch.library.opcheck(getattr(OPS, loss), (*given, True, False, 0))
    name = f"{loss}_backward"
    given, grad = inputs(*shape, dtype=torch.float32), torch.ones(shape[0])
    extra = (KEPT,) if loss == "nce_loss" else (torch.ones(shape[0]), KEPT)
    quick = ("test_schema", "test_faketensor")
    torch.library.opcheck(getattr(OPS, name), (grad, *given, *extra, True), test_utils=quick)
    torch.library.opcheck(
        getattr(OPS, name), (grad, given.weight, None, *given[2:5], None, None, *extra, True), test_utils=quick
    )


@both_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_without_a_graph_break(loss, dtype):
    given, ones = inputs(6, 2, 8, 20, 4, dtype=dtype), torch.ones(6)

    def function(weight, bias, hidden, labels, *sampled_values):
        return FUNCTIONS[loss](weight, bias, hidden, labels, sampled_values)

    fast = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaf, plain = differentiable(given), differentiable(given)
    close(fast(*leaf).detach(), run(loss, plain).detach().double())
    for a, b in zip(gradients(fast(*leaf), leaf, ones), gradients(run(loss, plain), plain, ones)):
        close(a, b.double())


@both_losses
def test_meta_tensors_know_their_shape(loss):
    given = Inputs(*(tensor.to("meta") for tensor in inputs(6, 2, 8, 20, 4, dtype=torch.bfloat16)))
    losses = run(loss, given)
    assert (losses.shape, losses.dtype) == ((6,), torch.float32)


# ---- bad input: (the argument, a value from a good one, the error, its text)

FEW = inputs(4, 2, 5, 9, 3, dtype=torch.float32)
ARGUMENTS = ("weight", "bias", "hidden", "labels", "sampled", "true_expected_count", "sampled_expected_count")


def nested(x):
    return torch.nested.nested_tensor([x, x])


def quantised(x):
    return torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8)


TENSOR = [(name, lambda x: x.tolist(), TypeError, "as a tensor, got list") for name in ARGUMENTS]
TENSOR += [(name, lambda x: x.numpy(), TypeError, "as a tensor, got ndarray") for name in ARGUMENTS]
TENSOR += [(name, lambda x: None, TypeError, "as a tensor, got NoneType") for name in ARGUMENTS if name != "bias"]
TENSOR += [
    (name, lambda x: x.to_sparse(), TypeError, "as a dense tensor, got a torch.sparse_coo") for name in ARGUMENTS
]
TENSOR += [(name, nested, TypeError, "as a dense tensor, got a nested one") for name in ARGUMENTS]
TENSOR += [
    ("weight", quantised, TypeError, "needs weight in float32, float64, float16 or bfloat16, got torch.quint8"),
    ("hidden", quantised, TypeError, "needs weight and hidden of one dtype, got torch.float32 and torch.quint8"),
    ("bias", quantised, TypeError, "needs weight and bias of one dtype, got torch.float32 and torch.quint8"),
    ("labels", quantised, TypeError, "needs int64 labels, got torch.quint8; call labels.long"),
    ("sampled", quantised, TypeError, "needs int64 sampled, got torch.quint8; call sampled.long"),
    ("true_expected_count", quantised, TypeError, "needs floating-point expected counts, got torch.quint8"),
    ("sampled_expected_count", quantised, TypeError, "needs floating-point expected counts, got .* torch.quint8"),
]
FLOATS = [
    (name, lambda x, dtype=dtype: x.to(dtype), TypeError, text)
    for dtype in (torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn)
    for name, text in (
        ("weight", "needs weight in float32, float64, float16 or bfloat16, got torch"),
        ("hidden", r"needs weight and hidden of one dtype, got torch.float32 and torch.*; call hidden.to"),
        ("bias", r"needs weight and bias of one dtype, got torch.float32 and torch.*; call bias.to"),
    )
]
FLOATS += [
    (name, lambda x, dtype=dtype: x.to(dtype), TypeError, f"needs weight and {other} of one dtype")
    for dtype in (torch.float64, torch.float16, torch.bfloat16)
    for name, other in (("hidden", "hidden"), ("bias", "bias"), ("weight", "hidden"))
]
INTS = [
    (name, lambda x, dtype=dtype: x.to(dtype), TypeError, f"needs int64 {name}, got {dtype}; call {name}.long")
    for dtype in (torch.int32, torch.uint8, torch.bool, torch.float32, torch.complex64)
    for name in ("labels", "sampled")
]
COUNTS = [
    (name, lambda x, dtype=dtype: x.to(dtype), TypeError, "needs floating-point expected counts, got")
    for dtype in (torch.int64, torch.bool, torch.complex64)
    for name in ("true_expected_count", "sampled_expected_count")
]
SIZES = [
    ("weight", lambda x: x[0], ValueError, r"needs weight \(V, D\), one row a class, got \(3,\)"),
    ("weight", lambda x: x[None], ValueError, r"needs weight \(V, D\), one row a class, got \(1, 9, 3\)"),
    ("weight", lambda x: x[:0], ValueError, r"at least one class and one feature, got weight \(0, 3\)"),
    ("weight", lambda x: x[:, :0], ValueError, r"at least one class and one feature, got weight \(9, 0\)"),
    ("weight", lambda x: x[:, :2], ValueError, r"needs hidden \(N, 2\), one row an example, .* got \(4, 3\)"),
    ("weight", lambda x: x[:8], ValueError, r"needs bias \(8,\), one value a class, got \(9,\)"),
    ("hidden", lambda x: x[0], ValueError, r"needs hidden \(N, 3\), .* got \(3,\)"),
    ("hidden", lambda x: x[None], ValueError, r"needs hidden \(N, 3\), .* got \(1, 4, 3\)"),
    ("hidden", lambda x: x[:, :2], ValueError, r"needs hidden \(N, 3\), .* got \(4, 2\)"),
    ("hidden", lambda x: x[:3], ValueError, r"needs labels \(3,\) or \(3, T\), one row an example, got \(4, 2\)"),
    ("hidden", lambda x: x[:0], ValueError, r"needs labels \(0,\) or \(0, T\), one row an example, got \(4, 2\)"),
    ("labels", lambda x: x[:3], ValueError, r"needs labels \(4,\) or \(4, T\), one row an example, got \(3, 2\)"),
    ("labels", lambda x: x[:, :0], ValueError, r"needs labels \(4,\) or \(4, T\), one row an example, got \(4, 0\)"),
    ("labels", lambda x: x[None], ValueError, r"needs labels \(4,\) or \(4, T\), one row an example, got \(1, 4, 2\)"),
    ("labels", lambda x: x[0, 0], ValueError, r"needs labels \(4,\) or \(4, T\), one row an example, got \(\)"),
    ("labels", lambda x: x[:, :1], ValueError, r"true_expected_count in the shape of labels, \(4, 1\), got \(4, 2\)"),
    ("bias", lambda x: x[:8], ValueError, r"needs bias \(9,\), one value a class, got \(8,\)"),
    ("bias", lambda x: x[:, None], ValueError, r"needs bias \(9,\), one value a class, got \(9, 1\)"),
    ("bias", lambda x: x[0], ValueError, r"needs bias \(9,\), one value a class, got \(\)"),
    ("sampled", lambda x: x[:0], ValueError, r"needs sampled \(K,\) with at least one class, got \(0,\)"),
    ("sampled", lambda x: x[None], ValueError, r"needs sampled \(K,\) with at least one class, got \(1, 5\)"),
    ("sampled", lambda x: x[0], ValueError, r"needs sampled \(K,\) with at least one class, got \(\)"),
    ("sampled", lambda x: x[:4], ValueError, r"sampled_expected_count in the shape of sampled, \(4,\), got \(5,\)"),
    ("true_expected_count", lambda x: x[:3], ValueError, r"in the shape of labels, \(4, 2\), got \(3, 2\)"),
    ("true_expected_count", lambda x: x[:, 0], ValueError, r"in the shape of labels, \(4, 2\), got \(4, 1\)"),
    ("true_expected_count", lambda x: x[0, 0], ValueError, r"in the shape of labels, \(4, 2\), got \(\)"),
    ("sampled_expected_count", lambda x: x[:4], ValueError, r"in the shape of sampled, \(5,\), got \(4,\)"),
    ("sampled_expected_count", lambda x: x[:, None], ValueError, r"in the shape of sampled, \(5,\), got \(5, 1\)"),
]
DEVICES = [
    (name, lambda x: x.to("meta"), ValueError, "needs all tensors on one device, got cpu and meta")
    for name in ARGUMENTS
]


def with_id(value):
    def put(ids):
        ids = ids.clone()
        ids.flatten()[-1] = value
        return ids

    return put


IDS = [
    (name, with_id(value), IndexError, rf"needs {said} from 0 to 8, got {value} in row {row}")
    for value in (-1, 9, 2**31, 2**63 - 1, -(2**63))
    for name, said, row in (("labels", "labels", 3), ("sampled", "sampled ids", 4))
]
BAD = TENSOR + FLOATS + INTS + COUNTS + SIZES + DEVICES + IDS


def test_there_are_many_bad_inputs():
    assert len(FUNCTIONS) * len(BAD) >= 160


@both_losses
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype", "ignore:.*quantized tensor")
@pytest.mark.parametrize(("argument", "change", "error", "text"), BAD)
def test_bad_input_says_what_to_do(loss, argument, change, error, text):
    given = FEW._replace(**{argument: change(getattr(FEW, argument))})
    with pytest.raises(error, match=f"^{loss} .*{text}"):
        run(loss, given)


OTHERS = [
    ({"reduction": "average"}, ValueError, "needs reduction 'none', 'mean' or 'sum', got 'average'"),
    ({"reduction": []}, ValueError, r"needs reduction 'none', 'mean' or 'sum', got \[\]"),
    ({"reduction": None}, ValueError, "needs reduction 'none', 'mean' or 'sum', got None"),
]
VALUES = [
    (None, "got NoneType"),
    (FEW.sampled, "got Tensor"),
    (FEW.sampled_values[:2], "got 2 values"),
    ((*FEW.sampled_values, FEW.sampled), "got 4 values"),
    ((), "got 0 values"),
    ({"sampled": FEW.sampled}, "got dict"),
]


@both_losses
@pytest.mark.parametrize(("options", "error", "text"), OTHERS)
def test_bad_options(loss, options, error, text):
    with pytest.raises(error, match=text):
        run(loss, FEW, **options)


@both_losses
@pytest.mark.parametrize(("values", "text"), VALUES)
def test_bad_sampled_values(loss, values, text):
    with pytest.raises(TypeError, match=rf"needs sampled_values as \(sampled, true_expected_count, .*, {text}"):
        FUNCTIONS[loss](*FEW[:4], values)


# What the ops are given when somebody calls them directly: memory must be safe there too.
OP_BAD = [
    (name, change, text)
    for name, change, text in (
        ("weight", lambda x: x[0], "weight"),
        ("weight", lambda x: x[:0], "at least one class"),
        ("weight", lambda x: x[:, :0], "hidden|feature"),
        ("weight", lambda x: x.double(), "one dtype"),
        ("weight", lambda x: x.int(), "dtype|float32"),
        ("bias", lambda x: x[:8], "needs bias"),
        ("bias", lambda x: x.half(), "one dtype"),
        ("hidden", lambda x: x[:, :2], "hidden"),
        ("hidden", lambda x: x[:3], "labels"),
        ("labels", lambda x: x[:, 0], "labels"),
        ("labels", lambda x: x[:, :0], "label"),
        ("labels", lambda x: x.int(), "int64"),
        ("labels", with_id(9), "got 9 in row 3"),
        ("labels", with_id(-1), "got -1 in row 3"),
        ("sampled", lambda x: x[:0], "sampled|sample"),
        ("sampled", lambda x: x.int(), "int64"),
        ("sampled", with_id(2**40), "got 1099511627776 in row 4"),
        ("sampled", lambda x: x[None], "sampled"),
        ("true_expected_count", lambda x: x[:3], "expected"),
        ("true_expected_count", lambda x: None, "both expected counts or neither"),
        ("sampled_expected_count", lambda x: x[:3], "expected"),
        ("sampled_expected_count", lambda x: None, "both expected counts or neither"),
    )
]


@both_losses
@pytest.mark.parametrize("which", ["op", "reference"])
@pytest.mark.parametrize(("argument", "change", "text"), OP_BAD)
def test_ops_check_their_own_arguments(loss, which, argument, change, text):
    given = FEW._replace(**{argument: change(getattr(FEW, argument))})
    extra = (KEPT,) if loss == "nce_loss" else (torch.ones(4), KEPT)
    op = _library.OPS[loss], _library.OPS[f"{loss}_backward"]
    forward, backward = (o.overload if which == "op" else o.reference for o in op)
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError), match=text):
        forward(*given, True, False, 0)
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError), match=text):
        backward(torch.ones(4), *given, *extra, True)


@both_losses
@pytest.mark.parametrize("grad", [torch.ones(3), torch.ones(4, 1), torch.ones(4).double()])
def test_backward_ops_check_their_gradient(loss, grad):
    extra = (KEPT,) if loss == "nce_loss" else (torch.ones(4), KEPT)
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"needs grad \(N,\)"):
        getattr(OPS, f"{loss}_backward")(grad, *FEW, *extra, True)


def row_bytes(given):
    """What a row's errors take: K in the dtype they are stored in, T and a factor in that of the sums."""
    real = 8 if given.weight.dtype == torch.float64 else 4
    stored = 2 if given.weight.dtype == torch.bfloat16 else real
    return len(given.sampled) * stored + (1 + given.labels.shape[1]) * real


def backward_after(loss, given, keep, remove, change=lambda kept: kept):
    """The gradients of hidden, rows and biases after a forward that may keep so many bytes."""
    *rest, kept = getattr(OPS, loss)(*given, remove, False, keep)
    grad = torch.linspace(0.5, 1.5, len(given.labels)).to(rest[0].dtype)
    return getattr(OPS, f"{loss}_backward")(grad, *given, *rest[1:], change(kept), remove)[:3]


@both_losses
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 299, 300, 400])
def test_what_is_kept_changes_no_gradient(loss, remove, dtype, rows):
    given = inputs(300, 2, 70, 90, 33, dtype=dtype)
    for kept, computed in zip(
        backward_after(loss, given, rows * row_bytes(given) + 1, remove), backward_after(loss, given, 0, remove)
    ):
        close(kept.to(dtype), computed.double())  # biases too: errors are kept in sixteen bits


@compiled_only
@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "used"), [(0.9, 0), (1, 1), (17.5, 17), (40, 40), (50, 40)])
def test_the_backward_uses_what_was_kept(loss, dtype, rows, used):
    given = inputs(40, 1, 70, 200, 8, dtype=dtype)
    keep = int(rows * row_bytes(given))
    d_hidden = backward_after(loss, given, keep, True, torch.zeros_like)[0]
    assert (d_hidden == 0).all(1).tolist() == [True] * used + [False] * (40 - used)


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_cpu_as_many_rows_are_kept_as_there_may_be(loss, dtype, monkeypatch):
    given = differentiable(inputs(40, 2, 70, 200, 8, dtype=dtype))
    assert _sampled_loss.kept_bytes(*given[:5]) == 40 * row_bytes(given)
    ones = torch.ones(40)
    whole = gradients(run(loss, given), given, ones)
    monkeypatch.setattr(_sampled_loss, "_MOST_KEPT", 11 * row_bytes(given) + 5)
    assert _sampled_loss.kept_bytes(*given[:5]) == 11 * row_bytes(given)
    for part, all_rows in zip(gradients(run(loss, given), given, ones), whole):
        close(part, all_rows.double())
    with torch.no_grad():
        assert _sampled_loss.kept_bytes(*given[:5]) == 0
    assert _sampled_loss.kept_bytes(*(leaf.detach() for leaf in given[:5])) == 0


@both_losses
def test_a_graph_that_is_kept_can_be_differentiated_again(loss):
    given = differentiable(inputs(40, 1, 70, 200, 8, dtype=torch.bfloat16))
    total = run(loss, given).sum()
    first = torch.autograd.grad(total, given[:3], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(total, given[:3])))


@compiled_only
@both_losses
@pytest.mark.parametrize("kept", [torch.zeros(64), torch.zeros(8, 8, dtype=torch.uint8), KEPT.new_zeros(64)[::2]])
def test_backward_ops_check_what_they_are_left(loss, kept):
    extra = (kept,) if loss == "nce_loss" else (torch.ones(4), kept)
    with pytest.raises(RuntimeError, match="needs kept as its forward returned it: a row of bytes beside hidden"):
        getattr(OPS, f"{loss}_backward")(torch.ones(4), *FEW, *extra, True)


def test_errors_of_samples_that_are_labels_and_stay_cancel_in_sixteen_bits_too():
    given = inputs(30, 1, 3, 60, 16, dtype=torch.bfloat16)
    given.labels[:], given.sampled[:] = 7, 7  # the probabilities of one class add up to one, whatever they are
    leaf = differentiable(given)
    losses = run("sampled_softmax_loss", leaf, remove_accidental_hits=False)
    _, d_bias, d_hidden = gradients(losses, leaf, torch.ones(30))
    assert float(d_hidden.abs().max()) <= 1e-5
    assert float(d_bias.abs().max()) <= 1e-4


ANOTHER_PROCESSOR = """
import torch
from torchlayer.kernels import _library, compiled
from torchlayer.kernels import nce, sampled_softmax
assert compiled().cpu.name == "cpu", compiled().cpu
for name in ("sampled_softmax_loss", "nce_loss"):
    for dtype, slack in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)):
        for keep in (0, 5000, 10**6):
            forward, backward = _library.OPS[name], _library.OPS[f"{name}_backward"]
            given = [x.to(dtype) for x in forward.example(torch.device("cpu"))[:3]]
            given += forward.example(torch.device("cpu"))[3:7]
            results = []
            for op in (lambda op: op.overload, lambda op: op.reference):
                *rest, kept = op(forward)(*given, True, False, keep)
                results.append([*rest, *op(backward)(torch.ones(128), *given, *rest[1:], kept, True)[:3]])
            for a, b in zip(*results):
                error = float((a.double() - b.double()).abs().max() / b.double().abs().max())
                assert error <= slack, (name, dtype, keep, error)
"""


@compiled_only
@pytest.mark.parametrize("capability", ["avx512", "avx2", "default"])
def test_kernels_are_right_on_processors_that_have_less(capability):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ANOTHER_PROCESSOR],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_where_nobody_looks_a_bad_row_is_nan_and_has_no_gradient(monkeypatch):
    """As on a GPU, where an id is not worth waiting for."""
    monkeypatch.setattr(_sampled_loss, "check_ids", lambda name, argument, ids, n: (ids < 0) | (ids >= n))
    given = FEW._replace(labels=with_id(99)(FEW.labels))
    logits = Logits("x", *given, True)
    assert logits.bad.tolist() == [False, False, False, True]
    for module in MODULES.values():
        losses = module._reference(*given, True, False, 0)[0]
        assert losses.isnan().tolist() == [False, False, False, True]
    d_hidden, rows, biases, _ = logits.gradients(torch.ones_like(logits.all), torch.float32)
    assert float(d_hidden[3].abs().sum() + rows[5 + 6 :].abs().sum() + biases[5 + 6 :].abs().sum()) == 0
    assert float(rows[: 5 + 6].abs().sum()) > 0


@compiled_only
def test_where_there_is_a_compiler_the_kernels_are_compiled():
    assert compiled().cpu.name == "cpu", compiled().cpu.reason
    for loss in FUNCTIONS:
        for name in (loss, f"{loss}_backward"):
            assert _library.OPS[name].overload.has_kernel_for_dispatch_key(torch._C.DispatchKey.CPU)
