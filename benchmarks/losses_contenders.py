"""The rows of losses.py: one forward and backward pass each, with fresh gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from losses_cases import Case, Problem
from losses_composites import Rows, by_hand, composite, losses_of_rows
from torch import Tensor
from torch.nn import functional as F

from torchlayer.kernels._library import OPS
from torchlayer.kernels._sampled_loss import kept_bytes
from torchlayer.kernels.linear_cross_entropy import linear_cross_entropy
from torchlayer.kernels.nce import nce_loss
from torchlayer.kernels.sampled_softmax import sampled_softmax_loss

_BYTES_A_LOGIT = 12  # what a plain full softmax holds at its peak, as measured
_CHUNK_LOGITS = 2**28


class Result(NamedTuple):
    """Losses, one for each example or their mean, and the gradients of that mean."""

    losses: Tensor
    hidden: Tensor
    weight: Tensor | Rows
    bias: Tensor | Rows | None


class Contender(NamedTuple):
    """A row: its name, its step, how it gives the gradient of the weight, or why there is no step.

    ``gradient`` is "rows", "sparse" or "dense"; "full" says that the loss is over all classes, which is another one.
    """

    name: str
    step: Callable[[], Result] | None
    gradient: str
    reason: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is to be compared with the others."""
        return self.name.startswith("ours")


def contenders(p: Problem, case: Case, loss: str, wanted: list[str], with_compile: bool = True) -> list[Contender]:
    """Those whose names hold one of ``wanted``, all if it is empty; with those of ``torch.compile`` or without."""
    rows = [
        Contender("ours, row gradients", op(p, loss, "overload"), "rows"),
        Contender("ours, sparse", lambda: backward(p, ours(p, loss, True)), "sparse"),
        Contender("ours, dense", lambda: backward(p, ours(p, loss, False)), "dense"),
        Contender("reference, row gradients", op(p, loss, "reference"), "rows"),
        Contender("eager, sparse", lambda: backward(p, composite(p, loss, True)), "sparse"),
        Contender("eager, dense", lambda: backward(p, composite(p, loss, False)), "dense"),
        Contender("eager, rows by hand", lambda: rows_by_hand(p, loss, by_hand), "rows"),
    ]
    if with_compile:
        rows += compiled(p, loss)
    if loss == "softmax":
        rows += full(p, case)
    return [row for row in rows if not wanted or any(part in row.name for part in wanted)]


def ours(p: Problem, loss: str, sparse: bool) -> Tensor:
    """The library's function."""
    function = nce_loss if loss == "nce" else sampled_softmax_loss
    return function(p.weight, p.bias, p.hidden, p.labels, p[4:], sparse=sparse)


def backward(p: Problem, losses: Tensor) -> Result:
    """Gradients of the mean, in fresh buffers, as after ``zero_grad()``."""
    for leaf in p[:3]:
        leaf.grad = None
    losses.mean().backward()
    assert p.hidden.grad is not None
    assert p.weight.grad is not None
    result = Result(losses.detach(), p.hidden.grad, p.weight.grad, p.bias.grad)
    for leaf in p[:3]:
        leaf.grad = None
    return result


def op(p: Problem, loss: str, which: str) -> Callable[[], Result]:
    """The op and its backward without autograd around them: the compiled kernel, or the reference in plain PyTorch."""
    name = "nce_loss" if loss == "nce" else "sampled_softmax_loss"
    forward, backward = (getattr(OPS[each], which) for each in (name, f"{name}_backward"))
    arguments = (*p[:3], p.labels[:, None], p.sampled, p.true_count[:, None], p.sampled_count)
    remove, keep = loss != "nce", kept_bytes(*arguments[:5])
    grad = torch.full((len(p.labels),), 1 / len(p.labels), device=p.labels.device)

    def step() -> Result:
        with torch.no_grad():
            losses, *kept = forward(*arguments, remove, False, keep)
            d_hidden, d_rows, d_biases, ids = backward(grad, *arguments, *kept, remove)
        return Result(losses, d_hidden, [(ids, d_rows)], [(ids, d_biases)])

    return step


def compiled(p: Problem, loss: str) -> list[Contender]:
    """By ``torch.compile``, for the sizes as they are: the dense composite, and the strongest that a user can write.

    Those gather the rows once and give the gradients of rows alone, by autograd or by formulas written out.
    """
    whole = torch.compile(composite, dynamic=False)
    on_rows = torch.compile(losses_of_rows, dynamic=False)
    formulas = torch.compile(by_hand, dynamic=False)

    def rows_by_autograd() -> Result:
        leaves = [p.weight.detach()[p.labels], p.weight.detach()[p.sampled]]
        leaves += [p.bias.detach()[p.labels], p.bias.detach()[p.sampled], p.hidden.detach()]
        true_rows, noise_rows, true_bias, noise_bias, hidden = (leaf.requires_grad_() for leaf in leaves)
        losses = on_rows(hidden, true_rows, noise_rows, true_bias, noise_bias, p.labels, *p[4:], loss)
        d_true, d_noise, d_true_bias, d_noise_bias, d_hidden = torch.autograd.grad(losses.mean(), leaves)
        rows, biases = ([(p.sampled, a), (p.labels, b)] for a, b in ((d_noise, d_true), (d_noise_bias, d_true_bias)))
        return Result(losses.detach(), d_hidden, rows, biases)

    return [
        Contender("torch.compile, dense", lambda: backward(p, whole(p, loss, False)), "dense"),
        Contender("torch.compile, rows by autograd", rows_by_autograd, "rows"),
        Contender("torch.compile, rows by hand", lambda: rows_by_hand(p, loss, formulas), "rows"),
    ]


def rows_by_hand(p: Problem, loss: str, formulas: Callable[..., Any]) -> Result:
    """The composite whose gradients are written out, for the rows alone."""
    with torch.no_grad():
        return Result(*formulas(*p, loss))


def full(p: Problem, case: Case) -> list[Contender]:
    """Softmax over all classes: as it is written, some rows at a time, and fused, ours and others'."""
    n_chunks = max(8, -(-case.n * case.v // _CHUNK_LOGITS))
    rows = []
    for name, n in (("full softmax", 1), (f"full softmax, {n_chunks} chunks", n_chunks)):
        need, room = _BYTES_A_LOGIT * case.n * case.v / n + 2 * p.weight.nbytes, _free_bytes(p.weight.device)
        if need < room:
            rows.append(Contender(name, lambda n=n: full_step(p, n), "full"))
        else:
            reason = f"needs about {need / 1e9:.0f} GB, and {room / 1e9:.0f} GB are free"
            rows.append(Contender(name, None, "full", reason))
    fused = lambda: backward(p, linear_cross_entropy(p.hidden, p.weight, p.labels, p.bias))  # noqa: E731
    return [*rows, Contender("full softmax, linear_cross_entropy", fused, "full"), *_others(p)]


def full_step(p: Problem, n_chunks: int) -> Result:
    """Cross-entropy over all classes and its gradients."""
    for leaf in p[:3]:
        leaf.grad = None
    n = len(p.labels)
    total = torch.zeros((), device=p.labels.device)
    for hidden, labels in zip(p.hidden.chunk(n_chunks), p.labels.chunk(n_chunks)):
        loss = F.cross_entropy(F.linear(hidden, p.weight, p.bias).float(), labels, reduction="sum") / n
        loss.backward()
        total += loss.detach()
    assert p.hidden.grad is not None
    assert p.weight.grad is not None
    result = Result(total, p.hidden.grad, p.weight.grad, p.bias.grad)
    for leaf in p[:3]:
        leaf.grad = None
    return result


def _others(p: Problem) -> list[Contender]:
    """Triton kernels of other libraries, where they are installed, on a GPU."""
    names = ["full softmax, Liger", "full softmax without bias, CCE"]
    if p.weight.device.type != "cuda":
        return [Contender(name, None, "full", "its kernels are for GPUs") for name in names]
    rows = []
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

        liger = LigerFusedLinearCrossEntropyLoss()
        rows.append(Contender(names[0], lambda: backward(p, liger(p.weight, p.hidden, p.labels, p.bias)), "full"))
    except Exception as error:  # a version that does not fit this torch fails in many ways, and the row says in which
        rows.append(Contender(names[0], None, "full", f"pip install --no-deps liger-kernel packaging ({error})"))
    try:
        from cut_cross_entropy import linear_cross_entropy as cce  # type: ignore[import-not-found]

        rows.append(Contender(names[1], lambda: backward(p, cce(p.hidden, p.weight, p.labels)), "full"))
    except Exception as error:
        rows.append(Contender(names[1], None, "full", f"pip install --no-deps cut-cross-entropy ({error})"))
    return rows


def _free_bytes(device: torch.device) -> float:
    """What may still be allocated, less a reserve for everybody else's buffers."""
    if device.type != "cuda":
        return 8e9
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return 0.8 * (torch.cuda.mem_get_info()[0] + unused)
