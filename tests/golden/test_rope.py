# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from golden import page
from serrano_sim.golden import rope
from serrano_sim.golden.synthetic import rope_table

EDGES = [0, 1, -1, 65536, 2**31 - 1, -(2**31)]


def test_pairs_equal_the_page():
    rng = np.random.default_rng(8)
    entries = [(32767, 0), (0, 32767), (-32767, 0), (23170, 23170), (-32768, -32768)]
    pairs = [(a, b) for a in EDGES for b in EDGES] + rng.integers(-(2**31), 2**31, (30, 2)).tolist()
    for c, s in entries:
        rotated = rope.rotate(np.array(pairs).reshape(-1), np.tile([c, s], (len(pairs), 1)))
        expected = [value for a, b in pairs for value in page.rotate(a, b, c, s)]
        assert rotated.tolist() == expected


def test_rotation_against_floats():
    rng = np.random.default_rng(9)
    table = rope_table(40, 12)
    x = rng.integers(-(1 << 24), 1 << 24, (40, 3, 12))
    rotated = rope.rotate(x, table[:, None])
    angle = np.arange(40)[:, None] * 10000.0 ** (-2 * np.arange(6) / 12)
    turn = np.exp(1j * angle)[:, None]
    expected = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    assert np.max(np.abs(rotated[..., 0::2] - expected.real)) < 2**24 * 2.0**-14
    assert np.max(np.abs(rotated[..., 1::2] - expected.imag)) < 2**24 * 2.0**-14


def test_mean_saturates():
    k = np.array([[5, 2**31 - 1, -(2**31)]])
    mean = np.array([[2, -1, 1]], dtype=np.int16)
    assert rope.subtract_mean(k, mean).tolist() == [[5 - 512, 2**31 - 1, -(2**31)]]


def test_widths():
    with pytest.raises(OverflowError, match=r"^Operand of the rotation must fit in 32 bits signed"):
        rope.rotate([2**31, 0], [[1, 0]])
    with pytest.raises(OverflowError, match=r"^Entry of the RoPE table must fit in 16 bits signed"):
        rope.rotate([0, 0], [[32768, 0]])
    with pytest.raises(OverflowError, match=r"^Mean of k must fit in 16 bits signed"):
        rope.subtract_mean([0], [32768])
