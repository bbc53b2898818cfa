"""What ``python -m torchlayer info`` prints: everything a bug report needs, and whether each kernel is right here."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._version import __version__
from .kernels import Backend, _build, _library

_TOLERANCE = 1e-3
_REFUSED = "refused"


class SelfTest(NamedTuple):
    """A kernel called on its example: how far from its reference, relative to the largest value, and how fast."""

    op: str
    device: str
    backend: str
    error: float
    milliseconds: float
    reference_milliseconds: float

    @property
    def passed(self) -> bool:
        """False for a NaN, too."""
        return self.error <= _TOLERANCE


def main() -> int:
    """Print the report; return 1 if a kernel disagrees with its reference."""
    print("\n".join(f"{name:<13}{value}" for name, value in report()), flush=True)
    tests = self_tests()
    print(f"\n{'self-test':<34}{'device':<8}{'backend':<9}{'error':>9}{'ms':>10}{'PyTorch ms':>12}")
    for test in tests:
        verdict = "" if test.passed else "   WRONG"
        print(
            f"{test.op:<34}{test.device:<8}{test.backend:<9}{test.error:>9.1e}"
            f"{test.milliseconds:>10.3f}{test.reference_milliseconds:>12.3f}{verdict}"
        )
    return 0 if all(test.passed for test in tests) else 1


def report() -> list[tuple[str, str]]:
    """Name and value of each line: versions, devices, backends and why, compilers, cache, settings."""
    cpu, cuda = _backend("cpu"), _backend("cuda")
    variables = (
        "TORCHLAYER_BACKEND",
        "TORCHLAYER_BUILD",
        "TORCHLAYER_CHECK",
        "TORCH_CUDA_ARCH_LIST",
        "MAX_JOBS",
        "CXX",
        "NVCC",
    )
    settings = [f"{name}={os.environ[name]}" for name in variables if os.environ.get(name)]
    return [
        ("torchlayer", f"{__version__} in {Path(__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
        ("numpy", np.__version__),
        ("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"),
        *(("gpu", gpu) for gpu in _gpus() or ["none"]),
        ("cpu kernels", f"{cpu.name}: {cpu.reason}"),
        ("cuda kernels", f"{cuda.name}: {cuda.reason}"),
        ("compiler", _describe(_build.cxx_compiler)),
        ("nvcc", _describe(_build.cuda_compiler)),
        ("cache", _cache()),
        ("settings", " ".join(settings) or "none"),
    ]


def self_tests() -> list[SelfTest]:
    """Every op on every device here, against its plain-PyTorch reference."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report has given the reason for plain PyTorch already
        return [_self_test(name, device, _runs(name, device)) for name in _library.OPS for device in devices]


def _self_test(name: str, device: str, backend: str) -> SelfTest:
    op = _library.OPS[name]
    if backend == _REFUSED:
        return SelfTest(name, device, backend, float("nan"), float("nan"), float("nan"))
    seconds, outputs = _time(op.overload, op.example, torch.device(device))
    reference_seconds, expected = _time(op.reference, op.example, torch.device(device))
    error = max(_error(a, b) for a, b in zip(outputs, expected))
    return SelfTest(name, device, backend, error, 1e3 * seconds, 1e3 * reference_seconds)


def _backend(device: str) -> Backend:
    """The backend, also where the environment insists on one that cannot be had: a report must not stop there."""
    try:
        return _library.load(device)
    except RuntimeError as error:
        return Backend(_REFUSED, str(error).splitlines()[0])


def _runs(name: str, device: str) -> str:
    """What answers an op on a device: a library may lack a kernel for it, and then plain PyTorch does."""
    backend = _backend(device).name
    has_kernel = _library._has_kernel(_library.OPS[name].overload, device)
    return "python" if backend == device and not has_kernel else backend


def _time(
    function: Callable[..., Any], example: Callable[[torch.device], tuple], device: torch.device
) -> tuple[float, list[Tensor]]:
    """The best of three calls in seconds, and the tensors the last one returned or may have written to."""
    best, tensors = float("inf"), []
    for _ in range(3):
        arguments = example(device)
        _synchronize(device)
        start = time.perf_counter()
        outputs = function(*arguments)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        flat = [x for value in (*outputs, *arguments) for x in (value if isinstance(value, list) else [value])]
        tensors = [value for value in flat if isinstance(value, Tensor)]
    return best, tensors


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _error(output: Tensor, expected: Tensor) -> float:
    if not output.numel():
        return 0.0
    output, expected = output.double(), expected.double()
    return ((output - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{i}: {g.name}, {g.total_memory / 2**30:.0f} GiB, sm_{g.major}{g.minor}" for i, g in enumerate(gpus)]


def _cache() -> str:
    try:
        return str(_build.cache_folder())
    except _build.BuildError as error:
        return f"none: {error}"


def _describe(find: Callable[[], list[str]]) -> str:
    try:
        command = find()
        return f"{' '.join(command)}: {_build.describe(command)}"
    except _build.BuildError as error:
        return f"none: {error}"
