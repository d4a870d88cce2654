# SPDX-License-Identifier: Apache-2.0
"""The buffer of the step's queries."""

import numpy as np
import pytest

from attention import reference, step
from serrano.attention.queries import QueryBuffer
from support.streams import STALLS, send, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "lanes", "heads", "head_dim", "rows"),
    [
        (4, 1, 8, 12, 3),
        (4, 2, 8, 12, 3),
        (4, 2, 16, 2, 4),
        (16, 8, 4, 48, 5),
        (16, 2, 8, 8, 2),
        (8, 4, 3, 8, 16),
    ],
)
def test_read_back(n, lanes, heads, head_dim, rows, stall):
    config = reference.small(n, lanes, dim_max=192)
    rng = np.random.default_rng(n + heads)
    one = step.make(rng, config, 1, heads, head_dim, 3, min(rows, config.rows_max))
    pad = one.command["head_pad"]
    dut = QueryBuffer(config)
    order = rng.permutation(len(one.codes))

    async def write_codes(ctx):
        ctx.set(dut.chunks, -(-pad // n))
        assert ctx.get(dut.codes.ready) and ctx.get(dut.scales.ready)
        await send(ctx, dut.codes, [one.codes[i] for i in order], stall)

    async def write_scales(ctx):
        await send(ctx, dut.scales, one.scales, stall, 1)

    async def check(ctx):
        # After both have been written.
        await ctx.tick().repeat(8 * len(one.codes))
        for beat in one.codes:
            if beat["kind"].name != "Q":
                continue
            ctx.set(dut.read.row, beat["row"])
            ctx.set(dut.read.head, beat["head"])
            ctx.set(dut.read.chunk, beat["column"] // n)
            await reference.answered(ctx, config, dut.read)
            ctx.set(dut.read.chunk, 0)
            await ctx.tick()
            lane = beat["column"] % n
            assert list(ctx.get(dut.read.data))[lane : lane + lanes] == beat["codes"]
        for beat in one.scales:
            if beat["kind"].name != "Q":
                continue
            ctx.set(dut.read_scale.en, 1)
            ctx.set(dut.read_scale.row, beat["row"])
            ctx.set(dut.read_scale.head, beat["head"])
            await ctx.tick()
            got = ctx.get(dut.read_scale.data)
            assert {"mantissa": got.mantissa, "exponent": got.exponent} == beat["scale"]

    simulate(dut, write_codes, write_scales, check)
