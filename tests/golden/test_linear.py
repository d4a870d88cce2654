# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import linear
from serrano_sim.golden.scale import Scale


@pytest.mark.parametrize(("k", "kind"), [(24, np.int8), (5000, np.int8), (700, np.int16)])
def test_products_are_exact(k, kind):
    rng = np.random.default_rng(k)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    x = rng.integers(low, high + 1, (3, k)).astype(kind)
    w = rng.integers(low, high + 1, (5, k)).astype(kind)
    x[0], w[0] = low, low
    x[1], w[1] = high, low
    assert np.array_equal(linear.accumulate(x, w, 53), x.astype(np.int64) @ w.astype(np.int64).T)
    # Wide integers and floats take the same way.
    assert np.array_equal(
        linear.product(x.astype(np.int64), w.T.astype(np.float64)), linear.accumulate(x, w, 53)
    )


def test_product_refuses_what_floats_do_not_hold():
    with pytest.raises(OverflowError, match=r"^A sum of 2 products may reach"):
        linear.product(np.array([[2**30, 1]]), np.array([[2**30], [1]]))


def test_accumulator_of_32_bits():
    k = 131072
    x = np.full((1, k), -128, dtype=np.int8)
    with pytest.raises(OverflowError, match=r"^Accumulator must fit in 32 bits signed, not 2147483648"):
        linear.accumulate(x, x)
    assert linear.accumulate(x[:, 1:], x[:, 1:]).tolist() == [[(k - 1) * 2**14]]
    # The longest reduction of codes that a quantizer makes.
    x = np.full((1, 133144), 127, dtype=np.int8)
    assert linear.accumulate(x, x).tolist() == [[133144 * 127 * 127]]


def test_dequantize_equals_the_page():
    rng = np.random.default_rng(5)
    edges = [0, 1, -1, 127, 2**31 - 1, -(2**31), 3 << 20]
    acc = np.concatenate([rng.integers(-(1 << 26), 1 << 26, 93), edges])
    for e in range(-128, 128):
        m = rng.integers(1 << 15, 1 << 16, len(acc))
        expected = [page.dequantize(int(a), (int(b), e)) for a, b in zip(acc, m, strict=True)]
        assert linear.dequantize(acc, Scale(m, e)).tolist() == expected


def test_dequantize_beyond_the_limits_of_the_shift():
    s = Scale([65535, 65535, 1 << 15], [40, -100, 15])
    assert linear.dequantize([-1, 2**31 - 1, 1], s).tolist() == [-(2**31), 0, 2**31 - 1]
    assert linear.dequantize(0, Scale(65535, 100)) == 0


def test_linear_against_floats():
    rng = np.random.default_rng(6)
    x, w = rng.integers(-127, 128, (7, 50)).astype(np.int8), rng.integers(-127, 128, (11, 50)).astype(np.int8)
    s_x = Scale(rng.integers(1 << 15, 1 << 16, 7), rng.integers(-3, 1, 7))
    s_w = Scale(rng.integers(1 << 15, 1 << 16, 11), rng.integers(-12, -9, 11))
    exact = (x.astype(float) * s_x.value[:, None]) @ (w.astype(float) * s_w.value[:, None]).T
    y = linear.linear(x, s_x, w, s_w)
    assert y.shape == (7, 11)
    assert np.all(np.abs(y - exact * 65536) <= 0.5 + np.abs(exact) * 65536 * 2.0**-16)


def test_residual_saturates():
    assert linear.residual([2**31 - 1, -(2**31), 5], [1, -1, -7]).tolist() == [2**31 - 1, -(2**31), -2]
