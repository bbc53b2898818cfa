"""Unpacking tar and zip files that may be hostile.

Every way out of the target folder that was found in Python's own extraction needs a link, so links are refused, and so
is all else but plain files and folders.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from .atomic import DISK_ERRORS, sweep, temporary_name
from .errors import FileFormatError

_MAX_MEMBERS = 200_000
_MAX_BYTES = 20 * 10**9
_MAX_RATIO = 200  # text packs 3 to 10 times
_SMALL = 1 << 20  # below this the ratio says nothing
_MAX_NAME, _MAX_PATH = 255, 1024  # what file systems take, and a quarter of what the kernel does
_MAX_END = (1 << 16) + 22  # a zip's last record, with the longest comment
_CHUNK = 1 << 16


def extract(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Unpack a zip, or a tar of any compression, into ``folder`` and return the paths of its files.

    Files that are there already stay as they are. The others are unpacked under a temporary name first and then moved,
    so a file under its own name is complete.

    Raises:
        FileFormatError: damaged; or it holds a link, a device, a name that leads out of the folder, or too much.
    """
    source, folder = Path(archive), Path(folder)
    with _opened(source, _budget(source, folder)) as members:
        with _as_format_error(source):
            files = _checked(source, members)
        wanted = {parts: member for parts, member in files.items() if not folder.joinpath(*parts).exists()}
        if wanted:
            _unpack(source, folder, wanted)
    return [folder.joinpath(*parts) for parts in files]


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", or what it is instead
    n_bytes: int
    executable: bool
    open: Callable[[], IO[bytes]]


def _budget(source: Path, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    by_ratio = max(_MAX_RATIO * source.stat().st_size, _SMALL)
    return min(by_ratio, _MAX_BYTES, int(shutil.disk_usage(folder).free * 0.9))


def _checked(source: Path, members: list[_Member]) -> dict[tuple[str, ...], _Member]:
    """The files by the parts of their names, after every name and kind was looked at."""
    files: dict[tuple[str, ...], _Member] = {}
    folders: set[tuple[str, ...]] = set()
    for member in members:
        parts = _parts(source, member.name)
        if member.kind not in ("file", "folder"):
            raise FileFormatError(
                source, f"member '{member.name}' is a {member.kind}; only files and folders are unpacked"
            )
        if member.kind == "folder":
            folders.add(parts)
        elif not parts or parts in files:
            raise FileFormatError(source, f"two members, or none, are called '{member.name}'")
        else:
            files[parts] = member
        folders.update(parts[:i] for i in range(1, len(parts)))
    folded = {tuple(p.casefold() for p in parts) for parts in files}
    if len(folded) < len(files) or folded & {tuple(p.casefold() for p in parts) for parts in folders}:
        raise FileFormatError(source, "two of its names are the same, or differ in nothing but capitals")
    return files


def _parts(source: Path, name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or any(c in name for c in "\0\\:"):
        raise FileFormatError(source, f"member {name!r} leads out of the folder, or would on some system")
    if len(os.fsencode(name)) > _MAX_PATH or any(len(os.fsencode(part)) > _MAX_NAME for part in parts):
        raise FileFormatError(source, f"a member's name is longer than {_MAX_NAME} bytes, or its path than {_MAX_PATH}")
    return parts


def _unpack(source: Path, folder: Path, wanted: dict[tuple[str, ...], _Member]) -> None:
    sweep(folder / source.name)
    temporary = temporary_name(folder / source.name)
    temporary.mkdir()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        for parts, member in wanted.items():
            path = temporary.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o755 if member.executable else 0o644)
            with os.fdopen(descriptor, "wb") as f:
                _copy(source, member, f)
        for parts in wanted:
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary.joinpath(*parts), target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(source: Path, member: _Member, f: IO[bytes]) -> None:
    n_bytes = 0
    with _as_format_error(source), member.open() as content:
        while True:
            chunk = content.read(_CHUNK)
            n_bytes += len(chunk)
            if n_bytes > member.n_bytes or (not chunk and n_bytes < member.n_bytes):
                raise FileFormatError(source, f"member '{member.name}' is not the {member.n_bytes} bytes it announces")
            if not chunk:
                return
            f.write(chunk)


@contextlib.contextmanager
def _as_format_error(source: Path) -> Iterator[None]:
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except OSError as e:
        if e.errno in DISK_ERRORS:
            raise
        raise FileFormatError(source, f"the archive is damaged ({e})") from e
    except Exception as e:  # tarfile, zipfile and the three decompressors raise a dozen kinds on damaged bytes
        raise FileFormatError(source, f"the archive is damaged ({e!r})") from e


@contextlib.contextmanager
def _opened(source: Path, budget: int) -> Iterator[list[_Member]]:
    with contextlib.ExitStack() as stack:
        f: Any = stack.enter_context(open(source, "rb"))
        start = f.read(6)
        f.seek(0)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            with _as_format_error(source):
                _check_directory(source, f)
                archive = stack.enter_context(zipfile.ZipFile(f))
            yield _zip_members(source, archive, budget)
            return
        with _as_format_error(source):
            if start[:2] == b"\x1f\x8b":
                f = stack.enter_context(gzip.GzipFile(fileobj=f))
            elif start[:3] == b"BZh":
                f = stack.enter_context(bz2.BZ2File(f))
            elif start == b"\xfd7zXZ\x00":
                f = stack.enter_context(lzma.LZMAFile(f))
            bounded: Any = _Bounded(f, source, budget)
            container = stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
        members = _tar_members(source, container)
        if bounded.last != bytes(512):  # tarfile takes a broken header for the end, and members would be missing
            raise FileFormatError(source, "the archive is damaged: it is cut off, or a header in it is broken")
        yield members


def _zip_members(source: Path, container: zipfile.ZipFile, budget: int) -> list[_Member]:
    entries = container.infolist()
    if len(entries) > _MAX_MEMBERS:
        raise FileFormatError(source, f"it has {len(entries)} members, more than {_MAX_MEMBERS}")
    if sum(info.file_size for info in entries) > budget:
        raise FileFormatError(source, f"it would unpack to more than {budget} bytes")
    members = []
    for info in entries:
        mode = info.external_attr >> 16
        kind = "folder" if info.orig_filename.endswith("/") else "file"
        if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if kind == "folder" else stat.S_IFREG):
            kind = "link or device"
        members.append(
            _Member(info.orig_filename, kind, info.file_size, bool(mode & 0o100), lambda i=info: container.open(i))
        )
    return members


def _check_directory(source: Path, f: IO[bytes]) -> None:
    """Count a zip's entries before zipfile makes objects of them; the number that it says itself may be a lie."""
    n_bytes = f.seek(0, os.SEEK_END)
    f.seek(max(0, n_bytes - _MAX_END))
    tail = f.read(_MAX_END)
    end = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else n_bytes  # of the directory
    at = max(0, n_bytes - len(tail) + max(end, 0) - size - 100) if size < 0xFFFFFFFF else 0  # zip64: look everywhere
    f.seek(at)
    count, rest = 0, b""
    while block := f.read(_SMALL):
        count += (rest + block).count(b"PK\1\2")
        rest = block[-3:]
        if count > _MAX_MEMBERS:
            raise FileFormatError(source, f"it has more than {_MAX_MEMBERS} members")
    f.seek(0)


def _tar_members(source: Path, container: tarfile.TarFile) -> list[_Member]:
    members = []
    with _as_format_error(source):
        while (info := container.next()) is not None:
            container.members.clear()  # type: ignore[attr-defined]  # it keeps them all, and so do we
            if len(members) >= _MAX_MEMBERS:
                raise FileFormatError(source, f"it has more than {_MAX_MEMBERS} members")
            plain = info.isreg() and not info.issparse()
            kind = "folder" if info.isdir() else "file" if plain else "link, device or sparse file"

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                f = container.extractfile(info)
                if f is None:
                    raise FileFormatError(source, f"member '{info.name}' has no content")
                return f

            members.append(_Member(info.name, kind, info.size, bool(info.mode & 0o100), content))
    return members


class _Bounded:
    """A stream that stops a bomb: no position beyond the budget, no huge read (a tar header may ask for gigabytes)."""

    def __init__(self, stream: IO[bytes], source: Path, budget: int) -> None:
        self._stream, self._source, self._budget = stream, source, budget
        self.last = b""  # what was read last

    def read(self, n_bytes: int) -> bytes:
        if not 0 <= n_bytes <= _SMALL:
            raise FileFormatError(self._source, f"a header in it claims {n_bytes} bytes")
        self._within(self._stream.tell() + n_bytes)
        self.last = self._stream.read(n_bytes)
        return self.last

    def seek(self, position: int) -> int:
        self._within(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _within(self, position: int) -> None:
        if position > self._budget + _SMALL:
            raise FileFormatError(self._source, f"it would unpack to more than {self._budget} bytes")
