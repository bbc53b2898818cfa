"""Every operator on small inputs, once or more for each way through it: what runs under the sanitizers."""

from __future__ import annotations

import torch

from torchlayer import kernels
from torchlayer.kernels._library import OPS

# (N, T, K, V, D): few samples; many in bfloat16, on Hopper with tensor cores; anything else
SHAPES = [((65, 2, 64, 300, 72), torch.float32), ((130, 1, 200, 300, 256), torch.bfloat16)]
SHAPES += [((300, 1, 520, 900, 72), torch.bfloat16), ((257, 3, 264, 900, 320), torch.bfloat16)]
SHAPES += [((33, 9, 12, 50, 7), torch.float16), ((70, 1, 300, 400, 65), torch.float64)]
SHAPES += [((1, 1, 1, 5, 1), torch.float32), ((0, 1, 8, 30, 16), torch.float32)]


def drive(device: torch.device) -> None:
    """Call everything; what the results are is the other tests' business."""
    for op in OPS.values():
        op.overload(*op.example(device))
    generator = torch.Generator(device).manual_seed(0)
    for shape, dtype in SHAPES:
        for offset in (0, 1):
            drive_losses(shape, dtype, offset, device, generator)
    for n_ids in (1, 300, 6000):
        drive_row_optimizers(torch.randint(50, (n_ids,), device=device, generator=generator))
    drive_samplers(device)
    if device.type == "cuda":
        torch.cuda.synchronize()


def drive_losses(
    shape: tuple[int, ...], dtype: torch.dtype, offset: int, device: torch.device, generator: torch.Generator
) -> None:
    """Both losses forward and backward, gradients of rows and dense ones; an offset makes addresses unaligned."""
    n, n_true, k, v, d = shape

    def random(*sizes: int) -> torch.Tensor:
        numbers = torch.randn(offset + torch.Size(sizes).numel(), device=device, generator=generator).to(dtype)
        return numbers[offset:].view(sizes).requires_grad_()

    weight, bias, hidden = random(v, d), random(v), random(n, d)
    labels = torch.randint(v, (n, n_true), device=device, generator=generator)
    values = kernels.log_uniform_sampler(labels, k, v)
    for loss in (kernels.sampled_softmax_loss, kernels.nce_loss):
        for sparse in (True, False):
            loss(weight, bias, hidden, labels, values, sparse=sparse).sum().backward()
        loss(weight, None, hidden, labels, values, remove_accidental_hits=False).sum().backward()


def drive_row_optimizers(ids: torch.Tensor) -> None:
    """Every optimiser of rows with many repeats among few rows."""
    for name in ("row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"):
        op, arguments = OPS[name], list(OPS[name].example(ids.device))
        names = [argument.name for argument in op.overload._schema.arguments]
        width = arguments[names.index("weight")].shape[1:]
        arguments[names.index("ids")] = ids
        arguments[names.index("row_grads")] = torch.ones(len(ids), *width, device=ids.device)
        op.overload(*arguments)


def drive_samplers(device: torch.device) -> None:
    """From one class to all of them, with and without repetition."""
    labels = torch.arange(40, device=device)
    unigram = kernels.FixedUnigram(torch.arange(1.0, 51.0)).to(device)
    for unique in (True, False):
        for n_sampled in (1, 49, 50):
            kernels.uniform_sampler(labels, n_sampled, 50, unique)
            kernels.log_uniform_sampler(labels, n_sampled, 50, unique)
            kernels.fixed_unigram_sampler(labels, n_sampled, 50, unique, unigram=unigram)
