"""The tutorials about pictures: what they compute, and each of them run as a user runs it, on little data."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def load(name):
    path = EXAMPLES / f"tutorial_{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Call a tutorial's main with flags, in an empty folder; returns what it printed. Settings come back after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHLAYER_DATA", raising=False)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark

    def run(module, *flags, device="cpu"):
        monkeypatch.setattr(sys, "argv", [module.__name__, *flags, "--device", device])
        module.main()
        return capsys.readouterr().out

    yield run
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


ON_GPU = (
    "cifar10_tfrecord tutorial",
    "cifar10_tfrecord batch_norm",
    "cifar10_tfrecord fast",
    "mnist_multiplexer",
    "keras",
)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("what", ON_GPU)
def test_steps_are_captured_on_a_gpu(run, what):
    """One that cannot be captured, or waits for the device, warns, which is an error here."""
    name, *model = what.split()
    flags = ("--model", model[0], "--batch-size", "32") if model else ()
    assert "result: " in run(load(name), "--smoke", *flags, device="cuda")


# --- CIFAR-10 ---


@pytest.fixture(scope="module")
def cifar():
    return load("cifar10_tfrecord")


@pytest.fixture
def few(cifar, monkeypatch):
    """Digits as pictures, 120 to train on and 40 to test."""
    smoke = cifar.load

    def load(args):
        X, y, X_test, y_test = smoke(args)
        return X[:120], y[:120], X_test[:40], y_test[:40]

    monkeypatch.setattr(cifar, "load", load)
    return ("--smoke", "--validation", "20", "--batch-size", "50", "--model")


@pytest.mark.parametrize("model", ["tutorial", "batch_norm", "fast"])
def test_cifar10_trains_and_draws(cifar, run, few, model):
    text = run(cifar, *few, model, "--out", "out")
    assert re.search(rf"^result: {model} test_acc=[\d.]+ epochs=2 val_acc=[\d.]+ .*n_test=40$", text, re.MULTILINE)
    names = {f"{model}_{what}.png" for what in ("confusion", "curves", "filters")} | {f"{model}.npz", f"{model}.ckpt"}
    assert names < {p.name for p in Path("out").iterdir()}


def test_cifar10_anneals_its_rate_if_told_to(cifar, run, few, monkeypatch):
    rates, sweep = [], tl.TrainStep.sweep

    def noted(step, *args, **kwargs):
        rates.append(step.optimizer.param_groups[0]["lr"])
        return sweep(step, *args, **kwargs)

    monkeypatch.setattr(tl.TrainStep, "sweep", noted)
    run(cifar, *few, "tutorial", "--lr", "1e-3", "--anneal", "--epochs", "2")
    assert rates == [1e-3, 5e-4]


@pytest.mark.parametrize("model", ["tutorial", "fast"])
def test_cifar10_resumed_ends_as_if_it_had_never_stopped(cifar, run, few, model, monkeypatch):
    for name in ("confusion", "curves", "CNN2d"):
        monkeypatch.setattr(tl.visualize, name, lambda *_, **__: None)
    run(cifar, *few, model, "--out", "whole")
    write = tl.checkpoint.write

    def write_and_stop(*args):
        write(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(tl.checkpoint, "write", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(cifar, *few, model, "--out", "parts", "--checkpoint-seconds", "0")
    monkeypatch.setattr(tl.checkpoint, "write", write)
    run(cifar, *few, model, "--out", "parts", "--resume")
    whole, parts = (tl.files.load_npz_dict(name=f"{folder}/{model}.npz") for folder in ("whole", "parts"))
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


def test_cifar10_network_has_the_originals_parameters_and_penalises_its_two_matrices(cifar):
    net = cifar.build_tutorial()
    counts = {name: p.numel() for name, p in net.named_parameters()}
    assert [counts[f"{name}.W"] + counts[f"{name}.b"] for name in ("cnn_layer1", "cnn_layer2", "relu1", "relu2")] == [
        4_864, 102_464, 885_120, 73_920,
    ]  # fmt: skip
    assert sum(counts.values()) == 1_068_298
    # the original's list of parameters, by whose places its penalty goes wrong in the other network
    assert [tuple(net.all_params[i].shape) for i in (4, 6)] == [(2304, 384), (384, 192)]
    other = cifar.build_batch_norm()
    assert {"relu1.W", "relu2.W"} < set(dict(other.named_parameters()))
    assert tuple(other.all_params[4].shape) == (64,)


def test_cifar10_pictures_are_distorted_in_training_only(cifar):
    x = torch.randint(256, (6, 32, 32, 3), dtype=torch.uint8)
    layer = cifar.DistortLayer()
    first, again = layer(x), layer(x)
    assert first.shape == (6, 24, 24, 3)
    assert not torch.equal(first, again)
    layer.eval()
    middle = x[:, 4:28, 4:28].double()
    mean, std = middle.mean((1, 2, 3), keepdim=True), middle.std((1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(layer(x).double(), (middle - mean) / std, atol=1e-5, rtol=1e-5)


def test_whitened_corners_are_independent(cifar):
    images = torch.randn(40, 8, 8, 3).cumsum(1).cumsum(2)  # neighbours resemble each other
    filters = cifar.whitening(images)
    assert filters.shape == (24, 3, 2, 2)
    out = F.conv2d(images.permute(0, 3, 1, 2), filters[:12]).movedim(1, -1).reshape(-1, 12).double()
    torch.testing.assert_close(out.T @ out / len(out), torch.eye(12, dtype=torch.float64), atol=0.02, rtol=0)
    assert torch.equal(filters[12:], -filters[:12])


def test_first_filters_pass_their_channel_on(cifar):
    W = cifar.passing(torch.empty(8, 3, 3, 3))
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(F.conv2d(x, W, padding=1)[:, :3], x)
    assert W[3:].abs().max() > 0


@pytest.mark.parametrize(("done", "factor"), [(0, 0.2), (0.115, 0.6), (0.23, 1), (0.615, 0.535), (1, 0.07)])
def test_learning_rate_is_a_triangle(cifar, done, factor):
    assert cifar.triangle(done) == pytest.approx(factor)


def test_lookahead_is_a_running_mean(cifar):
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    look, mean, weight = cifar.Lookahead(net, 12), 0.0, 0.0
    for step in range(1, 13):
        with torch.no_grad():
            net.weight += 1
        weight += 1
        look.after(step)
        if step % 5 == 0:
            decay = 0.95**5 * (step / 12) ** 3
            mean = decay * mean + (1 - decay) * weight
            weight = mean
    assert net.weight.item() == pytest.approx(mean)  # after the last step the mean is the network


def test_test_time_augmentation_averages_six_views(cifar):
    seen = []

    def net(x):
        seen.append(x)
        return x.mean((1, 2))

    x = torch.randn(2, 6, 6, 3)
    out = cifar.mirrored_and_shifted(net, x)
    assert len(seen) == 6
    assert torch.equal(seen[0], x)
    assert torch.equal(seen[1], x.flip(2))
    assert torch.equal(seen[2][:, 1:, 1:], x[:, :-1, :-1])  # moved by a pixel
    assert torch.equal(seen[4][:, :-1, :-1], x[:, 1:, 1:])
    weights = [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    torch.testing.assert_close(out, sum(w * view.mean((1, 2)) for w, view in zip(weights, seen)))


def test_records_are_the_originals(cifar, tmp_path):
    images = np.random.RandomState(0).randint(256, size=(3, 32, 32, 3)).astype(np.uint8)
    cifar.write_records(tmp_path / "a", images, np.arange(3))
    record = next(tl.files.read_tfrecord(tmp_path / "a"))
    features = tl.files.decode_example(record)
    assert features["img_raw"] == [images[0].astype("<f4").tobytes()]
    assert len(features["img_raw"][0]) == 12_288
    found, labels = cifar.read_records(tmp_path / "a")
    np.testing.assert_array_equal(found, images)
    assert labels.tolist() == [0, 1, 2]


def test_a_part_of_the_test_images_is_used_and_said_so(cifar, tmp_path, capsys, monkeypatch):
    record = bytes([7]) + bytes(range(256)) * 12
    monkeypatch.setattr(cifar, "N_RECORDS", 10)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(record * 10)
    (tmp_path / "test_batch.first20.bin").write_bytes(record * 20)
    args = type("args", (), {"smoke": False, "data": str(tmp_path)})
    X, _, X_test, y_test = cifar.load(args)
    assert (len(X), X_test.shape, set(y_test.tolist())) == (50, (20, 32, 32, 3), {7})
    assert "the first 20 of the 10,000 test images only" in capsys.readouterr().out
    assert X_test[0, 0, 1].tolist() == [1, 1, 1]  # the second pixel of each plane


# --- TFRecords ---


def test_folders_of_pictures_become_records(run):
    pytest.importorskip("PIL")
    module = load("tfrecord")
    text = run(module, "--smoke", "--out", "out")
    assert re.search(r"^result: tfrecord records=16 classes=2 bytes=\d+$", text, re.MULTILINE)
    assert "8 pictures of disc\n8 pictures of square\n" in text
    assert {"batch0.png", "batch1.png", "batch2.png"} < {p.name for p in Path("out").iterdir()}
    pixels, label = module.decoded(next(tl.files.read_tfrecord("out/train.tfrecords")), 32)
    assert (pixels.shape, label) == ((32, 32, 3), 0)
    record = tl.files.encode_example({"img_raw": b"abc", "label": 0})
    with pytest.raises(tl.files.FileFormatError, match="3 bytes"):
        module.decoded(record, 32)
    Path("empty").mkdir()
    with pytest.raises(SystemExit, match="'empty' has no sub-folders with pictures"):
        run(module, "--data", "empty")


def test_images_are_read_in_any_order(run):
    text = run(load("tfrecord2"), "--smoke", "--out", "out")
    assert re.search(
        r"^result: tfrecord2 records=200 written_a_second=\d+ in_order_a_second=\d+ shuf", text, re.MULTILINE
    )


def test_captions_become_padded_batches(run):
    pytest.importorskip("PIL")
    module = load("tfrecord3")
    text = run(module, "--smoke", "--out", "out")
    assert re.search(r"^result: tfrecord3 records=12 words=\d+ bytes=\d+$", text, re.MULTILINE)
    assert re.search(r"^an? .* on (red|green|blue) \. </S>$", text, re.MULTILINE)
    assert "<UNK>" not in text.partition("inputs:")[2]
    coco = {
        "images": [{"id": 5, "file_name": "0.png"}],
        "annotations": [{"image_id": 5, "caption": "A red bar!"}, {"image_id": 5, "caption": "Red."}],
    }
    Path("captions.json").write_text(json.dumps(coco))
    text = run(module, "--data", "out/pictures", "--captions", "captions.json", "--out", "two", "--batch-size", "2")
    assert "result: tfrecord3 records=2 words=8 " in text
    with pytest.raises(SystemExit, match="--data and --captions belong together"):
        run(module, "--data", "out/pictures")


def test_captions_are_shifted_and_padded_as_the_original_shows():
    captions = [1, 2, 5, 4, 5], [1, 2, 3, 4], [1, 2, 3]
    batch = load("tfrecord3").padded([(np.zeros((1, 1, 3), np.uint8), ids) for ids in captions])
    assert batch.inputs.tolist() == [[1, 2, 5, 4], [1, 2, 3, 0], [1, 2, 0, 0]]
    assert batch.targets.tolist() == [[2, 5, 4, 5], [2, 3, 4, 0], [2, 3, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]


def test_recolouring_keeps_greys_and_luminance():
    module = load("tfrecord3")
    x = torch.rand(5, 4, 4, 3)
    y = module.recoloured(x)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(y @ luma, x @ luma, atol=1e-5, rtol=1e-4)
    assert (y - x).abs().amax((1, 2, 3)).min() > 1e-3  # every image has colours of its own
    grey = torch.rand(5, 4, 4, 1).expand(-1, -1, -1, 3)
    torch.testing.assert_close(module.recoloured(grey), grey, atol=2e-3, rtol=0)  # as far as YIQ's three digits go


# --- networks that others trained ---


def vgg_arrays(module, narrower, size, rng):
    """A file's arrays, as the original's lie: (h, w, in, out) and (in, out)."""
    arrays, n_in = {}, 3
    for i, (n_filter, n) in enumerate(module.BLOCKS, start=1):
        for j in range(1, n + 1):
            n_out = n_filter // narrower
            arrays[f"conv{i}_{j}_W"] = (rng.randn(3, 3, n_in, n_out) * (2 / (9 * n_in)) ** 0.5).astype(np.float32)
            arrays[f"conv{i}_{j}_b"] = (0.1 * rng.randn(n_out)).astype(np.float32)
            n_in = n_out
    n_in *= (size // 32) ** 2
    for name, n_out in (("fc6", 4096 // narrower), ("fc7", 4096 // narrower), ("fc8", 7)):
        arrays[f"{name}_W"] = (rng.randn(n_in, n_out) * (2 / n_in) ** 0.5).astype(np.float32)
        arrays[f"{name}_b"] = (0.1 * rng.randn(n_out)).astype(np.float32)
        n_in = n_out
    return arrays


def vgg_channels_first(module, arrays, x):
    """The same network by hand, in torch's order (N, C, H, W)."""
    for i, (_, n) in enumerate(module.BLOCKS, start=1):
        for j in range(1, n + 1):
            W = torch.tensor(arrays[f"conv{i}_{j}_W"]).permute(3, 2, 0, 1)
            x = F.relu(F.conv2d(x, W, torch.tensor(arrays[f"conv{i}_{j}_b"]), padding=1))
        x = F.max_pool2d(x, 2)
    _, c, h, w = x.shape
    first = torch.tensor(arrays["fc6_W"]).reshape(h, w, c, -1).permute(2, 0, 1, 3).flatten(0, 2)  # rows as (c, h, w)
    x = F.relu(x.flatten(1) @ first + torch.tensor(arrays["fc6_b"]))
    x = F.relu(x @ torch.tensor(arrays["fc7_W"]) + torch.tensor(arrays["fc7_b"]))
    return x @ torch.tensor(arrays["fc8_W"]) + torch.tensor(arrays["fc8_b"])


@pytest.mark.parametrize(("name", "count"), [("vgg16", 138_357_544), ("vgg19", 143_667_240)])
def test_vgg_equals_a_channels_first_network_of_the_same_weights(name, count, tmp_path):
    module, narrower, size = load(name), 32, 64
    arrays = vgg_arrays(module, narrower, size, np.random.RandomState(0))
    shuffled = {key: arrays[key] for key in sorted(arrays, reverse=True)}  # names decide, not places
    np.savez(tmp_path / "w.npz", **shuffled)
    net = module.build(size, n_classes=7, narrower=narrower).eval()
    module.load_weights(net, tmp_path / "w.npz")
    image = torch.rand(2, size, size, 3)
    if name == "vgg16":
        x = 255 * image
        expected = x.permute(0, 3, 1, 2) - torch.tensor([123.68, 116.779, 103.939]).view(3, 1, 1)
    else:
        x = image
        blue_first = 255 * image.permute(0, 3, 1, 2)[:, [2, 1, 0]]
        expected = blue_first - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(net(x), vgg_channels_first(module, arrays, expected), rtol=1e-4, atol=1e-3)
    # the whole network's count, from the shapes of the narrow one's
    sizes, n_in = 0, 3
    for n_filter, n in module.BLOCKS:
        for _ in range(n):
            sizes, n_in = sizes + 9 * n_in * n_filter + n_filter, n_filter
    for n_out, rows in ((4096, 7 * 7 * 512), (4096, 4096), (1000, 4096)):
        sizes += rows * n_out + n_out
    assert sizes == count


def test_vgg_weights_of_another_network_are_refused(tmp_path):
    module = load("vgg16")
    arrays = vgg_arrays(module, 32, 64, np.random.RandomState(0))
    arrays["conv3_2_W"] = arrays["conv3_2_W"].transpose(3, 2, 0, 1)
    del arrays["fc8_b"]
    np.savez(tmp_path / "w.npz", **arrays)
    net = module.build(64, n_classes=7, narrower=32)
    with pytest.raises(ValueError, match=r"missing: fc8.b\. mismatched: conv3_2.W is float \(8, 8, 3, 3\), needed"):
        module.load_weights(net, tmp_path / "w.npz")


@pytest.mark.parametrize(("name", "title"), [("vgg16", "class class"), ("vgg19", "Top5"), ("inceptionV3", "End time")])
def test_trained_networks_run_and_say_where_weights_are(run, name, title, tmp_path):
    module = load(name)
    text = run(module, "--smoke", "--out", "out")
    assert title in text
    assert re.search(rf"^result: {name} top1=\d+ probability=\d\.\d+ seconds=[\d.]+$", text, re.MULTILINE)
    assert [p.name for p in Path("out").iterdir()] == ["random weights.png"]
    with pytest.raises(SystemExit, match=r"no --weights were given: .*--smoke"):
        run(module)
    with pytest.raises(SystemExit, match="there is no file 'nowhere'"):
        run(module, "--weights", "nowhere")


def test_pickled_weights_of_vgg19_are_refused_with_the_cure(tmp_path):
    path = tmp_path / "vgg19.npz"
    np.savez(path, params=np.array({"conv1_1": [1]}, dtype=object))
    with pytest.raises(tl.files.FileFormatError, match="holds pickled objects"):
        load("vgg19").load_weights(torch.nn.Module(), path)


def test_inception_takes_torchvisions_file_and_either_order_of_axes(tmp_path):
    module = load("inceptionV3")
    inner = module.InceptionV3(n_classes=5).eval()
    names = set(inner.state_dict())
    # of torchvision's file, from its documentation and model cards
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_5b.branch3x3dbl_3.bn.running_var",
        "Mixed_6c.branch7x7dbl_5.conv.weight",
    } < names
    assert {"Mixed_7a.branch7x7x3_4.bn.bias", "Mixed_7c.branch3x3_2b.conv.weight", "fc.weight"} < names
    assert (inner.Mixed_5b.n_out, inner.Mixed_7c.n_out) == (256, 2048)
    state = {
        key: (v + 0.1 * torch.rand_like(v)) * (1 + 0.2 * torch.rand_like(v)) if v.dim() == 1 else v
        for key, v in inner.state_dict().items()
    }
    torch.save({**state, "AuxLogits.fc.weight": torch.ones(1)}, tmp_path / "w.pth")
    module.load_weights(inner, tmp_path / "w.pth")
    net = module.build(inner, size=75).eval()
    x = torch.rand(1, 75, 75, 3)
    with torch.no_grad():
        expected = inner(2 * x.permute(0, 3, 1, 2) - 1)
        torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(net.state_dict()["InceptionV3.module.fc.weight"], state["fc.weight"])


# --- blocks and switches ---


def test_a_block_of_torch_trains(run):
    text = run(load("keras"), "--smoke", "--out", "out")
    assert re.search(r"^result: torch test_loss=[\d.]+ test_acc=[\d.]+$", text, re.MULTILINE)
    again = run(load("keras"), "--smoke", "--out", "out", "--resume")
    assert again.splitlines()[-1] == text.splitlines()[-1]


def test_a_missing_keras_is_named_with_its_cure(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(SystemExit, match="pip install keras"):
        run(load("keras"), "--smoke", "--block", "keras")


def test_a_block_of_keras_trains(run, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras", reason="pip install keras")
    assert "result: keras test_loss=" in run(load("keras"), "--smoke", "--block", "keras", "--out", "out")


def test_the_multiplexer_trains_both_branches(run):
    text = run(load("mnist_multiplexer"), "--smoke", "--out", "out")
    assert re.search(r"^result: multiplexer test_acc_0=\d\.\d+ test_acc_1=\d\.\d+$", text, re.MULTILINE)


def test_a_route_trains_its_own_branch_only():
    module = load("mnist_multiplexer")
    net = module.build(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    routes = [module.Route(net, sel) for sel in (0, 1)]
    steps = [tl.TrainStep(route, optimizer, tl.cost.cross_entropy) for route in routes]
    x, y = torch.rand(4, 784), torch.tensor([0, 1, 2, 3])
    for trained, other in ((0, 1), (1, 0)):
        before = {key: value.clone() for key, value in net.state_dict().items()}
        steps[trained](x, y)
        changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
        assert {key.partition("_")[0] for key in changed} == {f"net{trained}", "output"}
        assert not any(key.startswith(f"net{other}") for key in changed)
