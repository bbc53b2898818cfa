"""What every op owes to the dispatcher, a compiler and functorch, on a dozen kinds of arguments each."""

from __future__ import annotations

import pytest
import torch
from sampled_loss_cases import FUNCTIONS, differentiable, gradients, inputs, run
from sampler_cases import summed
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import torchlayer as tl
from torchlayer.kernels import _library

OPS = _library.OPS
QUICK = ("test_schema", "test_faketensor")
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SIZES = [(3, 1, 4, 9, 5), (2, 3, 5, 6, 2), (1, 1, 1, 1, 1), (0, 2, 3, 7, 4)]  # (N, T, K, V, D)


def floats(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ids(*shape, below):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(1))


def of_losses(name):
    """Every size in every dtype, with and without what is optional."""
    forward = OPS[name.removesuffix("_backward")].reference
    for size in SIZES:
        for i, dtype in enumerate(DTYPES):
            given = inputs(*size, bias=i > 0, dtype=dtype)
            given = given._replace(true_expected_count=None, sampled_expected_count=None) if i == 2 else given
            options = (i < 2, False) if name.startswith("class_parallel") else (i < 2, False, 16 * i)
            if not name.endswith("_backward"):
                yield *given, *options
                continue
            outputs = forward(*given, *options)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            n_grads = 2 if name == "class_parallel_softmax_backward" else 1
            saved = outputs[:1] if n_grads == 2 else outputs[1:]
            yield *(torch.ones_like(outputs[0]) for _ in range(n_grads)), *given, *saved, i < 2


def of_row_optimizers(name):
    arguments = [argument.name for argument in OPS[name].overload._schema.arguments]
    for shape in ((7, 3), (5,), (1, 1), (9, 130)):
        for i, dtype in enumerate(DTYPES):
            weight, n = floats(*shape, dtype=dtype), (6, 0, 1)[i]
            real = torch.float64 if dtype == torch.float64 else torch.float32
            whole = {key: floats(*shape, dtype=real).abs() for key in ("accumulator", "exp_avg", "exp_avg_sq")}
            if name == "row_rowwise_adagrad_":
                whole["accumulator"] = floats(shape[0], dtype=real).abs()
            numbers = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "lr": torch.tensor(0.1), "step": torch.tensor(3.0)}
            rows = {"ids": ids(n, below=shape[0]), "row_grads": floats(n, *shape[1:], dtype=dtype, seed=2)}
            given = {"weight": weight, **whole, **numbers, **rows}
            yield tuple(given[argument] for argument in arguments)


def of_samplers(name):
    tables = {
        "alias_sample": (torch.full((9,), 1 / 9).double(), torch.ones(9).double(), torch.arange(9)),
        "learned_sample_": summed(torch.arange(1, 10), learns=True),
    }
    for shape in ((4,), (2, 3), (), (0,)):
        for n_sampled, unique in ((1, True), (9, True), (12, False)):
            sizes = (n_sampled,) if name in tables else (n_sampled, 9)
            yield ids(*shape, below=9), torch.tensor([1, 2]), *tables.get(name, ()), *sizes, unique, 10**6


def of_discounted_sum(name):
    layouts = [lambda x: x, lambda x: x.t().contiguous().t(), lambda x: x[:0], lambda x: x[0]]
    for change in layouts:
        for i, dtype in enumerate(DTYPES):
            x = change(floats(3, 5, dtype=dtype))
            yield (x, x, 0.9, i > 0) if name.endswith("backward") else (x, 0.9, i > 0)


def of_adam(_):
    for shapes in ([(3,)], [(2, 3), ()], [(0, 4), (5,)], []):
        for i, dtype in enumerate((torch.float32, torch.float64, torch.float32)):
            params, grads, averages = ([floats(*s, dtype=dtype, seed=k) for s in shapes] for k in range(3))
            squares, steps = [x.square() for x in averages], [torch.tensor(2.0) for _ in shapes]
            yield params, grads, averages, squares, steps, torch.tensor(0.1), 0.9, 0.99, 1e-8, 0.1 * i, i == 2


def of_skip_gram(_):
    for n, n_negatives in ((5, 2), (1, 1), (0, 3), (8, 0)):
        for window, dtype in ((1, torch.float32), (2, torch.float64), (9, torch.float32)):
            tables = floats(6, 4, dtype=dtype), floats(6, 4, dtype=dtype, seed=1)
            text = ids(n, below=6), ids(n, below=window + 1), ids(n, n_negatives, below=6)
            yield *tables, *text, torch.tensor(0.1, dtype=torch.float64), window, 3, 2


def of_lstm(_):
    for n, d, h in [(2, 5, 3), (1, 1, 1), (0, 4, 2), (9, 3, 8)]:
        for i, dtype in enumerate(DTYPES):
            shapes = [(n, d), (n, h), (n, h), (4 * h, d), (4 * h, h), *[(4 * h,)] * i]
            yield *(floats(*s, dtype=dtype, seed=k) for k, s in enumerate(shapes)), *[None] * (2 - i)


def of_draws(_):
    for n, v, k in [(3, 7, 2), (1, 1, 1), (0, 4, 4), (5, 40, 40)]:
        for i, dtype in enumerate(DTYPES):
            real = torch.float64 if dtype == torch.float64 else torch.float32
            yield floats(n, v, dtype=dtype), floats(n, k, dtype=real, seed=1).abs() + 0.1, 0.5 + i


def samples(name):
    if name.startswith(("nce", "sampled_softmax", "class_parallel")):
        return of_losses(name)
    if name.rstrip("_").endswith("_sample"):
        return of_samplers(name)
    kinds = {"row": of_row_optimizers, "discounted": of_discounted_sum, "adam": of_adam, "skip": of_skip_gram}
    kinds |= {"lstm": of_lstm, "draw": of_draws}
    return kinds[name.split("_")[0]](name)


@pytest.mark.parametrize("name", OPS)
def test_opcheck_on_a_dozen_samples(name):
    given = list(samples(name))
    assert len(given) >= 12
    traced_elsewhere = name.startswith(("adam", "row", "discounted", "nce_loss", "sampled", "class_parallel"))
    for i, arguments in enumerate(given):
        checks = QUICK if traced_elsewhere or i else (*QUICK, "test_autograd_registration", "test_aot_dispatch_dynamic")
        torch.library.opcheck(OPS[name].overload, arguments, test_utils=checks)


# Compiled for batches of any size


@pytest.mark.parametrize("loss", FUNCTIONS)
def test_a_loss_is_compiled_once_for_all_batch_sizes(loss):
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(
        lambda *given: FUNCTIONS[loss](*given[:4], given[4:]), fullgraph=True, dynamic=True, backend=counter
    )
    for n in (4, 5, 6, 7):
        given, plain = (differentiable(inputs(n, 2, 5, 30, 3, dtype=torch.float32)) for _ in range(2))
        losses, expected = fast(*given), run(loss, plain)
        torch.testing.assert_close(losses, expected)
        for a, b in zip(gradients(losses, given, torch.ones(n)), gradients(expected, plain, torch.ones(n))):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


@pytest.mark.parametrize("loss", [tl.nn.SampledSoftmaxLoss, tl.nn.NCELoss])
def test_a_loss_in_training_is_exported_with_the_batch_size_free(loss):
    module, n = loss(3, 30, 5), torch.export.Dim("n", min=2)
    program = torch.export.export(module, (floats(4, 3), ids(4, below=30)), dynamic_shapes=({0: n}, {0: n}))
    assert program.module()(floats(7, 3), ids(7, below=30)).isfinite()


# Transforms: what an op has no rule for it refuses, or torch calls it for each element


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_vmap_calls_a_loss_for_each_batch(loss):
    given = inputs(4, 1, 5, 30, 3)
    hidden = torch.stack([given.hidden, given.hidden * 2])
    mapped = torch.vmap(lambda h: run(loss, given._replace(hidden=h)))(hidden)
    torch.testing.assert_close(mapped, torch.stack([run(loss, given._replace(hidden=h)) for h in hidden]))


FORWARD_MODE = {
    **{loss: lambda h, loss=loss: run(loss, inputs(4, 1, 5, 30, 3)._replace(hidden=h)) for loss in FUNCTIONS},
    "discounted_sum": tl.kernels.discounted_sum,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", FORWARD_MODE)
def test_a_forward_mode_gradient_is_refused_and_not_zero(name):
    x = floats(4, 3, dtype=torch.float64)
    with pytest.raises(
        RuntimeError, match=f"^{name} has no forward-mode gradient; differentiate it with torch.autograd"
    ):
        torch.func.jvp(FORWARD_MODE[name], (x,), (x,))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
            FORWARD_MODE[name](dual)
        assert FORWARD_MODE[name](x).isfinite().all()  # of no tangent


@pytest.mark.parametrize("name", FORWARD_MODE)
def test_functorchs_gradients_are_refused(name):
    with pytest.raises(RuntimeError, match="must override the setup_context staticmethod"):
        torch.func.grad(lambda x: FORWARD_MODE[name](x).sum())(floats(4, 3, dtype=torch.float64))
