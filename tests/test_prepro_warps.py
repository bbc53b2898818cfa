"""Images twisted, pulled and seen from elsewhere, against scikit-image and SciPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from torchlayer import prepro
from torchlayer._waits import reporting_waits

OF_NUMPY = ("constant", "edge", "symmetric", "reflect", "wrap")
CORNERS = [[0, 0], [0, 27], [27, 27], [27, 0]]


@pytest.fixture
def transform():
    return pytest.importorskip("skimage.transform", reason="needs scikit-image: pip install 'torchlayer[test]'")


@pytest.fixture
def ndimage():
    return pytest.importorskip("scipy.ndimage", reason="needs SciPy: pip install scipy")


def photo(shape=(40, 50, 3), dtype="float64", seed=0):
    """Smooth, so that a position rounded otherwise does not matter."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / 8.0
    waves = np.stack([np.sin(y * a + x * b + c) for a, b, c in rng.uniform(-1, 1, (shape[2], 3)) * [1, 1, 6]], -1)
    pixels = (waves + 1) / 2
    return (pixels * 255).astype(dtype) if dtype == "uint8" else pixels.astype(dtype)


# --- swirl --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", OF_NUMPY)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    "options", [{}, {"center": (12, 30), "rotation": 40, "radius": 30, "strength": 4}, {"output_shape": (30, 60)}]
)
def test_swirl_is_scikit_images(transform, mode, order, options):
    image = photo()
    given = {**options, "rotation": np.deg2rad(options.get("rotation", 0))}
    expected = transform.swirl(image, **{"strength": 1, "radius": 100, **given}, order=order, mode=mode, cval=0.3)
    y = prepro.swirl(image, **options, order=order, mode=mode, cval=0.3)
    assert y.shape == expected.shape
    assert (np.abs(y - expected) > 1e-9).mean() < 1e-3  # a position on the rim or half-way between pixels, rounded


def test_swirl_keeps_the_range_that_it_is_given():
    image = photo(dtype="uint8")
    y = prepro.swirl(image, strength=3)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, 255 * prepro.swirl(image / 255, strength=3), atol=1e-2)
    assert y.max() > 200
    assert prepro.swirl(image, strength=3, order=0).dtype == np.uint8
    sharp = np.kron(np.eye(8), np.ones((5, 5)))
    cubic = prepro.swirl(sharp, order=3, mode="edge", clip=False)
    assert cubic.min() < -0.01  # a cubic swings over
    assert prepro.swirl(sharp, order=3, mode="edge").min() >= 0
    assert prepro.swirl(sharp, order=3, cval=-1).min() == -1


# --- elastic ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "of_scipy"),
    [("constant", "constant"), ("reflect", "reflect"), ("nearest", "nearest"), ("mirror", "mirror"), ("wrap", "wrap")],
)
@pytest.mark.parametrize(("alpha", "sigma"), [(34, 4), (8, 0.7), (300, 30)])  # 30: wider than the image
def test_elastic_transform_is_scipys(ndimage, mode, of_scipy, alpha, sigma):
    image = photo((28, 24, 1))
    noise = np.random.default_rng(7).random((1, 2, 28, 24))[0] * 2 - 1
    fields = [alpha * ndimage.gaussian_filter(field, sigma, mode=of_scipy, cval=0.1) for field in noise]
    positions = [place + field for place, field in zip(np.mgrid[:28, :24], fields)]
    expected = ndimage.map_coordinates(image[..., 0], positions, order=1)
    y = prepro.elastic_transform(image, alpha, sigma, mode, 0.1, is_random=True, rng=7)
    np.testing.assert_allclose(y[..., 0], expected, atol=1e-10)


def test_elastic_transform_draws_only_if_it_is_asked_to():
    image = photo((28, 28, 1), "float32")
    fixed = prepro.elastic_transform(image, 34, 4)
    np.testing.assert_array_equal(prepro.elastic_transform(image, 34, 4), fixed)
    assert (prepro.elastic_transform(image, 34, 4, is_random=True) != fixed).any()
    first, again = (prepro.elastic_transform(image, 34, 4, is_random=True) for _ in range(2))
    assert (first != again).any()
    ramps = np.stack(np.mgrid[:28, :28], -1).astype(float)
    moved = prepro.elastic_transform(ramps, 34, 4, is_random=True, fill_mode="nearest", rng=0) - ramps
    correlation = np.corrcoef(moved[8:-8, 8:-8, 0].ravel(), moved[8:-8, 8:-8, 1].ravel())[0, 1]
    assert abs(correlation) < 0.9  # the original's _multi pulled rows and columns alike


# --- projective ---------------------------------------------------------------------


def estimated(transform, src, dst):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # estimate() is older than from_estimate() and deprecated
        tform = transform.ProjectiveTransform()
        assert tform.estimate(np.array(dst, float), np.array(src, float))
    return tform


@pytest.mark.parametrize("mode", OF_NUMPY)
@pytest.mark.parametrize("dst", [[[3, 1], [2, 30], [29, 24], [24, -2]], [[0, 0], [0, 27], [27, 27], [27, 0]]])
def test_projective_transform_is_scikit_images(transform, mode, dst):
    image = photo((28, 28, 3))
    tform = estimated(transform, CORNERS, dst)
    expected = transform.warp(image, tform, order=1, mode=mode, cval=0.3)
    y = prepro.projective_transform_by_points(image, CORNERS, dst, mode=mode, cval=0.3)
    np.testing.assert_allclose(y, expected, atol=1e-9)
    larger = transform.warp(image, tform, order=1, mode=mode, cval=0.3, output_shape=(35, 20))
    y = prepro.projective_transform_by_points(image, CORNERS, dst, output_shape=(35, 20), mode=mode, cval=0.3)
    np.testing.assert_allclose(y, larger, atol=1e-9)


def test_more_points_are_fitted_as_scikit_image_fits_them(transform):
    rng = np.random.default_rng(0)
    src = rng.uniform(0, 28, (9, 2))
    dst = src + rng.normal(0, 1, (9, 2))
    image = photo((28, 28, 1))
    expected = transform.warp(image, estimated(transform, src, dst), order=1)
    y = prepro.projective_transform_by_points(image, src, dst)
    np.testing.assert_allclose(y, expected, atol=1e-6)  # scikit-image normalises otherwise


def test_points_go_where_they_are_sent():
    image = np.zeros((40, 40))
    image[10, 5] = image[30, 25] = 1
    y = prepro.projective_transform_by_points(
        image, [[5, 10], [25, 30], [0, 39], [39, 0]], [[8, 4], [30, 33], [1, 36], [38, 3]], order=1
    )
    assert y[4, 8] == pytest.approx(1, abs=1e-9)
    assert y[33, 30] == pytest.approx(1, abs=1e-9)


def test_values_are_divided_by_255_as_the_original_does():
    image = photo((28, 28, 3), "uint8")
    same = (CORNERS, CORNERS)
    for x in (image, image.astype(np.float32), torch.from_numpy(image)):
        y = prepro.projective_transform_by_points(x, *same)
        assert isinstance(y, type(x))
        np.testing.assert_allclose(np.asarray(y), image / 255, atol=1e-4)
        kept = prepro.projective_transform_by_points(x, *same, preserve_range=True)
        np.testing.assert_allclose(np.asarray(kept), image, atol=1e-2)
    batch = np.stack([image, np.zeros_like(image)]) / 1.0
    batch[1] += 0.5  # an image that is in [0, 1] already
    y = prepro.projective_transform_by_points(batch, *same)
    np.testing.assert_allclose(y, [image / 255, np.full(image.shape, 0.5)], atol=1e-6)


def test_a_batch_may_have_points_of_its_own():
    image = photo((28, 28, 3))
    ways = [[[3, 1], [2, 30], [29, 24], [24, -2]], [[0, 4], [1, 20], [26, 24], [24, 5]]]
    y = prepro.projective_transform_by_points(np.stack([image, image]), CORNERS, ways)
    for way, result in zip(ways, y):
        np.testing.assert_allclose(result, prepro.projective_transform_by_points(image, CORNERS, way), atol=1e-12)


# --- what they share ----------------------------------------------------------------

RANDOM = {
    "swirl": {"strength": 4, "radius": 30, "rotation": 30},
    "elastic_transform": {"alpha": 40, "sigma": 3},
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_batch_has_draws_for_each_image_and_multi_shares_them(name):
    fn, several = getattr(prepro, name), getattr(prepro, f"{name}_multi")
    options = {**RANDOM[name], "is_random": True}
    image = photo(dtype="float32")
    batch = fn(np.stack([image] * 4), **options, rng=0)
    assert len({y.tobytes() for y in batch}) == 4
    np.testing.assert_array_equal(batch, fn(np.stack([image] * 4), **options, rng=0))
    np.testing.assert_array_equal(fn(image, **options, rng=1), fn(image[None], **options, rng=1)[0])
    tensor = fn(torch.from_numpy(image), **options, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(tensor.numpy(), fn(image, **options, rng=1))
    y, z = several([image, image[..., :1]], **options, rng=2)
    np.testing.assert_array_equal(y[..., :1], z)
    y, z = several([np.stack([image] * 3), np.stack([image[..., :1]] * 3)], **options, rng=2)
    np.testing.assert_array_equal(y[..., :1], z)
    assert len({a.tobytes() for a in y}) == 3


WRONG = [
    (
        lambda x: prepro.swirl(x, mode="nearest"),
        "swirl: mode is one of constant, edge, symmetric, reflect, wrap .* got 'nearest'",
    ),
    (lambda x: prepro.swirl(x, radius=0), "swirl: radius is a number of pixels above 0, got 0"),
    (lambda x: prepro.swirl(x, center=(1, 2, 3)), r"swirl: center is a column and a row, got \(1, 2, 3\)"),
    (lambda x: prepro.swirl(x, order=2), "swirl: order is 0"),
    (
        lambda x: prepro.swirl(x, output_shape=(3, 0)),
        r"swirl: output_shape is rows and columns, each at least 1, got \(3, 0\)",
    ),
    (
        lambda x: prepro.elastic_transform(x, 1, -1),
        "elastic_transform: sigma is a number of pixels, at least 0, got -1",
    ),
    (lambda x: prepro.elastic_transform(x, 1, 1, "edge"), "elastic_transform: mode is one of nearest, constant"),
    (lambda x: prepro.elastic_transform(x, 1, 1, fill_mode="edge"), "elastic_transform: fill_mode is one of nearest"),
    (
        lambda x: prepro.elastic_transform_multi([x, x[1:]], 1, 1),
        "images of one size by the same fields, got 40 x 50, 39 x 50",
    ),
    (
        lambda x: prepro.projective_transform_by_points(x, CORNERS[:3], CORNERS[:3]),
        r"dst is four or more points .* got shape \(3, 2\)",
    ),
    (lambda x: prepro.projective_transform_by_points(x, [*CORNERS, [1, 1]], CORNERS), "got 5 of src and 4 of dst"),
    (
        lambda x: prepro.projective_transform_by_points(x, [[0, 0], [1, 1], [2, 2], [9, 0]], CORNERS),
        "three of them lie on a line",
    ),
    (
        lambda x: prepro.projective_transform_by_points(x, CORNERS, [[0, 0], [1, 1], [2, 2], [9, 0]]),
        "three of them lie on a line",
    ),
    (
        lambda x: prepro.projective_transform_by_points(x, CORNERS, [[1, 1]] * 4),
        "three of them lie on a line or two coincide",
    ),
    (
        lambda x: prepro.projective_transform_by_points(x, CORNERS, CORNERS, {"a": 1}),
        r"map_args must be empty, .* got {'a': 1}",
    ),
]


@pytest.mark.parametrize(("call", "text"), WRONG)
def test_what_is_wrong_is_said(call, text):
    with pytest.raises(ValueError, match=text):
        call(photo())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", RANDOM)
def test_on_a_gpu_it_is_the_same_and_nothing_waits(name):
    fn, options = getattr(prepro, name), {**RANDOM[name], "is_random": True}
    batch = torch.from_numpy(np.stack([photo(dtype="float32")] * 8))
    expected = fn(batch, **options, rng=torch.Generator().manual_seed(1))
    y = fn(batch.cuda(), **options, rng=torch.Generator().manual_seed(1)).cpu()
    assert ((y - expected).abs() > 1e-3).float().mean() < 2e-3  # where a position on the rim is rounded the other way
    device, rng = batch.cuda(), torch.Generator("cuda").manual_seed(0)
    fn(device, **options, rng=rng)
    with reporting_waits("error"):
        fn(device, **options, rng=rng)
