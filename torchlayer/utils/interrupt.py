"""Interrupts that wait for a safe moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second Ctrl-C stops at once.

    What the process ignores stays ignored: a shell starts background jobs without ears for Ctrl-C.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, saved: Path | None) -> NoReturn:
    """What a signal that was collected demands, now that all is saved.

    Raises:
        SystemExit: with status 143, for SIGTERM.
        KeyboardInterrupt: for Ctrl-C; Python ends with it such that a shell sees status 130.
    """
    if saved is not None:
        tqdm.write(f"Interrupted; checkpoint written to {saved}")
    if number == signal.SIGTERM:
        raise SystemExit(143)
    raise KeyboardInterrupt
