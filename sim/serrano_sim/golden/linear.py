# SPDX-License-Identifier: Apache-2.0
"""Projections: exact products of codes, dequantization and the residual: docs/numerics.md, section 3."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .fixed import Int, check_signed, int64, limit, rhu_sat32, sat32
from .scale import Scale, mul


def product(x: ArrayLike, w: ArrayLike) -> Int:
    """`x @ w` of integers, exactly, through the float matrix product of a type that holds every partial sum.

    Leading dimensions broadcast as in numpy's matmul. Floats are accepted if they hold integers.
    """
    x, w = np.asarray(x), np.asarray(w)
    bound = _peak(x) * _peak(w) * x.shape[-1]
    if bound < 1 << 24:
        kind = np.float32
    elif bound < 1 << 53:
        kind = np.float64
    else:
        raise OverflowError(
            f"A sum of {x.shape[-1]} products may reach {bound}, which no float holds exactly"
        )
    # All of it is finite; some BLAS kernels raise the flag over lanes that they do not use.
    with np.errstate(invalid="ignore"):
        return np.matmul(x.astype(kind, copy=False), w.astype(kind, copy=False)).astype(np.int64)


def _peak(x: NDArray) -> int:
    # Ranges of narrow types are known; wide ones are looked at.
    if x.dtype.kind == "i" and x.dtype.itemsize <= 2:
        return 1 << (8 * x.dtype.itemsize - 1)
    return max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0


def accumulate(x: ArrayLike, w: ArrayLike, width: int = 32) -> Int:
    """Accumulators of a projection.

    Parameters
    ----------
    x
        Codes of the rows, [rows, k].
    w
        Codes of the weights, [n_out, k].
    width
        Width of an accumulator, which every result must fit. More than 32 is for 16-bit codes only.

    Returns
    -------
    acc
        [rows, n_out].
    """
    return check_signed(product(x, np.asarray(w).T), width, "Accumulator")


def dequantize(acc: ArrayLike, s: Scale) -> Int:
    """`acc * s` in Q16, rounded once, saturating to int32. Shapes broadcast."""
    return rhu_sat32(int64(acc) * s.m, limit(-(s.e + 1), -16, 63))


def linear(x: ArrayLike, s_x: Scale, w: ArrayLike, s_w: Scale, width: int = 32) -> Int:
    """Linear outputs in Q16, [rows, n_out].

    Parameters
    ----------
    x, s_x
        Codes [rows, k] and scales [rows] of the rows.
    w, s_w
        Codes [n_out, k] and scales [n_out] of the output channels.
    width
        Width of an accumulator.
    """
    return dequantize(accumulate(x, w, width), mul(s_x[..., None], s_w))


def residual(x: ArrayLike, y: ArrayLike) -> Int:
    """`sat32(x + y)`: the residual stream takes up a projection."""
    return sat32(int64(x) + int64(y))
