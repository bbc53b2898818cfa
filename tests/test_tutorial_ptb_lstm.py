"""The language model's script: what it computes, beside a loop written by hand, and what it leaves."""

import math
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchlayer as tl

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_ptb_lstm.py"


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="imported"))


@pytest.fixture
def tiny(script):
    """A model of 30 words that drops nothing; its clip and rate are high, so that each of them shows."""
    return script.Config(size=8, num_steps=5, n_epoch=1, lr=2.0, clip=0.5, init_scale=0.3)


def run(*flags, cwd):
    command = [sys.executable, "-W", "error", SCRIPT, *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(("name", "n_params"), [("small", 4_651_600), ("medium", 19_775_200), ("large", 66_022_000)])
def test_models_have_the_originals_number_of_parameters(name, n_params, script):
    with torch.device("meta"):
        parts = script.build(script.MODELS[name], 10_000)
    assert sum(p.numel() for part in parts for p in part.parameters()) == n_params


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_all_begins_uniform_but_the_cells_biases(name, script):
    config = script.MODELS[name]._replace(size=64)
    net, softmax = script.build(config, 500)
    cells = net.basic_lstm_layer.cells
    uniform = [net.embedding_layer.embeddings, softmax.weight, softmax.bias]
    uniform += [w for cell in cells for w in (cell.weight_ih, cell.weight_hh)]
    for weight in uniform:
        assert 0.95 * config.init_scale < weight.abs().max() <= config.init_scale
        assert weight.std().item() == pytest.approx(config.init_scale / math.sqrt(3), rel=0.1)
    for cell in cells:
        assert not cell.bias_ih.any()
        assert not cell.bias_hh.any()  # where a forget bias would be


@pytest.mark.parametrize(
    ("name", "n_full", "then", "last"),
    [("small", 5, 0.5, 0.00390625), ("medium", 7, 0.8, 0.000792), ("large", 15, 1 / 1.15, 0.003733)],
)
def test_rates_are_the_originals(name, n_full, then, last, script):
    config = script.MODELS[name]
    rates = [script.rate(config, epoch) for epoch in range(config.n_epoch)]
    assert rates[: n_full + 1] == [1.0] * n_full + [then]
    assert rates[-1] == pytest.approx(last, rel=1e-3)


def by_hand(net, softmax, config, ids, batch_size):
    """The same epoch with nn.LSTM: the summed loss over the batch, one clip for all, plain descent."""
    lstm = nn.LSTM(config.size, config.size, 2, batch_first=True)
    for i, cell in enumerate(net.basic_lstm_layer.cells):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(lstm, f"{kind}_l{i}").data = getattr(cell, kind).detach().clone()
        getattr(lstm, f"bias_hh_l{i}").requires_grad_(False)
    table, w, b = (p.detach().clone() for p in (net.embedding_layer.embeddings, softmax.weight, softmax.bias))
    trained = [table, w, b, *lstm.parameters()]
    trained = [p.requires_grad_() for p in trained if p is not lstm.bias_hh_l0 and p is not lstm.bias_hh_l1]
    rows, state, total = ids[: len(ids) // batch_size * batch_size].view(batch_size, -1), None, 0.0
    n_windows = (rows.shape[1] - 1) // config.num_steps
    for i in range(n_windows):
        x = rows[:, i * config.num_steps : (i + 1) * config.num_steps]
        y = rows[:, i * config.num_steps + 1 : (i + 1) * config.num_steps + 1]
        hidden, state = lstm(F.embedding(x, table), state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(F.linear(hidden, w, b).flatten(0, 1), y.flatten(), reduction="sum")
        total += loss.item()
        grads = torch.autograd.grad(loss / batch_size, trained)
        norm = torch.sqrt(sum(g.square().sum() for g in grads))
        with torch.no_grad():
            for p, g in zip(trained, grads):
                p -= config.lr * g * config.clip / torch.clamp(norm, min=config.clip)
    return table, lstm.weight_hh_l1, w, b, math.exp(total / (n_windows * batch_size * config.num_steps))


def test_an_epoch_is_that_of_a_loop_written_by_hand(script, tiny):
    torch.manual_seed(0)
    ids, batch_size = torch.randint(30, (403,)), 4
    net, softmax = script.build(tiny, 30)
    *weights, expected = by_hand(net, softmax, tiny, ids, batch_size)
    carry, cost = tl.Carry(net), script.Cost(softmax, tiny, "cpu")
    optimizer = torch.optim.SGD([*net.parameters(), *softmax.parameters()], lr=tiny.lr)
    step = tl.TrainStep(carry, optimizer, cost, clip_norm=tiny.clip)
    batches, run = script.launches(ids, batch_size, tiny, torch.Generator()), tl.Resumable(None)
    perplexity, _ = script.run_epoch(step, run, carry, cost, batches, batch_size, 400, tiny.num_steps)
    assert perplexity == pytest.approx(expected, rel=1e-5)
    ours = net.embedding_layer.embeddings, net.basic_lstm_layer.cells[1].weight_hh, softmax.weight, softmax.bias
    for got, want in zip(ours, weights):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "num_steps", "n_words"), [(1, 1, 402), (4, 7, 4 * 98)])
def test_perplexity_counts_the_words_that_the_original_counts(batch_size, num_steps, n_words, script, tiny):
    torch.manual_seed(0)
    ids = torch.randint(30, (403,))
    net, softmax = script.build(tiny._replace(keep=0.5), 30)
    cost = script.Cost(softmax, tiny, "cpu")
    length = len(ids) // batch_size
    rows = ids[: length * batch_size].view(batch_size, length)
    n = n_words // batch_size
    logits = F.linear(net.eval()(rows[:, :n]), softmax.weight, softmax.bias)
    expected = F.cross_entropy(logits, rows[:, 1 : n + 1].flatten()).exp().item()
    net.train()
    assert script.perplexity(net, cost, ids, batch_size, num_steps) == pytest.approx(expected, rel=1e-5)
    assert net.training


def test_perplexity_is_the_same_however_it_is_cut(script, tiny):
    ids = torch.randint(30, (9001,))  # one window of 8000 and what remains
    net, softmax = script.build(tiny, 30)
    logits = F.linear(net(ids[None, :-1]), softmax.weight, softmax.bias)
    cost = script.Cost(softmax, tiny, "cpu")
    assert script.perplexity(net, cost, ids) == pytest.approx(F.cross_entropy(logits, ids[1:]).exp().item(), rel=1e-5)


def test_a_tied_model_has_one_table_and_the_mean_of_all_words(script):
    net, softmax = script.build(script.MODELS["tied"]._replace(size=8), 30)
    assert softmax.weight is net.embedding_layer.embeddings
    assert not softmax.bias.any()
    cost = script.Cost(softmax, script.MODELS["tied"], "cpu")
    x, y = torch.randint(30, (2, 3, 5))
    hidden = net.eval()(x)
    expected = F.cross_entropy(F.linear(hidden, softmax.weight, softmax.bias), y.flatten())
    torch.testing.assert_close(cost(hidden, y), expected)


def test_the_best_weights_come_back(script):
    weight = nn.Parameter(torch.ones(3))
    best = script.Best([weight])
    best.keep()
    weight.data.fill_(7)
    best.put_back()
    assert weight.tolist() == [1, 1, 1]


@pytest.fixture
def awd(script):
    return script.MODELS["awd"]._replace(size=8, hidden=12)


def test_awd_has_the_papers_size_and_ties_its_softmax(script):
    with torch.device("meta"):
        net, softmax = script.build(script.MODELS["awd"], 10_000)
    params = dict.fromkeys([*net.parameters(), *softmax.parameters()])
    cells = 4 * (1150 * (400 + 1150) + 1150 * (1150 + 1150) + 400 * (1150 + 400) + 1150 + 1150 + 400)
    assert sum(p.numel() for p in params) == 10_000 * 400 + 10_000 + cells  # 24 million
    assert softmax.weight is net.embedding_layer.embeddings


def test_awd_pays_for_large_outputs_and_large_steps_but_its_perplexity_does_not(script, awd):
    net, softmax = script.build(awd, 30)
    cost, y = script.Cost(softmax, awd, "cpu"), torch.randint(30, (3, 5))
    whole, dropped = net(torch.randint(30, (3, 5)))
    assert not torch.equal(whole, dropped)
    loss = cost((whole, dropped), y)
    word = F.cross_entropy(F.linear(dropped.flatten(0, 1), softmax.weight, softmax.bias), y.flatten())
    steps = whole.diff(dim=1)
    expected = word + 2 * (dropped * dropped).mean() + (steps * steps).mean()
    torch.testing.assert_close(loss, expected)
    assert cost.perplexity(15) == pytest.approx(word.exp().item())
    net.eval()
    assert torch.equal(*net(y))


def test_awd_reads_each_word_once_in_windows_of_few_lengths(script, awd):
    ids, batch_size = torch.arange(20 * 3000 + 7), 20
    batches = [*script.launches(ids, batch_size, awd, torch.Generator().manual_seed(0))]
    again = [*script.launches(ids, batch_size, awd, torch.Generator().manual_seed(0))]
    assert all(map(torch.equal, *zip(*[(x, z) for (x, _), (z, _) in zip(batches, again)])))
    read = torch.cat([x.view(-1, batch_size, x.shape[1]).transpose(0, 1).flatten(1) for x, _ in batches], 1)
    assert torch.equal(read, ids[:60_000].view(20, 3000)[:, : read.shape[1]])
    assert all(torch.equal(x + 1, y) for x, y in batches)
    assert read.shape[1] >= 3000 - 80
    many = [shape for seed in range(300) for shape in shapes(script, ids, awd, seed)]
    lengths = {length for _, length in many}
    assert lengths == {35, 60, 65, 70, 75, 80}
    assert {n for n, _ in many} == {batch_size, script.BLOCK * batch_size}  # so a capture has twelve kinds at most
    assert 0.01 < sum(length == 35 for _, length in many) / len(many) < 0.12
    assert sum(length == 70 for _, length in many) > 0.25 * len(many)


def shapes(script, ids, config, seed):
    return [tuple(x.shape) for x, _ in script.launches(ids, 20, config, torch.Generator().manual_seed(seed))]


def test_a_longer_window_takes_a_longer_step(script, tiny):
    net, softmax = script.build(tiny, 30)
    cost, rates = script.Cost(softmax, tiny, "cpu"), []
    optimizer = torch.optim.SGD([*net.parameters(), *softmax.parameters()], lr=2.0)
    optimizer.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
    step = tl.TrainStep(tl.Carry(net), optimizer, cost)
    batches = [(torch.zeros(4, n, dtype=torch.int64),) * 2 for n in (5, 10, 4)]
    script.run_epoch(step, tl.Resumable(None), step.network, cost, batches, 4, 76, 5)
    assert rates == pytest.approx([2.0, 4.0, 1.6])
    assert optimizer.param_groups[0]["lr"] == 2.0


@pytest.fixture
def run_here(script, monkeypatch, tmp_path, capsys):
    """Runs the script in this process, which spares the imports, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def run(*flags):
        monkeypatch.setattr(sys, "argv", [SCRIPT.name, *flags])
        script.main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])
    torch.backends.cudnn.allow_tf32 = before[2]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals are those of POSIX")
def test_killed_in_the_middle_of_an_epoch_it_goes_on_bit_for_bit(run_here, tmp_path):
    flags = ("--smoke", "--model", "medium", "--batch-size", "10", "--device", "cpu")
    whole = run_here(*flags, "--out", "whole")
    saving = (*flags, "--out", "killed", "--checkpoint-seconds", "0")
    checkpoint = tmp_path / "killed" / "medium.ckpt"
    process = subprocess.Popen([sys.executable, SCRIPT, *saving], cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    position = tl.checkpoint.load(checkpoint)["position"]
    assert position["n_done"] > 0 or position["epoch"] > 0
    resumed = run(*saving, "--resume", cwd=tmp_path)
    assert resumed.stdout.splitlines()[-1].rpartition(" ")[0] == whole.splitlines()[-1].rpartition(" ")[0]
    a, b = ((tmp_path / folder / "medium.npz").read_bytes() for folder in ("whole", "killed"))
    assert a == b


@pytest.mark.parametrize(("model", "n_epochs"), [("tied", 2), ("awd", 4)])
def test_runs_and_goes_on_as_if_it_had_not_stopped(model, n_epochs, run_here, tmp_path):
    flags = ("--smoke", "--model", model, "--device", "cpu", "--epochs", str(n_epochs))
    line = run_here(*flags, "--out", "whole").splitlines()[-1]
    result = rf"result: {model} test_perplexity=\S+ valid_perplexity=\S+ epochs={n_epochs} seconds=\S+"
    assert re.fullmatch(result, line)
    names = {f"{model}.npz", f"{model}.ckpt", f"{model}_curves.png"}
    assert {p.name for p in (tmp_path / "whole").iterdir()} == names
    for epoch in range(1, n_epochs):
        part = run_here(*flags, "--out", "parts", "--minutes", "0", "--resume")
        assert f" epochs={epoch} " in part.splitlines()[-1]
    last = run_here(*flags, "--out", "parts", "--resume")
    assert f"Epoch: 1/{n_epochs}" not in last
    assert last.splitlines()[-1].rpartition(" ")[0] == line.rpartition(" ")[0]
    averaged = tl.checkpoint.load(tmp_path / "parts" / f"{model}.ckpt")["average"]["n_updates"]
    assert (averaged > 1) == (model == "awd")  # begun after its third epoch


def test_the_result_is_that_of_a_model_which_has_learnt(run_here):
    text = run_here("--smoke", "--device", "cpu")
    epochs = [float(p) for p in re.findall(r"Train Perplexity: (\S+)", text)]
    assert epochs[1] < 0.8 * epochs[0] < 800  # of 1000 words


def test_a_text_too_short_for_a_window_is_refused(tmp_path):
    for part, n in (("train", 400), ("valid", 100), ("test", 100)):
        (tmp_path / f"ptb.{part}.txt").write_text(" a b c\n" * n)
    done = run("--data", ".", "--batch-size", "50", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "the validation text has 400 words, and a window of 50 x 20 words and their next ones takes 1050" in done.stderr
    )
    assert "give a longer text or a smaller --batch-size" in done.stderr
