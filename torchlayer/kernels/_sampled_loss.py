"""What sampled softmax and NCE share: their arguments, the logits of the reference, and the weights' gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library, bad_ids

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MOST_KEPT, _MOST_KEPT_ON_GPU = 128 * 2**20, 192 * 2**20
_PLAIN = (Tensor, torch.nn.Parameter)
# torch.sparse_coo_tensor without its warning, in some versions of torch, that it checks nothing as it was told
_sparse = torch.ops.aten._sparse_coo_tensor_unsafe.default
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda losses: losses,
    "mean": lambda losses: losses.mean(),
    "sum": lambda losses: losses.sum(),
}


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over numbers of ``dtype`` are kept in: sixteen bits are for storage."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasting(tensor: Tensor) -> bool:
    """Whether autocast is on where ``tensor`` is."""
    device = tensor.device.type
    # torch.amp.is_autocast_available would tell, but torch 2.11 cannot trace it
    return device != "meta" and torch.is_autocast_enabled(device)


def prepare(
    name: str,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled_values: Sequence[Tensor],
    subtract_log_q: bool,
    reduction: str,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The arguments of a public function, checked, as its op takes them."""
    ready = None if torch.compiler.is_compiling() else _as_they_are(weight, bias, hidden, labels, sampled_values)
    if ready is not None and isinstance(reduction, str) and reduction in REDUCTIONS:
        return ready if subtract_log_q else (*ready[:5], None, None)
    for argument, value in (("weight", weight), ("hidden", hidden), ("labels", labels), ("bias", bias)):
        check_dense(name, argument, value, optional=argument == "bias")
    if not isinstance(sampled_values, tuple | list) or len(sampled_values) != 3:
        got = f"{len(sampled_values)} values" if isinstance(sampled_values, tuple | list) else _kind(sampled_values)
        raise TypeError(
            f"{name} needs sampled_values as (sampled, true_expected_count, sampled_expected_count), as the samplers "
            f"return them, got {got}"
        )
    sampled, true_count, sampled_count = sampled_values
    for argument, value in (
        ("sampled", sampled),
        ("true_expected_count", true_count),
        ("sampled_expected_count", sampled_count),
    ):
        check_dense(name, argument, value)
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"{name} needs reduction 'none', 'mean' or 'sum', got {reduction!r}")

    if autocasting(hidden) and hidden.is_floating_point():
        hidden = hidden.to(weight.dtype)  # losses are computed in the weights' precision there, as torch's are
    labels, true_count = as_columns(labels), as_columns(true_count)
    if not true_count.is_floating_point() or not sampled_count.is_floating_point():
        raise TypeError(f"{name} needs floating-point expected counts, got {true_count.dtype}, {sampled_count.dtype}")
    real = sum_dtype(weight.dtype)
    true_count, sampled_count = _constant(true_count, real), _constant(sampled_count, real)
    check(name, weight, bias, hidden, labels, sampled, true_count, sampled_count)
    if not subtract_log_q:
        return weight, bias, hidden, labels, sampled, None, None
    return weight, bias, hidden, labels, sampled, true_count, sampled_count


def _as_they_are(
    weight: Tensor, bias: Tensor | None, hidden: Tensor, labels: Tensor, sampled_values: Sequence[Tensor]
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor] | None:
    """What :func:`prepare` returns where nothing is wrong and nothing to be converted, else None: one look, in half the
    time that it takes to say what is wrong.
    """
    if not isinstance(sampled_values, tuple) or len(sampled_values) != 3:
        return None
    sampled, true_count, sampled_count = sampled_values
    tensors = (weight, hidden, labels, sampled, true_count, sampled_count)
    for tensor in tensors if bias is None else (*tensors, bias):
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided or tensor.is_nested:
            return None
    dtype, device = weight.dtype, weight.device
    if dtype not in DTYPES or true_count.requires_grad or sampled_count.requires_grad:
        return None
    real = sum_dtype(dtype)
    dtypes = (hidden.dtype, labels.dtype, sampled.dtype, true_count.dtype, sampled_count.dtype)
    if dtypes != (dtype, torch.int64, torch.int64, real, real):
        return None
    devices = (hidden.device, labels.device, sampled.device, true_count.device, sampled_count.device)
    if devices != (device,) * 5:
        return None
    rows, by_sample, by_label = weight.shape, sampled.shape, labels.shape
    ranks = len(rows) == 2 and len(by_sample) == 1 and len(by_label) in (1, 2)
    if not ranks or 0 in rows or 0 in by_sample or 0 in by_label[1:]:
        return None
    if (hidden.shape, true_count.shape, sampled_count.shape) != ((by_label[0], rows[1]), by_label, by_sample):
        return None
    if bias is not None and (bias.dtype != dtype or bias.device != device or bias.shape != rows[:1]):
        return None
    return weight, bias, hidden, labels, sampled, true_count, sampled_count


def check_dense(name: str, argument: str, value: Any, optional: bool = False) -> None:
    """Raise for what is no tensor that is stored as one block of numbers.

    Raises:
        TypeError: so it is.
    """
    if value is None and optional:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} needs {argument} as a tensor, got {_kind(value)}")
    if not _library.is_block(value):
        kind = "nested" if value.is_nested else str(value.layout)
        raise TypeError(f"{name} needs {argument} as a dense tensor, got a {kind} one")


def check(
    name: str,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    labels: Tensor,
    sampled: Tensor,
    true_count: Tensor | None,
    sampled_count: Tensor | None,
) -> None:
    """Raise for dtypes, shapes and devices that do not fit; looks at no element.

    Raises:
        TypeError: a dtype is wrong, or weight, bias and hidden differ in it.
        ValueError: a shape is wrong or empty, or the tensors are on several devices.
    """
    if weight.dtype not in DTYPES:
        raise TypeError(f"{name} needs weight in float32, float64, float16 or bfloat16, got {weight.dtype}")
    for argument, value in (("hidden", hidden), ("bias", bias)):
        if value is not None and value.dtype != weight.dtype:
            raise TypeError(
                f"{name} needs weight and {argument} of one dtype, got {weight.dtype} and {value.dtype}; "
                f"call {argument}.to(weight.dtype)"
            )
    for argument, value in (("labels", labels), ("sampled", sampled)):
        if value.dtype != torch.int64:
            raise TypeError(f"{name} needs int64 {argument}, got {value.dtype}; call {argument}.long()")
    if weight.dim() != 2:
        raise ValueError(f"{name} needs weight (V, D), one row a class, got {_shape(weight)}")
    n_classes, n_features = weight.shape
    if n_classes == 0 or n_features == 0:
        raise ValueError(f"{name} needs at least one class and one feature, got weight {_shape(weight)}")
    if hidden.dim() != 2 or hidden.shape[1] != n_features:
        raise ValueError(
            f"{name} needs hidden (N, {n_features}), one row an example, to go with weight {_shape(weight)}, "
            f"got {_shape(hidden)}"
        )
    n = hidden.shape[0]
    if labels.dim() not in (1, 2) or labels.shape[0] != n or 0 in labels.shape[1:]:
        raise ValueError(f"{name} needs labels ({n},) or ({n}, T), one row an example, got {_shape(labels)}")
    if bias is not None and bias.shape != (n_classes,):
        raise ValueError(f"{name} needs bias ({n_classes},), one value a class, got {_shape(bias)}")
    if sampled.dim() != 1 or sampled.shape[0] == 0:
        raise ValueError(f"{name} needs sampled (K,) with at least one class, got {_shape(sampled)}")
    if (true_count is None) != (sampled_count is None):
        raise ValueError(f"{name} needs both expected counts or neither")
    if true_count is not None and true_count.shape != labels.shape:
        raise ValueError(
            f"{name} needs true_expected_count in the shape of labels, {_shape(labels)}, got {_shape(true_count)}"
        )
    if sampled_count is not None and sampled_count.shape != sampled.shape:
        raise ValueError(
            f"{name} needs sampled_expected_count in the shape of sampled, {_shape(sampled)}, "
            f"got {_shape(sampled_count)}"
        )
    device = weight.device
    others = (bias, hidden, labels, sampled, true_count, sampled_count)
    if any(tensor is not None and tensor.device != device for tensor in others):
        devices = sorted({str(tensor.device) for tensor in (weight, *others) if tensor is not None})
        raise ValueError(f"{name} needs all tensors on one device, got {' and '.join(devices)}")


def as_columns(per_label: Any) -> Any:
    """What is given for each label, or None, as ``(N, T)``."""
    return per_label[:, None] if per_label is not None and per_label.dim() == 1 else per_label


def check_per_row(name: str, argument: str, value: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise for what is not one number a row in the precision of the sums.

    Raises:
        ValueError: so it is.
    """
    real = sum_dtype(weight.dtype)
    if value.shape != labels.shape[:1] or value.dtype != real:
        raise ValueError(f"{name} needs {argument} (N,) in {real}, got {_shape(value)} in {value.dtype}")


def check_ids(name: str, argument: str, ids: Tensor, n_classes: int, least: int = 0) -> Tensor:
    """Which ids are not from ``least`` to ``n_classes - 1``. On a CPU none may be; on a GPU nobody waits to see, unless
    ``TORCHLAYER_CHECK=1`` asks.

    Raises:
        IndexError: the first of them, with its row.
    """
    bad = (ids < least) | (ids >= n_classes)
    if bad_ids.may_look_at(ids) and bool(bad.any()):
        at = bad.nonzero()[0]
        raise IndexError(
            f"{name} needs {argument} from {least} to {n_classes - 1}, got {ids[tuple(at)]} in row {at[0]}"
        )
    return bad


class Logits:
    """The reference: every logit at once, in the precision of the sums, true columns first.

    Where an id names no class and nobody looked, the row's loss is NaN and its gradients are zero: :attr:`bad`.
    """

    def __init__(
        self,
        name: str,
        weight: Tensor,
        bias: Tensor | None,
        hidden: Tensor,
        labels: Tensor,
        sampled: Tensor,
        true_count: Tensor | None,
        sampled_count: Tensor | None,
        remove_accidental_hits: bool,
    ):
        check(name, weight, bias, hidden, labels, sampled, true_count, sampled_count)
        labels, true_count = as_columns(labels), as_columns(true_count)
        n_classes, self.n_true, real = weight.shape[0], labels.shape[1], sum_dtype(weight.dtype)
        bad_labels = check_ids(name, "labels", labels, n_classes)
        bad_samples = check_ids(name, "sampled ids", sampled, n_classes)
        self.bad = bad_labels.any(1) | bad_samples.any()  # (N,)
        labels, sampled = labels.clamp(0, n_classes - 1), sampled.clamp(0, n_classes - 1)
        self.ids = torch.cat((sampled, labels.flatten()))  # (K + N * T,)

        with torch.autocast(hidden.device.type, enabled=False):  # a reference is exact, whoever calls it
            self.hidden = hidden.to(real)
            self.true_rows, self.sampled_rows = weight[labels].to(real), weight[sampled].to(real)  # (N, T, D), (K, D)
            true = torch.einsum("nd,ntd->nt", self.hidden, self.true_rows)
            noise = self.hidden @ self.sampled_rows.T
            if bias is not None:
                true, noise = true + bias[labels].to(real), noise + bias[sampled].to(real)
            self.hits = torch.zeros_like(noise, dtype=torch.bool)
            if remove_accidental_hits:
                self.hits = (labels[:, :, None] == sampled).any(1)  # (N, K)
            if true_count is not None and sampled_count is not None:
                true, noise = true - true_count.log(), noise - sampled_count.log()
            self.all = torch.cat((true, noise.masked_fill(self.hits, -math.inf)), 1)  # (N, T + K)
            self.targets = torch.zeros_like(self.all)
            self.targets[:, : self.n_true] = 1 / self.n_true

    def gradients(self, grad: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From the gradient of every logit to those of ``hidden``, of the rows and of the biases, and the rows' ids."""
        grad = grad.masked_fill(self.bad[:, None], 0)
        true, noise = grad[:, : self.n_true], grad[:, self.n_true :].masked_fill(self.hits, 0)
        with torch.autocast(grad.device.type, enabled=False):
            d_hidden = noise @ self.sampled_rows + torch.einsum("nt,ntd->nd", true, self.true_rows)
            by_samples = noise.T @ self.hidden  # (K, D)
        true_rows = (true[:, :, None] * self.hidden[:, None, :]).flatten(0, 1)  # (N * T, D)
        rows = torch.cat((by_samples, true_rows))
        biases = torch.cat((noise.sum(0), true.flatten()))
        return d_hidden.to(dtype), rows.to(dtype), biases, self.ids


def kept_bytes(weight: Tensor, bias: Tensor | None, hidden: Tensor, labels: Tensor, sampled: Tensor) -> int:
    """How much the forward kernel may leave for the backward one, which otherwise computes the logits again.

    On a GPU, few samples' errors are kept in float32; of many, what sixteen bits hold of them, up to 192 MiB. On a CPU,
    as many whole rows of errors as these have room for, in bfloat16 if that is the inputs' type.
    """
    wanted = weight.requires_grad or hidden.requires_grad or (bias is not None and bias.requires_grad)
    if not wanted or not torch.is_grad_enabled() or not (hidden.is_cuda or hidden.is_cpu):
        return 0
    n_true = labels.shape[1] if labels.dim() == 2 else 1
    n, n_sampled = hidden.shape[0], sampled.shape[0]
    if hidden.is_cpu:
        real = sum_dtype(weight.dtype)
        stored = torch.bfloat16 if weight.dtype == torch.bfloat16 else real
        row = n_sampled * stored.itemsize + (1 + n_true) * real.itemsize  # as `Kept` in csrc/kept_errors.h
        return row * min(n, _MOST_KEPT // row)
    return kept_on_gpu(weight, hidden, n_true, n_sampled)


def kept_on_gpu(weight: Tensor, hidden: Tensor, n_true: int, n_sampled: int) -> int:
    """The same of a GPU's kernels."""
    n, n_features = hidden.shape
    if weight.dtype == torch.float64:
        return 0
    if n_sampled <= 256 and n_features <= 256 and n_true <= 8:
        return 4 * n * (n_sampled + n_true)
    if weight.dtype != torch.bfloat16 or n_features % 8:
        return 0
    errors = min(2 * n * (n_sampled + 7), _MOST_KEPT_ON_GPU)
    # beside them what sampled_loss_wide_kept.cuh lists
    return errors + 2 * n_sampled * n_features + 8 * n_sampled + 12 * n + 8 * n * n_true + 8192


def nothing_kept(losses: Tensor, keep_bytes: int) -> Tensor:
    """What takes the place of it where nobody reads it."""
    return losses.new_empty((keep_bytes,), dtype=torch.uint8)


def fake_gradients(hidden: Tensor, labels: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes of ``d_hidden``, of the rows and biases of classes ``cat(sampled, labels)``, and of those ids."""
    n_rows = sampled.shape[0] + labels.numel()
    return (
        hidden.new_empty(hidden.shape),
        hidden.new_empty((n_rows, hidden.shape[1])),
        hidden.new_empty((n_rows,), dtype=sum_dtype(hidden.dtype)),
        hidden.new_empty((n_rows,), dtype=torch.int64),
    )


def backward_by(op: Any) -> Callable[..., tuple[Tensor | None, ...]]:
    """The backward of a loss whose gradients ``op`` computes."""

    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        weight, bias = saved[:2]
        gradients = call_backward(op, grad, *saved, ctx.remove_accidental_hits)
        return *input_gradients(ctx, weight, bias, gradients), *[None] * 7

    return backward


def call_backward(op: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With create_graph the op itself is called, which can say that it has no gradient."""
    return op(*arguments) if torch.is_grad_enabled() else _library.below_autograd(op, *arguments)


def input_gradients(
    ctx: Any, weight: Tensor, bias: Tensor, gradients: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Of weight, bias and ``hidden``, from what a backward op returns."""
    d_hidden, d_rows, d_biases, ids = gradients
    needs_weight, needs_bias = ctx.needs_input_grad[:2]
    d_weight = _parameter_gradient(weight, ids, d_rows, ctx.sparse) if needs_weight else None
    d_bias = _parameter_gradient(bias, ids, d_biases, ctx.sparse) if needs_bias else None
    return d_weight, d_bias, d_hidden


def _parameter_gradient(parameter: Tensor, ids: Tensor, rows: Tensor, sparse: bool) -> Tensor:
    """The gradient of weight or bias from that of the rows of classes ``ids``."""
    if sparse:
        rows = rows if rows.dtype is parameter.dtype else rows.to(parameter.dtype)
        return _sparse(ids.unsqueeze(0), rows, parameter.shape)
    if parameter.dtype in (torch.float32, torch.float64):
        return torch.zeros_like(parameter, memory_format=torch.contiguous_format).index_add_(0, ids, rows)
    # Thousands of rows may belong to one class: they are summed in float32 and rounded once. No shape depends on how
    # many classes there are: the sums left over are zero, and are added to the first class.
    ids, order = ids.sort(stable=True)
    group = torch.cat((ids.new_zeros(1), (ids[1:] != ids[:-1]).long())).cumsum(0)
    sums = torch.zeros_like(rows, dtype=torch.float32).index_add_(0, group, rows[order].float())
    classes = torch.zeros_like(ids).scatter_(0, group, ids)
    dense = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    return dense.index_add_(0, classes, sums.to(parameter.dtype))


def example(device: torch.device) -> tuple[Any, ...]:
    """Arguments of the ops up to ``remove_accidental_hits``, with hits and a repeated sample."""
    generator = torch.Generator(device).manual_seed(0)
    n, n_true, n_sampled, n_classes, n_features = 128, 2, 64, 5000, 128
    weight, bias, hidden = (
        torch.randn(shape, device=device, generator=generator) * 0.3
        for shape in ((n_classes, n_features), (n_classes,), (n, n_features))
    )
    labels = torch.randint(n_classes, (n, n_true), device=device, generator=generator)
    sampled = torch.randint(n_classes, (n_sampled,), device=device, generator=generator)
    sampled[:3] = labels[0, 0]
    counts = (torch.rand(shape, device=device, generator=generator) + 0.01 for shape in (labels.shape, sampled.shape))
    return weight, bias, hidden, labels, sampled, *counts, True


def _constant(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _kind(value: Any) -> str:
    return type(value).__name__


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
