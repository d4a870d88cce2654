# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import fixed

EXTREMES = [0, 1, 2, 3, 127, 128, 2**31 - 1, 2**31, 2**31 + 1, 2**53 + 1, 2**62, 2**63 - 1]
VALUES = np.array([sign * x for x in EXTREMES for sign in (1, -1)] + [-(2**63)], dtype=np.int64)


def test_rhu_rounds_half_up_at_every_shift():
    for n in range(64):
        expected = [page.rhu(int(x), n) for x in VALUES]
        assert fixed.rhu(VALUES, n).tolist() == expected
        assert fixed.rhu(VALUES, np.full(len(VALUES), n)).tolist() == expected


def test_rhu_ties_go_up():
    assert fixed.rhu([-3, -1, 1, 3], 1).tolist() == [-1, 0, 1, 2]
    assert fixed.rhu([-6, -2, 2, 6], 2).tolist() == [-1, 0, 1, 2]


def test_rhu_with_shifts_of_both_signs():
    rng = np.random.default_rng(1)
    x = rng.integers(-(2**31), 2**31, 4000)
    n = rng.integers(-31, 64, 4000)
    assert fixed.rhu(x, n).tolist() == [page.rhu(int(a), int(b)) for a, b in zip(x, n, strict=True)]
    assert fixed.rhu(x[:7, None], np.array([-2, 0, 5])).shape == (7, 3)


def test_rhu_refuses_what_does_not_fit():
    with pytest.raises(OverflowError, match=r"^An exact left shift does not fit in 64 bits$"):
        fixed.rhu(2**40, -23)
    with pytest.raises(OverflowError, match=r"^An exact left shift does not fit in 64 bits$"):
        fixed.rhu([1, 2**40], [3, -23])
    with pytest.raises(OverflowError, match=r"^Shift amount must be in -63 .. 63, not 64 .. 64$"):
        fixed.rhu(1, 64)
    assert fixed.rhu(-(2**40), -23) == -(2**63)


def test_sat32():
    assert fixed.sat32([2**31, 2**31 - 1, -(2**31), -(2**31) - 1]).tolist() == [
        2**31 - 1,
        2**31 - 1,
        -(2**31),
        -(2**31),
    ]


def test_rhu_sat32_saturates_also_where_the_shift_overflows():
    rng = np.random.default_rng(2)
    x = np.concatenate([VALUES, rng.integers(-(2**63), 2**63 - 1, 2000)])
    for n in range(-16, 64):
        assert fixed.rhu_sat32(x, n).tolist() == [page.sat32(page.rhu(int(a), n)) for a in x]
    with pytest.raises(OverflowError, match=r"^Limited shift amount must be in -16 .. 63, not -17 .. -17$"):
        fixed.rhu_sat32(1, -17)


def test_msb_around_every_power_of_two():
    values = sorted({x for p in range(64) for x in (2**p - 1, 2**p, 2**p + 1) if 0 < x < 2**64} | {2**64 - 1})
    assert fixed.msb(np.array(values, dtype=np.uint64)).tolist() == [x.bit_length() - 1 for x in values]
    signed = [x for x in values if x < 2**63]
    assert fixed.msb(signed).tolist() == [x.bit_length() - 1 for x in signed]
    for wrong in (0, -1):
        with pytest.raises(
            ValueError, match=rf"^The highest set bit needs values of at least 1, not {wrong}$"
        ):
            fixed.msb([5, wrong])
    with pytest.raises(TypeError, match=r"^Values must be integers, not float64$"):
        fixed.msb(2.0)


def test_limit():
    assert fixed.limit([-17, -16, 0, 63, 64], -16, 63).tolist() == [-16, -16, 0, 63, 63]


def test_widths():
    assert fixed.check_signed([-128, 127], 8, "Code").dtype == np.int64
    with pytest.raises(OverflowError, match=r"^Code must fit in 8 bits signed, not -129 .. 0$"):
        fixed.check_signed([-129, 0], 8, "Code")
    with pytest.raises(OverflowError, match=r"^Code must fit in 8 bits signed, not 0 .. 128$"):
        fixed.check_signed([0, 128], 8, "Code")
    assert fixed.check_unsigned([0, 255], 8, "Byte").tolist() == [0, 255]
    with pytest.raises(OverflowError, match=r"^Byte must be in 0 .. 255, not -1 .. 3$"):
        fixed.check_unsigned([-1, 3], 8, "Byte")
    assert fixed.check_signed(np.zeros((0, 3), dtype=np.int8), 8, "Code").shape == (0, 3)


def test_only_integers():
    with pytest.raises(TypeError, match=r"^Values must be integers, not float64$"):
        fixed.int64([1.0])
    with pytest.raises(OverflowError, match=rf"^Value {2**63} does not fit in 64 bits signed$"):
        fixed.int64(np.array([2**63], dtype=np.uint64))
    assert fixed.int64(np.array([2**63 - 1], dtype=np.uint64)).tolist() == [2**63 - 1]


def test_qmax():
    assert (fixed.qmax(8), fixed.qmax(16)) == (127, 32767)
    with pytest.raises(ValueError, match=r"^Operands have 8 or 16 bits, not 7$"):
        fixed.qmax(7)


def test_checksum_wraps():
    assert fixed.checksum([2**31 - 1, 2**31 - 1, 3]) == 1
    assert fixed.checksum(np.array([-1], dtype=np.int8)) == 2**32 - 1
    assert fixed.checksum(np.full((3, 5), 127, dtype=np.int8)) == 15 * 127
