import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl
from torchlayer.utils.data import chunk_steps

L = tl.layers


def problem(n=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 8, generator=generator)
    return X, (X[:, :3].argmax(1))


def mlp(keep=1.0):
    torch.manual_seed(0)
    net = L.DenseLayer(L.InputLayer((None, 8), name="x"), n_units=32, act=torch.relu, name="hidden")
    return L.DenseLayer(L.DropoutLayer(net, keep=keep, name="drop"), n_units=3, name="out")


def fit(net, X, y, optimizer=None, **args):
    optimizer = optimizer or torch.optim.Adam(net.parameters(), lr=1e-2)
    settings = {"acc": tl.utils.accuracy, "batch_size": 32, "n_epoch": 5, "verbose": False, "rng": 1} | args
    return tl.utils.fit(net, optimizer, tl.cost.cross_entropy, X, y, **settings)


def test_it_learns_and_prints_the_originals_lines(capsys):
    X, y = problem()
    history = fit(mlp(), X, y, X_val=X[:100], y_val=y[:100], n_epoch=12, print_freq=5, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Start training the network ..."
    assert re.fullmatch(r"Epoch 1 of 12 took \d+\.\d{6}s", lines[1])
    assert [line.split(":")[0] for line in lines[2:6]] == ["   train loss", "   train acc", "   val loss", "   val acc"]
    assert lines[-1].startswith("Total training time: ")
    assert history["epoch"] == [1, 5, 10, 12]
    assert set(history) == {"epoch", "seconds", "train_loss", "train_acc", "val_loss", "val_acc"}
    assert history["val_acc"][-1] > 0.9 > history["val_acc"][0]


def test_without_measurements_it_prints_the_loss_on_one_line(capsys):
    X, y = problem()
    history = fit(mlp(), X, y, acc=None, eval_train=False, n_epoch=1, verbose=True)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("Epoch 1 of 1 took")
    assert line.endswith(f"s, loss {history['train_loss'][0]:f}")


def test_it_equals_a_loop_by_hand():
    X, y = problem(100)
    net, other = mlp(), mlp()
    history = fit(net, X, y, acc=None, eval_train=False, n_epoch=3, print_freq=1, rng=7)
    optimizer, generator = torch.optim.Adam(other.parameters(), lr=1e-2, fused=True), torch.Generator().manual_seed(7)
    for epoch in range(3):
        losses = []
        for rows in torch.randperm(100, generator=generator)[:96].split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(other(X[rows]), y[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        assert history["train_loss"][epoch] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-6)
    torch.testing.assert_close(net.out.W, other.out.W)


def test_arrays_and_several_metrics_are_taken():
    X, y = problem()
    metrics = {"acc": tl.utils.accuracy, "confidence": lambda o, t: o.softmax(1).amax(1).mean()}
    history = fit(mlp(), X.numpy(), y.numpy().astype(np.int32), acc=metrics, n_epoch=1)
    assert set(history) == {"epoch", "seconds", "train_loss", "train_acc", "train_confidence"}


def test_measurements_cover_every_example():
    X, y = problem(101)
    history = fit(mlp(), X, y, n_epoch=1, optimizer=None)
    assert (history["train_acc"][0] * 101) == pytest.approx(round(history["train_acc"][0] * 101), abs=1e-4)


def test_the_callers_mode_and_random_stream_are_left_alone():
    X, y = problem()
    net = mlp()
    net.drop.eval()
    state = torch.get_rng_state()
    tl.utils.test(net, tl.utils.accuracy, X, y)
    assert not net.drop.training
    assert net.training
    assert torch.equal(state, torch.get_rng_state())


def test_layers_in_eval_stay_there_and_a_network_is_left_as_it_was():
    X, y = problem()
    net = mlp(keep=0.5)
    seen = []
    net.drop.register_forward_hook(lambda m, i, o: seen.append(m.training))
    net.drop.eval()
    fit(net, X, y, n_epoch=2)
    assert not any(seen)
    net.eval()
    fit(net, X, y, n_epoch=2)
    assert any(seen)
    assert not net.training
    assert not net.drop.training


def test_patience_stops_and_the_best_weights_come_back():
    X, y = problem(64)
    X_val, y_val = problem(500, seed=5)
    net = mlp()
    history = fit(
        net, X, y, X_val=X_val, y_val=y_val, n_epoch=500, print_freq=1, patience=4, restore_best=True, batch_size=16
    )
    best = max(history["val_acc"])
    assert len(history["epoch"]) < 500
    assert history["val_acc"].index(best) == len(history["val_acc"]) - 5
    found = tl.utils.test(net, tl.utils.accuracy, X_val, y_val)[1]
    assert found == pytest.approx(best)


def test_a_schedule_is_stepped_every_epoch():
    X, y = problem()
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    fit(net, X, y, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), n_epoch=3)
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_a_stopped_run_resumes_bit_for_bit(tmp_path):
    X, y = problem()
    path = tmp_path / "run.ckpt"

    def run(n_epoch, **args):
        net = mlp(keep=0.7)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        torch.manual_seed(3)
        history = fit(
            net, X, y, optimizer, X_val=X[:50], y_val=y[:50], n_epoch=n_epoch, print_freq=2, scheduler=schedule, **args
        )
        return net.state_dict(), {name: values for name, values in history.items() if name != "seconds"}

    whole, whole_history = run(8)
    run(4, checkpoint=path)
    torch.manual_seed(99)
    resumed, resumed_history = run(8, checkpoint=path, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert resumed_history == whole_history


@pytest.mark.parametrize("n_stop", [1, 7])
def test_an_interrupt_in_the_middle_of_an_epoch_loses_nothing(tmp_path, n_stop):
    X, y = problem(128 * 40)
    path = tmp_path / "run.ckpt"

    def run(stop_after=None, **args):
        net = mlp(keep=0.7)
        torch.manual_seed(3)
        calls = []

        def cost(output, target):
            calls.append(1)
            if len(calls) == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
            return tl.cost.cross_entropy(output, target)

        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        data = {"batch_size": 32, "n_epoch": 2, "eval_train": False, "rng": 1, "verbose": False, "checkpoint": path}
        tl.utils.fit(net, optimizer, cost, X, y, **data, **args)
        return net.state_dict()

    whole = run()
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(stop_after=160 + n_stop)
    resumed = run(resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interrupt_leaves_the_best_weights_in_the_network(capsys):
    X, y = problem(64)
    X_val, y_val = problem(500, seed=5)
    net = mlp()
    calls = []

    def cost(output, target):
        calls.append(1)
        if len(calls) == 300:
            os.kill(os.getpid(), signal.SIGINT)
        return tl.cost.cross_entropy(output, target) * (1 if len(calls) < 200 else -1)  # unlearn at the end

    best = []

    def acc(output, target):
        best.append(float(tl.utils.accuracy(output, target)))
        return torch.tensor(best[-1])

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tl.utils.fit(
            net, torch.optim.Adam(net.parameters(), lr=1e-2), cost, X, y, acc=acc, X_val=X_val, y_val=y_val,
            batch_size=16, n_epoch=500, print_freq=1, eval_train=False,
        )  # fmt: skip
    assert float(tl.utils.accuracy(net.eval()(X_val), y_val)) == pytest.approx(max(best), abs=1e-6)
    assert "the network holds its best weights so far" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_killed_script_writes_its_checkpoint_and_exits_as_the_signal_demands(tmp_path, number):
    script = f"""
        import os, torch, torchlayer as tl
        calls = []
        def cost(output, target):
            calls.append(1)
            if len(calls) == 10:
                os.kill(os.getpid(), {int(number)})
            return tl.cost.mean_squared_error(output, target)
        net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 2)), n_units=1)
        X = torch.randn(640, 2)
        tl.utils.fit(net, torch.optim.SGD(net.parameters(), lr=0.01), cost, X, X[:, :1],
                     batch_size=4, n_epoch=1000, checkpoint={str(tmp_path / "run.ckpt")!r}, verbose=False)
    """
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    if number == signal.SIGTERM:
        assert done.returncode == 143, done.stderr
    else:
        assert done.returncode != 0
        assert done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert tl.checkpoint.load(tmp_path / "run.ckpt")["position"]["n_done"] > 0


def test_it_runs_in_a_thread():
    X, y = problem()
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(mlp(), X, y, n_epoch=1)))
    thread.start()
    thread.join()
    assert found


def test_a_diverging_run_keeps_its_best_weights():
    X, y = problem()
    net = mlp()
    calls = []

    def cost(output, target):
        calls.append(1)
        return tl.cost.cross_entropy(output, target) * (1.0 if len(calls) < 20 else float("nan"))

    with pytest.raises(FloatingPointError, match="the training loss became nan in epoch 3; lower the learning rate"):
        tl.utils.fit(
            net, torch.optim.Adam(net.parameters(), lr=1e-2), cost, X, y, batch_size=32, X_val=X, y_val=y,
            print_freq=1, eval_train=False, verbose=False,
        )  # fmt: skip
    assert all(torch.isfinite(p).all() for p in net.parameters())


X64, Y64 = problem(64)
NAN = X64.clone()
NAN[17, 3] = float("nan")
WRONG = [
    ({"X": NAN}, ValueError, r"X_train holds NaN or infinity in 1 row\(s\), the first is row 17"),
    ({"X_val": NAN, "y_val": Y64}, ValueError, "X_val holds NaN or infinity"),
    ({"X": X64[:0], "y": Y64[:0]}, ValueError, "X_train and y_train need as many rows and at least one, got 0 and 0"),
    ({"y": Y64[:60]}, ValueError, "need as many rows and at least one, got 64 and 60"),
    ({"batch_size": 65}, ValueError, "batch_size=65 does not fit the 64 training examples"),
    ({"batch_size": 0}, ValueError, "batch_size=0 does not fit"),
    ({"X_val": X64}, ValueError, "X_val and y_val go together"),
    ({"X_val": X64[:0], "y_val": Y64[:0]}, ValueError, "X_val and y_val need as many rows and at least one"),
    ({"patience": 3}, ValueError, "patience needs validation data"),
    ({"rng": "seed"}, TypeError, "rng is None, a seed or a torch.Generator, got str"),
    ({"X": "digits"}, TypeError, "X_train is an array or a tensor of numbers, got str"),
    ({"X": X64[:, :5]}, ValueError, r"input 'x' is declared as \(None, 8\), got \(32, 5\)"),
]


@pytest.mark.parametrize(("change", "error", "text"), WRONG, ids=[text[:40] for *_, text in WRONG])
def test_wrong_input_is_named_before_anything_is_trained(change, error, text):
    net = mlp()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    args = {"X": X64, "y": Y64} | change
    with pytest.raises(error, match=text):
        fit(net, args.pop("X"), args.pop("y"), **args)
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())


def test_chunks_are_of_one_size_as_far_as_possible():
    row = torch.zeros(10, 784)
    assert chunk_steps(390, 128, row) == 30
    assert chunk_steps(5, 128, row) == 5
    assert chunk_steps(100, 100_000, torch.zeros(2, 3000)) == 1


def test_testing_and_predicting(capsys):
    X, y = problem(101)
    net = mlp()
    with torch.no_grad():
        logits = net.eval()(X)
    loss, acc = tl.utils.test(net, tl.utils.accuracy, X, y, batch_size=10, cost=tl.cost.cross_entropy)
    assert loss == pytest.approx(float(F.cross_entropy(logits, y)), abs=1e-5)
    assert acc == pytest.approx(float((logits.argmax(1) == y).float().mean()), abs=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Start testing the network ...", f"   test loss: {loss:f}", f"   test acc: {acc:f}"]
    assert tl.utils.test(net, None, X, y, cost=tl.cost.cross_entropy)[1] is None
    np.testing.assert_array_equal(tl.utils.predict(net, X.numpy(), lambda o: o.argmax(1), 7), logits.argmax(1).numpy())
    with pytest.raises(ValueError, match="as many targets as examples and at least one, got 0 and 0"):
        tl.utils.test(net, tl.utils.accuracy, X[:0], y[:0])


def test_missing_tensorboard_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        fit(mlp(), X64, Y64, tensorboard=True)


def test_tensorboard_gets_scalars_when_measured_and_histograms_when_due(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, log_dir):
            assert log_dir == str(tmp_path)

        def add_scalar(self, name, value, epoch):
            written.append((name, epoch))

        def add_histogram(self, name, values, epoch):
            written.append((name, epoch))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    net = mlp()
    before = net.out.W.detach().clone()
    fit(net, X64, Y64, n_epoch=4, print_freq=3, tensorboard=True, tensorboard_epoch_freq=2, log_dir=tmp_path)
    assert [epoch for name, epoch in written[:-1] if name == "train/acc"] == [1, 3, 4]
    assert [epoch for name, epoch in written[:-1] if name == "out.W"] == [2, 4]
    assert written[-1] == "closed"
    assert not torch.equal(before, net.out.W)
