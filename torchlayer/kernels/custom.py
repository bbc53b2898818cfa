"""Ops of your own: a plain-PyTorch reference, and C++ or CUDA that is compiled when the op is first called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.atomic import atomic_write
from . import _build, _library

_SUFFIX = {"cpu": ".cpp", "cuda": ".cu"}


def define(
    schema: str,
    reference: Callable[..., Any],
    cpp: str | Path | None = None,
    cuda: str | Path | None = None,
    fake: Callable[..., Any] | None = None,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> Any:
    """Make an op ``torch.ops.<namespace>.<name>``, in a namespace of your own, and return it.

    The reference is the op wherever nothing was compiled: where no source is given for a kind of device, and where
    there is no compiler, which a warning then says once. What a source compiles to is kept, as torchlayer's own
    kernels are, in the cache, and the settings ``TORCHLAYER_BACKEND`` and ``TORCHLAYER_BUILD`` hold for it, too.

    Defining an op again, as running a cell of a notebook twice does, replaces its Python functions.

    Args:
        schema: as in ``"mine::reglu(Tensor gate, Tensor value) -> Tensor"``.
        reference: the op in plain PyTorch, right on any device.
        cpp, cuda: the text of a source file, or its path. It registers a kernel of the op, with
            ``STABLE_TORCH_LIBRARY_IMPL(mine, CPU, m)`` or ``CUDA``, and may include torchlayer's ``check.h``,
            ``launch.cuh`` and ``map.h``. A file that includes ``map.h`` may serve as both.
        fake: the outputs' shape, dtype and strides, for meta tensors and ``torch.compile``; without one, they are new
            contiguous tensors of the shapes and dtypes that the reference returns.
        backward: the gradient, as for ``torch.library.register_autograd``; without one, it is that of the reference,
            which is computed again for it.
        setup_context: what ``backward`` needs to keep.

    Raises:
        ValueError: the schema has no namespace or no tensor, or is another one than that of the op defined before.
        RuntimeError: at the first call, if the compiler refuses the source; the text is the compiler's.

    >>> op = define("doctest::squared_relu(Tensor x) -> Tensor", lambda x: torch.relu(x) ** 2)
    >>> x = torch.tensor([-1.0, 3.0], requires_grad=True)
    >>> y = op(x)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist(), op(torch.empty(5, device="meta")).shape
    ([0.0, 9.0], [0.0, 6.0], torch.Size([5]))
    """
    namespace, _, rest = schema.partition("::")
    name = rest.partition("(")[0].strip()
    if not namespace.isidentifier() or not name.isidentifier() or namespace == "torchlayer":
        raise ValueError(f"{schema!r} needs a namespace of your own: write 'mine::name(Tensor x) -> Tensor'")
    if "Tensor" not in rest.partition("->")[0] or re.search(r"\*\s*,", rest):
        raise ValueError(f"{schema!r} needs a tensor among its arguments, and none of them keyword-only")
    sources = {device: _text(source) for device, source in (("cpu", cpp), ("cuda", cuda)) if source is not None}
    functions = (reference, fake, backward, setup_context)
    if f"{namespace}::{name}" not in _DEFINED:
        _DEFINED[f"{namespace}::{name}"] = _Definition(namespace, rest, sources, functions)
    definition = _DEFINED[f"{namespace}::{name}"]
    if (definition.schema, definition.sources) != (rest, sources):
        raise ValueError(f"{namespace}::{name} has another schema or source already; restart Python to change them")
    definition.functions = functions
    return definition.overload


def compile_library(source: str | Path, device: str = "cpu", folder: str | Path | None = None) -> Path:
    """Compile one source file into a library for ``torch.ops.load_library`` and return its path.

    :func:`define` does so by itself. This is for those who ship binaries: one, compiled against the stable ABI, loads
    in torch 2.10 and everything later, under every Python.

    Args:
        source: the text, or the path of the file.
        device: "cpu" for the C++ compiler, "cuda" for nvcc, which needs no GPU.
        folder: where to put it; the cache by default.

    Raises:
        RuntimeError: there is no compiler, or it refuses the source.
        ValueError: an unknown device, or an environment variable without meaning.
    """
    if device not in _SUFFIX:
        raise ValueError(f"device is {device!r}; set it to 'cpu' or 'cuda'")
    try:
        folder = _build.cache_folder() if folder is None else Path(folder)
        return _builder(source, device, folder).run(folder)
    except _build.BuildError as error:
        raise RuntimeError(f"{error}\n{error.output}".rstrip()) from None


class _Definition:
    """What :func:`define` was given last; the dispatcher holds on to this and not to the functions."""

    def __init__(self, namespace: str, schema: str, sources: dict[str, str | Path], functions: tuple):
        self.schema, self.sources, self.functions = schema, sources, functions
        self.name = f"{namespace}::{schema.partition('(')[0]}"
        self.looked_for: set[str] = set()
        self.library = torch.library.Library(namespace, "FRAGMENT")
        self.overload = _library.register(
            self.library, schema, self.run, self.fake, self.backward, self.setup_context, self.prepare
        )

    def prepare(self, device: str) -> None:
        if device not in self.sources or device in self.looked_for:
            return
        backend = _library.choose(device, lambda may_build: self.load(device, may_build))
        self.looked_for.add(device)
        if backend.name == "python":
            _library._warn_once(device, backend.reason, f"the compiled kernel of {self.name}")

    def load(self, device: str, may_build: str) -> Path:
        try:
            stem = self.name.replace("::", "-")
            build = _builder(self.sources[device], device, _build.cache_folder(), stem)
            path = _library.made(build, may_build, "before")
        except _build.BuildError as error:
            if not error.output:
                raise
            raise RuntimeError(f"{self.name} does not compile: {error}\n{error.output}") from None  # the user's mistake
        torch.ops.load_library(path)
        if not _library._has_kernel(self.overload, device):
            key = device.upper()
            raise RuntimeError(
                f"the source of {self.name} registers no {key} kernel; end it with "
                f"STABLE_TORCH_LIBRARY_IMPL({self.library.ns}, {key}, m) {{ m.impl(...); }}"
            )
        return path

    def run(self, *arguments: Any) -> Any:
        result = self.functions[0](*arguments)
        return result if self.functions[1] else _each(result, Tensor.contiguous)  # as the default fake promises

    def fake(self, *arguments: Any) -> Any:
        reference, fake, *_ = self.functions
        return fake(*arguments) if fake else _each(reference(*arguments), lambda t: t.new_empty(t.shape))

    def setup_context(self, ctx: Any, inputs: tuple, output: Any) -> None:
        _, _, backward, setup_context = self.functions
        if setup_context is not None:
            setup_context(ctx, inputs, output)
        elif backward is None:
            ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
            ctx.others = [_SAVED if isinstance(value, Tensor) else value for value in inputs]

    def backward(self, ctx: Any, *grads: Any) -> Any:
        reference, _, backward, _ = self.functions
        if backward is not None:
            return backward(ctx, *grads)
        if "Tensor[]" in self.schema or "Tensor?[]" in self.schema:
            raise RuntimeError(f"{self.name} has a list of tensors and so no gradient; give define a backward")
        again = torch.is_grad_enabled()  # the gradient will be differentiated, too
        saved = iter(ctx.saved_tensors)
        with torch.enable_grad():
            inputs = [next(saved) if value is _SAVED else value for value in ctx.others]
            for i, needed in enumerate(ctx.needs_input_grad):
                if needed:  # a view, because one tensor may have been given twice
                    inputs[i] = inputs[i].view_as(inputs[i]) if again else inputs[i].detach().requires_grad_()
            outputs = reference(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            pairs = [(y, g) for y, g in zip(outputs, grads) if g is not None and y.requires_grad]
            wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad) if needed]
            ys, gs = [y for y, _ in pairs], [g for _, g in pairs]
            found = torch.autograd.grad(ys, wanted, gs, allow_unused=True, create_graph=again) if ys else ()
        gradients = iter(found or [None] * len(wanted))
        return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad)


_SAVED = object()
_DEFINED: dict[str, _Definition] = {}


def _each(result: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(result, list | tuple):
        return type(result)([_each(value, function) for value in result])
    return function(result) if isinstance(result, Tensor) else result


def _text(source: str | Path) -> str | Path:
    if isinstance(source, str) and "\n" not in source:
        raise ValueError(f"{source!r} is no source text; give a file as pathlib.Path({source!r})")
    return source


def _builder(source: str | Path, device: str, folder: Path, stem: str = "custom") -> _build.Build:
    """The build of one source; a text is put into a file of ``folder`` first, which stays for the debugger."""
    source = _text(source)
    if isinstance(source, str):
        path = folder / f"{stem}-{hashlib.sha256(source.encode()).hexdigest()[:16]}{_SUFFIX[device]}"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(source.encode())
        source = path
    return _build.Build(device, _library.torch_folder(), _library.visible(device), [source.resolve()])
