"""Unpacking, with archives that try to get out, to blow up, or to lie."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from torchlayer.files import FileFormatError, extract

CONTENT = {"a.txt": b"alpha", "sub/b.bin": bytes(range(256)) * 300, "sub/deeper/c": b""}


def make_tar(path: Path, members: Any, mode: Any) -> Path:
    """``members`` are (name, content) or a TarInfo."""
    packed: Any = f"w:{mode}"
    with tarfile.open(path, packed, format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_every_kind_unpacks_whatever_it_is_called(tmp_path, kind):
    source, folder = tmp_path / "archive", tmp_path / "out"
    make_zip(source, CONTENT.items()) if kind == "zip" else make_tar(source, CONTENT.items(), kind)
    assert extract(source, folder) == [folder / name for name in CONTENT]
    assert tree(folder) == CONTENT
    assert sorted(os.listdir(folder)) == ["a.txt", "sub"]


def test_present_files_stay_and_missing_ones_come(tmp_path):
    source = make_zip(tmp_path / "a.zip", CONTENT.items())
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"edited by the user")
    extract(source, folder)
    assert tree(folder) == {**CONTENT, "a.txt": b"edited by the user"}


def test_only_the_executable_bit_is_taken_over(tmp_path):
    run, secret = tarfile.TarInfo("run"), tarfile.TarInfo("secret")
    run.mode, secret.mode = 0o7777, 0o000
    folder = tmp_path / "out"
    old = os.umask(0o022)
    try:
        extract(make_tar(tmp_path / "a", [run, secret], ""), folder)
    finally:
        os.umask(old)
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("run", "secret")] == [0o755, 0o644]


def test_leftovers_of_a_killed_unpacking_are_swept(tmp_path):
    from torchlayer.files.atomic import temporary_name

    source, folder = make_zip(tmp_path / "a.zip", CONTENT.items()), tmp_path / "out"
    ours = temporary_name(folder / "a.zip").name
    stray = folder / ours.replace(f"-{os.getpid()}-", "-4194305-")  # a pid beyond the kernel's largest
    (stray / "sub").mkdir(parents=True)
    extract(source, folder)
    assert tree(folder) == CONTENT
    assert not stray.exists()


def special(kind, name="x", target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax_name(name):
    info = tarfile.TarInfo("harmless")
    info.pax_headers = {"path": name}
    return info


OUTSIDE = [
    "../x",
    "sub/../../x",
    "/tmp/x",
    "//x",
    "..",
    "a/..",
    "C:\\x",
    "C:x",
    "..\\x",
    "sub\\..\\..\\x",
    "x:stream",
    "n" * 256,
]
HOSTILE_TAR = [
    *(([(name, b"x")], "leads out of the folder|longer than 255") for name in OUTSIDE),
    ([pax_name("../x")], "leads out"),
    ([pax_name("x/" * 600)], "path than 1024"),
    ([special(tarfile.SYMTYPE, target="/etc/passwd")], "is a link"),
    ([special(tarfile.SYMTYPE, "d", "/tmp"), ("d/x", b"x")], "is a link"),
    ([special(tarfile.SYMTYPE, "d", "."), special(tarfile.SYMTYPE, "d/e", "..")], "is a link"),
    ([("x", b"x"), special(tarfile.LNKTYPE, "y", "x")], "is a link"),
    ([special(tarfile.LNKTYPE, "y", "/etc/passwd")], "is a link"),
    ([special(tarfile.CHRTYPE)], "device"),
    ([special(tarfile.BLKTYPE)], "device"),
    ([special(tarfile.FIFOTYPE)], "device"),
    ([("x", b"1"), ("x", b"2")], "two members"),
    ([("x", b"1"), ("./x", b"2")], "two members"),
    ([("x", b"1"), ("X", b"2")], "capitals"),
    ([("x", b"1"), ("x/y", b"2")], "capitals"),
    ([("stra\u00dfe", b"1"), ("STRASSE", b"2")], "capitals"),
    ([("zeros", bytes(3_000_000))], "more than .* bytes"),
]


@pytest.mark.parametrize(("members", "text"), HOSTILE_TAR)
def test_hostile_tar_is_refused_and_nothing_is_written(tmp_path, members, text):
    source, folder = make_tar(tmp_path / "a", members, "gz"), tmp_path / "deep" / "out"
    before = tree(tmp_path)
    with pytest.raises(FileFormatError, match=text):
        extract(source, folder)
    assert tree(tmp_path) == before
    assert os.listdir(folder) == []


def zip_entry(name, mode=0):
    info = zipfile.ZipInfo("placeholder")
    info.filename, info.external_attr = name, mode << 16
    return info


HOSTILE_ZIP = [
    *(([(zip_entry(name), b"x")], "leads out of the folder|longer than 255") for name in [*OUTSIDE, "a\0b"]),
    ([(zip_entry("x", stat.S_IFLNK | 0o777), b"/etc/passwd")], "link or device"),
    ([(zip_entry("x", stat.S_IFCHR), b"")], "link or device"),
    ([(zip_entry("x/", stat.S_IFREG), b"")], "link or device"),
    ([("x", b"1"), ("X", b"2")], "capitals"),
    ([("zeros", bytes(3_000_000))], "more than .* bytes"),
]


@pytest.mark.parametrize(("members", "text"), HOSTILE_ZIP)
def test_hostile_zip_is_refused_and_nothing_is_written(tmp_path, members, text):
    source, folder = make_zip(tmp_path / "a", members), tmp_path / "deep" / "out"
    before = tree(tmp_path)
    with pytest.raises(FileFormatError, match=text):
        extract(source, folder)
    assert tree(tmp_path) == before


def test_tar_header_that_claims_gigabytes_is_refused_unread(tmp_path):
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    source = tmp_path / "a.tar"
    source.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(FileFormatError, match="claims 8589934592 bytes"):
        extract(source, tmp_path / "out")


def test_zip_member_longer_than_announced_is_cut_and_refused(tmp_path):
    source = make_zip(tmp_path / "a", [("x", b"four")])
    data = source.read_bytes()
    at = data.index(b"PK\x01\x02") + 24
    source.write_bytes(data[:at] + (3).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(FileFormatError, match="damaged"):
        extract(source, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"hello" * 200])
def test_what_is_no_archive_is_refused(tmp_path, content):
    source = tmp_path / "a"
    source.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        extract(source, tmp_path / "out")


def test_missing_archive_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        extract(tmp_path / "nowhere.zip", tmp_path)


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_damaged_archive_raises_one_kind_of_error_and_writes_nothing_outside(tmp_path, kind):
    good, source = tmp_path / "good", tmp_path / "bad"
    make_zip(good, CONTENT.items()) if kind == "zip" else make_tar(good, CONTENT.items(), kind)
    data, rng = good.read_bytes(), random.Random(kind)
    refused = 0
    for i in range(60):
        bad = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        source.write_bytes(bad[: rng.randrange(len(bad))] if i % 4 == 0 else bad)
        folder = tmp_path / "in" / str(i)
        try:
            extract(source, folder)
        except FileFormatError:
            refused += 1
    assert refused > 10
    assert sorted(os.listdir(tmp_path)) == ["bad", "good", "in"]


@pytest.mark.parametrize("mode", ["", "gz"])
def test_tar_that_lost_its_end_is_not_taken_for_a_shorter_one(tmp_path, mode):
    """Python's tarfile takes a broken header, or the end of the file, for the end of the archive."""
    whole = make_tar(tmp_path / "whole", [("a", b"x" * 600), ("b", b"y")], "").read_bytes()
    second = 512 + 1024
    for data in (whole[:second], whole[: second + 100], whole[:second] + b"\xff" + whole[second + 1 :]):
        (tmp_path / "a").write_bytes(gzip.compress(data) if mode else data)
        with pytest.raises(FileFormatError, match="it is cut off, or a header in it is broken"):
            extract(tmp_path / "a", tmp_path / "out")
        assert tree(tmp_path / "out") == {}


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is measured as Linux does it")
def test_hostile_archives_are_refused_and_touch_nothing(tmp_path):
    """All of attacks/hostile_archives.py but those of a million members."""
    script = Path(__file__).parent.parent / "attacks" / "hostile_archives.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if line.startswith("WRONG"))
    n = re.search(r"^(\d+) hostile archives, 0 not refused", done.stdout, re.MULTILINE)
    assert n
    assert int(n[1]) >= 60
