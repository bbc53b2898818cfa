"""The kinds of convolution and their transposes, against TensorFlow's outputs and plain definitions."""

import copy
import itertools
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import torchlayer as tl
from torchlayer.layers import InputLayer
from torchlayer.layers.convolution import Conv2d, Conv2dLayer
from torchlayer.layers.convolution_kinds import (
    AtrousConv1dLayer,
    AtrousConv2dLayer,
    DepthwiseConv2d,
    GroupConv2d,
    SeparableConv1d,
    SeparableConv2d,
    SeparableConv2dLayer,
)
from torchlayer.layers.convolution_nd import Conv1d, Conv1dLayer, Conv3dLayer
from torchlayer.layers.deconvolution import (
    AtrousDeConv2dLayer,
    DeConv2d,
    DeConv2dLayer,
    DeConv3d,
    DeConv3dLayer,
    deconv2d_bilinear_upsampling_initializer,
)
from torchlayer.layers.padding import fixed_padding, pad_same

REFERENCE = Path(__file__).parent / "reference"
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def load(stem):
    data = np.load(REFERENCE / f"{stem}.npz")
    return {key: torch.tensor(data[key]) for key in data.files if key != "about"}


def agrees(layer, data):
    torch.testing.assert_close(layer(data["x"]), data["y"], rtol=1e-5, atol=1e-5)


# TensorFlow ----------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("stem", "cls", "args"),
    [
        ("conv1d_s2", Conv1dLayer, {"shape": [5, 3, 6], "strides": 2}),
        ("conv1d_s2", Conv1dLayer, {"shape": [5, None, 6], "stride": 2}),
        ("conv1d_s2", Conv1d, {"n_filter": 6, "filter_size": 5, "stride": 2}),
        ("conv3d_s2", Conv3dLayer, {"shape": [3, 3, 3, 2, 4]}),
        ("atrous_conv2d", AtrousConv2dLayer, {"n_filter": 6, "filter_size": 3, "rate": 2}),
        ("conv2d_s2", GroupConv2d, {"n_filter": 6, "filter_size": (5, 4), "n_group": 1}),
    ],
)
def test_convolutions_agree_with_tensorflow(stem, cls, args, padding):
    data = load(f"{stem}_{padding}")
    w = data["w"].movedim((-1, -2), (0, 1))
    agrees(cls(**args, padding=padding, W_init=w, b_init=None), data)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_separable_convolution_agrees_with_tensorflow(padding):
    data = load(f"separable_conv2d_{padding}")
    depthwise = data["depthwise"].permute(2, 3, 0, 1).reshape(6, 1, 3, 3)
    pointwise = data["pointwise"].permute(3, 2, 0, 1)
    inits = {"depthwise_init": depthwise, "pointwise_init": pointwise}
    agrees(SeparableConv2dLayer(n_filter=4, padding=padding, depth_multiplier=2, **inits), data)


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution_agrees_with_tensorflow(stride):
    data = load(f"conv2d_transpose_s{stride}_SAME")
    w, out = data["w"].permute(3, 2, 0, 1), [2, *data["y"].shape[1:]]
    strides = [1, stride, stride, 1]
    agrees(DeConv2dLayer(shape=[3, 3, 5, 3], output_shape=out, strides=strides, W_init=w, b_init=None), data)
    agrees(DeConv2d(n_out_channel=5, strides=stride, W_init=w), data)


FULL = [[1, 2, 5, 4, 6], [4, 5, 14, 10, 12], [10, 14, 36, 24, 30], [12, 15, 34, 20, 24], [21, 24, 55, 32, 36]]


@pytest.mark.parametrize(
    ("padding", "size", "expected"),
    [
        ("VALID", 5, FULL),
        ("VALID", None, FULL),
        ("VALID", 6, [[*row, 0] for row in FULL] + [[0] * 6]),
        ("SAME", 4, [row[:4] for row in FULL[:4]]),
        ("SAME", None, [row[:4] for row in FULL[:4]]),
        ("SAME", 3, [row[1:4] for row in FULL[1:4]]),
    ],
)
def test_transposed_vectors_of_the_original(padding, size, expected):
    w = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    layer = DeConv2dLayer(shape=[3, 3, 1, 1], output_shape=[1, size, size, 1], padding=padding, W_init=w, b_init=None)
    y = layer(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 2, 1))
    torch.testing.assert_close(y[0, :, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_dilated_vector_of_the_original():
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    layer = AtrousConv2dLayer(n_filter=1, filter_size=2, rate=2, W_init=w)
    expected = [[20, 36, 43, 18], [38, 68, 78, 32], [62, 108, 118, 48], [18, 28, 31, 10]]
    y = layer(torch.arange(16.0).view(1, 4, 4, 1))
    torch.testing.assert_close(y[0, :, :, 0], torch.tensor(expected, dtype=torch.float32))


# Definitions ---------------------------------------------------------------------


def same_pad(n, k, s, d=1):
    total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
    return total // 2, total - total // 2


def convolved(x, w, strides, padding, rate=1):
    """Channels-last ``x``, filters ``(..., in, out)``: pad by the rule, then convolve, in double."""
    rank = x.dim() - 2
    y = x.movedim(-1, 1)
    if padding == "SAME":
        sizes = zip(y.shape[2:], w.shape, strides)
        y = F.pad(y, [p for n, k, s in reversed(list(sizes)) for p in same_pad(n, k, s, rate)])
    return CONV[rank](y, w.movedim((-1, -2), (0, 1)), stride=strides, dilation=rate).movedim(1, -1)


def transposed(image, w, strides, padding, rate=1):
    """Some gradient of ``convolved(image, w)``, and what it makes of the image's."""
    y = convolved(image.requires_grad_(), w, strides, padding, rate)
    x = doubles(*y.shape)
    return x, torch.autograd.grad(y, image, x)[0]


def cases(rank, n=8):
    draw = random.Random(rank)
    for i in range(n):
        sizes = [draw.randint(4, 9) for _ in range(rank)]
        kernel, strides = ([draw.randint(1, 4) for _ in range(rank)] for _ in range(2))
        yield sizes, kernel, strides, ("SAME", "VALID")[i % 2]


def doubles(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize(("sizes", "kernel", "strides", "padding"), [*cases(1), *cases(3)])
def test_convolution_over_any_axes_is_padding_and_sums(sizes, kernel, strides, padding):
    x, w, b = doubles(2, *sizes, 3), doubles(*kernel, 3, 4), doubles(4)
    inits = {"W_init": w.movedim((-1, -2), (0, 1)), "b_init": b, "padding": padding, "act": torch.tanh}
    if len(sizes) == 1:
        layer = Conv1dLayer(shape=[*kernel, 3, 4], strides=strides[0], **inits)
    else:
        layer = Conv3dLayer(shape=[*kernel, 3, 4], strides=[1, *strides, 1], **inits)
    torch.testing.assert_close(layer.double()(x), torch.tanh(convolved(x, w, strides, padding) + b))


@pytest.mark.parametrize(("sizes", "kernel", "strides", "padding"), [*cases(2, 16), *cases(3)])
def test_transposed_convolution_is_the_gradient_of_a_convolution(sizes, kernel, strides, padding):
    w, b = doubles(*kernel, 5, 3), doubles(5)
    image = doubles(2, *[n + k for n, k in zip(sizes, kernel)], 5)
    x, expected = transposed(image, w, strides, padding)
    cls = {2: DeConv2dLayer, 3: DeConv3dLayer}[len(sizes)]
    layer = cls(
        shape=[*kernel, 5, 3], output_shape=[None, *image.shape[1:]], strides=[1, *strides, 1], padding=padding,
        W_init=w.movedim((-1, -2), (0, 1)), b_init=b,
    )  # fmt: skip
    torch.testing.assert_close(layer.double()(x), expected + b)


@pytest.mark.parametrize(
    ("padding", "k", "s", "n"), [*itertools.product(["SAME", "VALID"], [1, 3, 4], [1, 2, 3], [1, 3])]
)
def test_every_output_size_is_either_right_or_an_error(padding, k, s, n):
    for out in range(1, 15):
        back = -(-out // s) if padding == "SAME" else -(-(out - k + 1) // s)
        layer = DeConv2d(n_out_channel=2, filter_size=k, out_size=out, strides=s, padding=padding)
        if back == n:
            assert layer(torch.ones(1, n, n, 1)).shape == (1, out, out, 2)
        else:
            with pytest.raises(ValueError, match=f"an output size of {out} is impossible for an input of size {n}"):
                layer(torch.ones(1, n, n, 1))


@pytest.mark.parametrize(("rate", "padding"), [(2, "SAME"), (3, "SAME"), (2, "VALID")])
def test_atrous_filters_reach_further(rate, padding):
    x, w = doubles(2, 9, 8, 3), doubles(3, 2, 3, 4)
    layer = AtrousConv2dLayer(
        n_filter=4, filter_size=(3, 2), rate=rate, padding=padding, W_init=w.permute(3, 2, 0, 1), act=torch.sin
    )
    torch.testing.assert_close(layer.double()(x), torch.sin(convolved(x, w, (1, 1), padding, rate)))


@pytest.mark.parametrize(("k", "stride", "dilation", "padding"), [
    (2, 1, 1, "SAME"), (2, 1, 3, "SAME"), (3, 2, 2, "SAME"), (3, 1, 4, "VALID"), (4, 2, 3, "SAME"),
])  # fmt: skip
def test_atrous_filters_over_one_axis_reach_further(k, stride, dilation, padding):
    x, w = doubles(2, 17, 3), doubles(k, 3, 4)
    layer = AtrousConv1dLayer(
        None, 4, k, stride, dilation, torch.sin, padding, W_init=w.permute(2, 1, 0), b_init=None
    )  # fmt: skip
    torch.testing.assert_close(layer.double()(x), torch.sin(convolved(x, w, (stride,), padding, dilation)))


@pytest.mark.parametrize(("k", "rate", "padding"), [*itertools.product([1, 2, 3, 4], [1, 2, 3], ["SAME", "VALID"])])
def test_transposed_atrous_convolution_is_the_gradient_of_an_atrous_one(k, rate, padding):
    w = doubles(k, 2, 5, 3)
    x, expected = transposed(doubles(2, 11, 12, 5), w, (1, 1), padding, rate)
    size = [None, *expected.shape[1:]]
    for output_shape in (None, size):
        layer = AtrousDeConv2dLayer(
            None, (k, 2, 5, 3), output_shape, rate, padding=padding, W_init=w.permute(3, 2, 0, 1), b_init=None
        )  # fmt: skip
        torch.testing.assert_close(layer.double()(x), expected)


@pytest.mark.parametrize(("padding", "out_size"), [("SAME", None), ("SAME", (5, 7, 4)), ("VALID", None)])
def test_short_transposed_convolution_over_three_axes(padding, out_size):
    w = doubles(3, 2, 3, 4, 2)
    sizes = out_size or ((6, 8, 4) if padding == "SAME" else (7, 8, 5))
    x, expected = transposed(doubles(2, *sizes, 4), w, (2, 2, 2), padding)
    layer = DeConv3d(None, 4, (3, 2, 3), 2, padding, W_init=w.permute(4, 3, 0, 1, 2), out_size=out_size)
    torch.testing.assert_close(layer.double()(x), expected)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Conv1d(n_filter=2, filter_size=4, stride=2), (2, 5, 3)),
        (lambda: Conv2d(n_filter=2, filter_size=2, strides=2), (2, 5, 4, 2)),
        (lambda: DeConv2d(n_out_channel=2, filter_size=(3, 2), strides=2), (2, 3, 2, 2)),
        (lambda: DeConv2d(n_out_channel=2, filter_size=2, strides=3, padding="VALID", out_size=9), (1, 3, 3, 2)),
        (lambda: SeparableConv1d(n_filter=2, padding="SAME", strides=2, depth_multiplier=2), (2, 6, 2)),
    ],
    ids=["conv1d", "lopsided", "odd cut", "added zeros", "separable1d"],
)
def test_gradients_are_the_slopes(make, shape):
    layer = make().double()
    x = doubles(*shape).requires_grad_()
    layer(x)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_depthwise_filters_see_one_channel_each(padding):
    x, w = doubles(2, 8, 7, 3), doubles(3, 2, 3, 2)  # TensorFlow's (h, w, n_in, depth_multiplier)
    layer = DepthwiseConv2d(
        shape=(3, 2), strides=2, padding=padding, depth_multiplier=2, W_init=w.permute(2, 3, 0, 1).reshape(6, 1, 3, 2)
    )
    each = [convolved(x[..., c : c + 1], w[:, :, c : c + 1], (2, 2), padding) for c in range(3)]
    torch.testing.assert_close(layer.double()(x), torch.cat(each, -1))


def test_groups_see_their_own_channels():
    x, w = doubles(2, 8, 7, 4), doubles(3, 3, 2, 6)
    layer = GroupConv2d(n_filter=6, n_group=2, W_init=w.permute(3, 2, 0, 1))
    halves = [convolved(x[..., 2 * g : 2 * g + 2], w[..., 3 * g : 3 * g + 3], (2, 2), "SAME") for g in range(2)]
    torch.testing.assert_close(layer.double()(x), torch.cat(halves, -1))


def test_separable_is_depthwise_then_a_product_over_channels():
    x = doubles(2, 8, 7, 3)
    layer = SeparableConv2dLayer(n_filter=4, strides=2, dilation_rate=2, padding="same", b_init=[1.0, 2.0, 3.0, 4.0])
    y = layer.double()(x)
    depthwise = layer.W_depthwise.permute(1, 2, 3, 0)
    each = [convolved(x[..., c : c + 1], depthwise[..., c : c + 1].movedim(0, 2), (2, 2), "SAME", 2) for c in range(3)]
    torch.testing.assert_close(y, torch.cat(each, -1) @ layer.W_pointwise[:, :, 0, 0].T + layer.b)


@pytest.mark.parametrize(("padding", "strides", "rate"), [("VALID", 1, 1), ("same", 2, 1), ("SAME", 1, 2)])
def test_separable_over_one_axis_is_depthwise_then_a_product_over_channels(padding, strides, rate):
    x = doubles(2, 9, 3)
    layer = SeparableConv1d(
        n_filter=4, filter_size=3, strides=strides, padding=padding, dilation_rate=rate, depth_multiplier=2,
        b_init=[1.0, 2.0, 3.0, 4.0], act=torch.tanh,
    ).double()  # fmt: skip
    y = layer(x)
    filters = layer.W_depthwise.permute(2, 1, 0)  # (length, 1, n_in * depth_multiplier)
    each = [convolved(x[..., c : c + 1], filters[..., 2 * c : 2 * c + 2], (strides,), padding.upper(), rate)
            for c in range(3)]  # fmt: skip
    torch.testing.assert_close(y, torch.tanh(torch.cat(each, -1) @ layer.W_pointwise[..., 0].T + layer.b))


def test_separable_convolution_has_both_names():
    assert SeparableConv2d is SeparableConv2dLayer


@pytest.mark.parametrize(
    ("size", "profile"), [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1, 0.5]), (1, [1]), (2, [0.5, 0.5])]
)
def test_bilinear_filters_of_the_original(size, profile):
    W = deconv2d_bilinear_upsampling_initializer([size, size, 2, 3])(torch.randn(3, 2, size, size))
    one = torch.outer(torch.tensor(profile), torch.tensor(profile))
    assert torch.equal(W[0, 0], one.float())
    assert torch.equal(W[1, 1], one.float())
    assert not W[0, 1].any()
    assert not W[1, 0].any()
    assert not W[2].any()


def test_bilinear_filters_enlarge_a_ramp_linearly():
    init = deconv2d_bilinear_upsampling_initializer([4, 4, 1, 1])
    net = DeConv2d(InputLayer((None, 5, 5, 1)), 1, 4, strides=2, W_init=init, b_init=None)
    y = net(torch.arange(5.0).view(1, 1, 5, 1).expand(1, 5, 5, 1))[0, 4, :, 0]
    torch.testing.assert_close(y[1:-1].diff(), torch.full((7,), 0.5))


# Manners -------------------------------------------------------------------------

LAYERS = [
    ("conv1d", lambda **a: Conv1dLayer(shape=[3, 2, 4], **a), (2, 7, 2)),
    ("conv3d", lambda **a: Conv3dLayer(shape=[2, 2, 2, 2, 4], **a), (2, 4, 5, 6, 2)),
    ("deconv2d", lambda **a: DeConv2dLayer(shape=[3, 3, 4, 2], **a), (2, 4, 5, 2)),
    ("deconv3d", lambda **a: DeConv3dLayer(shape=[3, 3, 3, 4, 2], **a), (2, 3, 4, 5, 2)),
    ("atrous", lambda **a: AtrousConv2dLayer(n_filter=4, **a), (2, 7, 6, 2)),
    ("separable", lambda **a: SeparableConv2dLayer(n_filter=4, **a), (2, 7, 6, 2)),
    ("depthwise", lambda **a: DepthwiseConv2d(**a), (2, 7, 6, 2)),
    ("group", lambda **a: GroupConv2d(n_filter=4, **a), (2, 7, 6, 2)),
    ("conv2d", lambda **a: Conv2dLayer(shape=[3, 3, None, 4], **a), (2, 7, 6, 2)),
    ("atrous1d", lambda **a: AtrousConv1dLayer(n_filter=4, dilation=2, **a), (2, 7, 2)),
    ("separable1d", lambda **a: SeparableConv1d(n_filter=4, **a), (2, 7, 2)),
    ("atrous_deconv", lambda **a: AtrousDeConv2dLayer(shape=[3, 2, 4, 2], **a), (2, 7, 6, 2)),
    ("deconv3d_short", lambda **a: DeConv3d(n_filter=4, **a), (2, 3, 4, 5, 2)),
]
every = pytest.mark.parametrize(("make", "shape"), [row[1:] for row in LAYERS], ids=[row[0] for row in LAYERS])


@every
@pytest.mark.parametrize("b_init", [None, False, 0])
def test_no_bias_when_asked_for_none(make, shape, b_init):
    layer = make(b_init=b_init, act=None)
    layer(torch.ones(shape))
    assert "b" not in layer.state_dict()


@every
def test_printing_works_before_and_after_sizing(make, shape):
    layer = make(act=torch.relu)
    assert "act=relu" in repr(layer)
    layer(torch.ones(shape))
    assert "?" not in repr(layer)


@every
def test_wrong_inputs_are_named(make, shape):
    layer = make()
    layer(torch.ones(shape))
    with pytest.raises(ValueError, match=r"these filters take 2 channels, got an input of shape .* with 3"):
        layer(torch.ones(*shape[:-1], 3))
    with pytest.raises(ValueError, match=r"-D convolution needs an input of shape \(N, .*; stack a ReshapeLayer first"):
        layer(torch.ones(shape[1:]))
    with pytest.raises(ValueError, match=r"with 5; data are \(N, .*C\), and these look like \(N, C, .*: permute them"):
        layer(torch.ones(2, 2, *[5] * (len(shape) - 2)))
    with pytest.raises(TypeError, match=r"takes floating-point numbers, got torch.uint8 of shape .*with x.float\(\)"):
        layer(torch.ones(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"at least"):
        layer(torch.ones(2, *[0] * (len(shape) - 2), 2))
    with pytest.raises(ValueError, match=r"layer 'a' .* cannot take .* needs to know the number of input channels"):
        tl.layers.stack(InputLayer((None, *shape[1:-1], None)), make(), name="a")


@every
def test_files_hold_the_filters_as_tensorflow_writes_them(make, shape, tmp_path):
    net = tl.layers.stack(InputLayer((None, *shape[1:])), make(), name="a")
    tl.files.save_npz(net, str(tmp_path / "w.npz"))
    params = tl.files.load_npz(str(tmp_path), "w.npz")
    other = tl.layers.stack(InputLayer((None, *shape[1:])), make(), name="a")
    tl.files.load_and_assign_npz(str(tmp_path / "w.npz"), other)
    assert [p.ndim for p in params] == [p.dim() for p in net.parameters()]
    assert torch.equal(net(torch.ones(shape)), other(torch.ones(shape)))


@pytest.mark.parametrize(
    ("make", "shape", "stored"),
    [
        (LAYERS[0][1], LAYERS[0][2], (3, 2, 4)),
        (LAYERS[1][1], LAYERS[1][2], (2, 2, 2, 2, 4)),
        (LAYERS[2][1], LAYERS[2][2], (3, 3, 4, 2)),
        (LAYERS[3][1], LAYERS[3][2], (3, 3, 3, 4, 2)),
        (LAYERS[4][1], LAYERS[4][2], (3, 3, 2, 4)),
        (LAYERS[7][1], LAYERS[7][2], (3, 3, 1, 4)),
    ],
)
def test_original_shapes_of_filters(make, shape, stored):
    layer = make()
    layer(torch.ones(shape))
    assert tuple(layer.W.permute(layer.npz_axes["W"]).shape) == stored


def test_unknown_sizes_flow_through_and_refuse_a_fixed_output():
    net = InputLayer((None, None, None, 3))
    assert DeConv2d(net, 4).outputs.shape == (None, None, None, 4)
    assert SeparableConv2dLayer(net, 4, strides=2).outputs.shape == (None, None, None, 4)
    with pytest.raises(ValueError, match=r"an output size of \[8, 8\] fits few input sizes.*leave that size None"):
        DeConv2d(net, 4, out_size=8)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Conv1dLayer(shape=[5, 1]), r"shape is \[length, n_in, n_out\] of positive numbers.*got \[5, 1\]"),
        (lambda: Conv1dLayer(strides=0), "strides takes a positive int, got 0"),
        (lambda: Conv1dLayer(strides=2, stride=3), "strides and stride are one thing, got 2 and 3"),
        (lambda: Conv1dLayer(data_format="NCHW"), "data are channels_last, got data_format='NCHW'"),
        (lambda: Conv1dLayer(use_cudnn_on_gpu=False), "is torch.backends.cudnn.flags"),
        (lambda: Conv3dLayer(shape=[2, 2, None, 3, 4]), "only n_in may be None"),
        (lambda: Conv3dLayer(strides=[2, 2, 2]), r"strides takes \[1, d, h, w, 1\] with ones"),
        (lambda: DeConv2dLayer(shape=[3, 3, None, 4]), r"shape is \[height, width, n_out, n_in\]"),
        (lambda: DeConv2dLayer(shape=[3, 3, 4, 2], output_shape=[1, 8, 8, 2]), r"output_shape is \[N, H, W, 4\]"),
        (lambda: DeConv3dLayer(output_shape=[1, 8, 8, 2]), r"output_shape is \[N, D, H, W, 128\]"),
        (lambda: AtrousConv2dLayer(rate=0), "rate takes a positive int"),
        (lambda: AtrousConv2dLayer(n_filter=0), "n_filter is a positive int, got 0"),
        (lambda: AtrousConv2dLayer(padding="FULL"), "padding is 'SAME' or 'VALID', got 'FULL'"),
        (lambda: GroupConv2d(n_filter=5, n_group=2), "n_group divides n_filter, got n_group=2 and n_filter=5"),
        (lambda: GroupConv2d()(torch.ones(1, 4, 4, 3)), "n_group divides the input's channels, got n_group=2 and 3"),
        (lambda: DepthwiseConv2d(depth_multiplier=0), "depth_multiplier is a positive int, got 0"),
        (lambda: SeparableConv2dLayer(data_format="channels_first"), "data are channels_last"),
        (lambda: Conv1d(padding="VALID")(torch.ones(1, 4, 2)), r"needs an input of at least \[5\], got \[4\]"),
        (lambda: deconv2d_bilinear_upsampling_initializer([3, 4, 1, 1]), "bilinear filters are square"),
        (lambda: deconv2d_bilinear_upsampling_initializer([3, 3, 2, 1]), "from one input channel, got 2 from 1"),
        (
            lambda: deconv2d_bilinear_upsampling_initializer([3, 3, 1, 2])(torch.ones(1, 2, 3, 3)),
            r"for a parameter of \(2, 1, 3, 3\), got one of \(1, 2, 3, 3\)",
        ),
    ],
)
def test_wrong_arguments_are_explained(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "shape", "text"),
    [
        (lambda: Conv2d(), (2, 8, 8), r"a 2-D convolution needs an input of shape \(N, H, W, C\), got \(2, 8, 8\)"),
        (lambda: Conv1d(), (2, 8, 8, 3), r"a 1-D convolution needs an input of shape \(N, L, C\), got \(2, 8, 8, 3\)"),
        (lambda: Conv2dLayer(shape=[3, 3, 3, 4]), (2, 8, 8, 4), "take 3 channels, .* with 4; give inputs of that many"),
        (lambda: Conv2dLayer(shape=[3, 3, 3, 4]), (2, 3, 8, 9), r"look like \(N, C, H, W\): permute them"),
        (lambda: Conv2d(padding="VALID"), (2, 5, 2, 3),
         r"at least \[3, 3\], got \[5, 2\]; give larger inputs, smaller filters, or padding='SAME'$"),
        (lambda: Conv3dLayer(shape=[2, 2, 3, 3, 4], padding="VALID"), (2, 4, 1, 4, 3),
         r"needs an input of at least \[2, 2, 3\], got \[4, 1, 4\]"),
        (lambda: AtrousConv2dLayer(padding="VALID"), (2, 5, 4, 3),
         r"a filter of size \[3, 3\] at a rate of \[2, 2\] needs an input of at least \[5, 5\], got \[5, 4\]"),
        (lambda: SeparableConv1d(), (2, 2, 3),
         r"under VALID a filter of size \[3\] needs an input of at least \[3\], got \[2\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stacked", [False, True], ids=["called", "stacked"])
def test_inputs_that_do_not_fit_are_explained(make, shape, text, stacked):
    layer, net = make(), InputLayer((None, *shape[1:]))
    with pytest.raises(ValueError, match=text.replace(r"\(2, ", r"\(None, ") if stacked else text):
        tl.layers.stack(net, layer, name="a") if stacked else layer(torch.ones(shape))


def test_a_network_of_ids_is_refused():
    with pytest.raises(ValueError, match=r"layer 'a' .*takes floating-point numbers, got torch.int64.*x.float\(\)"):
        tl.layers.stack(InputLayer((None, 8, 8, 3), torch.int64), Conv2d(), name="a")


def test_an_empty_batch_gives_an_empty_batch():
    for layer in (Conv2d(n_filter=4), Conv1d(n_filter=4), DeConv2d(n_out_channel=4)):
        shape = (8,) * (1 if isinstance(layer, Conv1dLayer) else 2)
        assert layer(torch.ones(0, *shape, 3)).shape[0] == 0


# Memory --------------------------------------------------------------------------


def channels_last(W):
    return W.movedim(1, -1).is_contiguous()


def filters(layer):
    return [getattr(layer, name) for name in layer.npz_axes]


def loaded(make, layer):
    other = make()
    other.load_state_dict({key: value.contiguous() for key, value in layer.state_dict().items()})
    return other


@every
def test_filters_gradients_and_outputs_lie_in_the_order_of_channels_last_data(make, shape):
    layer = make()
    y = layer(torch.randn(shape).requires_grad_())
    y.backward(torch.randn(y.shape))
    assert y.is_contiguous()
    for W in filters(layer):
        assert channels_last(W)
        assert channels_last(W.grad)


@every
@pytest.mark.parametrize(
    "another",
    [
        loaded,
        lambda make, layer: copy.deepcopy(layer),
        lambda make, layer: pickle.loads(pickle.dumps(layer)),
        lambda make, layer: layer.double().float(),
    ],
    ids=["loaded", "deepcopy", "pickle", "converted"],
)
def test_filters_keep_their_order_in_memory(make, shape, another):
    layer, x = make(), torch.randn(shape)
    y = layer(x)
    other = another(make, layer)
    torch.testing.assert_close(other(x), y)
    optimizer = torch.optim.Adam(other.parameters())
    other(x).sum().backward()
    optimizer.step()
    assert all(map(channels_last, filters(other)))
    assert all(channels_last(optimizer.state[W]["exp_avg"]) for W in filters(other))


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


VIEWS = {"permute", "unsqueeze", "squeeze", "detach"}
SYMMETRIC = [
    (lambda: Conv2d(n_filter=4), (2, 8, 7, 3)),
    (lambda: Conv2d(n_filter=4, strides=2), (2, 9, 7, 3)),
    (lambda: Conv2d(n_filter=4, padding="VALID", strides=2), (2, 8, 7, 3)),
    (lambda: Conv1d(n_filter=4), (2, 8, 3)),
    (lambda: Conv3dLayer(shape=[3, 3, 3, 3, 4]), (2, 5, 7, 3, 3)),
    (lambda: DeConv2d(n_out_channel=4, filter_size=4), (2, 5, 7, 3)),
    (lambda: DeConv2d(n_out_channel=4, filter_size=3, padding="VALID"), (2, 5, 7, 3)),
    (lambda: AtrousDeConv2dLayer(shape=[3, 3, 4, 3]), (2, 5, 7, 3)),
]


@pytest.mark.parametrize(("make", "shape"), SYMMETRIC)
def test_symmetric_padding_copies_nothing(make, shape):
    layer, x = make(), torch.randn(shape).requires_grad_()
    g = torch.randn(layer(x).shape)
    with Calls() as calls:
        layer(x).backward(g)
    assert calls.names - VIEWS == {"convolution", "convolution_backward"}


@pytest.mark.parametrize(("k", "s", "d"), [*itertools.product([1, 2, 3, 4, 5], [1, 2, 3], [1, 2])])
def test_fixed_padding_is_the_padding_of_every_size(k, s, d):
    assert fixed_padding("VALID", (k,), (s,), (d,)) == [0]
    fixed = fixed_padding("SAME", (k,), (s,), (d,))
    pads = {same_pad(n, k, s, d) for n in range((k - 1) * d + 1, 40)}
    if fixed is not None:
        assert pads == {(fixed[0], fixed[0])}
    elif k > 1:
        assert len(pads) > 1 or pads == {(p, p + 1) for p, _ in pads}


def test_only_lopsided_padding_copies():
    x = torch.arange(5.0).view(1, 1, 5)
    assert pad_same(x, (3,), (2,), (1,)) == (x, [1])
    padded, left = pad_same(x, (2,), (1,), (1,))
    assert padded.flatten().tolist() == [0, 1, 2, 3, 4, 0]
    assert left == [0]


@pytest.mark.parametrize("shape", [(2, 1, 4, 3), (2, 4, 4, 3), (2, 4, 4, 4, 3)], ids=["row", "image", "volume"])
def test_padded_data_stay_in_channels_last_order(shape):
    kernel = [2 for n in shape[1:-1] if n > 1]
    padded, _ = pad_same(torch.randn(shape).movedim(-1, 1), kernel, [1] * len(kernel), [1] * len(kernel))
    assert padded.shape == (2, 3, *(n + (n > 1) for n in shape[1:-1]))
    assert channels_last(padded)
