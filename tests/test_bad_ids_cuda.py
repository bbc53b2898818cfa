"""Ids that name nothing, on a GPU: what they spoil, who is told, and that nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from sampled_loss_cases import FUNCTIONS, differentiable, gradients, inputs, run
from sampler_cases import MANY, forget_reports

import torchlayer as tl
from torchlayer._waits import reporting_waits
from torchlayer.kernels import _library, check_ids
from torchlayer.kernels._library import OPS

HAS_CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not HAS_CUDA or _library.load("cuda").name != "cuda", reason="needs a CUDA device and its kernels"
)
both_losses = pytest.mark.parametrize("loss", FUNCTIONS)
BF16 = torch.bfloat16
# (N, T, K, V, D) and dtype of each way through a loss: few samples, in each size of tile; many on Hopper; anything else
WAYS = [
    ((40, 2, 64, 500, 128), torch.float32),
    ((300, 1, 30, 500, 7), torch.float32),
    ((3000, 1, 200, 500, 64), torch.float32),
    ((20_000, 2, 64, 500, 64), BF16),
    ((300, 2, 520, 3000, 72), BF16),
    ((20_000, 1, 300, 3000, 64), BF16),
    ((300, 9, 12, 500, 65), torch.float64),
]
every_way = pytest.mark.parametrize(("shape", "dtype"), WAYS, ids=str)
BAD = [-1, 500, 3000, 2**31, 2**40, 2**63 - 1, -(2**63)]
LATER = r" \(of an earlier call; {}; TORCHLAYER_CHECK=1 tells at once\)$"
ROW_OPS = ["row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"]
SAMPLE_OPS = ["uniform_sample", "log_uniform_sample", "alias_sample", "learned_sample_"]


@pytest.fixture(autouse=True)
def nothing_reported():
    """Every test begins without a report, and leaves none to the tests of other files."""
    forget_reports()
    yield
    forget_reports()


@contextmanager
def deterministic():
    """Dense gradients are summed in one order."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def on_gpu(given):
    return type(given)(*(None if x is None else x.cuda() for x in given))


def spoilt(shape, dtype, row, value):
    given = on_gpu(inputs(*shape, dtype=dtype))
    given.labels[row, -1] = value
    return differentiable(given)


def of_label(loss, n_classes, row, value):
    text = rf"^{loss} needs labels from 0 to {n_classes - 1}, got {value} in row {row}"
    return text + LATER.format("its loss is NaN")


@both_losses
@every_way
def test_a_bad_label_spoils_its_row_and_is_told_once(loss, shape, dtype):
    row, value = shape[0] * 2 // 3, shape[3]
    given = spoilt(shape, dtype, row, value)
    losses = run(loss, given)
    d_weight, d_bias, d_hidden = gradients(losses, given, torch.ones_like(losses))
    with pytest.raises(IndexError, match=of_label(loss, shape[3], row, value)):
        check_ids()
    check_ids()  # once
    assert losses.isnan().nonzero().flatten().tolist() == [row]
    assert not bool(d_hidden[row].any())
    assert all(bool(g.isfinite().all()) for g in (d_weight, d_bias, d_hidden))


@both_losses
@every_way
@pytest.mark.parametrize("value", [-1, 2**40])
def test_a_bad_sample_spoils_all_and_is_told_once(loss, shape, dtype, value):
    given, at = on_gpu(inputs(*shape, dtype=dtype)), shape[2] - 2
    given.sampled[at] = value
    given = differentiable(given)
    losses = run(loss, given)
    grads = gradients(losses, given, torch.ones_like(losses))
    text = rf"^{loss} needs sampled ids from 0 to {shape[3] - 1}, got {value} in row {at}"
    with pytest.raises(IndexError, match=text + LATER.format("all its losses are NaN")):
        check_ids()
    check_ids()
    assert bool(losses.isnan().all())
    assert not any(bool(g.any()) for g in grads)


@both_losses
@pytest.mark.parametrize("keep_nothing", [True, False])
@every_way
def test_a_backward_reports_nothing(loss, shape, dtype, keep_nothing):
    given = spoilt(shape, dtype, 3, -7).to(dtype)
    forward, backward = (OPS[name].overload for name in (loss, f"{loss}_backward"))
    with torch.no_grad():
        losses, *saved = forward(*given, True, False, 0 if keep_nothing else 2**22)
        with pytest.raises(IndexError, match="got -7 in row 3"):
            check_ids()
        backward(torch.ones_like(losses), *given, *saved, True)
    check_ids()


@both_losses
@pytest.mark.parametrize("value", BAD)
def test_the_next_call_raises_before_it_does_anything(loss, value):
    shape, dtype = WAYS[0]
    given = spoilt(shape, dtype, 5, value)
    run(loss, given)
    torch.cuda.synchronize()
    with pytest.raises(IndexError, match=of_label(loss, shape[3], 5, value)):
        run(loss, given)
    check_ids()  # that call launched nothing


@both_losses
def test_ops_of_all_kinds_raise_what_a_loss_reported(loss):
    shape, dtype = WAYS[0]
    given = spoilt(shape, dtype, 5, -1)
    for name in (*ROW_OPS, *SAMPLE_OPS, *FUNCTIONS):
        arguments = OPS[name].example(torch.device("cuda"))
        run(loss, given)
        torch.cuda.synchronize()
        with pytest.raises(IndexError, match=of_label(loss, shape[3], 5, -1)):
            OPS[name].overload(*arguments)
    check_ids()


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("n_sampled", [20, 1500])
@pytest.mark.parametrize("op", SAMPLE_OPS)
@pytest.mark.parametrize("shape", [(), (9,), (6, 3)], ids=str)
def test_samplers_report_labels(op, n_sampled, unique, shape):
    n_classes = 5000
    labels, seed = torch.zeros(shape, dtype=torch.int64, device="cuda"), torch.tensor([1, 2], device="cuda")
    tables = OPS[op].example(torch.device("cuda"))[2:-3] if op in SAMPLE_OPS[2:] else ()
    sizes = (n_sampled,) if tables else (n_sampled, n_classes)
    row = shape[0] - 2 if shape else 0
    labels[(row, -1)[: len(shape)] if shape else ...] = n_classes
    _, counts, *_ = OPS[op].overload(labels, seed, *tables, *sizes, unique, MANY)
    text = rf"^{op} needs labels from 0 to {n_classes - 1}, got {n_classes} in row {row}"
    with pytest.raises(IndexError, match=text + LATER.format("its expected count is NaN")):
        check_ids()
    check_ids()
    assert torch.equal(counts.isnan(), labels == n_classes)


@pytest.mark.parametrize("n_ids", [1, 80, 6000, 70_000])
@pytest.mark.parametrize("value", [-1, 5000, 2**40])
@pytest.mark.parametrize("op", ROW_OPS)
def test_row_optimisers_report_ids(op, n_ids, value):
    overload, at = OPS[op].overload, n_ids // 2
    arguments = list(OPS[op].example(torch.device("cuda")))
    names = [argument.name for argument in overload._schema.arguments]
    weight = arguments[names.index("weight")]
    n_rows, width = weight.shape
    ids = torch.arange(n_ids, device="cuda") % (n_rows - 2) + 1
    ids[at] = value
    arguments[names.index("ids")] = ids
    arguments[names.index("row_grads")] = torch.ones(n_ids, width, device="cuda")
    overload(*arguments)
    text = rf"^{op} was given id {value} at position {at}, but weight has {n_rows} rows; ids count from 0"
    with pytest.raises(IndexError, match=text + LATER.format("the row it met is NaN")):
        check_ids()
    check_ids()
    assert weight.isnan().any(1).nonzero().flatten().tolist() == [0 if value < 0 else n_rows - 1]


@both_losses
@pytest.mark.parametrize(("shape", "dtype"), [WAYS[0], WAYS[4]], ids=str)
def test_a_replayed_graph_reports(loss, shape, dtype):
    given = on_gpu(inputs(*shape, dtype=dtype))
    run(loss, given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = run(loss, given)
    right = given.labels[7, -1].item()
    for value in (-3, 2**33):
        given.labels[7, -1] = value
        graph.replay()
        with pytest.raises(IndexError, match=of_label(loss, shape[3], 7, value)):
            check_ids()
        assert losses.isnan().nonzero().flatten().tolist() == [7]
        given.labels[7, -1] = right
        graph.replay()
        check_ids()
        assert not bool(losses.isnan().any())


def test_a_report_survives_a_capture_that_begins_meanwhile():
    given = on_gpu(inputs(*WAYS[0][0], dtype=torch.float32))
    run("nce_loss", given)
    right = given.labels[2, 0].item()
    given.labels[2, 0] = -9
    run("nce_loss", given)
    given.labels[2, 0] = right
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = run("nce_loss", given)
    with pytest.raises(IndexError, match="nce_loss needs labels from 0 to 499, got -9 in row 2"):
        check_ids()
    graph.replay()
    check_ids()
    assert not bool(losses.isnan().any())


def test_nobody_waits_to_report_or_to_look():
    given = spoilt(*WAYS[0], 5, -1)
    run("nce_loss", given)
    torch.cuda.synchronize()
    with reporting_waits("error"):
        with pytest.raises(IndexError, match="in row 5"):
            run("nce_loss", given)
        run("nce_loss", given)


def test_the_first_of_many_is_told():
    given = on_gpu(inputs(*WAYS[3][0], dtype=torch.float32))
    given.labels[:, 0] = torch.arange(len(given.labels), device="cuda") + 500
    run("sampled_softmax_loss", given)
    with pytest.raises(IndexError) as caught:
        check_ids()
    words = str(caught.value).split()
    assert int(words[words.index("got") + 1]) == int(words[words.index("row") + 1]) + 500  # of one thread, whole
    check_ids()


def test_each_captured_step_raises_at_the_next():
    torch.manual_seed(0)
    words = tl.layers.InputLayer((None,), dtype=torch.int64)
    net = tl.layers.Word2vecEmbeddingInputlayer(words, None, 50, 16, 8, sparse=True).cuda()
    step = tl.TrainStep(net.nce_cost, tl.optim.RowSGD(net.parameters(), lr=0.1), capture=True)
    ids, labels = torch.randint(50, (2, 64), device="cuda")
    for _ in range(6):
        step((ids, labels))
    check_ids()
    wrong = labels.clone()
    wrong[11] = 77
    step((ids, wrong))
    torch.cuda.synchronize()
    with pytest.raises(IndexError, match=r"needs labels from 0 to 49, got 77 in row 11"):
        step((ids, labels))
    assert bool(step((ids, labels)).isfinite())
    check_ids()


def test_ten_thousand_bad_labels_are_told_and_leave_no_trace():
    shape, dtype = WAYS[0]
    n, n_true, _, n_classes, _ = shape
    good = on_gpu(inputs(*shape, dtype=dtype))

    def train():
        """A thousand steps from the same start; the weights they end in."""
        given = differentiable(good)
        for i in range(1000):
            loss = run(("nce_loss", "sampled_softmax_loss")[i % 2], given).mean()
            for leaf, grad in zip(given[:3], torch.autograd.grad(loss, given[:3])):
                leaf.data.sub_(grad, alpha=0.1)
        return [leaf.detach().clone() for leaf in given[:3]]

    with deterministic():
        fresh = train()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(n, (10_000,), generator=generator).tolist()
    columns = torch.randint(n_true, (10_000,), generator=generator).tolist()
    values = torch.randint(-(2**61), 2**61, (10_000,), generator=generator)
    values = torch.where((values >= 0) & (values < n_classes), -1, values)
    bad_labels = good.labels.clone()
    on_device = values.cuda()
    told = 0
    for i, (row, column, value) in enumerate(zip(rows, columns, values.tolist())):
        loss = ("nce_loss", "sampled_softmax_loss")[i % 2]
        bad_labels.copy_(good.labels)
        bad_labels[row, column] = on_device[i]
        run(loss, good._replace(labels=bad_labels))
        try:
            check_ids()
        except IndexError as error:
            told += str(error).startswith(
                f"{loss} needs labels from 0 to {n_classes - 1}, got {value} in row {row} (of an earlier call; "
            )
    assert told == 10_000
    with deterministic():
        assert all(torch.equal(a, b) for a, b in zip(train(), fresh))
    check_ids()


AT_ONCE = """
    import torch, torchlayer as tl
    weight, hidden = torch.randn(50, 8, device="cuda"), torch.randn(4, 8, device="cuda")
    labels = torch.tensor([1, 2, 50, 3], device="cuda")
    values = tl.kernels.uniform_sampler(labels.clamp(max=49), 10, 50)
    ids = torch.tensor([3, -1], device="cuda")
    calls = {
        "loss": lambda: tl.kernels.nce_loss(weight, None, hidden, labels, values),
        "op": lambda: torch.ops.torchlayer.uniform_sample(labels, torch.zeros_like(ids), 10, 50, True, 1000),
        "sampler": lambda: tl.kernels.uniform_sampler(labels, 10, 50),
        "row": lambda: tl.kernels.row_sgd_(weight, ids, torch.ones(2, 8, device="cuda"), 0.1),
    }
    for name, call in calls.items():
        try:
            call()
        except IndexError as error:
            print(name, error, sep=": ")
    tl.kernels.check_ids()
"""


@pytest.mark.parametrize(
    ("check", "lines"),
    [
        (
            "1",
            [
                "loss: nce_loss needs labels from 0 to 49, got 50 in row 2",
                "op: uniform_sample needs labels from 0 to 49, got 50 in row 2",
                "sampler: uniform_sampler: label 50 at row 2 is outside [0, 50)",
                "row: row_sgd_ was given id -1 at position 1, but weight has 50 rows; ids count from 0",
            ],
        ),
        ("yes", ["ValueError: TORCHLAYER_CHECK='yes' is not a choice; set it to one of 0, 1"]),
    ],
)
def test_who_asks_is_told_at_once(check, lines):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AT_ONCE)], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1], env={**os.environ, "TORCHLAYER_CHECK": check},
    )  # fmt: skip
    said = done.stdout if check == "1" else done.stderr.splitlines()[-1]
    assert said.splitlines() == lines
