"""Images turned, moved, sheared, zoomed and remapped, against SciPy in float64 and against the original's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torchlayer import prepro
from torchlayer._waits import reporting_waits

GRID = np.arange(16).reshape(4, 4, 1)
# SciPy's wrap takes the first and the last pixel for one; grid-wrap is the period that the name says.
MODES = {"nearest": "nearest", "constant": "constant", "reflect": "reflect", "mirror": "mirror", "wrap": "grid-wrap"}


@pytest.fixture
def ndimage():
    return pytest.importorskip("scipy.ndimage", reason="needs SciPy: pip install scipy")


def photo(dtype, shape=(37, 52, 3), seed=0):
    pixels = np.random.default_rng(seed).random(shape)
    return (pixels * 255).astype(dtype) if np.dtype(dtype).kind == "u" else pixels.astype(dtype)


# --- the original's own numbers -----------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        (0, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        (90, [[12, 8, 4, 0], [13, 9, 5, 1], [14, 10, 6, 2], [15, 11, 7, 3]]),
        (180, [[15, 14, 13, 12], [11, 10, 9, 8], [7, 6, 5, 4], [3, 2, 1, 0]]),
        (-90, [[3, 7, 11, 15], [2, 6, 10, 14], [1, 5, 9, 13], [0, 4, 8, 12]]),
        (360, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
    ],
)
@pytest.mark.parametrize("fill_mode", MODES)
def test_quarter_turns_lose_no_pixel(degrees, expected, fill_mode):
    for image in (GRID, GRID.astype(np.uint8), torch.from_numpy(GRID).float()):
        y = prepro.rotation(image, degrees, fill_mode=fill_mode, cval=99)
        assert y.squeeze().tolist() == expected
        assert y.dtype == image.dtype


def test_shift_is_the_originals():
    expected = [[5, 6, 7, 7], [9, 10, 11, 11], [13, 14, 15, 15], [13, 14, 15, 15]]
    assert prepro.shift(GRID, 0.25, 0.25)[..., 0].tolist() == expected
    assert prepro.shift(GRID, wrg=0.5, hrg=0, fill_mode="constant", cval=-1)[0, :, 0].tolist() == [2, 3, -1, -1]


def test_legacy_centre_gives_what_the_original_gave():
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    legacy = prepro.transform_matrix_offset_center(turn, 4, 4, legacy_center=True)
    assert legacy.tolist() == [[0, -1, 5], [1, 0, 0], [0, 0, 1]]
    expected = [[12, 12, 12, 8], [13, 13, 13, 9], [14, 14, 14, 10], [15, 15, 15, 11]]
    assert prepro.apply_transform(GRID, legacy)[..., 0].tolist() == expected
    magnified = prepro.transform_matrix_offset_center(np.diag([0.5, 0.5, 1]), 4, 4, legacy_center=True)
    expected = [[5, 6, 6, 7], [9, 10, 10, 11], [9, 10, 10, 11], [13, 14, 14, 15]]
    assert prepro.apply_transform(GRID, magnified)[..., 0].tolist() == expected


def test_zoom_is_about_the_middle():
    expected = [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]
    assert prepro.zoom(GRID, (0.5, 0.5))[..., 0].tolist() == expected
    assert prepro.zoom(GRID, (1, 1)).tolist() == GRID.tolist()
    rows_only = prepro.zoom(np.arange(5)[:, None], (0.5, 1))  # below 1 magnifies
    assert rows_only[:, 0].tolist() == [1, 2, 2, 3, 3]


# --- against SciPy ------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_apply_transform_is_scipys(ndimage, dtype, order, mode):
    rng = np.random.default_rng(3)
    image = photo(dtype)
    cval = 9 if dtype == "uint8" else 0.25
    for _ in range(5):
        matrix = np.eye(3)
        matrix[:2, :2] += rng.normal(size=(2, 2)) * 0.4
        matrix[:2, 2] = rng.normal(size=2) * 30  # far outside, too
        y = prepro.apply_transform(image, matrix, fill_mode=mode, cval=cval, order=order)
        expected = np.stack(
            [
                ndimage.affine_transform(
                    image[..., c].astype(float), matrix[:2, :2], matrix[:2, 2], order=order, mode=MODES[mode], cval=cval
                )
                for c in range(3)
            ],
            -1,
        )
        scale = image.max()
        if order == 0:
            assert y.dtype == image.dtype
            assert (y != expected).mean() < 1e-3  # a position half-way between two pixels, rounded
        else:
            assert y.dtype == (np.float32 if dtype == "uint8" else image.dtype)
            close = np.abs(y - expected) < scale * (1e-10 if dtype == "float64" else 1e-4)
            assert (~close).mean() < 1e-3  # a position on the rim, rounded
            if dtype == "float64":
                assert close.all()


@pytest.mark.parametrize("name", ["rotation", "shift", "shear", "zoom"])
@pytest.mark.parametrize("order", [0, 1])
def test_each_function_is_scipys_with_its_matrix(ndimage, name, order):
    image = photo("float64")
    height, width, _ = image.shape
    arguments, matrix = {
        "rotation": ((30,), [[math.cos(math.pi / 6), -0.5, 0], [0.5, math.cos(math.pi / 6), 0], [0, 0, 1]]),
        "shift": ((0.1, -0.2), [[1, 0, -0.2 * height], [0, 1, 0.1 * width], [0, 0, 1]]),
        "shear": ((0.3,), [[1, -math.sin(0.3), 0], [0, math.cos(0.3), 0], [0, 0, 1]]),
        "zoom": (((0.7, 1.3),), [[0.7, 0, 0], [0, 1.3, 0], [0, 0, 1]]),
    }[name]
    matrix = np.array(matrix)
    middle = np.array([(height - 1) / 2, (width - 1) / 2]) if name != "shift" else np.zeros(2)
    offset = middle - matrix[:2, :2] @ middle + matrix[:2, 2]
    expected = np.stack(
        [
            ndimage.affine_transform(image[..., c], matrix[:2, :2], offset, order=order, mode="reflect")
            for c in range(3)
        ],
        -1,
    )
    y = getattr(prepro, name)(image, *arguments, fill_mode="reflect", order=order)
    np.testing.assert_allclose(y, expected, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_remap_is_scipys(ndimage, mode):
    image = photo("float64", (9, 7))
    rng = np.random.default_rng(0)
    rows, columns = rng.uniform(-25, 30, (2, 40, 30))
    expected = ndimage.map_coordinates(image, [rows, columns], order=1, mode=MODES[mode], cval=3)
    np.testing.assert_allclose(prepro.remap(image, rows, columns, fill_mode=mode, cval=3), expected, atol=1e-12)
    nearest = ndimage.map_coordinates(image, [rows, columns], order=0, mode=MODES[mode], cval=3)
    np.testing.assert_array_equal(prepro.remap(image, rows, columns, order=0, fill_mode=mode, cval=3), nearest)
    for n in (1, 2):  # images of one pixel and two
        small = image[:n, :n]
        expected = ndimage.map_coordinates(small, [rows, columns], order=1, mode=MODES[mode], cval=3)
        np.testing.assert_allclose(prepro.remap(small, rows, columns, fill_mode=mode, cval=3), expected, atol=1e-12)


def cubic(t, a=-0.75):
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t < 1, near, np.where(t < 2, ((t - 5) * t + 8) * t * a - 4 * a, 0.0))


@pytest.mark.parametrize(
    ("mode", "of_numpy"), [("nearest", "edge"), ("wrap", "wrap"), ("reflect", "symmetric"), ("mirror", "reflect")]
)
def test_order_3_is_the_cubic_convolution(mode, of_numpy):
    image = photo("float64", (8, 9))
    rows, columns = np.random.default_rng(1).uniform(-3, 11, (2, 6, 5))
    wide = np.pad(image, 6, mode=of_numpy)
    row_weights = cubic(rows[..., None] + 6 - np.arange(20))
    column_weights = cubic(columns[..., None] + 6 - np.arange(21))
    expected = np.einsum("hwr,rc,hwc->hw", row_weights, wide, column_weights)
    np.testing.assert_allclose(prepro.remap(image, rows, columns, 3, mode), expected, atol=1e-10)


# --- batches, randomness, kinds -----------------------------------------------------

RANDOM = {
    "rotation": {"rg": 40},
    "shift": {"wrg": 0.3, "hrg": 0.2},
    "shear": {"intensity": 0.5},
    "zoom": {"zoom_range": (0.5, 1.5)},
}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("order", [0, 1])
def test_a_batch_has_a_draw_for_each_image(name, order):
    fn, options = getattr(prepro, name), {**RANDOM[name], "is_random": True, "order": order}
    one = photo("float32", (20, 24, 3))
    batch = fn(np.stack([one] * 6), **options, rng=0)
    assert len({y.tobytes() for y in batch}) == 6
    tensors = fn(torch.from_numpy(np.stack([one] * 6)), **options, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(tensors.numpy(), batch)  # the same draws: the same images, array or tensor
    first = fn(one[None], **options, rng=0)
    np.testing.assert_array_equal(first[0], fn(one, **options, rng=0))  # a batch of one is an image


@pytest.mark.parametrize("name", RANDOM)
def test_multi_moves_all_alike(name):
    fn, options = getattr(prepro, f"{name}_multi"), {**RANDOM[name], "is_random": True}
    image, mask = photo("uint8"), photo("uint8")[..., :1]
    y, z = fn([image, mask], **options, rng=5)
    np.testing.assert_array_equal(y[..., :1], z)
    np.testing.assert_array_equal(y, getattr(prepro, name)(image, **options, rng=5))
    images, masks = fn([np.stack([image] * 4), np.stack([mask] * 4)], **options, rng=5)
    np.testing.assert_array_equal(images[..., :1], masks)
    assert len({y.tobytes() for y in images}) == 4


def test_draws_are_the_originals_and_cover_their_range():
    np.random.seed(3)
    angle = np.random.uniform(-20, 20)
    np.random.seed(3)
    image = photo("float32")
    np.testing.assert_array_equal(prepro.rotation(image, 20, True), prepro.rotation(image, angle))
    np.random.seed(3)
    down, right = np.random.uniform(-0.2, 0.2), np.random.uniform(-0.1, 0.1)
    np.random.seed(3)
    np.testing.assert_array_equal(prepro.shift(image, 0.1, 0.2, True), prepro.shift(image, right, down))
    np.random.seed(3)
    steps = np.random.uniform(0.8, 1.2, 2)
    np.random.seed(3)
    np.testing.assert_array_equal(prepro.zoom(image, (0.8, 1.2), True), prepro.zoom(image, steps))
    ramp = torch.arange(101.0).view(1, 1, 101, 1).expand(2000, 1, 101, 1)
    moved = prepro.shift(ramp, 0.5, 0.0, True, order=1, rng=0)[:, 0, 50, 0] - 50  # by up to half of 101 pixels
    assert 49.5 < float(moved.max()) <= 50
    assert -50 <= float(moved.min()) < -49.5
    assert abs(float(moved.mean())) < 3  # 4.5 deviations


def test_ranges_may_be_given_backwards():
    image = photo("float32")
    for make in (int, np.random.default_rng, np.random.RandomState, lambda seed: torch.Generator().manual_seed(seed)):
        backwards = prepro.zoom(image, (1.2, 0.8), True, rng=make(3))
        np.testing.assert_array_equal(backwards, prepro.zoom(image, (0.8, 1.2), True, rng=make(3)))
    assert prepro.rotation(image, -20, True, rng=0).shape == image.shape


@pytest.mark.parametrize("name", RANDOM)
def test_rows_and_columns_may_lie_elsewhere(name):
    fn, options = getattr(prepro, name), {**RANDOM[name], "is_random": True, "rng": 2}
    image = photo("float32")
    y = fn(image.transpose(2, 1, 0), **options, row_index=2, col_index=1, channel_index=0)
    np.testing.assert_array_equal(y.transpose(2, 1, 0), fn(image, **options))
    batch = np.stack([image] * 3)
    y = fn(batch.transpose(0, 3, 1, 2), **options, row_index=1, col_index=2, channel_index=0)
    np.testing.assert_array_equal(y.transpose(0, 2, 3, 1), fn(batch, **options))


@pytest.mark.parametrize("dtype", ["bool", "int16", "int64", "uint16", "float16", "float32", "float64"])
def test_nearest_pixels_keep_their_dtype(dtype):
    image = (photo("float64") > 0.5).astype(dtype)
    for mode in MODES:
        y = prepro.rotation(image, 33, fill_mode=mode, cval=1)
        assert y.dtype == image.dtype
        assert set(np.unique(y)) == {0, 1}
    between = prepro.rotation(image, 33, order=1)
    assert between.dtype == (image.dtype if dtype.startswith("float") else np.float32)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_gradients_flow_to_the_image(order):
    image = torch.rand(2, 4, 5, 2, dtype=torch.float64, requires_grad=True)
    for mode in MODES:
        assert torch.autograd.gradcheck(
            lambda x, mode=mode: prepro.rotation(x, 20, order=order, fill_mode=mode), image, fast_mode=True
        )


def test_matrices_of_a_batch_and_of_a_tensor():
    batch = np.stack([GRID, GRID])
    matrices = np.stack([np.eye(3), [[0.0, -1, 3], [1, 0, 0], [0, 0, 1]]])
    y = prepro.apply_transform(batch, matrices)
    np.testing.assert_array_equal(y[0], GRID)
    np.testing.assert_array_equal(y[1], prepro.rotation(GRID, 90))
    z = prepro.apply_transform(torch.from_numpy(batch), torch.from_numpy(matrices))
    assert torch.equal(z, torch.from_numpy(y))
    about = prepro.transform_matrix_offset_center(torch.tensor([[[0, -1, 0], [1, 0, 0], [0, 0, 1]]]), 4, 4)
    assert about.tolist() == [[[0, -1, 3], [1, 0, 0], [0, 0, 1]]]


def test_no_result_shares_memory_with_what_was_given():
    image = photo("float64")
    for y in (prepro.rotation(image, 0), prepro.shift(image, 0, 0, order=1), prepro.zoom(image, (1, 1))):
        np.testing.assert_allclose(y, image, atol=1e-12)
        assert not np.shares_memory(y, image)


WRONG = [
    (
        lambda: prepro.rotation(GRID, 20, fill_mode="edge"),
        "rotation: fill_mode is one of nearest, constant, reflect, wrap, mirror, got 'edge'",
    ),
    (
        lambda: prepro.rotation(GRID, 20, order=2),
        r"rotation: order is 0 \(nearest pixel\), 1 \(bilinear\) or 3 .* got 2",
    ),
    (
        lambda: prepro.shear(GRID, channel_index=0),
        "shear: row_index, col_index and channel_index are 0, 1 and 2 in some",
    ),
    (lambda: prepro.zoom(GRID, (0.5,)), r"zoom: zoom_range is two numbers above 0, .* got \(0.5,\)"),
    (lambda: prepro.zoom_multi([GRID], (0, 1)), r"zoom_multi: zoom_range is two numbers above 0, .* got \(0, 1\)"),
    (
        lambda: prepro.shift(GRID.astype(np.uint8), fill_mode="constant", cval=300),
        "shift: cval=300 is no value of torch.uint8",
    ),
    (
        lambda: prepro.apply_transform(GRID, np.eye(2)),
        r"transform_matrix has shape \(3, 3\), .* got \(2, 2\) for 1 image",
    ),
    (lambda: prepro.apply_transform(GRID, np.stack([np.eye(3)] * 2)), r"got \(2, 3, 3\) for 1 image"),
    (
        lambda: prepro.apply_transform(GRID, np.eye(3), channel_index=3),
        "channel_index is 0, 1 or 2, an axis of an image, got 3",
    ),
    (lambda: prepro.transform_matrix_offset_center(np.eye(4), 4, 4), r"of shape \(3, 3\) or \(N, 3, 3\), got \(4, 4\)"),
    (
        lambda: prepro.remap(GRID, [0, 1], [0, 1]),
        r"remap: rows are positions \(h, w\), .* got shape \(2,\) for 1 image",
    ),
    (lambda: prepro.remap(GRID, [[0, 1]], [[0]]), r"remap: rows and columns have one shape, got \(1, 2\) and \(1, 1\)"),
    (lambda: prepro.remap(GRID, np.zeros((2, 1, 1)), np.zeros((2, 1, 1))), r"got shape \(2, 1, 1\) for 1 image"),
]


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_what_is_wrong_is_said(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_on_a_gpu_it_is_the_same_and_nothing_waits(name, order):
    fn = getattr(prepro, name)
    batch = torch.from_numpy(photo("float32", (16, 32, 32, 3)))
    for mode in MODES:
        options = {**RANDOM[name], "is_random": True, "order": order, "fill_mode": mode}
        expected = fn(batch, **options, rng=torch.Generator().manual_seed(1))
        y = fn(batch.cuda(), **options, rng=torch.Generator().manual_seed(1)).cpu()
        assert ((y - expected).abs() > 1e-3).float().mean() < 2e-3  # where a position is rounded the other way
    device, rng = batch.cuda(), torch.Generator("cuda").manual_seed(0)
    fn(device, **options, rng=rng)
    with reporting_waits("error"):
        fn(device, **options, rng=rng)
