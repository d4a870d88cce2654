# SPDX-License-Identifier: Apache-2.0
"""The h16 staging format and SiLU times up: docs/numerics.md, section 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_signed, check_unsigned, msb, rhu, sat32
from .tables import exp2, recip

SIGN = 1 << 15


def h16_encode(y: ArrayLike) -> Int:
    """16-bit sign-magnitude floats of integers [s32]: exact below 2^11, then 11 significant bits."""
    y = check_signed(y, 32, "Value to be staged")
    a = np.abs(y)
    n = np.maximum(msb(np.maximum(a, 1)) - 10, 0)
    return (n * 1024 + rhu(a, n)) | np.where(y < 0, SIGN, 0)


def h16_decode(code: ArrayLike) -> Int:
    """The integers that staged codes stand for; those of `h16_encode` are at most 2^31 in magnitude."""
    code = check_unsigned(code, 16, "Staged code")
    exponent, f = code >> 10 & 31, code & 1023
    a = np.where(exponent == 0, f, (1024 + f) << np.maximum(exponent - 1, 0))
    return np.where(code & SIGN, -a, a)


def sigmoid(g: ArrayLike) -> Int:
    """`1 / (1 + exp(-g))` of g in Q16 [s32], with 16 fraction bits, 0 .. 2^16."""
    g = check_signed(g, 32, "Gate")
    z = rhu(np.abs(g) * 47274, 19)
    m, i = exp2(-z)
    t = rhu(m, np.minimum(-i, 63))
    sig = recip(rhu((1 << 16) + t, 1))
    return np.where(g < 0, (1 << 16) - sig, sig)


def silu_up(g: ArrayLike, u: ArrayLike) -> Int:
    """`silu(g) * u` in Q16, saturating to int32, before it is staged."""
    g = check_signed(g, 32, "Gate")
    u = check_signed(u, 32, "Up")
    return sat32(rhu(rhu(g * sigmoid(g), 16) * u, 16))
