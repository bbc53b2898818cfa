from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests import vectors
from torchlayer import cost

N, T, C = 3, 2, 4


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def ids(*shape):
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(sum(shape)))


PROBABILITIES = random(N, C).sigmoid()
MASK = (random(C, N).T > 0).double()

# Every loss that can be trained on: the function, what it is given first, and its other arguments.
LOSSES = {
    "cross_entropy": (cost.cross_entropy, random(N, C), (ids(N),)),
    "cross_entropy of images": (cost.cross_entropy, random(N, 2, 2, C), (ids(N, 2, 2),)),
    "sigmoid_cross_entropy": (cost.sigmoid_cross_entropy, random(N, C), (MASK,)),
    "binary_cross_entropy": (cost.binary_cross_entropy, PROBABILITIES, (MASK,)),
    "mean_squared_error": (cost.mean_squared_error, random(N, C), (random(C, N).T,)),
    "mean_squared_error is_mean": (lambda o, t: cost.mean_squared_error(o, t, True), random(N, C), (MASK,)),
    "absolute_difference_error": (cost.absolute_difference_error, random(N, C), (random(C, N).T,)),
    "normalized_mean_square_error": (cost.normalized_mean_square_error, random(N, C), (random(C, N).T,)),
    "cosine_similarity": (lambda a, b: cost.cosine_similarity(a, b).sum(), random(N, C), (random(C, N).T,)),
    "dice_coe": (cost.dice_coe, PROBABILITIES, (MASK,)),
    "dice_coe of each": (lambda o, t: cost.dice_coe(o, t, axis=1, smooth=1e-5), PROBABILITIES, (MASK,)),
    "cross_entropy_seq": (cost.cross_entropy_seq, random(N * T, C), (ids(N, T),)),
    "cross_entropy_seq_with_mask": (
        cost.cross_entropy_seq_with_mask,
        random(N * T, C),
        (ids(N, T), torch.tensor([[1, 1], [1, 0], [0, 0]])),
    ),
}
SCORES = {
    "dice_hard_coe": (cost.dice_hard_coe, PROBABILITIES, (MASK,)),
    "iou_coe": (cost.iou_coe, PROBABILITIES, (MASK,)),
}


def rows(table):
    return pytest.mark.parametrize(("function", "first", "rest"), table.values(), ids=table.keys())


@pytest.mark.parametrize(("function", "args", "kwargs", "expected"), vectors.of("cost"))
def test_agrees_with_the_original(function, args, kwargs, expected):
    torch.testing.assert_close(vectors.call(function, args, kwargs), torch.tensor(expected), atol=2e-6, rtol=0)


@rows(LOSSES)
def test_gradients_agree_with_finite_differences(function, first, rest):
    assert torch.autograd.gradcheck(lambda x: function(x, *rest), (first.clone().requires_grad_(),))


@rows(LOSSES | SCORES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(function, first, rest, dtype):
    half = first.to(dtype)
    found = function(half, *rest)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, function(half.float(), *rest), atol=0, rtol=0)


@rows(LOSSES)
def test_half_precision_gets_a_finite_gradient_of_its_own_dtype(function, first, rest):
    x = first.bfloat16().requires_grad_()
    function(x, *rest).backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.isfinite().all()


@rows(LOSSES | SCORES)
def test_compiles_into_one_graph(function, first, rest):
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(first, *rest), function(first, *rest))


@rows(LOSSES | SCORES)
def test_reads_nothing_back_from_the_device(function, first, rest):
    # A meta tensor has no data: reading a value, or branching on one, raises.
    assert function(first.to("meta"), *(x.to("meta") for x in rest)).shape == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures a CUDA graph, needs a GPU")
@rows(LOSSES)
def test_replays_in_a_cuda_graph(function, first, rest):
    x = first.float().cuda().requires_grad_()
    others = [y.cuda() for y in rest]

    def step():
        x.grad = None
        loss = function(x, *others)
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    x.grad = None
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():
        x.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(loss.detach(), function(x, *others).detach())


# Softmax cross-entropy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64]
)
def test_any_integer_type_is_a_class_id(dtype):
    logits, target = random(N, C), ids(N)
    assert cost.cross_entropy(logits, target.to(dtype)) == cost.cross_entropy(logits, target)


@pytest.mark.parametrize("label", [-100, -1, C])
def test_a_label_out_of_range_is_an_error_and_never_ignored(label):
    target = torch.tensor([0, label, 1])
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        cost.cross_entropy(random(N, C), target)
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
        cost.cross_entropy_seq(random(N, C), target.view(N, 1))


def test_images_have_their_class_axis_last():
    logits, target = random(N, 2, 5, C), ids(N, 2, 5)
    torch.testing.assert_close(
        cost.cross_entropy(logits, target), F.cross_entropy(logits.permute(0, 3, 1, 2), target), atol=1e-12, rtol=0
    )


def test_cross_entropy_is_the_mean_log_probability_in_float64():
    logits, target = random(N, C).numpy() * 30, ids(N).numpy()
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -log_probabilities[np.arange(N), target].mean()
    assert cost.cross_entropy(torch.from_numpy(logits), torch.from_numpy(target)).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "target", "error", "message"),
    [
        (random(N, C), random(N), TypeError, "takes integer class ids, got a target of torch.float64; for ids call"),
        (random(N, C), MASK.bool(), TypeError, "got a target of torch.bool; .* for one-hot rows target.argmax"),
        (random(N, C), [0, 1, 2], TypeError, "takes tensors, got Tensor and list; convert with torch.as_tensor"),
        (np.zeros((3, 4)), ids(N), TypeError, "takes tensors, got ndarray and Tensor"),
        (random(N, C), MASK.long(), ValueError, r"got logits \(3, 4\) and targets \(3, 4\); for one-hot rows pass"),
        (random(N, C), ids(N, 1), ValueError, r"got logits \(3, 4\) and targets \(3, 1\); pass target.squeeze\(-1\)"),
        (
            random(N, C),
            ids(N + 1),
            ValueError,
            r"got logits \(3, 4\) and targets \(4,\); the class axis is the last one",
        ),
        (random(N, C, 5, 6), ids(N, 5, 6), ValueError, r"last one: pass output.movedim\(1, -1\)"),
        (random(1)[0], ids(N), ValueError, r"got logits \(\) and targets \(3,\)"),
    ],
)
def test_cross_entropy_explains_a_wrong_input(output, target, error, message):
    with pytest.raises(error, match=f"^cross_entropy .*{message}"):
        cost.cross_entropy(output, target)


# Element-wise losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        cost.sigmoid_cross_entropy,
        cost.binary_cross_entropy,
        cost.mean_squared_error,
        cost.absolute_difference_error,
        cost.normalized_mean_square_error,
        cost.dice_coe,
        cost.dice_hard_coe,
        cost.iou_coe,
    ],
)
def test_two_shapes_are_named_and_never_broadcast(function):
    with pytest.raises(ValueError, match=rf"^{function.__name__} needs .* one shape, got \(3, 4\) and \(3, 1\)"):
        function(PROBABILITIES, MASK[:, :1])
    with pytest.raises(
        TypeError, match=f"^{function.__name__} takes tensors, got list; convert it with torch.as_tensor"
    ):
        function(PROBABILITIES, MASK.tolist())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_a_mask_of_any_type_is_a_target(dtype):
    for function in (cost.sigmoid_cross_entropy, cost.binary_cross_entropy, cost.dice_coe, cost.iou_coe):
        assert function(PROBABILITIES, MASK.to(dtype)) == function(PROBABILITIES, MASK)


def test_sigmoid_cross_entropy_is_exact_for_huge_logits():
    x = torch.tensor([1000.0, -1000.0], requires_grad=True)
    loss = cost.sigmoid_cross_entropy(x, torch.tensor([0.0, 0.0]))
    loss.backward()
    assert loss.item() == 500.0
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.0]


def test_epsilon_bounds_the_loss_of_a_probability_even_in_half_precision():
    loss = cost.binary_cross_entropy(torch.tensor([0.0, 1.0], dtype=torch.float16), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-5)


def test_binary_cross_entropy_takes_soft_targets():
    p, z = PROBABILITIES.numpy(), random(N, C, 1)[..., 0].sigmoid().numpy()
    expected = -(z * np.log(p + 1e-8) + (1 - z) * np.log(1 - p + 1e-8)).mean()
    assert cost.binary_cross_entropy(PROBABILITIES, torch.from_numpy(z)).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (2, 3, 4, 5)])
def test_squared_error_sums_axis_one_and_absolute_error_sums_all_but_the_first(shape):
    o, t = random(*shape).numpy(), random(*shape, 1)[..., 0].numpy()
    args = torch.from_numpy(o), torch.from_numpy(t)
    rows_last = tuple(range(1, o.ndim))
    norms = np.sqrt(((o - t) ** 2).sum(rows_last)) / np.sqrt((t**2).sum(rows_last))
    for found, expected in [
        (cost.mean_squared_error(*args), ((o - t) ** 2).sum(1).mean()),
        (cost.mean_squared_error(*args, is_mean=True), ((o - t) ** 2).mean()),
        (cost.absolute_difference_error(*args), np.abs(o - t).sum(rows_last).mean()),
        (cost.absolute_difference_error(*args, is_mean=True), np.abs(o - t).mean()),
        (cost.normalized_mean_square_error(*args), norms.mean()),
    ]:
        assert found.item() == pytest.approx(expected)


def test_squared_error_of_a_vector_asks_for_the_mean():
    with pytest.raises(ValueError, match=r"sums over axis 1, which shape \(3,\) does not have; pass is_mean=True"):
        cost.mean_squared_error(torch.ones(3), torch.zeros(3))
    assert cost.mean_squared_error(torch.ones(3), torch.zeros(3), is_mean=True).item() == 1.0


def test_cosine_similarity_of_a_zero_row_is_zero_with_a_finite_gradient():
    v = torch.zeros(1, 3, requires_grad=True)
    similarity = cost.cosine_similarity(v, torch.ones(1, 3))
    similarity.sum().backward()
    assert similarity.item() == 0
    assert v.grad is not None
    assert v.grad.isfinite().all()


def test_cosine_similarity_compares_rows_with_one_row():
    v, u = random(N, C), random(1, C)
    expected = (v * u).sum(1) / (v.norm(dim=1) * u.norm())
    torch.testing.assert_close(cost.cosine_similarity(v, u), expected)
    with pytest.raises(ValueError, match=r"compares rows of \(N, D\), got \(4,\) and \(4,\); add a batch axis"):
        cost.cosine_similarity(u[0], u[0])


# Segmentation scores -------------------------------------------------------------------------------------------------

EMPTY = torch.zeros(2, 4)


@pytest.mark.parametrize("function", [cost.dice_coe, cost.dice_hard_coe, cost.iou_coe])
@pytest.mark.parametrize("kwargs", [{}, {"axis": 1}, {"smooth": 1e-5}, {"epsilon": 0}])
def test_two_empty_masks_match(function, kwargs):
    assert function(EMPTY, EMPTY, **kwargs).item() == 1.0


@pytest.mark.parametrize("function", [cost.dice_coe, cost.dice_hard_coe, cost.iou_coe])
def test_disjoint_masks_score_zero(function):
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert function(mask, 1 - mask).item() == 0.0


def test_dice_of_empty_masks_has_a_finite_gradient():
    output = EMPTY.clone().requires_grad_()
    cost.dice_coe(output, EMPTY).backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_dice_averages_the_examples_when_given_their_axes():
    each = [cost.dice_coe(o, t) for o, t in zip(PROBABILITIES, MASK)]
    torch.testing.assert_close(cost.dice_coe(PROBABILITIES, MASK, axis=1), torch.stack(each).mean())
    images = PROBABILITIES.reshape(N, 2, 2, 1)
    torch.testing.assert_close(
        cost.dice_coe(images, MASK.reshape(N, 2, 2, 1), axis=[1, 2, 3]), torch.stack(each).mean()
    )


@pytest.mark.parametrize(("smooth", "epsilon"), [(0.0, 0), (1.0, 0), (0.5, 1e-5)])
def test_dice_follows_its_formulas(smooth, epsilon):
    o, t = PROBABILITIES.numpy(), MASK.numpy()
    square, plain = (o * o).sum() + (t * t).sum(), o.sum() + t.sum()
    for loss_type, size in [("jaccard", square), ("sorensen", plain)]:
        found = cost.dice_coe(PROBABILITIES, MASK, epsilon, loss_type=loss_type, smooth=smooth)
        assert found.item() == pytest.approx((2 * (o * t).sum() + smooth) / (size + smooth))


def test_hard_scores_binarise_at_a_strict_threshold():
    output, target = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([0.3, 1.0, 1.0])
    assert cost.dice_hard_coe(output, target, threshold=0.3).item() == 1.0
    assert cost.dice_hard_coe(output, target, threshold=0.2).item() == 1.0
    assert cost.dice_hard_coe(output, target, threshold=0.7).item() == pytest.approx(2 / 3)


def test_the_union_counts_pixels_of_either_mask_at_any_threshold():
    output, target = torch.tensor([2.0, 2.0, 0.0]), torch.tensor([2.0, 0.0, 0.0])
    assert cost.iou_coe(output, target, threshold=1.0).item() == 0.5
    assert cost.iou_coe(output, target, threshold=-0.5).item() == 1.0


def test_iou_averages_the_examples_when_given_their_axes():
    output, target = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert cost.iou_coe(output, target).item() == pytest.approx(2 / 3)
    assert cost.iou_coe(output, target, axis=1).item() == 0.75


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cost.dice_coe(EMPTY, EMPTY, loss_type="dice"), "loss_type is 'jaccard' or 'sorensen', got 'dice'"),  # type: ignore[arg-type]
        (lambda: cost.dice_coe(EMPTY, EMPTY, smooth=-1), "dice_coe: smooth must not be negative, got -1"),
        (lambda: cost.iou_coe(EMPTY, EMPTY, smooth=-1), "iou_coe: smooth must not be negative, got -1"),
    ],
)
def test_scores_explain_a_wrong_option(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Sequences -----------------------------------------------------------------------------------------------------------


def test_sequence_losses_differ_only_in_what_they_divide_by():
    logits, target = random(N * T, C), ids(N, T)
    losses = cost.cross_entropy_seq(logits, target, reduction="none")
    assert losses.shape == (N, T)
    torch.testing.assert_close(losses, F.cross_entropy(logits, target.flatten(), reduction="none").view(N, T))
    torch.testing.assert_close(cost.cross_entropy_seq(logits, target), losses.sum() / N)
    torch.testing.assert_close(cost.cross_entropy_seq(logits, target, 5), losses.sum() / 5)
    torch.testing.assert_close(cost.cross_entropy_seq(logits, target, reduction="sum"), losses.sum())
    torch.testing.assert_close(cost.cross_entropy_seq(logits, target, reduction="mean"), losses.mean())


def test_sequence_logits_may_keep_their_time_axis():
    logits, target = random(N, T, C), ids(N, T)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert cost.cross_entropy_seq(logits, target) == cost.cross_entropy_seq(logits.flatten(0, 1), target)
    assert cost.cross_entropy_seq_with_mask(logits, target, mask) == cost.cross_entropy_seq_with_mask(
        logits.flatten(0, 1), target, mask
    )


def test_padding_is_not_trained_on():
    logits = random(N * T, C).requires_grad_()
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]])
    cost.cross_entropy_seq_with_mask(logits, ids(N, T), mask).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).tolist() == mask.flatten().bool().tolist()


def test_masked_loss_returns_flat_details():
    logits, target = random(N * T, C), ids(N, T)
    mask = torch.tensor([[1, 1], [1, 0], [0, 0]])
    loss, losses, weights, targets = cost.cross_entropy_seq_with_mask(logits, target, mask, return_details=True)
    assert targets.tolist() == target.flatten().tolist()
    assert weights.tolist() == mask.flatten().tolist()
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(loss, losses[:3].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mask_of_zeros_gives_no_loss_and_no_gradient(dtype):
    logits = random(N * T, C, dtype=dtype).requires_grad_()
    loss = cost.cross_entropy_seq_with_mask(logits, ids(N, T), torch.zeros(N, T))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cost.cross_entropy_seq(random(5, C), ids(N, T)), ValueError, r"logits \(5, 4\) and targets \(3, 2\)"),
        (lambda: cost.cross_entropy_seq(random(6, C), ids(6)), ValueError, r"sequences are \(N, T\) ids with"),
        (lambda: cost.cross_entropy_seq(random(T, N, C), ids(N, T)), ValueError, r"logits \(2, 3, 4\)"),
        (lambda: cost.cross_entropy_seq(random(6, C), random(N, T)), TypeError, "integer class ids"),
        (
            lambda: cost.cross_entropy_seq(random(6, C), ids(N, T), 0),
            ValueError,
            "batch_size must be at least 1, got 0",
        ),
        (
            lambda: cost.cross_entropy_seq(random(6, C), ids(N, T), reduction="average"),  # type: ignore[arg-type]
            ValueError,
            "reduction is 'batch', 'sum', 'mean' or 'none', got 'average'",
        ),
        (
            lambda: cost.cross_entropy_seq_with_mask(random(6, C), ids(N, T), torch.ones(6)),
            ValueError,
            r"one mask value a target: the targets are \(3, 2\), the mask is \(6,\)",
        ),
        (
            lambda: cost.cross_entropy_seq_with_mask(random(6, C), ids(N, T), [[1, 1]] * 3),  # type: ignore[arg-type]
            ValueError,
            "the mask is no tensor but a list",
        ),
    ],
)
def test_sequence_losses_explain_a_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
