# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import silu

EDGES = [0, 1, 65535, 65536, 2**16 * 11, 2**16 * 12, 2**20, 2**24, 2**31 - 1]


def test_h16_at_every_boundary():
    values = {0}
    for n in range(32):
        # Powers of two, ends of the fraction, and the ties between codes.
        for base in (1 << n, 2047 << n >> 10, 4095 << n >> 11):
            values |= {base + d for d in range(-2, 3)}
    values = sorted(v for v in values if 0 <= v < 2**31)
    both = values + [-v for v in values] + [-(2**31)]
    codes = silu.h16_encode(both)
    assert codes.tolist() == [page.h16_encode(v) for v in both]
    again = silu.h16_decode(codes)
    assert again.tolist() == [page.h16_decode(int(c)) for c in codes]
    assert np.all(np.abs(again - both) <= np.abs(both) * 2.0**-11)
    assert silu.h16_decode(silu.h16_encode([2**31 - 1, -(2**31)])).tolist() == [2**31, -(2**31)]


def test_h16_is_exact_below_2_to_11_and_on_its_own_values():
    small = np.arange(-2048, 2049)
    assert np.array_equal(silu.h16_decode(silu.h16_encode(small)), small)
    codes = np.arange(22 * 1024)
    assert np.array_equal(silu.h16_encode(silu.h16_decode(codes)), codes)


def test_h16_magnitudes_order_like_codes():
    assert (np.diff(silu.h16_decode(np.arange(1 << 15))) > 0).all()
    assert np.array_equal(silu.h16_decode(np.arange(1 << 15) | 1 << 15), -silu.h16_decode(np.arange(1 << 15)))


def test_h16_relative_error():
    y = np.random.default_rng(10).integers(2**11, 2**31, 20000)
    assert np.max(np.abs(silu.h16_decode(silu.h16_encode(y)) / y - 1)) <= 2.0**-11


def test_silu_equals_the_page():
    rng = np.random.default_rng(11)
    edges = [sign * x for x in EDGES for sign in (1, -1)] + [-(2**31)]
    g = np.concatenate([np.repeat(edges, len(edges)), rng.integers(-(2**21), 2**21, 2000)])
    u = np.concatenate([np.tile(edges, len(edges)), rng.integers(-(2**21), 2**21, 2000)])
    assert silu.silu_up(g, u).tolist() == [page.silu_up(int(a), int(b)) for a, b in zip(g, u, strict=True)]


def test_sigmoid_against_floats():
    g = np.concatenate([np.arange(-(2**21), 2**21, 13), [2**31 - 1, -(2**31)]])
    exact = 1 / (1 + np.exp(np.minimum(-g / 65536, 700.0)))
    sig = silu.sigmoid(g)
    assert np.max(np.abs(sig / 65536 - exact)) < 4.2e-5
    assert (sig.min(), sig.max()) == (0, 1 << 16)
    assert np.array_equal(silu.sigmoid(-g[:1000]), (1 << 16) - silu.sigmoid(g[:1000]))


def test_silu_against_floats():
    rng = np.random.default_rng(12)
    g, u = rng.normal(size=(2, 5000)) * 4
    g, u = np.round(g * 65536).astype(np.int64), np.round(u * 65536).astype(np.int64)
    exact = g / (1 + np.exp(-g / 65536)) * u / 65536
    assert np.max(np.abs(silu.silu_up(g, u) - exact) / (1 + np.abs(g * u) / 2**32)) < 6e-5 * 65536


def test_widths():
    for g, u, name in ((2**31, 0, "Gate"), (0, 2**31, "Up")):
        with pytest.raises(OverflowError, match=rf"^{name} must fit in 32 bits signed"):
            silu.silu_up(g, u)
    with pytest.raises(OverflowError, match=r"^Value to be staged must fit in 32 bits signed"):
        silu.h16_encode(2**31)
    with pytest.raises(OverflowError, match=r"^Staged code must be in 0 .. 65535"):
        silu.h16_decode(1 << 16)
