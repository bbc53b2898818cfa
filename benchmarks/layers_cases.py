"""The pairs that layers.py times, one function a family. Another file of cases is one more line in layers.py."""

from __future__ import annotations

from typing import Any

import torch
from layers_pairs import Case, Pair, paired
from torch import Tensor, nn

import torchlayer as tl

L = tl.layers
AFFINE = {"W": "weight", "b": "bias"}
NORM = {"gamma": "weight", "beta": "bias"}


class Function(nn.Module):
    """What one would write in ``forward``, where torch.nn has no module."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *xs: Tensor) -> Tensor:
        return self.function(*xs)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def images(n: int, size: int, n_channels: int) -> Tensor:
    return torch.randn(n, size, size, n_channels)


def control(n: int, n_in: int, n_units: int) -> Pair:
    """torch.nn beside itself: how far its ratio is from 1 is the error of the method."""
    pair = dense(n, n_in, n_units)
    return Pair(pair.theirs, pair.theirs, [], channels_first=False)


def dense(n: int, n_in: int, n_units: int) -> Pair:
    return paired(L.DenseLayer(n_units=n_units), nn.Linear(n_in, n_units), torch.randn(n, n_in), AFFINE)


def dense_relu(n: int, n_in: int, n_units: int) -> Pair:
    theirs = nn.Sequential(nn.Linear(n_in, n_units), nn.ReLU())
    ours = L.DenseLayer(n_units=n_units, act=torch.relu)
    return paired(ours, theirs, torch.randn(n, n_in), {"W": "0.weight", "b": "0.bias"})


def conv2d(n: int, size: int, n_in: int, n_out: int, kernel: int = 3) -> Pair:
    theirs = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    return paired(L.Conv2d(n_filter=n_out, filter_size=kernel), theirs, images(n, size, n_in), AFFINE)


def conv2d_valid(n: int, size: int, n_in: int, n_out: int, kernel: int = 3) -> Pair:
    ours = L.Conv2d(n_filter=n_out, filter_size=kernel, padding="VALID")
    return paired(ours, nn.Conv2d(n_in, n_out, kernel), images(n, size, n_in), AFFINE)


def conv2d_halving(n: int, size: int, n_in: int, n_out: int) -> Pair:
    """SAME of an even size moves by two with one cell more below and at the right."""
    theirs = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(n_in, n_out, 3, stride=2))
    ours = L.Conv2d(n_filter=n_out, filter_size=3, strides=2)
    return paired(ours, theirs, images(n, size, n_in), {"W": "1.weight", "b": "1.bias"})


def conv1d(n: int, n_steps: int, n_in: int, n_out: int) -> Pair:
    theirs = nn.Conv1d(n_in, n_out, 5, padding=2)
    return paired(L.Conv1d(n_filter=n_out, filter_size=5), theirs, torch.randn(n, n_steps, n_in), AFFINE)


def conv3d(n: int, size: int, n_in: int, n_out: int) -> Pair:
    ours = L.Conv3dLayer(shape=[3, 3, 3, n_in, n_out], strides=[1, 1, 1, 1, 1])
    return paired(ours, nn.Conv3d(n_in, n_out, 3, padding=1), torch.randn(n, size, size, size, n_in), AFFINE)


def deconv2d(n: int, size: int, n_in: int, n_out: int) -> Pair:
    theirs = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)
    return paired(L.DeConv2d(n_out_channel=n_out, filter_size=4), theirs, images(n, size, n_in), AFFINE)


def deconv2d_cut(n: int, size: int, n_in: int, n_out: int) -> Pair:
    """A filter of five and a stride of two leave one cell too many at the end."""
    theirs = nn.Sequential(
        nn.ConvTranspose2d(n_in, n_out, 5, stride=2, padding=1), Function(lambda y: y[..., :-1, :-1])
    )
    ours = L.DeConv2d(n_out_channel=n_out, filter_size=5)
    return paired(ours, theirs, images(n, size, n_in), {"W": "0.weight", "b": "0.bias"})


def depthwise(n: int, size: int, n_channels: int) -> Pair:
    theirs = nn.Conv2d(n_channels, n_channels, 3, padding=1, groups=n_channels)
    return paired(L.DepthwiseConv2d(), theirs, images(n, size, n_channels), AFFINE)


def separable(n: int, size: int, n_in: int, n_out: int) -> Pair:
    theirs = nn.Sequential(nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False), nn.Conv2d(n_in, n_out, 1))
    names = {"W_depthwise": "0.weight", "W_pointwise": "1.weight", "b": "1.bias"}
    ours = L.SeparableConv2dLayer(n_filter=n_out, filter_size=3, padding="SAME")
    return paired(ours, theirs, images(n, size, n_in), names)


def group(n: int, size: int, n_in: int, n_out: int) -> Pair:
    theirs = nn.Conv2d(n_in, n_out, 3, padding=1, groups=2)
    return paired(L.GroupConv2d(n_filter=n_out, strides=1, n_group=2), theirs, images(n, size, n_in), AFFINE)


def atrous(n: int, size: int, n_in: int, n_out: int) -> Pair:
    theirs = nn.Conv2d(n_in, n_out, 3, padding=2, dilation=2)
    return paired(L.AtrousConv2dLayer(n_filter=n_out, rate=2), theirs, images(n, size, n_in), AFFINE)


def max_pool(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.MaxPool2d(filter_size=2), nn.MaxPool2d(2), images(n, size, n_channels))


def max_pool_overlapping(n: int, size: int, n_channels: int) -> Pair:
    """Windows of three moving by two, as AlexNet's and the CIFAR tutorial's; the last ones stick out."""
    theirs = nn.MaxPool2d(3, 2, ceil_mode=True)
    return paired(L.MaxPool2d(filter_size=3, strides=2), theirs, images(n, size, n_channels))


def mean_pool(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.MeanPool2d(filter_size=2), nn.AvgPool2d(2), images(n, size, n_channels))


def max_pool_1d(n: int, n_steps: int, n_channels: int) -> Pair:
    return paired(L.MaxPool1d(filter_size=2, strides=2), nn.MaxPool1d(2), torch.randn(n, n_steps, n_channels))


def max_pool_3d(n: int, size: int, n_channels: int) -> Pair:
    ours = L.MaxPool3d(filter_size=2, strides=2)
    return paired(ours, nn.MaxPool3d(2), torch.randn(n, size, size, size, n_channels))


def global_mean(n: int, size: int, n_channels: int) -> Pair:
    theirs = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return paired(L.GlobalMeanPool2d(), theirs, images(n, size, n_channels))


def global_max(n: int, size: int, n_channels: int) -> Pair:
    """On CUDA torch's adaptive pooling gives a channel to one thread, so one writes the maximum oneself."""
    on_cpu = torch.get_default_device().type == "cpu"
    theirs = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()) if on_cpu else Function(lambda x: x.amax((2, 3)))
    return paired(L.GlobalMaxPool2d(), theirs, images(n, size, n_channels))


def batch_norm(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.BatchNormLayer(), nn.BatchNorm2d(n_channels), images(n, size, n_channels), NORM)


def batch_norm_flat(n: int, n_units: int) -> Pair:
    return paired(L.BatchNormLayer(), nn.BatchNorm1d(n_units), torch.randn(n, n_units), NORM)


def instance_norm(n: int, size: int, n_channels: int) -> Pair:
    theirs = nn.InstanceNorm2d(n_channels, affine=True)
    return paired(L.InstanceNormLayer(), theirs, images(n, size, n_channels), {"scale": "weight", "offset": "bias"})


def group_norm(n: int, size: int, n_channels: int) -> Pair:
    theirs = nn.GroupNorm(8, n_channels, eps=1e-6)
    return paired(L.GroupNormLayer(groups=8), theirs, images(n, size, n_channels), NORM)


def layer_norm(n: int, n_steps: int, n_units: int) -> Pair:
    theirs = nn.LayerNorm(n_units, eps=1e-12)
    x = torch.randn(n, n_steps, n_units)
    return paired(L.LayerNormLayer(begin_norm_axis=-1), theirs, x, NORM, channels_first=False)


def layer_norm_image(n: int, size: int, n_channels: int) -> Pair:
    """Over height, width and channels, with weights a channel: in torch.nn one group of all channels."""
    theirs = nn.GroupNorm(1, n_channels, eps=1e-12)
    return paired(L.LayerNormLayer(), theirs, images(n, size, n_channels), NORM)


def local_response(n: int, size: int, n_channels: int) -> Pair:
    theirs = nn.LocalResponseNorm(9, alpha=9 * 0.001 / 9.0, beta=0.75, k=1.0)
    ours = L.LocalResponseNormLayer(depth_radius=4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
    return paired(ours, theirs, images(n, size, n_channels))


def embedding(n: int, n_steps: int, n_words: int, n_units: int) -> Pair:
    ids = torch.randint(n_words, (n, n_steps))
    ours = L.EmbeddingInputlayer(vocabulary_size=n_words, embedding_size=n_units)
    return paired(ours, nn.Embedding(n_words, n_units), ids, {"embeddings": "weight"}, channels_first=False)


def average_embedding(n: int, n_steps: int, n_words: int, n_units: int) -> Pair:
    ids = torch.randint(n_words, (n, n_steps))
    theirs = nn.EmbeddingBag(n_words, n_units, mode="mean", padding_idx=0)
    ours = L.AverageEmbeddingInputlayer(vocabulary_size=n_words, embedding_size=n_units)
    return paired(ours, theirs, ids, {"embeddings": "weight"}, channels_first=False)


def dropout(n: int, n_units: int) -> Pair:
    return paired(L.DropoutLayer(keep=0.5), nn.Dropout(0.5), torch.randn(n, n_units))


def prelu(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.PReluLayer(a_init=0.25), nn.PReLU(n_channels), images(n, size, n_channels), {"alphas": "weight"})


def scale(n: int, n_units: int) -> Pair:
    return paired(L.ScaleLayer(), Scaled(), torch.randn(n, n_units), {"scale": "factor"})


def upsample_nearest(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.UpSampling2dLayer(size=2, method=1), nn.Upsample(scale_factor=2), images(n, size, n_channels))


def upsample_bilinear(n: int, size: int, n_channels: int) -> Pair:
    ours = L.UpSampling2dLayer(size=2, half_pixel_centers=True)
    return paired(ours, nn.Upsample(scale_factor=2, mode="bilinear"), images(n, size, n_channels))


def pad(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.ZeroPad2d(padding=1), nn.ZeroPad2d(1), images(n, size, n_channels))


def pad_reflect(n: int, size: int, n_channels: int) -> Pair:
    ours = L.PadLayer(paddings=[[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT")
    return paired(ours, nn.ReflectionPad2d(1), images(n, size, n_channels))


def flatten(n: int, size: int, n_channels: int) -> Pair:
    return paired(L.FlattenLayer(), nn.Flatten(), images(n, size, n_channels), channels_first=False)


def reshape(n: int, size: int, n_channels: int) -> Pair:
    sizes = (size, size, n_channels)
    x = torch.randn(n, size * size * n_channels)
    return paired(L.ReshapeLayer(shape=(-1, *sizes)), nn.Unflatten(1, sizes), x, channels_first=False)


def concat(n: int, size: int, n_channels: int) -> Pair:
    theirs = Function(lambda *xs: torch.cat(xs, 1))
    return paired(L.ConcatLayer(concat_dim=3), theirs, [images(n, size, n_channels) for _ in range(2)])


def elementwise(n: int, size: int, n_channels: int) -> Pair:
    xs = [images(n, size, n_channels) for _ in range(2)]
    return paired(L.ElementwiseLayer(combine_fn=torch.add), Function(torch.add), xs)


def mlp(n: int, n_units: int) -> Pair:
    """The MNIST tutorial's: 784-n_units-n_units-10 with dropout."""
    net = L.DropoutLayer(L.InputLayer((None, 784)), keep=0.8)
    net = L.DropoutLayer(L.DenseLayer(net, n_units=n_units, act=torch.relu, name="a"), keep=0.5)
    net = L.DropoutLayer(L.DenseLayer(net, n_units=n_units, act=torch.relu, name="b"), keep=0.5)
    net = L.DenseLayer(net, n_units=10, name="c")
    hidden = [nn.Linear(784, n_units), nn.ReLU(), nn.Dropout(0.5), nn.Linear(n_units, n_units), nn.ReLU()]
    theirs = nn.Sequential(nn.Dropout(0.2), *hidden, nn.Dropout(0.5), nn.Linear(n_units, 10))
    names = {f"{a}.{w}": f"{i}.{weight}" for a, i in (("a", 1), ("b", 4), ("c", 7)) for w, weight in AFFINE.items()}
    return paired(net, theirs, torch.randn(n, 784), names)


def cnn(n: int, size: int, n_filter: int) -> Pair:
    """Three times convolution, batch norm, rectifier, pooling; then the mean of each channel and a dense layer."""
    net = L.InputLayer((None, size, size, 3))
    theirs, names, n_in = [], {}, 3
    for i in range(3):
        n_out = n_filter * 2**i
        net = L.Conv2d(net, n_filter=n_out, b_init=None, name=f"conv{i}")
        net = L.BatchNormLayer(net, act=torch.relu, name=f"norm{i}")
        net = L.MaxPool2d(net, 2)
        theirs += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2)]
        names |= {f"conv{i}.W": f"{4 * i}.weight"}
        names |= {f"norm{i}.{ours}": f"{4 * i + 1}.{other}" for ours, other in NORM.items()}
        n_in = n_out
    net = L.DenseLayer(L.GlobalMeanPool2d(net), n_units=10, name="out")
    theirs += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 10)]
    names |= {f"out.{ours}": f"{len(theirs) - 1}.{other}" for ours, other in AFFINE.items()}
    return paired(net, nn.Sequential(*theirs), images(n, size, 3), names)


def lenet(n: int, n_filter: int) -> Pair:
    """The MNIST tutorial's kind: twice convolution, rectifier, pooling; then two dense layers."""
    net = L.InputLayer((None, 28, 28, 1))
    net = L.MaxPool2d(L.Conv2d(net, n_filter, 5, act=torch.relu, name="a"), 2)
    net = L.MaxPool2d(L.Conv2d(net, n_filter, 5, act=torch.relu, name="b"), 2)
    net = L.DenseLayer(L.FlattenLayer(net), n_units=128, act=torch.relu, name="c")
    net = L.DenseLayer(net, n_units=10, name="d")
    convolutions: list[nn.Module] = []
    for n_in in (1, n_filter):
        convolutions += [nn.Conv2d(n_in, n_filter, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    flatten = Function(lambda x: x.permute(0, 2, 3, 1).flatten(1))  # in our order, so that the weights agree
    theirs = nn.Sequential(*convolutions, flatten, nn.Linear(49 * n_filter, 128), nn.ReLU(), nn.Linear(128, 10))
    places = (("a", 0), ("b", 3), ("c", 7), ("d", 9))
    names = {f"{a}.{w}": f"{i}.{weight}" for a, i in places for w, weight in AFFINE.items()}
    return paired(net, theirs, images(n, 28, 1), names)


IMAGES: Any = {"cpu": [(4, 4, 8), (32, 16, 32), (64, 32, 32)], "cuda": [(128, 32, 64)]}
CASES = [
    Case("(nn.Linear, itself)", control, [(8, 16, 8), (128, 784, 800)], [(128, 784, 800)]),
    Case("dense", dense, [(8, 16, 8), (128, 784, 800)], [(128, 784, 800), (8192, 2048, 2048)]),
    Case("dense, relu", dense_relu, [(8, 16, 8), (128, 784, 800)], [(8192, 2048, 2048)]),
    Case(
        "conv2d 3x3", conv2d, [(2, 8, 3, 4), (32, 32, 3, 32), (32, 16, 32, 32)], [(128, 32, 3, 64), (128, 32, 64, 64)]
    ),
    Case("conv2d 3x3 VALID", conv2d_valid, [(32, 16, 32, 32)], [(128, 32, 64, 64)]),
    Case("conv2d 3x3 stride 2", conv2d_halving, [(2, 8, 3, 4), (32, 16, 32, 32)], [(128, 32, 64, 128)]),
    Case("conv1d 5", conv1d, [(2, 16, 4, 8), (32, 128, 32, 32)], [(128, 1024, 128, 128)]),
    Case("conv3d 3x3x3", conv3d, [(2, 4, 2, 4), (8, 8, 16, 16)], [(32, 16, 32, 64)]),
    Case("deconv2d 4x4 stride 2", deconv2d, [(2, 4, 4, 3), (32, 8, 32, 16)], [(128, 16, 128, 64)]),
    Case("deconv2d 5x5 stride 2", deconv2d_cut, [(2, 4, 4, 3), (32, 8, 32, 16)], [(128, 16, 128, 64)]),
    Case("depthwise 3x3", depthwise, [(2, 8, 4), (32, 16, 32)], [(128, 32, 64)]),
    Case("separable 3x3", separable, [(2, 8, 4, 8), (32, 16, 32, 64)], [(128, 32, 64, 128)]),
    Case("group conv 3x3", group, [(2, 8, 4, 8), (32, 16, 32, 32)], [(128, 32, 64, 64)]),
    Case("atrous 3x3", atrous, [(2, 8, 4, 8), (32, 16, 32, 32)], [(128, 32, 64, 64)]),
    Case("max pool 2x2", max_pool, **IMAGES),
    Case("max pool 3x3 stride 2", max_pool_overlapping, **IMAGES),
    Case("mean pool 2x2", mean_pool, **IMAGES),
    Case("max pool 1d", max_pool_1d, [(4, 16, 8), (32, 128, 32)], [(128, 1024, 128)]),
    Case("max pool 3d", max_pool_3d, [(2, 4, 8), (8, 8, 16)], [(32, 32, 32)]),
    Case("global mean pool", global_mean, **IMAGES),
    Case("global max pool", global_max, **IMAGES),
    Case("batch norm", batch_norm, **IMAGES),
    Case("batch norm, flat", batch_norm_flat, [(8, 16), (128, 800)], [(8192, 2048)]),
    Case("instance norm", instance_norm, **IMAGES),
    Case("group norm", group_norm, **IMAGES),
    Case("layer norm", layer_norm, [(4, 4, 8), (32, 32, 128)], [(128, 128, 768)]),
    Case("layer norm, image", layer_norm_image, **IMAGES),
    Case("local response", local_response, **IMAGES),
    Case("dropout", dropout, [(8, 16), (128, 800)], [(8192, 2048)]),
    Case("prelu", prelu, **IMAGES),
    Case("scale", scale, [(8, 16), (128, 800)], [(8192, 2048)]),
    Case("upsample nearest x2", upsample_nearest, **IMAGES),
    Case("upsample bilinear x2", upsample_bilinear, **IMAGES),
    Case("pad 1", pad, **IMAGES),
    Case("pad 1, reflect", pad_reflect, **IMAGES),
    Case("flatten", flatten, **IMAGES),
    Case("reshape", reshape, **IMAGES),
    Case("concat", concat, **IMAGES),
    Case("elementwise", elementwise, **IMAGES),
    Case("a whole perceptron", mlp, [(8, 16), (128, 800)], [(128, 800), (2048, 2048)]),
    Case("a whole LeNet", lenet, [(2, 4), (32, 32)], [(128, 32)]),
    Case("a whole CNN", cnn, [(2, 16, 4), (32, 32, 16)], [(128, 32, 64)]),
    Case("embedding", embedding, [(4, 4, 50, 8), (32, 32, 5000, 128)], [(128, 128, 50000, 512)]),
    Case("average embedding", average_embedding, [(4, 4, 50, 8), (32, 32, 5000, 128)], [(128, 128, 50000, 512)]),
]
