"""Random numbers that are a pure function of a seed and a counter, in plain tensor arithmetic.

Everything here is defined by integer operations and by single additions and multiplications of doubles, which IEEE 754
fixes to the last bit. So these functions and their twins in ``csrc/philox.h`` agree bit for bit, on every device; the
``exp`` and ``log`` of two libraries do not.

Reference:
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # 32 bits: its products with small integers are exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_TAYLOR = [1 / math.factorial(degree) for degree in range(14)]  # the next term is below 5e-18 on [-ln2 / 2, ln2 / 2]


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four random words from a counter of four words and a key of two.

    Words are 32 bits, held in int64 tensors that broadcast.

    >>> zero = torch.tensor(0)
    >>> [f"{int(word):08x}" for word in philox((zero,) * 4, (zero,) * 2)]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps beyond 2^63: the 64 bits are still the product's
        c0, c1, c2, c3 = (b >> 32) & _WORD ^ c1 ^ k0, b & _WORD, (a >> 32) & _WORD ^ c3 ^ k1, a & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def uniforms(seed: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """For each draw two uniform numbers in [0, 1): multiples of 2^-53, as float64.

    The first half of the seed is the key; the second is the upper half of the counter, the number of the draw its
    lower half.

    Shape:
        seed ``(2,)``, draws ``(n,)``, both int64; returns two ``(n,)``.
    """
    key = seed[0] & _WORD, (seed[0] >> 32) & _WORD
    counter = draws & _WORD, (draws >> 32) & _WORD, seed[1] & _WORD, (seed[1] >> 32) & _WORD
    w0, w1, w2, w3 = philox(counter, key)
    return ((w1 << 21) | (w0 >> 11)).double() * 2.0**-53, ((w3 << 21) | (w2 >> 11)).double() * 2.0**-53


def exponential(x: Tensor) -> Tensor:
    """``exp(x)`` of float64 ``0 <= x < 700``, within an ulp or two, the same bits on every device.

    ``x = n ln 2 + r`` with ``|r| <= ln 2 / 2``; a Taylor polynomial of ``r``; and ``n`` added to the exponent's bits.
    """
    n = torch.floor(x * _LOG2_E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    total = torch.full_like(r, _TAYLOR[-1])
    for coefficient in reversed(_TAYLOR[:-1]):
        total = total * r + coefficient  # two roundings, never a fused one
    return total * ((n.long() + 1023) << 52).view(torch.float64)
