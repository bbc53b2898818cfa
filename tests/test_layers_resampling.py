"""Resampling, padding and global pooling, against TensorFlow's outputs and independent formulas."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.layers.global_pooling import (
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    GlobalMeanPool1d,
    GlobalMeanPool2d,
    GlobalMeanPool3d,
    MaxPool1d,
    MaxPool3d,
    MeanPool1d,
    MeanPool3d,
)
from torchlayer.layers.pad import PadLayer, ZeroPad1d, ZeroPad2d, ZeroPad3d
from torchlayer.layers.resampling import DownSampling2dLayer, SubpixelConv2d, UpSampling2dLayer, resize

L = tl.layers
REFERENCE = Path(__file__).parent / "reference"
METHODS = ["bilinear", "nearest", "bicubic", "area"]
methods = pytest.mark.parametrize("method", METHODS)
both_alignments = pytest.mark.parametrize("align", [False, True], ids=["noalign", "align"])


def resize_matrix(n, out, method, align):
    """The dense (out, n) matrix of one axis, pixel by pixel; positions in float32, as TensorFlow has them."""
    s = np.float32((n - 1) / (out - 1) if align and out > 1 else n / out)
    matrix = torch.zeros(out, n, dtype=torch.float64)
    for o in range(out):
        p = float(np.float32(o) * s)
        j = math.floor(p)
        f = p - j
        if method == "bilinear":
            taps = [(j, 1 - f), (j + 1, f)]
        elif method == "nearest":
            taps = [(j + 1 if align and f >= 0.5 else j, 1.0)]
        elif method == "bicubic":
            f = round(f * 1024) / 1024
            taps = [(j + k, cubic(abs(f - k))) for k in (-1, 0, 1, 2)]
        elif s == 0:
            taps = [(0, 1.0)]
        else:
            q = p + float(s)
            taps = [(k, max(min(k + 1, q) - max(k, p), 0.0) / float(s)) for k in range(j, math.ceil(q))]
        for k, weight in taps:
            matrix[o, min(max(k, 0), n - 1)] += weight
    return matrix


def cubic(d, a=-0.75):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a


@both_alignments
@methods
def test_resizing_agrees_with_tensorflow(method, align):
    data = np.load(REFERENCE / f"resize_{method}_{'align' if align else 'noalign'}.npz")
    size = json.loads(str(data["about"]))["size"]
    layer = UpSampling2dLayer(size=size, is_scale=False, method=METHODS.index(method), align_corners=align)
    torch.testing.assert_close(layer(torch.tensor(data["x"])), torch.tensor(data["y"]), rtol=1e-4, atol=1e-4)


# TensorFlow's, printed to six decimals: [[0, 1], [2, 4]] to 3 x 4.
PRINTED = [
    ("bilinear", False, [[0, 0.5, 1, 1], [1.333333, 2.166667, 3, 3], [2, 3, 4, 4]]),
    ("bilinear", True, [[0, 0.333333, 0.666667, 1], [1, 1.5, 2, 2.5], [2, 2.666667, 3.333333, 4]]),
    ("nearest", False, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 4, 4]]),
    ("nearest", True, [[0, 0, 1, 1], [2, 2, 4, 4], [2, 2, 4, 4]]),
    (
        "bicubic",
        False,
        [[0, 0.5, 1, 1.09375], [1.371076, 2.213845, 3.056613, 3.214633], [2.222222, 3.277778, 4.333333, 4.53125]],
    ),
    (
        "bicubic",
        True,
        [[0, 0.314462, 0.685538, 1], [1, 1.471693, 2.028307, 2.5], [2, 2.628924, 3.371076, 4]],
    ),
    ("area", False, [[0, 0, 1, 1], [1, 1, 2.5, 2.5], [2, 2, 4, 4]]),
    ("area", True, [[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 4]]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
@pytest.mark.parametrize(("method", "align", "expected"), PRINTED)
def test_resizing_gives_the_printed_values(method, align, expected, dtype):
    z = torch.tensor([[0.0, 1.0], [2.0, 4.0]], dtype=dtype).view(1, 2, 2, 1)
    layer = UpSampling2dLayer(size=(3, 4), is_scale=False, method=method, align_corners=align)
    y = layer(z)
    assert y.dtype == dtype
    torch.testing.assert_close(y[0, :, :, 0], torch.tensor(expected, dtype=dtype), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("bilinear", [[0, 1.609476, 4.406911], [22.627417, 28.540926, 34.86284]]),
        ("area", [[4.522542, 7.426427, 11.084326], [33.307762, 39.469536, 45.967354]]),
    ],
)
def test_making_smaller_gives_the_printed_values(method, expected):
    x = torch.arange(16.0).pow(1.5).view(1, 4, 4, 1)
    y = DownSampling2dLayer(size=(2, 3), is_scale=False, method=method)(x)
    torch.testing.assert_close(y[0, :, :, 0], torch.tensor(expected), rtol=0, atol=1e-5)


SIZES = [
    ((7, 5), (7, 9)),
    ((6, 4), (12, 12)),
    ((12, 9), (4, 3)),
    ((11, 10), (5, 17)),
    ((5, 6), (1, 1)),
    ((1, 1), (3, 4)),
    ((1, 8), (2, 3)),
    ((13, 3), (10, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
@both_alignments
@methods
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_resizing_equals_two_dense_matrices(before, after, method, align, dtype):
    x = torch.randn(2, *before, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
    rows, columns = (resize_matrix(n, m, method, align) for n, m in zip(before, after))
    expected = torch.einsum("ah,bw,nhwc->nabc", rows, columns, x.double())
    y = resize(x, after, method, align)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@both_alignments
def test_nearest_picks_the_pixel_that_float32_positions_pick(align):
    differs_in_float64 = (45, 129)
    for n, out in [*itertools.product(range(1, 30), range(1, 50)), differs_in_float64]:
        expected = resize_matrix(n, out, "nearest", align).argmax(1)
        for dtype in (torch.float32, torch.float64, torch.int64):
            x = torch.arange(n).to(dtype).view(1, n, 1, 1)
            assert torch.equal(resize(x, (out, 1), "nearest", align).flatten().long(), expected), (n, out, dtype)


@pytest.mark.parametrize(
    ("method", "mode"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("nearest", "nearest-exact")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
def test_half_pixel_centers_are_torchs_convention(method, mode, dtype):
    x = torch.randn(2, 5, 7, 3, dtype=dtype)
    y = UpSampling2dLayer(size=(8, 11), is_scale=False, method=method, half_pixel_centers=True)(x)
    torch.testing.assert_close(y, F.interpolate(x.permute(0, 3, 1, 2), (8, 11), mode=mode).permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("scale", "size"), [((2, 3), (12, 27)), (2, (12, 18)), ((1.5, 0.5), (9, 4)), (0.3, (2, 3)), ((1, 1), (6, 9))]
)
@pytest.mark.parametrize("cls", [UpSampling2dLayer, DownSampling2dLayer])
def test_scales_are_rounded_to_pixels(cls, scale, size):
    x = torch.randn(2, 6, 9, 3)
    for method in range(4):
        y = cls(size=scale, method=method)(x)
        assert y.shape == (2, *size, 3)
        assert torch.equal(y, cls(size=size, is_scale=False, method=method)(x))


def test_the_same_size_returns_the_input():
    x = torch.zeros(1, 4, 4, 1, dtype=torch.uint8)
    assert UpSampling2dLayer(size=(1, 1))(x) is x


@pytest.mark.parametrize(("method", "dtype"), [(m, torch.uint8 if m == "nearest" else torch.float32) for m in METHODS])
def test_whole_numbers_become_float32_but_for_nearest(method, dtype):
    x = torch.randint(0, 255, (1, 4, 4, 1), dtype=torch.uint8)
    y = UpSampling2dLayer(size=(1.5, 2), method=method)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), UpSampling2dLayer(size=(1.5, 2), method=method)(x.float()))


@both_alignments
@methods
def test_low_precision_is_kept_and_rounded_once(method, align):
    x = torch.randn(2, 5, 6, 3).bfloat16()
    y = resize(x, (8, 4), method, align)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), resize(x.float(), (8, 4), method, align), rtol=1e-2, atol=1e-2)


@methods
def test_one_image_needs_no_batch(method):
    x = torch.randn(5, 6, 3)
    layer = UpSampling2dLayer(size=2, method=method)
    assert torch.equal(layer(x), layer(x[None])[0])
    assert UpSampling2dLayer(L.InputLayer((5, 6, 3)), size=2, method=method).outputs.shape == (10, 12, 3)


@both_alignments
@methods
def test_gradients_flow_through_resizing(method, align):
    for size in [(7, 3), (8, 10)]:
        x = torch.randn(1, 4, 5, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, size=size: resize(x, size, method, align), x)


@methods
def test_heights_and_widths_may_be_unknown_when_stacking(method):
    net = UpSampling2dLayer(L.InputLayer((None, None, None, 3)), size=(2, 0.5), method=method)
    assert net.outputs.shape == (None, None, None, 3)
    assert net(torch.zeros(2, 5, 8, 3)).shape == (2, 10, 4, 3)


def test_subpixel_reads_channels_in_tensorflows_order():
    x = torch.randn(2, 3, 4, 18)
    y = SubpixelConv2d(scale=3)(x)
    expected = np.zeros((2, 9, 12, 2), dtype=np.float32)
    for h, w, c in np.ndindex(9, 12, 2):
        expected[:, h, w, c] = x[:, h // 3, w // 3, (h % 3 * 3 + w % 3) * 2 + c]
    assert torch.equal(y, torch.tensor(expected))


def test_subpixel_differs_from_pixel_shuffle_in_nothing_but_the_order_of_channels():
    x = torch.randn(2, 3, 4, 8)
    shuffled = F.pixel_shuffle(x.unflatten(-1, (4, 2)).transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2), 2)
    assert torch.equal(SubpixelConv2d(scale=2, n_out_channel=2)(x), shuffled.permute(0, 2, 3, 1))


def test_subpixel_applies_its_activation():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(SubpixelConv2d(act=torch.relu)(x), SubpixelConv2d()(x).relu())


# Printed by TensorFlow.
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("CONSTANT", [0, 0, 1, 2, 3, 0, 0]),
        ("reflect", [3, 2, 1, 2, 3, 2, 1]),
        ("Symmetric", [2, 1, 1, 2, 3, 3, 2]),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_padding_gives_the_printed_values_on_any_axis(axis, mode, expected):
    shape, paddings = [1] * 4, [[0, 0]] * 4
    shape[axis], paddings[axis] = 3, [2, 2]
    y = PadLayer(paddings=paddings, mode=mode)(torch.tensor([1, 2, 3]).view(shape))
    assert y.shape[axis] == 7
    assert y.flatten().tolist() == expected


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_padding_equals_numpys(make, mode):
    x = torch.randn(3, 4, 5, 2)
    paddings = [[1, 0], [2, 3], [0, 4], [1, 1]]
    y = PadLayer(paddings=make(paddings), mode=mode)(x)
    assert torch.equal(y, torch.tensor(np.pad(x.numpy(), paddings, mode=mode)))


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 5, 4, 3, 2)], ids=["3d", "4d", "5d"])
def test_reflecting_sequences_images_and_volumes_equals_numpys(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    paddings = [[0, 0], *[[4, 0], [1, 2], [2, 2]][: len(shape) - 2], [0, 0]]
    layer = PadLayer(paddings=paddings, mode="REFLECT")
    assert torch.equal(layer(x), torch.tensor(np.pad(x.detach().numpy(), paddings, mode="reflect")))
    assert layer(x).is_contiguous()
    assert torch.autograd.gradcheck(layer, x)


def test_padding_may_be_named_as_in_later_releases():
    assert PadLayer(padding=[[0, 0], [1, 2]])(torch.ones(2, 3)).tolist() == [[0, 1, 1, 1, 0, 0]] * 2


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric"])
def test_gradients_flow_through_padding(mode):
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    layer = PadLayer(paddings=[[0, 0], [1, 2], [2, 0]], mode=mode)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_gradients_for_each_example_flow_through_a_mirror():
    layer, x = PadLayer(paddings=[[1, 1], [0, 2]], mode="SYMMETRIC"), torch.randn(4, 3, 3)
    each = torch.func.vmap(torch.func.grad(lambda x: layer(x).square().sum()))(x)
    assert torch.allclose(each, torch.stack([torch.func.grad(lambda x: layer(x).square().sum())(row) for row in x]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 4, 3), (2, 5, 4, 3, 2)], ids=["3d", "4d", "5d"])
def test_a_gpu_reflects_as_a_cpu_does(shape):
    layer = PadLayer(paddings=[[0, 0], *[[4, 0], [1, 2], [2, 2]][: len(shape) - 2], [0, 0]], mode="REFLECT")
    x = torch.randn(shape, requires_grad=True)
    there = x.detach().cuda().requires_grad_()
    y, z = layer(x), layer(there)
    assert torch.equal(z.cpu(), y)
    assert z.is_contiguous()
    grad = torch.randn_like(y)
    y.backward(grad)
    z.backward(grad.cuda())
    torch.testing.assert_close(there.grad.cpu(), x.grad)


@pytest.mark.parametrize(
    ("short", "padding", "pads"),
    [
        (ZeroPad1d, 2, [(2, 2)]),
        (ZeroPad1d, (1, 2), [(1, 2)]),
        (ZeroPad2d, 2, [(2, 2), (2, 2)]),
        (ZeroPad2d, (1, 2), [(1, 1), (2, 2)]),
        (ZeroPad2d, ((1, 2), (0, 3)), [(1, 2), (0, 3)]),
        (ZeroPad3d, 1, [(1, 1)] * 3),
        (ZeroPad3d, (0, 1, 2), [(0, 0), (1, 1), (2, 2)]),
        (ZeroPad3d, ((0, 1), (2, 0), (1, 1)), [(0, 1), (2, 0), (1, 1)]),
    ],
)
def test_zero_padding_in_short_equals_numpys(short, padding, pads):
    x = torch.randn(2, *range(3, 3 + len(pads)), 2)
    expected = torch.tensor(np.pad(x.numpy(), [(0, 0), *pads, (0, 0)]))
    assert torch.equal(short(padding=padding)(x), expected)
    net = short(L.InputLayer((None, *x.shape[1:])), padding, name="pad")
    assert net.outputs.shape == (None, *expected.shape[1:])
    assert torch.equal(net(x), expected)


@pytest.mark.parametrize(
    ("cls", "rank", "reduce"),
    [
        (GlobalMaxPool1d, 1, np.max),
        (GlobalMaxPool2d, 2, np.max),
        (GlobalMaxPool3d, 3, np.max),
        (GlobalMeanPool1d, 1, np.mean),
        (GlobalMeanPool2d, 2, np.mean),
        (GlobalMeanPool3d, 3, np.mean),
    ],
)
def test_global_pooling_leaves_one_value_a_channel(cls, rank, reduce):
    x = torch.randn(2, *range(3, 3 + rank), 4)
    expected = torch.tensor(reduce(x.numpy(), axis=tuple(range(1, rank + 1))))
    torch.testing.assert_close(cls()(x), expected)


@pytest.mark.parametrize(("cls", "rank"), [(GlobalMaxPool1d, 1), (GlobalMaxPool2d, 2), (GlobalMaxPool3d, 3)])
def test_global_maxima_get_the_gradient_and_whole_numbers_pass(cls, rank):
    axes = tuple(range(1, rank + 1))
    x = torch.randn(2, *range(3, 3 + rank), 4, requires_grad=True)
    cls()(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, (x == x.amax(axes, keepdim=True)).float())
    assert torch.equal(cls()((10 * x).long()), (10 * x).long().amax(axes))


@pytest.mark.parametrize(
    ("short", "rank", "op"),
    [
        (MaxPool1d, 1, F.max_pool1d),
        (MeanPool1d, 1, F.avg_pool1d),
        (MaxPool3d, 3, F.max_pool3d),
        (MeanPool3d, 3, F.avg_pool3d),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "kernel", "stride"), [((), 3, 2), ((2,), 2, 2), ((2, 1), 2, 1), ((3, None), 3, 3)]
)
def test_pooling_in_short_over_sequences_and_volumes(short, rank, op, arguments, kernel, stride):
    x = torch.randn(2, *[6, 7, 5][:rank], 3)
    expected = op(x.movedim(-1, 1), kernel, stride).movedim(1, -1)
    torch.testing.assert_close(short(None, *arguments)(x), expected)
    assert short(L.InputLayer((None, *x.shape[1:])), *arguments, name="pool").outputs.shape == (
        None,
        *expected.shape[1:],
    )


@pytest.mark.parametrize("short", [MaxPool1d, MeanPool1d])
def test_same_padding_of_sequences_adds_the_odd_cell_after_and_does_not_count_it(short):
    x = torch.tensor([[1.0, 5.0, 2.0]]).view(1, 3, 1)
    expected = [5.0, 2.0] if short is MaxPool1d else [3.0, 2.0]
    assert short(None, 2, 2, "SAME")(x).flatten().tolist() == expected


UP, SUB = UpSampling2dLayer, SubpixelConv2d
IMAGE = (2, 4, 4, 3)
ERRORS = [
    (lambda: UP(), "size takes a positive number or two of them, (height, width), got ()"),
    (lambda: UP(size=(2, 0)), "got (2, 0)"),
    (lambda: UP(size=(2, 2, 2)), "got (2, 2, 2)"),
    (lambda: UP(size=(2.5, 2), is_scale=False), "whole pixels when is_scale=False, got (2.5, 2)"),
    (lambda: UP(size=2, method=4), "method is 0 bilinear, 1 nearest, 2 bicubic or 3 area (or the word), got 4"),
    (lambda: UP(size=2, method="cubic"), "got 'cubic'"),
    (lambda: UP(size=2, align_corners=True, half_pixel_centers=True), "cannot be had with align_corners=True"),
    (lambda: UP(size=2, method=3, half_pixel_centers=True), "cannot be had with method 'area'"),
    (lambda: UP(size=2)(torch.zeros(2, 4)), "resampling needs (N, H, W, C) or (H, W, C), got (2, 4)"),
    (lambda: UP(size=0.1)(torch.zeros(IMAGE)), "scales (0.1, 0.1) leave no pixel of a 4 x 4 image"),
    (lambda: SUB(scale=0), "scale is a positive whole number, got 0"),
    (lambda: SUB(n_out_channel=0), "n_out_channel is a positive number of channels, or None, got 0"),
    (lambda: SUB()(torch.zeros(2, 4)), "SubpixelConv2d needs a 4-D input (N, H, W, C), got (2, 4)"),
    (lambda: SUB()(torch.zeros(IMAGE)), "scale=2 needs a multiple of 4 channels, got 3"),
    (lambda: SUB(n_out_channel=2)(torch.zeros(IMAGE)), "scale=2 needs 8 channels, got 3"),
    (lambda: PadLayer(), "such as [[0, 0], [2, 2], [2, 2], [0, 0]], but none was given"),
    (lambda: PadLayer(paddings=[[1, 1]], padding=[[1, 1]]), "given twice, as paddings and as padding"),
    (lambda: PadLayer(paddings=[1, 2]), "paddings takes (before, after), not negative, for every axis, got [1, 2]"),
    (lambda: PadLayer(paddings=[[0, -1]]), "got [[0, -1]]"),
    (lambda: PadLayer(paddings=[[1, 1]], mode="EDGE"), "mode is 'CONSTANT', 'REFLECT' or 'SYMMETRIC', got 'EDGE'"),
    (lambda: PadLayer(paddings=[[1, 1]])(torch.zeros(2, 3)), "has 1 rows, one an axis, but the input is (2, 3)"),
    (lambda: PadLayer(paddings=[[3, 0]], mode="REFLECT")(torch.zeros(3)), "at most 2 cells, got (3, 0)"),
    (lambda: PadLayer(paddings=[[0, 4]], mode="SYMMETRIC")(torch.zeros(3)), "at most 3 cells, got (0, 4)"),
    (lambda: ZeroPad1d(), "padding takes an int or (before, after), not negative, got ()"),
    (lambda: ZeroPad1d(padding=(1, 2, 3)), "got (1, 2, 3)"),
    (lambda: ZeroPad2d(padding=-1), "padding takes an int, 2 ints or 2 pairs (before, after), not negative, got -1"),
    (lambda: ZeroPad3d(padding=(1, 2)), "an int, 3 ints or 3 pairs (before, after), not negative, got (1, 2)"),
    (lambda: ZeroPad2d()(torch.zeros(IMAGE)), "got ()"),
    (lambda: GlobalMaxPool2d()(torch.zeros(2, 4)), "GlobalMaxPool2d needs a 4-D input (N, H, W, C), got (2, 4)"),
    (lambda: GlobalMeanPool1d()(torch.zeros(IMAGE)), "GlobalMeanPool1d needs a 3-D input (N, T, C), got (2, 4, 4, 3)"),
    (lambda: MaxPool1d(None, 0), "filter_size takes a positive int, got 0"),
    (lambda: MeanPool3d(None, 2, (1, 2)), "strides takes a positive int or 3 of them, got (1, 2)"),
    (lambda: MaxPool3d()(torch.zeros(IMAGE)), "needs a 5-D input, got (2, 4, 4, 3)"),
    (lambda: MaxPool1d(padding="FULL"), "padding is 'SAME' or 'VALID', got 'FULL'"),
    (lambda: GlobalMeanPool2d(L.InputLayer((None, 9)), name="gap"), "layer 'gap' (GlobalMeanPool2d) cannot take"),
]


@pytest.mark.parametrize(("make", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_wrong_arguments_say_what_to_do(make, text):
    with pytest.raises(ValueError) as error:
        make()
    assert text in str(error.value)


def test_layers_print_their_settings():
    assert (
        repr(UP(size=2, method=3)) == "UpSampling2dLayer(size=[2, 2], is_scale=True, method=area, align_corners=False)"
    )
    assert repr(SUB(act=torch.relu)) == "SubpixelConv2d(scale=2, n_out_channel=None, act=relu)"
    assert repr(ZeroPad1d(padding=1)) == "PadLayer(paddings=[[0, 0], [1, 1], [0, 0]], mode=CONSTANT)"
