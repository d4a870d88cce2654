# SPDX-License-Identifier: Apache-2.0
"""Scales, their packed form and their product: docs/numerics.md, section 2."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .fixed import Int, check_range, check_signed, check_unsigned, int64, rhu

ONE = 1 << 15
BIAS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """An array of scales of value `m * 2^(e - 15)`.

    Parameters
    ----------
    m
        Mantissas in [2^15, 2^16), u16.
    e
        Exponents, s8. Broadcast to the shape of `m`.
    """

    m: Int
    e: Int

    def __post_init__(self):
        m, e = np.broadcast_arrays(int64(self.m), int64(self.e))
        object.__setattr__(self, "m", check_range(m, ONE, 2 * ONE - 1, "Mantissa of a scale"))
        object.__setattr__(self, "e", check_signed(e, 8, "Exponent of a scale"))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.m.shape

    @property
    def value(self) -> NDArray[np.float64]:
        """The scales as floats, exactly."""
        return np.ldexp(self.m.astype(np.float64), (self.e - 15).astype(np.int32))

    def __getitem__(self, index: Any) -> Scale:
        return Scale(self.m[index], self.e[index])

    def reshape(self, *shape: int) -> Scale:
        return Scale(self.m.reshape(*shape), self.e.reshape(*shape))


def pack(s: Scale) -> NDArray[np.uint16]:
    """The 16-bit form; refuses a scale that it does not represent exactly."""
    f = s.m - ONE
    if np.any(f & 31):
        raise ValueError(f"A packed mantissa has 10 bits, not {int(s.m[(f & 31) != 0].flat[0])}")
    e = check_range(s.e, -BIAS, 23, "Exponent of a packed scale")
    return ((e + BIAS) << 10 | f >> 5).astype(np.uint16)


def unpack(code: ArrayLike) -> Scale:
    """The scale that a 16-bit code stands for."""
    code = check_unsigned(code, 16, "Packed scale")
    return Scale(ONE + 32 * (code & 1023), (code >> 10) - BIAS)


def normalized(m: ArrayLike, e: ArrayLike) -> Scale:
    """The scale `(m, e)`, where a mantissa of 2^16 is rewritten as `(2^15, e + 1)`."""
    m, e = np.broadcast_arrays(int64(m), int64(e))
    carry = m == 2 * ONE
    return Scale(np.where(carry, ONE, m), e + carry)


def mul(a: Scale, b: Scale) -> Scale:
    """Product of scales, rounded half up to 16 bits of mantissa. Shapes broadcast."""
    p = check_unsigned(a.m * b.m, 32, "Product of mantissas")
    high = p >= 1 << 31
    return normalized(np.where(high, rhu(p, 16), rhu(p, 15)), a.e + b.e + high)
