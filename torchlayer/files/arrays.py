"""Named arrays in one zip, as ``numpy.savez`` lays them out: written whole, read without trust."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from .atomic import DISK_ERRORS, atomic_write
from .errors import FileFormatError

_DEFLATE_RATIO = 1032  # deflate cannot pack tighter, so an entry that claims more lies
_MAX_ENTRIES = 200_000
_CHUNK = 1 << 24
_HEADER = 12 + 10_000  # NumPy refuses longer headers, but reads them first
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal arrays make equal files


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` in their order, atomically; ``numpy.load`` reads the result too."""
    with atomic_write(path) as f, zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy", _EPOCH), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)  # type: ignore[arg-type]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every array, in the order of the file. Sizes are checked before memory is taken, sums before bytes are used.

    Raises:
        FileFormatError: the file is no such archive, is damaged, or holds pickled objects.
        FileNotFoundError: there is no such file.
    """
    with open(path, "rb") as f:
        n_bytes = os.fstat(f.fileno()).st_size
        try:
            with zipfile.ZipFile(f) as archive:
                entries = archive.infolist()
                _check_sizes(path, entries, n_bytes)
                return {info.filename[:-4]: _parse(path, info, _contents(archive, info)) for info in entries}
        except (FileFormatError, MemoryError):
            raise
        except Exception as e:  # zipfile raises a dozen kinds on damaged bytes, OSError and struct.error among them
            if isinstance(e, OSError) and e.errno in DISK_ERRORS:
                raise
            raise FileFormatError(path, f"damaged, or not a zip of arrays ({e})") from e


def with_suffix(name: str | os.PathLike[str], suffix: str) -> str:
    """``name`` as NumPy would save it: the suffix is added where it is missing."""
    path = os.fspath(name)
    return path if path.endswith(suffix) else path + suffix


def existing_file(name: str | os.PathLike[str], suffix: str) -> str:
    """``name``, or ``name`` with the suffix that `with_suffix` added when it was saved.

    Raises:
        FileNotFoundError: neither is a file.
    """
    path = os.fspath(name)
    for candidate in (path, path + suffix):
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError(f"there is no file '{path}' (looked in '{os.path.dirname(os.path.abspath(path))}')")


def _check_sizes(path: str | os.PathLike[str], entries: list[zipfile.ZipInfo], n_bytes: int) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise FileFormatError(path, f"{len(entries)} entries, more than {_MAX_ENTRIES}")
    if len({info.filename for info in entries}) < len(entries):
        raise FileFormatError(path, "two entries have the same name")
    if sum(info.compress_size for info in entries) > n_bytes:
        raise FileFormatError(path, "its entries claim more bytes than the file has")
    for info in entries:
        if info.header_offset < 0:
            raise FileFormatError(path, f"entry '{info.filename}' claims to lie before the file's beginning")
        if not info.filename.endswith(".npy"):
            raise FileFormatError(path, f"entry '{info.filename}' is not an array")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FileFormatError(path, f"entry '{info.filename}' is packed in a way NumPy never uses")
        if info.file_size > info.compress_size * (_DEFLATE_RATIO if info.compress_type else 1):
            raise FileFormatError(path, f"entry '{info.filename}' claims an impossible size", info.header_offset)


def _contents(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    """All bytes of one entry. Reading to the end is what makes zipfile compare the checksum."""
    buffer = bytearray(info.file_size)
    view, n_read = memoryview(buffer), 0
    with archive.open(info) as entry:
        while chunk := entry.read(_CHUNK):
            view[n_read : n_read + len(chunk)] = chunk
            n_read += len(chunk)
        if n_read != info.file_size or entry.read(1):
            raise zipfile.BadZipFile(f"'{info.filename}' has {n_read} bytes, {info.file_size} were announced")
    return buffer


def _parse(path: str | os.PathLike[str], info: zipfile.ZipInfo, buffer: bytearray) -> np.ndarray:
    name, stream = info.filename, io.BytesIO(buffer[:_HEADER])
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as e:  # KeyError, ValueError, TokenError, RecursionError …
        raise FileFormatError(path, f"entry '{name}' has no valid array header ({e})", info.header_offset) from e
    if dtype.hasobject:
        raise FileFormatError(
            path,
            f"entry '{name}' holds pickled objects, as TensorLayer 1.x wrote them, and unpickling runs whatever code "
            "the file brings. Convert it once, which runs none of it: "
            f"python -m torchlayer convert {os.path.basename(path)} new.npz",
        )
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(buffer) - stream.tell():
        raise FileFormatError(path, f"entry '{name}' is not as long as its shape {shape} needs", info.header_offset)
    return np.ndarray(shape, dtype, buffer, stream.tell(), order="F" if fortran else "C")
