# SPDX-License-Identifier: Apache-2.0
"""The attention unit against the golden model: from codes and records to staged outputs."""

import random

import numpy as np
import pytest

from attention import reference, step
from serrano.attention import Attention
from support.streams import STALLS, collect, send, simulate


def run(config, steps, stall=0.0, seed=0, engine=False, cycles=400_000):
    """Runs steps one after the other, on the real array or on a model of it; checks what is staged."""
    dut = step.AttentionWithEngine(config) if engine else Attention(config)
    rng = random.Random(seed)

    async def feed(ctx):
        for one in steps:
            ctx.set(dut.head_pad, one.command["head_pad"])
            # Codes and scales come without regard to each other; neither may ever wait.
            assert ctx.get(dut.codes.ready) and ctx.get(dut.scales.ready)
            await send(ctx, dut.codes, one.codes)
            await send(ctx, dut.scales, one.scales)
            await send(ctx, dut.command, [one.command])
            await ctx.tick().until(dut.idle)

    async def gather(ctx):
        for one in steps:
            for record in one.records:
                while not ctx.get(dut.free_records):
                    await ctx.tick()
                for beat in step.record_beats(config, record):
                    while rng.random() < stall:
                        await ctx.tick()
                    ctx.set(dut.records.payload, beat)
                    ctx.set(dut.records.valid, 1)
                    # Once a slot was free, the whole record is taken without a pause.
                    assert ctx.get(dut.records.ready)
                    await ctx.tick()
                    ctx.set(dut.records.valid, 0)

    async def take(ctx):
        for one in steps:
            beats = await collect(
                ctx, dut.staged, step.beat_count(config, one), stall, rng.random(), step.staged_fields
            )
            step.check_staged(config, one, beats)

    model = [] if engine else step.ArrayModel(config, dut, seed, stall).benches
    simulate(dut, feed, gather, take, background=model, cycles=cycles)


CASES_4 = [
    # kv_heads, group, head_dim, committed, rows
    (2, 1, 8, 0, 1),
    (1, 4, 8, 5, 1),
    (2, 1, 6, 16, 3),
    (1, 1, 2, 37, 3),
    (3, 2, 4, 15, 2),
]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("case", CASES_4, ids=str)
def test_n4(case, stall):
    config = reference.small(4, 2, attention_rows_max=8, head_dim_max=16, kv_width_max=32)
    rng = np.random.default_rng(sum(case))
    run(config, [step.make(rng, config, *case)], stall)
