# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of adjacent pairs, and the static mean of k: docs/numerics.md, section 6."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_signed, rhu, sat32


def rotate(x: ArrayLike, table: ArrayLike) -> Int:
    """Rotates each pair `(2i, 2i + 1)` of the last axis.

    Parameters
    ----------
    x
        Linear outputs in Q16, [..., head_dim].
    table
        `(cos, sin)` per pair [s16], 15 fraction bits: [..., head_dim / 2, 2]. Leading dimensions broadcast.
    """
    x = check_signed(x, 32, "Operand of the rotation")
    table = check_signed(table, 16, "Entry of the RoPE table")
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = table[..., 0], table[..., 1]
    pair = (sat32(rhu(a * c - b * s, 15)), sat32(rhu(a * s + b * c, 15)))
    rotated = np.stack(pair, axis=-1)
    return rotated.reshape(*rotated.shape[:-2], -1)


def subtract_mean(k: ArrayLike, mean: ArrayLike) -> Int:
    """Rotated keys in Q16 less their static mean, which is [s16] with 8 fraction bits. Shapes broadcast."""
    return sat32(check_signed(k, 32, "Rotated key") - 256 * check_signed(mean, 16, "Mean of k"))
