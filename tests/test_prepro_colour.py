"""Pixels made brighter, stronger, fewer, normal or white, images resized: against scikit-image, NumPy and Pillow."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from torchlayer import prepro
from torchlayer._waits import reporting_waits


@pytest.fixture
def exposure():
    return pytest.importorskip("skimage.exposure", reason="needs scikit-image: pip install 'torchlayer[test]'")


def photo(dtype="float64", shape=(12, 10, 3), seed=0):
    pixels = np.random.default_rng(seed).random(shape)
    return (pixels * 255).astype(dtype) if np.dtype(dtype).kind in "ui" else pixels.astype(dtype)


# --- brightness, contrast, channel_shift --------------------------------------------


@pytest.mark.parametrize(("gamma", "gain"), [(1, 1), (0.5, 1), (2.2, 0.9), (0, 1), (1.5, 2)])
def test_brightness_is_scikit_images(exposure, gamma, gain):
    for dtype in ("float64", "float32", "uint8"):
        image = photo(dtype)
        y, expected = prepro.brightness(image, gamma, gain), exposure.adjust_gamma(image, gamma, gain)
        assert y.dtype == image.dtype
        # scikit-image looks uint8 up in a table rounded from float64: a half may fall to the other side
        np.testing.assert_allclose(y.astype(float), expected.astype(float), atol=1 if dtype == "uint8" else 1e-6)
        assert (y != expected).mean() < 0.01 or dtype != "uint8"


@pytest.mark.parametrize("inv", [False, True])
@pytest.mark.parametrize(("cutoff", "gain"), [(0.5, 10), (0.3, 4)])
def test_contrast_is_scikit_images(exposure, cutoff, gain, inv):
    for dtype in ("float64", "float32"):
        image = photo(dtype)
        expected = exposure.adjust_sigmoid(image, cutoff, gain, inv)
        np.testing.assert_allclose(prepro.contrast(image, cutoff, gain, inv), expected, atol=1e-6)
    image = photo("uint8")
    y, expected = prepro.constant(image, cutoff, gain, inv), exposure.adjust_sigmoid(image, cutoff, gain, inv)
    assert np.abs(y.astype(int) - expected.astype(int)).max() <= 1  # scikit-image cuts off what we round


def test_contrast_and_channel_shift_give_the_originals_numbers():
    np.testing.assert_allclose(prepro.constant(np.array([[0, 0.5, 1.0]])), [[0.0066929, 0.5, 0.9933071]], atol=1e-7)
    np.testing.assert_allclose(prepro.channel_shift(np.array([[[0.2, 0.5, 0.9]]]), 0.3), [[[0.5, 0.8, 0.9]]])
    assert prepro.channel_shift(np.array([[[10, 50, 200]]], np.uint8), 60.4).tolist() == [[[70, 110, 200]]]
    assert prepro.constant is prepro.contrast
    assert prepro.constant_multi([np.eye(2), np.eye(2)])[0].tolist() == prepro.contrast(np.eye(2)).tolist()


def test_tensorflows_two_are_what_tensorflow_says():
    batch = photo(shape=(6, 8, 8, 3)) * 255
    deltas = np.random.default_rng(1).uniform(-63, 63, 6)[:, None, None, None]
    np.testing.assert_allclose(prepro.random_brightness(batch, 63, rng=1), batch + deltas)
    factors = np.random.default_rng(1).uniform(0.2, 1.8, 6)[:, None, None, None]
    mean = batch.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(prepro.random_contrast(batch, 0.2, 1.8, rng=1), (batch - mean) * factors + mean)
    for y in (
        prepro.random_brightness(batch.astype(np.uint8), 200, rng=1),
        prepro.random_contrast(batch.astype(np.uint8), 5, 6),
    ):
        assert y.dtype == np.uint8
        assert {0, 255} <= set(np.unique(y))  # kept within the range, where a cast would go round


RANDOM = {"brightness": {"gamma": 0.7}, "channel_shift": {"intensity": 0.4}}


@pytest.mark.parametrize("name", RANDOM)
def test_draws_are_the_originals_and_one_an_image(name):
    fn, several = getattr(prepro, name), getattr(prepro, f"{name}_multi")
    options = {**RANDOM[name], "is_random": True}
    image = photo()
    (number,) = RANDOM[name].values()
    np.random.seed(4)
    drawn = np.random.uniform(1 - number, 1 + number) if name == "brightness" else np.random.uniform(-number, number)
    np.random.seed(4)
    np.testing.assert_allclose(fn(image, **options), fn(image, drawn))
    batch = fn(np.stack([image] * 4), **options, rng=0)
    assert len({y.tobytes() for y in batch}) == 4
    np.testing.assert_array_equal(batch, fn(np.stack([image] * 4), **options, rng=0))
    tensor = fn(torch.from_numpy(np.stack([image] * 4)), **options, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(tensor.numpy(), batch)
    first, second = several([image, image], **options, rng=3)
    np.testing.assert_array_equal(first, second)
    images, others = several([np.stack([image] * 3)] * 2, **options, rng=3)
    np.testing.assert_array_equal(images, others)


def test_tensors_stay_tensors_of_their_dtype():
    batch = torch.from_numpy(photo("uint8", (2, 6, 6, 3)))
    for image in (batch, batch.half() / 255, batch.bfloat16() / 255, batch / 255):
        for fn in (
            lambda x: prepro.brightness(x, 0.5),
            prepro.contrast,
            lambda x: prepro.channel_shift(x, 0.1),
            lambda x: prepro.random_contrast(x, 0.5, 1.5),
            prepro.drop,
        ):
            y = fn(image)
            assert y.dtype == image.dtype
            assert y.shape == image.shape


def test_drop_keeps_a_share_of_pixels_and_all_of_their_channels():
    image = photo("float32", (200, 100, 3)) + 1
    before = image.copy()
    y = prepro.drop(image, keep=0.3, rng=0)
    np.testing.assert_array_equal(image, before)  # the original changed colour images
    kept = y != 0
    assert (kept.all(2) == kept.any(2)).all()
    assert abs(kept[..., 0].mean() - 0.3) < 0.015  # 4.6 deviations
    np.testing.assert_array_equal(y[kept], image[kept])
    batch = prepro.drop(np.stack([image] * 2), rng=0)
    assert (batch[0] != batch[1]).any()
    np.testing.assert_array_equal(prepro.drop(image, rng=5), prepro.drop(image, rng=5))
    assert (prepro.drop(image, keep=1) == image).all()
    assert not prepro.drop(image, keep=0).any()


# --- normalisation ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_samplewise_norm_is_the_originals(dtype):
    for channels, axis in ((1, (0, 1, 2)), (3, 2)):
        image = photo(dtype, (6, 5, channels))
        scaled = image * 0.5
        centred = scaled - scaled.mean(axis, keepdims=True)
        normal = centred / (centred.std(axis, keepdims=True) + 1e-7)
        before = image.copy()
        y = prepro.samplewise_norm(image, 0.5, True, True)
        assert y.dtype == (np.float32 if dtype == "uint8" else image.dtype)
        np.testing.assert_allclose(y, normal, atol=1e-5 if y.dtype == np.float32 else 1e-12)
        np.testing.assert_array_equal(image, before)  # the original rescaled it
        np.testing.assert_allclose(
            prepro.samplewise_norm(image, samplewise_center=True), image - image.mean(axis, keepdims=True), atol=1e-4
        )
        np.testing.assert_array_equal(prepro.samplewise_norm(image), image)
    first = photo("float64", (3, 6, 5))
    np.testing.assert_allclose(
        prepro.samplewise_norm(first, samplewise_center=True, channel_index=0), first - first.mean(0, keepdims=True)
    )


def test_samplewise_norm_over_axes_of_the_image_and_in_batches():
    batch = photo("float64", (4, 6, 5, 2))
    y = prepro.samplewise_norm(batch, None, True, True, axis=(0, 1))
    expected = (batch - batch.mean((1, 2), keepdims=True)) / batch.std((1, 2), keepdims=True)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert np.isfinite(prepro.samplewise_norm(np.ones((3, 3, 1)), None, True, True)).all()  # 0 / 0 in the original


def test_featurewise_norm_takes_numbers_and_arrays():
    batch = photo("float32", (4, 6, 5, 3))
    mean, std = batch.mean((0, 1, 2)), batch.std((0, 1, 2))
    np.testing.assert_allclose(prepro.featurewise_norm(batch, mean, std), (batch - mean) / (std + 1e-7), rtol=1e-6)
    np.testing.assert_allclose(prepro.featurewise_norm(batch, std=0.0, epsilon=0.5), batch / 0.5)  # 0 counts
    np.testing.assert_array_equal(prepro.featurewise_norm(batch), batch)
    y = prepro.featurewise_norm(torch.from_numpy(photo("uint8")), torch.tensor([1.0, 2, 3]))
    assert y.dtype == torch.float32


def test_per_image_standardization_is_tensorflows():
    batch = photo("uint8", (3, 6, 5, 3)).astype(np.float64)
    batch[1] = 5
    batch[2] = 0
    batch[2, 0, 0, 0] = 1e-3  # a deviation below 1 / sqrt(numel)
    y = prepro.per_image_standardization(batch)
    np.testing.assert_allclose(y[0], (batch[0] - batch[0].mean()) / batch[0].std(), atol=1e-12)
    np.testing.assert_allclose(y[1], 0, atol=1e-12)
    np.testing.assert_allclose(y[2], (batch[2] - batch[2].mean()) * np.sqrt(90), atol=1e-12)


# --- whitening ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [60, 10])  # more images than numbers in one, and fewer
def test_zca_is_its_formula(n):
    X = photo("float64", (n, 3, 4, 2)) - 0.5
    flat = X.reshape(n, -1)
    u, s, _ = np.linalg.svd(flat.T @ flat / n)
    expected = u @ np.diag(1 / np.sqrt(s + 1e-6)) @ u.T
    matrix = prepro.get_zca_whitening_principal_components_img(X)
    np.testing.assert_allclose(matrix, expected, atol=1e-6 * np.abs(expected).max())
    y = prepro.zca_whitening(X[0], matrix)
    np.testing.assert_allclose(y, (flat[0] @ expected).reshape(3, 4, 2), atol=1e-4)
    np.testing.assert_allclose(prepro.zca_whitening(X, matrix)[0], y, atol=1e-9)
    few = prepro.get_zca_whitening_principal_components_img(X, n_components=n - 40 if n > 40 else 10)
    if n == 10:  # all that there are: nothing was dropped, and nothing of the images lies elsewhere
        np.testing.assert_allclose(prepro.zca_whitening(X, few), prepro.zca_whitening(X, matrix), atol=1e-6)
    else:
        directions = u[:, :20]
        expected = flat @ directions @ np.diag(1 / np.sqrt(s[:20] + 1e-6)) @ directions.T
        np.testing.assert_allclose(prepro.zca_whitening(X, few).reshape(n, -1), expected, atol=1e-8)


def test_zca_keeps_kind_and_dtype():
    X = torch.from_numpy(photo("float32", (50, 3, 3, 1)))
    matrix = prepro.get_zca_whitening_principal_components_img(X)
    assert (matrix.dtype, prepro.zca_whitening(X, matrix).dtype) == (torch.float32, torch.float32)
    assert isinstance(prepro.zca_whitening(X.numpy(), matrix), np.ndarray)
    integers = prepro.get_zca_whitening_principal_components_img(photo("uint8", (50, 3, 3, 1)))
    assert integers.dtype == np.float32


# --- imresize and pictures ----------------------------------------------------------


@pytest.mark.parametrize("interp", ["nearest", "bilinear", "bicubic", "cubic", "lanczos"])
# Pillow 13 does rows before columns where that is cheaper, and cuts other overswings off: none of these sizes
@pytest.mark.parametrize("size", [(100, 100), (40, 29), (20, 9), (1, 1), 50, 2.5])
def test_imresize_is_pillows(interp, size):
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'torchlayer[vis]'")
    image = photo("uint8", (20, 30, 3))
    new = {50: (10, 15), 2.5: (50, 75)}.get(size, size)
    method = getattr(Image.Resampling, {"cubic": "BICUBIC"}.get(interp, interp.upper()))
    expected = np.asarray(Image.fromarray(image).resize(new[::-1], method)).astype(int)
    y = prepro.imresize(image, size, interp)
    assert y.dtype == np.uint8
    assert y.shape == expected.shape
    if interp == "nearest":  # Pillow adds up steps, so that a place half-way between two pixels goes either way
        halves = [((np.arange(m) + 0.5) * n / m) % 1 == 0 for n, m in zip(image.shape, new)]
        assert (y == expected)[~halves[0]][:, ~halves[1]].all()
    else:
        assert np.abs(y - expected).max() <= 2  # it computes in whole numbers
        assert np.abs(y - expected).mean() < 0.1
    grey = prepro.imresize(image[..., 0], size, interp)
    np.testing.assert_array_equal(grey, y[..., 0])
    batch = torch.from_numpy(np.stack([image, image[::-1]]))
    np.testing.assert_array_equal(prepro.imresize(batch, size, interp)[0], y)


def test_imresize_stretches_as_scipy_did_unless_told_not_to():
    image = np.array([[[-1.0], [0.0]], [[1.0], [3.0]]])
    assert prepro.imresize(image, (2, 2))[..., 0].tolist() == [[0, 64], [128, 255]]
    assert prepro.imresize(np.full((2, 2), 7.0), (3, 3)).tolist() == [[0] * 3] * 3
    both = np.stack([image, image * 100])
    assert prepro.imresize(both, (2, 2))[0].tolist() == prepro.imresize(both, (2, 2))[1].tolist()
    y = prepro.imresize(image, (1, 1), preserve_range=True)
    assert y.dtype == np.float64
    assert y.item() == pytest.approx(0.75)
    assert prepro.imresize(photo("float32"), (12, 10), preserve_range=True).tolist() == photo("float32").tolist()
    assert prepro.imresize(photo("int16"), (5, 5), preserve_range=True).dtype == np.int16


def test_array_to_img_gives_the_originals_pixels():
    pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'torchlayer[vis]'")
    data = np.array([[-1.0, 0], [1, 2]])[..., None]
    picture = prepro.array_to_img(data)
    assert picture.mode == "L"
    assert np.asarray(picture).tolist() == [[0, 85], [170, 255]]
    assert data.min() == -1  # the original changed it
    colour = photo("uint8")
    colour[0, 0] = 255
    np.testing.assert_array_equal(np.asarray(prepro.array_to_img(colour)), colour)
    first = torch.from_numpy(colour.transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(np.asarray(prepro.array_to_img(first, dim_ordering=(1, 2, 0))), colour)
    assert np.asarray(prepro.array_to_img(np.full((2, 2), 300.0), scale=False)).max() == 255
    assert np.asarray(prepro.array_to_img(np.zeros((2, 2)))).max() == 0


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"array_to_img makes images of Pillow, .* pip install torchlayer\[vis\]"):
        prepro.array_to_img(np.zeros((2, 2)))


IMAGE = photo()
WRONG = [
    (lambda: prepro.brightness(IMAGE, -1), ValueError, "brightness: gamma is at least 0, got -1"),
    (lambda: prepro.brightness(IMAGE, 1.5, is_random=True), ValueError, r"gamma is at most 1 to draw from .* got 1.5"),
    (lambda: prepro.brightness(IMAGE - 1), ValueError, "brightness takes pixels of 0 and above, got -0.9"),
    (lambda: prepro.contrast_multi([IMAGE, -IMAGE]), ValueError, "contrast_multi takes pixels of 0 and above"),
    (lambda: prepro.constant(IMAGE, is_random=True), ValueError, "contrast draws nothing .* use random_contrast"),
    (lambda: prepro.channel_shift(IMAGE, 1, channel_index=3), ValueError, "channel_index is 0, 1 or 2, .* got 3"),
    (lambda: prepro.random_brightness(IMAGE, -1), ValueError, "max_delta is at least 0, got -1"),
    (lambda: prepro.random_contrast(IMAGE, 2, 1), ValueError, "0 <= lower <= upper, got 2 and 1"),
    (lambda: prepro.drop(IMAGE, 1.5), ValueError, "keep is the probability of keeping a pixel, from 0 to 1, got 1.5"),
    (
        lambda: prepro.samplewise_norm(IMAGE[..., :2]),
        ValueError,
        r"1 or 3 channels, got 2 on axis 2 .* say axis=\(0, 1, 2\)",
    ),
    (lambda: prepro.samplewise_norm(IMAGE, axis=(0, 3)), ValueError, r"some of 0, 1 and 2, got \(0, 3\)"),
    (lambda: prepro.samplewise_norm(IMAGE, channel_index=4), ValueError, "channel_index is 0, 1 or 2, .* got 4"),
    (
        lambda: prepro.featurewise_norm(IMAGE, np.zeros(2)),
        ValueError,
        r"mean of shape \(2,\) does not broadcast to x of",
    ),
    (lambda: prepro.featurewise_norm([1]), TypeError, "featurewise_norm takes a NumPy array or a tensor, got list"),
    (
        lambda: prepro.get_zca_whitening_principal_components_img(IMAGE),
        ValueError,
        r"takes a batch \(N, H, W, C\), .* got \(12",
    ),
    (
        lambda: prepro.get_zca_whitening_principal_components_img(IMAGE[None], n_components=2),
        ValueError,
        "1 images of 360 numbers have at most 1 components, got n_components=2",
    ),
    (
        lambda: prepro.zca_whitening(IMAGE, np.eye(4)),
        ValueError,
        r"for images of 4 numbers, got images of \(12, 10, 3\), 360 numbers",
    ),
    (
        lambda: prepro.zca_whitening(IMAGE[0], np.eye(4)),
        ValueError,
        r"an image \(H, W, C\) or a batch .* got \(10, 3\)",
    ),
    (
        lambda: prepro.imresize(IMAGE, 1),
        ValueError,
        "imresize: size is rows and columns, a percentage .* got 1 for 12 x 10",
    ),
    (lambda: prepro.imresize(IMAGE, (4, 4, 3)), ValueError, r"got \(4, 4, 3\) for 12 x 10"),
    (
        lambda: prepro.imresize(IMAGE, interp="area"),
        ValueError,
        "interp is one of nearest, bilinear, bicubic, lanczos, cubic, got",
    ),
    (lambda: prepro.imresize(IMAGE, mode="F"), ValueError, "mode must be None, got 'F'; preserve_range=True"),
    (
        lambda: prepro.array_to_img(IMAGE[..., :2]),
        ValueError,
        r"array_to_img takes 1 or 3 channels, got 2 in shape \(12, 10, 2\)",
    ),
    (
        lambda: prepro.array_to_img(IMAGE, (0, 1)),
        ValueError,
        r"dim_ordering 0, 1 and 2 in some order, got shape .* and \(0, 1\)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_what_is_wrong_is_said(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_the_same_and_nothing_waits():
    batch = torch.from_numpy(photo("float32", (8, 16, 16, 3)))
    rng = torch.Generator("cuda").manual_seed(0)

    def generator(device):
        return rng if device == "cuda" else torch.Generator().manual_seed(1)

    calls = [
        lambda x, rng: prepro.brightness(x, 0.7, is_random=True, rng=rng),
        lambda x, rng: prepro.contrast(x),
        lambda x, rng: prepro.channel_shift(x, 0.4, is_random=True, rng=rng),
        lambda x, rng: prepro.random_brightness(x, 0.4, rng=rng),
        lambda x, rng: prepro.random_contrast(x, 0.2, 1.8, rng=rng),
        lambda x, rng: prepro.drop(x, 0.4, rng=rng),
        lambda x, rng: prepro.samplewise_norm(x, None, True, True),
        lambda x, rng: prepro.per_image_standardization(x),
        lambda x, rng: prepro.imresize(x, (8, 20), "bicubic", preserve_range=True),
    ]
    for call in calls:
        y = call(batch.cuda(), generator("cpu")).cpu()
        torch.testing.assert_close(y, call(batch, generator("cpu")), atol=1e-4, rtol=1e-4)
    device = batch.cuda()
    with reporting_waits("error"):
        for call in calls:
            call(device, rng)
