"""Disks grown and shrunk, against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchlayer import prepro

IMAGE = np.random.default_rng(0).integers(0, 256, (17, 23)).astype(np.uint8)


@pytest.fixture
def morphology():
    return pytest.importorskip("skimage.morphology", reason="needs scikit-image: pip install 'torchlayer[test]'")


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 40])  # 40: more than the image
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("name", ["dilation", "erosion"])
def test_grey_ones_are_scikit_images(morphology, name, dtype, radius):
    image = IMAGE.astype(dtype)
    y, expected = getattr(prepro, name)(image, radius), getattr(morphology, name)(image, morphology.disk(radius))
    np.testing.assert_array_equal(y, expected, strict=True)


@pytest.mark.parametrize("radius", [0, 1, 3, 5])
@pytest.mark.parametrize(("name", "grey"), [("binary_dilation", "dilation"), ("binary_erosion", "erosion")])
def test_binary_ones_are_scikit_images(morphology, name, grey, radius):
    threshold = {"dilation": 250, "erosion": 5}[grey]
    mask = np.greater(IMAGE, threshold)
    # scikit-image 0.26 deprecates its binary functions in favour of these
    expected = getattr(morphology, grey)(mask, morphology.disk(radius))
    for x in (mask, mask * 7, mask * 0.5):
        np.testing.assert_array_equal(getattr(prepro, name)(x, radius), expected, strict=True)
    assert expected.any()
    assert not expected.all()


def test_batches_and_channels_each_for_itself():
    batch = np.stack([IMAGE, IMAGE[::-1]])[..., None].repeat(2, 3) // [1, 2]
    y = prepro.dilation(torch.from_numpy(batch), 2)
    assert y.dtype == torch.int64
    for i in range(2):
        for c in range(2):
            np.testing.assert_array_equal(y[i, :, :, c], prepro.dilation(batch[i, :, :, c], 2))
    large = torch.tensor([[2**40, 2**40 + 1]])
    assert prepro.dilation(large, 1).tolist() == [[2**40 + 1] * 2]


@pytest.mark.parametrize(
    ("radius", "kind", "text"),
    [
        (-1, ValueError, "erosion: radius is at least 0, got -1"),
        (1.5, TypeError, "number of pixels, an integer, got 1.5"),
    ],
)
def test_what_is_wrong_is_said(radius, kind, text):
    with pytest.raises(kind, match=text):
        prepro.erosion(IMAGE, radius)
