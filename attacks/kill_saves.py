"""Kill a process that saves without a pause, a thousand times: torchlayer's checkpoint, and plain torch.save beside it.

    python attacks/kill_saves.py                    # 1,000 kills, and 200 of torch.save
    python attacks/kill_saves.py --kills 50

After each kill by SIGKILL the checkpoint must load and be one of the last two that were begun, and once a new process
has looked at it, no stray file may be left.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from torchlayer import checkpoint


class Result(NamedTuple):
    kills: int
    loaded: int
    behind: int  # saves that were finished and yet are not in the file; the worst kill
    caught: int  # kills that fell into a save, as a stray file tells
    strays: list[str]


def kill(save: Callable[[int], Any], load: Callable[[], int], folder: Path, kills: int, seed: int = 0) -> Result:
    """Kill a child that saves 1, 2, 3, … by ``save``; ``load`` gives the number that is in the file."""
    rng = random.Random(seed)
    shared = mmap.mmap(-1, 8)  # the last save that the child knows to be finished
    save(0)
    usual = set(os.listdir(folder))
    loaded = behind = caught = number = 0
    for _ in tqdm(range(kills), "kills", disable=None):
        shared[:] = struct.pack("q", number)
        child = os.fork()
        if child == 0:
            while True:
                number += 1
                save(number)
                shared[:] = struct.pack("q", number)
        while struct.unpack("q", shared)[0] == number:  # it has saved once: from here on anything may happen
            time.sleep(0.0005)
        time.sleep(0.03 * rng.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        finished = struct.unpack("q", shared)[0]
        caught += bool(set(os.listdir(folder)) - usual)
        number = finished + 1
        try:
            found = load()
        except Exception:
            save(number)
            continue
        loaded += finished <= found <= finished + 1
        behind = max(behind, finished - found)
    return Result(kills, loaded, behind, caught, sorted(set(os.listdir(folder)) - usual))


def attack(folder: Path, kills: int, width: int = 300) -> Result:
    torch.set_num_threads(1)
    net, path = torch.nn.Linear(width, width), folder / "a.ckpt"
    for i in range(2):
        checkpoint.save(path, model=net, position=i, keep=2)
    return kill(
        lambda i: checkpoint.save(path, model=net, position=i, keep=2),
        lambda: checkpoint.load(path)["position"],
        folder,
        kills,
    )


def attack_plain(folder: Path, kills: int, width: int = 300) -> Result:
    net, path = torch.nn.Linear(width, width), folder / "a.pt"
    return kill(
        lambda i: torch.save({"model": net.state_dict(), "position": i}, path),
        lambda: torch.load(path)["position"],
        folder,
        kills,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as plain:
        found = attack(Path(ours), args.kills)
        beside = attack_plain(Path(plain), max(1, args.kills // 5))
    print(
        "| who | kills | loadable afterwards | in the middle of a save | stray files in the end |\n" + "|---" * 5 + "|"
    )
    strays = ", ".join(found.strays) or "0"
    print(f"| torchlayer | {found.kills:,} | {found.loaded:,} | {found.caught:,} or more | {strays} |")
    print(f"| torch.save | {beside.kills:,} | {beside.loaded:,} | cannot be told | 0 |")
    return 0 if found.loaded == found.kills and found.behind <= 0 and not found.strays else 1


if __name__ == "__main__":
    sys.exit(main())
