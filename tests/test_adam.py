import pytest
import torch

import torchlayer as tl
from torchlayer.kernels import adam

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
SHAPES = [(3,), (), (5, 7), (2048,), (2049,), (64, 100), (0, 4), (4, 3, 5, 5)]


def state(device="cpu", dtype=torch.float32, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params, grads = (
        [torch.randn(s, generator=generator, dtype=torch.float64).to(device, dtype) for s in shapes] for _ in range(2)
    )
    zeros = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    return params, grads, *zeros, [torch.zeros((), device=device) for _ in params]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("run", [tl.kernels.adam_, adam._reference], ids=["op", "reference"])
@pytest.mark.parametrize(("cls", "decay"), [("Adam", 0.0), ("Adam", 0.1), ("AdamW", 0.0), ("AdamW", 0.1)])
def test_ten_updates_equal_torchs_in_double(device, run, cls, decay):
    params, grads, m, v, steps = state(device)
    exact = [torch.nn.Parameter(p.detach().cpu().double()) for p in params]
    optimizer = getattr(torch.optim, cls)(exact, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=decay)
    lr = torch.tensor(0.01, device=device)
    for i in range(10):
        factor = 1.0 + i % 3
        for p, g in zip(exact, grads):
            p.grad = g.cpu().double() * factor
        optimizer.step()
        run(params, [g * factor for g in grads], m, v, steps, lr, 0.8, 0.99, 1e-6, decay, cls == "AdamW")
    for p, q in zip(params, exact):
        torch.testing.assert_close(p.cpu().double(), q.detach(), rtol=2e-6, atol=2e-6)
    assert all(step.item() == 10 for step in steps)


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_one_launch_holds(device):
    params, grads, m, v, steps = state(device, shapes=[(i % 7 + 1, 3) for i in range(200)])
    others = [p.clone() for p in params]
    lr = torch.tensor(0.1, device=device)
    tl.kernels.adam_(params, grads, m, v, steps, lr)
    zeros = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    adam._reference(
        others, grads, *zeros, [torch.zeros((), device=device) for _ in params], lr, 0.9, 0.999, 1e-8, 0, False
    )
    for p, q in zip(params, others):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("device", DEVICES)
def test_any_dense_layout_and_any_alignment_will_do(device):
    images = torch.randn(4, 3, 5, 5, device=device).contiguous(memory_format=torch.channels_last)
    shifted = torch.randn(4097, device=device)[1:]  # four bytes off
    for p in (images, shifted):
        g = torch.randn_like(p)
        q, lr, one = p.clone(), torch.tensor(0.1, device=device), torch.zeros((), device=device)
        tl.kernels.adam_([p], [g], [torch.zeros_like(p)], [torch.zeros_like(p)], [one], lr)
        torch.testing.assert_close(p, q - 0.1 * g / (g.abs() + 1e-8), rtol=1e-4, atol=1e-5)  # nearly the sign


def test_double_parameters_on_a_cpu():
    params, grads, m, v, steps = state(dtype=torch.float64)
    before = [p.clone() for p in params]
    tl.kernels.adam_(params, grads, m, v, steps, torch.tensor(0.5))
    for p, q, g in zip(params, before, grads):
        torch.testing.assert_close(p, q - 0.5 * g / (g.abs() + 1e-8), rtol=1e-6, atol=1e-6)


def test_what_the_op_promises():
    params, grads, m, v, steps = state(shapes=[(3,), (2, 2)])
    torch.library.opcheck(
        torch.ops.torchlayer.adam_.default,
        (params, grads, m, v, steps, torch.tensor(0.1), 0.9, 0.999, 1e-8, 0.0, False),
        test_utils=("test_schema", "test_faketensor"),
    )


def wrong(**change):
    params, grads, m, v, steps = state(shapes=[(4, 4), (3,)])
    args = {"params": params, "grads": grads, "exp_avgs": m, "exp_avg_sqs": v, "steps": steps, "lr": torch.tensor(0.1)}
    args |= {key: value(args[key]) if callable(value) else value for key, value in change.items()}
    return args


WRONG = [
    (wrong(grads=lambda g: g[:1]), "five lists of one length"),
    (wrong(grads=lambda g: [g[0].double(), g[1]]), "one dense layout, dtype and device"),
    (wrong(exp_avgs=lambda m: [m[0][:2], m[1]]), "one dense layout"),
]
COMPILED_WRONG = [
    (wrong(lr=torch.tensor([0.1, 0.2])), "lr as one float32"),
    (wrong(lr=torch.tensor(0.1, dtype=torch.float64)), "lr as one float32"),
    (wrong(grads=lambda g: [g[0].t(), g[1]]), "one dense layout"),
    (wrong(params=lambda p: [p[0][:, :2], p[1]], grads=lambda g: [g[0][:, :2], g[1]]), "one dense layout"),
    (wrong(steps=lambda s: [s[0].long(), s[1]]), "steps as one float32 each"),
    (wrong(params=lambda p: [p[0].half(), p[1]]), "needs float32 .on a CPU also float64. parameters, got Half at 0"),
]


@pytest.mark.parametrize(("args", "text"), WRONG, ids=[text[:30] for _, text in WRONG])
def test_wrong_input_is_refused(args, text):
    before = args["params"][1].clone()
    with pytest.raises(RuntimeError, match=text):
        tl.kernels.adam_(**args)
    assert torch.equal(args["params"][1], before)


@pytest.mark.skipif(tl.kernels.compiled().cpu.name != "cpu", reason="nothing was compiled")
@pytest.mark.parametrize(("args", "text"), COMPILED_WRONG, ids=[text[:30] for _, text in COMPILED_WRONG])
def test_the_kernel_refuses_what_it_could_not_address(args, text):
    with pytest.raises(RuntimeError, match=text):
        tl.kernels.adam_(**args)
