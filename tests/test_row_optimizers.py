"""The row optimisers, compiled and as reference, against a loop in float64."""

import math

import pytest
import torch

from torchlayer import kernels, optim
from torchlayer._optimizer import LearningRate, what_a_replay_would_miss
from torchlayer._waits import reporting_waits
from torchlayer.kernels import _library, _rows, row_adagrad, row_adam, row_rowwise_adagrad, row_sgd

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
compiled = pytest.mark.skipif(kernels.compiled().cpu.name != "cpu", reason="nothing was compiled")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
LR, BETA1, BETA2 = 0.1, 0.8, 0.99
OPS = {
    "sgd": row_sgd.row_sgd_,
    "adagrad": row_adagrad.row_adagrad_,
    "rowwise": row_rowwise_adagrad.row_rowwise_adagrad_,
    "adam": row_adam.row_adam_,
}
NAMES = {name: function.__name__ for name, function in OPS.items()}
EPS = {"adagrad": 1e-3, "rowwise": 1e-3, "adam": 1e-3}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def state_of(name, weight):
    """States as after some steps, in the order of the op's arguments."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(3)

    def positive(shape):
        return (0.1 + torch.rand(shape, dtype=torch.float64, generator=generator)).to(weight.device, dtype)

    if name == "sgd":
        return {}
    if name == "adagrad":
        return {"accumulator": positive(weight.shape)}
    if name == "rowwise":
        return {"accumulator": positive(weight.shape[:1])}
    averages = {"exp_avg": positive(weight.shape), "exp_avg_sq": positive(weight.shape)}
    return {**averages, "step": torch.tensor(4.0, device=weight.device)}


def arguments(name, shape=(50, 6), n_ids=80, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, dtype=torch.float64, generator=generator).to(device, dtype)
    ids = (shape[0] * torch.rand(n_ids, generator=generator) ** 3).long().to(device)  # small ids come many times
    row_grads = torch.randn((n_ids, *shape[1:]), dtype=torch.float64, generator=generator).to(device, dtype)
    numbers = {} if name == "sgd" else {"eps": EPS[name]}
    if name == "adam":
        numbers |= {"beta1": BETA1, "beta2": BETA2}
    return {"weight": weight, **state_of(name, weight), "ids": ids, "row_grads": row_grads, "lr": LR, **numbers}


def copied(args):
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in args.items()}


def loop(name, args):
    """One step in float64, row by row and element by element; leaves ``args`` alone."""
    out = {k: v.detach().cpu().double().clone() for k, v in args.items() if isinstance(v, torch.Tensor)}
    w = out["weight"].view(len(out["weight"]), -1)
    sums = {}
    for row, g in zip(args["ids"].tolist(), out["row_grads"].view(len(args["ids"]), w.shape[1]).tolist()):
        sums[row] = [a + b for a, b in zip(sums.get(row, [0.0] * len(g)), g)]
    eps = args.get("eps", 0.0)
    if name == "adam":
        out["step"] += 1
    for row, g in sums.items():
        for d, x in enumerate(g):
            if name == "sgd":
                w[row, d] -= LR * x
            if name == "adagrad":
                a = out["accumulator"].view(w.shape)
                a[row, d] += x * x
                w[row, d] -= LR * x / (math.sqrt(a[row, d]) + eps)
            if name == "adam":
                t, m, v = out["step"].item(), out["exp_avg"].view(w.shape), out["exp_avg_sq"].view(w.shape)
                m[row, d] = BETA1 * m[row, d] + (1 - BETA1) * x
                v[row, d] = BETA2 * v[row, d] + (1 - BETA2) * x * x
                m_hat, v_hat = m[row, d] / (1 - BETA1**t), v[row, d] / (1 - BETA2**t)
                w[row, d] -= LR * m_hat / (math.sqrt(v_hat) + eps)
        if name == "rowwise":
            out["accumulator"][row] += sum(x * x for x in g) / len(g)
            for d, x in enumerate(g):
                w[row, d] -= LR * x / (math.sqrt(out["accumulator"][row]) + eps)
    return out


def run_op(name, args):
    with torch.no_grad():
        OPS[name](**args)


def run_reference(name, args):
    op = _library.OPS[NAMES[name]]
    lr = args["lr"]
    if isinstance(lr, float):
        device = next(value.device for value in args.values() if isinstance(value, torch.Tensor))
        lr = torch.tensor(lr, dtype=torch.float64, device=device)
    order = [argument.name for argument in op.overload._schema.arguments]
    op.reference(*({**args, "lr": lr}[key] for key in order))


RUNS = [pytest.param(run_op, id="op"), pytest.param(run_reference, id="reference")]
every_op = pytest.mark.parametrize("name", OPS)
op_and_reference = pytest.mark.parametrize("run", RUNS)

SHAPES = [
    ((50, 6), 80),
    ((50,), 80),  # biases
    ((1, 3), 5),
    ((50, 1), 80),
    ((50, 131), 9),
    ((5000, 8), 700),  # ids of two digits for the sort
    ((9, 40), 4000),  # long runs of one id, over the bounds between threads
    ((50, 6), 1),
]


# Values


@every_op
@op_and_reference
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "n_ids"), SHAPES, ids=str)
def test_equals_a_loop_in_double(name, run, device, shape, n_ids):
    args = arguments(name, shape, n_ids, torch.float64, device)
    expected = loop(name, args)
    run(name, args)
    for key, value in expected.items():
        torch.testing.assert_close(args[key].cpu().double(), value, rtol=1e-9, atol=1e-9)


@every_op
@op_and_reference
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_each_dtype_rounds_the_loop_once(name, run, device, dtype):
    args = arguments(name, dtype=dtype, device=device)
    expected = loop(name, args)
    run(name, args)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(args["weight"].cpu().double(), expected["weight"], rtol=tolerance, atol=tolerance)
    for key in {"accumulator", "exp_avg", "exp_avg_sq", "step"} & args.keys():  # never in sixteen bits
        torch.testing.assert_close(args[key].cpu().double(), expected[key], rtol=2e-6, atol=2e-6)


@every_op
@op_and_reference
def test_ten_steps_in_a_row_stay_with_the_loop(name, run):
    args, exact = arguments(name, (20, 5), 30), arguments(name, (20, 5), 30, torch.float64)
    for seed in range(10):
        for each in (args, exact):
            batch = arguments(name, (20, 5), 30, each["weight"].dtype, seed=seed)
            each |= {key: batch[key] for key in ("ids", "row_grads")}
        run(name, args)
        exact |= {key: value for key, value in loop(name, exact).items() if key not in ("ids", "row_grads", "step")}
        if name == "adam":
            exact["step"] += 1
    torch.testing.assert_close(args["weight"].double(), exact["weight"], rtol=1e-5, atol=1e-5)


@every_op
@op_and_reference
def test_untouched_rows_and_their_states_keep_every_bit(name, run):
    args = arguments(name)
    before = copied(args)
    args["ids"] = args["ids"] % 7 + 20
    before["ids"] = args["ids"]
    run(name, args)
    untouched = torch.ones(50, dtype=torch.bool)
    untouched[args["ids"]] = False
    assert int(untouched.sum()) >= 43
    for key in {"weight", "accumulator", "exp_avg", "exp_avg_sq"} & args.keys():
        assert torch.equal(args[key][untouched], before[key][untouched])
        assert not torch.equal(args[key], before[key])
    for key in ("ids", "row_grads"):
        assert torch.equal(args[key], before[key])


@op_and_reference
def test_duplicates_are_summed_before_they_are_squared(run):
    args = arguments("adagrad", (3, 1), 2) | {"ids": torch.tensor([1, 1])}
    args |= {"row_grads": torch.tensor([[3.0], [-3.0]])}
    before = copied(args)
    run("adagrad", args)
    assert torch.equal(args["accumulator"], before["accumulator"])
    assert torch.equal(args["weight"], before["weight"])


def test_with_every_row_once_each_is_the_dense_optimiser_of_torch():
    cases = {
        "sgd": torch.optim.SGD,
        "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr, initial_accumulator_value=0.1, eps=1e-3),
        "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(BETA1, BETA2), eps=1e-3),
    }
    for name, make in cases.items():
        args = arguments(name, (30, 4), 30, torch.float64) | {"ids": torch.randperm(30)}
        for key in {"accumulator", "exp_avg", "exp_avg_sq", "step"} & args.keys():
            args[key].fill_(0.1 if name == "adagrad" else 0.0)
        p = torch.nn.Parameter(args["weight"].clone())
        optimizer = make([p], lr=LR)
        for _ in range(3):
            p.grad = torch.zeros_like(p).index_add_(0, args["ids"], args["row_grads"])
            optimizer.step()
            run_op(name, args)
        torch.testing.assert_close(args["weight"], p.detach(), rtol=1e-12, atol=1e-12)


@every_op
@op_and_reference
@pytest.mark.parametrize("shape", [(4, 3), (4,), (0, 3), (0,)], ids=str)
def test_no_ids_change_nothing_but_the_step_count(name, run, shape):
    args = arguments(name, shape, 0)
    before = copied(args)
    run(name, args)
    for key in {"weight", "accumulator", "exp_avg", "exp_avg_sq"} & args.keys():
        assert torch.equal(args[key], before[key])
    assert name != "adam" or args["step"] == 5


@every_op
@op_and_reference
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_inf_stay_in_their_rows(name, run, value):
    args = arguments(name)
    clean = copied(args)
    args["row_grads"][args["ids"] == args["ids"][7]] = value
    run(name, args)
    run(name, clean)
    others = torch.arange(50) != args["ids"][7]
    assert torch.equal(args["weight"][others], clean["weight"][others])
    assert not args["weight"][~others].isfinite().any()


# What it may be given


@every_op
@op_and_reference
def test_ids_and_gradients_may_have_any_strides(name, run):
    args = arguments(name)
    expected = copied(args)
    run(name, expected)
    ids, row_grads = torch.empty(80, 3, dtype=torch.int64), torch.empty(6, 160)
    ids[:, 1], row_grads[:, ::2] = args["ids"], args["row_grads"].t()
    args |= {"ids": ids[:, 1], "row_grads": row_grads[:, ::2].t()}
    assert not args["ids"].is_contiguous()
    run(name, args)
    assert torch.equal(args["weight"], expected["weight"])
    args, expected = arguments(name), arguments(name)
    args["row_grads"] = torch.ones(1, 1).expand(80, 6)
    expected["row_grads"] = torch.ones(80, 6)
    run(name, args)
    run(name, expected)
    assert torch.equal(args["weight"], expected["weight"])


@every_op
@op_and_reference
def test_tensors_may_lie_side_by_side_anywhere_in_one_storage(name, run):
    args, expected = arguments(name), arguments(name)
    flat = torch.empty(10_000)
    offset = 1  # four bytes off
    for key in [key for key in args if isinstance(args[key], torch.Tensor) and key != "ids"]:
        piece = flat[offset : offset + args[key].numel()].view(args[key].shape)
        args[key] = piece.copy_(args[key])
        offset += piece.numel()
    run(name, args)
    run(name, expected)
    assert torch.equal(args["weight"], expected["weight"])


@every_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rate_may_be_a_tensor(name, dtype):
    args = arguments(name) | {"lr": torch.tensor(LR, dtype=dtype)}
    expected = arguments(name)
    run_op(name, args)
    run_op(name, expected)
    torch.testing.assert_close(args["weight"], expected["weight"])


@every_op
def test_a_parameter_is_updated_under_no_grad_and_autograd_is_told(name):
    args = arguments(name)
    args["weight"] = torch.nn.Parameter(args["weight"])
    product = args["weight"] * args["weight"]
    run_op(name, args)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    with torch.inference_mode():
        inference = arguments(name)
        run_op(name, inference)
    assert torch.equal(inference["weight"], args["weight"])


# How it runs


@compiled
@every_op
@pytest.mark.parametrize(("shape", "n_ids"), [((9, 40), 4000), ((3000, 64), 3000)], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(name, shape, n_ids):
    results = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3, 7):
            torch.set_num_threads(n_threads)
            args = arguments(name, shape, n_ids)
            run_op(name, args)
            results.append(args)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[k], results[0][k]) for k in other if isinstance(other[k], torch.Tensor))


@every_op
@op_and_reference
def test_repeats_are_equal_to_the_bit(name, run):
    results = []
    for _ in range(20):
        args = arguments(name)
        run(name, args)
        results.append(args["weight"])
    assert all(torch.equal(result, results[0]) for result in results)


@every_op
def test_what_the_op_promises(name):
    op = _library.OPS[NAMES[name]]
    torch.library.opcheck(op.overload, op.example(torch.device("cpu")))


@every_op
def test_compiles_as_one_graph(name):
    def step(args):
        OPS[name](**args)
        return args["weight"].sum()

    args, expected = arguments(name), arguments(name)
    torch.compile(step, fullgraph=True, backend="aot_eager")(args)
    run_op(name, expected)
    assert torch.equal(args["weight"], expected["weight"])


@every_op
def test_where_ids_are_not_looked_at_a_bad_one_shows_as_nan(name):
    """As on CUDA, where looking would wait for the device."""
    updated = {"sgd": row_sgd, "adagrad": row_adagrad, "rowwise": row_rowwise_adagrad, "adam": row_adam}[name].updated
    args = arguments(name) | {"ids": torch.tensor([3, -1, 70]), "row_grads": torch.ones(3, 6)}
    states = tuple(args[key] for key in ("accumulator", "exp_avg", "exp_avg_sq") if key in args)
    numbers = {"sgd": (), "adam": (BETA1, BETA2, 1e-3)}.get(name, (1e-3,))
    step = (args["step"],) if name == "adam" else ()
    _rows.update_rows(
        updated, args["weight"], states, args["ids"], args["row_grads"], *step, torch.tensor(LR), *numbers
    )
    assert args["weight"].isnan().any(1).nonzero().flatten().tolist() == [0, 49]


@pytest.mark.parametrize("cls", [optim.RowSGD, optim.RowAdagrad, optim.RowwiseAdagrad, optim.LazyAdam])
def test_a_captured_step_misses_nothing_of_these_optimisers(cls):
    words = torch.nn.Embedding(20, 4, sparse=True)
    optimizer = cls(words.parameters())
    words(torch.tensor([3, 3, 5])).sum().backward()
    optimizer.step()
    assert what_a_replay_would_miss(optimizer) is None
    assert all(isinstance(v, torch.Tensor) for state in optimizer.state.values() for v in state.values())
    group = optimizer.param_groups[0]
    rate = LearningRate(group, torch.device("cpu"), optimizer)
    assert rate.is_live
    group["lr"] = 0.25
    rate.enter()
    assert group["lr"] == torch.tensor(0.25)
    optimizer.step()
    rate.leave()
    assert group["lr"] == 0.25


# What only a GPU shows

MANY = [
    # shape, n_ids, how skewed; up to 4096 ids one kernel does all; a row is light up to 8 places, in parts past 64, and
    # does not fit into registers past a width of 1024 or 2048
    ((1,), 1, 1),
    ((50, 6), 80, 3),
    ((50_000, 128), 192, 8),
    ((40, 1024), 3000, 2),
    ((6, 2500), 2000, 1),
    ((3000, 96), 4096, 4),
    ((300, 7), 4097, 1),
    ((4000, 1536), 5000, 2),
    ((50_000, 128), 16_448, 8),
    ((20_000, 1024), 10_752, 6),
    ((500, 2600), 4200, 3),
    ((2000, 264), 66_560, 1),
    ((3, 130), 70_000, 1),
    ((1, 8), 140_000, 1),
    ((100_000,), 66_560, 4),
]


def many(name, shape, n_ids, skew, dtype=torch.float32, seed=0):
    args = arguments(name, shape, n_ids, dtype, "cuda", seed)
    generator = torch.Generator().manual_seed(seed + 1)
    args["ids"] = (shape[0] * torch.rand(n_ids, generator=generator, dtype=torch.float64) ** skew).long().cuda()
    args["lr"] = torch.tensor(LR, dtype=torch.float64, device="cuda")
    args["row_grads"] *= 0.1
    return args


@cuda
@every_op
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("shape", "n_ids", "skew"), MANY, ids=str)
def test_many_ids_equal_the_reference_in_double(name, dtype, shape, n_ids, skew):
    equals_the_reference_in_double(name, many(name, shape, n_ids, skew, dtype))


def equals_the_reference_in_double(name, args):
    dtype = args["weight"].dtype
    exact = {k: v.double() if isinstance(v, torch.Tensor) and k not in ("ids", "step") else v for k, v in args.items()}
    exact = copied(exact)
    run_reference(name, exact)
    run_op(name, args)
    tolerance = max(TOLERANCE[dtype], 1e-12 if dtype == torch.float64 else 5e-5)
    for key in ("weight", *STATE_NAMES[name]):
        close = tolerance if key == "weight" else max(1e-12 if dtype == torch.float64 else 5e-5, 0)
        torch.testing.assert_close(args[key].double(), exact[key], rtol=close, atol=close, msg=lambda m, k=key: k + m)


@cuda
@every_op
@pytest.mark.parametrize("width", [6, 1024])
def test_rows_may_have_any_number_of_places(name, width):
    counts = torch.tensor([1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 4097, 1])
    args = many(name, (len(counts) + 1, width), int(counts.sum()), 1)
    ids = torch.arange(len(counts)).repeat_interleave(counts)
    args["ids"] = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))].cuda()
    equals_the_reference_in_double(name, args)


@cuda
@every_op
@pytest.mark.parametrize(("shape", "n_ids", "skew"), MANY, ids=str)
def test_on_a_gpu_repeats_are_equal_to_the_bit(name, shape, n_ids, skew):
    results = []
    for _ in range(5):
        args = many(name, shape, n_ids, skew)
        run_op(name, args)
        results.append(args)
    for other in results[1:]:
        assert all(torch.equal(other[key], results[0][key]) for key in ("weight", *STATE_NAMES[name]))


@cuda
@every_op
@pytest.mark.parametrize("n_ids", [80, 9000])
def test_on_a_gpu_a_bad_id_turns_the_row_it_meets_into_nan(name, n_ids):
    args = many(name, (5000, 12), n_ids, 1)
    args["ids"] = args["ids"] % 4000 + 500  # neither the first row nor the last
    clean = copied(args)
    clean |= {"ids": args["ids"][10:].clone(), "row_grads": args["row_grads"][10:].clone()}
    args["ids"][:10] = torch.tensor([-1, 5000, BIG, LAST, -LAST - 1, 2**32, 2**32 + 7, -5, 5001, -(2**32)])
    run_op(name, args)
    with pytest.raises(IndexError, match="was given id"):
        kernels.check_ids()
    run_op(name, clean)
    rows = args["weight"].isnan().any(1)
    assert rows.nonzero().flatten().tolist() == [0, 4999]
    assert args["weight"][rows].isnan().all()
    # the others' sums need not have the same shape
    torch.testing.assert_close(args["weight"][~rows], clean["weight"][~rows], rtol=1e-5, atol=1e-6)


@cuda
@every_op
@pytest.mark.parametrize("n_ids", [0, 300, 9000])
def test_a_captured_call_replays_on_changed_inputs_without_waiting(name, n_ids):
    args, eager = (many(name, (3000, 20), n_ids, 4) for _ in range(2))
    run_op(name, many(name, (3000, 20), n_ids, 4))  # loads the library
    n_replays = torch.zeros((), device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run_op(name, args)
        n_replays += 1  # of no ids an op launches nothing, and torch takes an empty graph for a mistake
    for seed in range(3):
        batch = many(name, (3000, 20), n_ids, 4, seed=seed)
        for key in ("ids", "row_grads"):
            args[key].copy_(batch[key])
            eager[key].copy_(batch[key])
        for each in (args, eager):
            each["lr"].fill_(0.1 * (seed + 1))
        graph.replay()
        with reporting_waits("error"):
            run_op(name, eager)
    assert n_replays.item() == 3
    for key in {"weight", "step", *STATE_NAMES[name]} & args.keys():
        assert torch.equal(args[key], eager[key])


@cuda
@every_op
def test_on_a_gpu_tensors_may_have_any_strides_and_alignment(name):
    args = many(name, (3000, 20), 5000, 4)
    expected = copied(args)
    run_op(name, expected)
    ids, row_grads = torch.empty(5000, 3, dtype=torch.int64, device="cuda"), torch.empty(20, 5000, device="cuda")
    ids[:, 1], row_grads[:] = args["ids"], args["row_grads"].t()
    flat = torch.empty(60_001, device="cuda")
    args["weight"] = flat[1:].view(3000, 20).copy_(args["weight"])
    args |= {"ids": ids[:, 1], "row_grads": row_grads.t()}
    run_op(name, args)
    torch.testing.assert_close(args["weight"], expected["weight"], rtol=1e-5, atol=1e-6)


@cuda
@every_op
@pytest.mark.parametrize("key", ["ids", "row_grads", "lr"])
def test_the_kernel_itself_refuses_tensors_of_another_device(name, key):
    args = many(name, (50, 6), 80, 1)
    args[key] = args[key].cpu()
    overload = _library.OPS[NAMES[name]].overload
    with pytest.raises(RuntimeError, match=r"on the device of weight|same device|devices"):
        overload(*(args[argument.name] for argument in overload._schema.arguments))


# Wrong inputs


def wrong_weight(change):
    return lambda args: {"weight": change(args["weight"])}


def shared(key):
    """``key`` and the weight in one memory."""

    def change(args):
        flat = torch.zeros(50 * 6 + 1)
        size = args[key].numel()
        return {"weight": flat[:300].view(50, 6), key: flat[300 - size + 1 : 301].view(args[key].shape)}

    return change


def sparse(x):
    return x.to_sparse()


def nested(x):
    return torch.nested.nested_tensor([x, x])


def quantised(x):
    return torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8)


LAST, BIG = 2**63 - 1, 2**31
COMMON = [
    # name, what changes, error, text
    ("weight a list", lambda a: {"weight": [1.0]}, TypeError, "needs weight as a tensor, got list"),
    ("ids a list", lambda a: {"ids": [1]}, TypeError, "needs ids as a tensor, got list"),
    ("ids None", lambda a: {"ids": None}, TypeError, "needs ids as a tensor, got NoneType"),
    ("row_grads None", lambda a: {"row_grads": None}, TypeError, "needs row_grads as a tensor, got NoneType"),
    ("weight int", wrong_weight(torch.Tensor.long), TypeError, "float16 or bfloat16, got torch.int64"),
    ("weight bool", wrong_weight(torch.Tensor.bool), TypeError, "float16 or bfloat16, got torch.bool"),
    ("weight complex", wrong_weight(lambda w: w + 0j), TypeError, "float16 or bfloat16, got torch.complex64"),
    ("weight sparse", wrong_weight(sparse), TypeError, "weight as a dense tensor, got torch.sparse_coo"),
    ("weight nested", wrong_weight(nested), TypeError, "weight as a dense tensor, got a nested one"),
    ("weight quantised", wrong_weight(quantised), TypeError, "float16 or bfloat16, got torch.quint8"),
    ("ids nested", lambda a: {"ids": nested(a["ids"])}, TypeError, "ids as a dense tensor, got a nested one"),
    ("ids quantised", lambda a: {"ids": quantised(a["ids"])}, TypeError, "ids in torch.int64, got torch.quint8"),
    ("grads nested", lambda a: {"row_grads": nested(a["row_grads"])}, TypeError, "row_grads as .*, got a nested one"),
    (
        "grads quantised",
        lambda a: {"row_grads": quantised(a["row_grads"])},
        TypeError,
        "float32 of weight, got .*quint8",
    ),
    ("lr nested", lambda a: {"lr": nested(torch.ones(1))}, TypeError, "lr as a dense tensor, got a nested one"),
    ("weight scalar", wrong_weight(lambda w: w[0, 0].clone()), ValueError, r"\(V, D\) or \(V,\), got \(\)"),
    ("weight 3-D", wrong_weight(lambda w: w[None]), ValueError, r"\(V, D\) or \(V,\), got \(1, 50, 6\)"),
    ("weight no width", wrong_weight(lambda w: w[:, :0]), ValueError, r"or \(V,\), got \(50, 0\)"),
    ("weight turned", wrong_weight(lambda w: w.t().contiguous().t()), ValueError, r"weight contiguous, got strides"),
    ("weight strided", wrong_weight(lambda w: w.repeat(1, 2)[:, ::2]), ValueError, r"weight contiguous, .*copy"),
    ("weight expanded", wrong_weight(lambda w: w[:1].expand(50, 6)), ValueError, r"contiguous, got strides \(0, 1\)"),
    ("ids int32", lambda a: {"ids": a["ids"].int()}, TypeError, r"torch.int64, got torch.int32; call ids.long\(\)"),
    ("ids uint8", lambda a: {"ids": a["ids"].byte()}, TypeError, "ids in torch.int64, got torch.uint8"),
    ("ids bool", lambda a: {"ids": a["ids"].bool()}, TypeError, "ids in torch.int64, got torch.bool"),
    ("ids float", lambda a: {"ids": a["ids"].float()}, TypeError, "ids in torch.int64, got torch.float32"),
    ("ids 2-D", lambda a: {"ids": a["ids"][:, None]}, ValueError, r"\(M,\), got \(80, 1\); call ids.flatten"),
    ("ids scalar", lambda a: {"ids": a["ids"][0]}, ValueError, r"ids of shape \(M,\), got \(\)"),
    ("ids meta", lambda a: {"ids": a["ids"].to("meta")}, ValueError, "ids on cpu, where weight is, got meta"),
    ("ids sparse", lambda a: {"ids": sparse(a["ids"])}, TypeError, "ids as a dense tensor, got torch.sparse_coo"),
    ("grads double", lambda a: {"row_grads": a["row_grads"].double()}, TypeError, "float32 of weight, got .*float64"),
    ("grads half", lambda a: {"row_grads": a["row_grads"].half()}, TypeError, "float32 of weight, got .*float16"),
    ("grads sparse", lambda a: {"row_grads": sparse(a["row_grads"])}, TypeError, "pass ids and row_grads apart"),
    ("grads short", lambda a: {"row_grads": a["row_grads"][:7]}, ValueError, r"\(80, 6\), one row .* got \(7, 6\)"),
    ("grads narrow", lambda a: {"row_grads": a["row_grads"][:, :5]}, ValueError, r"\(80, 6\), .* got \(80, 5\)"),
    ("grads 1-D", lambda a: {"row_grads": a["row_grads"][:, 0]}, ValueError, r"\(80, 6\), .* got \(80,\)"),
    ("grads 3-D", lambda a: {"row_grads": a["row_grads"][None]}, ValueError, r"\(80, 6\), .* got \(1, 80, 6\)"),
    ("grads meta", lambda a: {"row_grads": a["row_grads"].to("meta")}, ValueError, "row_grads on cpu, .* got meta"),
    ("lr negative", lambda a: {"lr": -0.1}, ValueError, "needs lr of 0 or more, got -0.1"),
    ("lr nan", lambda a: {"lr": math.nan}, ValueError, "needs lr of 0 or more, got nan"),
    ("lr None", lambda a: {"lr": None}, TypeError, "needs lr as a number or a tensor, got NoneType"),
    ("lr text", lambda a: {"lr": "0.1"}, TypeError, "needs lr as a number or a tensor, got str"),
    ("lr int tensor", lambda a: {"lr": torch.tensor(1)}, TypeError, "lr in float32 or float64, got torch.int64"),
    ("lr half", lambda a: {"lr": torch.tensor(1.0).half()}, TypeError, "lr in float32 or float64, got torch.float16"),
    ("lr vector", lambda a: {"lr": torch.ones(1)}, ValueError, r"lr of shape \(\), got \(1,\)"),
    ("lr meta", lambda a: {"lr": torch.ones((), device="meta")}, ValueError, "lr on cpu, where weight is, got meta"),
    ("lr tensor negative", lambda a: {"lr": torch.tensor(-0.5)}, ValueError, "needs lr of 0 or more, got -0.5"),
    ("lr tensor nan", lambda a: {"lr": torch.tensor(math.nan)}, ValueError, "needs lr of 0 or more, got nan"),
    ("id -1", lambda a: {"ids": put(a, 5, -1)}, IndexError, "given id -1 at position 5, but weight has 50 rows"),
    ("id V", lambda a: {"ids": put(a, 79, 50)}, IndexError, "given id 50 at position 79, but weight has 50 rows"),
    ("id 2^31", lambda a: {"ids": put(a, 0, BIG)}, IndexError, f"given id {BIG} at position 0"),
    ("id 2^63 - 1", lambda a: {"ids": put(a, 1, LAST)}, IndexError, f"given id {LAST} at position 1"),
    ("id -2^63", lambda a: {"ids": put(a, 2, -LAST - 1)}, IndexError, f"given id -{LAST + 1} at position 2"),
    ("two bad ids", lambda a: {"ids": put(a, 9, 60, 70)}, IndexError, "given id 60 at position 9"),
    (
        "grads a view",
        lambda a: {"row_grads": a["weight"][:1].expand(80, 6)},
        ValueError,
        "weight and row_grads in memory",
    ),
]
STATES = [
    ("not a tensor", lambda s: 0.1, TypeError, "as a tensor, got float"),
    ("double", torch.Tensor.double, TypeError, "in torch.float32 beside a weight in torch.float32, got torch.float64"),
    ("half", torch.Tensor.half, TypeError, "in torch.float32 beside a weight in torch.float32, got torch.float16"),
    ("int", torch.Tensor.long, TypeError, "in torch.float32 beside a weight in torch.float32, got torch.int64"),
    ("short", lambda s: s[:7], ValueError, r"of shape \(50.*\), got \(7"),
    ("turned", lambda s: s[None], ValueError, r"of shape \(50.*\), got \(1, 50"),
    ("meta", lambda s: s.to("meta"), ValueError, "on cpu, where weight is, got meta"),
    ("nested", nested, TypeError, "as a dense tensor, got a nested one"),
    ("gaps", lambda s: s.repeat_interleave(2, 0)[::2], ValueError, "contiguous, got strides"),
]
NUMBERS = {
    "adagrad": [("eps", -1e-8, "eps of 0 or more, got -1e-08"), ("eps", math.nan, "eps of 0 or more, got nan")],
    "rowwise": [("eps", -1e-8, "eps of 0 or more, got -1e-08"), ("eps", math.nan, "eps of 0 or more, got nan")],
    "adam": [
        ("eps", -1.0, "eps of 0 or more, got -1.0"),
        ("beta1", 1.0, r"beta1 in \[0, 1\), got 1.0"),
        ("beta1", -0.1, r"beta1 in \[0, 1\), got -0.1"),
        ("beta2", 1.5, r"beta2 in \[0, 1\), got 1.5"),
        ("beta2", math.nan, r"beta2 in \[0, 1\), got nan"),
    ],
    "sgd": [],
}
STATE_NAMES = {"sgd": [], "adagrad": ["accumulator"], "rowwise": ["accumulator"], "adam": ["exp_avg", "exp_avg_sq"]}


def put(args, position, *values):
    ids = args["ids"].clone()
    for i, value in enumerate(values):
        ids[position + i] = value
    return ids


def wrong_rows():
    for name in OPS:
        for case, change, error, text in COMMON:
            yield pytest.param(name, change, error, text, id=f"{name}: {case}")
        for state in STATE_NAMES[name]:
            for case, change, error, text in STATES:
                yield pytest.param(
                    name,
                    lambda a, state=state, change=change: {state: change(a[state])},
                    error,
                    f"needs {state} {text}",
                    id=f"{name}: {state} {case}",
                )
            text = f"weight and {state} in memory of their own, but they overlap"
            yield pytest.param(name, shared(state), ValueError, text, id=f"{name}: {state} shared")
        for key, value, text in NUMBERS[name]:
            yield pytest.param(name, lambda a, k=key, v=value: {k: v}, ValueError, text, id=f"{name}: {key} {value}")
    steps = [
        ("int", torch.tensor(4), TypeError, "step in torch.float32 .*, got torch.int64"),
        ("vector", torch.zeros(1), ValueError, r"step of shape \(\), got \(1,\)"),
        ("number", 4, TypeError, "step as a tensor, got int"),
    ]
    for case, step, error, text in steps:
        yield pytest.param("adam", lambda a, step=step: {"step": step}, error, text, id=f"adam: step {case}")
    twins = "exp_avg and exp_avg_sq in memory of their own"
    yield pytest.param("adam", lambda a: {"exp_avg_sq": a["exp_avg"]}, ValueError, twins, id="adam: one average twice")
    for name in OPS:
        empty = arguments(name, (0, 6), 0)
        bad = empty | {"ids": torch.zeros(1, dtype=torch.int64), "row_grads": torch.zeros(1, 6)}
        text = "was given 1 ids, but weight has no rows"
        yield pytest.param(name, lambda a, bad=bad: bad, ValueError, text, id=f"{name}: no rows")


WRONG = list(wrong_rows())


@op_and_reference
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype", "ignore:.*quantized tensor")
@pytest.mark.parametrize(("name", "change", "error", "text"), WRONG)
def test_wrong_input_is_refused_and_changes_nothing(run, name, change, error, text):
    args = arguments(name)
    args |= change(args)
    before = copied({key: value for key, value in args.items() if not _has_no_numbers(value)})
    with pytest.raises(error, match=f"{NAMES[name]} .*{text}"):
        run(name, args)
    for key in {"weight", "accumulator", "exp_avg", "exp_avg_sq", "step"} & before.keys():
        if isinstance(before[key], torch.Tensor):
            assert torch.equal(args[key].to_dense(), before[key].to_dense()), key


def _has_no_numbers(value):
    return isinstance(value, torch.Tensor) and (value.is_meta or value.is_nested)


def test_there_are_enough_wrong_inputs():
    assert all(sum(row.values[0] == name for row in WRONG) >= 50 for name in OPS)


@every_op
@pytest.mark.parametrize("key", ["weight", "row_grads"])
def test_a_required_gradient_is_refused_outside_no_grad(name, key):
    args = arguments(name)
    args[key].requires_grad_()
    with pytest.raises(RuntimeError, match=r"changes weight in place and has no gradient; call it under torch.no_grad"):
        OPS[name](**args)


@compiled
@every_op
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: {"weight": a["weight"][None]}, r"weight of shape \(V, D\) or \(V,\)"),
        (lambda a: {"weight": a["weight"].t().contiguous().t()}, "weight contiguous"),
        (lambda a: {"ids": a["ids"].int()}, r"ids as \(M,\) int64"),
        (lambda a: {"ids": a["ids"][None]}, r"ids as \(M,\) int64"),
        (lambda a: {"row_grads": a["row_grads"][:3]}, "row_grads with one row for each id"),
        (lambda a: {"row_grads": a["row_grads"].double()}, "row_grads with one row for each id"),
        (lambda a: {"lr": torch.ones(2)}, "lr as one float32 or float64"),
    ],
)
def test_the_kernel_itself_refuses_what_it_could_not_address(name, change, text):
    args = arguments(name) | {"lr": torch.tensor(LR)}
    args |= change(args)
    overload = _library.OPS[NAMES[name]].overload
    with pytest.raises(RuntimeError, match=text):
        overload(*(args[argument.name] for argument in overload._schema.arguments))


@compiled
@pytest.mark.parametrize("name", [name for name in OPS if name != "sgd"])
@pytest.mark.parametrize("change", [lambda s: s[:7], torch.Tensor.half, torch.Tensor.double, lambda s: s.sum()])
def test_the_kernel_itself_refuses_a_state_that_does_not_fit(name, change):
    args = arguments(name) | {"lr": torch.tensor(LR)}
    overload = _library.OPS[NAMES[name]].overload
    for key in STATE_NAMES[name]:
        wrong = args | {key: change(args[key])}
        with pytest.raises(RuntimeError, match=f"{NAMES[name]} needs (accumulator|exp_avg)"):
            overload(*(wrong[argument.name] for argument in overload._schema.arguments))
