"""Ids that name nothing, on a GPU: kernels report them without anyone waiting, and the host looks when it suits."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _build, _library

_NAME = "raise_for_bad_ids"
if not hasattr(torch.ops.torchlayer, _NAME):  # a module that is executed again finds its op
    _library._FRAGMENT.define(f"{_NAME}(bool wait) -> ()")
_raise_for_bad_ids = getattr(torch.ops.torchlayer, _NAME).default
_is_loaded = False


def check_ids() -> None:
    """Wait for all GPUs, and raise if a label, sample or row id lay outside its range.

    On a GPU the sampled losses, the samplers and the row optimisers do not wait to see such an id. They move it into
    range, turn what it spoils into NaN (a row's loss, a label's expected count, a row of a table), and report it; the
    next of their calls raises, and so does the next replay of a :class:`torchlayer.TrainStep`, and
    :func:`torchlayer.utils.fit` at the end of an epoch. This function is for those who want to know now, as after the
    last step or before a checkpoint. With ``TORCHLAYER_CHECK=1`` in the environment every call waits and raises by
    itself, as calls on a CPU always do; so do those that plain PyTorch answers on a GPU, which report nothing
    otherwise. Without a GPU there is nothing to wait for.

    The first report is kept and raised once; those that come before anyone has looked are dropped. Training can go on
    after the error: a bad label has no gradient.

    Raises:
        IndexError: so it was; the text names the op, the id, its row and the right range.
        RuntimeError: CUDA failed, now or in a kernel that had been running.

    >>> check_ids()  # nothing has been reported
    """
    look(wait=True)


def look(wait: bool = False) -> None:
    """Raise what has been reported by now; without waiting, two reads of the host's own memory for each GPU."""
    global _is_loaded
    if not _is_loaded:  # then no kernel has run that could report, unless the library has come meanwhile
        _is_loaded = _raise_for_bad_ids.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeExplicitAutograd)
    if _is_loaded:
        _raise_for_bad_ids(wait)


def is_at_once() -> bool:
    """Whether ``TORCHLAYER_CHECK=1`` asks every call to wait for what its ids are."""
    return _build.setting("TORCHLAYER_CHECK", ("0", "1")) == "1"


def may_look_at(ids: Tensor) -> bool:
    """Whether a call may read ids before it goes on: on a CPU, and on a GPU where it is told to wait."""
    if ids.device.type != "cuda":
        return ids.device.type == "cpu"
    return is_at_once() and not torch.cuda.is_current_stream_capturing()
