# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import scale
from serrano_sim.golden.scale import Scale


def test_every_packed_code_comes_back():
    codes = np.arange(1 << 16)
    s = scale.unpack(codes)
    assert np.array_equal(scale.pack(s), codes)
    assert (s.m.min(), s.m.max(), s.e.min(), s.e.max()) == (1 << 15, (1 << 16) - 32, -40, 23)
    assert list(zip(s.m[::997].tolist(), s.e[::997].tolist(), strict=True)) == [
        page.unpack(int(code)) for code in codes[::997]
    ]
    # Codes order like values.
    assert (np.diff(s.value) > 0).all()


def test_zero_code_is_the_smallest_scale():
    assert scale.unpack(0).value == 2.0**-40


def test_pack_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"^A packed mantissa has 10 bits, not 32769$"):
        scale.pack(Scale((1 << 15) + 1, 0))
    with pytest.raises(
        OverflowError, match=r"^Exponent of a packed scale must be in -40 .. 23, not 24 .. 24$"
    ):
        scale.pack(Scale(1 << 15, 24))
    with pytest.raises(OverflowError, match=r"^Exponent of a packed scale must be in -40 .. 23, not -41"):
        scale.pack(Scale(1 << 15, -41))


def test_scale_refuses_a_mantissa_or_exponent_out_of_range():
    for m in (1 << 16, (1 << 15) - 1, 0):
        with pytest.raises(
            OverflowError, match=rf"^Mantissa of a scale must be in 32768 .. 65535, not {m} .. {m}$"
        ):
            Scale(m, 0)
    with pytest.raises(
        OverflowError, match=r"^Exponent of a scale must fit in 8 bits signed, not 128 .. 128$"
    ):
        Scale(1 << 15, 128)


def test_product():
    rng = np.random.default_rng(3)
    edges = [1 << 15, (1 << 15) + 1, 46340, 46341, (1 << 16) - 2, (1 << 16) - 1]
    a_m = np.concatenate([np.repeat(edges, len(edges)), rng.integers(1 << 15, 1 << 16, 3000)])
    b_m = np.concatenate([np.tile(edges, len(edges)), rng.integers(1 << 15, 1 << 16, 3000)])
    a, b = Scale(a_m, rng.integers(-40, 24, len(a_m))), Scale(b_m, rng.integers(-40, 24, len(b_m)))
    product = scale.mul(a, b)
    expected = [
        page.mul(*pair) for pair in zip(zip(a.m, a.e, strict=True), zip(b.m, b.e, strict=True), strict=True)
    ]
    assert list(zip(product.m, product.e, strict=True)) == expected
    exact = a.value * b.value
    assert np.max(np.abs(product.value / exact - 1)) <= 2.0**-16


def test_product_carries_to_the_next_power_of_two():
    # 46340 * 46342 = 2^31 - 1368 rounds to 2^16 at a shift of 15.
    s = scale.mul(Scale(46340, 3), Scale(46342, 4))
    assert (int(s.m), int(s.e)) == (1 << 15, 8)


def test_shapes():
    s = scale.mul(Scale(np.full(3, 40000), 0)[:, None], Scale(np.full(5, 50000), -3))
    assert s.shape == (3, 5)
    assert s.reshape(-1).shape == (15,)
    assert Scale(np.full((2, 3), 40000), 7).e.tolist() == [[7, 7, 7]] * 2
    carried = scale.normalized([1 << 16, 40000], 5)
    assert (carried.m.tolist(), carried.e.tolist()) == ([1 << 15, 40000], [6, 5])
