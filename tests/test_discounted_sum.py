"""Every tier of the op against the definition in float64, and what the compiled tiers owe besides the numbers."""

from __future__ import annotations

import importlib
import os

import numpy as np
import pytest
import torch

from torchlayer import kernels
from torchlayer.kernels import _build, discounted_sum

OPS = torch.ops.torchlayer
MODULE = importlib.import_module("torchlayer.kernels.discounted_sum")


def no_native(device):
    """Why this machine cannot have compiled kernels; a compiler that fails on our source is not a reason."""
    if (os.environ.get("TORCHLAYER_BACKEND") or "auto") not in ("auto", "cuda", device):
        return "TORCHLAYER_BACKEND asks for another backend"
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA GPU"
    try:
        _build.cuda_compiler() if device == "cuda" else _build.cxx_compiler()
    except _build.BuildError as error:
        return None if kernels.compiled()._asdict()[device].name == device else str(error)
    return None


needs_cpu = pytest.mark.skipif(no_native("cpu") is not None, reason=f"no C++ kernels: {no_native('cpu')}")
needs_cuda = pytest.mark.skipif(no_native("cuda") is not None, reason=f"no CUDA kernels: {no_native('cuda')}")
compiled_tiers = [pytest.param("cpu", marks=needs_cpu), pytest.param("cuda", marks=needs_cuda)]
every_tier = pytest.mark.parametrize("tier", ["reference", *compiled_tiers])


def functions(tier):
    """The two ops of a tier and the device they run on."""
    if tier == "reference":
        return MODULE._reference, MODULE._reference_backward, "cpu"
    return OPS.discounted_sum, OPS.discounted_sum_backward, tier


def by_loop(rewards, gamma, reset):
    """The definition, in float64."""
    rewards = rewards.double().cpu().numpy()
    sums = np.zeros_like(rewards)
    for row in np.ndindex(rewards.shape[:-1]):
        total = 0.0
        for t in reversed(range(rewards.shape[-1])):
            restart = reset and rewards[row][t] != 0
            total = rewards[row][t] if restart else rewards[row][t] + gamma * total
            sums[row][t] = total
    return torch.from_numpy(sums)


def by_loop_backward(grad, rewards, gamma, reset):
    """The transpose, by asking autograd about the loop itself."""
    grad, leaf = grad.double().cpu(), rewards.double().cpu().clone().requires_grad_()
    total, sums = torch.zeros(leaf.shape[:-1], dtype=torch.float64), []
    for t in reversed(range(leaf.shape[-1])):
        restart = (leaf[..., t] != 0) & reset
        total = leaf[..., t] + torch.where(restart, 0.0, gamma * total)
        sums.append(total)
    if not sums:
        return torch.zeros_like(grad)
    return torch.autograd.grad(torch.stack(sums[::-1], -1), leaf, grad)[0]


def sparse_rewards(shape, dtype=torch.float32, density=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(shape, generator=generator) < density
    return (torch.randn(shape, generator=generator) * dense).to(dtype)


def assert_as_exact_as_a_sum(actual, expected, rewards, gamma):
    """Within the rounding of one sum in float32 (float64) over the same terms, and of one store in the dtype."""
    terms = by_loop(rewards.abs(), gamma, False)
    eps = torch.finfo(torch.float64 if actual.dtype == torch.float64 else torch.float32).eps
    slack = 64 * eps * terms + torch.finfo(actual.dtype).eps * expected.abs()
    assert bool(((actual.double().cpu() - expected).abs() <= slack).all())


SHAPES = [(1,), (0,), (7,), (0, 4), (3, 0), (1, 1), (2, 3, 17), (5, 32), (3, 129), (2, 1025), (1, 3000), (300, 3)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@every_tier
@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_equal_the_loop_at_every_shape(tier, shape, reset):
    forward, backward, device = functions(tier)
    for dtype in DTYPES:
        rewards = sparse_rewards(shape, dtype)
        sums = forward(rewards.to(device), 0.97, reset)
        assert (sums.dtype, sums.shape, sums.device.type) == (dtype, rewards.shape, device)
        assert_as_exact_as_a_sum(sums, by_loop(rewards, 0.97, reset), rewards, 0.97)

        grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        back = backward(grad.to(device), rewards.to(device), 0.97, reset)
        assert_as_exact_as_a_sum(
            back.flip(-1), by_loop_backward(grad, rewards, 0.97, reset).flip(-1), grad.flip(-1), 0.97
        )


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every other step": lambda x: x.repeat_interleave(2, -1)[:, ::2],
    "a slice with an offset": lambda x: torch.cat((x, x, x))[len(x) : 2 * len(x)],
    "one row expanded": lambda x: x[:1].expand(6, -1),
}


@every_tier
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_gives_a_contiguous_answer(tier, layout):
    forward, backward, device = functions(tier)
    rewards = LAYOUTS[layout](sparse_rewards((6, 33), torch.float64).to(device))
    sums, back = forward(rewards, 0.9, True), backward(rewards, rewards, 0.9, True)
    assert sums.is_contiguous()
    assert back.is_contiguous()
    torch.testing.assert_close(sums.cpu(), by_loop(rewards, 0.9, True))
    torch.testing.assert_close(back.cpu(), by_loop_backward(rewards, rewards, 0.9, True))


@every_tier
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_ends_of_gammas_range(tier, gamma):
    forward, _, device = functions(tier)
    rewards = sparse_rewards((2, 40), torch.float64)
    torch.testing.assert_close(forward(rewards.to(device), gamma, False).cpu(), by_loop(rewards, gamma, False))


@every_tier
def test_infinities_and_nans_stop_at_a_restart_and_stay_in_their_row(tier):
    forward, _, device = functions(tier)
    rewards = torch.tensor([[0, 1, 0, float("inf"), 0], [0, 1, 0, float("nan"), 0], [0, 1, 0, -1, 0]])
    sums = forward(rewards.to(device), 0.5, True).cpu()
    expected = [[0.5, 1, float("inf"), float("inf"), 0], [0.5, 1, float("nan"), float("nan"), 0], [0.5, 1, -0.5, -1, 0]]
    torch.testing.assert_close(sums, torch.tensor(expected), equal_nan=True)


@every_tier
def test_inputs_are_left_as_they_were(tier):
    forward, backward, device = functions(tier)
    rewards = sparse_rewards((3, 50)).to(device)
    before = rewards.clone()
    forward(rewards, 0.9, True)
    backward(rewards, rewards, 0.9, True)
    assert torch.equal(rewards, before)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize(("reset", "density"), [(False, 0.2), (True, 1.0)])
def test_gradcheck(device, reset, density):
    # With restarts every reward must be non-zero: at a zero the sum jumps, and finite differences would see it.
    rewards = sparse_rewards((2, 9), torch.float64, density).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: discounted_sum(r, 0.9, reset), rewards)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_gradient_flows_up_to_the_restart_on_the_left(device):
    rewards = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0], device=device, requires_grad=True)
    discounted_sum(rewards, gamma=0.5).sum().backward()
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [1.0, 1.5, 1.0, 1.5, 1.75]


def test_differentiating_twice_raises():
    rewards = torch.ones(3, requires_grad=True)
    (grad,) = torch.autograd.grad((discounted_sum(rewards) ** 2).sum(), rewards, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        grad.sum().backward()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_opcheck(device):
    rewards = sparse_rewards((2, 5)).to(device)
    torch.library.opcheck(OPS.discounted_sum, (rewards.clone().requires_grad_(), 0.9, True))
    quick = ("test_schema", "test_faketensor")  # the slow ones look at gradients, and this op has none
    torch.library.opcheck(OPS.discounted_sum_backward, (rewards.t(), rewards.t(), 0.9, True), test_utils=quick)


def test_compiles_without_a_graph_break():
    rewards = sparse_rewards((4, 6))
    fast = torch.compile(discounted_sum, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(rewards, 0.9), discounted_sum(rewards, 0.9))


def test_meta_tensors_know_their_shape():
    assert discounted_sum(torch.empty(3, 4, device="meta")).shape == (3, 4)


BAD = [
    (([1.0],), TypeError, "discounted_sum needs a tensor of rewards, got list; use torch.as_tensor"),
    ((torch.ones(2, dtype=torch.int64),), TypeError, "floating-point rewards, got torch.int64; call rewards.float"),
    ((torch.ones(2, dtype=torch.complex64),), TypeError, "floating-point rewards, got torch.complex64"),
    ((torch.ones(2, dtype=torch.float8_e4m3fn),), TypeError, "floating-point rewards, got torch.float8_e4m3fn"),
    ((torch.tensor(1.0),), ValueError, "needs rewards along a last axis, got a scalar"),
    ((torch.ones(2), 1.5), ValueError, "needs gamma between 0 and 1, got 1.5"),
    ((torch.ones(2), -0.1), ValueError, "needs gamma between 0 and 1, got -0.1"),
    ((torch.ones(2), float("nan")), ValueError, "needs gamma between 0 and 1, got nan"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input_says_what_to_do(arguments, error, text):
    with pytest.raises(error, match=text):
        discounted_sum(*arguments)


NATIVE_BAD = [
    ("discounted_sum", (torch.ones(2, dtype=torch.int32), 0.9, True), "needs float32, float64, float16 or bfloat16"),
    ("discounted_sum", (torch.tensor(1.0), 0.9, True), "needs at least one axis, got a scalar"),
    ("discounted_sum", (torch.ones(2), 1.5, True), "needs gamma between 0 and 1, got 1.5"),
    ("discounted_sum_backward", (torch.ones(2), torch.ones(3), 0.9, True), "one shape, dtype and device"),
    ("discounted_sum_backward", (torch.ones(2), torch.ones(1, 2), 0.9, True), "one shape, dtype and device"),
    ("discounted_sum_backward", (torch.ones(2), torch.ones(2).double(), 0.9, True), "one shape, dtype and device"),
    ("discounted_sum_backward", (torch.ones(2), torch.ones(2), -1.0, True), "needs gamma between 0 and 1, got -1"),
]


@pytest.mark.parametrize("device", compiled_tiers)
@pytest.mark.parametrize(("op", "arguments", "text"), NATIVE_BAD)
def test_compiled_ops_check_their_own_arguments(device, op, arguments, text):
    moved = [value.to(device) if isinstance(value, torch.Tensor) else value for value in arguments]
    with pytest.raises(RuntimeError, match=text):
        getattr(OPS, op)(*moved)


@needs_cuda
def test_mixed_devices_raise_and_do_not_read_foreign_memory():
    with pytest.raises(RuntimeError, match="one shape, dtype and device"):
        OPS.discounted_sum_backward(torch.ones(3, device="cuda"), torch.ones(3), 0.9, True)


@needs_cuda
def test_runs_on_the_current_stream():
    rewards, stream = sparse_rewards((64, 4096)).cuda(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        doubled = rewards * 2  # not there yet for a kernel on any other stream
        sums = discounted_sum(doubled, 0.9)
    stream.synchronize()
    torch.testing.assert_close(sums, discounted_sum(rewards * 2, 0.9))


@needs_cuda
def test_replays_in_a_cuda_graph():
    rewards = sparse_rewards((8, 300)).cuda()
    discounted_sum(rewards, 0.9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sums = discounted_sum(rewards, 0.9)
    rewards.copy_(sparse_rewards((8, 300), seed=5))
    graph.replay()
    torch.testing.assert_close(sums, discounted_sum(rewards, 0.9))


@needs_cuda
def test_offsets_past_two_to_the_31():
    rewards = torch.zeros(3, 2**30, dtype=torch.bfloat16, device="cuda")
    rewards[:, -1] = 1
    sums = discounted_sum(rewards, 1.0)
    assert bool((sums == 1).all())


@needs_cpu
def test_where_there_is_a_compiler_the_kernels_are_compiled():
    assert kernels.compiled().cpu.name == "cpu", kernels.compiled().cpu.reason
