"""Embedding, reshaping, stacking, selecting, PReLU and scale layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchlayer as tl
from torchlayer.layers.activation import PReluLayer
from torchlayer.layers.embedding import (
    AverageEmbeddingInputlayer,
    EmbeddingInputlayer,
    OneHotInputLayer,
    _Averaged,
)
from torchlayer.layers.flow import MultiplexerLayer, StackLayer
from torchlayer.layers.reshaping import ExpandDimsLayer, TileLayer, TransposeLayer

WORDS = torch.tensor([[1, 4, 0], [2, 2, 3], [0, 0, 0]])
TABLE = np.random.RandomState(0).randn(5, 4).astype(np.float32)
ID_LAYERS = {
    "embedding": (EmbeddingInputlayer, {"vocabulary_size": 5, "embedding_size": 4, "E_init": TABLE}, (3, 4)),
    "average": (AverageEmbeddingInputlayer, {"vocabulary_size": 5, "embedding_size": 4, "E_init": TABLE}, (4,)),
    "one_hot": (OneHotInputLayer, {"depth": 5}, (3, 5)),
}


@pytest.mark.parametrize("kind", ID_LAYERS)
def test_layers_of_ids_stack_compile_export_and_copy(kind):
    cls, args, shape = ID_LAYERS[kind]
    net = cls(tl.layers.InputLayer((None, 3), dtype=torch.int64), **args, name="a")
    assert net.outputs.shape == (None, *shape)
    y = net(WORDS)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(WORDS), y)
    program = torch.export.export(net, (WORDS,), dynamic_shapes=(({0: torch.export.Dim("batch", min=2)},),))
    torch.testing.assert_close(program.module()(WORDS[:2]), y[:2])
    if list(net.parameters()):
        assert net.double()(WORDS).dtype == torch.float64


def test_embedding_is_the_rows_of_its_table_and_starts_uniform():
    layer = EmbeddingInputlayer(vocabulary_size=5, embedding_size=4, E_init=TABLE)
    assert np.array_equal(layer(WORDS).detach().numpy(), TABLE[WORDS.numpy()])
    assert list(layer.state_dict()) == ["embeddings"]
    fresh = EmbeddingInputlayer(vocabulary_size=500, embedding_size=20).embeddings
    assert 0.099 < fresh.abs().max() <= 0.1


def test_average_embedding_leaves_padding_out():
    y = AverageEmbeddingInputlayer(vocabulary_size=5, embedding_size=4, E_init=TABLE)(WORDS).detach().numpy()
    expected = [TABLE[[1, 4]].mean(0), TABLE[[2, 2, 3]].mean(0), np.zeros(4)]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("pad", [0, 3, -1, 99])  # the last two stand in no table
def test_the_kernel_of_the_average_embedding_is_the_same_mean(pad, dtype):
    layer = AverageEmbeddingInputlayer(vocabulary_size=5, embedding_size=4, pad_value=pad).double()
    ids, table = WORDS.to(dtype), layer.embeddings

    def averaged(table):
        return _Averaged.apply(table, ids, pad)

    torch.testing.assert_close(averaged(table), layer(ids))
    grad = torch.randn(3, 4, dtype=torch.float64)
    ours, plain = (torch.autograd.grad(y, table, grad)[0] for y in (averaged(table), layer(ids)))
    torch.testing.assert_close(ours, plain)
    assert torch.autograd.gradgradcheck(lambda table: averaged(table) ** 2, (table,))


@pytest.mark.parametrize("outside", [-1, -(2**63), 5])
def test_the_kernel_of_the_average_embedding_reads_nothing_outside(outside):
    with pytest.raises(RuntimeError, match="Expected idx >= 0 && idx < num_embeddings"):
        _Averaged.apply(torch.ones(5, 4), torch.tensor([[1, outside]]), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_averages_as_a_cpu_does():
    layer = AverageEmbeddingInputlayer(vocabulary_size=5, embedding_size=4, E_init=TABLE)
    y = layer(WORDS)
    y.square().sum().backward()
    expected, layer.embeddings.grad = layer.embeddings.grad, None
    z = layer.cuda()(WORDS.cuda())
    z.square().sum().backward()
    torch.testing.assert_close(z.cpu(), y)
    torch.testing.assert_close(layer.embeddings.grad.cpu(), expected)
    assert layer(WORDS[:, :0].cuda()).tolist() == [[0.0] * 4] * 3


def test_one_hot_values_axis_and_ids_without_a_place():
    y = OneHotInputLayer(depth=3, on_value=5, off_value=-1, axis=1)(torch.tensor([[0, 7]]))
    assert y.tolist() == [[[5, -1], [-1, -1], [-1, -1]]]


def test_prelu_is_the_originals():
    layer = PReluLayer(a_init=np.float32([0.1, 0.5]))
    torch.testing.assert_close(
        layer(torch.tensor([[-2.0, 3.0], [4.0, -1.0]])), torch.tensor([[-0.2, 3.0], [4.0, -0.5]])
    )
    assert list(layer.state_dict()) == ["alphas"]


def test_reshaping_agrees_with_numpy():
    x = torch.arange(24.0).view(2, 3, 4)
    assert np.array_equal(ExpandDimsLayer(axis=-1)(x).numpy(), np.expand_dims(x.numpy(), -1))
    assert np.array_equal(TileLayer(multiples=[1, 2, 3])(x).numpy(), np.tile(x.numpy(), [1, 2, 3]))
    assert np.array_equal(TransposeLayer(perm=[0, 2, 1])(x).numpy(), np.transpose(x.numpy(), [0, 2, 1]))


def test_multiplexer_follows_its_selector_and_only_the_chosen_branch_learns():
    x = tl.layers.InputLayer((None, 5), name="x")
    heads = [tl.layers.DenseLayer(x, n_units=2, name=name) for name in ("p", "q")]
    net, data = MultiplexerLayer(heads, name="mux"), torch.randn(3, 5)
    for sel, head in enumerate(heads):
        net.mux.sel = sel
        assert torch.equal(net(data), head(data))
    net(data).sum().backward()
    assert net.p.W.grad is None
    assert net.q.W.grad is not None


X, TWO = torch.ones(2, 3), (torch.ones(2, 3), torch.ones(2, 4))
ERRORS = [
    (lambda: ExpandDimsLayer(), TypeError, "takes the place of the new axis, axis=1, got axis=None"),
    (lambda: ExpandDimsLayer(axis=4)(X), ValueError, "axis 4 has no place in a 2-D input; give -3 to 2"),
    (lambda: TileLayer(), ValueError, r"multiples holds a positive number for each axis, such as \[1, 3\], got None"),
    (lambda: TileLayer(multiples=[1, 0]), ValueError, "multiples holds a positive number"),
    (lambda: TileLayer(multiples=[2])(X), ValueError, r"multiples \[2\] needs one number for each of 2 axes"),
    (lambda: TransposeLayer(perm=[0, 0]), ValueError, r"perm holds each axis once, such as \[0, 2, 1\], got \[0, 0\]"),
    (lambda: TransposeLayer(perm=[0, 2, 1])(X), ValueError, "orders 3 axes, the input has 2"),
    (lambda: StackLayer()(*TWO), ValueError, "the inputs must have one shape"),
    (lambda: MultiplexerLayer()(*TWO), ValueError, "the inputs must have one shape"),
    (lambda: EmbeddingInputlayer(vocabulary_size=0), ValueError, "are at least 1, got 0 and 200"),
    (lambda: EmbeddingInputlayer(vocabulary_size=2)(X), TypeError, "ids are int64 or int32, got torch.float32; give"),
    (lambda: AverageEmbeddingInputlayer(vocabulary_size=2)(WORDS[0]), ValueError, r"shape \(N, T\), got \(3,\)"),
    (lambda: OneHotInputLayer(), ValueError, "depth is the number of places and at least 1, got None"),
    (lambda: PReluLayer(tl.layers.InputLayer((4, None))), ValueError, "give InputLayer that length, or channel_shared"),
]


@pytest.mark.parametrize(("make", "kind", "text"), ERRORS)
def test_errors_say_what_to_do(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_multiplexer_and_prelu_check_again_when_they_run():
    mux, prelu = MultiplexerLayer(), PReluLayer()
    mux.sel = 2
    with pytest.raises(ValueError, match="sel=2 chooses none of 2 inputs; set it to 0 to 1"):
        mux(X, X)
    prelu(X)
    with pytest.raises(ValueError, match="this PReLU was sized for 3 channels"):
        prelu(torch.ones(2, 4))
