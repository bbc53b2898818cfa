import contextlib
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl
from torchlayer.network import probe

L = tl.layers


def mlp(name="x"):
    net = L.InputLayer((None, 4), name=name)
    net = L.DropoutLayer(net, keep=0.8, name="drop1")
    net = L.DenseLayer(net, n_units=5, act=torch.relu, name="relu1")
    return L.DenseLayer(net, n_units=3, name="out")


def test_prefix_handle_sees_training_updates():
    x = L.InputLayer((None, 4), name="x")
    hidden = L.DenseLayer(x, n_units=5, name="hidden")
    net = L.DenseLayer(hidden, n_units=3, name="out")
    data = torch.randn(2, 4)
    before = hidden(data)
    with torch.no_grad():
        net.hidden.W.add_(1.0)
    assert hidden.hidden is net.hidden
    assert not torch.equal(hidden(data), before)


def test_stacking_does_not_edit_the_network_below():
    x = L.InputLayer((None, 4), name="x")
    hidden = L.DenseLayer(x, n_units=5, name="hidden")
    L.DenseLayer(hidden, n_units=3, name="out")
    assert list(hidden.state_dict()) == ["hidden.W", "hidden.b"]
    assert hidden(torch.zeros(2, 4)).shape == (2, 5)


def test_names_count_up_by_position_and_two_programs_agree():
    def build():
        net = L.InputLayer((None, 4))
        for _ in range(3):
            net = L.DenseLayer(net, n_units=4)
        return net

    assert list(dict(build().named_children())) == ["dense1", "dense2", "dense3"]
    assert list(build().state_dict()) == list(build().state_dict())


def test_names_may_hold_a_slash():
    net = L.DenseLayer(L.InputLayer((None, 4)), n_units=2, name="net0/relu1")
    assert list(net.state_dict()) == ["net0/relu1.W", "net0/relu1.b"]


def test_a_layer_stacked_twice_shares_its_weights():
    a, b = L.InputLayer((None, 4), name="a"), L.InputLayer((None, 4), name="b")
    tower = L.DenseLayer(n_units=3, act=torch.tanh, name="tower")
    both = L.ConcatLayer([L.stack(a, tower, name="tower_a"), L.stack(b, tower, name="tower_b")], name="both")
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    assert list(both.state_dict()) == ["tower.W", "tower.b"]
    assert both.count_params() == 15
    torch.testing.assert_close(both(x, y), torch.cat([tower(x), tower(y)], 1))


def test_a_nameless_module_stacked_twice_keeps_one_owner():
    net = L.InputLayer((None, 4))
    shared = L.DenseLayer(n_units=4)
    net = L.stack(L.stack(net, shared), shared)
    assert list(net.state_dict()) == ["dense1.W", "dense1.b"]
    x = torch.randn(2, 4)
    torch.testing.assert_close(net(x), shared(shared(x)))


def test_two_heads_share_one_trunk_and_run_it_once():
    calls = []
    x = L.InputLayer((None, 4), name="x")
    trunk = L.LambdaLayer(x, fn=lambda v: calls.append(v.device.type) or v * 2, name="trunk")
    net = L.join(L.DenseLayer(trunk, n_units=3, name="policy"), L.DenseLayer(trunk, n_units=1, name="value"))
    calls.clear()
    p, v = net(torch.randn(2, 4))
    assert p.shape == (2, 3)
    assert v.shape == (2, 1)
    assert calls == ["cpu"]
    with pytest.raises(ValueError, match=r"has 2 outputs \['policy', 'value'\]"):
        _ = net.outputs


def test_a_network_stacks_as_a_layer():
    inner = L.DenseLayer(L.InputLayer((None, 4), name="x"), n_units=3, name="d")
    outer = L.stack(L.InputLayer((None, 4), name="y"), inner, name="inner")
    assert list(outer.state_dict()) == ["inner.d.W", "inner.d.b"]
    assert outer.outputs.shape == (None, 3)


def test_any_module_stacks():
    net = L.stack(L.InputLayer((None, 4)), nn.Linear(4, 2))
    assert list(net.state_dict()) == ["linear1.weight", "linear1.bias"]


def test_outputs_follow_unknown_axes():
    x = L.InputLayer((None, None, None, 3))
    assert L.Conv2d(x, n_filter=8).outputs.shape == (None, None, None, 8)
    assert L.LambdaLayer(x, fn=lambda v: v.mean((1, 2))).outputs == ((None, 3), torch.float32)


def test_an_example_tensor_declares_an_input():
    assert L.InputLayer(torch.zeros(7, 3, dtype=torch.int64)).outputs == ((None, 3), torch.int64)


def test_probing_draws_no_random_numbers_and_touches_no_buffer():
    bn = nn.BatchNorm1d(4)
    state = torch.get_rng_state()
    probe(nn.Sequential(nn.Dropout(), bn), tl.layers.Spec((None, 4)))
    assert torch.equal(torch.get_rng_state(), state)
    assert bn.num_batches_tracked == 0
    assert not bn.running_mean.is_meta


def test_an_optimizer_made_before_the_first_call_stays_valid():
    layer = L.DenseLayer(n_units=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer(torch.ones(1, 3)).sum().backward()
    before = layer.W.detach().clone()
    optimizer.step()
    torch.testing.assert_close(layer.W, before - 1.0)


def test_build_runs_once_even_without_parameters_to_size():
    class Remembers(L.Layer):
        def build(self, *shapes):
            self.seen = [*getattr(self, "seen", []), shapes]

        def forward(self, x):
            return x

    layer = Remembers()
    layer(torch.zeros(2, 3))
    layer(torch.zeros(4, 3))
    assert layer.seen == [((2, 3),)]


def test_layers_live_in_a_sequential():
    net = nn.Sequential(L.DenseLayer(n_units=5, act=torch.relu), L.DropoutLayer(keep=0.5), L.DenseLayer(n_units=2))
    assert net(torch.zeros(3, 4)).shape == (3, 2)


def test_six_hundred_layers_copy_and_pickle_without_recursion():
    import copy
    import pickle

    net = L.InputLayer((None, 2))
    for _ in range(600):
        net = L.LambdaLayer(net, fn=torch.sin)
    x = torch.ones(1, 2)
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))


def test_activations_are_kept_by_name():
    net = mlp().eval()
    x = torch.randn(2, 4)
    found = net.activations(x)
    assert list(found) == ["x", "drop1", "relu1", "out"]
    torch.testing.assert_close(found["out"], net(x))


def test_all_drop_lists_keep_probabilities():
    assert mlp().all_drop == {"drop1": 0.8}


def test_all_params_hold_parameters_then_buffers_of_each_layer_once():
    net = L.stack(L.InputLayer((None, 4)), nn.BatchNorm1d(4), name="bn")
    net = L.DenseLayer(net, n_units=2, name="d")
    named = dict(net.named_parameters()) | dict(net.named_buffers())
    order = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "d.W", "d.b"]
    assert [id(t) for t in net.all_params] == [id(named[key]) for key in order]
    assert net.count_params() == 4 * 4 + 1 + 4 * 2 + 2


def printed(call) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        call()
    return out.getvalue().splitlines()


def test_print_params_shows_population_statistics():
    net = L.DenseLayer(L.InputLayer((None, 2)), n_units=2, W_init=[[1.0, 2.0], [3.0, 6.0]], name="d")
    assert printed(net.print_params) == [
        "  param   0: (2, 2)          (mean:  3.000000, median:  2.500000, std:  1.870829)   d.W",
        "  param   1: (2,)            (mean:  0.000000, median:  0.000000, std:  0.000000)   d.b",
        "  num of params: 6",
    ]
    assert printed(lambda: net.print_params(False))[0] == "  param   0: (2, 2)             d.W"


def test_print_layers_shows_names_shapes_and_settings():
    assert printed(mlp().print_layers)[:2] == [
        "  layer   0: drop1                (?, 4)               float32    DropoutLayer(keep=0.8)",
        "  layer   1: relu1                (?, 5)               float32    DenseLayer(n_units=5, act=relu)",
    ]


def test_construction_prints_nothing():
    assert printed(mlp) == []


class Counter(tl.layers.Layer):
    """A stateful layer, as recurrent ones are."""

    def forward(self, x):
        return self.step(x)[0]

    def step(self, x, state=None):
        total = x if state is None else x + state[0]
        return total, (total,)


def test_forward_forgets_and_step_remembers():
    net = Counter(L.InputLayer((None, 2)), name="count")
    x = torch.ones(1, 2, requires_grad=True)
    _, state = net.step(x)
    y, state = net.step(x, state=tl.layers.detach(state))
    assert y.tolist() == [[2.0, 2.0]]
    assert net(x).tolist() == [[1.0, 1.0]]
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.tolist() == [[1.0, 1.0]]  # the first step's history was cut


def test_detach_keeps_every_nesting():
    from typing import NamedTuple

    class Pair(NamedTuple):
        c: torch.Tensor
        h: torch.Tensor

    t = torch.ones(1, requires_grad=True) * 2
    state = tl.layers.detach({"a": Pair(t, t), "b": [t, (t, None)]})
    assert isinstance(state["a"], Pair)
    assert not any(v.requires_grad for v in (*state["a"], state["b"][0], state["b"][1][0]))


x4 = L.InputLayer((None, 4), name="x")
image = L.InputLayer((None, 7, 7, 64), name="image")
dense = L.DenseLayer(x4, n_units=3, name="relu1")

WRONG_STACKS = [
    (
        lambda: L.DenseLayer(dense, n_units=3, name="relu1"),
        "layer 'relu1' already exists in this network, please choose",
    ),
    (
        lambda: L.DenseLayer(image, name="out"),
        r"layer 'out' \(DenseLayer\) cannot take \(None, 7, 7, 64\): .*FlattenLayer",
    ),
    (lambda: L.DenseLayer(L.InputLayer((None, None))), "needs to know the width of its input"),
    (lambda: L.DenseLayer(x4, n_units=0), "n_units is the number of outputs and at least 1, got 0"),
    (lambda: L.Conv2d(x4, name="c"), r"layer 'c' \(Conv2dLayer\) cannot take \(None, 4\): .* \(N, H, W, C\)"),
    (lambda: L.Conv2dLayer(image, shape=[3, 3, 1, 8], name="c"), r"take 1 channels, got an input of .* with 64"),
    (lambda: L.Conv2dLayer(image, shape=[3, 3, 64], name="c"), r"shape is \[height, width, n_in, n_out\]"),
    (lambda: L.Conv2dLayer(image, shape=[3, 3, 64, 8], strides=[2, 2, 2, 2]), "with ones for batch and channels"),
    (lambda: L.Conv2d(image, padding="FULL"), "padding is 'SAME' or 'VALID', got 'FULL'"),
    (lambda: L.Conv2d(image, filter_size=0), "filter_size takes a positive int or two of them"),
    (lambda: L.MaxPool2d(x4, name="p"), r"layer 'p' .*needs a 4-D input"),
    (lambda: L.PoolLayer(image, pool="median"), "pool is 'max', 'mean' or a function, got 'median'"),
    (lambda: L.DropoutLayer(x4, keep=0.0), r"keep is the probability of keeping a value, in \(0, 1\], got 0.0"),
    (lambda: L.DropoutLayer(x4, keep=1.5), "got 1.5"),
    (lambda: L.DropconnectDenseLayer(x4, keep=-1), "keep is the probability of keeping a weight"),
    (lambda: L.GaussianNoiseLayer(x4, stddev=-1), "stddev is the width of the noise and not negative"),
    (lambda: L.ReshapeLayer(x4, shape=()), "shape is the whole new shape"),
    (lambda: L.ReshapeLayer(x4, shape=(-1, 5), name="r"), r"layer 'r' .* cannot take \(None, 4\)"),
    (lambda: L.LambdaLayer(x4, fn=3), "LambdaLayer takes a function"),
    (lambda: L.TorchLayer(x4, torch.sin), "TorchLayer takes an nn.Module"),
    (lambda: L.ConcatLayer([x4, image], name="c"), r"cannot take \(None, 4\), \(None, 7, 7, 64\)"),
    (lambda: L.ElementwiseLayer([x4, dense], name="e"), "the inputs must have one shape"),
    (lambda: L.ConcatLayer([], name="c"), "stacks on a network or a list of networks"),
    (lambda: L.stack(torch.zeros(2, 4), nn.Linear(4, 2)), r"got \[Tensor of shape \(2, 4\)\]; begin with InputLayer"),
    (lambda: L.DenseLayer(x4, name="train"), "'train' cannot name a layer"),
    (lambda: L.DenseLayer(x4, name="training"), "'training' cannot name a layer"),
    (lambda: L.DenseLayer(x4, name="a.b"), "'a.b' cannot name a layer"),
    (lambda: L.stack(x4, nn.LazyLinear(3)), "parameters of unknown size; call it once"),
    (lambda: L.stack(x4, nn.Linear(5, 2)), r"layer 'linear1' \(Linear\) cannot take \(None, 4\)"),
    (lambda: L.LambdaLayer(x4, fn=lambda v: (v, v)), "returns a tuple, not a tensor"),
    (lambda: L.join(dense, L.DenseLayer(x4, n_units=3, name="relu1")), "two different layers are both named 'relu1'"),
    (lambda: L.InputLayer("784"), "InputLayer 'input_layer' takes a shape such as"),
    (lambda: L.InputLayer((None, -1)), "write None for a length that varies"),
    (lambda: L.InputLayer((None, 4), dtype="float32"), "takes a torch.dtype, got dtype='float32'"),
    (lambda: L.DenseLayer(x4, n_units=2, W_init=[[1.0]]), r"initial values of shape \(1, 1\) do not fit"),
    (lambda: L.ReconLayer(dense, n_units=4, act=torch.relu), "act is F.softplus or torch.sigmoid, got relu"),
    (lambda: L.ReconLayer(dense, x_recon="x", n_units=4), "x_recon is an earlier handle of the network, got str"),
]


@pytest.mark.parametrize(("build", "text"), WRONG_STACKS, ids=[text[:40] for _, text in WRONG_STACKS])
def test_wrong_stacking_says_what_to_do(build, text):
    with pytest.raises((ValueError, TypeError), match=text):
        build()


WRONG_CALLS = [
    (lambda: dense(torch.zeros(2, 5)), r"input 'x' is declared as \(None, 4\), got \(2, 5\)"),
    (lambda: dense(torch.zeros(4)), r"input 'x' is declared as \(None, 4\), got \(4,\)"),
    (lambda: dense(torch.zeros(2, 4, dtype=torch.uint8)), r"declared as torch.float32, got torch.uint8; convert with"),
    (lambda: dense(torch.zeros(2, 4).numpy()), "takes a tensor, got ndarray; wrap it in torch.as_tensor"),
    (lambda: dense(torch.zeros(2, 4), torch.zeros(2, 4)), r"takes 1 input\(s\) \['x'\], got 2"),
    (lambda: L.DenseLayer(n_units=2)(torch.zeros(2, 3, 4)), "a dense layer needs a 2-D input"),
    (lambda: setattr(dense, "outputs", 1), "outputs is read-only; to change a network's output stack a LambdaLayer"),
]


@pytest.mark.parametrize(("call", "text"), WRONG_CALLS, ids=[text[:40] for _, text in WRONG_CALLS])
def test_wrong_calls_say_what_to_do(call, text):
    with pytest.raises((ValueError, TypeError, AttributeError), match=text):
        call()


def test_a_failed_stack_leaves_the_name_free():
    with pytest.raises(ValueError, match="cannot take"):
        L.DenseLayer(image, name="out")
    L.DenseLayer(L.FlattenLayer(image, name="flat"), n_units=2, name="out")


def test_a_sized_layer_refuses_another_width():
    layer = L.DenseLayer(n_units=2)
    layer(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="sized for inputs of width 3"):
        layer(torch.zeros(1, 4))


@pytest.mark.parametrize("layer", [L.DenseLayer(), L.Conv2d(), L.PoolLayer(), L.DropoutLayer()])
def test_a_layer_prints_before_it_has_a_size(layer):
    assert type(layer).__name__ in repr(layer)


def test_softplus_act_prints_its_name():
    assert "act=softplus" in repr(L.DenseLayer(n_units=2, act=F.softplus))
    assert "act=PReLU" in repr(L.DenseLayer(n_units=2, act=nn.PReLU()))
