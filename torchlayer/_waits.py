"""Having CUDA report each call that makes the host wait for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reporting_waits(how: str) -> Iterator[None]:
    """Within the block such a call warns (``"warn"``) or raises (``"error"``); afterwards all is as it was before."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set(how)
        yield
    finally:
        _set(before)


def _set(how: str | int) -> None:
    with warnings.catch_warnings():
        # The first setting warns that this is a prototype, once it has taken effect: as an error it would stay set.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(how)
