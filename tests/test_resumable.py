"""Loops that stop anywhere and go on there, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchlayer as tl
from torchlayer.files import FileFormatError

ROOT = Path(tl.__file__).parents[1]
ATTACKS = ROOT / "attacks"


class Stop(Exception):
    """Ends a run as a kill does: nothing is saved any more."""


class Loop:
    """A run that draws from the global generators and from one of its own."""

    def __init__(self, path: Path | None, resume: bool = True, every_seconds: float = 0.0, batch: int = 4):
        torch.manual_seed(1)
        np.random.seed(1)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.noise, self.seen, self.batch = np.random.default_rng(1), {"rows": [], "losses": []}, batch
        parts: Any = {"model": self.net, "optimizer": self.optimizer, "generators": {"noise": self.noise}}
        self.run = tl.Resumable(path, resume=resume, every_seconds=every_seconds, extra=self.seen, **parts)

    def train(self, n_epoch: int, stop_after: int | None = None, then: Any = Stop) -> Loop:
        x, n = torch.arange(60.0).view(20, 3) / 60, 0
        with self.run:
            for _ in self.run.epochs(n_epoch):
                for rows in self.run.steps(
                    tl.iterate.minibatches(torch.arange(20), batch_size=self.batch, shuffle=True)
                ):
                    loss = (self.net(x[rows]) - self.noise.normal() - np.random.rand()).square().mean()
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                    self.seen["rows"].append(rows.tolist())
                    self.seen["losses"].append(loss.item())
                    n += 1
                    if n == stop_after:
                        if then is Stop:
                            raise Stop
                        os.kill(os.getpid(), then)
        return self

    def state(self) -> Any:
        weights = [p.tolist() for p in self.net.parameters()]
        return weights, self.seen, self.run.epoch, torch.get_rng_state().tolist(), self.noise.bit_generator.state


@pytest.fixture(scope="module")
def whole():
    return Loop(None).train(3).state()


@pytest.mark.parametrize("stop_after", range(1, 15))
def test_a_run_killed_after_any_step_goes_on_bit_for_bit(tmp_path, whole, stop_after):
    with pytest.raises(Stop):
        Loop(tmp_path / "a.ckpt").train(3, stop_after)
    again = Loop(tmp_path / "a.ckpt")
    n_done = stop_after - 1  # the step in which it was stopped had not ended
    assert (again.run.epoch, len(again.seen["rows"])) == (n_done // 5, n_done)
    assert again.train(3).state() == whole


def test_a_run_killed_again_and_again_goes_on_bit_for_bit(tmp_path, whole):
    for stop_after in (2, 1, 2, 3, 2, 4):
        with pytest.raises(Stop):
            Loop(tmp_path / "a.ckpt").train(3, stop_after)
    assert Loop(tmp_path / "a.ckpt").train(3).state() == whole


def test_saving_does_not_disturb_the_run_and_a_finished_one_stays_finished(tmp_path, whole):
    assert Loop(tmp_path / "a.ckpt").train(3).state() == whole
    assert Loop(tmp_path / "a.ckpt").train(3).state() == whole


def test_a_run_may_be_made_longer(tmp_path, whole):
    Loop(tmp_path / "a.ckpt").train(2)
    assert Loop(tmp_path / "a.ckpt").train(3).state() == whole


def test_without_resume_it_begins_anew(tmp_path, whole):
    Loop(tmp_path / "a.ckpt").train(2)
    assert Loop(tmp_path / "a.ckpt", resume=False).train(3).state() == whole


def test_it_saves_by_the_clock_and_at_the_end(tmp_path):
    with pytest.raises(Stop):
        Loop(tmp_path / "a.ckpt", every_seconds=3600).train(3, 14)
    assert os.listdir(tmp_path) == []
    Loop(tmp_path / "a.ckpt", every_seconds=3600).train(3)
    assert tl.checkpoint.load(tmp_path / "a.ckpt")["position"]["epoch"] == 3


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
@pytest.mark.parametrize("stop_after", [3, 5])  # within an epoch, and behind its last step
def test_a_signal_waits_for_the_step_and_loses_nothing(tmp_path, whole, number, error, stop_after):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(error) as left:
        Loop(tmp_path / "a.ckpt", every_seconds=3600).train(3, stop_after, number)
    if number == signal.SIGTERM:
        assert left.value.code == 143
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = Loop(tmp_path / "a.ckpt")
    assert len(again.seen["rows"]) == stop_after
    assert again.train(3).state() == whole


def test_a_second_interrupt_stops_at_once():
    def interrupted_twice():
        with tl.Resumable(None):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("still running")

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()


def test_what_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with tl.Resumable(None):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_runs_in_a_thread(whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(Loop(None).train(1).run.epoch))
    thread.start()
    thread.join()
    assert found == [1]


def counted(path: Path, n: int, stop_after: int | None = None, **options: Any) -> list[float]:
    """A loop without epochs."""
    torch.manual_seed(0)
    run = tl.Resumable(path, resume=True, extra={"drawn": []}, **options)
    with run:
        for i in range(run.position or 0, n):
            run.extra["drawn"].append(torch.rand(()).item())
            run.tick(i + 1)
            if i + 1 == stop_after:
                raise Stop
        run.save(n)
    return run.extra["drawn"]


def test_a_loop_without_epochs_goes_on_too(tmp_path):
    whole = counted(tmp_path / "whole", 6, every_seconds=3600)
    with pytest.raises(Stop):
        counted(tmp_path / "a", 6, 4, every_seconds=0)
    assert counted(tmp_path / "a", 6, every_seconds=0) == whole
    assert counted(tmp_path / "a", 6) == whole


def test_stop_ends_with_a_checkpoint(tmp_path):
    run = tl.Resumable(tmp_path / "a.ckpt")
    for _ in run.epochs(5):
        run.stop()
    assert tl.Resumable(tmp_path / "a.ckpt", resume=True).epoch == 1


def test_an_older_checkpoint_is_gone_on_from_when_the_newest_is_damaged(tmp_path):
    for n in (1, 2):
        run = tl.Resumable(tmp_path / "a.ckpt", resume=True, keep=2)
        assert list(run.epochs(n)) == [n]
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match="going on from the older"):
        assert tl.Resumable(tmp_path / "a.ckpt", resume=True, keep=2).epoch == 1
    (tmp_path / "a.ckpt").unlink()
    with pytest.warns(UserWarning, match="going on from the older"):
        assert tl.Resumable(tmp_path / "a.ckpt", resume=True, keep=2).epoch == 1


def in_the_middle(path: Path) -> None:
    with pytest.raises(Stop):
        Loop(path).train(2, 4)


def other_batch(path: Path) -> None:
    Loop(path, batch=10).train(2)


def no_steps(path: Path) -> None:
    for _ in Loop(path).run.epochs(2):
        pass


def saved_within(path: Path) -> None:
    for _ in Loop(path).run.epochs(2):
        Loop(path).run.save()


MISUSED = [
    (
        other_batch,
        ValueError,
        r"written after 3 steps of epoch 1, which has 2 now; go on with the data and the batch size",
    ),
    (no_steps, RuntimeError, r"after 3 steps of epoch 1, and this time that epoch ended without a call of steps"),
    (saved_within, RuntimeError, r"within epochs\(\) a run saves itself"),
]


@pytest.mark.parametrize(("use", "error", "text"), MISUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_loop_that_is_not_the_one_that_was_saved_is_refused(tmp_path, use, error, text):
    in_the_middle(tmp_path / "a.ckpt")
    with pytest.raises(error, match=text):
        use(tmp_path / "a.ckpt")


def test_checkpoints_of_others_and_damaged_ones_are_refused(tmp_path):
    tl.checkpoint.save(tmp_path / "a.ckpt", position=3)
    with pytest.raises(ValueError, match=r"was not written by a Resumable; take it up with checkpoint\.restore"):
        tl.Resumable(tmp_path / "a.ckpt", resume=True)
    (tmp_path / "a.ckpt").write_bytes(b"hello")
    with pytest.raises(FileFormatError, match="not a checkpoint"):
        tl.Resumable(tmp_path / "a.ckpt", resume=True)


def test_fit_saves_in_the_middle_of_an_epoch(tmp_path):
    """And goes on from there, bit for bit."""
    x, y = torch.randn(8 * 70, 4), torch.randint(2, (8 * 70,))

    def run(stop_after: int | None = None, **options: Any) -> list[Any]:
        torch.manual_seed(3)
        net, n_calls = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)), 0

        def cost(outputs, targets):
            nonlocal n_calls
            n_calls += 1
            if n_calls == stop_after:
                raise Stop
            return tl.cost.cross_entropy(outputs, targets)

        optimizer = torch.optim.Adam(net.parameters())
        settings: Any = {"batch_size": 8, "n_epoch": 2, "eval_train": False, "verbose": False, "print_freq": 9}
        tl.utils.fit(net, optimizer, cost, x, y, **settings, **options)
        return [p.tolist() for p in net.parameters()]

    whole, path = run(), tmp_path / "a.ckpt"
    with pytest.raises(Stop):
        run(70 + 60, checkpoint=path, checkpoint_seconds=0)
    position = tl.checkpoint.load(path)["position"]
    assert position["epoch"] == 1
    assert 0 < position["n_done"] < 70
    assert run(checkpoint=path, checkpoint_seconds=0, resume=True) == whole


@pytest.mark.parametrize("rng", [None, 5])
def test_pretraining_goes_on_in_the_middle_of_an_epoch(tmp_path, rng, monkeypatch):
    x = np.random.RandomState(0).rand(40, 6).astype(np.float32)

    def run(stop_after: int | None = None, **options: Any) -> list[Any]:
        torch.manual_seed(3)
        net = tl.layers.DenseLayer(tl.layers.InputLayer((None, 6), name="x"), n_units=4, name="encoder")
        recon: Any = tl.layers.ReconLayer(net, n_units=6, name="recon")
        n_calls, step = 0, tl.TrainStep.__call__

        def counted(self, *args):
            nonlocal n_calls
            n_calls += 1
            if n_calls == stop_after:
                raise Stop
            return step(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(tl.TrainStep, "__call__", counted)
            recon.pretrain(x, x, n_epoch=3, batch_size=8, save=False, rng=rng, **options)
        return [p.tolist() for p in recon.parameters()]

    whole, path = run(), tmp_path / "a.ckpt"
    with pytest.raises(Stop):
        run(9, checkpoint=path, checkpoint_seconds=0)
    assert run(checkpoint=path, checkpoint_seconds=0, resume=True) == whole


def test_restoring_keeps_the_groups_that_a_training_step_holds(tmp_path):
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    tl.checkpoint.save(tmp_path / "a.ckpt", optimizer=optimizer)
    group = optimizer.param_groups[0]
    group["lr"] = 0.25
    tl.checkpoint.restore(tl.checkpoint.load(tmp_path / "a.ckpt"), optimizer=optimizer)
    assert optimizer.param_groups[0] is group
    assert group["lr"] == 0.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_random_instants_goes_on_bit_for_bit(tmp_path):
    """A small number of what attacks/kill_steps.py does a thousand times."""
    code = (
        f"import json, pathlib, sys; sys.path.insert(0, {str(ATTACKS)!r}); import kill_steps\n"
        f"print(json.dumps(kill_steps.attack(pathlib.Path({str(tmp_path)!r}), 8)))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) == 8
    assert (found["differences"], found["strays"]) == ([], [])
