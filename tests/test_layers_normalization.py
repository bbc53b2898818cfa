from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchlayer.files.npz import save_npz
from torchlayer.layers import (
    BatchNormLayer,
    GroupNormLayer,
    InputLayer,
    InstanceNormLayer,
    LayerNormLayer,
    LocalResponseNormLayer,
    stack,
)

REFERENCE = Path(__file__).parent / "reference"
RANKS = [(6, 3), (4, 5, 3), (2, 5, 4, 3), (2, 3, 2, 4, 3)]
every_rank = pytest.mark.parametrize("shape", RANKS, ids=lambda shape: f"{len(shape)}d")


def load(stem):
    case = np.load(REFERENCE / f"{stem}.npz")
    return {k: torch.from_numpy(case[k]) for k in case if k != "about"}, json.loads(str(case["about"]))


def data(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 1.7 + 0.6


def standardised(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    """The formula, with nothing but means."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + epsilon).sqrt()


def first(x: Tensor) -> tuple[int, ...]:
    return tuple(range(x.dim() - 1))


def test_batch_norm_agrees_with_tensorflow():
    case, about = load("batch_norm_train")
    norm = BatchNormLayer(epsilon=about["eps"], beta_init=case["beta"], gamma_init=case["gamma"])
    torch.testing.assert_close(norm(case["x"]), case["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.moving_mean, 0.1 * case["mean"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.moving_variance, 0.9 + 0.1 * case["variance"], rtol=1e-5, atol=1e-6)


def test_batch_norm_agrees_with_the_original():
    norm = BatchNormLayer(gamma_init=[2.0, 3.0], beta_init=[0.5, -0.5])
    y = norm(torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]]))
    # printed by the original
    expected = torch.tensor([[-1.949485, -1.888729], [0.5, 3.666186], [2.949486, -3.277457]])
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(norm.moving_mean, torch.tensor([0.3, 0.3]), rtol=0, atol=2e-6)
    torch.testing.assert_close(norm.moving_variance, torch.tensor([1.166667, 1.366667]), rtol=0, atol=2e-6)


@every_rank
def test_batch_norm_in_training_is_the_formula(shape):
    x = data(shape)
    norm = BatchNormLayer(act=torch.tanh, gamma_init=[0.5, 2.0, -1.0], beta_init=[0.1, 0.2, 0.3])
    wide = standardised(x.double(), first(x), 1e-5)
    expected = torch.tanh(wide * torch.tensor([0.5, 2.0, -1.0]) + torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(norm(x), expected.float(), rtol=1e-5, atol=1e-5)


@every_rank
def test_moving_statistics_follow_the_biased_ones_batch_after_batch(shape):
    norm, mean, variance = BatchNormLayer(decay=0.8), torch.zeros(3).double(), torch.ones(3).double()
    for seed in range(4):
        x = data(shape, seed=seed)
        norm(x)
        mean = 0.8 * mean + 0.2 * x.double().mean(first(x))
        variance = 0.8 * variance + 0.2 * x.double().var(first(x), correction=0)
    torch.testing.assert_close(norm.moving_mean.double(), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.moving_variance.double(), variance, rtol=1e-6, atol=1e-6)


@every_rank
def test_batch_norm_in_eval_uses_the_moving_statistics_and_leaves_them(shape):
    norm = BatchNormLayer()
    norm(data(shape))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = data(shape, seed=1)
    y = norm.eval()(x)
    assert norm.gamma is not None
    assert norm.beta is not None
    expected = (x - norm.moving_mean) / (norm.moving_variance + 1e-5).sqrt() * norm.gamma + norm.beta
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("is_train", [True, False])
def test_is_train_holds_the_mode(is_train):
    free, held = BatchNormLayer(gamma_init=1.0).train(is_train), BatchNormLayer(gamma_init=1.0, is_train=is_train)
    x = data((6, 3))
    torch.testing.assert_close(held.train(not is_train)(x), free(x), rtol=0, atol=0)
    assert torch.equal(held.moving_mean, free.moving_mean)
    assert held.moving_mean.any() == is_train


@every_rank
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_batch_norm_gradients_are_the_formulas(shape, training):
    x, weights = data(shape, torch.float64).requires_grad_(), data(shape, torch.float64, seed=2)
    norm = BatchNormLayer().double()
    norm(x.detach())
    norm.train(training)
    assert norm.gamma is not None
    assert norm.beta is not None
    mean, variance = norm.moving_mean.clone(), norm.moving_variance.clone()
    found = torch.autograd.grad((norm(x) * weights).sum(), [x, norm.gamma, norm.beta])
    wide = standardised(x, first(x), 1e-5) if training else (x - mean) / (variance + 1e-5).sqrt()
    expected = torch.autograd.grad(((wide * norm.gamma + norm.beta) * weights).sum(), [x, norm.gamma, norm.beta])
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_two_passes_may_come_before_their_backward():
    norm, x = BatchNormLayer(), data((6, 3)).requires_grad_()
    (norm(x).sum() + norm(2 * x).square().sum()).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_parameters_come_in_the_files_order(tmp_path):
    net = stack(InputLayer((None, 3)), BatchNormLayer(name="bn"))
    assert list(net.state_dict()) == ["bn.beta", "bn.gamma", "bn.moving_mean", "bn.moving_variance"]
    beta, gamma, mean, variance = net.all_params
    assert [beta is net.bn.beta, gamma is net.bn.gamma] == [True, True]
    assert [mean is net.bn.moving_mean, variance is net.bn.moving_variance] == [True, True]
    assert [p.requires_grad for p in net.all_params] == [True, True, False, False]
    assert net.count_params() == 12
    save_npz(net.all_params, name=str(tmp_path / "bn.npz"))


def test_default_initial_values_are_the_originals():
    torch.manual_seed(0)
    norm = BatchNormLayer().ensure_built((None, 10_000))
    assert norm.gamma is not None
    assert norm.beta is not None
    assert abs(norm.gamma.mean().item() - 1) < 1e-4
    assert abs(norm.gamma.std().item() - 0.002) < 1e-4
    assert not norm.beta.any()
    assert not norm.moving_mean.any()
    assert (norm.moving_variance == 1).all()


def test_beta_and_gamma_may_be_left_out():
    norm, x = BatchNormLayer(beta_init=None, gamma_init=None, moving_mean_init=2.0), data((6, 3))
    assert not list(norm.parameters())
    torch.testing.assert_close(norm(x), standardised(x, (0,), 1e-5))
    torch.testing.assert_close(norm.moving_mean, 0.9 * 2 + 0.1 * x.mean(0))


@pytest.mark.parametrize("options", [{}, {"beta_init": None, "gamma_init": None}], ids=["affine", "plain"])
def test_a_fresh_batch_norm_takes_the_sizes_and_values_it_loads(options):
    trained, fresh = BatchNormLayer(**options), BatchNormLayer(**options)
    trained(data((6, 3)))
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    x = data((6, 3), seed=1)
    assert torch.equal(fresh.eval()(x), trained.eval()(x))
    assert torch.equal(fresh.moving_mean, trained.moving_mean)


def test_one_value_a_channel_has_variance_zero():
    norm, x = BatchNormLayer(beta_init=0.25), data((1, 3)).requires_grad_()
    y = norm(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.full((1, 3), 0.25))
    torch.testing.assert_close(norm.moving_mean, 0.1 * x.detach()[0])
    torch.testing.assert_close(norm.moving_variance, torch.full((3,), 0.9))
    assert x.grad is not None
    assert not x.grad.any()


def test_batch_norm_keeps_its_precision_far_from_zero():
    x = 1000 + data((64, 5, 5, 4))
    norm = BatchNormLayer(gamma_init=1.0)
    expected = standardised(x.double(), (0, 1, 2), 1e-5).float()
    # torch's kernels multiply before they subtract, which costs 1e-3; a variance of E[x^2] - E[x]^2 would cost 1e-1
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "norm",
    [BatchNormLayer(), BatchNormLayer(is_train=False), InstanceNormLayer(), GroupNormLayer(groups=2)],
    ids=lambda norm: norm.__class__.__name__,
)
@pytest.mark.parametrize("shape", [(3, 5, 6, 4), (3, 2, 5, 6, 4)], ids=["4d", "5d"])
def test_channels_last_memory_stays_so(norm, shape):
    x = data(shape).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.is_contiguous()


@every_rank
def test_compiled_training_remembers_the_same_statistics(shape):
    eager, x = BatchNormLayer(), data(shape)
    eager(x)
    twin = BatchNormLayer()
    twin.load_state_dict(eager.state_dict())
    twin(x)
    eager(x)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for n in (0, 1, 2):  # the third length makes the batch symbolic
        batch = data((shape[0] + n, *shape[1:]), seed=n)
        torch.testing.assert_close(compiled(batch), eager(batch))
        torch.testing.assert_close(twin.moving_mean, eager.moving_mean)
        torch.testing.assert_close(twin.moving_variance, eager.moving_variance)


def test_sizing_a_network_leaves_the_moving_statistics_alone():
    net = stack(InputLayer((None, 3)), BatchNormLayer(is_train=True, name="bn"))
    assert not net.bn.moving_mean.any()
    assert (net.bn.moving_variance == 1).all()


def test_local_response_agrees_with_tensorflow():
    case, about = load("lrn")
    about.pop("op")
    torch.testing.assert_close(LocalResponseNormLayer(**about)(case["x"]), case["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),  # printed by TensorFlow
    [
        ((1, 1.0, 1.0, 0.5), [0.408248, 0.516398, 0.547723, 0.784465]),
        ((2, 2.0, 0.1, 0.75), [0.399384, 0.59814, 0.897209, 1.214543]),
    ],
)
def test_local_response_vectors(settings, expected):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    torch.testing.assert_close(LocalResponseNormLayer(None, *settings)(x).flatten(), torch.tensor(expected))


@every_rank
@pytest.mark.parametrize("radius", [0, 1, 5])
def test_local_response_and_its_gradient_are_the_formulas(shape, radius):
    x, weights = data(shape, torch.float64).requires_grad_(), data(shape, torch.float64, seed=1)
    y = LocalResponseNormLayer(depth_radius=radius, bias=1.5, alpha=0.3, beta=0.75)(x)
    sums = [x[..., max(c - radius, 0) : c + radius + 1].square().sum(-1) for c in range(3)]
    expected = x / (1.5 + 0.3 * torch.stack(sums, -1)) ** 0.75
    torch.testing.assert_close(y, expected)
    found, right = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (y, expected))
    torch.testing.assert_close(found, right)


def instance(x: Tensor) -> Tensor:
    return standardised(x, tuple(range(1, x.dim() - 1)), 1e-5)


def by_two_groups(x: Tensor) -> Tensor:
    parts = x.unflatten(-1, (2, x.shape[-1] // 2))
    return standardised(parts, (*range(1, x.dim() - 1), x.dim()), 1e-6).flatten(-2)


def whole(x: Tensor) -> Tensor:
    return standardised(x, tuple(range(1, x.dim())), 1e-12)


OF_AN_EXAMPLE = [
    (InstanceNormLayer, {}, instance, ("scale", "offset")),
    (GroupNormLayer, {"groups": 2}, by_two_groups, ("gamma", "beta")),
    (LayerNormLayer, {}, whole, ("gamma", "beta")),
    (LayerNormLayer, {"begin_norm_axis": -1}, lambda x: standardised(x, (-1,), 1e-12), ("gamma", "beta")),
    (
        LayerNormLayer,
        {"begin_params_axis": 1, "epsilon": 0.1},
        lambda x: standardised(x, tuple(range(1, x.dim())), 0.1),
        ("gamma", "beta"),
    ),
    (
        LayerNormLayer,
        {"begin_norm_axis": 2, "begin_params_axis": 1},
        lambda x: standardised(x, tuple(range(2, x.dim())), 1e-12),
        ("gamma", "beta"),
    ),
]


@pytest.mark.parametrize(("cls", "options", "formula", "names"), OF_AN_EXAMPLE)
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 5, 3, 4), (2, 3, 2, 5, 4)], ids=["3d", "4d", "5d"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_examples_are_normalised_by_the_formula(cls, options, formula, names, shape, training):
    x, weights = data(shape, torch.float64).requires_grad_(), data(shape, torch.float64, seed=1)
    layer = cls(act=torch.tanh, **options).double().train(training)
    layer.ensure_built(shape)
    scale, offset = (getattr(layer, name) for name in names)
    with torch.no_grad():
        scale.copy_(data(scale.shape, seed=3))
        offset.copy_(data(offset.shape, seed=4))
    y, expected = layer(x), torch.tanh(formula(x) * scale + offset)
    torch.testing.assert_close(y, expected)
    found, right = (torch.autograd.grad((out * weights).sum(), [x, scale, offset]) for out in (y, expected))
    for a, b in zip(found, right):
        torch.testing.assert_close(a, b)


def test_initial_values_and_their_order():
    torch.manual_seed(0)
    norm = InstanceNormLayer().ensure_built((None, 2, 2, 10_000))
    assert list(norm.state_dict()) == ["scale", "offset"]
    assert (norm.scale - 1).abs().max() <= 0.04
    assert abs(norm.scale.std().item() - 0.02 * 0.8796) < 5e-4
    assert not norm.offset.any()
    group = GroupNormLayer().ensure_built((None, 4, 4, 64))
    assert [(k, v.unique().tolist()) for k, v in group.state_dict().items()] == [("gamma", [1.0]), ("beta", [0.0])]
    layer = LayerNormLayer().ensure_built((None, 4, 4, 64))
    assert [(k, v.unique().tolist()) for k, v in layer.state_dict().items()] == [("beta", [0.0]), ("gamma", [1.0])]


@pytest.mark.parametrize(
    ("center", "scale", "names"), [(True, False, ["beta"]), (False, True, ["gamma"]), (False, False, [])]
)
@pytest.mark.parametrize("begin_norm_axis", [1, -1])
def test_layer_norm_without_center_or_scale(center, scale, names, begin_norm_axis):
    layer, x = LayerNormLayer(center=center, scale=scale, begin_norm_axis=begin_norm_axis), data((3, 5, 4))
    axes = (1, 2) if begin_norm_axis == 1 else (2,)
    torch.testing.assert_close(layer(x), standardised(x, axes, 1e-12), rtol=1e-5, atol=1e-5)
    assert [name for name, _ in layer.named_parameters()] == names


def test_one_value_an_instance_gives_the_offset():
    layer = InstanceNormLayer()
    x = data((1, 1, 1, 3))
    torch.testing.assert_close(layer(x), torch.zeros_like(x), rtol=0, atol=1e-4)  # rounding, over sqrt(epsilon)


@pytest.mark.parametrize("shape", [(3, 50, 4), (3, 16, 16, 4), (1, 4, 16, 16, 4)], ids=["3d", "4d", "5d"])
def test_instance_norm_keeps_its_precision_far_from_zero(shape):
    x = 1000 + data(shape)
    layer = InstanceNormLayer().ensure_built(shape)
    torch.nn.init.ones_(layer.scale)
    # torch.nn's instance norm is off by 1e-3
    torch.testing.assert_close(layer(x), instance(x.double()).float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: BatchNormLayer(decay=1.5), ValueError, r"decay is the share of the old.*in \[0, 1\], got 1.5"),
        (
            lambda: BatchNormLayer(epsilon=0.0),
            ValueError,
            "epsilon keeps the division from zero and is positive, got 0.0",
        ),
        (lambda: BatchNormLayer(is_train="yes"), TypeError, "None to follow train.. and eval.., got 'yes'"),  # type: ignore[arg-type]
        (
            lambda: LocalResponseNormLayer(depth_radius=-1),
            ValueError,
            "depth_radius is how many channels.*0 or more, got -1",
        ),
        (lambda: LocalResponseNormLayer(depth_radius="3"), ValueError, "0 or more, got '3'"),  # type: ignore[arg-type]
        (lambda: InstanceNormLayer(epsilon=-1e-5), ValueError, "epsilon .* is positive, got -1e-05"),
        (
            lambda: GroupNormLayer(groups=0),
            ValueError,
            "groups is how many groups of channels there are, 1 or more, got 0",
        ),
    ],
)
def test_bad_settings_are_explained(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (
            BatchNormLayer,
            (None,),
            r"layer 'a' \(BatchNormLayer\) cannot take \(None,\): batch normalisation needs an input of 2 to 5",
        ),
        (BatchNormLayer, (None, 1, 1, 1, 1, 3), "2 to 5 axes, the batch first and the channels last"),
        (BatchNormLayer, (None, 4, None), "a known number of channels, at least one, got"),
        (LocalResponseNormLayer, (None,), r"needs an input of shape \(N, ..., C\), got"),
        (
            InstanceNormLayer,
            (None, 3),
            "instance normalisation needs an input of 3 to 5 axes.*; stack a ReshapeLayer first",
        ),
        (GroupNormLayer, (None, 3), "group normalisation needs an input of 3 to 5 axes"),
        (
            GroupNormLayer,
            (None, 4, 4, 48),
            "48 channels do not fall into 32 equal groups; choose groups= among the divisors of 48",
        ),
        (LayerNormLayer, (None,), r"layer 'a' .*begin_norm_axis=1 is no axis of an input of shape \(None,\)"),
        (
            LayerNormLayer,
            (None, 4, None),
            "needs to know the axes from begin_params_axis=-1 on, and none of them empty",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_explained_when_stacked(layer, shape, text):
    with pytest.raises(ValueError, match=text):
        stack(InputLayer(shape), layer(name="a"))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (BatchNormLayer(), "this layer normalises 4 channels, got an input of shape .3, 5, 6. with 6"),
        (InstanceNormLayer(), "this layer normalises 4 channels, got an input of shape"),
        (GroupNormLayer(groups=2), "this layer normalises 4 channels, got an input of shape"),
        (LayerNormLayer(), r"inputs whose last axes are \(4,\), got \(3, 5, 6\); make another layer"),
    ],
)
def test_another_number_of_channels_is_explained(layer, text):
    layer.ensure_built((None, 5, 4))
    with pytest.raises(ValueError, match=text):
        layer(data((3, 5, 6)))


@pytest.mark.parametrize(
    "layer",
    [BatchNormLayer(), LocalResponseNormLayer(), InstanceNormLayer(), GroupNormLayer(groups=2), LayerNormLayer()],
)
def test_integers_are_refused(layer):
    with pytest.raises(
        TypeError, match=r"normalisation takes floating-point numbers, got torch.int64; convert with x.float"
    ):
        layer(torch.ones(2, 3, 4, dtype=torch.int64))


def test_an_empty_batch_is_refused_before_it_spoils_the_statistics():
    norm = BatchNormLayer()
    norm(data((6, 3)))
    before = norm.moving_variance.clone()
    with pytest.raises(ValueError, match="needs values, got none"):
        norm(torch.zeros(0, 3))
    assert torch.equal(norm.moving_variance, before)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (
            BatchNormLayer(decay=0.99, act=torch.relu, is_train=True),
            "decay=0.99, epsilon=1e-05, act=relu, is_train=True",
        ),
        (LocalResponseNormLayer(depth_radius=4), "depth_radius=4, bias=1.0, alpha=1.0, beta=0.5"),
        (InstanceNormLayer(), "epsilon=1e-05, act=identity"),
        (GroupNormLayer(groups=8), "groups=8, epsilon=1e-06, act=identity"),
        (LayerNormLayer(), "begin_norm_axis=1, begin_params_axis=-1, epsilon=1e-12, act=identity"),
    ],
)
def test_layers_say_their_settings(layer, text):
    assert layer.extra_repr() == text
