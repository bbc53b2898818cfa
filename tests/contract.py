"""What every layer promises: one row a layer. A public layer class without a row fails the suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl

L = tl.layers


def _sum_of_squares(net: Any, *xs: torch.Tensor) -> torch.Tensor:
    return net(*xs).square().sum()


@dataclass(frozen=True)
class Row:
    """``make(net_or_None)`` builds the layer, named ``a``; ``inputs`` are shapes with ``None`` for the batch."""

    id: str
    cls: type
    make: Callable[[Any], Any]
    inputs: tuple[tuple[int | None, ...], ...]
    dtype: torch.dtype = torch.float32  # of the inputs; ids are below 5
    needs_network: bool = False  # meaningful only on a network, as a decoder is
    fullgraph: bool = True  # compiles as one graph; torch's own recurrences run between two
    cost: Callable[..., torch.Tensor] = _sum_of_squares  # a number that every parameter has a part in

    def tensors(self, n: int, device: str = "cpu") -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(n)
        shapes = [[n if d is None else d for d in shape] for shape in self.inputs]
        if self.dtype.is_floating_point:
            return [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        return [torch.randint(5, shape, generator=generator, dtype=self.dtype).to(device) for shape in shapes]

    def leaves(self, n: int) -> list[torch.Tensor]:
        """Inputs that want a gradient, if they can have one."""
        return [x.requires_grad_() if x.is_floating_point() else x for x in self.tensors(n)]

    def stacked(self) -> L.Network:
        torch.manual_seed(0)
        nets = [L.InputLayer(shape, self.dtype, name=f"x{i}") for i, shape in enumerate(self.inputs)]
        return self.make(nets if len(nets) > 1 else nets[0])

    def standalone(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make(None)


def _recon(net: Any) -> Any:
    return L.ReconLayer(L.DenseLayer(net, n_units=4, act=torch.sigmoid, name="encoder"), n_units=5, name="recon")


def _regions(x: torch.Tensor) -> torch.Tensor:
    corners = torch.tensor([0, 1, 4, 5], device=x.device) + (x[:, 0, 0, :1] > 0).long()
    return torch.cat([torch.arange(x.shape[0], device=x.device)[:, None], corners], 1)


def _roi_pooling(net: Any) -> Any:
    return L.ROIPoolingLayer(net, L.LambdaLayer(net, fn=_regions, name="regions"), 3, 2, name="a")


IMAGE = ((None, 7, 6, 3),)
STEPS = ((None, 4, 3),)
ROWS = [
    Row("dense", L.DenseLayer, lambda n: L.DenseLayer(n, n_units=4, act=torch.tanh, name="a"), ((None, 5),)),
    Row("dense_no_bias", L.DenseLayer, lambda n: L.DenseLayer(n, n_units=4, b_init=None, name="a"), ((None, 5),)),
    Row(
        "dropconnect",
        L.DropconnectDenseLayer,
        lambda n: L.DropconnectDenseLayer(n, keep=0.7, n_units=4, name="a"),
        ((None, 5),),
    ),
    Row("recon", L.ReconLayer, _recon, ((None, 5),), needs_network=True),
    Row("dropout", L.DropoutLayer, lambda n: L.DropoutLayer(n, keep=0.7, name="a"), ((None, 5),)),
    Row("locked_dropout", L.LockedDropoutLayer, lambda n: L.LockedDropoutLayer(n, keep=0.7, name="a"), STEPS),
    Row("noise", L.GaussianNoiseLayer, lambda n: L.GaussianNoiseLayer(n, stddev=0.3, name="a"), ((None, 5),)),
    Row(
        "conv_same",
        L.Conv2dLayer,
        lambda n: L.Conv2dLayer(n, act=torch.tanh, shape=[3, 3, 3, 4], strides=[1, 2, 2, 1], name="a"),
        IMAGE,
    ),
    Row(
        "conv_valid",
        L.Conv2dLayer,
        lambda n: L.Conv2dLayer(n, shape=[2, 3, 3, 4], padding="VALID", b_init=None, name="a"),
        IMAGE,
    ),
    Row("conv_short", L.Conv2dLayer, lambda n: L.Conv2d(n, n_filter=4, filter_size=2, name="a"), IMAGE),
    Row("pool_max", L.PoolLayer, lambda n: L.PoolLayer(n, ksize=[1, 3, 3, 1], pool="max", name="a"), IMAGE),
    Row("pool_mean", L.PoolLayer, lambda n: L.PoolLayer(n, ksize=[1, 3, 2, 1], pool=F.avg_pool2d, name="a"), IMAGE),
    Row("pool_max_short", L.PoolLayer, lambda n: L.MaxPool2d(n, 2, strides=1, name="a"), IMAGE),
    Row("pool_mean_short", L.PoolLayer, lambda n: L.MeanPool2d(n, (2, 3), padding="VALID", name="a"), IMAGE),
    Row("flatten", L.FlattenLayer, lambda n: L.FlattenLayer(n, name="a"), IMAGE),
    Row("reshape", L.ReshapeLayer, lambda n: L.ReshapeLayer(n, shape=(-1, 21, 6), name="a"), IMAGE),
    Row("lambda", L.LambdaLayer, lambda n: L.LambdaLayer(n, fn=torch.sin, name="a"), ((None, 5),)),
    Row("lambda_module", L.LambdaLayer, lambda n: L.LambdaLayer(n, fn=nn.Linear(5, 2), name="a"), ((None, 5),)),
    Row(
        "torch_module",
        L.TorchLayer,
        lambda n: L.TorchLayer(n, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), channels_first=True, name="a"),
        IMAGE,
    ),
    Row("concat", L.ConcatLayer, lambda n: L.ConcatLayer(n, name="a"), ((None, 5), (None, 3))),
    Row("elementwise", L.ElementwiseLayer, lambda n: L.ElementwiseLayer(n, torch.maximum, name="a"), ((None, 5),) * 2),
    *(
        Row(
            f"up_{method}_{'align' if align else 'noalign'}",
            L.UpSampling2dLayer,
            lambda n, method=method, align=align: L.UpSampling2dLayer(
                n, size=(2, 1.5), method=method, align_corners=align, name="a"
            ),
            IMAGE,
        )
        for method in ("bilinear", "nearest", "bicubic", "area")
        for align in (False, True)
    ),
    Row(
        "up_half_pixel",
        L.UpSampling2dLayer,
        lambda n: L.UpSampling2dLayer(n, size=(2, 3), half_pixel_centers=True, name="a"),
        IMAGE,
    ),
    Row(
        "down",
        L.DownSampling2dLayer,
        lambda n: L.DownSampling2dLayer(n, size=(3, 4), is_scale=False, method=3, name="a"),
        IMAGE,
    ),
    Row(
        "subpixel",
        L.SubpixelConv2d,
        lambda n: L.SubpixelConv2d(n, scale=2, n_out_channel=3, act=torch.tanh, name="a"),
        ((None, 4, 5, 12),),
    ),
    *(
        Row(
            f"pad_{mode}",
            L.PadLayer,
            lambda n, mode=mode: L.PadLayer(n, [[0, 0], [1, 2], [2, 0], [1, 1]], mode, name="a"),
            IMAGE,
        )
        for mode in ("constant", "reflect", "symmetric")
    ),
    Row("zero_pad_1d", L.PadLayer, lambda n: L.ZeroPad1d(n, (1, 2), name="a"), ((None, 5, 3),)),
    Row("zero_pad_2d", L.PadLayer, lambda n: L.ZeroPad2d(n, (1, 2), name="a"), IMAGE),
    Row("zero_pad_3d", L.PadLayer, lambda n: L.ZeroPad3d(n, 1, name="a"), ((None, 3, 4, 2, 3),)),
    Row("global_max_1d", L.GlobalMaxPool1d, lambda n: L.GlobalMaxPool1d(n, name="a"), ((None, 5, 3),)),
    Row("global_max_2d", L.GlobalMaxPool2d, lambda n: L.GlobalMaxPool2d(n, name="a"), IMAGE),
    Row("global_max_3d", L.GlobalMaxPool3d, lambda n: L.GlobalMaxPool3d(n, name="a"), ((None, 3, 4, 2, 3),)),
    Row("global_mean_1d", L.GlobalMeanPool1d, lambda n: L.GlobalMeanPool1d(n, name="a"), ((None, 5, 3),)),
    Row("global_mean_2d", L.GlobalMeanPool2d, lambda n: L.GlobalMeanPool2d(n, name="a"), IMAGE),
    Row("global_mean_3d", L.GlobalMeanPool3d, lambda n: L.GlobalMeanPool3d(n, name="a"), ((None, 3, 4, 2, 3),)),
    Row("pool_max_1d", L.PoolLayer, lambda n: L.MaxPool1d(n, 2, padding="SAME", name="a"), ((None, 5, 3),)),
    Row("pool_mean_1d", L.PoolLayer, lambda n: L.MeanPool1d(n, name="a"), ((None, 5, 3),)),
    Row("pool_max_3d", L.PoolLayer, lambda n: L.MaxPool3d(n, 2, padding="SAME", name="a"), ((None, 3, 4, 5, 3),)),
    Row("pool_mean_3d", L.PoolLayer, lambda n: L.MeanPool3d(n, 2, 1, name="a"), ((None, 3, 4, 5, 3),)),
    Row("conv1d_same", L.Conv1dLayer, lambda n: L.Conv1dLayer(n, torch.tanh, [4, 3, 4], 2, name="a"), ((None, 9, 3),)),
    Row(
        "conv1d_short",
        L.Conv1dLayer,
        lambda n: L.Conv1d(n, 4, 2, dilation_rate=2, padding="VALID", b_init=None, name="a"),
        ((None, 9, 3),),
    ),
    Row("conv3d", L.Conv3dLayer, lambda n: L.Conv3dLayer(n, shape=[2, 3, 2, 3, 4], name="a"), ((None, 5, 4, 6, 3),)),
    Row(
        "deconv_same",
        L.DeConv2dLayer,
        lambda n: L.DeConv2dLayer(n, torch.tanh, [4, 3, 4, 3], output_shape=[None, 13, 12, 4], name="a"),
        IMAGE,
    ),
    Row(
        "deconv_short",
        L.DeConv2dLayer,
        lambda n: L.DeConv2d(n, 4, 2, strides=3, padding="VALID", b_init=None, name="a"),
        IMAGE,
    ),
    Row(
        "deconv3d",
        L.DeConv3dLayer,
        lambda n: L.DeConv3dLayer(n, shape=[3, 2, 3, 4, 3], name="a"),
        ((None, 2, 3, 4, 3),),
    ),
    Row("atrous", L.AtrousConv2dLayer, lambda n: L.AtrousConv2dLayer(n, 4, act=torch.tanh, name="a"), IMAGE),
    Row("group", L.GroupConv2d, lambda n: L.GroupConv2d(n, 6, n_group=3, name="a"), IMAGE),
    Row("depthwise", L.DepthwiseConv2d, lambda n: L.DepthwiseConv2d(n, depth_multiplier=2, name="a"), IMAGE),
    Row("separable", L.SeparableConv2dLayer, lambda n: L.SeparableConv2dLayer(n, 4, strides=2, name="a"), IMAGE),
    Row("conv1d_same_fixed", L.Conv1dLayer, lambda n: L.Conv1d(n, 4, 3, act=torch.tanh, name="a"), ((None, 9, 3),)),
    Row("conv2d_symmetric", L.Conv2dLayer, lambda n: L.Conv2d(n, 4, act=torch.tanh, name="a"), IMAGE),
    Row(
        "atrous1d",
        L.Conv1dLayer,
        lambda n: L.AtrousConv1dLayer(n, 4, dilation=3, act=torch.tanh, name="a"),
        ((None, 9, 3),),
    ),
    Row("separable1d", L.SeparableConv1d, lambda n: L.SeparableConv1d(n, 4, strides=2, name="a"), ((None, 9, 3),)),
    Row("separable_later_name", L.SeparableConv2d, lambda n: L.SeparableConv2d(n, 4, padding="SAME", name="a"), IMAGE),
    Row("deconv_odd", L.DeConv2dLayer, lambda n: L.DeConv2d(n, 4, 3, act=torch.tanh, name="a"), IMAGE),
    Row("deconv3d_short", L.DeConv3dLayer, lambda n: L.DeConv3d(n, 4, strides=1, name="a"), ((None, 3, 4, 5, 3),)),
    Row(
        "atrous_deconv",
        L.AtrousDeConv2dLayer,
        lambda n: L.AtrousDeConv2dLayer(n, [3, 2, 4, 3], padding="VALID", name="a"),
        IMAGE,
    ),
    Row("batch_norm", L.BatchNormLayer, lambda n: L.BatchNormLayer(n, act=torch.tanh, name="a"), IMAGE),
    Row("batch_norm_flat", L.BatchNormLayer, lambda n: L.BatchNormLayer(n, name="a"), ((None, 5),)),
    Row("batch_norm_steps", L.BatchNormLayer, lambda n: L.BatchNormLayer(n, name="a"), ((None, 4, 5),)),
    Row(
        "local_response",
        L.LocalResponseNormLayer,
        lambda n: L.LocalResponseNormLayer(n, depth_radius=1, name="a"),
        IMAGE,
    ),
    Row("instance_norm", L.InstanceNormLayer, lambda n: L.InstanceNormLayer(n, act=torch.tanh, name="a"), IMAGE),
    Row("group_norm", L.GroupNormLayer, lambda n: L.GroupNormLayer(n, groups=3, name="a"), IMAGE),
    Row("layer_norm", L.LayerNormLayer, lambda n: L.LayerNormLayer(n, act=torch.tanh, name="a"), IMAGE),
    Row("layer_norm_last", L.LayerNormLayer, lambda n: L.LayerNormLayer(n, begin_norm_axis=-1, name="a"), ((None, 5),)),
    Row("expand_dims", L.ExpandDimsLayer, lambda n: L.ExpandDimsLayer(n, axis=1, name="a"), IMAGE),
    Row("tile", L.TileLayer, lambda n: L.TileLayer(n, multiples=[1, 2, 1, 3], name="a"), IMAGE),
    Row("transpose", L.TransposeLayer, lambda n: L.TransposeLayer(n, perm=[0, 2, 3, 1], name="a"), IMAGE),
    Row("stack", L.StackLayer, lambda n: L.StackLayer(n, axis=1, name="a"), ((None, 5),) * 2),
    Row("mux", L.MultiplexerLayer, lambda n: L.MultiplexerLayer(n and [n, n], name="a"), ((None, 5),)),
    Row("prelu", L.PReluLayer, lambda n: L.PReluLayer(n, a_init=0.3, name="a"), IMAGE),
    Row("prelu_shared", L.PReluLayer, lambda n: L.PReluLayer(n, channel_shared=True, a_init=0.3, name="a"), IMAGE),
    Row("scale", L.ScaleLayer, lambda n: L.ScaleLayer(n, name="a"), IMAGE),
    Row(
        "embedding",
        L.EmbeddingInputlayer,
        lambda n: L.EmbeddingInputlayer(n, 5, 4, name="a"),
        ((None, 3),),
        torch.int64,
    ),
    Row(
        "embedding_dropped",
        L.EmbeddingInputlayer,
        lambda n: L.EmbeddingInputlayer(n, 5, 4, keep_words=0.7, name="a"),
        ((None, 3),),
        torch.int64,
    ),
    Row(
        "average_embedding",
        L.AverageEmbeddingInputlayer,
        lambda n: L.AverageEmbeddingInputlayer(n, 5, 4, name="a"),
        ((None, 3),),
        torch.int64,
    ),
    Row(
        "word2vec",
        L.Word2vecEmbeddingInputlayer,
        lambda n: L.Word2vecEmbeddingInputlayer(n, None, 5, 4, 3, name="a"),
        ((None,),),
        torch.int64,
        cost=lambda net, ids: net.nce_cost(ids, (ids + 1) % 5),
    ),
    Row("one_hot", L.OneHotInputLayer, lambda n: L.OneHotInputLayer(n, depth=5, name="a"), ((None, 3),), torch.int32),
    Row(
        "time_distributed",
        L.TimeDistributedLayer,
        lambda n: L.TimeDistributedLayer(n, L.DenseLayer, {"n_units": 4, "act": torch.tanh, "name": "dense"}, name="a"),
        ((None, 3, 5),),
    ),
    Row(
        "time_distributed_images",
        L.TimeDistributedLayer,
        lambda n: L.TimeDistributedLayer(n, L.Conv2d, {"n_filter": 4, "strides": 2}, name="a"),
        ((None, 2, 7, 6, 3),),
    ),
    Row(
        "time_distributed_norm",
        L.TimeDistributedLayer,
        lambda n: L.TimeDistributedLayer(n, L.BatchNormLayer, name="a"),
        ((None, 3, 5),),
    ),
    Row(
        "time_distributed_list",
        L.TimeDistributedLayer,
        lambda n: L.TimeDistributedLayer(n, nn.Linear, {"in_features": 5, "out_features": 4}, name="a"),
        ((None, 5),) * 3,
    ),
    Row("maxout", L.MaxoutLayer, lambda n: L.MaxoutLayer(n, n_units=4, n_pieces=3, name="a"), ((None, 5),)),
    Row("maxout_no_bias", L.MaxoutLayer, lambda n: L.MaxoutLayer(n, n_units=4, b_init=None, name="a"), ((None, 5),)),
    Row("select", L.SelectLayer, lambda n: L.SelectLayer(n, index=-1, axis=1, name="a"), IMAGE),
    Row(
        "subpixel_1d",
        L.SubpixelConv1d,
        lambda n: L.SubpixelConv1d(n, scale=2, act=torch.tanh, name="a"),
        ((None, 5, 6),),
    ),
    Row("prelu6", L.PRelu6Layer, lambda n: L.PRelu6Layer(n, name="a"), IMAGE),
    Row("prelu6_shared", L.PRelu6Layer, lambda n: L.PRelu6Layer(n, channel_shared=True, name="a"), IMAGE),
    Row("ptrelu6", L.PTRelu6Layer, lambda n: L.PTRelu6Layer(n, name="a"), IMAGE),
    Row(
        "deformable",
        L.DeformableConv2d,
        lambda n: L.DeformableConv2d(n, n_filter=4, filter_size=(3, 2), act=torch.tanh, name="a"),
        (*IMAGE, (None, 7, 6, 12)),
    ),
    Row(
        "deformable_no_bias",
        L.DeformableConv2d,
        lambda n: L.DeformableConv2d(n, n_filter=4, filter_size=1, b_init=None, name="a"),
        (*IMAGE, (None, 7, 6, 2)),
    ),
    Row(
        "spatial_transformer",
        L.SpatialTransformer2dAffineLayer,
        lambda n: L.SpatialTransformer2dAffineLayer(n, out_size=(5, 4), name="a"),
        (*IMAGE, (None, 5)),
    ),
    Row(
        "spatial_transformer_image",
        L.SpatialTransformer2dAffineLayer,
        lambda n: L.SpatialTransformer2dAffineLayer(n, act=torch.tanh, name="a"),
        (*IMAGE, (None, 2, 3, 2)),
    ),
    Row("roi_pooling", L.ROIPoolingLayer, _roi_pooling, IMAGE, needs_network=True),
    Row("rnn_lstm", L.RNNLayer, lambda n: L.RNNLayer(n, L.BasicLSTMCell, n_hidden=4, name="a"), STEPS, fullgraph=False),
    Row("rnn_gru", L.RNNLayer, lambda n: L.RNNLayer(n, L.GRUCell, n_hidden=4, return_last=True, name="a"), STEPS),
    Row(
        "rnn_vanilla", L.RNNLayer, lambda n: L.RNNLayer(n, L.BasicRNNCell, n_hidden=4, name="a"), STEPS, fullgraph=False
    ),
    Row(
        "rnn_cudnn_gru",
        L.RNNLayer,
        lambda n: L.RNNLayer(n, L.CudnnCompatibleGRUCell, n_hidden=4, name="a"),
        STEPS,
        fullgraph=False,
    ),
    Row(
        "rnn_weight_drop",
        L.RNNLayer,
        lambda n: L.RNNLayer(n, L.WeightDropLSTMCell, {"keep": 0.7}, n_hidden=4, n_layer=2, name="a"),
        STEPS,
        fullgraph=False,
    ),
    Row(
        "rnn_peepholes",
        L.RNNLayer,
        lambda n: L.RNNLayer(n, L.LSTMCell, {"use_peepholes": True, "num_proj": 2}, n_hidden=4, name="a"),
        STEPS,
    ),
    Row(
        "birnn",
        L.BiRNNLayer,
        lambda n: L.BiRNNLayer(n, L.BasicLSTMCell, n_hidden=4, n_layer=2, name="a"),
        STEPS,
        fullgraph=False,
    ),
    Row(
        "dynamic_rnn",
        L.DynamicRNNLayer,
        lambda n: L.DynamicRNNLayer(n, L.BasicLSTMCell, n_hidden=4, n_layer=2, name="a"),
        STEPS,
        fullgraph=False,
    ),
    Row(
        "dynamic_rnn_loop",
        L.DynamicRNNLayer,
        lambda n: L.DynamicRNNLayer(n, L.GRUCell, n_hidden=4, return_last=True, name="a"),
        STEPS,
    ),
    Row(
        "bi_dynamic_rnn",
        L.BiDynamicRNNLayer,
        lambda n: L.BiDynamicRNNLayer(n, L.BasicLSTMCell, n_hidden=4, return_last=True, name="a"),
        STEPS,
        fullgraph=False,
    ),
    Row(
        "seq2seq",
        L.Seq2Seq,
        lambda n: L.Seq2Seq(n, cell_fn=L.BasicLSTMCell, n_hidden=4, name="a"),
        ((None, 2, 3), (None, 2, 2)),
        fullgraph=False,
    ),
    Row(
        "peeky_seq2seq",
        L.PeekySeq2Seq,
        lambda n: L.PeekySeq2Seq(n, cell_fn=L.GRUCell, n_hidden=4, name="a"),
        ((None, 2, 3), (None, 2, 2)),
    ),
    Row(
        "attention_seq2seq",
        L.AttentionSeq2Seq,
        lambda n: L.AttentionSeq2Seq(n, cell_fn=L.GRUCell, n_hidden=4, name="a"),
        ((None, 2, 3), (None, 2, 2)),
    ),
]

ABSTRACT = {L.Layer}


def public_layers() -> set[type]:
    found = {value for value in vars(L).values() if isinstance(value, type) and issubclass(value, L.Layer)}
    return found - ABSTRACT
