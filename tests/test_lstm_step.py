"""One step of an LSTM: every tier against torch's cell in float64, and the layers that take it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

import torchlayer as tl
from torchlayer.kernels import _library, lstm_step
from torchlayer.layers import _lstm_step, _recurrence
from torchlayer.layers._lstm_step import steps_by_kernel

L = tl.layers
MODULE = importlib.import_module("torchlayer.kernels.lstm_step")
has_kernels = torch.cuda.is_available() and tl.kernels.compiled().cuda.name == "cuda"
needs_cuda = pytest.mark.skipif(not has_kernels, reason="no CUDA kernels")
every_tier = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
SIZES = [(1, 1, 1), (2, 3, 5), (3, 8, 8), (4, 32, 64), (5, 37, 41), (8, 130, 66), (9, 4, 12), (17, 6, 3)]  # N, D, H
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # |h| is below 1


def given(n, n_in, n_units, dtype=torch.float32, n_biases=2, seed=0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, n_in), (n, n_units), (n, n_units), (4 * n_units, n_in), (4 * n_units, n_units)]
    scale = (n_in + n_units) ** -0.5
    parts = [torch.randn(s, generator=generator) * (scale if i > 2 else 1) for i, s in enumerate(shapes)]
    parts += [torch.randn(4 * n_units, generator=generator) for _ in range(n_biases)]
    return [part.to(dtype) for part in parts] + [None] * (2 - n_biases)


def by_torch(x, h, c, weight_ih, weight_hh, bias_ih, bias_hh):
    double = [None if t is None else t.double().cpu() for t in (x, h, c, weight_ih, weight_hh, bias_ih, bias_hh)]
    zeros = torch.zeros(len(weight_ih), dtype=torch.float64)
    biases = [zeros if b is None else b for b in double[5:]]
    return torch.lstm_cell(double[0], double[1:3], *double[3:5], *biases)


def assert_is_torchs_step(arguments, device):
    moved = [None if t is None else t.to(device) for t in arguments]
    y, h, c = lstm_step(*moved)
    assert torch.equal(y, h)
    for ours, exact in zip((h, c), by_torch(*arguments)):
        assert (ours.dtype, ours.device.type, ours.is_contiguous()) == (arguments[0].dtype, device, True)
        worst = (ours.cpu().double() - exact).abs() / exact.abs().clamp(min=1)
        assert worst.max() <= TOLERANCE[ours.dtype]


@every_tier
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_step_is_torchs_in_float64(device, size):
    for dtype in TOLERANCE:
        for n_biases in (0, 1, 2):
            assert_is_torchs_step(given(*size, dtype, n_biases), device)


@needs_cuda
@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize(("n_in", "n_units"), [(1500, 1500), (650, 200), (1024, 512)])
def test_wide_steps_for_one_to_eight_sequences(n, n_in, n_units):
    for dtype in TOLERANCE:
        assert_is_torchs_step(given(n, n_in, n_units, dtype), "cuda")


@every_tier
@pytest.mark.parametrize("size", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_sizes_of_zero(device, size):
    arguments = [t.to(device) for t in given(*size)]
    y, h, c = lstm_step(*arguments)
    assert y.shape == h.shape == c.shape == (size[0], size[2])
    if size[1] == 0:
        torch.testing.assert_close(h.cpu().double(), by_torch(*arguments)[0], rtol=0, atol=1e-6)


def test_what_an_op_owes():
    samples = [tuple(given(2, 5, 3)), tuple(given(1, 8, 4, torch.bfloat16, 1)), tuple(given(9, 3, 2, torch.float16, 0))]
    tl.testing.check_op("torchlayer::lstm_step", samples, MODULE._reference, gradients=False)


def test_outputs_and_state_share_no_memory():
    y, h, _ = lstm_step(*given(2, 3, 4))
    y.zero_()
    assert h.all()


def test_a_gradient_is_refused():
    arguments = given(2, 3, 4)
    arguments[3].requires_grad_()
    with pytest.raises(RuntimeError, match=r"lstm_step has no gradient; call it in torch.no_grad\(\)"):
        lstm_step(*arguments)
    with pytest.raises(RuntimeError, match="lstm_step has no gradient"):
        torch.ops.torchlayer.lstm_step(*arguments)[0].sum().backward()
    with torch.no_grad():
        assert not lstm_step(*arguments)[0].requires_grad


# The layers


def stack_of(cells, n_in):
    stack = _recurrence.CellStack(cells)
    stack.build(n_in, tl.initializers.random_uniform(-0.5, 0.5))
    return stack


CASES = {  # what is changed, and whether the kernel's is the way then
    "as text is written": ({}, True),
    "four sequences": ({"n": 4}, True),
    "five sequences": ({"n": 5}, False),
    "none": ({"n": 0}, False),
    "two steps": ({"n_steps": 2}, False),
    "lengths": ({"lengths": torch.tensor([1])}, False),
    "gradients": ({"grad": True}, False),
    "another cell": ({"cell": L.GRUCell}, False),
    "another activation": ({"cell": lambda n: L.BasicLSTMCell(n, activation=torch.relu)}, False),
    "a projection": ({"cell": lambda n: L.LSTMCell(n, num_proj=2)}, False),
    "weights that change": ({"cell": lambda n: L.WeightDropLSTMCell(n)}, False),
    "float64": ({"dtype": torch.float64}, False),
    "bfloat16": ({"dtype": torch.bfloat16}, True),
    "a state of another dtype": ({"state_dtype": torch.float16}, False),
    "no kernels": ({"backend": "python"}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_when_a_step_is_the_kernels(name, monkeypatch):
    changes, expected = CASES[name]
    case = {"n": 1, "n_steps": 1, "cell": L.BasicLSTMCell, "dtype": torch.float32, "backend": "cuda", **changes}
    monkeypatch.setattr(_lstm_step._library, "load", lambda device: _library.Backend(case["backend"], device))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    stack = stack_of([case["cell"](4), case["cell"](4)], 4).to(case["dtype"])
    x = torch.zeros(case["n"], case["n_steps"], 4, dtype=case["dtype"])
    state = stack.zero_state(x[:, 0].to(case.get("state_dtype", case["dtype"])))
    with torch.set_grad_enabled(case.get("grad", False)):
        assert steps_by_kernel(stack.cells(), x, state, case.get("lengths")) == expected


def test_a_step_under_autocast_is_torchs(monkeypatch):
    monkeypatch.setattr(_lstm_step._library, "load", lambda device: _library.Backend("cuda", ""))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    stack = stack_of([L.BasicLSTMCell(4)], 4)
    with torch.no_grad():
        assert not steps_by_kernel(stack.cells(), torch.zeros(1, 1, 4), None, None)


def test_cells_on_top_of_each_other_step_as_in_a_loop():
    stack, x = stack_of([L.BasicLSTMCell(4), L.LSTMCell(6, forget_bias=0.5)], 3), torch.randn(2, 1, 3)
    state = stack.zero_state(x[:, 0])
    for _ in range(3):
        with torch.no_grad():
            y, new = _lstm_step.step(stack.cells(), x[:, 0], state)
        expected, end = _recurrence._looped(stack, x, state, None, _recurrence.Keep())
        torch.testing.assert_close((y[:, None], new), (expected, end))
        state = new


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_writes_on_a_gpu_what_it_does_on_a_cpu(dtype, monkeypatch):
    torch.manual_seed(0)
    net = L.RNNLayer(L.InputLayer((None, None, 6)), cell_fn=L.BasicLSTMCell, n_hidden=8, n_layer=2, name="lstm").eval()
    net.to(dtype)
    x, taken = torch.randn(3, 5, 6, dtype=dtype), []
    monkeypatch.setattr(_recurrence, "step", lambda *a: taken.append(1) or _lstm_step.step(*a))
    with torch.no_grad():
        expected = net(x)
        net.cuda()
        y, state = net.step(x[:, :2].cuda())
        for t in range(2, 5):
            y, state = net.step(x[:, t : t + 1].cuda(), state=state)
            torch.testing.assert_close(y[:, 0].cpu(), expected[:, t], atol=10 * TOLERANCE[dtype], rtol=0)
    assert len(taken) == 3


@needs_cuda
def test_replays_in_a_cuda_graph_with_other_weights():
    arguments = [t.cuda() for t in given(1, 300, 200)]

    def wide(h):  # what the next step reads
        return h.mean(1, keepdim=True).expand(1, 300).contiguous()

    lstm_step(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for t in arguments[3:]:
            t.mul_(0.5)  # just before: what is fetched early must not be what was there
        _, h, c = lstm_step(*arguments)
        for _ in range(5):
            _, h, c = lstm_step(wide(h), h, c, *arguments[3:])
    for t in arguments[3:]:
        t.mul_(2)
    for _ in range(3):
        graph.replay()
        _, h2, c2 = lstm_step(*arguments)
        for _ in range(5):
            _, h2, c2 = lstm_step(wide(h2), h2, c2, *arguments[3:])
        torch.testing.assert_close((h, c), (h2, c2))
