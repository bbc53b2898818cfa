"""``torch.save`` in an envelope that shows every damage.

A sealed file is a header of 64 bytes (mark, version, length, SHA-256) and what ``torch.save`` writes. The digest
matters: of the files that torch, safetensors or ``.npy`` write, 99 % load without a murmur after one flipped bit, with
other weights. The pickle inside is read by ``torch.load(weights_only=True)``, and only once the digest is right.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from typing import Any, BinaryIO

import torch

from .atomic import DISK_ERRORS
from .errors import FileFormatError

_HEADER = struct.Struct(">16sIIQ32s")  # mark, version, zero, length, SHA-256: 64 bytes, so the tensors stay aligned
_MARK = b"\x89torchlayer-ck\r\n"
_VERSION = 1
_CHUNK = 1 << 20


def write_sealed(f: BinaryIO, content: Any) -> None:
    """Write ``content`` to a seekable file that is empty.

    Raises:
        OSError: the disk is full, or fails.
    """
    f.write(bytes(_HEADER.size))
    digested: Any = _DigestedWriter(f)
    try:
        torch.save(content, digested)
    except Exception:
        if digested.error is not None:  # torch goes on writing after it, and then misses the bytes: "unexpected pos"
            raise (_innocent(digested.error) or digested.error) from None
        raise
    f.seek(0)
    f.write(_HEADER.pack(_MARK, _VERSION, 0, digested.n_bytes, digested.sha256.digest()))


def read_sealed(path: str | os.PathLike[str]) -> Any:
    """Read what `write_sealed` wrote, tensors on the CPU.

    Raises:
        FileFormatError: damaged, cut off, or something else; the text says which.
        FileNotFoundError: there is no such file.
        MemoryError: there is not the memory for it.
    """
    with open(path, "rb") as f:
        header = f.read(_HEADER.size)
        if header[:16] != _MARK:
            raise FileFormatError(path, "it is not a checkpoint of torchlayer" + _guess(header), 0)
        if len(header) < _HEADER.size:
            raise FileFormatError(path, "it is cut off in its header", len(header))
        _, version, zero, n_bytes, sha256 = _HEADER.unpack(header)
        if version != _VERSION or zero:
            raise FileFormatError(path, f"it is of format {version}.{zero}, this version reads {_VERSION}.0", 16)
        found = os.fstat(f.fileno()).st_size - _HEADER.size
        if found != n_bytes:
            raise FileFormatError(path, f"it has {found} bytes of content, its header announces {n_bytes}", 24)
        digest = hashlib.sha256()
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
        if digest.digest() != sha256:
            raise FileFormatError(path, "its content has changed since it was written (the SHA-256 differs)", 32)
        payload: Any = _Payload(f)
        payload.seek(0)
        try:
            content = torch.load(payload, map_location="cpu", weights_only=True)
        except Exception as e:  # the digest is right, so the writer was not ours; torch raises eight kinds
            innocent = _innocent(payload.error) or _innocent(e)
            if innocent is not None:
                raise innocent from None
            wanted = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(e))
            if wanted and int(wanted[1]) <= n_bytes:  # no more than the file has
                raise MemoryError(f"there is not the memory for '{os.fspath(path)}', of {n_bytes} bytes") from None
            raise FileFormatError(path, f"its content is not what torchlayer writes ({e})", _HEADER.size) from e
        innocent = _innocent(payload.error)  # torch tries read() where readinto() was interrupted, and says nothing
        if innocent is not None:
            raise innocent
        return content


class _DigestedWriter:
    """Counts and digests what passes through."""

    def __init__(self, f: BinaryIO) -> None:
        self._f, self.sha256, self.n_bytes = f, hashlib.sha256(), 0
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            self.sha256.update(data)
            n_bytes = self._f.write(data)
        except BaseException as e:
            self.error = e
            raise
        self.n_bytes += n_bytes
        return n_bytes

    def flush(self) -> None:
        self._f.flush()


class _Payload:
    """The file behind its header, which torch.load takes for a file of its own."""

    def __init__(self, f: BinaryIO) -> None:
        self._f: Any = f
        self.error: BaseException | None = None

    def read(self, n_bytes: int = -1) -> bytes:
        try:
            if n_bytes > _CHUNK:  # Python takes memory for as many bytes as it is asked for
                n_bytes = min(n_bytes, os.fstat(self._f.fileno()).st_size)
            return self._f.read(n_bytes)
        except BaseException as e:
            self.error = e
            raise

    def readinto(self, buffer: Any) -> int:
        try:
            return self._f.readinto(buffer)
        except BaseException as e:
            self.error = e
            raise

    def readline(self) -> bytes:
        return self._f.readline()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._f.seek(offset + (_HEADER.size if whence == os.SEEK_SET else 0), whence) - _HEADER.size

    def tell(self) -> int:
        return self._f.tell() - _HEADER.size


def _innocent(error: BaseException | None) -> BaseException | None:
    """The interrupt, or the failure of the disk or the memory, that an error is or came of: not the file's fault.

    A signal that arrives while torch reads makes a SystemError of the next call, whose cause it is.
    """
    while error is not None:
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            return error
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        error = error.__cause__
    return None


def _guess(header: bytes) -> str:
    if header.startswith(b"PK"):
        return (
            "; perhaps a plain torch.save file, for torch.load(path, weights_only=True), or a .npz, for files.load_npz"
        )
    return f", which starts with {_MARK!r}" if header else ": it is empty"
