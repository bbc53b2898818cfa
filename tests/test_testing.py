"""check_op passes what is right, finds each planted bug by the check made for it, and leaves the process as it was."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from torchlayer.testing import check_op

ADAM = importlib.import_module("torchlayer.kernels.adam")  # the package's `discounted_sum` is the function
DISCOUNTED_SUM = importlib.import_module("torchlayer.kernels.discounted_sum")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
LAST = "cuda" if torch.cuda.is_available() else "cpu"  # the device that the reason for a skip is from
COUNT = itertools.count()
KEEP = []  # the ops' registrations live as long as their Library


def square(x):
    return x * x


def make(run=square, fake=torch.empty_like, backward=None, schema="(Tensor x) -> Tensor", name=None):
    """An op that squares its argument, but for what is given."""
    library = torch.library.Library("test_testing", "FRAGMENT")
    name = name or f"op{next(COUNT)}"
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"test_testing::{name}", fake, lib=library)
    if "!" not in schema:

        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        backward = backward or (lambda ctx, grad: 2 * ctx.saved_tensors[0] * grad)
        torch.library.register_autograd(f"test_testing::{name}", backward, setup_context=setup_context, lib=library)
    KEEP.append(library)
    return getattr(torch.ops.test_testing, name).default


def contiguous_like(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


SAMPLES = [(torch.linspace(-1, 2, 12).view(3, 4),), (torch.linspace(1, 2, 5),)]


# --- what is right passes ---


@pytest.mark.parametrize("spell", [lambda op: op, lambda op: op.overloadpacket, lambda op: op.name()])
def test_a_right_op_passes_however_it_is_named(spell):
    checked = check_op(spell(make()), SAMPLES, reference=square, devices=["cpu"])
    assert checked.ran == (
        "runs", "opcheck", "gradient", "reference", "layouts", "inputs", "determinism", "poison",
    )  # fmt: skip
    assert set(checked.skipped) == {"errors", "device", "stream", "graph", "sync"}
    assert checked.skipped["sync"] == "devices=['cpu']"


def test_an_op_of_torch_library_custom_op_passes():
    @torch.library.custom_op("test_testing::custom", mutates_args=())
    def custom(x: torch.Tensor) -> torch.Tensor:
        return x.neg()

    custom.register_fake(torch.empty_like)
    assert "layouts" in check_op(custom, SAMPLES, torch.neg, gradients=False).ran


def test_an_op_that_works_in_place_passes():
    def add_(x, y):
        x.add_(y)

    op = make(add_, lambda x, y: None, schema="(Tensor(a!) x, Tensor y) -> ()")
    checked = check_op(op, [(torch.ones(2, 3), torch.rand(2, 3))], add_)
    assert checked.skipped["gradient"].endswith("the op writes to its arguments")


def test_a_right_op_in_half_precision_is_allowed_its_rounding():
    x = torch.linspace(-3, 3, 1000, dtype=torch.float16)
    check_op(make(lambda x: (x.float() ** 2).to(x.dtype)), [(x,)], square)


def test_discounted_sum():
    rewards = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, 2.0]])
    samples = [(rewards, 0.9, False), (rewards, 0.9, True), (rewards.bfloat16(), 0.9, False), (rewards[0], 1.0, True)]
    errors = [
        ((torch.tensor(1.0), 0.9, True), (RuntimeError, ValueError), "got a scalar"),
        ((torch.ones(2), 1.5, True), (RuntimeError, ValueError), "needs gamma between 0 and 1, got 1.5"),
        ((torch.ones(2).int(), 0.9, True), (RuntimeError, TypeError), "discounted_sum needs float"),
    ]
    checked = check_op("torchlayer::discounted_sum", samples, DISCOUNTED_SUM._reference, errors)
    assert {"gradient", "reference", "errors"} <= set(checked.ran)
    check_op(
        "torchlayer::discounted_sum_backward",
        [(rewards.flip(0), rewards, 0.9, reset) for reset in (True, False)],
        DISCOUNTED_SUM._reference_backward,
        gradients=False,
    )


def test_adam():
    params, grads = [torch.rand(3, 4), torch.rand(5)], [torch.rand(3, 4), torch.rand(5)]
    m, v = ([torch.rand_like(p) for p in params] for _ in range(2))
    steps = [torch.tensor(3.0), torch.tensor(4.0)]
    settings = (torch.tensor(0.1), 0.9, 0.999, 1e-8, 0.01)
    samples = [(params, grads, m, v, steps, *settings, decoupled) for decoupled in (False, True)]
    errors = [((params, grads[:1], *samples[0][2:]), RuntimeError, "five lists of one length")]
    check_op("torchlayer::adam_", samples, ADAM._reference, errors, may_refuse_layouts=True)


# --- each planted bug is found ---


def without_last(x):
    out = torch.empty_like(x)
    out[..., :-1] = x[..., :-1] ** 2
    return out


def ignoring_strides(x):
    strides = torch.empty(x.shape, device="meta").stride()
    return x.as_strided(x.shape, strides, x.storage_offset()) ** 2


def ignoring_alignment(x):
    return x.as_strided(x.shape, x.stride(), x.storage_offset() // 4 * 4) ** 2


def refusing_gaps(x):
    if not x.is_contiguous():
        raise RuntimeError("only contiguous tensors")
    return x * x


def writing(x):
    y = x * x
    x.zero_()
    return y


CALLS = itertools.count()
BUGS = [
    ("a fake kernel of another shape", {"fake": lambda x: x.new_empty(x.shape[:1])}, "opcheck"),
    ("a fake kernel of another dtype", {"fake": lambda x: torch.empty_like(x, dtype=torch.float64)}, "opcheck"),
    ("a fake kernel of other strides", {"fake": lambda x: x.new_empty(x.shape[::-1]).t()}, "opcheck"),
    ("a fake kernel that ignores strides", {"fake": contiguous_like}, "layouts"),
    ("a wrong gradient", {"backward": lambda ctx, grad: ctx.saved_tensors[0] * grad}, "gradient"),
    ("a gradient that forgets grad", {"backward": lambda ctx, grad: 2 * ctx.saved_tensors[0]}, "gradient"),
    ("a backward that raises", {"backward": lambda ctx, grad: 1 / 0}, "gradient"),
    ("a wrong value", {"run": lambda x: x.abs() * x}, "reference"),
    ("NaN for a value", {"run": lambda x: (x * x).log().exp().sub(float("inf")).mul(0)}, "reference"),
    ("another shape", {"run": lambda x: (x * x).flatten()[:1]}, "reference"),
    ("another dtype", {"run": lambda x: (x * x).double(), "fake": torch.empty_like}, "reference"),
    ("needless rounding", {"run": lambda x: (x.half() * x.half()).to(x.dtype)}, "reference"),
    ("strides ignored", {"run": ignoring_strides}, "layouts"),
    ("an address taken for aligned", {"run": ignoring_alignment}, "layouts"),
    ("gaps refused", {"run": refusing_gaps}, "layouts"),
    ("a write to the input", {"run": writing}, "inputs"),
    ("random numbers", {"run": lambda x: x * x + 1e-7 * torch.rand_like(x)}, "determinism"),
    ("a state", {"run": lambda x: x * x + 1e-6 * (next(CALLS) % 2)}, "determinism"),
    ("memory that was never written", {"run": without_last}, "poison"),
    ("no sample taken", {"run": lambda x: x.no_such_method()}, "runs"),
]


@pytest.mark.parametrize(("change", "check"), [bug[1:] for bug in BUGS], ids=[bug[0] for bug in BUGS])
def test_bug_is_found_by_its_check(change, check):
    with pytest.raises(AssertionError) as caught:
        check_op(make(**change), SAMPLES[:1], reference=square)
    text = str(caught.value)
    assert f"sample 0 on cpu, {check}: " in text
    assert "\n    -> " in text  # what to do


ERRORS = [
    (RuntimeError, "only contiguous", None),
    (RuntimeError, "no such text", "the message lacks 'no such text': only contiguous tensors"),
    (ValueError, "only contiguous", "raised RuntimeError, not ValueError: only contiguous tensors"),
]


@pytest.mark.parametrize(("kind", "text", "failure"), ERRORS)
def test_error_table_looks_at_type_and_text(kind, text, failure):
    rows = [((torch.ones(2, 3).t(),), kind, text)]
    op = make(refusing_gaps)
    if failure is None:
        assert "errors" in check_op(op, SAMPLES, errors=rows, may_refuse_layouts=True).ran
        return
    with pytest.raises(AssertionError, match=f"row 0, errors: {failure}"):
        check_op(op, SAMPLES, errors=rows, may_refuse_layouts=True)


def test_error_that_never_comes_is_a_failure():
    with pytest.raises(AssertionError, match="row 0, errors: raised nothing, where ValueError with 'bad' was expected"):
        check_op(make(), SAMPLES, errors=[((torch.ones(2),), ValueError, "bad")])


def test_leave_to_refuse_is_no_leave_to_be_wrong():
    with pytest.raises(AssertionError, match="layouts: argument 0 with gaps between its elements"):
        check_op(make(ignoring_strides), SAMPLES, may_refuse_layouts=True)


def test_gradient_that_was_never_registered_is_found():
    @torch.library.custom_op("test_testing::bare", mutates_args=())
    def bare(x: torch.Tensor) -> torch.Tensor:
        return x.neg()

    bare.register_fake(torch.empty_like)
    with pytest.raises(AssertionError) as caught:
        check_op(bare, SAMPLES)
    assert "gradient: " in str(caught.value)
    assert "pass gradients=False if the op has none" in str(caught.value)
    assert check_op(bare, SAMPLES, gradients=False).skipped["gradient"] == f"sample 1 on {LAST}: gradients=False"


def test_gradient_that_bypasses_the_dispatcher_is_found():
    library = torch.library.Library("test_testing", "FRAGMENT")
    library.define("composite(Tensor x) -> Tensor")
    library.impl("composite", square, "CompositeExplicitAutograd")
    torch.library.register_fake("test_testing::composite", torch.empty_like, lib=library)
    with pytest.raises(AssertionError, match=r"opcheck: .*test_autograd_registration failed"):
        check_op("test_testing::composite", SAMPLES)


def test_all_failures_of_all_samples_are_listed():
    with pytest.raises(AssertionError) as caught:
        check_op(make(lambda x: x * x * x), SAMPLES, reference=square, devices=["cpu"])
    lines = [line for line in str(caught.value).splitlines() if line.startswith("* ")]
    assert str(caught.value).startswith("test_testing::op")
    assert {line.partition(":")[0] for line in lines} == {
        f"* sample {i} on cpu, {check}" for i in (0, 1) for check in ("gradient", "reference")
    }


# --- what is skipped says why ---


def test_reasons_for_leaving_out():
    checked = check_op(make(lambda x: x + 1), [(torch.arange(4),)])
    assert checked.skipped["gradient"] == f"sample 0 on {LAST}: no argument is a floating-point tensor"
    assert checked.skipped["reference"] == f"sample 0 on {LAST}: no reference was given"
    if not torch.cuda.is_available():
        assert checked.skipped["graph"] == "there is no CUDA GPU"


def test_an_op_without_double_precision_says_so():
    def single(x):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return x * x

    skipped = check_op(make(single), SAMPLES).skipped
    assert skipped["gradient"] == f"sample 1 on {LAST}: the op does not take float64: float32 only"


def test_the_process_is_left_as_it_was():
    def state():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.get_default_dtype(),
        )

    before = state()
    check_op(make(), SAMPLES)
    assert state() == before
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        with pytest.raises(AssertionError):
            check_op(make(without_last), SAMPLES)
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def test_samples_are_left_as_they_were():
    x = torch.rand(3, requires_grad=True)
    copy = x.detach().clone()
    with pytest.raises(AssertionError):
        check_op(make(writing), [(x,)])
    assert torch.equal(x, copy)
    assert x.grad is None


WRONG = [
    (("nowhere::op", SAMPLES), "there is no op 'nowhere::op'; import the module that defines it"),
    (("torchlayer::no_op", SAMPLES), "there is no op 'torchlayer::no_op'"),
    ((square, SAMPLES), "needs an op or 'namespace::name', got function; define it first"),
    (("torchlayer::adam_", []), "samples must be a list of tuples of arguments, got \\[\\]"),
    (("torchlayer::adam_", SAMPLES[0]), "samples must be a list of tuples"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_wrong_use_says_what_to_do(arguments, text):
    with pytest.raises(ValueError, match=text):
        check_op(*arguments)


# --- what only a GPU can show ---


def on_default_stream(x):
    if x.is_cuda:
        with torch.cuda.stream(torch.cuda.default_stream()):
            return x * x
    return x * x


CUDA_BUGS = [
    ("another number on the GPU", lambda x: x * x + x.is_cuda, "device"),
    ("another stream", on_default_stream, "stream"),
    ("a look at the data", lambda x: x * x if x.sum().item() > -1e9 else x, "sync"),
    ("a look at the data in a graph", lambda x: x * x if x.sum().item() > -1e9 else x, "graph"),
]


@needs_cuda
@pytest.mark.parametrize(("run", "check"), [bug[1:] for bug in CUDA_BUGS], ids=[bug[0] for bug in CUDA_BUGS])
def test_bug_on_the_gpu_is_found_by_its_check(run, check):
    with pytest.raises(AssertionError, match=f"sample 0 on cuda, {check}: "):
        check_op(make(run), SAMPLES)


@needs_cuda
def test_a_right_op_passes_on_the_gpu():
    assert {"device", "stream", "graph", "sync"} <= set(check_op(make(), SAMPLES, square).ran)
