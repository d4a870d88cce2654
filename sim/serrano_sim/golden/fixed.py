# SPDX-License-Identifier: Apache-2.0
"""Rounding shifts, saturation and widths: docs/numerics.md, section 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int = NDArray[np.int64]

INT32_MIN = -(1 << 31)
INT32_MAX = (1 << 31) - 1


def int64(x: ArrayLike) -> Int:
    """The integers `x` as int64; refuses anything that is not an integer."""
    array = np.asarray(x)
    if array.dtype == np.int64:
        return array
    if array.dtype.kind not in "iub" and array.size:
        raise TypeError(f"Values must be integers, not {array.dtype}")
    if array.dtype == np.uint64 and array.size and int(array.max()) >> 63:
        raise OverflowError(f"Value {int(array.max())} does not fit in 64 bits signed")
    return array.astype(np.int64)


def check_signed(x: ArrayLike, width: int, what: str) -> Int:
    """`x`, after making sure that every element fits `width` bits in two's complement."""
    array = int64(x)
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < -(1 << (width - 1)) or high >= 1 << (width - 1):
            raise OverflowError(f"{what} must fit in {width} bits signed, not {low} .. {high}")
    return array


def check_unsigned(x: ArrayLike, width: int, what: str) -> Int:
    """`x`, after making sure that every element fits `width` bits without sign."""
    return check_range(x, 0, (1 << width) - 1, what)


def check_range(x: ArrayLike, low: int, high: int, what: str) -> Int:
    """`x`, after making sure that every element is in `[low, high]`."""
    array = int64(x)
    if array.size:
        least, most = int(array.min()), int(array.max())
        if least < low or most > high:
            raise OverflowError(f"{what} must be in {low} .. {high}, not {least} .. {most}")
    return array


def limit(n: ArrayLike, low: int, high: int) -> Int:
    """The value of `[low, high]` nearest to `n`, as shift amounts are limited."""
    return np.minimum(np.maximum(int64(n), low), high)


def rhu(x: ArrayLike, n: ArrayLike) -> Int:
    """Round half up: `floor(x / 2^n + 1/2)` for n > 0, `x * 2^-n` exactly for n <= 0.

    `x` and `n` broadcast; `n` is in -63 .. 63. The sum with one half is never formed in full, so that a right
    shift is correct for every int64.

    Raises
    ------
    OverflowError
        If an exact left shift does not fit in 64 bits.
    """
    x = int64(x)
    n = check_range(n, -63, 63, "Shift amount")
    if n.ndim == 0:
        shift = int(n)
        if shift > 0:
            return (x >> shift) + (x >> (shift - 1) & 1)
        return _left(x, -shift) if shift else x
    if not n.size or n.min() > 0:
        return (x >> n) + (x >> (n - 1) & 1)
    right = (x >> np.maximum(n, 0)) + (x >> np.maximum(n - 1, 0) & 1)
    return np.where(n > 0, right, x if n.min() == 0 else _left(x, np.maximum(-n, 0)))


def _left(x: Int, n: ArrayLike) -> Int:
    y = x << n
    if not np.array_equal(y >> n, np.broadcast_to(x, y.shape)):
        raise OverflowError("An exact left shift does not fit in 64 bits")
    return y


def sat32(x: ArrayLike) -> Int:
    """`x` limited to the range of int32."""
    return np.minimum(np.maximum(int64(x), INT32_MIN), INT32_MAX)


def rhu_sat32(x: ArrayLike, n: ArrayLike) -> Int:
    """`sat32(rhu(x, n))` for n in -16 .. 63, where the left shift itself may be of any width."""
    x, n = int64(x), check_range(n, -16, 63, "Limited shift amount")
    if n.size and n.min() < 0:
        # What saturates before the shift saturates after it.
        x = np.where(n < 0, limit(x, -(1 << 32), 1 << 32), x)
    return sat32(rhu(x, n))


def msb(x: ArrayLike) -> Int:
    """Position of the highest set bit, `floor(log2 x)`, exact for x in 1 .. 2^64 - 1 (int64 or uint64)."""
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"Values must be integers, not {array.dtype}")
    if array.size and int(array.min()) < 1:
        raise ValueError(f"The highest set bit needs values of at least 1, not {int(array.min())}")
    array = array.astype(np.uint64)
    high = (array >> np.uint64(32)).astype(np.int64)
    low = (array & np.uint64(0xFFFFFFFF)).astype(np.int64)
    # Both halves are below 2^53, so the float's exponent is that of the integer.
    above, below = (np.frexp(half.astype(np.float64))[1].astype(np.int64) for half in (high, low))
    return np.where(high > 0, above + 32, below) - 1


def qmax(bits: int) -> int:
    """Largest code of `bits`-wide operands."""
    if bits not in (8, 16):
        raise ValueError(f"Operands have 8 or 16 bits, not {bits!r}")
    return (1 << (bits - 1)) - 1


def checksum(x: ArrayLike) -> int:
    """Sum of all elements modulo 2^32, as the trace stream reports it for a packet's result."""
    return int(np.sum(int64(x), dtype=np.int64)) & 0xFFFFFFFF
