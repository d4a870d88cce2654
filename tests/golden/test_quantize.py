# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import quantize
from serrano_sim.golden.scale import Scale, pack, unpack

BITS = pytest.mark.parametrize("bits", [8, 16])


def vectors():
    """Rows of every magnitude, and the corners."""
    rng = np.random.default_rng(4)
    rows = [rng.integers(-(1 << p) + 1, 1 << p, 24) for p in range(1, 32)]
    rows += [rng.integers(-(1 << p) + 1, 1 << p, 24) for p in range(1, 32)]
    corners = [
        [0] * 24,
        [-(2**31)] + [1] * 23,
        [2**31 - 1, -(2**31)] + [0] * 22,
        [2**31] * 24,
        [1] + [0] * 23,
        [-1] * 24,
        # The maximum rounds up to 2^16 while it is normalized, or while its mantissa is cut to 11 bits.
        [0x1FFFF, -0x1FFFF, 0x1FFFE, 5] * 6,
        [0xFFFF, 0xFFE1, 0xFFE0, -0xFFFF] * 6,
        [0xFFE1, -0xFFE1, 12345, 0] * 6,
        # Exactly on the grid of 11 bits, with codes that are ties.
        [127 << 9, 1 << 8, -1 << 8, 3 << 8] * 6,
        [254, 1, -1, 3] * 6,
    ]
    return np.array([*rows, *corners], dtype=np.int64)


def as_pairs(s):
    return list(zip(s.m.tolist(), s.e.tolist(), strict=True))


@BITS
def test_equals_the_page(bits):
    x = vectors()
    codes, s = quantize.quantize(x, bits)
    expected = [page.quantize(row.tolist(), bits) for row in x]
    assert codes.tolist() == [row for row, _ in expected]
    assert as_pairs(s) == [pair for _, pair in expected]


@BITS
def test_error_and_range(bits):
    x = vectors()
    codes, s = quantize.quantize(x, bits)
    top = 2 ** (bits - 1) - 1
    assert np.abs(codes).max() == top
    step = s.value[:, None] / top * 65536
    # Half a step, plus the roundings of the normalized element and of the factor.
    slack = 1.02 if bits == 8 else 4.0
    assert np.all(np.abs(codes * step - x) <= 0.5 * slack * step)


def test_scales_are_exact_in_packed_form():
    _, s = quantize.quantize(vectors())
    again = unpack(pack(s))
    assert as_pairs(again) == as_pairs(s)


def test_zero_vector():
    codes, s = quantize.quantize(np.zeros((2, 5), dtype=np.int64))
    assert not codes.any()
    assert pack(s).tolist() == [0, 0]


def test_too_large():
    with pytest.raises(
        OverflowError, match=r"^Magnitude of a vector to be quantized must be in 0 .. 4294967295"
    ):
        quantize.quantize([2**32])


@BITS
def test_rms_norm_equals_the_page(bits):
    x = np.clip(vectors(), -(2**31), 2**31 - 1)
    for code in (0, 0x0001, 0x53FF, 0x9000, 0xFFFF, *range(0x0400, 0xFFFF, 0x1735)):
        codes, s = quantize.rms_norm(x, unpack(code), bits)
        expected = [page.rms_norm(row.tolist(), page.unpack(code), bits) for row in x]
        assert codes.tolist() == [row for row, _ in expected]
        assert as_pairs(s) == [pair for _, pair in expected]


@pytest.mark.parametrize("size", [1, 24, 2048])
def test_rms_norm_against_floats(size):
    rng = np.random.default_rng(size)
    deviation = 2.0 ** rng.uniform(-8, 12, 200)[:, None]
    x = np.round(np.clip(rng.normal(size=(200, size)) * deviation, -32767, 32767) * 65536).astype(np.int64)
    x[:, 0] += 1
    eps = Scale(40000, -16)
    codes, s = quantize.rms_norm(x, eps)
    real = x / 65536
    expected = real / np.sqrt((real**2).sum(axis=1) + eps.value)[:, None]
    step = s.value[:, None] / 127
    assert np.all(np.abs(codes * step - expected) <= 0.52 * step + 1e-4 * np.abs(expected))


def test_eps_matters_for_small_rows_only():
    eps = Scale(1 << 15, -2)
    x = np.array([[1 << 15, 0], [1, 0], [65536 << 10, 0]])
    _, s = quantize.rms_norm(x, eps)
    assert np.allclose(s.value, [1 / np.sqrt(2), 2.0**-15, 1.0], rtol=2e-4)


def test_eps_is_limited_at_both_ends():
    assert quantize.rms_eps(Scale(1 << 15, 23), -15) == 1 << 61
    assert quantize.rms_eps(Scale(65535, 23), -15) == 65535 << 46
    assert quantize.rms_eps(Scale(65535, -40), 16) == 0
    assert quantize.rms_eps(Scale(1 << 15, -16), 0) == 1 << 16
