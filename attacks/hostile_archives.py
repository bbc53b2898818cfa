"""Unpack archives that try to get out, to blow up, to hang, or to lie.

    python attacks/hostile_archives.py            # each one: refused with what words, memory, seconds
    python attacks/hostile_archives.py --quick    # without the largest

Each is unpacked into a folder in the middle of a tree of canaries, in a process of its own. Afterwards the canaries
must be as they were, nothing new beside them, and the folder empty; the error must be FileFormatError, and unpacking
may have taken 10 seconds of CPU and 300 MB beyond what the process had before.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import lzma
import os
import resource
import stat
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torchlayer.files import FileFormatError, extract

MAX_SECONDS, MAX_BYTES = 10.0, 300e6
MILLION = 1_000_000


class Outcome(NamedTuple):
    said: str  # the FileFormatError, or "!" and what happened instead
    n_bytes: int
    seconds: float


# Archives by hand ----------------------------------------------------------------


def tar(*members: Any, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """``members`` are names, (name, content) or TarInfos."""
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w", format=kind) as archive:
        for member in members:
            name, content = member if isinstance(member, tuple) else (member, b"owned")
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return f.getvalue()


def special(kind: bytes, name: str = "x", target: str = "", **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for key, value in more.items():
        setattr(info, key, value)
    return info


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return special(tarfile.SYMTYPE, name, target)


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    return special(tarfile.LNKTYPE, name, target)


def pax(**headers: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("harmless")
    info.pax_headers = headers
    return info


def zipped(*members: Any, how: int = zipfile.ZIP_STORED) -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", how) as archive:
        for member in members:
            name, content, mode = (*member, 0)[:3] if isinstance(member, tuple) else (member, b"owned", 0)
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, how
            archive.writestr(info, content)
    return f.getvalue()


def patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    at = data.index(mark) + offset
    return data[:at] + value + data[at + len(value) :]


def deep_realpath() -> list[Any]:
    """CVE-2025-4517's shape: folders and links so long that realpath gives up before it has resolved them."""
    long, members, path = "d" * 247, [], ""
    for step in "abcdefghijklmnop":
        members += [special(tarfile.DIRTYPE, path + long), symlink(path + step, long)]
        path += long + "/"
    escape = "/".join("abcdefghijklmnop") + "/" + "l" * 254
    return [*members, symlink(escape, "../" * 16), symlink("out", escape + "/../canary"), hardlink("flag", "out")]


def overlapping() -> bytes:
    """One kilobyte that a thousand entries share, as in Fifield's bomb."""
    body = zlib_raw(bytes(MILLION))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(body), MILLION, 1, 0) + b"a" + body
    central = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(body), MILLION, 4, 0, 0, 0, 0, 0, 0)
        + b"%04d" % i
        for i in range(1000)
    )
    return local + central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1000, 1000, len(central), len(local), 0)


def zlib_raw(data: bytes) -> bytes:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip_of_many(n: int, how_many_it_says: int) -> bytes:
    """A zip whose directory has ``n`` entries for one empty member, and says another number."""
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    central = b"".join(entry + b"%07d" % i for i in range(n))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, how_many_it_says, how_many_it_says, len(central), len(local), 0)
    return local + central + end


def tar_of_many(n: int) -> bytes:
    info = tarfile.TarInfo("%07d")
    block = info.tobuf(tarfile.USTAR_FORMAT)
    f = io.BytesIO()
    with gzip.GzipFile(fileobj=f, mode="w", compresslevel=1) as packed:
        for i in range(n):
            head = bytearray(block)
            head[:7] = b"%07d" % i
            head[148:156] = b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            packed.write(head)
    return f.getvalue()


OUTSIDE = [
    "../canary",
    "sub/../../canary",
    "./../canary",
    "sub/./../../canary",
    "..",
    "sub/..",
    "/tmp/torchlayer_canary",
    "//tmp/torchlayer_canary",
    "C:\\canary",
    "C:canary",
    "..\\canary",
    "sub\\..\\..\\canary",
    "\\\\server\\share\\canary",
    "canary:stream",
    "n" * 256,
    "n/" * 600 + "n",
]


def corpus(quick: bool = False) -> Iterator[tuple[str, Callable[[], bytes], str]]:
    """Name, bytes, and what the error must say."""
    for name in OUTSIDE:
        text = "leads out|longer than 255|path than 1024"
        yield f"tar: {name[:24]}", lambda name=name: tar(name), text
        yield f"zip: {name[:24]}", lambda name=name: zipped(name), text
    yield "zip: a NUL in a name", lambda: zipped("a\0b"), "leads out"
    yield "tar: PAX path leads out", lambda: tar(pax(path="../canary")), "leads out"
    yield "tar: PAX path is absolute", lambda: tar(pax(path="/tmp/torchlayer_canary")), "leads out"
    yield "tar: PAX linkpath", lambda: tar(special(tarfile.SYMTYPE, pax_headers={"linkpath": "/etc/passwd"})), "link"
    yield "tar: PAX size", lambda: tar((pax(size="99999999999"), b"x")), "unpack to more|damaged|not the"
    yield "tar: PAX size is negative", lambda: tar((pax(size="-5"), b"x")), "damaged|not the|claims"
    yield "tar: symlink", lambda: tar(symlink("x", "/etc/passwd")), "is a link"
    yield "tar: file through a symlink", lambda: tar(symlink("d", ".."), "d/canary"), "is a link"
    yield "tar: chain of symlinks", lambda: tar(symlink("a", "."), symlink("a/b", ".."), "a/b/canary"), "is a link"
    yield "tar: symlink to itself", lambda: tar(symlink("a", "a"), "a/canary"), "is a link"
    yield "tar: hard link", lambda: tar(hardlink("x", "/etc/passwd")), "is a link"
    yield "tar: hard link to a symlink", lambda: tar(symlink("a", "../canary"), hardlink("b", "a"), ("b", b"x")), "link"
    yield "tar: links beyond realpath (CVE-2025-4517)", lambda: tar(*deep_realpath()), "is a link"
    yield "tar: link, then folder of its name (2026-7774)", lambda: tar(symlink("d", ".."), special(b"5", "d")), "link"
    for kind, what in (
        (b"3", "device"),
        (b"4", "block device"),
        (b"6", "FIFO"),
        (b"7", "contiguous"),
        (b"S", "sparse"),
    ):
        text = "device|sparse|damaged" if kind != b"7" else "leads out"
        name = "x" if kind != b"7" else "../canary"
        yield f"tar: {what}", lambda kind=kind, name=name: tar(special(kind, name)), text
    yield "tar: unknown type", lambda: tar(special(b"Z", "../canary")), "leads out|device"
    yield "zip: symlink", lambda: zipped(("x", b"/etc/passwd", stat.S_IFLNK | 0o777)), "link or device"
    yield "zip: device", lambda: zipped(("x", b"", stat.S_IFCHR)), "link or device"
    yield "zip: FIFO", lambda: zipped(("x", b"", stat.S_IFIFO)), "link or device"
    yield "zip: folder that is a file", lambda: zipped(("x/", b"", stat.S_IFREG)), "link or device"
    for make, what in ((tar, "tar"), (zipped, "zip")):
        yield f"{what}: one name twice", lambda make=make: make("x", "./x"), "two members"
        yield f"{what}: names that differ in capitals", lambda make=make: make("x", "X"), "capitals"
        yield f"{what}: a file and a folder of its name", lambda make=make: make("x", "x/y"), "capitals"
        yield f"{what}: sharp s and SS", lambda make=make: make("stra\u00dfe", "STRASSE"), "capitals"
    zeros = bytes(50 * MILLION)
    yield "tar.gz: bomb", lambda: gzip.compress(tar(("zeros", zeros))), "unpack to more"
    yield "tar.bz2: bomb", lambda: bz2.compress(tar(("zeros", zeros))), "unpack to more"
    yield "tar.xz: bomb", lambda: lzma.compress(tar(("zeros", zeros))), "unpack to more"
    yield "zip: bomb", lambda: zipped(("zeros", zeros), how=zipfile.ZIP_DEFLATED), "unpack to more"
    yield "zip: bomb packed by LZMA", lambda: zipped(("zeros", zeros), how=zipfile.ZIP_LZMA), "unpack to more"
    yield "zip: entries that overlap", overlapping, "unpack to more|damaged"
    small = zipped(("x", b"four"))
    yield "zip: says less than it has", lambda: patched(small, b"PK\1\2", 24, b"\3\0\0\0"), "damaged|not the"
    yield "zip: says 4 GB", lambda: patched(small, b"PK\1\2", 24, b"\xff" * 4), "unpack to more|damaged"
    yield "zip: wrong checksum", lambda: patched(small, b"PK\1\2", 16, b"\0" * 4), "damaged"
    yield "zip: encrypted", lambda: patched(patched(small, b"PK\1\2", 8, b"\1"), b"PK\3\4", 6, b"\1"), "damaged"
    yield "zip: unknown packing", lambda: patched(small, b"PK\1\2", 10, b"\x63\0"), "damaged"
    yield "tar: header of 8 GB", lambda: special(b"x", "h", size=8 << 30).tobuf(tarfile.GNU_FORMAT), "claims"
    yield "tar: long name of 8 GB", lambda: special(b"L", "h", size=8 << 30).tobuf(tarfile.GNU_FORMAT), "claims"
    yield "gzip of nothing known", lambda: gzip.compress(b"hello" * 500), "damaged"
    whole = tar(("a", b"x" * 3000), ("b", b"y" * 3000))
    for at in range(512, 7000, 512):
        yield f"tar: cut at {at}", lambda at=at: whole[: at - 100], "damaged|not the"
    for at in (4, 30, 60, len(small) - 22, len(small) - 1):
        yield f"zip: cut at {at}", lambda at=at: small[:at], "damaged"
    if not quick:
        yield "zip: 1,000,000 entries", lambda: zip_of_many(MILLION, 0xFFFF), "more than 200000"
        yield "zip: 1,000,000 entries, says 1", lambda: zip_of_many(MILLION, 1), "more than 200000"
        yield "tar.gz: 1,000,000 members", lambda: tar_of_many(MILLION), "more than"


# The attack ----------------------------------------------------------------------


def attack(data: bytes) -> Outcome:
    """Unpack in a child, and look at what it did to the tree around it."""
    with tempfile.TemporaryDirectory() as root:
        place = Path(root, "around", "deep")
        place.mkdir(parents=True)
        canaries = [place.parent / "canary", Path(root, "canary"), place / "canary"]
        for canary in canaries:
            canary.write_text("alive")
        source, folder = Path(root, "around", "archive"), place / "out"
        source.write_bytes(data)
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            _in_child(source, folder, writable)
        os.close(writable)
        with os.fdopen(readable, "rb") as f:
            report = f.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        n_bytes, seconds, said = report.decode().split(" ", 2) if report else ("0", "0", f"! ended with {status}")
        left = sorted(str(p.relative_to(root)) for p in Path(root).rglob("*") if p.is_file() or p.is_symlink())
        if left != sorted(["around/archive", *(str(c.relative_to(root)) for c in canaries)]):
            said = f"! left {left}"
        if any(c.read_text() != "alive" for c in canaries) or Path("/tmp/torchlayer_canary").exists():
            said = "! a canary was touched"
    return Outcome(said, int(n_bytes), float(seconds))


def _in_child(source: Path, folder: Path, writable: int) -> None:
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak begins here
    before, started, said = _peak(), time.process_time(), "! unpacked"
    try:
        extract(source, folder)
    except FileFormatError as e:
        said = str(e).partition("cannot be read: ")[2]
    except BaseException as e:
        said = f"! {type(e).__name__}: {e}"
    os.write(writable, f"{_peak() - before} {time.process_time() - started} {said}".encode()[:4000])
    os._exit(0)


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> int:
    import re

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without those of a million members")
    args = parser.parse_args()
    n = n_bad = 0
    most, slowest = 0, 0.0
    for name, make, text in corpus(args.quick):
        outcome = attack(make())
        bad = not re.search(text, outcome.said) or outcome.n_bytes > MAX_BYTES or outcome.seconds > MAX_SECONDS
        bad |= outcome.said.startswith("!")
        n, n_bad, most, slowest = n + 1, n_bad + bad, max(most, outcome.n_bytes), max(slowest, outcome.seconds)
        flag = "WRONG " if bad else ""
        print(
            f"{flag}{name}: {outcome.said[:90]} ({outcome.n_bytes / 1e6:.0f} MB, {outcome.seconds:.2f} s)", flush=True
        )
    limits = f"at most {most / 1e6:.0f} MB and {slowest:.2f} s of CPU"
    print(f"{n} hostile archives, {n_bad} not refused as they should be, {limits}")
    return 1 if n_bad else 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
