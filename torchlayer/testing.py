"""Tests for ops, torchlayer's and your own: one call that tries whatever is known to go wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from ._op_checks import CHECKS, CUDA_CHECKS, Case, Skip, each, expect_refusal


class Checked(NamedTuple):
    """What :func:`check_op` did: the checks that ran, and for each one left out, where and why."""

    ran: tuple[str, ...]
    skipped: dict[str, str]


def check_op(
    op: Any,
    samples: Sequence[tuple],
    reference: Callable[..., Any] | None = None,
    errors: Sequence[tuple[tuple, Any, str]] = (),
    gradients: bool = True,
    may_refuse_layouts: bool = False,
    slack: float = 4.0,
    n_repeats: int = 5,
    devices: Sequence[str] | None = None,
) -> Checked:
    """Check what an op owes to PyTorch and to its users, on every sample and every kind of device.

    ===============  =================================================================================================
    runs             the op takes the sample
    opcheck          ``torch.library.opcheck``: schema, fake kernel, autograd registration, tracing
    gradient         ``gradcheck`` in double precision (in its fast mode from 65 numbers on)
    reference        the error against the reference in float64 is no larger than the reference's own in the sample's
                     dtype, plus ``slack`` units in the last place of the largest value
    layouts          gaps, another order of axes and an odd address, in each tensor, change nothing, and the fake kernel
                     foresees the strides that result
    inputs           no argument is written to unless the schema says so
    determinism      repeated calls agree in every bit
    poison           nothing depends on what new memory held before
    errors           each bad input raises what the table says
    device           CUDA: the same numbers as on the CPU
    stream           CUDA: work is queued on the current stream
    graph            CUDA: a captured call can be replayed with other data
    sync             CUDA: the host waits for nothing
    ===============  =================================================================================================

    Args:
        op: what ``tl.kernels.define`` or ``torch.library.custom_op`` returned, or ``"namespace::name"``.
        samples: tuples of arguments, small ones, since ``gradcheck`` calls the op for each number in them.
        reference: the op in plain PyTorch, which takes the same arguments.
        errors: rows ``(arguments, exception or a tuple of them, text)``; the text must occur in the message.
        gradients: False for an op that has none.
        may_refuse_layouts: True for an op that raises on layouts it does not take; silently wrong is still wrong.
        slack: see above.
        n_repeats: of each sample, for ``determinism``.
        devices: kinds of devices to move the samples to; by default "cpu", and "cuda" if there is a GPU.

    Raises:
        AssertionError: lists each failure with its sample and what to do about it.
        ValueError: there is no such op, or the samples are not tuples.

    >>> checked = check_op("torchlayer::discounted_sum", [(torch.tensor([[1.0, 2.0]]), 0.9, False)], devices=["cpu"])
    >>> checked.ran
    ('runs', 'opcheck', 'gradient', 'layouts', 'inputs', 'determinism', 'poison')
    >>> checked.skipped["reference"]
    'sample 0 on cpu: no reference was given'
    """
    overload = _overload(op)
    if not samples or not all(isinstance(sample, tuple) for sample in samples):
        raise ValueError(f"samples must be a list of tuples of arguments, got {samples!r}")
    found = _Found([], {}, [])
    kinds = ["cpu", *["cuda"] * torch.cuda.is_available()] if devices is None else devices
    for kind in kinds:
        for i, sample in enumerate(samples):
            where = f"sample {i} on {kind}"
            moved = each(lambda t, to=kind: t.detach().to(to), sample)
            case = Case(overload, moved, reference, gradients, may_refuse_layouts, slack, n_repeats)
            if found.keep("runs", where, lambda on=case: on.call(), "give samples that the op takes"):
                for name, check, advice in CHECKS + CUDA_CHECKS * (kind == "cuda"):
                    found.keep(name, where, lambda run=check, on=case: run(on), advice)
    for i, row in enumerate(errors):
        found.keep("errors", f"row {i}", lambda row=row: expect_refusal(overload, *row), "check the arguments")
    if not errors:
        found.skipped["errors"] = "no table of errors was given"
    if "cuda" not in kinds:
        reason = "there is no CUDA GPU" if devices is None else f"devices={list(devices)}"
        found.skipped.update({name: reason for name, *_ in CUDA_CHECKS})
    if found.failures:
        raise AssertionError(f"{overload.name()} fails\n" + "\n".join(found.failures))
    return Checked(tuple(found.ran), found.skipped)


def _overload(op: Any) -> torch._ops.OpOverload:
    if isinstance(op, str):
        namespace, _, name = op.partition("::")
        name, _, overload = name.partition(".")
        try:
            return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
        except (AttributeError, RuntimeError):
            raise ValueError(f"there is no op {op!r}; import the module that defines it") from None
    op = getattr(op, "_opoverload", op)  # of torch.library.custom_op
    op = getattr(op, "default", op)
    if not isinstance(op, torch._ops.OpOverload):
        raise ValueError(f"check_op needs an op or 'namespace::name', got {type(op).__name__}; define it first")
    return op


class _Found(NamedTuple):
    ran: list[str]
    skipped: dict[str, str]
    failures: list[str]

    def keep(self, name: str, where: str, check: Callable[[], Any], advice: str) -> bool:
        """Run one check and note what came of it; whether it passed."""
        try:
            check()
        except Skip as skip:
            self.skipped[name] = f"{where}: {skip}"
        except Exception as error:  # whatever an op may raise is what we are here to report
            text = str(error).strip() or type(error).__name__
            text = text if len(text) < 1000 else f"{text[:1000]} ..."
            text = text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
            self.failures.append(f"* {where}, {name}: " + text.replace("\n", "\n    ") + f"\n    -> {advice}")
            return False
        else:
            if name not in self.ran:
                self.ran.append(name)
        return True
