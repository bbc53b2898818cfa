"""What losses demand of their tensors, said by name and shape; nothing here looks at values or waits for a device."""

from __future__ import annotations

import torch
from torch import Tensor


def n_rows(owner: str, output: Tensor) -> int:
    if output.dim() == 0:
        raise ValueError(f"{owner} needs a batch axis, got a scalar; pass shape (N, ...)")
    return output.shape[0]


def in_float(owner: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner} takes tensors, got {type(x).__name__}; convert it with torch.as_tensor")
    return wide(x)


def wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def same_shape(owner: str, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    output, target = in_float(owner, output), in_float(owner, target)
    if output.shape != target.shape:
        raise ValueError(
            f"{owner} needs an output and a target of one shape, got {tuple(output.shape)} and {tuple(target.shape)}; "
            "reshape one of them (they are not broadcast)"
        )
    return output, target if target.dtype == output.dtype else target.to(output.dtype)


def check_ids(owner: str, output: Tensor, target: Tensor) -> None:
    _check_dtypes(owner, output, target)
    if output.dim() == 0 or output.shape[:-1] != target.shape:
        raise ValueError(f"{_shapes_differ(owner, output, target)}; {_cure(output, target)}")


def check_sequences(owner: str, logits: Tensor, target_seqs: Tensor) -> None:
    _check_dtypes(owner, logits, target_seqs)
    flat = logits.dim() == 2 and logits.shape[0] == target_seqs.numel()
    if target_seqs.dim() != 2 or not (flat or logits.shape[:-1] == target_seqs.shape):
        raise ValueError(
            f"{_shapes_differ(owner, logits, target_seqs)}; "
            "sequences are (N, T) ids with (N * T, V) or (N, T, V) logits"
        )


def _check_dtypes(owner: str, output: Tensor, target: Tensor) -> None:
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise TypeError(
            f"{owner} takes tensors, got {type(output).__name__} and {type(target).__name__}; "
            "convert with torch.as_tensor"
        )
    if target.dtype.is_floating_point or target.dtype.is_complex or target.dtype == torch.bool:
        raise TypeError(
            f"{owner} takes integer class ids, got a target of {target.dtype}; for ids call target.long(), for one-hot "
            "rows target.argmax(-1)"
        )


def _shapes_differ(owner: str, output: Tensor, target: Tensor) -> str:
    shapes = f"logits {tuple(output.shape)} and targets {tuple(target.shape)}"
    return f"{owner} needs one id for each row of logits, got {shapes}"


def _cure(output: Tensor, target: Tensor) -> str:
    if output.shape == target.shape:
        return "for one-hot rows pass target.argmax(-1)"
    if target.shape == (*output.shape[:-1], 1):
        return "pass target.squeeze(-1)"
    if output.dim() > 2 and target.shape == (output.shape[0], *output.shape[2:]):
        return "the class axis is the last one: pass output.movedim(1, -1)"
    return "the class axis is the last one"


def describe(x: object) -> str:
    return str(tuple(x.shape)) if isinstance(x, Tensor) else f"no tensor but a {type(x).__name__}"
