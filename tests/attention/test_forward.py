# SPDX-License-Identifier: Apache-2.0
"""The buffer of the step's keys and values."""

import dataclasses

import numpy as np
import pytest

from attention import reference, step
from serrano.attention.forward import ForwardBuffer
from serrano_sim.golden.scale import Scale, pack
from support.streams import STALLS, send, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "port", "kv_heads", "head_dim", "rows"),
    [(4, 4, 3, 12, 4), (4, 2, 8, 2, 3), (16, 16, 4, 48, 5), (16, 64, 2, 16, 7), (8, 2, 2, 8, 1)],
)
def test_read_back(n, port, kv_heads, head_dim, rows, stall):
    config = dataclasses.replace(reference.small(n, 2, kv_width_max=192, rows_max=8), port_bytes=port)
    vectors = config.load_vectors
    rng = np.random.default_rng(n + port)
    one = step.make(rng, config, kv_heads, 1, head_dim, 3, rows)
    dut = ForwardBuffer(config)
    words = {}
    for beat in one.codes:
        key = (beat["kind"].name, beat["row"], beat["head"], beat["column"] // n)
        words.setdefault(key, []).extend(beat["codes"])

    async def write_codes(ctx):
        ctx.set(dut.chunks, -(-one.command["head_pad"] // n))
        assert ctx.get(dut.codes.ready) and ctx.get(dut.scales.ready)
        await send(ctx, dut.codes, [one.codes[i] for i in rng.permutation(len(one.codes))], stall)

    async def write_scales(ctx):
        await send(ctx, dut.scales, one.scales, stall, 1)

    async def check(ctx):
        await ctx.tick().repeat(8 * len(one.codes))
        for kind, row, head, chunk in words:
            if kind == "Q":
                continue
            # The row at each place of a unit, the first of which may lie before the step's first row.
            for place in range(vectors):
                ctx.set(dut.read.values, int(kind == "V"))
                ctx.set(dut.read.row, row - place)
                ctx.set(dut.read.head, head)
                ctx.set(dut.read.chunk, chunk)
                await reference.answered(ctx, config, dut.read)
                ctx.set(dut.read.row, 0)
                await ctx.tick()
                data = ctx.get(dut.read.data)
                for vector in range(vectors):
                    want = words.get((kind, row - place + vector, head, chunk))
                    if want is not None:
                        assert list(data[vector])[: len(want)] == want
        for beat in one.scales:
            if beat["kind"].name == "Q":
                continue
            ctx.set(dut.read_scales.en, 1)
            ctx.set(dut.read_scales.row, beat["row"])
            ctx.set(dut.read_scales.head, beat["head"])
            await ctx.tick()
            got = ctx.get(dut.read_scales.data)[int(beat["kind"].name == "V")]
            want = pack(Scale(beat["scale"]["mantissa"], beat["scale"]["exponent"]))
            assert got.exponent << 10 | got.fraction == want

    simulate(dut, write_codes, write_scales, check)
