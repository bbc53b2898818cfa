"""Parts of images and images turned over, against slices and counts of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchlayer as tl
from torchlayer import prepro
from torchlayer._waits import reporting_waits

IMAGE = np.arange(6 * 8 * 3).reshape(6, 8, 3)


def rows_of(y):
    """Where in IMAGE, stacked 64 times, each crop begins: its first value names the pixel."""
    first = np.asarray(y)[:, 0, 0, 0] // 3
    return first // 8, first % 8


@pytest.mark.parametrize(("rows", "columns"), [(6, 8), (5, 7), (4, 4), (1, 1), (6, 1)])
def test_the_middle_is_cut_out(rows, columns):
    top, left = (6 - rows) // 2, (8 - columns) // 2
    np.testing.assert_array_equal(
        prepro.crop(IMAGE, columns, rows), IMAGE[top : top + rows, left : left + columns], strict=True
    )


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_every_place_is_equally_likely(kind):
    batch = np.broadcast_to(IMAGE, (20_000, *IMAGE.shape))
    batch = batch if kind == "array" else torch.from_numpy(batch.copy())
    top, left = rows_of(prepro.crop(batch, 5, 2, is_random=True, rng=0))
    for places, n in ((top, 5), (left, 4)):
        counts = np.bincount(places, minlength=n)
        assert len(counts) == n
        expected = 20_000 / n
        assert ((counts - expected) ** 2 / expected).sum() < 25  # chi squared, 4 degrees: one in 20,000


def test_random_crops_are_parts_of_the_image():
    for y in prepro.crop(np.stack([IMAGE] * 20), 5, 4, is_random=True, rng=3):
        top, left = divmod(int(y[0, 0, 0]) // 3, 8)
        np.testing.assert_array_equal(y, IMAGE[top : top + 4, left : left + 5])


@pytest.mark.parametrize(
    ("fill_mode", "of_numpy"),
    [("mirror", "reflect"), ("reflect", "symmetric"), ("nearest", "edge"), ("wrap", "wrap"), ("constant", "constant")],
)
def test_padding_is_numpys(fill_mode, of_numpy):
    options = {"constant_values": 7} if fill_mode == "constant" else {}
    wide = np.pad(IMAGE, ((9, 9), (9, 9), (0, 0)), mode=of_numpy, **options)  # more than the image itself has
    y = prepro.crop(IMAGE, 26, 24, pad=9, fill_mode=fill_mode, cval=7)
    np.testing.assert_array_equal(y, wide)
    y = prepro.crop(IMAGE, 6, 5, is_random=True, pad=9, fill_mode=fill_mode, cval=7, rng=4)
    windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 6), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    assert (windows == y).all((2, 3, 4)).any()


def test_an_image_is_cut_like_a_batch_of_one():
    for seed in range(8):
        y = prepro.crop(IMAGE, 5, 4, is_random=True, rng=np.random.default_rng(seed))
        z = prepro.crop(torch.from_numpy(IMAGE)[None], 5, 4, is_random=True, rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(y, z[0])


def test_axes_may_lie_elsewhere():
    first = IMAGE.transpose(2, 1, 0)  # (C, W, H)
    y = prepro.crop(first, 5, 4, is_random=True, row_index=2, col_index=1, channel_index=0, rng=5)
    assert y.shape == (3, 5, 4)
    np.testing.assert_array_equal(y.transpose(2, 1, 0), prepro.crop(IMAGE, 5, 4, is_random=True, rng=5))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "bool", "float16", "float64"])
def test_pixels_keep_their_dtype(dtype):
    image = (IMAGE % 2).astype(dtype)
    for y in (
        prepro.crop(image, 3, 3),
        prepro.crop(image, 3, 3, is_random=True, pad=2, fill_mode="constant", rng=0),
        prepro.flip_axis(image, 1),
    ):
        assert y.dtype == image.dtype
        assert y.flags.writeable
        assert not np.shares_memory(y, image)


def test_multi_cuts_and_flips_all_alike():
    mask = IMAGE[..., :1] * 2.0
    for y, z in [
        prepro.crop_multi([IMAGE, mask], 4, 4, is_random=True, rng=1),
        prepro.flip_axis_multi([IMAGE, mask], 1, is_random=True, rng=1),
    ]:
        np.testing.assert_array_equal(y[..., :1] * 2.0, z)
    batch = np.stack([IMAGE] * 16)
    images, masks = prepro.crop_multi((batch, batch[..., :1]), 4, 4, is_random=True, rng=2)
    np.testing.assert_array_equal(images[..., :1], masks)
    assert len({y.tobytes() for y in images}) > 4  # each image of a batch has its own place
    assert len({y.tobytes() for y in prepro.crop_multi(batch, 4, 4, is_random=True, rng=2)}) == 1  # here, all one


def test_multi_stacks_what_agrees():
    both = prepro.crop_multi([IMAGE, IMAGE + 1], 4, 4)
    assert isinstance(both, np.ndarray)
    assert both.shape == (2, 4, 4, 3)
    assert isinstance(prepro.crop_multi([IMAGE, torch.from_numpy(IMAGE)], 4, 4), list)
    assert prepro.flip_axis_multi([torch.ones(2, 2), torch.ones(2, 2)], 0).shape == (2, 2, 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_are_numpys(axis):
    np.testing.assert_array_equal(prepro.flip_axis(IMAGE, axis), np.flip(IMAGE, axis))
    batch = torch.from_numpy(np.stack([IMAGE, IMAGE + 1]))
    assert torch.equal(prepro.flip_axis(batch, axis), batch.flip(axis + 1))


def test_half_of_the_images_are_flipped():
    batch = torch.from_numpy(np.stack([IMAGE] * 1000))
    flipped = (prepro.flip_axis(batch, 1, is_random=True, rng=0) == batch.flip(2)).all((1, 2, 3))
    assert 430 < int(flipped.sum()) < 570  # 4.4 deviations


def test_flips_with_the_originals_seed_are_the_originals():
    np.random.seed(5)
    expected = [np.random.uniform(-1, 1) > 0 for _ in range(20)]
    np.random.seed(5)
    drawn = [prepro.flip_axis(IMAGE, 1, is_random=True)[0, 0, 0] != 0 for _ in range(20)]
    assert drawn == expected


@pytest.mark.parametrize(
    "make", [np.random.default_rng, np.random.RandomState, lambda s: torch.Generator().manual_seed(s)]
)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_any_generator_will_do_and_its_seed_decides(make, kind):
    batch = np.stack([IMAGE] * 8)
    batch = batch if kind == "array" else torch.from_numpy(batch)

    def both(rng):
        return np.asarray(prepro.crop(batch, 4, 4, True, rng=rng)), np.asarray(
            prepro.flip_axis(batch, 1, True, rng=rng)
        )

    for y, z in zip(both(make(7)), both(make(7))):
        np.testing.assert_array_equal(y, z)
    assert (both(make(7))[0] != both(make(8))[0]).any()
    rng = make(7)
    assert (both(rng)[0] != both(rng)[0]).any()


def test_without_rng_the_global_streams_are_used():
    batch = torch.from_numpy(np.stack([IMAGE] * 8))
    for x, seed in ((batch, torch.manual_seed), (batch.numpy(), np.random.seed)):
        seed(1)
        first = prepro.crop(x, 4, 4, True)
        seed(1)
        assert (np.asarray(first) == np.asarray(prepro.crop(x, 4, 4, True))).all()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    prepro.crop(batch, 4, 4, True, rng=0), prepro.crop(batch.numpy(), 4, 4, True, rng=0)
    assert torch.equal(state[0], torch.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()


def test_what_is_given_is_not_changed():
    image = IMAGE.copy()
    for fn in (
        lambda x: prepro.crop(x, 6, 6, True, pad=2),
        lambda x: prepro.flip_axis(x, 0, True),
        prepro.distorted_images,
    ):
        fn(np.pad(image, ((10, 10), (10, 10), (0, 0))))
        fn(torch.from_numpy(np.pad(image, ((10, 10), (10, 10), (0, 0)))))
    image.flags.writeable = False
    assert prepro.crop(image[::-1, ::-1], 8, 6).tolist() == image[::-1, ::-1].tolist()  # read-only, negative strides


WRONG = [
    (lambda: prepro.crop(IMAGE, 9, 4), ValueError, "hrg=4 rows and wrg=9 columns cannot be cut out of 6 rows and 8"),
    (lambda: prepro.crop(IMAGE, 0, 4), ValueError, "hrg=4 rows and wrg=0 columns cannot be cut out"),
    (lambda: prepro.crop(IMAGE, 11, 4, pad=1), ValueError, "6 rows and 8 columns, padded by 1"),
    (lambda: prepro.crop(IMAGE, 4.5, 4), TypeError, "crop: wrg is a number of pixels, an integer, got 4.5"),
    (lambda: prepro.crop(IMAGE, 4, 4, fill_mode="edge"), ValueError, "fill_mode is one of nearest, constant, reflect"),
    (lambda: prepro.crop(IMAGE, 4, 4, row_index=2), ValueError, "are 0, 1 and 2 in some order"),
    (lambda: prepro.crop([IMAGE], 4, 4), TypeError, "got list; convert it with numpy.asarray; for several images"),
    (lambda: prepro.crop(IMAGE.astype(object), 4, 4), TypeError, "images of real numbers, got an array of object"),
    (
        lambda: prepro.crop(IMAGE[0, 0], 1, 1),
        ValueError,
        r"or a batch \(N, H, W, C\), none of them 0, got shape \(3,\)",
    ),
    (lambda: prepro.crop(IMAGE[:0], 1, 1), ValueError, r"none of them 0, got shape \(0, 8, 3\)"),
    (lambda: prepro.crop(IMAGE, 4, 4, True, rng="7"), TypeError, "crop: rng must be None, an int, a NumPy Generator"),
    (lambda: prepro.crop(IMAGE, 4, 4, True, rng=True), TypeError, "got True"),
    (lambda: prepro.crop_multi([], 4, 4), ValueError, "crop_multi got no images, an empty list"),
    (lambda: prepro.crop_multi(IMAGE[0, 0], 4, 4), TypeError, r"or an array of them, got one of shape \(3,\)"),
    (lambda: prepro.crop_multi([IMAGE, IMAGE[1:]], 4, 4), ValueError, "images of one size, got 6 x 8, 5 x 8"),
    (lambda: prepro.crop_multi([IMAGE, IMAGE[None, None][0].repeat(2, 0)], 4, 4), ValueError, "equally many images"),
    (
        lambda: prepro.flip_axis(IMAGE, 3),
        ValueError,
        r"axis is 0 \(up-down\), 1 \(left-right\) or 2 \(channels\) .* got 3",
    ),
    (
        lambda: prepro.distorted_images(IMAGE, 7, 8),
        ValueError,
        "height=7 and width=8 cannot be cut out of images of 6 rows",
    ),
    (lambda: prepro.distorted_images(IMAGE, 4, 4, contrast=(2, 1)), ValueError, r"0 <= low <= high, got \(2, 1\)"),
    (lambda: prepro.crop_central_whiten_images(IMAGE), ValueError, "hrg=24 rows and wrg=24 columns cannot be cut"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_what_is_wrong_is_said(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


# --- the CIFAR-10 tutorial's two --------------------------------------------------


def distorted_by_steps(image, top, left, flip, delta, factor, height, width):
    """TensorFlow's five functions, one after the other, in float64."""
    y = image[top : top + height, left : left + width].astype(np.float64)
    y = y[:, ::-1] if flip else y
    y = y + delta
    mean = y.mean((0, 1))
    y = (y - mean) * factor + mean
    return (y - y.mean()) / max(y.std(), 1 / np.sqrt(y.size))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_distorted_images_are_tensorflows_steps(dtype):
    batch = np.random.default_rng(0).integers(0, 256, (16, 32, 30, 3)).astype(dtype)
    batch[3] = 17  # of one colour
    y = prepro.distorted_images(batch, 24, 20, rng=np.random.default_rng(1))
    rng = np.random.default_rng(1)
    top, left = rng.integers(9, size=16), rng.integers(11, size=16)
    flips, factors = rng.uniform(-1, 1, 16) > 0, rng.uniform(0.2, 1.8, 16)
    deltas = rng.uniform(-63, 63, 16)
    expected = [distorted_by_steps(*each, 24, 20) for each in zip(batch, top, left, flips, deltas, factors)]
    assert y.dtype == (np.float32 if dtype == np.uint8 else dtype)
    np.testing.assert_allclose(y, expected, atol=2e-5 if y.dtype == np.float32 else 1e-12)
    assert np.abs(y[3]).max() < 1e-4
    assert flips.any()
    assert not flips.all()


def test_the_middle_is_whitened():
    batch = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    middle = batch[:, 4:28, 4:28].astype(np.float64)
    expected = (middle - middle.mean((1, 2, 3), keepdims=True)) / middle.std((1, 2, 3), keepdims=True)
    y = prepro.crop_central_whiten_images(batch)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(prepro.crop_central_whiten_images(batch[0]), expected[0], atol=1e-6)


# --- on a GPU -----------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nothing_waits_and_a_step_can_be_captured():
    batch = torch.randint(256, (64, 32, 32, 3), dtype=torch.uint8, device="cuda")
    rng = torch.Generator("cuda").manual_seed(0)

    def step(rng=None):
        y = prepro.crop(batch, 32, 32, is_random=True, pad=4, rng=rng)
        y = prepro.flip_axis(y, 1, is_random=True, rng=rng)
        return prepro.distorted_images(y, rng=rng), prepro.crop_central_whiten_images(y)

    step(rng)
    with reporting_waits("error"):
        y, _ = step(rng)
    assert y.device == batch.device
    assert torch.isfinite(y).all()
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        y, _ = step()
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)  # fresh draws in every replay


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_of_another_device_is_refused():
    rng = torch.Generator("cuda")
    with pytest.raises(ValueError, match=r"rng draws on cuda(:0)? and the images are on cpu"):
        tl.prepro.crop(torch.zeros(8, 8), 4, 4, True, rng=rng)
