"""Kill one small run a thousand times at random instants, and compare it with a run that was never stopped.

    python attacks/kill_steps.py                 # 1,000 kills
    python attacks/kill_steps.py --kills 50

The run draws from every generator there is (batch order, dropout, Python, NumPy, one of its own), has batch norm, Adam
and a schedule, and saves after every step. Each time it is killed by SIGKILL, SIGINT or SIGTERM, and a new process goes
on from the checkpoint; SIGINT and SIGTERM must end it with status 130 and 143. In the end weights, optimiser, losses
and all random states must be the undisturbed run's, bit for bit, and no stray file may be left.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kill_resume import equal
from torch import nn

import torchlayer as tl

N_ROWS, BATCH = 160, 16  # ten steps an epoch


def train(path: Path, n_epoch: int, every_seconds: float, pause: float = 0.0) -> None:
    """The run. ``pause`` makes its steps longer than its saves, so that kills fall into both."""
    tl.utils.set_seed(0)
    net = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
    noise, seen = np.random.default_rng(0), {"losses": []}
    x = torch.from_numpy(np.random.RandomState(0).randn(N_ROWS, 4).astype(np.float32))
    parts: Any = {"model": net, "optimizer": optimizer, "scheduler": scheduler, "generators": {"noise": noise}}
    run = tl.Resumable(path, resume=True, every_seconds=every_seconds, extra=seen, keep=2, **parts)
    with run:
        for _ in run.epochs(n_epoch):
            for batch in run.steps(tl.iterate.minibatches(x, batch_size=BATCH, shuffle=True)):
                target = noise.normal() + random.random() + np.random.rand()
                loss = (net(batch) - target).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen["losses"].append(loss.item())
                time.sleep(pause)
            scheduler.step()


def in_child(*args: Any) -> int:
    """Start `train` in a process of its own; its pid."""
    caught = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)  # Python forgets what arrives while it forks
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        return child
    status = 1
    try:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
        train(*args)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except SystemExit as e:
        status = int(e.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def attack(folder: Path, n_kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill and resume, then compare; returns what happened."""
    rng, killed, whole = random.Random(seed), folder / "killed.ckpt", folder / "whole.ckpt"
    torch.set_num_threads(1)  # what fork copies must not hold a pool of threads
    torch.optim.Adam(nn.Linear(1, 1).parameters())  # imports for seconds, which every child would do again
    counts: Counter[str] = Counter()
    numbers = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
    while sum(counts.values()) < n_kills:
        number = rng.choice(numbers)
        child = in_child(killed, 10**6, 0.0, 0.002)
        _wait_for_saves(killed, rng.choice([0, 1, 1, 2, 5]))
        time.sleep(0.02 * rng.random())
        os.kill(child, number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        counts[number.name] += 1
        if number == signal.SIGKILL or status == -number:  # before the run had begun to listen
            expected = -number
        else:
            expected = 128 + number
        if status != expected:
            raise SystemExit(f"{number.name} ended the run with {status}, expected {expected}")
    state = tl.checkpoint.load(killed)
    n_epoch = state["position"]["epoch"] + 1
    for path, every_seconds in ((killed, 0.0), (whole, 1e9)):
        if os.waitpid(in_child(path, n_epoch, every_seconds), 0)[1]:
            raise SystemExit("a run that nobody killed failed")
    a, b = tl.checkpoint.load(whole), tl.checkpoint.load(killed)
    return {
        "kills": dict(counts),
        "epochs": n_epoch,
        "step": state["position"]["n_done"],
        "differences": [key for key in a if not equal(a[key], b[key])],
        "strays": sorted(set(os.listdir(folder)) - {"killed.ckpt", "killed.ckpt.1", "whole.ckpt"}),
    }


def _wait_for_saves(path: Path, n: int) -> None:
    before, deadline = _stamp(path), time.monotonic() + 300
    while n:
        if time.monotonic() > deadline:
            raise SystemExit("the run does not save")
        time.sleep(0.001)
        now = _stamp(path)
        n -= now != before
        before = now


def _stamp(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = attack(Path(folder), args.kills, args.seed)
    print(f"kills: {', '.join(f'{n} {name}' for name, n in found['kills'].items())}; the last one in epoch", end=" ")
    print(f"{found['epochs']} after step {found['step']}")
    print(f"differs from the undisturbed run: {', '.join(found['differences']) or 'nothing'}")
    print(f"stray files: {', '.join(found['strays']) or 'none'}")
    return 1 if found["differences"] or found["strays"] else 0


if __name__ == "__main__":
    sys.exit(main())
