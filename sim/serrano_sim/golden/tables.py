# SPDX-License-Identifier: Apache-2.0
"""Reciprocal, reciprocal square root and power of two from tables: docs/numerics.md, section 4.

The tables are plain tuples of integers, in the order of their index.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_range, check_signed, rhu


def _power_of_two(j: int) -> int:
    """`round(2^(16 + j/256))` in integers: the 256th root of 2^(4096 + j), rounded."""
    power = 1 << (16 * 256 + j)
    guess = round(2.0 ** (16 + j / 256))
    # The float is off by far less than one half; settle the rounding exactly.
    while (2 * guess - 1) ** 256 > power << 256:
        guess -= 1
    while (2 * guess + 1) ** 256 <= power << 256:
        guess += 1
    return guess


RECIP_TABLE = tuple(((1 << 31) + (d >> 1)) // d for d in (((1 << 15) + 128 * i) for i in range(257)))
RSQRT_TABLE = tuple(
    (math.isqrt((1 << 50) // d) + 1) // 2 for d in (((1 << 16) + 512 * i) for i in range(385))
)
EXP2_TABLE = tuple(_power_of_two(j) for j in range(257))

# One more entry, so that the last index may look at its successor (which it then multiplies by zero).
_RECIP = np.array([*RECIP_TABLE, RECIP_TABLE[-1]], dtype=np.int64)
_RSQRT = np.array([*RSQRT_TABLE, RSQRT_TABLE[-1]], dtype=np.int64)
_EXP2 = np.array(EXP2_TABLE, dtype=np.int64)


def recip(m: ArrayLike) -> Int:
    """About `2^31 / m`, for m in [2^15, 2^16], both ends included; the result is in the same range."""
    offset = check_range(m, 1 << 15, 1 << 16, "Operand of recip") - (1 << 15)
    i, f = offset >> 7, offset & 127
    return _RECIP[i] - rhu((_RECIP[i] - _RECIP[i + 1]) * f, 7)


def rsqrt(w: ArrayLike) -> Int:
    """About `2^24 / sqrt(w)`, for w in [2^16, 2^18], both ends included; the result is in [2^15, 2^16]."""
    offset = check_range(w, 1 << 16, 1 << 18, "Operand of rsqrt") - (1 << 16)
    i, f = offset >> 9, offset & 511
    return _RSQRT[i] - rhu((_RSQRT[i] - _RSQRT[i + 1]) * f, 9)


def exp2(z: ArrayLike) -> tuple[Int, Int]:
    """`(M, i)` with `M * 2^(i - 16)` about `2^(z / 4096)`, M in [2^16, 2^17), for z [s32]."""
    z = check_signed(z, 32, "Operand of exp2")
    f = z & 4095
    j, g = f >> 4, f & 15
    low = _EXP2[j]
    return low + rhu((_EXP2[j + 1] - low) * g, 4), z >> 12
