"""A share of a sampled loss, in one process: the op against its reference, shares that add up to the whole, bad input.

What several processes make of shares is in test_distributed.py.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sampled_loss_cases import DTYPES, FUNCTIONS, by_definition, differentiable, gradients, inputs

import torchlayer as tl
from torchlayer import _info
from torchlayer._waits import reporting_waits
from torchlayer.kernels import _library, class_parallel

OPS = torch.ops.torchlayer
LOSSES = {"sampled_softmax_loss": "class_parallel_softmax", "nce_loss": "class_parallel_nce"}
PUBLIC = {
    "sampled_softmax_loss": tl.distributed.class_parallel_sampled_softmax_loss,
    "nce_loss": tl.distributed.class_parallel_nce_loss,
}
both_losses = pytest.mark.parametrize("loss", LOSSES)
SHAPES = [(1, 1, 1, 2, 1), (3, 1, 5, 7, 8), (7, 3, 64, 100, 64), (33, 1, 17, 50, 65), (300, 2, 600, 900, 5)]


def share_of(given, first, last):
    """The arguments of an op for the rows [first, last), ids of -1 for the rest."""
    labels, sampled = (
        torch.where((ids >= first) & (ids < last), ids - first, -1) for ids in (given.labels, given.sampled)
    )
    bias = None if given.bias is None else given.bias[first:last]
    return given._replace(weight=given.weight[first:last], bias=bias, labels=labels, sampled=sampled)


def put_together(loss, shares, remove):
    """The losses, from one share for each process."""
    if loss == "nce_loss":
        return torch.stack([class_parallel.nce_share(*share, remove, False) for share in shares]).sum(0)
    log_sums, means = zip(*(class_parallel.softmax_share(*share, remove, False) for share in shares))
    return torch.stack(log_sums).logsumexp(0) - torch.stack(means).sum(0)


@both_losses
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("remove", [False, True])
def test_shares_add_up_to_the_loss_and_its_gradients(loss, shape, remove):
    n, n_classes = shape[0], shape[3]
    cuts = [0, n_classes // 3, n_classes - 1, n_classes] if n_classes > 3 else [0, 1, n_classes]
    whole = inputs(*shape)
    expected = differentiable(whole)
    losses = by_definition(loss, expected, remove)
    right = gradients(losses, expected, torch.ones(n))
    shares = [differentiable(share_of(whole, a, b)) for a, b in pairwise(cuts) if a < b]
    ours = put_together(loss, shares, remove)
    torch.testing.assert_close(ours, losses, rtol=1e-13, atol=1e-12)
    ours.sum().backward()
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([share[i].grad for share in shares]), right[i], rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(sum(share.hidden.grad for share in shares), right[2], rtol=1e-13, atol=1e-12)


@both_losses
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("remove", [False, True])
def test_the_kernel_equals_its_reference(loss, dtype, remove):
    slack = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 8e-3, torch.bfloat16: 6e-2}[dtype]
    for shape in SHAPES:
        given = share_of(inputs(*shape, dtype=dtype), 0, max(1, shape[3] // 2))
        forward, backward = (_library.OPS[f"{LOSSES[loss]}{end}"] for end in ("", "_backward"))
        outputs = forward.overload(*given, remove, False)
        expected = forward.reference(*given, remove, False)
        ones = torch.ones(shape[0], dtype=given.true_expected_count.dtype)
        if loss == "nce_loss":
            outputs, expected, before, extra = [outputs], [expected], [ones], []
        else:
            before, extra = [ones, -ones], [expected[0]]
        outputs = [*outputs, *backward.overload(*before, *given, *extra, remove)]
        expected = [*expected, *backward.reference(*before, *given, *extra, remove)]
        for ours, right in zip(outputs, expected):
            finite = right.isfinite()  # a row of which nothing is here has a logarithm of -inf
            assert torch.equal(ours[~finite], right[~finite])
            scale = float(right[finite].abs().max().clamp(min=1e-2)) if bool(finite.any()) else 1.0
            torch.testing.assert_close(ours[finite], right[finite], rtol=0, atol=slack * scale)


@both_losses
def test_the_reference_goes_through_the_rows_a_block_at_a_time(monkeypatch, loss):
    given = share_of(inputs(11, 2, 7, 30, 5), 0, 20)
    ops = [_library.OPS[f"{LOSSES[loss]}{end}"] for end in ("", "_backward")]
    ones = torch.ones(11, dtype=torch.float64)
    extra = ([ones], []) if loss == "nce_loss" else ([ones, ones], [ops[0].reference(*given, True, False)[0]])

    def outputs():
        forward = ops[0].reference(*given, True, False)
        return [
            *(forward if isinstance(forward, tuple) else [forward]),
            *ops[1].reference(*extra[0], *given, *extra[1], True),
        ]

    at_once = outputs()
    widest = []
    blocks = class_parallel._Share.blocks
    monkeypatch.setattr(
        class_parallel._Share, "blocks", lambda self: (widest.append(len(b.noise)) or b for b in blocks(self))
    )
    monkeypatch.setattr(class_parallel, "_CHUNK", 30)  # 7 samples and 2 labels: three rows
    for a, b in zip(outputs(), at_once):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert widest == [3, 3, 3, 2] * 2


@both_losses
@pytest.mark.parametrize("which", ["overload", "reference"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_in_rows_nobody_asked_for_stays_out(loss, which, bad):
    given = share_of(inputs(6, 2, 9, 40, 5), 0, 20)
    given.labels[given.labels == 0], given.sampled[given.sampled == 0] = 1, 1
    clean = given._replace(weight=given.weight.clone())
    given.weight[0] = bad  # the row that an id of -1 might be taken for
    op = getattr(_library.OPS[LOSSES[loss]], which)
    outputs, expected = op(*given, True, False), op(*clean, True, False)
    if loss == "nce_loss":
        outputs, expected = [outputs], [expected]
    assert all(torch.equal(ours, right) for ours, right in zip(outputs, expected))


@both_losses
def test_hidden_that_is_not_finite_leaves_zeros_to_classes_elsewhere(loss):
    given = share_of(inputs(3, 1, 4, 9, 5), 0, 1)  # little is here
    given.labels[:], given.sampled[:] = -1, -1
    given.hidden[1] = torch.nan
    op = _library.OPS[f"{LOSSES[loss]}_backward"]
    ones = torch.ones(3, dtype=torch.float64)
    extra = ([ones], []) if loss == "nce_loss" else ([ones, ones], [ones * -torch.inf])
    for run in (op.overload, op.reference):
        _, rows, biases, ids = run(*extra[0], *given, *extra[1], True)
        assert ids.tolist() == [-1] * 7
        assert float(rows.abs().sum() + biases.abs().sum()) == 0


@both_losses
def test_opcheck(loss):
    given = differentiable(share_of(inputs(4, 2, 6, 12, 3, dtype=torch.float32), 0, 7))
    torch.library.opcheck(getattr(OPS, LOSSES[loss]), (*given, True, False))
    op = _library.OPS[f"{LOSSES[loss]}_backward"]
    torch.library.opcheck(op.overload, op.example(torch.device("cpu")), test_utils=("test_schema", "test_faketensor"))


@both_losses
@pytest.mark.parametrize("n_true", [1, 3])
def test_gradcheck(loss, n_true):
    given = differentiable(share_of(inputs(4, n_true, 6, 12, 3), 0, 7))
    if loss != "nce_loss":  # a row needs something here, or its logarithm is -inf
        given.sampled[1] = 3

    def function(weight, bias, hidden):
        share = class_parallel.nce_share if loss == "nce_loss" else class_parallel.softmax_share
        return share(weight, bias, hidden, *given[3:], False, False)

    assert torch.autograd.gradcheck(function, given[:3])


@both_losses
def test_differentiating_twice_raises(loss):
    given = differentiable(inputs(3, 1, 4, 9, 5))
    value = PUBLIC[loss](*given[:4], given.sampled_values, n_classes=9).sum()
    (grad,) = torch.autograd.grad(value, given.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        (grad**2).sum().backward()


@both_losses
@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"subtract_log_q": False, "reduction": "mean"}])
def test_without_a_group_it_is_the_loss_of_one_process(loss, options):
    given = inputs(7, 2, 6, 50, 5)
    ours, right = differentiable(given), differentiable(given)
    value = PUBLIC[loss](*ours[:4], ours.sampled_values, n_classes=50, **options)
    expected = FUNCTIONS[loss](*right[:4], right.sampled_values, **options)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    for a, b in zip(gradients(value, ours, torch.ones_like(value)), gradients(expected, right, torch.ones_like(value))):
        assert a.layout == b.layout
        torch.testing.assert_close(a.to_dense(), b.to_dense(), rtol=0, atol=1e-12)


@both_losses
def test_sparse_gradients_hold_only_what_is_here(loss):
    given = differentiable(share_of(inputs(7, 2, 6, 50, 5), 0, 25))
    share = class_parallel.nce_share if loss == "nce_loss" else class_parallel.softmax_share
    outputs = share(*given, False, True)
    (outputs if loss == "nce_loss" else outputs[1]).sum().backward()
    ids = torch.cat((given.sampled, given.labels.flatten()))
    assert torch.equal(given.weight.grad._indices()[0], ids[ids >= 0])
    assert len(given.bias.grad._values()) == int((ids >= 0).sum())


def test_sixteen_bit_hidden_under_autocast():
    given = inputs(5, 1, 7, 20, 6, dtype=torch.float32)
    half = given._replace(hidden=given.hidden.bfloat16())
    for loss, function in PUBLIC.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(*half[:4], half.sampled_values, n_classes=20)
        right = function(*given._replace(hidden=half.hidden.float())[:4], given.sampled_values, n_classes=20)
        assert torch.equal(value, right), loss


@both_losses
def test_meta_tensors_know_their_shape_and_gradients(loss):
    given = inputs(6, 2, 8, 20, 4, dtype=torch.bfloat16)
    given = differentiable(given._replace(**{name: x.to("meta") for name, x in given._asdict().items()}))
    losses = PUBLIC[loss](*given[:4], given.sampled_values, n_classes=20)
    assert (losses.shape, losses.dtype) == ((6,), torch.float32)
    losses.sum().backward()
    assert [x.grad.shape for x in given[:3]] == [(20, 4), (20,), (6, 4)]


@both_losses
def test_an_empty_batch(loss):
    given = differentiable(inputs(0, 2, 4, 6, 3))
    PUBLIC[loss](*given[:4], given.sampled_values, n_classes=6).sum().backward()
    assert float(given.weight.grad.abs().sum()) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both_losses
def test_on_a_gpu_nobody_waits_and_a_bad_label_costs_its_row(loss):
    given = inputs(40, 2, 30, 90, 8)
    here = differentiable(given)
    there = differentiable(given._replace(**{k: v.cuda() for k, v in given._asdict().items()}))
    right = PUBLIC[loss](*here[:4], here.sampled_values, n_classes=90)
    PUBLIC[loss](*there[:4], there.sampled_values, n_classes=90)  # the first call may compile
    with reporting_waits("error"):
        ours = PUBLIC[loss](*there[:4], there.sampled_values, n_classes=90)
        ours.sum().backward()
    torch.testing.assert_close(ours.cpu(), right, rtol=0, atol=1e-12)
    for a, b in zip(there[:3], gradients(right, here, torch.ones(40))):
        torch.testing.assert_close(a.grad.cpu(), b, rtol=0, atol=1e-12)
    there.labels[3, 0] = 90
    spoiled = PUBLIC[loss](*there[:4], there.sampled_values, n_classes=90)
    assert spoiled.isnan().nonzero().flatten().tolist() == [3]


def test_info_says_where_plain_pytorch_stands_in_for_a_kernel(monkeypatch):
    monkeypatch.setattr(_info, "_backend", lambda device: _library.Backend(device, "a library"))
    monkeypatch.setattr(_library, "_has_kernel", lambda overload, device: device == "cpu")
    assert _info._runs("class_parallel_nce", "cpu") == "cpu"
    assert _info._runs("class_parallel_nce", "cuda") == "python"


# ---- bad input

FEW = inputs(4, 2, 5, 9, 3, dtype=torch.float32)
BAD = [
    ({"weight": FEW.weight[:8]}, ValueError, r"the 9 rows of classes 0 to 8 on rank 0 of 1, got weight \(8, 3\)"),
    ({"weight": FEW.weight[0]}, ValueError, r"needs weight \(V, D\), one row a class, got \(3,\)"),
    ({"weight": None}, TypeError, "needs weight as a tensor, got NoneType"),
    ({"bias": FEW.bias[:8]}, ValueError, r"needs bias \(9,\), one value a class, got \(8,\)"),
    ({"hidden": FEW.hidden.double()}, TypeError, "needs weight and hidden of one dtype"),
    ({"labels": FEW.labels.int()}, TypeError, "needs int64 labels, got torch.int32"),
    ({"labels": FEW.labels - 9}, IndexError, "needs labels from 0 to 8, got -"),
    ({"sampled": FEW.sampled + 9}, IndexError, "needs sampled ids from 0 to 8, got "),
    ({"true_expected_count": FEW.true_expected_count[:3]}, ValueError, "true_expected_count in the shape of labels"),
]  # fmt: skip


@both_losses
@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_bad_input_says_what_to_do(loss, change, error, text):
    given = FEW._replace(**change)
    with pytest.raises(error, match=f"^class_parallel_{loss} .*{text}"):
        PUBLIC[loss](*given[:4], given.sampled_values, n_classes=9)


@both_losses
@pytest.mark.parametrize("n_classes", [0, -1, 9.0, True, None])
def test_the_number_of_classes_is_a_number(loss, n_classes):
    with pytest.raises(ValueError, match=rf"needs n_classes as an int of at least 1, got {n_classes}"):
        PUBLIC[loss](*FEW[:4], FEW.sampled_values, n_classes=n_classes)
    with pytest.raises(ValueError, match=rf"needs n_classes as an int of at least 1, got {n_classes}"):
        tl.distributed.own_classes(n_classes)


@both_losses
@pytest.mark.parametrize("which", ["overload", "reference"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": FEW.labels - 11}, "needs labels from -1 to 8, got -"),
        ({"sampled": FEW.sampled + 9}, "needs sampled ids from -1 to 8, got "),
        ({"weight": FEW.weight.double()}, "one dtype"),
        ({"hidden": FEW.hidden[:3]}, "labels"),
    ],
)
def test_ops_check_their_own_arguments(loss, which, change, text):
    given = FEW._replace(**change)
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError), match=text):
        getattr(_library.OPS[LOSSES[loss]], which)(*given, True, False)


@pytest.mark.parametrize(
    "module", [tl.distributed.ClassParallelSampledSoftmaxLoss, tl.distributed.ClassParallelNCELoss]
)
def test_a_sampler_without_a_seed_is_refused(module):
    with pytest.raises(TypeError, match=f"{module.__name__} needs a sampler that takes seed=, two int64"):
        module(8, 50, 5, sampler=lambda labels, n_sampled, n_classes: None)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RuntimeError, match="process 2 of this machine has no GPU of its own, there are 1; start fewer"):
        tl.distributed.process_group(device="cuda").__enter__()
