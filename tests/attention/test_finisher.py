# SPDX-License-Identifier: Apache-2.0
"""Reciprocals of denominators against the golden model."""

import numpy as np
import pytest

from attention import reference
from serrano.attention.finisher import Finisher
from serrano_sim.golden.fixed import limit, msb, rhu
from serrano_sim.golden.tables import recip
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_equals_golden(stall, registered):
    rng = np.random.default_rng(1)
    totals = [1 << 22, (1 << 40) - 1, (1 << 40) - (1 << 23), 1 << 39, (1 << 23) - 1]
    totals += [int(rng.integers(1 << 22, 1 << 40)) >> int(rng.integers(0, 18)) | 1 << 22 for _ in range(300)]
    differences = [int(d) for d in rng.integers(-100, 60, len(totals))]
    differences[:8] = [(1 << 20) - 1 + (1 << 20), -(1 << 20) - (1 << 20) + 1, 0, -16, -39, -40, -38, 24]
    dut = Finisher(registered=registered)
    found = []

    async def feed(ctx):
        payloads = [{"total": t, "difference": d} for t, d in zip(totals, differences, strict=True)]
        await send(ctx, dut.totals, payloads, stall)

    async def take(ctx):
        found.extend(await collect(ctx, dut.finals, len(totals), stall, 1, convert=reference.final_fields))

    simulate(dut, feed, take)
    position = msb(totals)
    shift = limit(np.array(differences) + position - 1, -16, 63)
    wanted = recip(rhu(totals, position - 15))
    assert {-16, 63} <= set(shift.tolist())
    assert found == list(zip(wanted.tolist(), shift.tolist(), strict=True))


@pytest.mark.parametrize("registered", [False, True])
def test_latency_and_empty_row(registered):
    dut = Finisher(registered=registered)

    async def bench(ctx):
        ctx.set(dut.finals.ready, 1)
        # A row that saw nothing has l = 0; something comes out for it, too.
        ctx.set(dut.totals.payload, {"total": 0, "difference": 0})
        ctx.set(dut.totals.valid, 1)
        await ctx.tick()
        ctx.set(dut.totals.valid, 0)
        for cycle in range(1, dut.latency + 1):
            assert ctx.get(dut.finals.valid) == (cycle == dut.latency)
            await ctx.tick()

    simulate(dut, bench)
