"""Finding layers and parameters by name, and what is said about the functions that are gone."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import torchlayer as tl
from torchlayer.layers.names import (
    clear_layers_name,
    flatten_reshape,
    get_layers_with_name,
    get_variables_with_name,
    initialize_global_variables,
    list_remove_repeat,
    print_all_variables,
    set_keep,
    set_name_reuse,
)

L = tl.layers


@pytest.fixture
def net() -> L.Network:
    net = L.InputLayer((None, 6), name="x")
    net = L.DenseLayer(net, n_units=4, act=torch.relu, name="relu1")
    net = L.BatchNormLayer(net, name="bn1")
    net = L.DenseLayer(net, n_units=5, act=torch.relu, name="relu2")
    net.relu2.b.requires_grad_(False)
    return net


FOUND = [
    ("relu", True, ["relu1.W", "relu1.b", "relu2.W"]),
    ("relu", False, ["relu1.W", "relu1.b", "relu2.W", "relu2.b"]),
    ("relu1/W:0", True, ["relu1.W"]),
    ("relu1/W", True, ["relu1.W"]),
    ("relu1.b", True, ["relu1.b"]),
    ("bn1", True, ["bn1.beta", "bn1.gamma"]),
    ("bn1", False, ["bn1.beta", "bn1.gamma", "bn1.moving_mean", "bn1.moving_variance"]),
    ("lstm", False, []),
]


@pytest.mark.parametrize(("name", "train_only", "expected"), FOUND)
def test_variables_are_found_by_part_of_their_name(net, name, train_only, expected):
    held = net.state_dict(keep_vars=True)
    found = get_variables_with_name(name, train_only, network=net)
    assert [key for tensor in found for key in held if held[key] is tensor] == expected


def test_a_shared_layers_variables_are_found_once():
    tower = L.DenseLayer(n_units=3, name="tower")
    x = L.InputLayer((None, 3))
    net = L.stack(L.stack(x, tower, name="tower_a"), tower, name="tower_b")
    assert len(get_variables_with_name("tower", network=net)) == 2


def test_found_variables_are_printed_as_the_original_printed_them(net, capsys):
    get_variables_with_name("relu1", network=net)
    assert capsys.readouterr().out == "  [*] geting variables with relu1\n"
    get_variables_with_name("relu1", True, True, net)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  got   0: relu1.W           (6, 4)",
        "  got   1: relu1.b           (4,)",
    ]


def test_found_layers_are_working_networks_that_end_there(net):
    x = torch.randn(3, 6)
    first, second = get_layers_with_name(net.eval(), "relu")
    assert first.outputs.shape == (None, 4)
    assert list(first.state_dict()) == ["relu1.W", "relu1.b"]
    assert first.relu1 is net.relu1
    values = net.activations(x)
    assert torch.equal(first(x), values["relu1"])
    assert torch.equal(second(x), values["relu2"])


def test_found_layers_join_and_go_on_like_handles_kept_while_stacking(net):
    both = L.join(*get_layers_with_name(net.eval(), "relu"))
    x = torch.randn(3, 6)
    assert [y.shape for y in both(x)] == [(3, 4), (3, 5)]
    (bn,) = get_layers_with_name(net, "bn1")
    side = L.DenseLayer(bn, n_units=2, name="side")
    assert L.ConcatLayer([net, side], name="both")(x).shape == (3, 7)


def test_a_found_layer_keeps_only_what_it_needs():
    a, b = L.InputLayer((None, 2), name="a"), L.InputLayer((None, 3), name="b")
    left, right = L.DenseLayer(a, n_units=4, name="left"), L.DenseLayer(b, n_units=4, name="right")
    net = L.ConcatLayer([left, right], name="both")
    (found,) = get_layers_with_name(net, "right")
    assert list(found.state_dict()) == ["right.W", "right.b"]
    x = torch.randn(2, 3)
    assert torch.equal(found(x), right(x))


def test_a_shared_layer_is_found_at_each_of_its_calls():
    tower = L.DenseLayer(n_units=3, name="tower")
    once = L.stack(L.InputLayer((None, 3)), tower, name="tower_a")
    twice = L.stack(once, tower, name="tower_b")
    x = torch.randn(2, 3)
    a, b = get_layers_with_name(twice, "tower")
    assert torch.equal(a(x), once(x))
    assert torch.equal(b(x), twice(x))


def test_a_found_decoder_can_pretrain():
    code = L.DenseLayer(L.InputLayer((None, 6), name="x"), n_units=4, act=torch.sigmoid, name="code")
    net = L.ReconLayer(code, n_units=6, name="recon")
    (found,) = get_layers_with_name(net, "recon")
    assert isinstance(found, L.ReconNetwork)
    x = torch.rand(3, 6)
    assert torch.equal(found.cost(x), net.cost(x))


def test_found_layers_are_printed_as_the_original_printed_them(net, capsys):
    assert len(get_layers_with_name(net)) == 3
    assert capsys.readouterr().out == "  [*] geting layers with \n"
    assert get_layers_with_name(net, "x") == []
    get_layers_with_name(net, "relu", True)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  got   0: relu1             (None, 4)",
        "  got   1: relu2             (None, 5)",
    ]


def test_all_variables_are_printed_as_the_original_printed_them(net, capsys):
    print_all_variables(net)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["  [*] printing global variables", "  var   0: (6, 4)            relu1.W"]
    assert [line.split()[-1] for line in lines[1:]] == [name for name, _ in net._named_params()]
    print_all_variables(net, train_only=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  [*] printing trainable variables"
    assert [line.split()[-1] for line in lines[1:]] == ["relu1.W", "relu1.b", "bn1.beta", "bn1.gamma", "relu2.W"]


WITHOUT_NETWORK = [
    (
        lambda: get_variables_with_name("relu1", True, True),
        "none was given; write get_variables_with_name('relu1', net",
    ),
    (lambda: get_variables_with_name("relu1", network=nn.Tanh()), "got Tanh; write get_variables_with_name("),
    (lambda: get_layers_with_name(name="relu1"), "none was given; write get_layers_with_name(net, 'relu1')"),
    (lambda: print_all_variables(), "none was given; write print_all_variables(net)"),
    (lambda: print_all_variables(True), "got bool; write print_all_variables(net)"),  # as the original was called
]


@pytest.mark.parametrize(("call", "text"), WITHOUT_NETWORK)
def test_looking_needs_a_network(call, text):
    with pytest.raises(TypeError, match=re.escape(f"this function looks through a network, but {text}")):
        call()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (2,), (0, 3, 4), (2, 0)])
def test_flattening_keeps_the_first_axis(shape):
    x = torch.randn(shape)
    y = flatten_reshape(x)
    assert y.shape == (shape[0], int(np.prod(shape[1:])))
    assert torch.equal(y.flatten(), x.flatten())


def test_flattening_reads_the_logical_order_and_an_unknown_batch():
    x = torch.randn(2, 3, 4).transpose(1, 2)
    assert torch.equal(flatten_reshape(x), x.flatten(1))
    assert L.LambdaLayer(L.InputLayer((None, 7, 7, 2)), flatten_reshape).outputs.shape == (None, 98)


def test_flattening_says_what_it_takes(net):
    with pytest.raises(TypeError, match=r"takes a tensor, got Network; a network takes FlattenLayer\(net\)"):
        flatten_reshape(net)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs a tensor \(N, \.\.\.\), got a scalar"):
        flatten_reshape(torch.tensor(1.0))


def test_repeats_are_removed_in_order():
    assert list_remove_repeat([2, 3, 4, 2, 3]) == [2, 3, 4]
    assert list_remove_repeat(["b", "a", "b"]) == ["b", "a"]
    assert list_remove_repeat([[1], [1], [2]]) == [[1], [2]]
    assert list_remove_repeat([]) == []


@pytest.mark.parametrize("zeros", [torch.zeros, np.zeros], ids=["tensors", "arrays"])
def test_tensors_repeat_only_if_they_are_one_object(zeros):
    a, b, c = zeros(3), zeros(3), zeros(4)
    kept = list_remove_repeat([a, b, a, 1, c, b])
    assert [id(item) for item in kept] == [id(a), id(b), id(1), id(c)]


GONE = [
    (clear_layers_name, "there is no clear_layers_name: names are unique within one network only", "delete the line"),
    (set_name_reuse, "to share weights is to stack one layer twice", "net1, net2 = tl.layers.stack(x1, tower, "),
    (
        lambda: set_name_reuse(None),
        "there is no set_name_reuse",
        "tower = tl.layers.DenseLayer(n_units=64, name='tower')",
    ),
    (initialize_global_variables, "parameters are initialised when a layer is stacked", "or build the network again"),
    (lambda: initialize_global_variables("sess"), "there is no initialize_global_variables", "delete the line"),
    (
        lambda: set_keep["drop1"],
        "noise is on after net.train() and off after net.eval()",
        "net.train(); net.drop1.eval()",
    ),
]


@pytest.mark.parametrize(("call", "reason", "instead"), GONE)
def test_what_is_gone_says_what_to_write_instead(call, reason, instead):
    with pytest.raises(NotImplementedError) as error:
        call()
    first, *rest = str(error.value).splitlines()
    assert reason in first
    assert any(instead in line for line in rest)


def test_the_replacement_of_name_reuse_works():
    with pytest.raises(NotImplementedError) as error:
        set_name_reuse()
    names = {"tl": tl, **{name: L.InputLayer((None, 3), name=name) for name in ("x1", "x2")}}
    exec("\n".join(line.strip() for line in str(error.value).splitlines()[1:]), names)
    assert names["net1"].tower is names["net2"].tower
