"""Deformable convolution, spatial transformers and region pooling, against loops over single pixels."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.layers.deformable import DeformableConv2d
from torchlayer.layers.roi_pooling import ROIPoolingLayer
from torchlayer.layers.spatial_transformer import (
    SpatialTransformer2dAffineLayer,
    batch_transformer,
    transformer,
)

L = tl.layers
KERNELS = [(3, 3), (2, 3), (1, 1), (4, 5)]


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def between_pixels(*shape):
    """Random positions far enough from whole ones, where a bilinear function has a kink."""
    return torch.randint(-2, 3, shape) + 0.1 + 0.8 * torch.rand(shape, dtype=torch.float64)


def two_inputs(image, other, dtype=torch.float32):
    return L.InputLayer(image, name="x"), L.InputLayer(other, dtype=dtype, name="other")


def deformed(x, offsets, W, b):
    """Dai et al. 2017, equations 2 to 4, one pixel, filter cell and corner at a time."""
    n, height, width, _ = x.shape
    kh, kw = W.shape[2:]
    y = np.tile(b, (n, height, width, 1)).astype(float)
    for image, row, column, i, j in itertools.product(*map(range, (n, height, width, kh, kw))):
        dy, dx = offsets[image, row, column, 2 * (i * kw + j) :][:2]
        at_y, at_x = row + i - (kh - 1) // 2 + dy, column + j - (kw - 1) // 2 + dx
        for py, px in itertools.product(range(height), range(width)):
            weight = max(0, 1 - abs(at_y - py)) * max(0, 1 - abs(at_x - px))
            y[image, row, column] += W[:, :, i, j] @ (weight * x[image, py, px])
    return y


@pytest.mark.parametrize("kernel", KERNELS)
def test_deformable_equals_loops(kernel):
    x, offsets = double(2, 5, 4, 3), 2 * double(2, 5, 4, 2 * kernel[0] * kernel[1])
    layer = DeformableConv2d(n_filter=2, filter_size=kernel, W_init=torch.nn.init.normal_, b_init=0.5).double()
    y = layer(x, offsets)
    expected = deformed(x.numpy(), offsets.numpy(), layer.W.detach().numpy(), layer.b.detach().numpy())
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_deformable_without_offsets_is_a_convolution(kernel):
    x = torch.randn(2, 7, 6, 3)
    layer = DeformableConv2d(n_filter=4, filter_size=kernel, act=torch.tanh)
    y = layer(x, torch.zeros(2, 7, 6, 2 * kernel[0] * kernel[1]))
    plain = L.Conv2dLayer(act=torch.tanh, shape=[*kernel, 3, 4], W_init=layer.W.detach(), b_init=layer.b.detach())
    torch.testing.assert_close(y, plain(x), rtol=1e-5, atol=1e-6)


def test_offsets_are_pairs_down_and_right_for_each_cell():
    x = torch.arange(20.0).view(1, 4, 5, 1)
    pick = torch.zeros(1, 1, 2, 2)
    pick[0, 0, 1, 0] = 1  # the filter reads its cell (1, 0) only: one below the pixel
    layer = DeformableConv2d(n_filter=1, filter_size=2, W_init=pick, b_init=None)
    offsets = torch.zeros(1, 4, 5, 8)
    offsets[..., 4], offsets[..., 5] = -2, 1  # the third pair
    expected = F.pad(x[0, :-1, 1:, 0], (0, 1, 1, 0))  # one above, one to the right
    torch.testing.assert_close(layer(x, offsets)[0, ..., 0], expected, rtol=0, atol=0)


def test_deformable_offsets_of_one_image_move_no_other():
    x, offsets = torch.randn(3, 4, 4, 2), torch.randn(3, 4, 4, 18)
    layer = DeformableConv2d(n_filter=2)
    together = layer(x, offsets)
    alone = torch.cat([layer(x[i : i + 1], offsets[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 1)])
def test_deformable_gradients(kernel):
    layer = DeformableConv2d(n_filter=2, filter_size=kernel).double()
    x, offsets = double(2, 3, 4, 2), between_pixels(2, 3, 4, 2 * kernel[0] * kernel[1])
    layer(x, offsets)

    def run(x, offsets, W, b):
        return torch.func.functional_call(layer, {"W": W, "b": b}, (x, offsets))

    args = [t.detach().clone().requires_grad_() for t in (x, offsets, layer.W, layer.b)]
    assert torch.autograd.gradcheck(run, args)


def test_deformable_offset_far_outside_reads_zero_and_nan_stays_nan():
    x, layer = torch.ones(1, 3, 3, 1), DeformableConv2d(n_filter=1, filter_size=1, W_init=1.0, b_init=None)
    offsets = torch.zeros(1, 3, 3, 2)
    offsets[0, 0, 0, 0], offsets[0, 0, 1, 1], offsets[0, 0, 2, 0], offsets[0, 1, 0, 1] = 1e30, -1e30, 3, torch.inf
    offsets[0, 2, 2, 0] = torch.nan
    expected = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 1, torch.nan]])
    torch.testing.assert_close(layer(x, offsets)[0, ..., 0], expected, equal_nan=True)


def test_deformable_positions_stay_precise_under_autocast():
    x = torch.zeros(1, 1, 600, 1)
    x[..., 512:, :] = 1
    layer = DeformableConv2d(n_filter=1, filter_size=1, W_init=1.0, b_init=None)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, torch.full((1, 1, 600, 2), 0.5).bfloat16() * torch.tensor([0, 1], dtype=torch.bfloat16))
    assert y[0, 0, 509:514, 0].tolist() == [0, 0, 0.5, 1, 1]  # a bfloat16 position near 512 knows only every second


def transformed(U, thetas, out_size):
    """The formulas of TensorFlow's spatial_transformer.py (_meshgrid, _transform, _interpolate), pixel by pixel."""
    n, height, width, n_channels = U.shape
    y = np.zeros((n, thetas.shape[1], *out_size, n_channels))
    for image, m, row, column in itertools.product(*map(range, y.shape[:-1])):
        target = (np.linspace(-1, 1, out_size[1])[column], np.linspace(-1, 1, out_size[0])[row], 1)
        at_x, at_y = thetas[image, m].reshape(2, 3) @ target
        at_x, at_y = (at_x + 1) * width / 2, (at_y + 1) * height / 2
        x0, x1 = (min(max(math.floor(at_x) + k, 0), width - 1) for k in (0, 1))
        y0, y1 = (min(max(math.floor(at_y) + k, 0), height - 1) for k in (0, 1))
        y[image, m, row, column] = (
            (x1 - at_x) * (y1 - at_y) * U[image, y0, x0]
            + (x1 - at_x) * (at_y - y0) * U[image, y1, x0]
            + (at_x - x0) * (y1 - at_y) * U[image, y0, x1]
            + (at_x - x0) * (at_y - y0) * U[image, y1, x1]
        )
    return y


@pytest.mark.parametrize("size", [(6, 5), (1, 4), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("out_size", [(3, 4), (7, 9), (1, 1)], ids=str)
def test_transformers_equal_the_original_formulas(size, out_size):
    U, thetas = double(2, *size, 3), 0.8 * double(2, 3, 6)
    expected = transformed(U.numpy(), thetas.numpy(), out_size)
    several = batch_transformer(U, thetas, out_size)
    np.testing.assert_allclose(several.numpy(), expected.reshape(6, *out_size, 3), atol=1e-12)
    one = transformer(U, thetas[:, 1], out_size)
    np.testing.assert_allclose(one.numpy(), expected[:, 1], atol=1e-12)
    assert torch.equal(transformer(U, thetas[:, 1].view(2, 2, 3), out_size), one)


def test_transformer_moves_by_whole_pixels():
    U = torch.arange(64.0).view(1, 8, 8, 1)
    right_and_up = torch.tensor([[0.5, 0, 0.25, 0, 0.5, -0.25]])  # from pixel 3 to 7 and from 1 to 5
    y = transformer(U, right_and_up, (5, 5))
    torch.testing.assert_close(y[0, :, :-1], U[0, 1:6, 3:7], rtol=0, atol=0)
    assert (y[0, :, -1] == 0).all()  # the last pixel is outside


def test_identity_at_the_images_own_size_loses_the_last_row_and_column():
    U = torch.ones(1, 5, 4, 1)
    y = transformer(U, torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (5, 4))[0, ..., 0]
    assert torch.equal(y, F.pad(torch.ones(4, 3), (0, 1, 0, 1)))


def test_transformer_far_outside_is_zero_and_nan_stays_nan():
    theta = torch.tensor([[1e30, 0, 1e30, 0, 1, 0], [700.7, 0, 800, 33, 1, 0], [torch.nan, 0, 0, 0, 1, 0]])
    y = transformer(torch.randn(3, 3, 3, 4), theta, (4, 3))
    assert (y[:2, :, 1:] == 0).all()  # not what rounding leaves of large weights that cancel
    assert y[2, :3].isnan().all()


def test_transformer_gradients():
    U, thetas = double(2, 4, 5, 2).requires_grad_(), (0.6 * double(2, 2, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda U, thetas: batch_transformer(U, thetas, (3, 2)), (U, thetas))


def test_spatial_transformer_layer_maps_features_to_theta():
    x, features = double(2, 6, 5, 3), double(2, 2, 4)
    layer = SpatialTransformer2dAffineLayer(out_size=(4, 3), act=torch.tanh).double()
    layer(x, features)
    with torch.no_grad():
        layer.W.normal_()
    y = layer(x, features)
    thetas = np.tanh(features.numpy().reshape(2, 8) @ layer.W.detach().numpy() + [1, 0, 0, 0, 1, 0])
    np.testing.assert_allclose(y.detach().numpy(), transformed(x.numpy(), thetas[:, None], (4, 3))[:, 0], atol=1e-12)


def test_spatial_transformer_layer_begins_at_the_identity():
    x, features = torch.randn(3, 8, 8, 2), torch.randn(3, 5)
    y = SpatialTransformer2dAffineLayer(out_size=8)(x, features)
    assert torch.equal(y, transformer(x, torch.tensor([[1.0, 0, 0, 0, 1, 0]]).expand(3, 6), 8))
    assert SpatialTransformer2dAffineLayer()(x, features).shape == (3, 40, 40, 2)


def test_spatial_transformer_layer_gradients():
    layer = SpatialTransformer2dAffineLayer(out_size=(3, 2)).double()
    x, features = double(2, 4, 5, 2), double(2, 3)
    layer(x, features)

    def run(x, features, W, b):
        return torch.func.functional_call(layer, {"W": W, "b": b}, (x, features))

    args = [t.detach().clone().requires_grad_() for t in (x, features, 0.2 * double(3, 6), 0.3 * double(6))]
    assert torch.autograd.gradcheck(run, args)


def test_spatial_transformer_stays_precise_under_autocast():
    x, features, layer = torch.randn(2, 100, 100, 1), torch.randn(2, 16), SpatialTransformer2dAffineLayer(out_size=30)
    layer(x, features)
    torch.nn.init.normal_(layer.W, std=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, features)
    assert torch.equal(y, layer(x, features))


def test_spatial_transformer_learns_to_look_where_the_light_is():
    x = torch.zeros(8, 12, 12, 1)
    columns = torch.arange(8) % 4 + 4
    for i, c in enumerate(columns):
        x[i] = torch.exp(-((torch.arange(12.0)[:, None] - 6) ** 2 + (torch.arange(12.0) - c) ** 2) / 6)[..., None]
    features = (columns.float() - 5.5)[:, None]
    layer = SpatialTransformer2dAffineLayer(out_size=(7, 7))
    layer(x, features)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    before = after = None
    for _ in range(60):
        after = layer(x, features)[:, 3, 3].mean()
        before = after.item() if before is None else before
        optimizer.zero_grad()
        (-after).backward()
        optimizer.step()
    assert before < 0.85
    assert after > 0.97


def pooled(x, rois, pool_height, pool_width):
    """Girshick's Caffe layer, bin by bin, in exact fractions, and the pixel of each maximum."""
    _, height, width, n_channels = x.shape
    y = np.zeros((len(rois), pool_height, pool_width, n_channels))
    came_from = {}
    for r, (image, xmin, ymin, xmax, ymax) in enumerate(rois.tolist()):
        bin_h = Fraction(max(ymax - ymin + 1, 1), pool_height)
        bin_w = Fraction(max(xmax - xmin + 1, 1), pool_width)
        for i, j, c in itertools.product(range(pool_height), range(pool_width), range(n_channels)):
            rows = range(max(ymin + math.floor(i * bin_h), 0), min(ymin + math.ceil((i + 1) * bin_h), height))
            columns = range(max(xmin + math.floor(j * bin_w), 0), min(xmin + math.ceil((j + 1) * bin_w), width))
            for row, column in itertools.product(rows, columns):
                if (r, i, j, c) not in came_from or x[image, row, column, c] > y[r, i, j, c]:
                    y[r, i, j, c] = x[image, row, column, c]
                    came_from[r, i, j, c] = (image, row, column, c)
    return y, came_from


@pytest.mark.parametrize("size", [(9, 7), (1, 5), (6, 1), (16, 3)], ids=str)
@pytest.mark.parametrize("pool", [(2, 2), (3, 4), (1, 1), (7, 5)], ids=str)
def test_region_pooling_and_its_gradient_equal_loops(size, pool):
    x = double(3, *size, 2).requires_grad_()
    rois = torch.cat(
        [torch.randint(3, (30, 1)), torch.randint(-4, 14, (30, 4))], 1
    )  # inside, across, outside, inverted
    y = ROIPoolingLayer(pool_height=pool[0], pool_width=pool[1])(x, rois)
    expected, came_from = pooled(x.detach().numpy(), rois, *pool)
    np.testing.assert_array_equal(y.detach().numpy(), expected)
    upstream = double(*y.shape)
    y.backward(upstream)
    gradient = np.zeros(x.shape)
    for where, pixel in came_from.items():
        gradient[pixel] += upstream[where].item()
    np.testing.assert_allclose(x.grad.numpy(), gradient, atol=1e-12)


def test_region_pooling_gradcheck():
    x = torch.randperm(2 * 5 * 6 * 2).double().view(2, 5, 6, 2).requires_grad_()
    rois = torch.tensor([[0, 0, 0, 5, 4], [1, 2, 1, 4, 4], [1, -3, 3, 2, 9], [0, 4, 4, 2, 2]])
    assert torch.autograd.gradcheck(lambda x: ROIPoolingLayer(pool_height=3)(x, rois), (x,))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_region_pooling_takes_any_integers(dtype):
    x = torch.randn(2, 5, 5, 3)
    rois = torch.tensor([[1, 0, 1, 3, 4], [0, 2, 2, 2, 2]])
    assert torch.equal(ROIPoolingLayer()(x, rois.to(dtype)), ROIPoolingLayer()(x, rois))


def test_region_outside_every_image_is_zero_and_of_no_image_nan():
    x = torch.randn(2, 4, 4, 3, requires_grad=True)
    y = ROIPoolingLayer()(x, torch.tensor([[0, 9, 9, 12, 12], [2, 0, 0, 3, 3], [-1, 0, 0, 3, 3], [1, 0, 0, 3, 3]]))
    assert (y[0] == 0).all()
    assert y[1].isnan().all()
    assert y[2].isnan().all()
    assert y[3].isfinite().all()
    y[[0, 3]].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[0] == 0).all()


def test_region_pooling_of_negative_infinities_and_nans_stays_in_its_bins():
    x = torch.zeros(1, 4, 4, 1)
    x[0, :2, 2:], x[0, 2, 2], x[0, 3, 1] = -torch.inf, 1, torch.nan
    y = ROIPoolingLayer()(x, torch.tensor([[0, 0, 0, 3, 3]]))
    expected = torch.tensor([[0, -torch.inf], [torch.nan, 1]])
    torch.testing.assert_close(y[0, ..., 0], expected, equal_nan=True)


def test_no_regions_are_no_output():
    assert ROIPoolingLayer()(torch.randn(2, 4, 4, 3), torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 2, 2, 3)


def test_regions_are_an_input_of_their_own_length():
    x, rois = two_inputs((None, 8, 9, 4), (None, 5), torch.int64)
    net = ROIPoolingLayer(x, rois, pool_height=3, pool_width=2, name="roi")
    assert net.outputs == ((None, 3, 2, 4), torch.float32)
    images, boxes = torch.randn(2, 8, 9, 4), torch.tensor([[0, 1, 1, 5, 6], [1, 0, 0, 8, 7], [1, 3, 3, 3, 3]])
    assert torch.equal(net(images, boxes), ROIPoolingLayer(pool_height=3)(images, boxes))


@pytest.mark.parametrize(("n_images", "n_rois"), [(2, 7), (4, 3)])
def test_region_pooling_exports_with_both_lengths_free(n_images, n_rois):
    def inputs(n, r):
        return torch.randn(n, 6, 5, 2), torch.cat([torch.randint(n, (r, 1)), torch.randint(6, (r, 4))], 1)

    layer = ROIPoolingLayer()
    layer(*inputs(3, 5))
    free = ({0: torch.export.Dim("images", min=2)}, {0: torch.export.Dim("regions", min=2)})
    program = torch.export.export(layer, inputs(3, 5), dynamic_shapes=free)
    xs = inputs(n_images, n_rois)
    torch.testing.assert_close(program.module()(*xs), layer(*xs))


FLOATS = torch.float32
LAYERS = [
    (DeformableConv2d, "offset_layer", {"n_filter": 3}, (None, 5, 6, 18), FLOATS),
    (SpatialTransformer2dAffineLayer, "theta_layer", {"out_size": (4, 5)}, (None, 3), FLOATS),
    (ROIPoolingLayer, "rois", {"pool_height": 3}, (None, 5), torch.int64),
]
layers = pytest.mark.parametrize(("cls", "second", "kwargs", "other", "dtype"), LAYERS)


@layers
def test_every_way_to_stack_on_two_networks_records_the_same_call(cls, second, kwargs, other, dtype):
    nets = two_inputs((None, 5, 6, 2), other, dtype)
    made = [
        cls(*nets, *kwargs.values(), name="a"),
        cls(*nets, **kwargs, name="a"),
        cls(nets[0], **{second: nets[1]}, **kwargs, name="a"),
        cls(layer=nets[0], **{second: nets[1]}, **kwargs, name="a"),
        cls(list(nets), **kwargs, name="a"),
        L.stack(list(nets), cls(**kwargs), name="a"),
    ]
    node = made[0]._nodes[-1]
    assert node.inputs == ("x", "other")
    for net in made:
        assert isinstance(net, L.Network)
        assert vars(net._nodes[-1]) == {**vars(node), "module": net._nodes[-1].module}
        assert repr(net.all_layers[0]) == repr(made[0].all_layers[0])


@layers
def test_layer_alone_equals_the_stacked_one(cls, second, kwargs, other, dtype):
    xs = torch.randn(2, 5, 6, 2), torch.ones([2, *other[1:]], dtype=dtype)
    net, layer = cls(*two_inputs((None, 5, 6, 2), other, dtype), **kwargs, name="a"), cls(**kwargs)
    layer.load_state_dict(net.a.state_dict())
    assert torch.equal(layer(*xs), net(*xs))


def test_trunk_shared_by_both_inputs():
    x = L.InputLayer((None, 8, 8, 3), name="x")
    trunk = L.Conv2d(x, n_filter=4, act=torch.relu, name="trunk")
    offsets = L.Conv2d(trunk, n_filter=18, W_init=0.0, name="offsets")
    net = DeformableConv2d(trunk, offsets, n_filter=5, name="deformed")
    images = torch.randn(2, 8, 8, 3)
    net(images).square().sum().backward()
    assert list(net.state_dict()) == [f"{n}.{p}" for n in ("trunk", "offsets", "deformed") for p in "Wb"]
    assert net.offsets.b.grad.abs().sum() > 0


IMAGES = torch.zeros(2, 5, 6, 3)
BOXES = torch.zeros(4, 5, dtype=torch.int64)
STACKED = two_inputs((None, 5, 6, 3), (None, 5, 6, 18))
ERRORS = [
    (lambda: DeformableConv2d(n_filter=0), ValueError, "n_filter is how many filters and at least 1, got 0"),
    (lambda: DeformableConv2d(filter_size=(3, 0)), ValueError, "filter_size takes a positive int"),
    (
        lambda: DeformableConv2d(STACKED[0], n_filter=4),
        ValueError,
        r"it takes two inputs, got 1; write DeformableConv2d\(net, offset_layer, ...\)",
    ),
    (
        lambda: DeformableConv2d(None, STACKED[1]),
        TypeError,
        "DeformableConv2d got a network as offset_layer but NoneType as layer; give it both",
    ),
    (
        lambda: DeformableConv2d(STACKED[0], torch.zeros(2, 5, 6, 18)),
        TypeError,
        r"offset_layer is a network, got Tensor; stack an InputLayer for it, or make the layer alone",
    ),
    (lambda: DeformableConv2d()(IMAGES), TypeError, "it takes two inputs, got 1"),
    (
        lambda: DeformableConv2d(*STACKED, filter_size=2),
        ValueError,
        r"filters of 2 x 2 cells need offsets of shape \(N, H, W, 8\), got \(None, 5, 6, 18\)",
    ),
    (
        lambda: DeformableConv2d()(IMAGES, torch.zeros(2, 5, 18)),
        ValueError,
        r"need offsets of shape \(N, H, W, 18\), got \(2, 5, 18\)",
    ),
    (
        lambda: DeformableConv2d()(IMAGES, torch.zeros(2, 5, 5, 18)),
        ValueError,
        r"must agree in N, H and W, got \(2, 5, 6, 3\) and \(2, 5, 5, 18\)",
    ),
    (
        lambda: DeformableConv2d()(IMAGES, torch.zeros(1, 5, 6, 18)),
        ValueError,
        r"must agree in N, H and W, got \(2, 5, 6, 3\) and \(1, 5, 6, 18\)",
    ),
    (
        lambda: DeformableConv2d()(IMAGES[0], torch.zeros(2, 5, 6, 18)),
        ValueError,
        r"a 2-D convolution needs an input of shape .*, got \(5, 6, 3\)",
    ),
    (
        lambda: DeformableConv2d()(IMAGES, torch.zeros(2, 5, 6, 18, dtype=torch.int64)),
        TypeError,
        "an image and its offsets are floating point, got torch.float32 and torch.int64",
    ),
    (
        lambda: DeformableConv2d()(IMAGES.long(), torch.zeros(2, 5, 6, 18)),
        TypeError,
        "an image and its offsets are floating point, got torch.int64 and torch.float32",
    ),
    (
        lambda: transformer(IMAGES, torch.zeros(3, 6), (2, 2)),
        ValueError,
        r"one map for each image, got \(3, 6\) for images of shape \(2, 5, 6, 3\); batch_transformer takes several",
    ),
    (
        lambda: transformer(IMAGES, torch.zeros(2, 3, 2), (2, 2)),
        ValueError,
        r"theta has shape \(N, 6\) or \(N, 2, 3\)",
    ),
    (
        lambda: batch_transformer(IMAGES, torch.zeros(2, 6), (2, 2)),
        ValueError,
        r"thetas has shape \(N, M, 6\), M maps for each image, got \(2, 6\)",
    ),
    (
        lambda: batch_transformer(IMAGES, torch.zeros(1, 2, 6), (2, 2)),
        ValueError,
        r"thetas has shape \(N, M, 6\), M maps for each image, got \(1, 2, 6\)",
    ),
    (
        lambda: batch_transformer(IMAGES.long(), torch.zeros(2, 1, 6), 2),
        TypeError,
        "images and maps are floating point, got torch.int64 and torch.float32",
    ),
    (
        lambda: transformer(IMAGES, torch.zeros(2, 6, dtype=torch.int64), 2),
        TypeError,
        "images and maps are floating point, got torch.float32 and torch.int64",
    ),
    (lambda: transformer(IMAGES[..., 0], torch.zeros(2, 6), 2), ValueError, r"\(N, H, W, C\), got \(2, 5, 6\)"),
    (lambda: transformer(IMAGES[:, :, :0], torch.zeros(2, 6), 2), ValueError, r"no pixels, got \(2, 5, 0, 3\)"),
    (lambda: transformer(IMAGES, torch.zeros(2, 6), (0, 2)), ValueError, "out_size takes a positive int"),
    (lambda: SpatialTransformer2dAffineLayer(out_size=(2, 2, 2)), ValueError, "out_size takes a positive int"),
    (
        lambda: SpatialTransformer2dAffineLayer(*two_inputs((None, 5, 6, 3), (None, None))),
        ValueError,
        r"features need a known size, got \(None, None\); stack a global pooling layer on it",
    ),
    (
        lambda: SpatialTransformer2dAffineLayer()(IMAGES, torch.zeros(2)),
        ValueError,
        r"needs features of each image, \(N, n_features\), got \(2,\)",
    ),
    (
        lambda: SpatialTransformer2dAffineLayer().ensure_built((2, 5, 6, 3), (2, 4))(IMAGES, torch.zeros(2, 5)),
        ValueError,
        r"this layer was sized for 4 features of each image, got \(2, 5\)",
    ),
    (
        lambda: SpatialTransformer2dAffineLayer()(IMAGES, torch.zeros(3, 4)),
        ValueError,
        r"one map for each image, got \(3, 6\)",
    ),
    (
        lambda: SpatialTransformer2dAffineLayer()(IMAGES, torch.zeros(2, 4, dtype=torch.int64)),
        TypeError,
        "features are floating point, got torch.int64",
    ),
    (
        lambda: SpatialTransformer2dAffineLayer()(IMAGES[0], torch.zeros(2, 4)),
        ValueError,
        r"a spatial transformer needs images \(N, H, W, C\), got \(5, 6, 3\)",
    ),
    (lambda: ROIPoolingLayer(pool_width=0), ValueError, "pool_height and pool_width are at least 1, got 2 and 0"),
    (
        lambda: ROIPoolingLayer(*two_inputs((None, 5, 6, 3), (None, 4), torch.int64)),
        ValueError,
        r"rois has shape \(R, 5\), each row \(image, xmin, ymin, xmax, ymax\), got \(None, 4\)",
    ),
    (
        lambda: ROIPoolingLayer(*two_inputs((None, 5, 6, 3), (None, 5))),
        ValueError,
        r"rois are integers, got torch.float32; convert them with .round\(\).long\(\)",
    ),
    (lambda: ROIPoolingLayer()(IMAGES, BOXES.bool()), TypeError, "rois are integers, got torch.bool"),
    (lambda: ROIPoolingLayer()(IMAGES, BOXES[0]), ValueError, r"rois has shape \(R, 5\), .* got \(5,\)"),
    (lambda: ROIPoolingLayer()(IMAGES.int(), BOXES), TypeError, "the images are floating point, got torch.int32"),
    (lambda: ROIPoolingLayer()(IMAGES[0], BOXES), ValueError, r"\(N, H, W, C\), got \(5, 6, 3\)"),
    (
        lambda: ROIPoolingLayer(STACKED[0], rois=BOXES),
        TypeError,
        r"rois is a network, got Tensor; stack an InputLayer for it, or .* call it on two tensors, layer\(x, rois\)",
    ),
]


@pytest.mark.parametrize(("act", "error", "text"), ERRORS)
def test_errors_say_what_was_given_and_what_to_do(act, error, text):
    with pytest.raises(error, match=text):
        act()
