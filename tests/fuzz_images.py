"""Damaged files by the thousand: whatever is in one, its reader reads it or raises FileFormatError, and soon.

    python tests/fuzz_images.py --inputs 200000 [--seed 0] [--keep FOLDER]

The suite runs a few thousand of the same (test_fuzz_images.py). An input that breaks the promise is kept, and named.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from torchlayer import files
from torchlayer.files import FileFormatError
from torchlayer.files.crc32c import masked_crc32c
from torchlayer.files.idx import read_idx

FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "shutil.rmtree")
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
LONG = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**62, 2**63, 2**64 - 1)


class Target(NamedTuple):
    """A reader, good inputs to begin from, and what is done to a damaged one before it is read."""

    seeds: list[bytes]
    read: Callable[[Path], object]
    finish: Callable[[bytes], bytes] = bytes


def framed(record: bytes, wrong_length: int | None = None) -> bytes:
    length = struct.pack("<Q", len(record) if wrong_length is None else wrong_length)
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, record)]
    return length + sums[0] + record + sums[1]


def examples(path: Path) -> list[object]:
    return [files.decode_example(record) for record in files.read_tfrecord(path)]


def sequences(path: Path) -> list[object]:
    return [files.decode_sequence_example(record) for record in files.read_tfrecord(path)]


def targets() -> dict[str, Target]:
    rng = np.random.RandomState(0)
    example = files.encode_example(
        {"label": 3, "img_raw": rng.bytes(60), "box": [0.5, -1.0, 3.5], "ids": [-1, 300, 2**40], "empty": []}
    )
    sequence = files.encode_sequence_example({"image/img_raw": rng.bytes(30)}, {"words": ["a", "cat"], "ids": [1, 2]})
    records = [bytes([i % 10]) + rng.bytes(3072) for i in range(3)]
    images = struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 4, 3) + rng.bytes(60)
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 20) + rng.bytes(20)
    cifar = [b"".join(records[:n]) for n in (1, 3)]
    return {
        "tfrecord": Target([framed(example) + framed(b"") + framed(sequence)], examples),
        "tfrecord by number": Target(
            [framed(example) + framed(sequence)], lambda path: [bytes(r) for r in files.TFRecordFile(path)]
        ),
        # the sums made right again, so that the damage gets past them
        "tfrecord lengths": Target([struct.pack("<Q", 5)], examples, lambda d: framed(b"abc", _number(d)) + b"x" * 40),
        "example": Target([example, example[:40]], examples, framed),
        "sequence example": Target([sequence, example], sequences, framed),
        "cifar": Target(cifar, files.read_cifar10),
        "cifar.gz": Target([gzip.compress(d, 1, mtime=0) for d in cifar], files.read_cifar10),
        "cifar.xz": Target([lzma.compress(d, preset=0) for d in cifar], files.read_cifar10),
        "idx": Target([images], lambda path: read_idx(path, 3)),
        "idx labels": Target([labels], lambda path: read_idx(path, 1)),
        "idx.gz": Target([gzip.compress(images, 1, mtime=0)], lambda path: read_idx(path, 3)),
    }


def _number(data: bytes) -> int:
    return int.from_bytes(data[:8].ljust(8, b"\0"), "little")


def damaged(data: bytes, draw: random.Random) -> bytes:
    """``data`` after one to four accidents."""
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(spoilt) + 1)
        kind = draw.randrange(8)
        if kind == 0 and at < len(spoilt):
            spoilt[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(spoilt):
            spoilt[at] = draw.choice(INTERESTING)
        elif kind == 2 and at < len(spoilt):
            spoilt[at] = draw.randrange(256)
        elif kind == 3:
            del spoilt[at:]
        elif kind == 4:
            del spoilt[at : at + draw.randrange(1, 20)]
        elif kind == 5:
            spoilt[at:at] = draw.randbytes(draw.randrange(1, 20))
        elif kind == 6:
            spoilt[at : at + 8] = draw.choice(LONG).to_bytes(8, draw.choice(("little", "big")))
        else:  # a piece of itself somewhere else
            begin = draw.randrange(len(spoilt) + 1)
            spoilt[at:at] = spoilt[begin : begin + draw.randrange(1, 40)]
    return bytes(spoilt)


class Report(NamedTuple):
    outcomes: Counter[str]
    slowest_seconds: float
    cpu_seconds: float


def fuzz(name: str, n_inputs: int, seed: int, folder: Path, keep: Path | None = None) -> Report:
    """Read ``n_inputs`` damaged files of one kind.

    Raises:
        AssertionError: a reader raised anything but FileFormatError, or one that names another file or no reason.
    """
    target = targets()[name]
    draw = random.Random(f"{name} {seed}")
    path = folder / name.replace(" ", "_")
    outcomes: Counter[str] = Counter()
    slowest, began = 0.0, time.process_time()
    for i in range(n_inputs):
        data = target.finish(damaged(draw.choice(target.seeds), draw))
        path.write_bytes(data)
        started = time.process_time()
        try:
            target.read(path)
            outcomes["read"] += 1
        except FileFormatError as error:
            if error.path != str(path) or not error.reason or not 0 <= (error.offset or 0) <= max(len(data), 2**17):
                raise AssertionError(f"{name}, input {i}: {error!r}") from error
            outcomes["refused"] += 1
        except Exception as error:
            kept = (keep or Path(tempfile.gettempdir())) / f"fuzz_{path.name}_{seed}_{i}"
            kept.write_bytes(data)
            raise AssertionError(f"{name}, input {i}, kept as {kept}: {error!r}") from error
        slowest = max(slowest, time.process_time() - started)
    return Report(outcomes, slowest, time.process_time() - began)


def watched() -> list[str]:
    """A list that the interpreter adds to when something happens that no reader may cause."""
    seen: list[str] = []
    sys.addaudithook(lambda event, _: seen.append(event) if event in FORBIDDEN else None)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where an input that breaks the promise goes")
    args = parser.parse_args()
    names = list(targets())
    each = -(-args.inputs // len(names))
    seen = watched()
    print(f"{'reader':20} {'inputs':>8} {'read':>8} {'refused':>8} {'slowest':>10} {'a second':>9}")
    total = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        for name in tqdm(names, disable=None):
            report = fuzz(name, each, args.seed, Path(folder), args.keep)
            total += each
            read, refused = report.outcomes["read"], report.outcomes["refused"]
            speed = each / report.cpu_seconds
            tqdm.write(f"{name:20} {each:8} {read:8} {refused:8} {1000 * report.slowest_seconds:7.1f} ms {speed:9.0f}")
            if seen:
                raise AssertionError(f"{name}: a reader caused {seen}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{total} inputs, one kind of error, at most {peak:.0f} MiB in use (torch's own included)")


if __name__ == "__main__":
    main()
