"""TensorLayer's odds and ends around a program: printing, memory share, leaving. The kernels are in ``kernels``."""

from __future__ import annotations

import contextlib
import gc
import numbers
import os
import site
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

import torch

__all__ = [
    "clear_all",
    "disable_print",
    "empty_trash",
    "enable_print",
    "exit_tf",
    "exit_torch",
    "get_site_packages_directory",
    "set_gpu_fraction",
    "suppress_stdout",
]


def exit_torch(status: int | None = None) -> None:
    """Collect garbage, give cached GPU memory back to the driver and, given a ``status``, leave the program with it."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if status is not None:
        sys.exit(status)


def exit_tf(sess: Any = None) -> None:
    """Deprecated: :func:`exit_torch`. TensorLayer's killed every Python process on the GPU, this one kills none."""
    _deprecated("exit_tf is now exit_torch: there is no session to close, and no other process is touched")
    exit_torch()


def clear_all(printable: bool = True) -> None:
    """Deprecated: does nothing, because there are no placeholders to clear."""
    _deprecated("clear_all does nothing: there are no placeholders; call net.eval() to switch noise off")


def set_gpu_fraction(gpu_fraction: float = 0.3, device: torch.device | str | int | None = None) -> None:
    """Let this process allocate at most this share of a GPU's memory; without a GPU, do nothing.

    Args:
        device: which GPU, the current one unless given.
    Raises:
        ValueError: ``gpu_fraction`` is not in (0, 1].
        TypeError: it is not a number, such as TensorLayer's session.
    """
    if not isinstance(gpu_fraction, numbers.Real) or isinstance(gpu_fraction, bool):
        raise TypeError(
            f"gpu_fraction must be a number, got {gpu_fraction!r}; there is no session: set_gpu_fraction(0.3)"
        )
    if not 0 < gpu_fraction <= 1:
        raise ValueError(f"gpu_fraction must be in (0, 1], got {gpu_fraction}")
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(gpu_fraction), device)


_streams_before: tuple[TextIO, TextIO] | None = None  # what enable_print restores; None while printing


def disable_print() -> None:
    """Silence ``sys.stdout`` and ``sys.stderr`` until :func:`enable_print`; :func:`suppress_stdout` is the better way.

    A second call changes nothing: one ``enable_print`` undoes them all.
    """
    global _streams_before
    if _streams_before is None:
        _streams_before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(os.devnull, "w")  # noqa: SIM115


def enable_print() -> None:
    """Restore the streams that :func:`disable_print` replaced; without it, do nothing."""
    global _streams_before
    if _streams_before is not None:
        silent = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _streams_before
        _streams_before = None
        for stream in silent:
            stream.close()


@contextlib.contextmanager
def suppress_stdout() -> Iterator[None]:
    """Send what the block prints to nowhere; errors still show.

    >>> with suppress_stdout():
    ...     print("unseen")
    >>> print("seen")
    seen
    """
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def get_site_packages_directory() -> list[str]:
    """Print and return the folders where packages are installed."""
    folders = site.getsitepackages()
    print("  tl.ops : site-packages in ", folders)
    return folders


def empty_trash() -> NoReturn:
    """Removed: a deep learning library does not delete a user's files.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "empty_trash deleted everything in the user's trash, which torchlayer does not do; empty it in the file manager"
    )


def _deprecated(text: str) -> None:
    warnings.warn(text, DeprecationWarning, stacklevel=3)
