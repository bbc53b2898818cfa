"""What single layers compute, against independent formulas and TensorFlow's outputs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.layers.padding import same_padding

L = tl.layers
REFERENCE = Path(__file__).parent / "reference"


def load(stem):
    data = np.load(REFERENCE / f"{stem}.npz")
    return {key: data[key] for key in data.files if key != "about"}, json.loads(str(data["about"]))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution_agrees_with_tensorflow(stride, padding):
    data, _ = load(f"conv2d_s{stride}_{padding}")
    x, w = torch.tensor(data["x"]), torch.tensor(data["w"])
    layer = L.Conv2dLayer(
        shape=w.shape, strides=[1, stride, stride, 1], padding=padding, W_init=w.permute(3, 2, 0, 1), b_init=None
    )
    torch.testing.assert_close(layer(x), torch.tensor(data["y"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("stem", "pool"), [("maxpool2d", "max"), ("avgpool2d", "mean")])
def test_pooling_agrees_with_tensorflow(stem, pool, stride, padding):
    data, about = load(f"{stem}_s{stride}_{padding}")
    layer = L.PoolLayer(ksize=[1, *about["ksize"], 1], strides=[1, stride, stride, 1], padding=padding, pool=pool)
    torch.testing.assert_close(layer(torch.tensor(data["x"])), torch.tensor(data["y"]), rtol=1e-5, atol=1e-5)


A = torch.arange(20.0).view(1, 4, 5, 1)
ONE_TO_SIX = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
VECTORS = [  # outputs of the original
    ("conv SAME", L.Conv2dLayer, {"shape": [2, 3, 1, 1], "strides": [1, 2, 2, 1], "W_init": ONE_TO_SIX}, A,
     [[64, 121, 88], [224, 331, 208]]),
    ("conv VALID", L.Conv2dLayer,
     {"shape": [2, 3, 1, 1], "strides": [1, 2, 2, 1], "W_init": ONE_TO_SIX, "padding": "VALID"}, A,
     [[100, 142], [310, 352]]),
    ("max", L.PoolLayer, {"ksize": [1, 3, 3, 1], "strides": [1, 2, 2, 1]}, -torch.arange(16.0).view(1, 4, 4, 1),
     [[0, -2], [-8, -10]]),
    ("mean", L.PoolLayer, {"ksize": [1, 3, 3, 1], "strides": [1, 2, 2, 1], "pool": "mean"},
     torch.arange(16.0).view(1, 4, 4, 1), [[5, 6.5], [11, 12.5]]),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "args", "x", "expected"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_vectors_of_the_original(cls, args, x, expected):
    torch.testing.assert_close(cls(**args)(x)[0, :, :, 0], torch.tensor(expected, dtype=torch.float32))


def windows(x, k, s, padding, fill):
    """Every window of a 1-channel image by plain indexing: the slow, obvious definition of SAME and VALID."""
    out = []
    sizes = [math.ceil(n / s) if padding == "SAME" else math.ceil((n - k + 1) / s) for n in x.shape]
    starts = [same_padding(n, k, s)[0] if padding == "SAME" else 0 for n in x.shape]
    for i in range(sizes[0]):
        row = []
        for j in range(sizes[1]):
            cells = [
                x[a][b].item() if 0 <= a < x.shape[0] and 0 <= b < x.shape[1] else fill
                for a in range(i * s - starts[0], i * s - starts[0] + k)
                for b in range(j * s - starts[1], j * s - starts[1] + k)
            ]
            row.append(cells)
        out.append(row)
    return out


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(4, 5), (5, 4), (6, 6), (7, 9)])
@pytest.mark.parametrize(("k", "s"), [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 3), (2, 3), (1, 2)])
def test_every_window_is_where_tensorflow_puts_it(size, k, s, padding):
    x = torch.randn(size)
    image = x[None, :, :, None]
    ones = {"ksize": [1, k, k, 1], "strides": [1, s, s, 1], "padding": padding}
    filled = windows(x, k, s, padding, None)
    highest = [[max(c for c in cells if c is not None) for cells in row] for row in filled]
    mean = [[(lambda v: sum(v) / len(v))([c for c in cells if c is not None]) for cells in row] for row in filled]
    total = [[sum(c for c in cells if c is not None) for cells in row] for row in filled]
    conv = L.Conv2dLayer(
        shape=[k, k, 1, 1], strides=[1, s, s, 1], padding=padding, W_init=torch.nn.init.ones_, b_init=None
    )
    for layer, expected in [
        (L.PoolLayer(**ones), highest), (L.PoolLayer(**ones, pool="mean"), mean), (conv, total)
    ]:  # fmt: skip
        torch.testing.assert_close(layer(image)[0, :, :, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_pooling_works_over_one_and_three_axes():
    x = torch.randn(2, 6, 4)
    y = L.PoolLayer(ksize=[1, 2, 1], strides=[1, 2, 1])(x)
    torch.testing.assert_close(y, x.view(2, 3, 2, 4).amax(2))
    x = torch.randn(2, 4, 4, 4, 3)
    y = L.PoolLayer(ksize=[1, 2, 2, 2, 1], strides=[1, 2, 2, 2, 1], pool="mean")(x)
    torch.testing.assert_close(y, x.view(2, 2, 2, 2, 2, 2, 2, 3).mean((2, 4, 6)))


def test_pooling_by_any_function():
    def smallest(x, ksize, strides, padding):
        assert (ksize, strides, padding) == ([1, 2, 2, 1], [1, 2, 2, 1], "SAME")
        return x.amin((1, 2), keepdim=True)

    assert L.PoolLayer(pool=smallest)(torch.ones(1, 4, 4, 2)).shape == (1, 1, 1, 2)


def test_convolution_reads_and_writes_channels_last_memory():
    layer = L.Conv2d(n_filter=4, filter_size=3)
    y = layer(torch.randn(2, 8, 8, 3))
    assert layer.W.is_contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous()


def test_dense_is_a_matrix_product():
    layer, x = L.DenseLayer(n_units=3, act=torch.tanh, b_init=tl.initializers.constant(0.5)), torch.randn(4, 5)
    torch.testing.assert_close(layer(x), torch.tanh(x @ layer.W + 0.5))
    assert tuple(layer.W.shape) == (5, 3)


@pytest.mark.parametrize("b_init", [None, False, 0])
@pytest.mark.parametrize("cls", [L.DenseLayer, L.DropconnectDenseLayer])
def test_no_bias_when_asked_for_none(cls, b_init):
    layer = cls(n_units=3, b_init=b_init)
    layer(torch.zeros(1, 2))
    assert list(layer.state_dict()) == ["W"]


def test_default_weights_are_a_normal_truncated_at_two_deviations():
    torch.manual_seed(0)
    net = L.DenseLayer(L.InputLayer((None, 400)), n_units=400, name="d")
    assert net.d.W.abs().max() <= 0.2
    assert abs(float(net.d.W.detach().std()) - 0.0880) < 1e-3
    assert not net.d.b.any()


def test_initialisers_take_recipes_values_and_arguments():
    layer = L.DenseLayer(n_units=2, W_init=torch.nn.init.uniform_, W_init_args={"a": 3.0, "b": 4.0}, b_init=[1.0, 2.0])
    layer(torch.zeros(1, 50))
    assert layer.W.min() >= 3
    assert layer.b.tolist() == [1.0, 2.0]


def test_dropout_keeps_the_expected_share_and_scale():
    torch.manual_seed(0)
    y = L.DropoutLayer(keep=0.8)(torch.ones(100_000))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert abs(float(y.mean()) - 1) < 0.01
    assert torch.equal(L.DropoutLayer(keep=0.8, is_train=False)(torch.ones(10)), torch.ones(10))


def test_dropconnect_drops_weights_once_a_batch_and_never_the_bias():
    torch.manual_seed(0)
    layer = L.DropconnectDenseLayer(keep=0.5, n_units=1000, W_init=torch.nn.init.ones_, b_init=[3.0] * 1000)
    y = layer(torch.eye(2))
    assert set(y.unique().tolist()) == {3.0, 5.0}
    assert torch.equal(*layer(torch.ones(2, 2)))
    torch.testing.assert_close(layer.eval()(torch.eye(2)), torch.full((2, 1000), 4.0))


def test_noise_has_the_mean_and_width_asked_for():
    torch.manual_seed(0)
    layer, x = L.GaussianNoiseLayer(mean=2.0, stddev=3.0), torch.zeros(100_000)
    y = layer(x)
    assert abs(float(y.mean()) - 2) < 0.05
    assert abs(float(y.std()) - 3) < 0.05
    assert layer.eval()(x) is x


def test_flatten_follows_height_width_channel_order():
    x = torch.arange(24.0).view(1, 2, 3, 4)
    assert L.FlattenLayer()(x).tolist() == [list(range(24))]


def test_torch_layer_passes_flat_results_through():
    net = L.TorchLayer(
        L.InputLayer((None, 8, 8, 3)), torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten()), True
    )
    assert net.outputs.shape == (None, 2 * 6 * 6)


# Reconstruction ------------------------------------------------------------------


def sine_filled(net):
    """Every trainable scalar in creation order set to 0.3 sin(0.7 k), as the original's vectors were made."""
    k = 0
    with torch.no_grad():
        for p in net.parameters():
            n = p.numel()
            p.copy_((0.3 * torch.sin(0.7 * torch.arange(k, k + n, dtype=torch.float64))).view(p.shape))
            k += n
    return net


@pytest.mark.parametrize(
    ("act", "cost", "first_row"),
    [
        (F.softplus, 0.338685, [0.660166, 0.621104, 0.61548]),
        (torch.sigmoid, 1.883744, [0.483235, 0.462649, 0.459618]),
        (torch.nn.Sigmoid(), 1.883744, [0.483235, 0.462649, 0.459618]),
    ],
)
def test_reconstruction_cost_equals_the_originals(act, cost, first_row):
    x = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    net = L.DenseLayer(L.InputLayer((None, 3), name="x"), n_units=2, act=torch.sigmoid, name="code")
    net = sine_filled(L.ReconLayer(net, n_units=3, act=act, name="recon"))
    assert float(net.cost(x).detach()) == pytest.approx(cost, abs=2e-6)
    assert net(x)[0].detach().tolist() == pytest.approx(first_row, abs=2e-6)


def test_reconstruction_trains_the_pair_and_nothing_else():
    x = L.InputLayer((None, 16), name="x")
    low = L.DenseLayer(L.DropoutLayer(x, keep=0.5, name="noise"), n_units=8, act=torch.relu, name="low")
    high = L.DenseLayer(L.DropoutLayer(low, keep=0.5, name="drop"), n_units=4, act=torch.relu, name="high")
    net = L.ReconLayer(high, x_recon=low, n_units=8, name="recon")
    assert [id(p) for p in net.train_params] == [id(p) for p in (net.high.W, net.high.b, net.recon.W, net.recon.b)]
    before = {name: p.clone() for name, p in net.state_dict().items()}
    data = torch.rand(64, 16)
    net.drop.eval()
    net.pretrain(data, data, denoise_name="noise", n_epoch=2, batch_size=16, save=False)
    changed = {name for name, p in net.state_dict().items() if not torch.equal(p, before[name])}
    assert changed == {"high.W", "high.b", "recon.W", "recon.b"}
    assert net.training
    assert net.noise.training
    assert not net.drop.training  # every layer is back in the mode it was in
    assert net.low.W.grad is None


def test_pretraining_lowers_the_cost_prints_and_saves(tmp_path, capsys):
    torch.manual_seed(0)
    x = L.InputLayer((None, 16), name="x")
    net = L.DenseLayer(L.DropoutLayer(x, keep=0.5, name="denoising1"), n_units=8, act=torch.relu, name="relu1")
    net = L.ReconLayer(net, n_units=16, name="recon_layer1", lr=1e-2)
    data = torch.rand(256, 16)
    net.pretrain(data, data[:50], "denoising1", n_epoch=20, batch_size=32, save_name=str(tmp_path / "w1pre_"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "     [*] recon_layer1 start pretrain",
        "     batch_size: 32",
        "     denoising layer keep: 0.500000",
    ]
    losses = [float(line.split()[-1]) for line in lines if line.startswith("   val loss")]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    assert {p.name for p in tmp_path.iterdir()} == {f"w1pre_{n}.{end}" for n in (1, 10, 20) for end in ("npz", "pdf")}
    saved = tl.files.load_npz(str(tmp_path), "w1pre_20.npz")
    np.testing.assert_array_equal(saved[0], net.relu1.W.detach().numpy())


def test_a_dead_unit_does_not_make_the_cost_infinite():
    net = L.DenseLayer(L.InputLayer((None, 4), name="x"), n_units=2, act=torch.relu, b_init=[-9.0, -9.0], name="code")
    net = L.ReconLayer(net, n_units=4, act=torch.sigmoid, name="recon")
    assert torch.isfinite(net.cost(torch.rand(3, 4)))


def test_pretraining_names_the_layers_it_knows():
    net = L.ReconLayer(L.DenseLayer(L.InputLayer((None, 4)), n_units=2, name="code"), n_units=4, name="recon")
    with pytest.raises(
        ValueError, match=r"denoise_name='noise' is no layer of this network; it has \['code', 'recon'\]"
    ):
        net.pretrain(torch.zeros(9, 4), torch.zeros(9, 4), denoise_name="noise")


def test_reconstruction_needs_a_dense_encoder():
    with pytest.raises(ValueError, match="through the DenseLayer it is stacked on, but 'drop' is none"):
        L.ReconLayer(L.DropoutLayer(L.InputLayer((None, 4)), name="drop"), n_units=4, name="recon")
