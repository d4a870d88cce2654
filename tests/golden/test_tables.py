# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import numpy as np
import pytest

from golden import page
from serrano_sim.golden import tables


def test_recip_over_its_whole_domain():
    m = np.arange(1 << 15, (1 << 16) + 1)
    r = tables.recip(m)
    assert (r[0], r[-1], r.min(), r.max()) == (1 << 16, 1 << 15, 1 << 15, 1 << 16)
    assert (np.diff(r) <= 0).all()
    # One unit of a result of 2^15 .. 2^16 is 2^-15.
    assert np.max(np.abs(r - 2.0**31 / m)) < 1.1
    assert r[::37].tolist() == [page.recip(int(x)) for x in m[::37]]


def test_rsqrt_over_its_whole_domain():
    w = np.arange(1 << 16, (1 << 18) + 1)
    r = tables.rsqrt(w)
    assert (r[0], r[-1], r.min(), r.max()) == (1 << 16, 1 << 15, 1 << 15, 1 << 16)
    assert (np.diff(r) <= 0).all()
    assert np.max(np.abs(r - 2.0**24 / np.sqrt(w))) < 1.3
    assert r[::97].tolist() == [page.rsqrt(int(x)) for x in w[::97]]


def test_exp2_over_a_whole_octave():
    z = np.arange(-4096, 8192)
    m, i = tables.exp2(z)
    assert (m.min(), m.max() < 1 << 17) == (1 << 16, True)
    assert np.max(np.abs(m * 2.0 ** (i - 16) / 2.0 ** (z / 4096) - 1)) < 1.6e-5
    value = m << (i + 1)
    assert (np.diff(value) > 0).all()
    assert np.array_equal(m[:4096], m[4096:8192])
    assert list(zip(m[::11], i[::11], strict=True)) == [page.exp2(int(x)) for x in z[::11]]


def test_exp2_at_the_limits_of_int32():
    m, i = tables.exp2([-(2**31), 2**31 - 1, 0, -1])
    assert i.tolist() == [-(2**19), 2**19 - 1, 0, -1]
    assert m.tolist() == [1 << 16, m[3], 1 << 16, m[1]]


@pytest.mark.parametrize(
    ("function", "low", "high", "name"),
    [(tables.recip, 1 << 15, 1 << 16, "recip"), (tables.rsqrt, 1 << 16, 1 << 18, "rsqrt")],
)
def test_operands_out_of_range(function, low, high, name):
    for wrong in (low - 1, high + 1):
        with pytest.raises(
            OverflowError, match=rf"^Operand of {name} must be in {low} .. {high}, not {wrong}"
        ):
            function(wrong)
    with pytest.raises(OverflowError, match=r"^Operand of exp2 must fit in 32 bits signed"):
        tables.exp2(2**31)


def test_entries_are_the_rounded_functions():
    assert (len(tables.RECIP_TABLE), len(tables.RSQRT_TABLE), len(tables.EXP2_TABLE)) == (257, 385, 257)
    for i, entry in enumerate(tables.RECIP_TABLE):
        assert abs(Fraction(2**31, 2**15 + 128 * i) - entry) <= Fraction(1, 2)
    for i, entry in enumerate(tables.RSQRT_TABLE):
        # (2 entry - 1)^2 <= 4 * 2^48 / d < (2 entry + 1)^2
        square = Fraction(2**50, 2**16 + 512 * i)
        assert square >= (2 * entry - 1) ** 2
        assert square < (2 * entry + 1) ** 2
    for j, entry in enumerate(tables.EXP2_TABLE):
        power = 2 ** (16 * 256 + j) * 2**256
        assert (2 * entry - 1) ** 256 < power < (2 * entry + 1) ** 256
    # Double precision gives the same entries, as the page promises.
    assert tuple(round(2.0 ** (16 + j / 256)) for j in range(257)) == tables.EXP2_TABLE
