"""What every layer of the contract refuses: the error names the layer, says what came, and what to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from contract import ROWS, Row

import torchlayer as tl

L = tl.layers

ANYTHING = {L.FlattenLayer, L.LambdaLayer, L.TorchLayer, L.DropoutLayer, L.GaussianNoiseLayer, L.ElementwiseLayer}
ANY_RANK = ANYTHING | {
    *(L.StackLayer, L.SelectLayer, L.MultiplexerLayer, L.ConcatLayer, L.ExpandDimsLayer, L.ReshapeLayer, L.ScaleLayer),
    *(L.PReluLayer, L.PRelu6Layer, L.PTRelu6Layer, L.BatchNormLayer, L.InstanceNormLayer, L.GroupNormLayer),
    L.LayerNormLayer,
    *(L.LocalResponseNormLayer, L.EmbeddingInputlayer, L.OneHotInputLayer, L.TimeDistributedLayer),
    L.Word2vecEmbeddingInputlayer,
}
ANY_DTYPE = {  # they move values, or are what the user makes them
    *(L.FlattenLayer, L.ReshapeLayer, L.LambdaLayer, L.ConcatLayer, L.ElementwiseLayer, L.StackLayer, L.SelectLayer),
    *(L.MultiplexerLayer, L.ExpandDimsLayer, L.TileLayer, L.TransposeLayer, L.PadLayer, L.ScaleLayer, L.SubpixelConv1d),
    *(L.UpSampling2dLayer, L.DownSampling2dLayer, L.SubpixelConv2d),
    *(L.GlobalMaxPool1d, L.GlobalMaxPool2d, L.GlobalMaxPool3d),
}
FOREIGN = {"torch_module", "lambda_module", "time_distributed_list"}  # a module of torch's own speaks for itself
NAMED = r"layer '(a|encoder)' \(\w+\) cannot take .*"


def rows(*exempt: type):
    return pytest.mark.parametrize(
        "row", [r for r in ROWS if r.cls not in exempt and r.id not in FOREIGN], ids=lambda row: row.id
    )


def refused(row: Row, text: str = "") -> None:
    with pytest.raises(ValueError, match=NAMED + text) as caught:
        row.stacked()
    reason = str(caught.value).partition("cannot take")[2]
    assert re.search(r"got |input is|input has|has length|needs one|leave", reason), reason  # what came
    assert ";" in reason or "must" in reason, reason  # what to do


@rows(*ANY_RANK)
@pytest.mark.parametrize("change", [lambda shape: shape[:-1], lambda shape: (*shape, 2)], ids=["less", "more"])
def test_wrong_rank(row: Row, change):
    if row.cls in (L.UpSampling2dLayer, L.DownSampling2dLayer) and len(change(row.inputs[0])) == 3:
        pytest.skip("takes a single image, too")
    if row.id == "roi_pooling":
        pytest.skip("its regions are computed from the image; see test_layers_sampling.py")
    refused(replace(row, inputs=tuple(map(change, row.inputs))))


@rows(*ANY_DTYPE)
def test_wrong_dtype(row: Row):
    dtype = torch.int64 if row.dtype.is_floating_point else torch.float32
    refused(replace(row, dtype=dtype), r"(torch\.int64|torch\.float32)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_an_empty_axis_is_refused_where_it_enters(row: Row):
    for axis in range(1, len(row.inputs[0])):
        shapes = tuple(tuple(0 if i == axis else n for i, n in enumerate(shape)) for shape in row.inputs)
        if all(0 not in shape for shape in shapes):
            continue
        with pytest.raises(
            ValueError, match=r"InputLayer 'x\d' takes lengths of at least 1, got \(None.* 0.*; None is"
        ):
            replace(row, inputs=shapes).stacked()


HAS_AXES = [r for r in ROWS if not r.needs_network and len(r.inputs[0]) > 1]  # beside the batch


@pytest.mark.parametrize("row", HAS_AXES, ids=lambda row: row.id)
def test_an_empty_axis_is_refused_by_the_layer_alone(row: Row):
    shapes = tuple((2, *(0 if i == 0 else n for i, n in enumerate(shape[1:]))) for shape in row.inputs)
    xs = [torch.zeros(shape, dtype=row.dtype) for shape in shapes]
    with pytest.raises(ValueError, match=r"has length 0, .*; every axis but the batch"):
        row.standalone()(*xs)


SIZED = [r for r in ROWS if not r.needs_network and r.dtype.is_floating_point and len(r.inputs) == 1]


@pytest.mark.parametrize("row", [r for r in SIZED if list(r.standalone().parameters())], ids=lambda row: row.id)
def test_a_sized_layer_refuses_another_number_of_channels(row: Row):
    if row.cls in (L.ScaleLayer,) or row.id in ("prelu_shared", "prelu6_shared", *FOREIGN):
        pytest.skip("has no parameter a channel")
    layer = row.standalone()
    layer(*row.tensors(2))
    (shape,) = row.inputs
    other = torch.zeros(2, *shape[1:-1], shape[-1] + (3 if row.cls is L.GroupConv2d else 1))
    with pytest.raises(ValueError, match=r"got|channels") as caught:
        layer(other)
    assert re.search(rf"got.*\b{other.shape[-1]}\b|{other.shape[-1]} channels", str(caught.value)), caught.value
