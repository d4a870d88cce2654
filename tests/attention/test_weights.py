# SPDX-License-Identifier: Apache-2.0
"""The buffer of weights."""

import random

import pytest

from attention import reference
from serrano.attention.weights import WeightBuffer
from support.streams import STALLS, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("n", "rows", "lookahead"), [(4, 1, 1), (4, 5, 2), (8, 3, 4), (16, 8, 4)])
def test_read_back(n, rows, lookahead, stall):
    config = reference.small(n, 2, attention_rows_max=8, lookahead=lookahead)
    rng = random.Random(n + rows)
    places = [(row, tile) for row in range(rows) for tile in range(config.group_tiles)]
    items = [
        {
            place: ([rng.choice([0, 65535, rng.randrange(65536)]) for _ in range(n)], rng.randrange(64))
            for place in places
        }
        for _ in range(3 * (lookahead + 2) + 1)
    ]
    dut = WeightBuffer(config)
    state = {"written": 0, "released": 0}

    async def write(ctx):
        ctx.set(dut.rows, rows)
        for item in items:
            while state["written"] - state["released"] == lookahead + 2:
                await ctx.tick()
            for (row, tile), (p, shift) in item.items():
                while rng.random() < stall:
                    await ctx.tick()
                assert ctx.get(dut.weights.ready)
                beat = {"p": p, "tile": tile, "row": row, "shift": shift, "first": 0, "last": 0}
                ctx.set(dut.weights.payload, beat)
                ctx.set(dut.weights.valid, 1)
                await ctx.tick()
                ctx.set(dut.weights.valid, 0)
            state["written"] += 1

    async def read(ctx):
        for index, item in enumerate(items):
            while not ctx.get(dut.available):
                await ctx.tick()
            assert state["written"] > index
            for row, tile in rng.sample(places, len(places)):
                ctx.set(dut.read.row, row)
                ctx.set(dut.read.tile, tile)
                await reference.answered(ctx, config, dut.read)
                got = ctx.get(dut.read.data)
                assert (list(got.p), got.shift) == item[row, tile]
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)
            state["released"] += 1
        assert not ctx.get(dut.available)

    simulate(dut, write, read)
