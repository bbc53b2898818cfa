"""Losses and scores, each a function of tensors; the penalties on weights come from :mod:`torchlayer.regularizers`.

Every one computes in float32 when it is given half precision, reads nothing back from the device and has no branch on
data, so it can sit inside a captured CUDA graph or ``torch.compile(fullgraph=True)``. ``name`` is ignored everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_ids, check_sequences, describe, in_float, n_rows, same_shape, wide
from .kernels.linear_cross_entropy import NO_TARGET
from .kernels.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from .regularizers import (
    l1_regularizer,
    l2_regularizer,
    li_regularizer,
    lo_regularizer,
    maxnorm_i_regularizer,
    maxnorm_o_regularizer,
    maxnorm_regularizer,
    sum_regularizer,
)

__all__ = [
    "absolute_difference_error",
    "binary_cross_entropy",
    "cosine_similarity",
    "cross_entropy",
    "cross_entropy_seq",
    "cross_entropy_seq_with_mask",
    "dice_coe",
    "dice_hard_coe",
    "iou_coe",
    "l1_regularizer",
    "l2_regularizer",
    "li_regularizer",
    "linear_cross_entropy",
    "lo_regularizer",
    "maxnorm_i_regularizer",
    "maxnorm_o_regularizer",
    "maxnorm_regularizer",
    "mean_squared_error",
    "normalized_mean_square_error",
    "sigmoid_cross_entropy",
    "sum_regularizer",
]


def cross_entropy(output: Tensor, target: Tensor, name: str | None = None) -> Tensor:
    """Softmax cross-entropy of class ids, averaged over all of them.

    Shape:
        output ``(N, C)`` or ``(..., C)`` logits, class axis last; target ``(N,)`` or ``(...)``, any integer type;
        returns a scalar.
    Raises:
        TypeError: the target is not an integer tensor.
        ValueError: the shapes do not fit.
        IndexError: a label lies outside ``[0, C)``, on a CPU. On CUDA torch's own device assertion fails.

    >>> cross_entropy(torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]]), torch.tensor([0, 2]))
    tensor(1.4185)
    """
    check_ids("cross_entropy", output, target)
    return _softmax_loss(output, target, "mean")


def sigmoid_cross_entropy(output: Tensor, target: Tensor, name: str | None = None) -> Tensor:
    """Logistic loss of logits against probabilities, averaged over all elements.

    Shape:
        output logits and target of one shape; returns a scalar.

    >>> sigmoid_cross_entropy(torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.tensor([[1, 0], [0, 1]]))
    tensor(0.7955)
    """
    output, target = same_shape("sigmoid_cross_entropy", output, target)
    return F.binary_cross_entropy_with_logits(output, target)


def binary_cross_entropy(
    output: Tensor, target: Tensor, epsilon: float = 1e-8, name: str | None = "bce_loss"
) -> Tensor:
    """``-(z log(p + epsilon) + (1 - z) log(1 - p + epsilon))`` of probabilities ``p``, averaged over all elements.

    ``epsilon`` bounds an element's loss at ``-log(epsilon)``, 18.42. Where the logits are at hand prefer
    :func:`sigmoid_cross_entropy`: it needs no bound and stays exact however wrong the prediction is.

    Shape:
        output and target of one shape; returns a scalar.

    >>> binary_cross_entropy(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    tensor(0.1643)
    """
    p, z = same_shape("binary_cross_entropy", output, target)
    return -torch.lerp(torch.log(1 - p + epsilon), torch.log(p + epsilon), z).mean()


def mean_squared_error(output: Tensor, target: Tensor, is_mean: bool = False, name: str | None = None) -> Tensor:
    """Squared error summed over axis 1 and averaged over the others, TensorLayer's definition.

    For ``(N, D)`` this is the squared distance of a row, ``D`` times :func:`torch.nn.functional.mse_loss`, which
    ``is_mean=True`` gives. For images axis 1 is the height.

    Shape:
        output and target of one shape, rank 2 or more unless ``is_mean``; returns a scalar.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> mean_squared_error(x, torch.zeros(2, 2)), mean_squared_error(x, torch.zeros(2, 2), is_mean=True)
    (tensor(15.), tensor(7.5000))
    """
    output, target = same_shape("mean_squared_error", output, target)
    mean = F.mse_loss(output, target)
    if is_mean:
        return mean
    if output.dim() < 2:
        raise ValueError(
            f"mean_squared_error sums over axis 1, which shape {tuple(output.shape)} does not have; pass is_mean=True"
        )
    return mean * output.shape[1]


def absolute_difference_error(output: Tensor, target: Tensor, is_mean: bool = False, name: str | None = None) -> Tensor:
    """Absolute error summed over all but the first axis and averaged over that one; ``is_mean`` averages over all.

    A name of later TensorLayer releases.

    Shape:
        output and target ``(N, ...)``; returns a scalar.
    """
    output, target = same_shape("absolute_difference_error", output, target)
    if is_mean:
        return F.l1_loss(output, target)
    return F.l1_loss(output, target, reduction="sum") / n_rows("absolute_difference_error", output)


def normalized_mean_square_error(output: Tensor, target: Tensor, name: str | None = None) -> Tensor:
    """``||output - target|| / ||target||`` of each example, averaged over the batch.

    Despite its name, from later TensorLayer releases, a ratio of norms and not of squares. An all-zero target gives
    infinity, or NaN where the output is zero too.

    Shape:
        output and target ``(N, ...)``; returns a scalar.
    """
    output, target = same_shape("normalized_mean_square_error", output, target)
    n = n_rows("normalized_mean_square_error", output)
    error = torch.linalg.vector_norm((output - target).reshape(n, -1), dim=1)
    return (error / torch.linalg.vector_norm(target.reshape(n, -1), dim=1)).mean()


def cosine_similarity(v1: Tensor, v2: Tensor) -> Tensor:
    """Cosine of the angle between the rows of ``v1`` and ``v2``: a similarity in [-1, 1], not a loss.

    A zero row has similarity 0.

    Shape:
        v1 and v2 ``(N, D)``, or shapes that broadcast to it; returns ``(N,)``.

    >>> cosine_similarity(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 4.0]]))
    tensor([0.7071, 1.0000])
    """
    v1, v2 = in_float("cosine_similarity", v1), in_float("cosine_similarity", v2)
    if max(v1.dim(), v2.dim()) < 2:
        raise ValueError(
            f"cosine_similarity compares rows of (N, D), got {tuple(v1.shape)} and {tuple(v2.shape)}; "
            "add a batch axis: v[None]"
        )
    return F.cosine_similarity(v1, v2.to(v1.dtype), dim=1)


def dice_coe(
    output: Tensor,
    target: Tensor,
    epsilon: float = 1e-10,
    *,
    loss_type: Literal["jaccard", "sorensen"] = "jaccard",
    axis: int | Sequence[int] | None = None,
    smooth: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """Soft Dice coefficient, ``2 sum(o t) / (sum(o^2) + sum(t^2))``, in [0, 1]; train on ``1 - dice_coe(...)``.

    One number for the whole batch, unless ``axis`` (``(1, 2, 3)`` for images) asks for one an example, averaged. Two
    empty masks score 1.

    Args:
        epsilon: the score is cut at ``1 - epsilon``, where its gradient is zero; 0 cuts nothing. The default is too
            small to be seen in float32.
        loss_type: ``"sorensen"`` has ``sum(o) + sum(t)`` below the bar.
        smooth: added above and below the bar, so that small masks do not jump.
    Shape:
        output and target of one shape, probabilities or masks; returns a scalar.
    Reference:
        Milletari, Navab and Ahmadi 2016, V-Net, arXiv:1606.04797.

    >>> mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    >>> dice_coe(torch.tensor([[0.9, 0.8, 0.1, 0.2]]), mask)
    tensor(0.9714)
    """
    o, t = same_shape("dice_coe", output, target)
    if loss_type == "jaccard":
        size = _total(o * o, axis) + _total(t * t, axis)
    elif loss_type == "sorensen":
        size = _total(o, axis) + _total(t, axis)
    else:
        raise ValueError(f"dice_coe: loss_type is 'jaccard' or 'sorensen', got {loss_type!r}")
    dice = _ratio("dice_coe", 2 * _total(o * t, axis), size, smooth).mean()
    return dice if epsilon == 0 else dice.clamp(0, 1 - epsilon)


def dice_hard_coe(
    output: Tensor,
    target: Tensor,
    epsilon: float = 1e-10,
    *,
    threshold: float = 0.5,
    axis: int | Sequence[int] | None = None,
    smooth: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """Dice coefficient of the masks ``output > threshold`` and ``target > threshold``: a score, with no gradient.

    Two empty masks score 1. The other arguments are those of :func:`dice_coe`.

    Shape:
        output and target of one shape; returns a scalar.
    """
    o, t = same_shape("dice_hard_coe", output, target)
    return dice_coe((o > threshold).to(o.dtype), (t > threshold).to(o.dtype), epsilon, axis=axis, smooth=smooth)


def iou_coe(
    output: Tensor,
    target: Tensor,
    threshold: float = 0.5,
    epsilon: float = 1e-10,
    *,
    axis: int | Sequence[int] | None = None,
    smooth: float = 0.0,
    name: str | None = None,
) -> Tensor:
    """Intersection over union of the masks ``output > threshold`` and ``target > threshold``: a score, no gradient.

    Two empty masks score 1. ``axis`` and ``smooth`` are those of :func:`dice_coe`; without ``smooth``, ``epsilon`` is
    added to the union.

    Shape:
        output and target of one shape; returns a scalar.

    >>> iou_coe(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1.0, 0.0, 0.0]))
    tensor(0.5000)
    """
    o, t = same_shape("iou_coe", output, target)
    predicted, true = o > threshold, t > threshold
    intersection = _total((predicted & true).to(o.dtype), axis)
    union = _total((predicted | true).to(o.dtype), axis)
    return _ratio("iou_coe", intersection, union, smooth, 0.0 if smooth else epsilon).mean()


def cross_entropy_seq(
    logits: Tensor,
    target_seqs: Tensor,
    batch_size: int | None = None,
    reduction: Literal["batch", "sum", "mean", "none"] = "batch",
) -> Tensor:
    """Softmax cross-entropy of sequences, **summed over time** and averaged over the batch.

    Args:
        batch_size: what the sum is divided by; the number of sequences unless given.
        reduction: ``"sum"`` divides by nothing, ``"mean"`` is the loss of a token (its exponential is the perplexity),
            ``"none"`` keeps one loss a token.
    Shape:
        logits ``(N * T, V)``, row ``n * T + t``, or ``(N, T, V)``; target_seqs ``(N, T)``, any integer type; returns a
        scalar, or ``(N, T)`` with ``reduction="none"``.

    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3], [0.0, 0.0, 0.0], [1.0, -1.0, 3.0]])
    >>> cross_entropy_seq(logits, torch.tensor([[0, 2], [1, 2]]))
    tensor(2.0393)
    """
    check_sequences("cross_entropy_seq", logits, target_seqs)
    if reduction in ("sum", "mean"):
        return _softmax_loss(logits, target_seqs, reduction)
    if reduction == "none":
        return _softmax_loss(logits, target_seqs, "none").reshape(target_seqs.shape)
    if reduction != "batch":
        raise ValueError(f"cross_entropy_seq: reduction is 'batch', 'sum', 'mean' or 'none', got {reduction!r}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"cross_entropy_seq: batch_size must be at least 1, got {batch_size}")
    return _softmax_loss(logits, target_seqs, "sum") / (target_seqs.shape[0] if batch_size is None else batch_size)


@overload
def cross_entropy_seq_with_mask(
    logits: Tensor,
    target_seqs: Tensor,
    input_mask: Tensor,
    return_details: Literal[False] = False,
    name: str | None = None,
) -> Tensor: ...
@overload
def cross_entropy_seq_with_mask(
    logits: Tensor, target_seqs: Tensor, input_mask: Tensor, return_details: Literal[True], name: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def cross_entropy_seq_with_mask(
    logits: Tensor, target_seqs: Tensor, input_mask: Tensor, return_details: bool = False, name: str | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax cross-entropy of padded sequences, averaged over the tokens where ``input_mask`` is 1.

    A mask of zeros alone gives 0 and a zero gradient. A padded target must still be a class id, 0 for example.

    Shape:
        logits ``(N * T, V)``, row ``n * T + t``, or ``(N, T, V)``; target_seqs and input_mask ``(N, T)``. Returns a
        scalar, or with ``return_details`` the tuple ``(loss, losses, weights, targets)``, whose last three are
        ``(N * T,)``: the loss of every token before masking, the mask, and the ids.

    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3], [0.0, 0.0, 0.0], [1.0, -1.0, 3.0]])
    >>> cross_entropy_seq_with_mask(logits, torch.tensor([[0, 2], [1, 2]]), torch.tensor([[1, 1], [1, 0]]))
    tensor(1.3119)
    """
    check_sequences("cross_entropy_seq_with_mask", logits, target_seqs)
    if not isinstance(input_mask, Tensor) or input_mask.shape != target_seqs.shape:
        raise ValueError(
            f"cross_entropy_seq_with_mask needs one mask value a target: the targets are {tuple(target_seqs.shape)}, "
            f"the mask is {describe(input_mask)}"
        )
    losses = _softmax_loss(logits, target_seqs, "none")
    weights = input_mask.reshape(-1).to(losses.dtype)
    loss = (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)
    return (loss, losses, weights, target_seqs.reshape(-1)) if return_details else loss


def _softmax_loss(logits: Tensor, ids: Tensor, reduction: str) -> Tensor:
    # A conversion to what a tensor already is costs a microsecond, and this runs once a step.
    if logits.dim() != 2:
        logits = logits.reshape(-1, logits.shape[-1])
    if ids.dim() != 1:
        ids = ids.reshape(-1)
    if ids.dtype != torch.int64:
        ids = ids.long()
    return F.cross_entropy(wide(logits), ids, ignore_index=NO_TARGET, reduction=reduction)


def _ratio(owner: str, part: Tensor, whole: Tensor, smooth: float, epsilon: float = 0.0) -> Tensor:
    if smooth < 0:
        raise ValueError(f"{owner}: smooth must not be negative, got {smooth}")
    part, whole = part + smooth, whole + smooth
    empty = (whole == 0).to(whole.dtype)  # makes 0/0 a 1/1, and leaves the gradient finite
    return (part + empty) / (whole + epsilon + empty)


def _total(x: Tensor, axis: int | Sequence[int] | None) -> Tensor:
    if axis is None:
        return x.sum()
    return x.sum(axis if isinstance(axis, int) else tuple(axis))
