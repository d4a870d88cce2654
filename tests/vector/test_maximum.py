# SPDX-License-Identifier: Apache-2.0
"""LaneMaximum against max()."""

import random

import pytest

from serrano.vector.maximum import LaneMaximum
from support.pipelines import run_stretch
from support.streams import STALLS


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_maximum(lanes: int, stall: float) -> None:
    rng = random.Random(lanes)
    rows = [[rng.getrandbits(rng.randint(1, 32)) for _ in range(lanes)] for _ in range(60)]
    rows += [[0] * lanes, [(1 << 32) - 1] * lanes, [1 << 31, *[(1 << 31) - 1] * (lanes - 1)]]
    results = run_stretch(LaneMaximum(lanes, 32), [{"values": row} for row in rows], ["maximum"], stall)
    assert [r for (r,) in results] == [max(row) for row in rows]
