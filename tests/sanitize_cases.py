"""Every operator on small inputs, once or more for each way through it: what runs under the sanitizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torchlayer import kernels
from torchlayer.kernels._library import OPS

# (N, T, K, V, D): few samples; many in bfloat16, on Hopper with tensor cores, last with whole tiles; anything else
SHAPES = [((65, 2, 64, 300, 72), torch.float32), ((130, 1, 200, 300, 256), torch.bfloat16)]
SHAPES += [((300, 1, 520, 900, 72), torch.bfloat16), ((257, 3, 264, 900, 320), torch.bfloat16)]
SHAPES += [((4400, 1, 520, 900, 72), torch.bfloat16)]
SHAPES += [((33, 9, 12, 50, 7), torch.float16), ((70, 1, 300, 400, 65), torch.float64)]
SHAPES += [((1, 1, 1, 5, 1), torch.float32), ((0, 1, 8, 30, 16), torch.float32)]
# many samples: tiles of other sizes, the next on its way, and several batches of rows a warp
SHAPES += [((4161, 3, 60, 300, 200), torch.float32), ((4161, 3, 60, 300, 200), torch.bfloat16)]
SHAPES += [((4161, 1, 200, 300, 256), torch.float32), ((16387, 2, 264, 900, 72), torch.bfloat16)]
WIDTHS = [128, 264, 1024, 2600]  # of row optimisers: a warp for a row, or several, and once or twice through it


def drive(device: torch.device) -> None:
    """Call everything; what the results are is the other tests' business."""
    for op in OPS.values():
        op.overload(*op.example(device))
    generator = torch.Generator(device).manual_seed(0)
    for shape, dtype in SHAPES:
        for offset in (0, 1):
            if goes_through_the_copy_engine(shape, dtype, offset):
                with fresh_memory_is_nan():
                    drive_losses(shape, dtype, offset, device, generator)
            else:
                drive_losses(shape, dtype, offset, device, generator)
    for n_ids in (1, 300, 6000):
        drive_row_optimizers(torch.randint(50, (n_ids,), device=device, generator=generator), 128)
    for width in WIDTHS:  # most of the rows have few places
        drive_row_optimizers(torch.randint(3000, (6000,), device=device, generator=generator), width)
    drive_samplers(device)
    drive_writing(device, generator)
    if device.type == "cuda":
        torch.cuda.synchronize()


def goes_through_the_copy_engine(shape: tuple[int, ...], dtype: torch.dtype, offset: int) -> bool:
    """Whether Hopper's kernels store by bulk copies, which initcheck does not count as writes."""
    _, _, n_sampled, _, n_features = shape
    return dtype == torch.bfloat16 and offset == 0 and max(n_sampled, n_features) > 256


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """What torch allocates is filled, so that reading it before it is written shows in the results."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # of which torch.utils.deterministic.fill_uninitialized_memory is a part
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


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
            losses = loss(weight, bias, hidden, labels, values, sparse=sparse)
            losses.sum().backward()
            check_finite(losses, weight, bias, hidden)
        losses = loss(weight, None, hidden, labels, values, remove_accidental_hits=False)
        losses.sum().backward()
        check_finite(losses, weight, hidden)


def check_finite(losses: torch.Tensor, *leaves: torch.Tensor) -> None:
    """Raise if a loss or a gradient is not, and take the gradients away."""
    for number in (losses, *(leaf.grad for leaf in leaves)):
        assert number is not None
        assert number.to_dense().isfinite().all(), f"{tuple(number.shape)} numbers, of which some are not finite"
    for leaf in leaves:
        leaf.grad = None


def drive_row_optimizers(ids: torch.Tensor, width: int) -> None:
    """Every optimiser of rows."""
    n_rows, options = 5000, {"device": ids.device}
    for name in ("row_sgd_", "row_adagrad_", "row_rowwise_adagrad_", "row_adam_"):
        op = OPS[name]
        arguments = []
        for argument, given in zip(op.overload._schema.arguments, op.example(ids.device), strict=True):
            if argument.name == "ids":
                given = ids
            elif argument.name == "row_grads":
                given = torch.ones(len(ids), width, **options)
            elif isinstance(given, torch.Tensor) and given.dim() == 2:
                given = torch.ones(n_rows, width, **options)
            arguments.append(given)
        op.overload(*arguments)


def drive_samplers(device: torch.device) -> None:
    """From one class to all of them, with and without repetition."""
    labels = torch.arange(40, device=device)
    unigram = kernels.FixedUnigram(torch.arange(1.0, 51.0)).to(device)
    learned = kernels.LearnedUnigram(50).to(device)
    for unique in (True, False):
        for n_sampled in (1, 49, 50):
            kernels.uniform_sampler(labels, n_sampled, 50, unique)
            kernels.log_uniform_sampler(labels, n_sampled, 50, unique)
            kernels.fixed_unigram_sampler(labels, n_sampled, 50, unique, unigram=unigram)
            kernels.learned_unigram_sampler(labels, n_sampled, 50, unique, unigram=learned)
    learned = kernels.LearnedUnigram(140_001).to(device)  # three levels of sums, and groups that are not full
    for n_sampled in (60, 1100):
        for unique in (True, False):
            learned(labels, n_sampled, 140_001, unique)


def drive_writing(device: torch.device, generator: torch.Generator) -> None:
    """Steps of LSTM cells and draws, of aligned rows and others; equal logits are more than a block has threads."""
    for dtype in (torch.float32, torch.bfloat16):
        for n, n_in, n_units in ((1, 64, 40), (3, 33, 17), (9, 300, 8)):
            shapes = [(n, n_in), (n, n_units), (n, n_units), (4 * n_units, n_in), (4 * n_units, n_units)]
            numbers = (torch.randn(shape, device=device, generator=generator).to(dtype) for shape in shapes)
            kernels.lstm_step(*numbers, None, None)
        for v, k in ((5, 5), (3000, 10), (9000, 1024)):
            noise = torch.empty(2, k, device=device).exponential_(generator=generator)
            kernels.draw_top_k(torch.randn(2, v, device=device, generator=generator).to(dtype), noise)
            kernels.draw_top_k(torch.zeros(2, v, device=device, dtype=dtype), noise, 0.7)
