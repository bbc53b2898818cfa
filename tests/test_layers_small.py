"""One layer over time, maxout, unstacking, 1-D sub-pixels and the capped PReLUs, against independent formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl
from torchlayer.layers.activation import PRelu6Layer, PReluLayer, PTRelu6Layer
from torchlayer.layers.flow import SelectLayer, StackLayer, UnStackLayer
from torchlayer.layers.maxout import MaxoutLayer
from torchlayer.layers.resampling import SubpixelConv1d
from torchlayer.layers.time_distributed import TimeDistributedLayer

L = tl.layers
DENSE = {"n_units": 4, "act": torch.tanh, "name": "dense"}


@pytest.mark.parametrize(
    ("layer_class", "args", "shape"),
    [
        (L.DenseLayer, DENSE, (3, 5, 6)),
        (L.Conv2d, {"n_filter": 4, "strides": 2}, (3, 5, 7, 6, 2)),
        (L.FlattenLayer, None, (3, 5, 2, 4)),
        (L.GlobalMaxPool1d, {"name": "pool"}, (3, 5, 7, 2)),
        (nn.Linear, {"in_features": 6, "out_features": 2}, (3, 5, 6)),
        (lambda: nn.Sequential(nn.Linear(6, 2), nn.ReLU()), {}, (3, 5, 6)),
        (TimeDistributedLayer, {"layer_class": L.DenseLayer, "args": DENSE}, (3, 2, 4, 6)),
    ],
    ids=["dense", "short form", "no parameters", "rank drops", "torch class", "function", "nested"],
)
def test_every_step_goes_through_one_layer(layer_class, args, shape):
    x = torch.randn(shape)
    layer = TimeDistributedLayer(layer_class=layer_class, args=args)
    y = layer(x)
    (inner,) = layer.children()
    torch.testing.assert_close(y, torch.stack([inner(x[:, t]) for t in range(shape[1])], 1))
    assert TimeDistributedLayer(L.InputLayer((None, *shape[1:])), layer_class, args).outputs.shape == (
        None,
        *y.shape[1:],
    )


def test_ids_are_embedded_step_by_step():
    words = L.InputLayer((None, None), torch.int64)
    args = {"vocabulary_size": 9, "embedding_size": 4, "name": "embed"}
    net = TimeDistributedLayer(words, L.EmbeddingInputlayer, args, name="words")
    assert net.outputs.shape == (None, None, 4)
    ids = torch.randint(9, (2, 3))
    assert torch.equal(net(ids), net.words.embed.embeddings[ids])


def test_steps_may_be_of_any_number_and_of_none():
    net = TimeDistributedLayer(L.InputLayer((None, None, 6)), L.DenseLayer, DENSE)
    assert net.outputs.shape == (None, None, 4)
    for shape in [(2, 3), (3, 1), (2, 0), (0, 3)]:
        assert net(torch.zeros(*shape, 6)).shape == (*shape, 4)


def test_steps_of_any_number_export():
    net = TimeDistributedLayer(L.InputLayer((None, None, 6)), L.DenseLayer, DENSE).eval()
    batch, time = torch.export.Dim("batch", min=2), torch.export.Dim("time", min=2)
    program = torch.export.export(net, (torch.zeros(3, 4, 6),), dynamic_shapes=(({0: batch, 1: time},),))
    x = torch.randn(5, 7, 6)
    torch.testing.assert_close(program.module()(x), net(x))


def test_a_list_of_networks_is_a_sequence():
    x = torch.randn(2, 3, 6)
    steps = UnStackLayer(L.InputLayer((None, 3, 6), name="x"), axis=1, name="step")
    net = TimeDistributedLayer(steps, L.DenseLayer, DENSE, name="time")
    assert net.outputs.shape == (None, 3, 4)
    torch.testing.assert_close(net(x), torch.tanh(x @ net.time.dense.W + net.time.dense.b))


def test_the_inner_layer_is_named_by_its_args_and_left_alone():
    args = dict(DENSE)
    net = TimeDistributedLayer(L.InputLayer((None, 3, 6)), L.DenseLayer, args, name="time")
    assert list(net.state_dict()) == ["time.dense.W", "time.dense.b"]
    assert args == DENSE
    unnamed = TimeDistributedLayer(layer_class=L.DenseLayer)
    unnamed(torch.zeros(2, 3, 6))
    assert list(unnamed.state_dict()) == ["layer.W", "layer.b"]


def test_batch_norm_inside_looks_at_all_steps_together():
    x = torch.randn(4, 3, 5) + torch.arange(3.0)[:, None]
    layer = TimeDistributedLayer(layer_class=L.BatchNormLayer, args={"gamma_init": 1.0})
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(5), atol=1e-5, rtol=0)
    assert y.mean((0, 2))[0] < -0.3  # step by step every step would have mean 0
    torch.testing.assert_close(layer.layer.moving_mean, 0.1 * x.mean((0, 1)))


def test_noise_inside_differs_from_step_to_step_and_stops_in_eval():
    layer = TimeDistributedLayer(layer_class=L.DropoutLayer, args={"keep": 0.5})
    y = layer(torch.ones(1, 2, 100))
    assert not torch.equal(y[:, 0], y[:, 1])
    assert torch.equal(layer.eval()(torch.ones(1, 2, 100)), torch.ones(1, 2, 100))


def test_filters_inside_are_saved_as_the_original_lays_them_out(tmp_path):
    args = {"n_filter": 4, "filter_size": (2, 3), "name": "conv"}
    video = L.InputLayer((None, 2, 5, 5, 3))
    net, other = (TimeDistributedLayer(video, L.Conv2d, args, name="time") for _ in range(2))
    tl.files.save_npz(net, tmp_path / "model.npz")
    assert tl.files.load_npz_dict(tmp_path, "model.npz")["time.conv.W"].shape == (2, 3, 3, 4)
    tl.files.load_and_assign_npz(tmp_path / "model.npz", other)
    x = torch.randn(2, 2, 5, 5, 3)
    assert torch.equal(net(x), other(x))


def test_a_loaded_inner_layer_keeps_its_values():
    one, other = (TimeDistributedLayer(layer_class=L.DenseLayer, args=DENSE) for _ in range(2))
    x = torch.randn(2, 3, 6)
    y = one(x)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), y)


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_maxout_is_the_largest_of_its_pieces(pieces, bias):
    layer = MaxoutLayer(n_units=3, n_pieces=pieces, b_init=nn.init.normal_ if bias else None)
    x = torch.randn(6, 4)
    y = layer(x)
    assert layer.W.shape == (4, 3 * pieces)
    W, b = layer.W.detach().numpy(), layer.b.detach().numpy() if bias else np.zeros(3 * pieces)
    expected = np.empty((6, 3))
    for n, unit in np.ndindex(6, 3):
        expected[n, unit] = max(x[n].numpy() @ W[:, p * 3 + unit] + b[p * 3 + unit] for p in range(pieces))
    torch.testing.assert_close(y.double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_maxout_gives_the_gradient_to_the_largest_piece():
    layer = MaxoutLayer(n_units=1, W_init=torch.tensor([[1.0, -1.0]]), b_init=None)
    layer(torch.tensor([[-3.0], [2.0], [5.0]])).sum().backward()
    assert layer.W.grad.tolist() == [[7.0, -3.0]]


def test_maxout_starts_as_a_dense_layer_does_and_takes_an_empty_batch():
    net = MaxoutLayer(L.InputLayer((None, 400)), n_units=50, name="maxout")
    assert net.count_params() == 400 * 100 + 100
    assert 0.085 < net.maxout.W.std() < 0.091  # TensorFlow's truncated normal of 0.1
    assert not net.maxout.b.any()
    assert net(torch.zeros(0, 400)).shape == (0, 50)


def test_unstacking_undoes_stacking():
    x = torch.randn(2, 3, 5)
    nets = UnStackLayer(L.InputLayer((None, 3, 5), name="x"), num=3, axis=-2, name="step")
    assert [net.outputs.shape for net in nets] == [(None, 5)] * 3
    for i, net in enumerate(nets):
        assert list(dict(net.named_children())) == [f"step_{i}"]
        assert torch.equal(net(x), x[:, i])
    assert torch.equal(StackLayer(nets, axis=1)(x), x)


def test_unstacked_networks_share_what_came_before():
    base = L.DenseLayer(L.InputLayer((None, 6)), n_units=8, name="base")
    a, b = UnStackLayer(L.ReshapeLayer(base, (-1, 2, 4), name="two"), axis=1, name="half")
    assert a.base is b.base is base.base
    assert L.ConcatLayer([a, b], name="both").count_params() == 6 * 8 + 8


def test_unnamed_unstackings_do_not_meet():
    first = UnStackLayer(L.InputLayer((None, 2, 3, 5), name="x"), axis=1)
    second = UnStackLayer(first[0], axis=1)
    assert [*second[2].activations(torch.zeros(1, 2, 3, 5))] == ["x", "unstack1_0", "unstack2_2"]


def test_the_batch_is_unstacked_if_its_length_is_known():
    nets = UnStackLayer(L.InputLayer((2, 5)))
    x = torch.randn(2, 5)
    assert all(torch.equal(net(x), row) for net, row in zip(nets, x))


def test_selecting_gives_a_gradient_to_its_slice_alone():
    x = torch.zeros(1, 3, requires_grad=True)
    SelectLayer(index=-2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 0]]


def batch_to_space(x, block):
    """TensorFlow's batch_to_space_nd of (B * block, L, ...) without crops, cell by cell."""
    n = x.shape[0] // block
    y = np.empty((n, x.shape[1] * block, *x.shape[2:]), x.dtype)
    for b, step, j in np.ndindex(n, x.shape[1], block):
        y[b, step * block + j] = x[j * n + b, step]
    return y


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_subpixel_1d_is_the_originals_two_transposes_around_batch_to_space(scale):
    x = torch.randn(2, 5, 6)
    expected = batch_to_space(x.numpy().transpose(2, 1, 0), scale).transpose(2, 1, 0)
    y = SubpixelConv1d(scale=scale)(x)
    assert y.shape == (2, 5 * scale, 6 // scale)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_subpixel_1d_applies_its_activation_and_takes_an_empty_batch():
    x = torch.randn(2, 3, 4)
    assert torch.equal(SubpixelConv1d(act=torch.relu)(x), SubpixelConv1d()(x).relu())
    assert SubpixelConv1d()(torch.zeros(0, 3, 4)).shape == (0, 6, 2)
    assert SubpixelConv1d(L.InputLayer((None, None, 4)), 4).outputs.shape == (None, None, 1)


@pytest.mark.parametrize("shared", [False, True])
def test_prelu6_is_capped(shared):
    layer = PRelu6Layer(channel_shared=shared, a_init=0.25 if shared else torch.tensor([0.1, 0.25, 2.0]))
    x = torch.linspace(-9, 15, 24).view(8, 3)
    slopes = torch.tensor([0.25] * 3 if shared else [0.1, 0.25, 2.0])
    torch.testing.assert_close(layer(x), torch.where(x > 0, x, slopes * x).clamp(max=6))


@pytest.mark.parametrize("shared", [False, True])
def test_ptrelu6_has_a_slope_at_either_end(shared):
    layer = PTRelu6Layer(channel_shared=shared, name="p")
    x = torch.linspace(-9, 15, 24).view(8, 3)
    torch.testing.assert_close(layer(x), tl.act.leaky_twice_relu6(x, 0.5, 0.5))
    n = 1 if shared else 3
    with torch.no_grad():
        layer.alphas.copy_(torch.full((n,), 0.1))
        layer.alphas_high.copy_(torch.full((n,), 0.3))
    y = layer(x)
    torch.testing.assert_close(y, tl.act.leaky_twice_relu6(x, 0.1, 0.3))
    y.sum().backward()
    low = torch.where(x < 0, x, 0.0)
    high = F.relu(x - 6)
    for p, part in ((layer.alphas, low), (layer.alphas_high, high)):
        torch.testing.assert_close(p.grad, part.sum().view(1) if shared else part.sum(0))


TIME, ONE = TimeDistributedLayer, {"n_units": 4, "name": "dense"}
ERRORS = [
    (TypeError, lambda: TIME(), "layer_class=DenseLayer, args={'n_units': 50}, got layer_class=None"),
    (TypeError, lambda: TIME(layer_class=nn.Tanh()), "got layer_class=Tanh()"),
    (TypeError, lambda: TIME(layer_class=dict), "takes what makes an nn.Module, got one that makes a dict"),
    (ValueError, lambda: TIME(layer_class=nn.Tanh, args={"name": "a.b"}), "'a.b' cannot name an inner layer"),
    (ValueError, lambda: TIME(layer_class=nn.Tanh, args={"name": "forward"}), "'forward' cannot name an inner layer"),
    (
        ValueError,
        lambda: TIME(layer_class=L.DenseLayer, args=ONE)(torch.zeros(5)),
        "TimeDistributedLayer needs an input (N, T, ...), got (5,); its second axis is time",
    ),
    (
        ValueError,
        lambda: TIME(L.InputLayer((None, 3, 4, 5)), L.DenseLayer, ONE, name="time"),
        "layer 'time' (TimeDistributedLayer) cannot take (None, 3, 4, 5): its 'dense' (DenseLayer) cannot take "
        "(None, 4, 5), a step of (None, 3, 4, 5): a dense layer needs a 2-D input",
    ),
    (
        ValueError,
        lambda: TIME(L.InputLayer((None, 3, None)), L.DenseLayer, ONE),
        "a step of (None, 3, None): a dense layer needs to know the width of its input, got (None, None)",
    ),
    (
        ValueError,
        lambda: TIME([L.InputLayer((None, 3), name="a"), L.InputLayer((None, 4), name="b")], L.DenseLayer, ONE),
        "the steps must have one shape (N, ...), got [(None, 3), (None, 4)]",
    ),
    (
        ValueError,
        lambda: TIME(layer_class=nn.Tanh)(torch.zeros(2, 3), torch.zeros(3, 3)),
        "the steps must have one shape (N, ...), got [(2, 3), (3, 3)]",
    ),
    (
        ValueError,
        lambda: TIME(layer_class=L.ReshapeLayer, args={"shape": (-1, 2)})(torch.zeros(2, 3, 4)),
        "its 'layer' made (12, 2) of 6 steps; an inner layer must keep its first axis",
    ),
    (
        TypeError,
        lambda: TIME(layer_class=nn.LSTM, args={"input_size": 4, "hidden_size": 2})(torch.zeros(2, 3, 5, 4)),
        "its 'layer' returns a tuple, not one tensor",
    ),
    (ValueError, lambda: MaxoutLayer(n_units=0), "n_units and n_pieces are at least 1, got 0 and 2"),
    (ValueError, lambda: MaxoutLayer(n_pieces=0), "n_units and n_pieces are at least 1, got 100 and 0"),
    (
        TypeError,
        lambda: MaxoutLayer(L.InputLayer((None, 4)), 10, "maxout"),
        "n_pieces is a number, got 'maxout'; a name is given as name='maxout'",
    ),
    (
        ValueError,
        lambda: MaxoutLayer(L.InputLayer((None, 4, 4)), name="m"),
        "layer 'm' (MaxoutLayer) cannot take (None, 4, 4): a maxout layer needs a 2-D input (N, n_in), "
        "got (None, 4, 4); stack a FlattenLayer first",
    ),
    (ValueError, lambda: MaxoutLayer(L.InputLayer((None, None))), "needs to know the width of its input"),
    (
        ValueError,
        lambda: MaxoutLayer().ensure_built((None, 3))(torch.zeros(2, 5)),
        "this maxout layer was sized for inputs of width 3, got (2, 5)",
    ),
    (
        ValueError,
        lambda: PRelu6Layer().ensure_built((None, 3))(torch.zeros(2, 5)),
        "this PReLU was sized for 3 channels, got (2, 5)",
    ),
    (
        TypeError,
        lambda: MaxoutLayer()(torch.zeros(2, 3, dtype=torch.int64)),
        "a maxout layer takes floating-point numbers, got torch.int64; convert with x.float()",
    ),
    (TypeError, lambda: UnStackLayer(), "UnStackLayer(net, axis=1), got NoneType"),
    (TypeError, lambda: UnStackLayer(torch.zeros(2)), "a tensor is taken apart by x.unbind(axis)"),
    (
        ValueError,
        lambda: UnStackLayer(L.InputLayer((None, 3))),
        "axis 0 of (None, 3) has no known length to unstack; give InputLayer that length",
    ),
    (ValueError, lambda: UnStackLayer(L.InputLayer((None, 3)), axis=2), "axis 2 is no axis of an input (None, 3)"),
    (
        ValueError,
        lambda: UnStackLayer(L.InputLayer((None, 3)), num=2, axis=1),
        "UnStackLayer needs num=2, but axis 1 of (None, 3) is 3 long",
    ),
    (ValueError, lambda: SelectLayer(axis=2)(torch.zeros(2, 3)), "axis 2 is no axis of an input (2, 3); give -2 to 1"),
    (
        ValueError,
        lambda: SelectLayer(L.InputLayer((None, 3)), 3, name="s"),
        "layer 's' (SelectLayer) cannot take (None, 3): index 3 is no place of axis 1, which is 3 long",
    ),
    (ValueError, lambda: SubpixelConv1d(scale=0), "scale is a positive whole number, got 0"),
    (ValueError, lambda: SubpixelConv1d()(torch.zeros(2, 4)), "SubpixelConv1d needs a 3-D input (N, L, C), got (2, 4)"),
    (ValueError, lambda: SubpixelConv1d()(torch.zeros(2, 4, 3)), "scale=2 needs a multiple of 2 channels, got 3"),
    (
        ValueError,
        lambda: PRelu6Layer(L.InputLayer((None, None))),
        "a PReLU needs an input (N, ..., C) of known C, got (None, None)",
    ),
    (ValueError, lambda: PTRelu6Layer()(torch.zeros(3)), "a PReLU needs an input (N, ..., C) of known C, got (3,)"),
    *(
        (TypeError, lambda cls=cls: cls()(torch.ones(2, 3).int()), "a PReLU takes floating-point numbers")
        for cls in (PReluLayer, PRelu6Layer, PTRelu6Layer)
    ),
]


@pytest.mark.parametrize(("kind", "make", "text"), ERRORS, ids=[f"{i} {text}" for i, (_, _, text) in enumerate(ERRORS)])
def test_wrong_arguments_say_what_to_do(kind, make, text):
    with pytest.raises(kind) as error:
        make()
    assert text in str(error.value)


def test_layers_print_their_settings(capsys):
    net = TimeDistributedLayer(L.InputLayer((None, 3, 6)), L.DenseLayer, DENSE, name="time")
    net.print_layers()
    printed = capsys.readouterr().out
    assert "TimeDistributedLayer(layer_class=DenseLayer(n_units=4, act=tanh))" in printed
    assert repr(MaxoutLayer(n_units=4)) == "MaxoutLayer(n_units=4, n_pieces=2)"
    assert repr(SelectLayer(index=2)) == "SelectLayer(index=2, axis=1)"
    assert repr(SubpixelConv1d(act=torch.relu)) == "SubpixelConv1d(scale=2, act=relu)"
    assert repr(PTRelu6Layer()) == "PTRelu6Layer(channel_shared=False)"
