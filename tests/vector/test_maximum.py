# SPDX-License-Identifier: Apache-2.0
"""LaneMaximum and RowMaxima against max()."""

import random

import pytest

from serrano.vector.maximum import LaneMaximum, RowMaxima
from support.pipelines import run_stretch
from support.streams import STALLS, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_maximum(lanes: int, stall: float) -> None:
    rng = random.Random(lanes)
    rows = [[rng.getrandbits(rng.randint(1, 32)) for _ in range(lanes)] for _ in range(60)]
    rows += [[0] * lanes, [(1 << 32) - 1] * lanes, [1 << 31, *[(1 << 31) - 1] * (lanes - 1)]]
    results = run_stretch(LaneMaximum(lanes, 32), [{"values": row} for row in rows], ["maximum"], stall)
    assert [r for (r,) in results] == [max(row) for row in rows]


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_row_maxima(stall: float, registered: bool) -> None:
    rng = random.Random(1)
    dut = RowMaxima(5, 12, registered=registered)

    async def bench(ctx) -> None:
        for turn in range(6):
            wanted = [0] * 5
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert list(ctx.get(dut.maxima)) == wanted
            for _ in range(60):
                # One or two rows in short turns, so that values of a row follow closely upon each other.
                row, value = rng.randrange(1 + turn % 5), rng.getrandbits(rng.choice([4, 12]))
                ctx.set(dut.row, row)
                ctx.set(dut.value, value)
                ctx.set(dut.valid, 1)
                wanted[row] = max(wanted[row], value)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                while rng.random() < stall:
                    ctx.set(dut.row, rng.randrange(5))
                    ctx.set(dut.value, 4095)
                    await ctx.tick()
            for _ in range(dut.latency - 1):
                assert stall or ctx.get(dut.busy)
                await ctx.tick()
            assert not ctx.get(dut.busy)
            assert list(ctx.get(dut.maxima)) == wanted

    simulate(dut, bench)
