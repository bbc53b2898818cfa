"""Feed every parser damaged files: it must read them or raise FileFormatError, in a second and 256 MB.

    python attacks/fuzz.py                        # 20,000 inputs for each parser
    python attacks/fuzz.py --n 1000000 idx tar    # a million for two of them

Inputs are good files, mutated: bits, bytes, lengths, whole pieces moved, doubled, cut out or taken from another file.
Formats with a checksum are fuzzed twice, outside of it and inside, with the checksum made right again; otherwise
nothing would ever pass it. Each parser runs in a process of its own, under a limit of memory, so a crash is found too.
An input that fails is kept in --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import torchlayer as tl
from torchlayer.files import FileFormatError
from torchlayer.files._pickle_reader import Refused
from torchlayer.files._pickle_reader import read as read_pickled
from torchlayer.files.crc32c import masked_crc32c
from torchlayer.files.docstrings import _head, _kept
from torchlayer.files.idx import read_idx
from torchlayer.files.sealed import _HEADER, write_sealed
from torchlayer.files.text import read_lines, read_words

MAX_SECONDS, MAX_BYTES = 1.0, 256 << 20


class Target(NamedTuple):
    parse: Callable[[Path], Any]
    seeds: Callable[[], list[bytes]]
    wrap: Callable[[bytes], bytes] = bytes  # puts a mutated inside into a good outside
    name: str = "input"  # of the file: some parsers look at its suffix


class Found(NamedTuple):
    accepted: int
    refused: int
    seconds: float  # the slowest input took
    peak: int  # bytes beyond what the process had before the first input
    faults: dict[str, int]


# Good files ----------------------------------------------------------------------


def idx() -> list[bytes]:
    images = struct.pack(">4B3I", 0, 0, 8, 3, 5, 4, 4) + bytes(range(80))
    return [images, struct.pack(">4B3I", 0, 0, 8, 3, 0, 28, 28), images[:4] + bytes(12)]


def idx_labels() -> list[bytes]:
    return [struct.pack(">4BI", 0, 0, 8, 1, 20) + bytes(range(20))]


def cifars() -> list[bytes]:
    records = [bytes([label]) + random.Random(label).randbytes(3072) for label in (0, 5, 9)]
    return [records[0], b"".join(records)]


def examples() -> list[bytes]:
    values = {"label": 3, "image": bytes(range(60)), "box": [0.5, -1.0, 3.5], "ids": [-1, 300, 2**40], "empty": []}
    return [tl.files.encode_example(values), tl.files.encode_example({"a": 1})]


def sequences() -> list[bytes]:
    lists = {"words": ["a", "cat"], "ids": [1, 2]}
    return [tl.files.encode_sequence_example({"image": bytes(range(30))}, lists), examples()[0]]


def tfrecords() -> list[bytes]:
    return [b"".join(map(framed, (examples()[0], b"", examples()[1]))), framed(b"one")]


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    f = io.BytesIO()
    np.lib.format.write_array(f, array, allow_pickle=pickled)
    return f.getvalue()


def npys() -> list[bytes]:
    arrays: list[Any] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3)), np.array(["a", "bc"])]
    return [npy(a) for a in [*arrays, np.asfortranarray(np.eye(3)), np.array(3, ">i2")]]


def zipped(*entries: tuple[str, bytes]) -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w") as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)
    return f.getvalue()


def written(save: Callable[[str], Any], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "a" + suffix)
        save(str(path))
        return path.read_bytes()


def npzs() -> list[bytes]:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).bfloat16()
    plain = zipped(*((f"{i}.npy", array) for i, array in enumerate(npys())))
    return [written(lambda p: tl.files.save_npz(net, p), ".npz"), plain]


def manifests() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(npzs()[0])) as archive:
        return [str(np.load(io.BytesIO(archive.read("__torchlayer__.npy")))).encode()]


def values() -> list[bytes]:
    value = {"a": [1, 2.5, None, "x", b"\0"], 3: (np.arange(3), np.float32(2)), "ids": list(range(1001))}
    return [written(lambda p: tl.files.save_any_to_npy(value, p), ".npy")]


def value_trees() -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(values()[0])) as archive:
        return [np.load(io.BytesIO(archive.read("__torchlayer_value__.npy"))).tobytes()]


def pickles() -> list[bytes]:
    ragged = np.empty(2, object)
    ragged[:] = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3)]
    head = npy(ragged, pickled=True).partition(b"\n")[0] + b"\n"
    return [head + pickle.dumps(ragged, protocol) for protocol in (2, 3, 4)]


def checkpoints() -> list[bytes]:
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    return [written(lambda p: tl.checkpoint.save(p, model=net, optimizer=optimizer, extra={"a": [1, "b"]}), ".ckpt")]


def payloads() -> list[bytes]:
    f = io.BytesIO()
    write_sealed(f, {"model": {"W": torch.eye(2), "b": torch.zeros(2, dtype=torch.bfloat16)}, "extra": [1, "b", None]})
    return [checkpoints()[0][_HEADER.size :], f.getvalue()[_HEADER.size :]]


def sealed(payload: bytes) -> bytes:
    header = _HEADER.pack(b"\x89torchlayer-ck\r\n", 1, 0, len(payload), hashlib.sha256(payload).digest())
    return header + payload


def vectors(binary: bool) -> list[bytes]:
    words, table = ["the", "of", "caf\u00e9"], torch.tensor([[0.5, -2.0], [3.0, 0.25], [1e-9, 7.0]])
    return [written(lambda p: tl.files.save_word2vec_format(p, words, table, binary=binary), ".txt")]


def texts() -> list[bytes]:
    return [" the cat <unk> sat\n on caf\u00e9 N \n".encode(), b"a b c\n" * 40, b"one line without an end"]


def vocabularies() -> list[bytes]:
    return [b"<PAD> 0\n<S> 2\n</S> 2\nfive 2\ncaf\xc3\xa9 1\n", b"<S>\n</S>\na\n<UNK>"]


def analogies() -> list[bytes]:
    return [b": capitals\nAthens Greece Oslo Norway\na b c d\n: x\n", b"a b c d\na b c d\n"]


def imdbs() -> list[bytes]:
    parts = {"ids": np.arange(9), "lengths": np.array([4, 5]), "labels": np.array([0, 1])}
    return [zipped(*((f"{name}.npy", npy(a)) for name, a in parts.items()))]


def docstrings() -> list[bytes]:
    body = b"return the sum\nan array\n"
    return [_head(body) + body]


def archive_members() -> list[tuple[str, bytes]]:
    return [("a.txt", b"alpha"), ("sub/b.bin", bytes(range(256)) * 4), ("sub/deeper/c", b"")]


def zips() -> list[bytes]:
    return [zipped(*archive_members()), zipped()]


def tars() -> list[bytes]:
    made = []
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        f = io.BytesIO()
        with tarfile.open(fileobj=f, mode="w", format=kind) as archive:
            for name, data in [*archive_members(), ("n" * 150, b"long name")]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        made.append(f.getvalue().rstrip(b"\0") + bytes(1024))
    return made


# The parsers ---------------------------------------------------------------------


def extracted(path: Path) -> None:
    """Unpack, and see that nothing came to lie elsewhere."""
    folder = path.parent / "out" / "deep"
    try:
        tl.files.extract(path, folder)
    finally:
        strays = {p.name for p in path.parent.iterdir()} - {path.name, "out"}
        strays |= {p.name for p in (path.parent / "out").iterdir()} - {"deep"}
        shutil.rmtree(path.parent / "out")
        assert not strays, f"written outside of the folder: {strays}"


def in_npz(name: str) -> Callable[[bytes], bytes]:
    return lambda data: zipped((name, data))


@functools.cache
def _saved_entries() -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(npzs()[0])) as archive:
        return [(name, archive.read(name)) for name in archive.namelist() if name != "__torchlayer__.npy"]


def manifest_npz(text: bytes) -> bytes:
    return zipped(*_saved_entries(), ("__torchlayer__.npy", npy(np.array(text.decode("utf-8", "replace")))))


def value_npy(text: bytes) -> bytes:
    entry = npy(np.frombuffer(text, np.uint8))
    return zipped(("__torchlayer_value__.npy", entry), ("array_0.npy", npys()[0]), ("array_1.npy", npy(np.arange(3))))


def framed(record: bytes, length: bytes | None = None) -> bytes:
    """A record of a TFRecord file, whose sums are right even where its length is not."""
    length = struct.pack("<Q", len(record)) if length is None else length
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, record)]
    return length + sums[0] + record + sums[1]


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def xzipped(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def pickled(path: Path) -> None:
    try:
        with open(path, "rb") as f:
            read_pickled(f)
    except Refused as e:  # convert_npz hands it on as FileFormatError
        raise FileFormatError(path, str(e)) from None


WORDS = dict.fromkeys(["a", "b", "c", "d", "athens", "greece", "oslo", "norway"], 1)
TARGETS = {
    "idx": Target(lambda p: read_idx(p, 3), idx),
    "idx in gzip": Target(lambda p: read_idx(p, 3), idx, gzipped, "a.gz"),
    "gzip": Target(lambda p: read_idx(p, 3), lambda: [gzipped(s) for s in idx()], name="a.gz"),
    "npz": Target(lambda p: tl.files.load_npz(name=p), npzs),
    "npy in npz": Target(lambda p: tl.files.load_npz(name=p), npys, in_npz("a.npy")),
    "npz manifest": Target(lambda p: tl.files.load_npz(name=p), manifests, manifest_npz),
    "value": Target(lambda p: tl.files.load_npy_to_any(name=p), values),
    "value tree": Target(lambda p: tl.files.load_npy_to_any(name=p), value_trees, value_npy),
    "pickled npz": Target(pickled, lambda: [zipped(("params.npy", s)) for s in pickles()]),
    "pickle in npz": Target(pickled, pickles, in_npz("params.npy")),
    "checkpoint": Target(tl.checkpoint.load, checkpoints),
    "checkpoint inside": Target(tl.checkpoint.load, payloads, sealed),
    "word2vec text": Target(tl.files.load_word2vec_format, lambda: vectors(False)),
    "word2vec binary": Target(tl.files.load_word2vec_format, lambda: vectors(True)),
    "text": Target(lambda p: [*read_lines(p), *read_words(p)], texts),
    "text in gzip": Target(lambda p: [*read_lines(p), *read_words(p)], texts, gzipped),
    "text of words": Target(lambda p: tl.nlp.read_words(p), texts),
    "vocabulary": Target(lambda p: tl.nlp.Vocabulary(p), vocabularies),
    "analogies": Target(lambda p: tl.nlp.read_analogies_file(p, WORDS), analogies),
    "imdb": Target(lambda p: tl.files.load_imdb_dataset(p.parent), imdbs, name="imdb.npz"),
    "docstrings": Target(_kept, docstrings),
    "idx labels": Target(lambda p: read_idx(p, 1), idx_labels),
    "cifar": Target(tl.files.read_cifar10, cifars),
    "cifar in gzip": Target(tl.files.read_cifar10, cifars, gzipped, "a.gz"),
    "cifar in xz": Target(tl.files.read_cifar10, cifars, xzipped, "a.xz"),
    "xz": Target(tl.files.read_cifar10, lambda: [xzipped(s) for s in cifars()], name="a.xz"),
    "tfrecord": Target(lambda p: list(tl.files.read_tfrecord(p)), tfrecords),
    "tfrecord by number": Target(lambda p: list(tl.files.TFRecordFile(p)), tfrecords),
    "tfrecord length": Target(
        lambda p: list(tl.files.read_tfrecord(p)),
        lambda: [struct.pack("<Q", 40) + bytes(40), struct.pack("<Q", 0)],
        lambda data: framed(data[8:], data[:8].ljust(8, b"\0")),
    ),
    "example": Target(lambda p: [tl.files.decode_example(r) for r in tl.files.read_tfrecord(p)], examples, framed),
    "sequence example": Target(
        lambda p: [tl.files.decode_sequence_example(r) for r in tl.files.read_tfrecord(p)], sequences, framed
    ),
    "zip": Target(extracted, zips),
    "tar": Target(extracted, tars),
    "tar in gzip": Target(extracted, tars, gzipped),
}

# Mutation ------------------------------------------------------------------------

_EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(9)
        if kind <= 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and at < len(data):
            data[at] = rng.choice((0, 1, 10, 13, 32, 48, 57, 127, 128, 255, rng.randrange(256)))
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.choice((1, 2, 4, 16, 512))]
        elif kind == 5:
            length = rng.choice((1, 4, 16, 64, 512))
            data[at:at] = data[at : at + length] * rng.choice((1, 1, 2, 50))
        elif kind == 6:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_EDGES) % 256**width
            data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 7:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.choice((0, 8, 64))] = other[start : start + rng.choice((8, 64, 512))]
        elif kind == 8:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 8))))
    return bytes(data)


def fuzz(name: str, n: int, seed: int, keep: Path) -> Found:
    """Feed ``n`` inputs to one parser in this process."""
    target, rng = TARGETS[name], random.Random(f"{seed} {name}")
    seeds = target.seeds()
    accepted = refused = 0
    slowest, faults = 0.0, dict[str, int]()
    shared = Path("/dev/shm") if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, target.name)
        for good in seeds:  # a parser that refuses what is good would pass all the rest
            path.write_bytes(target.wrap(good))
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(FileFormatError):
                target.parse(path)
                accepted += 1
        assert accepted, f"{name} reads none of its good files"
        accepted = 0
        before = _peak()
        with _limited_memory(), contextlib.redirect_stdout(io.StringIO()) as said:
            for i in range(n):
                data = target.wrap(mutated(rng, seeds))
                path.write_bytes(data)
                signal.alarm(60)
                started, fault = time.process_time(), ""
                try:
                    target.parse(path)
                    accepted += 1
                except FileFormatError as e:
                    refused += 1
                    if e.path != str(path) or not e.reason or (e.offset or 0) < 0:
                        fault = f"an error that does not say where or why: {e}"[:100]
                except Exception as e:
                    fault = f"{type(e).__name__}: {e}"[:100]
                seconds = time.process_time() - started
                slowest = max(slowest, seconds)
                fault = fault or (f"took more than {MAX_SECONDS} s" if seconds > MAX_SECONDS else "")
                if fault:
                    faults[fault] = faults.get(fault, 0) + 1
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name.replace(' ', '_')}-{seed}-{i}").write_bytes(data)
                if i % 1000 == 0:
                    said.seek(0)
                    said.truncate()
        signal.alarm(0)
    return Found(accepted, refused, slowest, _peak() - before, faults)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def _limited_memory() -> Any:
    """What goes beyond MAX_BYTES becomes a MemoryError, which no parser may raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--n", type=int, default=20_000, help="inputs for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz_faults"), help="where inputs go that fail")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(fuzz(args.child, args.n, args.seed, args.keep)))
        return 0
    print(
        "| parser | inputs | read | refused | slowest, ms | memory, MB | anything else |\n|---|---|---|---|---|---|---|"
    )
    total = n_faults = 0
    for name in args.targets or TARGETS:
        command = [sys.executable, __file__, "--child", name, "--n", str(args.n), "--seed", str(args.seed)]
        done = subprocess.run([*command, "--keep", str(args.keep)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"| {name} | {args.n} | | | | | the process ended with {done.returncode} |", flush=True)
            n_faults += 1
            continue
        found = Found(*json.loads(done.stdout))
        faults = "; ".join(f"{n} x {what}" for what, n in found.faults.items()) or "0"
        figures = f"{found.accepted:,} | {found.refused:,} | {found.seconds * 1e3:.0f} | {found.peak / 1e6:.0f}"
        print(f"| {name} | {args.n:,} | {figures} | {faults} |", flush=True)
        total, n_faults = total + args.n, n_faults + sum(found.faults.values())
    print(f"{total:,} inputs, {n_faults} faults")
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
