# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from serrano_sim.golden import matmul

SIZES = pytest.mark.parametrize("n", [4, 8, 16])


@SIZES
@pytest.mark.parametrize(("rows", "k", "n_out"), [(1, 1, 1), (3, 16, 16), (5, 43, 27), (2, 64, 5)])
def test_equals_numpy(n, rows, k, n_out):
    rng = np.random.default_rng(k)
    x, w = rng.integers(-128, 128, (rows, k)), rng.integers(-128, 128, (k, n_out))
    assert np.array_equal(matmul.matmul(x, w, n), x @ w)


@SIZES
def test_extremes(n):
    for a in (-128, 127):
        for b in (-128, 127):
            x, w = np.full((2, 3 * n + 1), a), np.full((3 * n + 1, n + 1), b)
            assert np.array_equal(matmul.matmul(x, w, n), x @ w)


def test_tiles_are_in_tape_order():
    w = np.arange(6 * 5).reshape(6, 5)
    grid = matmul.tiles(w, 4)
    assert grid.shape == (2, 2, 4, 4)
    for block in range(2):
        for tile in range(2):
            for i in range(4):
                for j in range(4):
                    row, column = tile * 4 + i, block * 4 + j
                    expected = w[row, column] if row < 6 and column < 5 else 0
                    assert grid[block, tile, i, j] == expected


def test_two_byte_weights():
    rng = np.random.default_rng(13)
    p, v = rng.integers(0, 1 << 16, (5, 48)), rng.integers(-128, 128, (48, 24))
    p[0], v[:, 0] = 65535, -128
    assert np.array_equal(matmul.weighted_values(p, v, 16), p @ v)
    high, low = matmul.split_bytes(p)
    assert (high.max(), low.max(), high.min() >= 0, low.min() >= 0) == (255, 255, True, True)
    assert np.array_equal(256 * high + low, p)


def test_widths():
    one = np.ones((4, 4), dtype=np.int64)
    for wrong in (-129, 256):
        with pytest.raises(OverflowError, match=r"^Row operand must be in -128 .. 255, not"):
            matmul.tile_product(wrong * one, one)
    with pytest.raises(OverflowError, match=r"^Weight must fit in 8 bits signed"):
        matmul.tile_product(one, 128 * one)
    with pytest.raises(OverflowError, match=r"^Accumulator must fit in 16 bits signed"):
        matmul.matmul(127 * one, 127 * one, 4, width=16)
    # The largest partial sum of unsigned bytes fits.
    assert matmul.tile_product(255 * one, -128 * one).tolist() == [[-255 * 128 * 4] * 4] * 4
