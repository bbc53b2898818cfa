"""Arrays of bytes in IDX files, the format of MNIST, packed by gzip or not."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib

import numpy as np

from .errors import FileFormatError

_DEFLATE_RATIO = 1032  # deflate cannot pack tighter, so a header that announces more lies


def read_idx(path: str | os.PathLike[str], n_axes: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes. What the header announces is checked before memory is taken for it.

    Args:
        path: the file; packed if its name ends in ``.gz``.
        n_axes: how many axes it must have: 1 for labels, 3 for images.

    Raises:
        FileFormatError: not IDX, not of bytes, another number of axes, cut off, too long, or damaged.

    Reference:
        LeCun, Cortes, Burges, The MNIST database, http://yann.lecun.com/exdb/mnist/: two zero bytes, the type (8 is
        unsigned byte), the number of axes; each length as a big-endian 32-bit integer; the data.
    """
    packed = os.fspath(path).endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as f:
            start = f.read(4)
            if start != bytes((0, 0, 8, n_axes)):
                raise FileFormatError(path, f"it starts with {start.hex(' ')}, not 00 00 08 {n_axes:02x}", 0)
            lengths = f.read(4 * n_axes)
            if len(lengths) < 4 * n_axes:
                raise FileFormatError(path, "the header is cut off", 4)
            shape = struct.unpack(f">{n_axes}I", lengths)
            n_bytes = math.prod(shape)
            if n_bytes > os.path.getsize(path) * (_DEFLATE_RATIO if packed else 1):
                raise FileFormatError(path, f"it announces {shape}, more than the file can hold", 4)
            data = f.read(n_bytes)
            if len(data) < n_bytes:
                raise FileFormatError(path, f"it ends after {len(data)} of {n_bytes} bytes", 4 + 4 * n_axes + len(data))
            if f.read(1):  # reading past the end is also what makes gzip compare its checksum
                raise FileFormatError(path, f"it goes on after the {n_bytes} bytes announced", 4 + 4 * n_axes + n_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise FileFormatError(path, f"the gzip data is damaged or cut off ({e})") from e
    try:
        return np.frombuffer(data, np.uint8).reshape(shape)
    except ValueError as e:  # no bytes, and lengths beside the 0 whose product is beyond NumPy
        raise FileFormatError(path, f"it announces {shape}, which no array can be ({e})", 4) from None
