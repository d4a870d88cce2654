# SPDX-License-Identifier: Apache-2.0
"""The N x N array, tile by tile, with the two-byte weights of attention.

docs/tape.md, section 3, and docs/numerics.md, section 7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .fixed import Int, check_range, check_signed, check_unsigned, int64


def tiles(w: ArrayLike, n: int) -> Int:
    """Weights [k, n_out] as the tape holds them: [blocks, tiles, n, n], zero-padded."""
    w = int64(w)
    k, n_out = w.shape
    depth, blocks = -(-k // n), -(-n_out // n)
    padded = np.zeros((depth * n, blocks * n), dtype=np.int64)
    padded[:k, :n_out] = w
    return padded.reshape(depth, n, blocks, n).transpose(2, 0, 1, 3)


def tile_product(x: ArrayLike, w: ArrayLike) -> Int:
    """What leaves the bottom edge for one tile: `x @ w`, partial sums of 16 + ceil(log2 n) bits.

    Parameters
    ----------
    x
        Row operands [rows, n], -128 .. 255: signed codes or unsigned bytes of p [s9].
    w
        Tile [n, n], int8; w[i, j] is the weight from input i to output j.
    """
    x = check_range(x, -128, 255, "Row operand")
    w = check_signed(w, 8, "Weight")
    n = w.shape[0]
    return check_signed(x @ w, 16 + (n - 1).bit_length(), "Partial sum")


def matmul(x: ArrayLike, w: ArrayLike, n: int, width: int = 32) -> Int:
    """`x @ w` on an n x n array: [rows, n_out] from rows [rows, k] and weights [k, n_out].

    The tiles of a block accumulate at the bottom edge, in `width` bits.
    """
    x, w = int64(x), int64(w)
    grid = tiles(w, n)
    blocks, depth = grid.shape[:2]
    rows = np.zeros((x.shape[0], depth * n), dtype=np.int64)
    rows[:, : x.shape[1]] = x
    result = np.zeros((x.shape[0], blocks * n), dtype=np.int64)
    for block in range(blocks):
        bank = result[:, block * n : (block + 1) * n]
        for tile in range(depth):
            bank += tile_product(rows[:, tile * n : (tile + 1) * n], grid[block, tile])
            check_signed(bank, width, "Accumulator")
    return result[:, : w.shape[1]]


def split_bytes(p: ArrayLike) -> tuple[Int, Int]:
    """High and low bytes of P [u16], the two rows that pass through one tile of V."""
    p = check_unsigned(p, 16, "P")
    return p >> 8, p & 255


def weighted_values(p: ArrayLike, v: ArrayLike, n: int, width: int = 40) -> Int:
    """`p @ v` on an n x n array, the high and the low bytes as rows of their own.

    Parameters
    ----------
    p
        [rows, tokens], u16.
    v
        [tokens, head_dim], int8.

    Returns
    -------
    o
        [rows, head_dim] in `width` bits.
    """
    high, low = split_bytes(p)
    total = 256 * matmul(high, v, n, width) + matmul(low, v, n, width)
    return check_signed(total, width, "Weighted sum of values")
