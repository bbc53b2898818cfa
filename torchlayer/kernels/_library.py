"""One op, one name: ``torch.ops.torchlayer.x`` exists whether or not anything was compiled.

:func:`define` gives every op its schema and, for all devices, its plain-PyTorch reference. A compiled library adds
faster kernels for one kind of device, and the dispatcher prefers them. It is looked for when the reference of some op
is first called on such a device, never at import: beside the package, then in the cache, then by compiling.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad

from . import _build


class Backend(NamedTuple):
    """What runs the ops for one kind of device: ``"cuda"``, ``"cpu"``, ``"python"`` or ``"none"``, and why."""

    name: str
    reason: str


class Compiled(NamedTuple):
    """The backends in use: one for CPU tensors, one for CUDA tensors."""

    cpu: Backend
    cuda: Backend


class Op(NamedTuple):
    """What a self-test needs to know about an op."""

    overload: Any
    reference: Callable[..., Any]
    example: Callable[[torch.device], tuple]


_log = logging.getLogger("torchlayer")

OPS: dict[str, Op] = {}
_TWICE = "torchlayer::{} has no gradient: torchlayer's ops can be differentiated once, not twice"
_FRAGMENT = torch.library.Library("torchlayer", "FRAGMENT")


def compiled() -> Compiled:
    """Which backend runs for CPU and for CUDA tensors, and why; loads or compiles the libraries to find out.

    >>> compiled().cpu.name in ("cpu", "python")
    True

    Raises:
        RuntimeError: ``TORCHLAYER_BACKEND`` or ``TORCHLAYER_BUILD`` insists on what cannot be had.
        ValueError: one of them is misspelt.
    """
    return Compiled(load("cpu"), load("cuda"))


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    example: Callable[[torch.device], tuple],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Any:
    """Register an op and return it.

    Args:
        schema: as in ``"discounted_sum(Tensor rewards, float gamma, bool reset) -> Tensor"``.
        reference: the op in plain PyTorch, right on any device.
        fake: the outputs' shape, dtype and strides, for meta tensors and ``torch.compile``.
        example: from a device to arguments that the self-test calls the op with.
        backward: the gradient, as for ``torch.library.register_autograd``; without one, asking for it raises.
        setup_context: what the backward needs to keep.
    """
    name = schema.partition("(")[0]
    if name in OPS:  # a module that is executed again, as importlib.reload does, finds its op
        return OPS[name].overload
    overload = register(
        _FRAGMENT, schema, reference, fake, backward or refuse(_TWICE.format(name)), setup_context, _prepare
    )
    OPS[name] = Op(overload, reference, example)
    return overload


def register(
    library: torch.library.Library,
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    setup_context: Callable[..., Any] | None,
    prepare: Callable[[str], None],
) -> Any:
    """Give the dispatcher an op of any namespace and return it; :func:`define` says what the arguments are.

    ``prepare`` is called with the kind of device when the reference is about to run, to load what was compiled for it.
    """
    name = schema.partition("(")[0]
    qualified = f"{library.ns}::{name}"

    def plain(*arguments: Any) -> Any:
        device = _device_of(arguments)
        prepare(device)
        if _has_kernel(overload, device):
            check_layouts(qualified, arguments)  # or it would come back here for ever
            return overload(*arguments)  # this very call has loaded the library: dispatch it again
        return reference(*arguments)

    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    overload = getattr(getattr(torch.ops, library.ns), name).default
    library.impl(name, plain, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=library)
    if not overload._schema.is_mutable:  # an op that works in place is no function to differentiate
        library.impl(name, _autograd(overload, backward, setup_context), "Autograd", with_keyset=True)
    return overload


def _autograd(overload: Any, backward: Callable[..., Any], setup_context: Callable[..., Any] | None) -> Any:
    """What ``torch.library.register_autograd`` registers, after a look whether there is anything to differentiate: if
    not, its layers of Python would be half of what a small op costs.
    """
    differentiable = make_autograd_impl(overload, Info(backward, setup_context))

    def call(keys: Any, *arguments: Any, **keywords: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return differentiable(keys, *arguments, **keywords)
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keys & torch._C._after_autograd_keyset, *arguments, **keywords)

    return call


def below_autograd(overload: Any, *arguments: Any) -> Any:
    """Call an op that nothing is to be differentiated through, past the layers of Python that would look after that."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload(*arguments)


def function(
    overload: Any,
    setup_context: Callable[..., Any],
    backward: Callable[..., Any],
    results: Callable[[Any], Any] = lambda outputs: outputs,
) -> Callable[..., Any]:
    """Another way to call an op, for who calls it often: the gradient of :func:`define` at half the cost a call.

    ``torch.library`` finds an op's gradient in Python at each call, for tensors and transforms of all kinds. Here an
    ``autograd.Function`` knows it; a compiler and functorch's transforms still get the op. Nothing to differentiate,
    and there is no function either.

    Args:
        results: what of the op's outputs is returned, and has a gradient; the others are for the backward alone.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.set_materialize_grads(False)  # of outputs that nothing is asked of: zeros, as large as they
            output = below_autograd(overload, *inputs)
            setup_context(ctx, inputs, output)
            return results(output)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            nothing = grads[0] is None and all(grad is None for grad in grads)
            return (None,) * len(ctx.needs_input_grad) if nothing else backward(ctx, *grads)

    # what Function.apply comes to once no transform is active
    apply = super(torch.autograd.Function, Direct).apply  # type: ignore[attr-defined]

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            return results(overload(*arguments))
        if torch._C._are_functorch_transforms_active():
            check_no_tangents(overload, arguments)
            return results(overload(*arguments))
        if forward_ad._current_level < 0 and not (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
            return results(below_autograd(overload, *arguments))
        return apply(*arguments)

    return call


def check_no_tangents(overload: Any, arguments: Iterable[Any]) -> None:
    """Raise for forward-mode differentiation, in which ``torch.library`` takes every op for a constant.

    Raises:
        RuntimeError: an argument carries a tangent.
    """
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors(arguments)):
        name = overload.name().removeprefix("torchlayer::")
        raise RuntimeError(f"{name} has no forward-mode gradient; differentiate it with torch.autograd.grad")


def refuse(text: str) -> Callable[..., Any]:
    """The backward of an op that has none: it raises."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(text)

    return backward


@cache
def load(device: str) -> Backend:
    """Load the library with the kernels for ``"cpu"`` or ``"cuda"``, at most once; see :func:`compiled`."""
    if _build.setting("TORCHLAYER_BACKEND", _build.BACKENDS) == "cuda" and device == "cpu":
        load("cuda")  # insisted upon, so an error here and not at the first CUDA tensor, which may never come
    return choose(device, lambda may_build: _load_beside(device) or _load_built(device, may_build))


def choose(device: str, find: Callable[[str], Path]) -> Backend:
    """What the settings allow for a kind of device: the library that ``find`` loads, or plain PyTorch.

    ``find`` gets the value of ``TORCHLAYER_BUILD`` and raises ``BuildError`` or ``OSError`` if there is no library.
    """
    wanted = _build.setting("TORCHLAYER_BACKEND", _build.BACKENDS)
    may_build = _build.setting("TORCHLAYER_BUILD", _build.BUILDS)
    if wanted == "python" or (wanted == "cpu" and device == "cuda"):
        return Backend("python", f"TORCHLAYER_BACKEND={wanted} asked for it")

    try:
        if device == "cuda":
            _check_cuda()
        return Backend(device, str(find(may_build)))
    except (_build.BuildError, OSError) as error:
        insists = [f"TORCHLAYER_BACKEND={wanted}"] if wanted == device else []
        if may_build == "require" and not isinstance(error, _NoCuda):
            insists.append("TORCHLAYER_BUILD=require")
        if insists:
            output = f"\n{error.output}" if isinstance(error, _build.BuildError) and error.output else ""
            raise RuntimeError(
                f"{' and '.join(insists)} insists on compiled {device.upper()} kernels, but {error}; "
                f"unset it to let plain PyTorch run instead{output}"
            ) from None
        return Backend("none" if isinstance(error, _NoCuda) else "python", str(error))


class _NoCuda(_build.BuildError):
    """There can be no CUDA tensor in this process, so no backend is missed."""


def _check_cuda() -> None:
    if torch.version.cuda is None:
        raise _NoCuda("this torch was built without CUDA")
    if not torch.cuda.is_available():
        raise _NoCuda("no CUDA GPU is in sight")


def _load_beside(device: str) -> Path | None:
    library = Path(__file__).parents[1] / _build.LIBRARIES[device]
    if not library.exists() or _is_outdated(library):
        return None
    try:
        torch.ops.load_library(library)
    except OSError as error:  # built for another torch: one compiled here may still load
        _log.info("%s does not load: %s", library, error)
        return None
    return library


def _is_outdated(library: Path) -> bool:
    """In a checkout the sources may have been edited since; an installed package cannot change under its library."""
    sources = _build.source_folder()
    in_checkout = sources.parent != library.parent
    return in_checkout and max(path.stat().st_mtime for path in sources.iterdir()) > library.stat().st_mtime


def _load_built(device: str, may_build: str) -> Path:
    library = made(_build.Build(device, torch_folder(), visible(device)), may_build)
    torch.ops.load_library(library)
    return library


def made(build: _build.Build, may_build: str, when: str = "at installation") -> Path:
    """The path of a library in the cache, compiled now if it must be and ``TORCHLAYER_BUILD`` lets it."""
    folder = _build.cache_folder()
    if may_build == "never" and not _build.is_whole(folder / build.name):
        raise _build.BuildError(f"none was built {when} and TORCHLAYER_BUILD=never")
    return build.run(folder)


def torch_folder() -> Path:
    """Where torch's headers and libraries are."""
    return Path(torch.__path__[0])


def visible(device: str) -> str:
    """The architectures of the GPUs in sight, like ``"8.0;9.0"``; empty for a CPU."""
    if device != "cuda":
        return ""
    gpus = (torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    return ";".join(sorted({f"{major}.{minor}" for major, minor in gpus}))


def _prepare(device: str) -> None:
    if device in ("cpu", "cuda"):
        backend = load(device)
        if backend.name == "python":
            _warn_once(device, backend.reason)


def _device_of(arguments: Iterable[Any]) -> str:
    """Where the dispatcher sends a call: to CUDA as soon as one tensor is there."""
    kinds = {tensor.device.type for tensor in tensors(arguments)}
    return "cuda" if "cuda" in kinds else min(kinds)


def tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments, and those in lists."""
    for argument in arguments:
        for value in argument if isinstance(argument, list | tuple) else (argument,):
            if isinstance(value, Tensor):
                yield value


def is_block(tensor: Tensor) -> bool:
    """Whether it is stored as one block of numbers: neither sparse nor nested."""
    return tensor.layout == torch.strided and not tensor.is_nested


def check_layouts(name: str, arguments: Iterable[Any]) -> None:
    for tensor in tensors(arguments):
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind, cure = ("quantised", "dequantize") if tensor.is_quantized else (str(tensor.layout), "to_dense")
            raise TypeError(f"{name} needs dense tensors, got a {kind} one; call its {cure}()")


def _has_kernel(overload: Any, device: str) -> bool:
    return device in ("cpu", "cuda") and overload.has_kernel_for_dispatch_key(
        getattr(torch._C.DispatchKey, device.upper())
    )


@cache
def _warn_once(device: str, reason: str, missed: str = "its compiled kernels") -> None:
    if (os.environ.get("TORCHLAYER_BACKEND") or "auto") == "auto":
        warnings.warn(
            f"torchlayer runs in plain PyTorch for {device.upper()} tensors, without {missed}: {reason}", stacklevel=2
        )
