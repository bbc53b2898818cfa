import copy
import io
import pickle

import pytest
import torch
from contract import ROWS, Row, public_layers

every = pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
alone = pytest.mark.parametrize("row", [r for r in ROWS if not r.needs_network], ids=lambda row: row.id)


def test_every_public_layer_has_a_row():
    missing = {cls.__name__ for cls in public_layers()} - {row.cls.__name__ for row in ROWS}
    assert not missing, f"write a row in tests/contract.py for {sorted(missing)}"


@every
@pytest.mark.parametrize("n", [2, 3])
def test_recorded_shape_is_the_real_one(row: Row, n: int):
    net = row.stacked()
    y = net(*row.tensors(n))
    assert net.outputs.dtype == y.dtype
    assert net.outputs.shape == (None, *y.shape[1:])
    assert y.shape[0] == n


@alone
def test_stacked_equals_standalone(row: Row):
    net, layer = row.stacked().eval(), row.standalone().eval()
    xs = row.tensors(3)
    layer(*xs)
    layer.load_state_dict({key.removeprefix("a."): value for key, value in net.state_dict().items()})
    torch.testing.assert_close(net(*xs), layer(*xs), rtol=0, atol=0)


@alone
def test_standalone_layer_is_sized_by_its_first_call_or_by_what_it_loads(row: Row):
    torch.manual_seed(0)
    called, loaded = row.standalone().eval(), row.standalone().eval()
    xs = row.tensors(3)
    y = called(*xs)
    loaded.load_state_dict(called.state_dict())
    torch.testing.assert_close(loaded(*xs), y, rtol=0, atol=0)


@every
def test_every_parameter_gets_a_finite_gradient(row: Row):
    net = row.stacked()
    xs = row.leaves(4)
    wanted = {**dict(net.named_parameters()), **{f"input {i}": x for i, x in enumerate(xs) if x.requires_grad}}
    if not wanted:
        pytest.skip("nothing here has a gradient")
    row.cost(net, *xs).backward()
    for name, p in wanted.items():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


@every
def test_eval_is_deterministic(row: Row):
    net, xs = row.stacked().eval(), row.tensors(3)
    assert torch.equal(net(*xs), net(*xs))


@every
def test_state_dict_round_trip(row: Row):
    net, other, xs = row.stacked().eval(), row.stacked().eval(), row.tensors(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(net(*xs), other(*xs))


@every
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies_are_equal_and_independent(row: Row, clone):
    net, xs = row.stacked().eval(), row.tensors(3)
    other = clone(net)
    before = net(*xs)
    assert torch.equal(other(*xs), before)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    assert torch.equal(net(*xs), before)


DRAWING = {"dropout", "locked_dropout", "noise", "dropconnect", "embedding_dropped", "rnn_weight_drop"}


@every
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch 2.13 of itself, where a graph breaks
def test_compiled_equals_eager(row: Row):
    xs = row.tensors(3)
    expected = {training: row.stacked().train(training)(*xs) for training in (True, False)}
    modes = (True, False) if row.id in DRAWING or not torch.equal(*expected.values()) else (True,)  # else one program
    for training in modes:
        torch._dynamo.reset()
        net = row.stacked().train(training)
        y = torch.compile(net, fullgraph=row.fullgraph, backend="aot_eager")(*xs)
        if training and row.id in DRAWING:
            assert y.shape == expected[training].shape
        else:
            torch.testing.assert_close(y, expected[training])


@every
def test_exports_with_any_batch_size(row: Row):
    net = row.stacked().eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, tuple(row.tensors(3)), dynamic_shapes=(({0: batch},) * len(row.inputs),))
    xs = row.tensors(5)
    torch.testing.assert_close(program.module()(*xs), net(*xs))


@every
def test_runs_under_autocast(row: Row):
    net, xs = row.stacked(), row.leaves(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = row.cost(net, *xs)
    if y.requires_grad:
        y.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@every
def test_works_in_double(row: Row):
    net, xs = row.stacked().double().eval(), [x.double() if x.is_floating_point() else x for x in row.tensors(3)]
    y = net(*xs)
    assert y.dtype == torch.float64 or not (list(net.parameters()) or xs[0].is_floating_point())


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("without_tf32")
def test_cuda_equals_cpu(row: Row):
    net, xs = row.stacked().eval(), row.tensors(3)
    y = net(*xs)
    torch.testing.assert_close(net.cuda()(*row.tensors(3, "cuda")).cpu(), y, rtol=1e-4, atol=1e-5)
