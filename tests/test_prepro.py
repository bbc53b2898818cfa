"""All of TensorLayer 1.3's names are there, with its arguments in its order, on every kind of input."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from torchlayer import prepro

# Of the original's syntax tree. Defaults that could be changed by accident are ours: None for {}, tuples for lists.
SIGNATURES = """
threading_data(data=None, fn=None, **kwargs)
rotation(x, rg=20, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', cval=0.0)
rotation_multi(x, rg=20, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', cval=0.0)
crop(x, wrg, hrg, is_random=False, row_index=0, col_index=1, channel_index=2)
crop_multi(x, wrg, hrg, is_random=False, row_index=0, col_index=1, channel_index=2)
flip_axis(x, axis, is_random=False)
flip_axis_multi(x, axis, is_random=False)
shift(x, wrg=0.1, hrg=0.1, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', cval=0.0)
shift_multi(x, wrg=0.1, hrg=0.1, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', \
cval=0.0)
shear(x, intensity=0.1, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', cval=0.0)
shear_multi(x, intensity=0.1, is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', cval=0.0)
swirl(x, center=None, strength=1, radius=100, rotation=0, output_shape=None, order=1, mode='constant', cval=0, \
clip=True, preserve_range=False, is_random=False)
swirl_multi(x, center=None, strength=1, radius=100, rotation=0, output_shape=None, order=1, mode='constant', cval=0, \
clip=True, preserve_range=False, is_random=False)
elastic_transform(x, alpha, sigma, mode='constant', cval=0, is_random=False)
elastic_transform_multi(x, alpha, sigma, mode='constant', cval=0, is_random=False)
zoom(x, zoom_range=(0.9, 1.1), is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', \
cval=0.0)
zoom_multi(x, zoom_range=(0.9, 1.1), is_random=False, row_index=0, col_index=1, channel_index=2, fill_mode='nearest', \
cval=0.0)
brightness(x, gamma=1, gain=1, is_random=False)
brightness_multi(x, gamma=1, gain=1, is_random=False)
constant(x, cutoff=0.5, gain=10, inv=False, is_random=False)
constant_multi(x, cutoff=0.5, gain=10, inv=False, is_random=False)
imresize(x, size=(100, 100), interp='bilinear', mode=None)
samplewise_norm(x, rescale=None, samplewise_center=False, samplewise_std_normalization=False, channel_index=2, \
epsilon=1e-07)
featurewise_norm(x, mean=None, std=None, epsilon=1e-07)
get_zca_whitening_principal_components_img(X)
zca_whitening(x, principal_components)
channel_shift(x, intensity, is_random=False, channel_index=2)
channel_shift_multi(x, intensity, is_random=False, channel_index=2)
drop(x, keep=0.5)
transform_matrix_offset_center(matrix, x, y)
apply_transform(x, transform_matrix, channel_index=2, fill_mode='nearest', cval=0.0)
projective_transform_by_points(x, src, dst, map_args=None, output_shape=None, order=1, mode='constant', cval=0.0, \
clip=True, preserve_range=False)
array_to_img(x, dim_ordering=(0, 1, 2), scale=True)
pad_sequences(sequences, maxlen=None, dtype='int32', padding='post', truncating='pre', value=0.0)
process_sequences(sequences, end_id=0, pad_val=0, is_shorten=True, remain_end_id=False)
sequences_add_start_id(sequences, start_id=0, remove_last=False)
sequences_get_mask(sequences, pad_val=0)
distorted_images(images, height=24, width=24)
crop_central_whiten_images(images, height=24, width=24)
"""


@pytest.mark.parametrize("line", SIGNATURES.split("\n")[1:-1], ids=lambda line: line.partition("(")[0])
def test_arguments_are_the_originals(line):
    signature = inspect.signature(getattr(prepro, line.partition("(")[0]))
    ours = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.kind != p.KEYWORD_ONLY]
    plain = signature.replace(parameters=ours, return_annotation=signature.empty)
    assert str(plain) == line[line.index("(") :]


def test_there_are_39_of_them():
    assert len(SIGNATURES.split("\n")[1:-1]) == 39


CORNERS = [[0, 0], [0, 15], [17, 15], [17, 0]]
OF_IMAGES = {
    "rotation": lambda x: prepro.rotation(x, 20, True, rng=0),
    "shift": lambda x: prepro.shift(x, is_random=True, rng=0),
    "shear": lambda x: prepro.shear(x, is_random=True, rng=0),
    "zoom": lambda x: prepro.zoom(x, is_random=True, order=1, rng=0),
    "crop": lambda x: prepro.crop(x, 9, 8, True, rng=0),
    "flip_axis": lambda x: prepro.flip_axis(x, 1, True, rng=0),
    "swirl": lambda x: prepro.swirl(x, radius=9, is_random=True, rng=0),
    "elastic_transform": lambda x: prepro.elastic_transform(x, 9, 2, is_random=True, rng=0),
    "projective": lambda x: prepro.projective_transform_by_points(x, CORNERS, [[1, 1], *CORNERS[1:]]),
    "apply_transform": lambda x: prepro.apply_transform(x, np.diag([0.5, 0.5, 1])),
    "remap": lambda x: prepro.remap(x, np.full((3, 2), 0.5), np.full((3, 2), 1.5)),
    "brightness": lambda x: prepro.brightness(x, 0.5, is_random=True, rng=0),
    "contrast": prepro.contrast,
    "channel_shift": lambda x: prepro.channel_shift(x, 0.1, True, rng=0),
    "random_brightness": lambda x: prepro.random_brightness(x, 0.1, rng=0),
    "random_contrast": lambda x: prepro.random_contrast(x, 0.5, 1.5, rng=0),
    "drop": lambda x: prepro.drop(x, rng=0),
    "imresize": lambda x: prepro.imresize(x, (5, 6)),
    "samplewise_norm": lambda x: prepro.samplewise_norm(x, None, True, True),
    "featurewise_norm": lambda x: prepro.featurewise_norm(x, 0.5, 2),
    "per_image_standardization": prepro.per_image_standardization,
    "distorted_images": lambda x: prepro.distorted_images(x, 8, 9, rng=0),
    "crop_central_whiten_images": lambda x: prepro.crop_central_whiten_images(x, 8, 9),
}  # fmt: skip

# As they are used in a layer: with torch's own stream of random numbers
WITHOUT_SEED = {
    "rotation": lambda x: prepro.rotation(x, 20, True),
    "shift": lambda x: prepro.shift(x, is_random=True),
    "shear": lambda x: prepro.shear(x, is_random=True),
    "zoom": lambda x: prepro.zoom(x, is_random=True, order=1),
    "crop": lambda x: prepro.crop(x, 9, 8, True),
    "flip_axis": lambda x: prepro.flip_axis(x, 1, True),
    "swirl": lambda x: prepro.swirl(x, radius=9, is_random=True),
    "elastic_transform": lambda x: prepro.elastic_transform(x, 9, 2, is_random=True),
    "apply_transform": lambda x: prepro.apply_transform(x, torch.diag(torch.tensor([0.5, 0.5, 1]))),
    "remap": lambda x: prepro.remap(x, torch.full((3, 2), 0.5), torch.full((3, 2), 1.5)),
    "brightness": lambda x: prepro.brightness(x, 0.5, is_random=True),
    "channel_shift": lambda x: prepro.channel_shift(x, 0.1, True),
    "random_brightness": lambda x: prepro.random_brightness(x, 0.1),
    "random_contrast": lambda x: prepro.random_contrast(x, 0.5, 1.5),
    "drop": lambda x: prepro.drop(x),
    "distorted_images": lambda x: prepro.distorted_images(x, 8, 9),
}


@pytest.mark.parametrize("name", OF_IMAGES)
def test_kinds_shapes_and_memory(name):
    """Arrays give arrays and tensors tensors, of as many dimensions; nothing that is given is changed or shared."""
    fn = OF_IMAGES[name]
    colour = np.random.default_rng(0).random((16, 18, 3)).astype(np.float32)
    for image in (colour, colour[..., :1], colour[..., 0], np.stack([colour] * 2)):
        for x in (image.copy(), torch.from_numpy(image.copy())):
            y = fn(x)
            assert isinstance(y, type(x))
            assert y.ndim == x.ndim
            assert str(y.dtype).endswith("uint8" if name == "imresize" else "float32")
            np.testing.assert_array_equal(x, image)
            array = y if isinstance(y, np.ndarray) else y.numpy()
            assert not np.shares_memory(array, np.asarray(x))
            assert np.isfinite(array).all()
            again = fn(x)
            np.testing.assert_array_equal(array, np.asarray(again))
    strange = np.asfortranarray(colour)[::-1, ::-1]  # neither contiguous nor of positive strides
    np.testing.assert_array_equal(fn(strange), fn(np.ascontiguousarray(strange)))
    strange = strange.astype(">f4")
    strange.flags.writeable = False
    np.testing.assert_array_equal(fn(strange), fn(strange.astype("<f4")))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_gradients_reach_the_images(name):
    if name == "imresize":
        pytest.skip("its result is uint8")
    x = torch.rand(2, 16, 18, 3, requires_grad=True)
    y = OF_IMAGES[name](x)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", OF_IMAGES)
def test_it_can_be_a_layer(name):
    """On tensors without data, which give a network its shapes; compiled; and under autocast, with all its digits."""
    if name in ("imresize", "projective"):
        pytest.skip("reads numbers on the host")
    fn = OF_IMAGES[name]
    unseeded = WITHOUT_SEED.get(name, fn)
    x = torch.rand(2, 16, 18, 3)
    expected = fn(x)
    assert unseeded(x.to("meta")).shape == expected.shape
    compiled = torch.compile(unseeded, fullgraph=True, backend="eager")
    assert compiled(x).shape == expected.shape
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fn(x), expected, atol=1e-5, rtol=1e-5)
