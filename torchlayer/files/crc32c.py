"""CRC-32C, the checksum of TFRecord files: by table look-ups over whole blocks, or by google-crc32c where installed.

A checksum is linear: that of a block is the XOR of what each byte, at its place, contributes on its own. So the
contributions are looked up for all bytes of a block at once, and blocks are put together one after the other. On one
core of an Intel Xeon that reads 250 to 300 MB a second, twenty-five times as many as a loop over bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's 0x1EDC6F41, lowest bit first
_BLOCK = 1024  # bytes; a table of 1 MiB, which a core's own cache holds
_AT_ONCE = 256  # blocks a look-up, so that its indices stay in the cache, too
_SHORT = 24  # bytes; below this a loop is faster than a call of NumPy
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The checksum as iSCSI defines it (polynomial of Castagnoli, inverted before and after).

    Reference:
        Castagnoli, Bräuer, Herrmann 1993, https://doi.org/10.1109/26.231911; RFC 3720, appendix B.4.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    if len(data) >= _SHORT and (native := _google_crc32c()) is not None:
        return native.value(bytes(data))
    return crc32c_plain(data)


def crc32c_plain(data: bytes | bytearray | memoryview) -> int:
    """The same, always by our own tables."""
    if len(data) < _SHORT:
        state, table = 0xFFFFFFFF, _byte_table()
        for byte in bytes(data):
            state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
        return state ^ 0xFFFFFFFF
    view = np.frombuffer(data, np.uint8)
    n_blocks = -(-len(view) // _BLOCK)
    padded = np.zeros(n_blocks * _BLOCK, np.uint8)  # zeros in front of a message add nothing to it
    start = len(padded) - len(view)
    padded[start:] = view
    padded[start : start + 4] ^= 0xFF  # the state a checksum starts from, all ones, goes into the first four bytes
    state, (shift0, shift1, shift2, shift3) = 0, _shift_tables()
    for block in _of_blocks(padded.reshape(n_blocks, _BLOCK)):
        state = shift0[state & 0xFF] ^ shift1[state >> 8 & 0xFF] ^ shift2[state >> 16 & 0xFF] ^ shift3[state >> 24]
        state ^= block
    return state ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """The checksum, turned and shifted as TFRecord files store it, so that sums of data with sums in it stay good ones.

    Reference:
        https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _of_blocks(blocks: np.ndarray) -> list[int]:
    """What each row, alone and from a state of zero, comes to."""
    table, offsets = _block_table()
    found = []
    for some in np.split(blocks, range(_AT_ONCE, len(blocks), _AT_ONCE)):
        found += np.bitwise_xor.reduce(table.take(some + offsets), axis=1).tolist()
    return found


@cache
def _byte_table() -> list[int]:
    """The state that one byte makes of a state of zero."""
    states = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        states = np.where(states & 1, states >> 1 ^ np.uint32(_POLYNOMIAL), states >> 1)
    return states.tolist()


@cache
def _block_table() -> tuple[np.ndarray, np.ndarray]:
    """The state at a block's end for each place in it and each byte there, and where a place's row begins."""
    one = np.array(_byte_table(), np.uint32)
    table = np.empty((_BLOCK, 256), np.uint32)
    table[-1] = one
    for place in range(_BLOCK - 2, -1, -1):  # a zero byte more after it
        after = table[place + 1]
        table[place] = one[after & 0xFF] ^ after >> 8
    return table.ravel(), 256 * np.arange(_BLOCK, dtype=np.intp)


@cache
def _shift_tables() -> list[list[int]]:
    """What a block of zeros makes of each of a state's four bytes: they act as a block's first four do."""
    return _block_table()[0].reshape(_BLOCK, 256)[:4].tolist()


@cache
def _google_crc32c() -> Any:
    try:
        import google_crc32c
    except ImportError:
        return None
    return google_crc32c if google_crc32c.implementation == "c" else None  # its Python fallback is slower than ours
