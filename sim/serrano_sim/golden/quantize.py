# SPDX-License-Identifier: Apache-2.0
"""Dynamic quantization of a vector and the scale of RMSNorm: docs/numerics.md, section 5."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_range, check_signed, check_unsigned, int64, limit, msb, qmax, rhu
from .scale import ONE, Scale, mul, normalized
from .tables import recip, rsqrt

ZERO_EXPONENT = -40


@dataclasses.dataclass(frozen=True, eq=False)
class Normalized:
    """Steps 1 to 3: vectors brought to 17 bits by one shift each.

    Parameters
    ----------
    zero
        [...]: the vector is all zero, and the rest means nothing.
    n
        [...]: the right shift, -15 .. 16.
    v
        [..., length]: normalized elements [s18], magnitudes at most 2^16.
    a
        [...]: the maximum rounded up to 11 bits, 2^15 .. 2^16.
    """

    zero: np.ndarray
    n: Int
    v: Int
    a: Int


def normalize(x: ArrayLike) -> Normalized:
    """Steps 1 to 3 for vectors along the last axis."""
    x = int64(x)
    peak = check_range(np.max(np.abs(x), axis=-1), 0, (1 << 32) - 1, "Magnitude of a vector to be quantized")
    zero = peak == 0
    peak = np.maximum(peak, 1)
    n = msb(peak) - 15
    v = check_range(rhu(x, n[..., None]), -(1 << 16), 1 << 16, "Normalized element")
    return Normalized(zero, n, v, (rhu(peak, n) + 31) & ~31)


def codes(norm: Normalized, bits: int = 8) -> Int:
    """Steps 4 and 5: the codes of normalized vectors."""
    top = qmax(bits)
    c = check_unsigned(rhu(top * recip(norm.a), bits - 1), 16, "Quantizer's factor")
    code = limit(rhu(norm.v * c[..., None], 32 - bits), -top, top)
    return np.where(norm.zero[..., None], 0, code)


def quantize(x: ArrayLike, bits: int = 8) -> tuple[Int, Scale]:
    """Codes and scale of vectors in Q16.

    Parameters
    ----------
    x
        [..., length], magnitudes below 2^32.
    bits
        Width of the codes.

    Returns
    -------
    codes, scale
        [..., length], at most `2^(bits-1) - 1` in magnitude; [...], each exact in packed form.
    """
    norm = normalize(x)
    scale = normalized(np.where(norm.zero, ONE, norm.a), np.where(norm.zero, ZERO_EXPONENT, norm.n - 1))
    return codes(norm, bits), scale


def rms_norm(x: ArrayLike, s_eps: Scale, bits: int = 8) -> tuple[Int, Scale]:
    """Codes and scale of `x / sqrt(sum(x^2) + eps * D)`.

    The factor `sqrt(D)` and the gains are in the weights that follow.

    Parameters
    ----------
    x
        Residual rows [..., D], Q16 in int32.
    s_eps
        One scale, `eps * D`.
    bits
        Width of the codes.
    """
    norm = normalize(check_signed(x, 32, "Residual"))
    total = np.sum(norm.v * norm.v, axis=-1) + rms_eps(s_eps, norm.n)
    # An all-zero row has no sum to take the root of; its scale is replaced below.
    k = msb(np.maximum(total, 1 << 30)) & ~1
    r = rsqrt(np.where(norm.zero, 1 << 16, rhu(total, k - 16)))
    scale = mul(normalized(norm.a, 15), normalized(r, -1 - k // 2))
    scale = Scale(np.where(norm.zero, ONE, scale.m), np.where(norm.zero, ZERO_EXPONENT, scale.e))
    return codes(norm, bits), scale


def rms_eps(s_eps: Scale, n: ArrayLike) -> Int:
    """`eps * D` in the units of a sum of squares of elements that were normalized by a shift of `n`."""
    t = limit(s_eps.e + 17 - 2 * int64(n), -63, 46)
    return rhu(s_eps.m, -t)
