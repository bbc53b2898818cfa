"""One op, one name: ``torch.ops.torchlayer.x`` exists whether or not anything was compiled.

:func:`define` gives every op its schema and, for all devices, its plain-PyTorch reference. A compiled library adds
faster kernels for one kind of device, and the dispatcher prefers them. It is looked for when the reference of some op
is first called on such a device, never at import: beside the package, then in the cache, then by compiling.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    qualified = f"torchlayer::{name}"

    def plain(*arguments: Any) -> Any:
        device = next(a.device.type for a in arguments if isinstance(a, Tensor))
        if _has_native(overload, device):
            return overload(*arguments)  # this very call has loaded the library: dispatch it again
        return reference(*arguments)

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"{qualified} has no gradient: torchlayer's ops can be differentiated once, not twice")

    _FRAGMENT.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    overload = getattr(torch.ops.torchlayer, name).default
    _FRAGMENT.impl(name, plain, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified, fake, lib=_FRAGMENT)
    if not overload._schema.is_mutable:  # an op that works in place is no function to differentiate
        torch.library.register_autograd(qualified, backward or refuse, setup_context=setup_context, lib=_FRAGMENT)
    OPS[name] = Op(overload, reference, example)
    return overload


@cache
def load(device: str) -> Backend:
    """Load the library with the kernels for ``"cpu"`` or ``"cuda"``, at most once; see :func:`compiled`."""
    wanted = _build.setting("TORCHLAYER_BACKEND", _build.BACKENDS)
    may_build = _build.setting("TORCHLAYER_BUILD", _build.BUILDS)
    if wanted == "cuda" and device == "cpu":
        load("cuda")  # insisted upon, so an error here and not at the first CUDA tensor, which may never come
    if wanted == "python" or (wanted == "cpu" and device == "cuda"):
        return Backend("python", f"TORCHLAYER_BACKEND={wanted} asked for it")

    try:
        if device == "cuda":
            _check_cuda()
        path = _load_beside(device) or _load_built(device, may_build)
        return Backend(device, str(path))
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
    visible = ""
    if device == "cuda":
        gpus = (torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
        visible = ";".join(sorted({f"{major}.{minor}" for major, minor in gpus}))
    folder = _build.cache_folder()
    build = _build.Build(device, Path(torch.__path__[0]), visible)
    if may_build == "never" and not _build.is_whole(folder / build.name):
        raise _build.BuildError("none was built at installation and TORCHLAYER_BUILD=never")
    library = build.run(folder)
    torch.ops.load_library(library)
    return library


def _has_native(overload: Any, device: str) -> bool:
    if device not in ("cpu", "cuda"):
        return False
    backend = load(device)
    if backend.name == "python":
        _warn_once(device, backend.reason)
    return overload.has_kernel_for_dispatch_key(getattr(torch._C.DispatchKey, device.upper()))


@cache
def _warn_once(device: str, reason: str) -> None:
    if (os.environ.get("TORCHLAYER_BACKEND") or "auto") == "auto":
        warnings.warn(
            f"torchlayer runs in plain PyTorch for {device.upper()} tensors, without its compiled kernels: {reason}",
            stacklevel=2,
        )
