"""A linear layer and its cross-entropy in one call: the numbers of the two, without their logits."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import torchlayer as tl
from torchlayer.cost import linear_cross_entropy
from torchlayer.kernels.linear_cross_entropy import _rows
from torchlayer.nn import LinearCrossEntropyLoss

N, D, V = 11, 5, 7


def case(dtype=torch.float64, bias=True, transposed=False):
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, dtype=torch.float64, generator=g).to(dtype).requires_grad_()
    weight = torch.randn(V, D, dtype=torch.float64, generator=g).to(dtype)
    weight = (weight.T.contiguous() if transposed else weight).requires_grad_()
    b = torch.randn(V, dtype=torch.float64, generator=g).to(dtype).requires_grad_() if bias else None
    target = torch.randint(V, (N,), generator=g)
    target[2] = target[9] = 3
    return hidden, weight, b, target


def plain(hidden, weight, target, bias=None, reduction="mean", ignore_index=None):
    """Both layers, all logits, double precision."""
    logits = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    return F.cross_entropy(
        logits, target, reduction=reduction, ignore_index=-(2**40) if ignore_index is None else ignore_index
    )


def gradients(loss, *leaves):
    if loss.dim():
        loss = (loss * torch.arange(1, loss.numel() + 1).view(loss.shape)).sum()  # every row counts differently
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [None, 3], ids=["all", "ignored"])
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_equals_the_two_layers_in_value_and_gradient(reduction, ignore_index, chunk_size, bias):
    hidden, weight, b, target = case(bias=bias)
    loss = linear_cross_entropy(hidden, weight, target, b, reduction, ignore_index, chunk_size)
    expected = plain(hidden, weight, target, b, reduction, ignore_index)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(gradients(loss, hidden, weight, b), gradients(expected, hidden, weight, b)):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_are_the_slopes(reduction):
    hidden, weight, bias, target = case()
    assert torch.autograd.gradcheck(
        lambda *args: linear_cross_entropy(args[0], args[1], target, args[2], reduction, 3, 4), (hidden, weight, bias)
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("which", range(3))
def test_only_what_needs_a_gradient_gets_one(reduction, which):
    hidden, weight, bias, target = case()
    leaves = [hidden, weight, bias]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i == which)
    gradients(linear_cross_entropy(hidden, weight, target, bias, reduction, chunk_size=3), leaves[which])


def test_dense_layers_weight_goes_in_as_a_view_and_its_gradient_comes_back_whole():
    hidden, W, b, target = case(transposed=True)
    loss = linear_cross_entropy(hidden, W.T, target, b, chunk_size=4)
    expected = plain(hidden, W.T, target, b)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(W.grad, gradients(expected, W)[0])
    assert W.grad.is_contiguous()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)], ids=str
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_low_precision_is_near_and_the_loss_is_wide(dtype, tolerance, reduction):
    hidden, weight, bias, target = case(dtype)
    loss = linear_cross_entropy(hidden, weight, target, bias, reduction, chunk_size=4)
    expected = plain(hidden, weight, target, bias, reduction)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, atol=tolerance, rtol=tolerance)
    for leaf, mine, theirs in zip(
        (hidden, weight, bias), gradients(loss, hidden, weight, bias), gradients(expected, hidden, weight, bias)
    ):
        assert mine.dtype == leaf.dtype
        torch.testing.assert_close(mine.double(), theirs.double(), atol=tolerance, rtol=tolerance)


def test_sums_over_many_chunks_stay_wide_in_half_precision():
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    linear_cross_entropy(hidden, weight, torch.zeros(4096, dtype=torch.int64), None, "sum", chunk_size=1).backward()
    assert weight.grad.flatten().tolist() == [-2048.0, 2048.0]  # bfloat16 would stop at 256 halves


def test_autocast_multiplies_in_its_dtype_and_keeps_the_leaves_own():
    hidden, weight, bias, target = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden.bfloat16(), weight, target, bias)
        logits = F.linear(hidden, weight, bias)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), target))
    loss.backward()
    assert {hidden.grad.dtype, weight.grad.dtype, bias.grad.dtype} == {torch.float32}


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_of_all_rows_never_exist(reduction):
    n, v, chunk = 512, 300, 32

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    self.size = max(self.size, x.numel())
            return out

    hidden, weight = torch.randn(n, 8, requires_grad=True), torch.randn(v, 8, requires_grad=True)
    target = torch.randint(v, (n,))
    with Largest() as ours:
        linear_cross_entropy(hidden, weight, target, None, reduction, chunk_size=chunk).sum().backward()
    with Largest() as theirs:
        F.cross_entropy(F.linear(hidden, weight), target, reduction=reduction).sum().backward()
    assert ours.size == chunk * v
    assert theirs.size == n * v


@pytest.mark.parametrize(
    ("n", "classes", "given", "rows"),
    [(400, 10_000, None, 400), (700, 10_000, None, 350), (10_000, 1_000_000, None, 127), (10, 7, 4, 4), (9, 7, 4, 3)],
)
def test_chunks_hold_some_million_logits_and_are_of_one_size(n, classes, given, rows):
    assert _rows(n, classes, given) == rows


def test_ids_may_keep_their_rows_and_columns():
    hidden, weight, bias, target = case()
    flat = linear_cross_entropy(hidden[:10], weight, target[:10], bias, "none")
    both = target[:10].view(2, 5)
    torch.testing.assert_close(linear_cross_entropy(hidden[:10], weight, both, bias, "none"), flat.view(2, 5))
    nested = hidden[:10].view(2, 5, D)
    torch.testing.assert_close(linear_cross_entropy(nested, weight, both.int(), bias, "none"), flat.view(2, 5))


def test_nothing_left_to_count():
    hidden, weight, bias, target = case()
    threes = torch.full((N,), 3)
    assert linear_cross_entropy(hidden, weight, threes, bias, "sum", ignore_index=3).item() == 0
    assert math.isnan(linear_cross_entropy(hidden, weight, threes, bias, "mean", ignore_index=3).item())
    empty = linear_cross_entropy(hidden[:0], weight, target[:0], bias, "sum")
    empty.backward()
    assert empty == 0
    assert not weight.grad.any()


def test_no_gradient_is_made_where_none_is_wanted():
    hidden, weight, bias, target = case()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, target, bias)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(hidden, weight, target, bias))


def test_backward_twice_through_one_graph_gives_the_same():
    hidden, weight, bias, target = case()
    loss = linear_cross_entropy(hidden, weight, target, bias)
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], first, rtol=0, atol=0)


def test_second_derivative_is_refused():
    hidden, weight, bias, target = case()
    (slope,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, target, bias), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="linear_cross_entropy can be differentiated once, not twice"):
        slope.sum().backward()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does, not we
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_compiles_as_one_graph(reduction, chunk_size):
    hidden, weight, bias, target = case()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    loss = compiled(hidden, weight, target, bias, reduction, chunk_size=chunk_size)
    expected = plain(hidden, weight, target, bias, reduction)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(gradients(loss, hidden, weight, bias), gradients(expected, hidden, weight, bias)):
        torch.testing.assert_close(mine, theirs)


GOOD = {"hidden": torch.zeros(N, D), "weight": torch.zeros(V, D), "target": torch.zeros(N, dtype=torch.int64)}
BAD = [
    ({"hidden": [0.0]}, TypeError, "needs hidden as a tensor, got list"),
    ({"bias": 1.0}, TypeError, "needs bias as a tensor, got float"),
    ({"weight": torch.zeros(D, V)}, ValueError, r"got hidden \(11, 5\), weight \(5, 7\); a DenseLayer's .* W.T"),
    ({"weight": torch.zeros(V, 3)}, ValueError, r"needs hidden \(..., D\) and weight \(V, D\), got hidden .*\(7, 3\)$"),
    ({"target": torch.zeros(3, dtype=torch.int64)}, ValueError, r"one id for each row of hidden, .* target \(3,\)"),
    ({"target": torch.zeros(N)}, TypeError, "class ids of an integer type, got torch.float32; call target.long"),
    ({"bias": torch.zeros(2)}, ValueError, r"needs bias \(7,\), got \(2,\)"),
    ({"hidden": torch.zeros(N, D).double()}, TypeError, "in one floating dtype, got torch.float32, torch.float64"),
    ({"hidden": torch.zeros(N, D).long()}, TypeError, "in one floating dtype, got torch.float32, torch.int64"),
    ({"reduction": "batch"}, ValueError, "reduction 'none', 'mean' or 'sum', got 'batch'"),
    ({"chunk_size": 0}, ValueError, "chunk_size of at least 1, got 0"),
    ({"target": torch.full((N,), V)}, IndexError, "linear_cross_entropy needs targets from 0 to 6, got 7 in row 0"),
    (
        {"target": torch.full((N,), -100)},
        IndexError,
        "linear_cross_entropy needs targets from 0 to 6, got -100 in row 0",
    ),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[row[2][:40] for row in BAD])
def test_what_does_not_fit_is_refused(change, error, text):
    with pytest.raises(error, match=text):
        linear_cross_entropy(**{**GOOD, **change})


def test_module_owns_the_classes_and_may_share_an_embeddings():
    loss = LinearCrossEntropyLoss(D, V, reduction="none", ignore_index=3, chunk_size=4).double()
    hidden, _, _, target = case()
    expected = plain(hidden, loss.weight, target, loss.bias, "none", 3)
    for same in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(same(hidden, target), expected)
    assert set(loss.state_dict()) == {"weight", "bias"}
    assert set(LinearCrossEntropyLoss(D, V, bias=False).state_dict()) == {"weight"}
    embed = tl.layers.EmbeddingInputlayer(vocabulary_size=V, embedding_size=D)
    loss.weight = embed.embeddings
    loss.float()(embed(target), target).sum().backward()
    assert embed.embeddings.grad.count_nonzero() == V * D


def test_module_refuses_what_makes_no_layer():
    with pytest.raises(ValueError, match="at least 1, got 0 and 7"):
        LinearCrossEntropyLoss(0, V)
    with pytest.raises(ValueError, match="got 'batch'"):
        LinearCrossEntropyLoss(D, V, reduction="batch")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_captured_step_replays_on_new_targets(dtype):
    torch.manual_seed(0)
    net = tl.layers.EmbeddingInputlayer(tl.layers.InputLayer((None, 6), dtype=torch.int64), 50, 8, name="embed").cuda()
    rest = LinearCrossEntropyLoss(8, 50, chunk_size=10).cuda()
    twins = copy.deepcopy(net), copy.deepcopy(rest)

    def steps(net, rest, **kwargs):
        optimizer = torch.optim.SGD([*net.parameters(), *rest.parameters()], lr=0.5)
        autocast = None if dtype == torch.float32 else dtype
        step = tl.TrainStep(net, optimizer, lambda h, t: rest(h, t), autocast=autocast, **kwargs)
        g = torch.Generator("cuda").manual_seed(1)
        ids = torch.randint(50, (8, 2, 4, 6), device="cuda", generator=g)
        return torch.stack([step(x, y) for x, y in ids.unbind(0)])

    captured, eager = steps(net, rest, capture=True), steps(*twins, capture=False)
    torch.testing.assert_close(captured, eager, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)
