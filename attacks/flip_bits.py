"""Flip bits of a checkpoint, cut it, and see who notices: torchlayer, and plain torch.save beside it.

    python attacks/flip_bits.py                              # 10,000 flips, 1,000 truncations
    python attacks/flip_bits.py --flips 500 --cuts 50

Silent means: it loaded, and something in it was another. `load` must refuse each damaged file, and where an older
checkpoint is kept it must go on from that one, and say so.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kill_resume import equal
from tqdm import tqdm

from torchlayer import checkpoint
from torchlayer.files import FileFormatError


class Count:
    """What became of the damaged files."""

    def __init__(self) -> None:
        self.silent = self.refused = self.unharmed = self.fallen_back = 0
        self.other: dict[str, int] = {}  # errors that are not the documented one

    def row(self, who: str, n: int) -> str:
        other = ", ".join(f"{name} {n}" for name, n in sorted(self.other.items())) or "none"
        return f"| {who} | {n:,} | {self.silent:,} | {self.refused:,} | {self.fallen_back:,} | {other} |"


def damaged(good: bytes, flips: int, cuts: int, rng: random.Random) -> Any:
    for _ in range(flips):
        bad = bytearray(good)
        bit = rng.randrange(8 * len(good))
        bad[bit // 8] ^= 1 << bit % 8
        yield bytes(bad)
    for _ in range(cuts):
        yield good[: rng.randrange(len(good))]


def attack(path: Path, load: Callable[[Path], Any], flips: int, cuts: int, older: Any = None, seed: int = 0) -> Count:
    """Damage ``path`` again and again and load it; ``older`` is the state of the checkpoint before."""
    good, count = path.read_bytes(), Count()
    right = load(path)
    for bad in tqdm(damaged(good, flips, cuts, random.Random(seed)), path.name, flips + cuts, disable=None):
        path.write_bytes(bad)
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                state = load(path)
        except FileFormatError:
            count.refused += 1
        except Exception as e:  # torch raises eight kinds
            count.refused += 1
            count.other[type(e).__name__] = count.other.get(type(e).__name__, 0) + 1
        else:
            if older is not None and said and equal(state, older):
                count.fallen_back += 1
            elif equal(state, right):
                count.unharmed += 1  # a byte that means nothing; only where there is no digest
            else:
                count.silent += 1
    path.write_bytes(good)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=1_000)
    args = parser.parse_args()
    n = args.flips + args.cuts
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    print("| who | damaged files | silent | refused | older one used | other errors |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for i in range(2):
            checkpoint.save(Path(folder, "kept.ckpt"), model=net, optimizer=optimizer, position=i, keep=2)
        older = checkpoint.load(Path(folder, "kept.ckpt.1"))
        kept = attack(Path(folder, "kept.ckpt"), checkpoint.load, args.flips, args.cuts, older)
        print(kept.row("torchlayer, keep=2", n), flush=True)
        checkpoint.save(Path(folder, "one.ckpt"), model=net, optimizer=optimizer)
        one = attack(Path(folder, "one.ckpt"), checkpoint.load, args.flips, args.cuts)
        print(one.row("torchlayer", n), flush=True)
        torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, Path(folder, "plain.pt"))
        plain = attack(Path(folder, "plain.pt"), torch.load, args.flips, args.cuts)
        print(plain.row("torch.save", n), flush=True)
    good = kept.fallen_back == n and one.refused == n and not one.other and not kept.other
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
