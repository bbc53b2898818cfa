"""Pong's script: what it computes beside the page's own lines, going on after a kill, and environments that break."""

import argparse
import itertools
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import torchlayer as tl

SCRIPT = Path(__file__).parent.parent / "examples" / "tutorial_atari_pong.py"
SMOKE = ("--smoke", "--checkpoint-seconds", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="imported"))


@pytest.fixture
def args():
    names = {"env": "catch", "model": "fast", "n_envs": 4, "n_steps": 16, "device": "cpu", "seed": 0, "timeout": 60.0}
    rules = {"lr": None, "batch_size": None, "precision": "fp32", "sticky": 0.0, "frame_skip": 4, "width": 1}
    return argparse.Namespace(**names, **rules)


@pytest.fixture
def run(script, tmp_path, monkeypatch, capsys):
    """``run(*flags)`` as from the command line, in this process; what it sets for all of torch is put back."""
    n_threads, precision, tf32 = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, flags)])
        script.main()
        return capsys.readouterr()

    yield call
    torch.set_num_threads(n_threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32


# What it computes ----------------------------------------------------------------


def prepro(picture):
    """The page's own lines."""
    picture = picture[35:195]
    picture = picture[::2, ::2, 0]
    picture[picture == 144] = 0
    picture[picture == 109] = 0
    picture[picture != 0] = 1
    return picture.astype(float).ravel()


def test_bitmaps_of_the_grey_screen_are_the_pages_of_the_coloured_one(script):
    vector_env = pytest.importorskip("ale_py.vector_env", reason="needs ale-py: pip install torchlayer[rl]")
    size = {"img_height": 210, "img_width": 160, "stack_num": 1, "maxpool": False}
    size |= {"use_fire_reset": False, "noop_max": 0}  # so that the very first picture is seen, which has 109 in it
    grey, colour = (vector_env.AtariVectorEnv("pong", 2, grayscale=how, **size) for how in (True, False))
    screens = [(grey.reset(seed=3)[0], colour.reset(seed=3)[0])]
    draw = np.random.default_rng(0)
    for _ in range(150):
        actions = draw.integers(1, 4, 2)
        screens.append((grey.step(actions)[0], colour.step(actions)[0]))
    values = set()
    for ours, theirs in screens:
        bitmaps = script.bitmap(torch.from_numpy(ours))
        assert bitmaps.dtype == torch.int8
        for n in range(2):
            values |= set(np.unique(theirs[n, 0, 35:195:2, ::2, 0]))
            np.testing.assert_array_equal(bitmaps[n].flatten(), prepro(theirs[n, 0].copy()))
    assert values >= {144, 109, 92, 213, 236}  # both backgrounds, both bats, the ball
    grey.close()
    colour.close()


def test_the_pages_network_has_its_size(script, args):
    args.env, args.model = "pong", "tensorlayer"
    script_globals = script.Page.__init__.__globals__
    before = script_globals["rollout"]
    script_globals["rollout"] = lambda *_: SimpleNamespace(n_envs=4)
    try:
        page = script.Page(args)
    finally:
        script_globals["rollout"] = before
    assert sum(p.numel() for p in page.net.parameters()) == 1_280_803
    assert 0.086 < page.net.relu1.W.std() < 0.09  # a truncated normal of 0.1
    assert type(page.optimizer) is tl.optim.TensorFlowRMSprop
    assert (page.optimizer.defaults["lr"], page.optimizer.defaults["decay"]) == (1e-4, 0.99)


def test_the_pages_update_is_its_formula(script, args):
    args.model = "tensorlayer"
    page = script.Page(args)
    draw = np.random.default_rng(0)
    frames, choices = draw.integers(-1, 2, (5000, 400)).astype(np.int8), draw.integers(3, size=5000)
    rewards = np.where(draw.random(5000) < 0.03, draw.choice([-1.0, 1.0], 5000), 0.0)
    rewards[-1] = 1.0
    weights = [p.detach().double().clone().requires_grad_() for p in page.net.parameters()]
    worth, running = np.zeros(5000), 0.0
    for t in reversed(range(5000)):
        running = rewards[t] if rewards[t] else running * 0.99
        worth[t] = running
    worth = (worth - worth.mean()) / worth.std()
    w1, b1, w2, b2 = weights
    logits = torch.relu(torch.as_tensor(frames).double() @ w1 + b1) @ w2 + b2
    loss = (F.cross_entropy(logits, torch.as_tensor(choices), reduction="none") * torch.as_tensor(worth)).sum()
    loss.backward()
    expected = [w - 1e-4 * w.grad / (0.99 + 0.01 * w.grad**2 + 1e-10).sqrt() for w in weights]
    page.learn(torch.as_tensor(frames), torch.as_tensor(choices), torch.as_tensor(rewards).float())
    for ours, theirs in zip(page.net.parameters(), expected):
        torch.testing.assert_close(ours.detach().double(), theirs.detach(), rtol=1e-4, atol=1e-7)
    page.rollout.close()


def test_a_batch_is_ten_whole_episodes(script, args):
    args.model, args.n_steps, learnt = "tensorlayer", 64, []
    page = script.Page(args)
    page.learn = lambda *columns: learnt.append(columns)
    for _ in range(9):  # 576 steps of 4 games: 3 episodes of 190 each, and their resets
        page.advance()
    assert [[len(column) for column in columns] for columns in learnt] == [[1900] * 3]
    assert all((rewards != 0).sum() == 100 for *_, rewards in learnt)
    assert len(page.episodes.ended) == 2
    page.rollout.close()


def test_the_first_batch_of_an_update_starts_at_the_policy_that_played(script, args):
    """Its ratios are 1: the policy loss is minus the mean advantage, and nothing has moved yet."""
    fast, kept = script.Fast(args), {}

    def sweep(columns, batch_size):
        kept["loss"] = fast.loss(*columns)
        kept["columns"] = columns
        return torch.zeros(1)

    fast.train = SimpleNamespace(sweep=sweep)
    before = {name: buffer.clone() for name, buffer in fast.agent.inputs.named_buffers()}
    steps, _ = fast.advance()
    for name, buffer in fast.agent.inputs.named_buffers():
        assert not torch.equal(buffer, before[name])  # it goes on learning what screens look like
        buffer.copy_(before[name])
    rows, choice, old, gains, *_, mask = kept["columns"]
    assert sorted(rows.tolist()) == sorted([*range(64)] * 4)  # four passes
    seen = steps.observations.flatten(0, 1)[rows]
    logits, _ = fast.agent(seen)
    new = logits.log_softmax(-1).gather(1, choice[:, None])[:, 0]
    torch.testing.assert_close(new, old)
    assert gains[mask].mean().abs() < 1e-5
    assert gains[mask].std() == pytest.approx(1, rel=0.02)
    fast.rollout.close()


def test_rate_and_entropy_fall_with_what_is_left_and_a_width_doubles_the_network(script, args):
    sizes = {}
    for args.width in (1, 2):
        fast = script.Fast(args)
        sizes[args.width] = [len(p) for name, p in fast.agent.network.named_parameters() if "hidden" in name]
        fast.advance(left=0.1)
        assert float(fast.loss.spread) == pytest.approx(0.1 * script.ENTROPY)
        assert fast.optimizer.param_groups[0]["lr"] <= 1.001 * 0.01 * script.HIGHEST
        fast.advance(left=0.0)
        assert float(fast.loss.spread) == 0
        assert fast.optimizer.param_groups[0]["lr"] == script.LOWEST
        fast.rollout.close()
    assert sizes[2][-1] == 2 * sizes[1][-1] == 512


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("env", ["catch", "pong"])
def test_on_a_gpu_the_whole_update_is_one_captured_sweep(env, script, args):
    if env == "pong":
        pytest.importorskip("ale_py", reason="needs ale-py: pip install torchlayer[rl]")
    args.device, args.env = "cuda", env
    fast = script.Fast(args)  # what could not be captured would warn, and a warning fails the suite
    before = [p.detach().clone() for p in fast.agent.parameters()]
    for _ in range(6):
        fast.advance()
    assert len(fast.train._recordings) == 1
    assert all(p.isfinite().all() and not torch.equal(p, old) for p, old in zip(fast.agent.parameters(), before))
    fast.rollout.close()


# Running it ----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fast", "tensorlayer"])
def test_it_runs_evaluates_draws_and_films(model, run, tmp_path):
    text = run(*SMOKE, "--model", model, "--render", "--out", "out").out
    assert "evaluation: 4 whole games of 10 balls of Catch, which is ours and not Atari's; fresh seeds\n" in text
    pattern = rf"^result: catch_{model} n_episodes=8 n_steps=2040 seconds=\S+ running_mean=-\S+ mean=-\S+ drawn_return="
    assert re.search(pattern, text, re.MULTILINE)
    stem = f"catch_{model}"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{stem}.ckpt", f"{stem}_curve.png", f"{stem}.gif"}
    if model == "tensorlayer":  # the page's lines
        won = r"^episode \d+: game 0 took \d+\.\d{5}s, reward: -?1\.000000( !!!!!!!!)?$"
        ended = r"^resetting env. episode reward total was -\d\.0{6}. running mean: -\d\.\d{6}$"
        assert re.search(won, text, re.MULTILINE)
        assert re.search(ended, text, re.MULTILINE)


def states(path):
    """All that makes a run what it is; seconds differ, and nobody draws from the global generators."""
    state = tl.checkpoint.load(path)
    extra = {key: value for key, value in state["extra"].items() if key not in ("seconds", "history")}
    return {key: state[key] for key in state if key not in ("about", "extra", "random")} | {"extra": extra}


def assert_same(ours, theirs, where=""):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for i, pair in enumerate(zip(ours, theirs)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(ours.nan_to_num(7e7), theirs.nan_to_num(7e7)), where
    else:
        assert ours == theirs or (ours != ours and theirs != theirs), where


@pytest.mark.parametrize("model", ["fast", "tensorlayer"])
def test_a_run_in_two_pieces_is_the_run_in_one(model, run):
    """Optimiser, counters, generators, running statistics and the games themselves, bit for bit."""
    flags = (*SMOKE, "--model", model, "--batch-size", 128 if model == "fast" else 5, "--games", 0)
    run(*flags, "--epochs", 2, "--out", "pieces")
    run(*flags, "--epochs", 4, "--out", "pieces", "--resume")
    run(*flags, "--epochs", 4, "--out", "whole")
    pieces, whole = (states(f"{out}/catch_{model}.ckpt") for out in ("pieces", "whole"))
    assert whole["extra"]["n_updates"] == 4
    assert_same(pieces, whole)


def test_a_killed_run_ends_as_if_it_had_not_been(run, tmp_path):
    flags = (*SMOKE, "--n-steps", 100, "--games", 0)
    checkpoint = tmp_path / "killed" / "catch_fast.ckpt"
    command = [sys.executable, str(SCRIPT), *map(str, flags), "--epochs", "4", "--out", "killed"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as running:
        until = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL, "it was over before it was killed"
    assert tl.checkpoint.load(checkpoint)["extra"]["n_updates"] < 4
    run(*flags, "--epochs", 4, "--out", "killed", "--resume")
    run(*flags, "--epochs", 4, "--out", "whole")
    assert_same(states(checkpoint), states(tmp_path / "whole" / "catch_fast.ckpt"))


def test_ctrl_c_leaves_a_checkpoint(run, script, monkeypatch, capsys):
    step, count = script.Catch.step, itertools.count(1)

    def interrupted(self, actions):
        if next(count) == 200:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, actions)

    monkeypatch.setattr(script.Catch, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*SMOKE, "--out", "out")
    assert "Interrupted; checkpoint written to out/catch_fast.ckpt" in capsys.readouterr().out
    assert tl.checkpoint.load("out/catch_fast.ckpt")["extra"]["n_updates"] == 3


# What breaks ---------------------------------------------------------------------

KEPT = "the last checkpoint is kept in out/catch_fast.ckpt, and --resume goes on from there"


@pytest.mark.parametrize(
    ("hangs", "after", "text"),
    [
        (False, 250, f"environment 'catch' raised OSError in call 251: the screen is black; {KEPT}"),
        (True, 250, f"environment 'catch' has not answered call 251 for 1 seconds; {KEPT}"),
        (False, 5, "environment 'catch' raised OSError in call 6: the screen is black; no checkpoint was saved yet"),
    ],
    ids=["raises", "hangs", "at once"],
)
def test_a_broken_game_stops_the_run_and_keeps_the_checkpoint(hangs, after, text, run, script, monkeypatch):
    step, count, released = script.Catch.step, itertools.count(1), threading.Event()

    def broken(self, actions):
        if next(count) == after:
            if not hangs:
                raise OSError("the screen is black")
            released.wait()
        return step(self, actions)

    monkeypatch.setattr(script.Catch, "step", broken)
    with pytest.raises(SystemExit) as stopped:
        run(*SMOKE, "--out", "out", *(("--timeout", 1) if hangs else ()))
    released.set()
    assert str(stopped.value) == text
    if after > 100:
        assert tl.checkpoint.load("out/catch_fast.ckpt")["extra"]["n_updates"] == 2


def test_without_the_emulator_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py.vector_env", None)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(SystemExit, match=r"^Pong needs the emulator: pip install torchlayer\[rl\]; --env catch needs"):
        run("--env", "pong", "--epochs", 1)


def test_pong_itself_runs_and_goes_on(run):
    pytest.importorskip("ale_py", reason="needs ale-py: pip install torchlayer[rl]")
    flags = ("--n-envs", 2, "--n-steps", 16, "--games", 0, "--device", "cpu", "--out", "out")
    run(*flags, "--epochs", 2)
    text = run(*flags, "--epochs", 3, "--resume", "--render").out
    assert "going on after 2 updates, 64 steps\n" in text
    assert "384 frames were played" in text
    assert Path("out/pong_fast.gif").read_bytes()[:3] == b"GIF"
