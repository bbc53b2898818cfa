"""The single checks of :func:`torchlayer.testing.check_op`. Each takes a case, and raises if the op fails it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._waits import reporting_waits


class Skip(Exception):
    """Why a check does not apply."""


class Case(NamedTuple):
    """An op, one sample for it on one device, and the settings of ``check_op``."""

    op: Any
    sample: tuple
    reference: Callable[..., Any] | None
    gradients: bool
    may_refuse: bool = False
    slack: float = 0.0
    n_repeats: int = 0

    @property
    def written(self) -> list[int]:
        """Positions of the arguments that the schema lets the op write to."""
        arguments = self.op._schema.arguments
        return [i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]

    def call(self, sample: tuple | None = None, run: Callable[..., Any] | None = None) -> list[Tensor]:
        """All that a call brings forth: the outputs, then the arguments written to. The sample itself is spared."""
        arguments = each(torch.clone, self.sample) if sample is None else sample
        result = (run or self.op)(*arguments)
        return [*_tensors(result), *_tensors([arguments[i] for i in self.written if i < len(arguments)])]


def _opcheck(case: Case) -> None:
    differentiable = case.gradients and not case.written and any(t.is_floating_point() for t in _tensors(case.sample))
    tests = ("test_schema", "test_faketensor")
    if differentiable:
        tests += ("test_autograd_registration", "test_aot_dispatch_dynamic")
    sample = each(lambda t: t.clone().requires_grad_(differentiable and t.is_floating_point()), case.sample)
    torch.library.opcheck(case.op, sample, test_utils=tests)
    _foresees_strides(case, each(torch.clone, case.sample))


def _foresees_strides(case: Case, sample: tuple) -> None:
    """The fake kernel tells the strides, too. In torch 2.11 ``opcheck`` compares them on CUDA only."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv  # imports SymPy, which takes its time

    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True) as mode:
        foreseen = case.call(each(mode.from_tensor, sample))
    for i, (real, fake) in enumerate(zip(case.call(sample), foreseen)):
        differ = any(
            real.stride(k) != fake.stride(k)
            for k in range(real.dim() if real.numel() else 0)
            if real.shape[k] > 1 and isinstance(fake.stride(k), int)  # not a size that only the data tell
        )
        text = f"output {i} has strides {real.stride()}, where the fake kernel foresees {tuple(fake.stride())}"
        _expect(not differ, text)


def _gradient(case: Case) -> None:
    if case.written or not case.gradients:
        raise Skip("the op writes to its arguments" if case.written else "gradients=False")
    doubles = each(_double, case.sample)
    leaves = [t.requires_grad_() for t in _tensors(doubles) if t.is_floating_point()]
    if not leaves:
        raise Skip("no argument is a floating-point tensor")
    try:
        case.call(doubles)
    except Exception as error:
        raise Skip(f"the op does not take float64: {error}") from None

    def of_leaves(*inputs: Tensor) -> tuple[Tensor, ...]:
        rest = iter(inputs)
        return tuple(case.call(each(lambda t: next(rest) if t.is_floating_point() else t, doubles)))

    torch.autograd.gradcheck(of_leaves, leaves, fast_mode=sum(t.numel() for t in leaves) > 64)


def _against_reference(case: Case) -> None:
    if case.reference is None:
        raise Skip("no reference was given")
    ours, plain = case.call(), case.call(run=case.reference)
    exact = case.call(each(_double, case.sample), case.reference)
    _expect(len(ours) == len(plain), f"{len(ours)} tensors, where the reference has {len(plain)}")
    for i, (y, p, e) in enumerate(zip(ours, plain, exact)):
        _expect(y.shape == p.shape, f"output {i} has shape {tuple(y.shape)}, the reference's {tuple(p.shape)}")
        _expect(y.dtype == p.dtype, f"output {i} is {y.dtype}, the reference's {p.dtype}")
        if not y.is_floating_point():
            _expect(_same_bits(y, p), f"output {i} differs from the reference's")
            continue
        finite = e.isfinite()
        _same(y[~finite].double(), e[~finite])
        if finite.any():
            error, allowed = ((t.double() - e)[finite].abs().max().item() for t in (y, p))
            allowed += case.slack * torch.finfo(y.dtype).eps * e[finite].abs().max().item()
            _expect(error <= allowed, f"output {i} is off by {error:.3g} in {y.dtype}, where {allowed:.3g} is allowed")


def _layouts(case: Case) -> None:
    expected = case.call()
    for layout, remake in _LAYOUTS.items():
        for i, argument in enumerate(case.sample):
            if not _tensors(argument):
                continue

            def changed(i: int = i, remake: Callable[[Tensor], Tensor] = remake) -> tuple:
                return tuple(each(remake if k == i else torch.clone, a) for k, a in enumerate(case.sample))

            try:
                result = case.call(changed())
            except Exception as error:
                if case.may_refuse:
                    continue
                raise AssertionError(f"argument {i} with {layout} raises {type(error).__name__}: {error}") from None
            try:
                _same(result, expected)
                torch.library.opcheck(case.op, changed(), test_utils=("test_faketensor",))
                _foresees_strides(case, changed())
            except Exception as error:
                raise AssertionError(f"argument {i} with {layout}: {error}") from None


def _inputs(case: Case) -> None:
    arguments = each(torch.clone, case.sample)
    case.call(arguments)
    for i, (after, before) in enumerate(zip(arguments, case.sample)):
        for a, b in zip(_tensors(after), _tensors(before)):
            message = f"argument {i} was written to, and the schema does not say so"
            _expect(i in case.written or _same_bits(a, b), message)


def _determinism(case: Case) -> None:
    first = case.call()
    for n in range(1, case.n_repeats):
        _expect(all(map(_same_bits, case.call(), first)), f"call {n + 1} gave other bits than the first")


def _poison(case: Case) -> None:
    expected = case.call()
    with poisoned_memory():
        result = case.call()
    _same(result, expected)


def expect_refusal(op: Any, arguments: tuple, kind: Any, text: str) -> None:
    """Raise unless the op raises ``kind`` with ``text``."""
    name = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
    try:
        op(*each(torch.clone, arguments))
    except Exception as error:
        _expect(isinstance(error, kind), f"raised {type(error).__name__}, not {name}: {error}")
        _expect(text in str(error), f"the message lacks {text!r}: {error}")
    else:
        raise AssertionError(f"raised nothing, where {name} with {text!r} was expected")


def _device(case: Case) -> None:
    _same([t.cpu() for t in case.call()], case.call(each(Tensor.cpu, case.sample)))


def _stream(case: Case) -> None:
    expected, late = case.call(), each(torch.zeros_like, case.sample)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # the data are not there yet for a kernel on another stream
        _fill(late, case.sample)
        result = case.call(late)
    stream.synchronize()
    _same(result, expected)


def _graph(case: Case) -> None:
    expected, arguments = case.call(), each(torch.zeros_like, case.sample)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = case.call(arguments)
    _fill(arguments, case.sample)
    graph.replay()
    _same(result, expected)


def _sync(case: Case) -> None:
    arguments = each(torch.clone, case.sample)
    with reporting_waits("error"):
        case.call(arguments)


Check = tuple[str, Callable[[Case], None], str]  # its name, itself, and what to do where it fails

CHECKS: list[Check] = [
    ("opcheck", _opcheck, "make schema, fake kernel and registered gradient tell what the op does"),
    ("gradient", _gradient, "correct the backward, or pass gradients=False if the op has none"),
    ("reference", _against_reference, "correct the kernel; add up sixteen bits in float32"),
    ("layouts", _layouts, "copy inputs with contiguous(), or obey their strides, and in the fake kernel too"),
    ("inputs", _inputs, "write to new memory, or declare the argument as Tensor(a!)"),
    ("determinism", _determinism, "fix the order of sums (no atomics), and take the seed as a tensor"),
    ("poison", _poison, "write every element of what was allocated before reading it"),
]
CUDA_CHECKS: list[Check] = [
    ("device", _device, "compare the two kernels"),
    ("stream", _stream, "launch on the current stream, as launch.cuh does"),
    ("graph", _graph, "allocate through torch only, and read sizes from shapes only"),
    ("sync", _sync, "no .item(), no copy to the host, no shape that depends on data"),
]


def _beside_garbage(t: Tensor) -> Tensor:
    garbage = torch.full_like(t, float("nan")) if t.is_floating_point() else t.flip(*range(t.dim())) if t.dim() else t
    return torch.stack((t, garbage), -1)[..., 0]


def _shifted(t: Tensor) -> Tensor:
    return torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)


_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gaps between its elements": _beside_garbage,
    "its axes in another order": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() > 1 else t.clone(),
    "an address off by one element": _shifted,
}


def each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The arguments with a function applied to every tensor in them."""
    if isinstance(value, list | tuple):
        return type(value)([each(function, v) for v in value])
    return function(value) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for v in value for tensor in _tensors(v)]
    return [value] if isinstance(value, Tensor) else []


def _double(t: Tensor) -> Tensor:
    return t.to(torch.float64 if t.is_floating_point() else t.dtype, copy=True)


def _fill(targets: tuple, sources: tuple) -> None:
    for target, source in zip(_tensors(targets), _tensors(sources)):
        target.copy_(source)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _same(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got, wanted, equal_nan=True)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(*(t.flatten().contiguous().view(torch.uint8) for t in (a, b)))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN, or the largest integer; the settings that this takes are put back."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)  # without it nothing is filled
    memory.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about ops that are not deterministic, which is not the question here
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
