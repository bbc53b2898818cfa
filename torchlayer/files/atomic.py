"""Files that are whole or not there, whatever kills the writer."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

_serial = itertools.count()
_token = os.urandom(4).hex()  # a restarted container gives the same pid to the next process


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that no reader and no crash ever meets half a file.

    The bytes go to a temporary name in the same folder (a rename works only within one file system), are flushed to
    the disk, and take the final name in one step; an exception leaves the old file as it was. Temporary files of
    writers that died are removed.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        ValueError: ``path`` is a device, a pipe or a socket.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with atomic_write(folder.name + "/a.bin") as f:
    ...     _ = f.write(b"whole")
    >>> os.listdir(folder.name)
    ['a.bin']
    >>> folder.cleanup()
    """
    target = Path(os.path.realpath(path))  # as open() does: a link keeps pointing, its target changes
    mode = _mode_of(target)
    sweep(target)
    temporary = temporary_name(target)
    # Not tempfile: that creates 0600 whatever the umask says, and a checkpoint is often read by somebody else.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as f:
            if mode is not None:
                os.chmod(temporary, mode)
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


def temporary_name(target: Path) -> Path:
    """A name beside ``target`` that says which process made it, for `sweep`."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{_token}-{next(_serial)}.tmp")


def sweep(target: Path) -> None:
    """Remove what dead processes of this machine left under temporary names of ``target``."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.{_host()}-(\d+)-([0-9a-f]+)-\d+\.tmp")
    try:
        names = os.listdir(target.parent)
    except OSError:
        return  # the caller's own open() names the folder's trouble better
    for name in names:
        match = pattern.fullmatch(name)
        if match is None or _alive(int(match[1]), match[2]):
            continue
        stray = target.with_name(name)
        with contextlib.suppress(OSError):  # read-only folder, or another process swept first
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode_of(target: Path) -> int | None:
    """Permissions to keep from the file that is replaced; refuses what must not be replaced."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"cannot write '{target}': it is a folder, please give a file name")
    if not stat.S_ISREG(mode):
        raise ValueError(f"cannot write '{target}': it is not a regular file, and a rename would replace it")
    return stat.S_IMODE(mode)


def _alive(pid: int, token: str) -> bool:
    if pid == os.getpid():
        return token == _token
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    """Pids mean nothing to another machine that shares the folder."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
