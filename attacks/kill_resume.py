"""Kill every example at random steps, let it go on, and compare it with a run that was never stopped.

    python attacks/kill_resume.py                        # every row, three kills each by SIGKILL
    python attacks/kill_resume.py ptb_small --kills 10 --signal TERM

A run is killed, resumed and killed again, as often as asked; then it goes on to its end. Its weights (the bytes of the
.npz) and its last checkpoint (network, optimiser, history, position, every random generator) must be those of the run
that was left alone. Each kill waits for a random number of checkpoints, one of which is written after every step, and
then a random moment more, so that it falls into steps, saves and measurements. SIGINT and SIGTERM must end the run
with status 130 and 143.

An example is a line in EXAMPLES. It must take --smoke, --out, --resume and --checkpoint-seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchlayer import checkpoint

ROOT = Path(__file__).resolve().parent.parent


class Example(NamedTuple):
    script: str
    flags: tuple[str, ...] = ()
    saves: int = 6  # a kill comes after so many checkpoints at most


EXAMPLES = {
    "mnist_simple": Example("tutorial_mnist_simple.py", (), 3),
    "mnist_mlp": Example("tutorial_mnist.py", ("--model", "mlp")),
    "mnist_dropconnect": Example("tutorial_mnist.py", ("--model", "dropconnect")),
    "mnist_denoise_ae": Example("tutorial_mnist.py", ("--model", "denoise_ae")),
    "mnist_stacked": Example("tutorial_mnist.py", ("--model", "stacked_denoise_ae"), 15),
    "mnist_cnn": Example("tutorial_mnist.py", ("--model", "cnn")),
    "custom_op": Example("tutorial_custom_op.py"),
    "word2vec_one": Example("tutorial_word2vec_basic.py", ("--model", "one"), 1),
    "word2vec_fast": Example("tutorial_word2vec_basic.py", ("--model", "fast"), 2),
    "ptb_small": Example("tutorial_ptb_lstm.py", ("--model", "small", "--batch-size", "5"), 4),
    "ptb_medium": Example("tutorial_ptb_lstm.py", ("--model", "medium", "--batch-size", "5"), 3),
    "ptb_tied": Example("tutorial_ptb_lstm.py", ("--model", "tied", "--batch-size", "5"), 3),
    "cartpole": Example("tutorial_cartpole.py", (), 1),
    "cifar10_tutorial": Example("tutorial_cifar10_tfrecord.py", ("--batch-size", "8"), 1),
    "cifar10_batch_norm": Example("tutorial_cifar10_tfrecord.py", ("--batch-size", "8", "--model", "batch_norm"), 1),
    "cifar10_fast": Example("tutorial_cifar10_tfrecord.py", ("--batch-size", "64", "--model", "fast"), 4),
    "text_original": Example("tutorial_generate_text.py", (), 4),
    "text_long": Example("tutorial_generate_text.py", ("--model", "long", "--batch-size", "2"), 5),
    "translate_numbers": Example("tutorial_translate.py", ("--batch-size", "500")),
    "translate_tensorlayer": Example("tutorial_translate.py", ("--model", "tensorlayer"), 1),
    "catch_fast": Example("tutorial_atari_pong.py", ("--model", "fast"), 1),
    "catch_tensorlayer": Example("tutorial_atari_pong.py", ("--model", "tensorlayer", "--batch-size", "2"), 1),
    "distributed": Example("tutorial_distributed.py", (), 1),
    "multiplexer": Example("tutorial_mnist_multiplexer.py", (), 6),
    "keras": Example("tutorial_keras.py", (), 6),
    "dynamic_rnn": Example("tutorial_dynamic_rnn.py", (), 9),
}


class Kill(NamedTuple):
    where: str  # in the run, as its last checkpoint says
    status: int


class Result(NamedTuple):
    kills: list[Kill]
    differences: list[str]


def check(example: Example, folder: Path, n_kills: int, number: int = signal.SIGKILL, seed: int = 0) -> Result:
    """Run an example twice in ``folder``, once undisturbed and once killed ``n_kills`` times; say what differs."""
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    if _start(example, whole, folder).wait() != 0:
        raise SystemExit(f"{example.script} fails undisturbed:\n{_log(folder)}")
    kills: list[Kill] = []
    for _ in range(n_kills):
        process = _start(example, killed, folder, "--checkpoint-seconds", "0", "--resume")
        if not _wait_for_saves(process, killed, rng.randint(1, example.saves)):
            break  # it came to its end before
        time.sleep(rng.choice([0, 0.05, 0.5]) * rng.random())
        process.send_signal(number)
        status = process.wait()
        if status == 0:
            break
        kills.append(Kill(_where(killed), 128 - status if status < 0 else status))
    if not kills:
        raise SystemExit(f"{example.script} was never killed: its 'saves' is too large")
    if _start(example, killed, folder, "--checkpoint-seconds", "0", "--resume").wait() != 0:
        raise SystemExit(f"{example.script} does not go on:\n{_log(folder)}")
    found = _differences(whole, killed)
    if number != signal.SIGKILL and {kill.status for kill in kills} != {128 + number}:
        found.append(f"statuses {[kill.status for kill in kills]}")
    return Result(kills, found)


def _start(example: Example, out: Path, cwd: Path, *flags: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    environment.pop("TORCHLAYER_DATA", None)
    command = [sys.executable, str(ROOT / "examples" / example.script), "--smoke", "--device", "cpu"]
    with open(cwd / "log", "wb") as log:
        return subprocess.Popen(
            [*command, "--out", str(out), *example.flags, *flags], cwd=cwd, env=environment, stdout=log, stderr=log
        )


def _log(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-3000:]


def _wait_for_saves(process: subprocess.Popen[bytes], out: Path, n: int) -> bool:
    """Wait for ``n`` changes of the checkpoints; False if the process ends before."""
    seen = _stamps(out)
    while n:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
        now = _stamps(out)
        n -= now != seen
        seen = now
    return True


def _stamps(out: Path) -> dict[str, int]:
    stamps = {}
    for path in out.glob("*.ckpt"):
        try:
            stamps[path.name] = path.stat().st_ino
        except FileNotFoundError:  # replaced this very moment
            continue
    return stamps


def _where(out: Path) -> str:
    newest = max(out.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    position = checkpoint.load(newest)["position"]
    if "user" not in position:  # of tl.distributed.save
        return f"{newest.stem} at {position}"
    if position["user"] is not None:
        return f"{newest.stem} at {position['user']}"
    return f"{newest.stem} epoch {position['epoch'] + 1} step {position['n_done']}"


def _differences(whole: Path, killed: Path) -> list[str]:
    found = []
    names = {path.name for path in whole.iterdir()}
    if names != (there := {path.name for path in killed.iterdir()}):
        found.append(f"files {sorted(names ^ there)}")
    for path in sorted(whole.glob("*.npz")):
        if path.read_bytes() != (killed / path.name).read_bytes():
            found.append(path.name)
    for path in sorted(whole.glob("*.ckpt")):
        a, b = (_without_clock(checkpoint.load(folder / path.name)) for folder in (whole, killed))
        found += [f"{path.name}: {key}" for key in a if not equal(a[key], b.get(key))]
    return found


def _without_clock(state: dict[str, Any]) -> dict[str, Any]:
    """All but how long things took; `fit` keeps its history one level lower."""
    extra = state["extra"]
    for history in (extra, extra.get("history")) if isinstance(extra, dict) else ():
        if isinstance(history, dict):
            history.pop("seconds", None)
    return state


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through every container."""
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a.detach().reshape(-1).view(torch.uint8), b.detach().reshape(-1).view(torch.uint8))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (isinstance(a, float) and a != a and b != b)  # NaN


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=f"of {', '.join(EXAMPLES)}; default: all")
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--signal", choices=("KILL", "INT", "TERM"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    number, n_bad, n_kills = getattr(signal, f"SIG{args.signal}"), 0, 0
    print(f"| example | killed by SIG{args.signal} at | afterwards |\n|---|---|---|")
    for name in args.examples or EXAMPLES:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root, "run")
            folder.mkdir()
            result = check(EXAMPLES[name], folder, args.kills, number, args.seed)
        n_kills, n_bad = n_kills + len(result.kills), n_bad + bool(result.differences)
        verdict = "bit-equal" if not result.differences else f"DIFFERS: {', '.join(result.differences)}"
        print(f"| {name} | {'; '.join(kill.where for kill in result.kills)} | {verdict} |", flush=True)
    print(f"{n_kills} kills, {n_bad} of the runs differ")
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
