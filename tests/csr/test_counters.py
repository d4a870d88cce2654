# SPDX-License-Identifier: Apache-2.0
"""Counters: increments, snapshot, report, clear."""

import random

import pytest

from serrano.csr.counters import Counters
from serrano.csr.table import COUNTERS
from support.streams import simulate


@pytest.mark.parametrize("registered", [False, True])
def test_snapshot_and_report(registered: bool) -> None:
    dut = Counters(registered=registered)
    rng = random.Random(1)
    model = [0] * len(COUNTERS)

    async def step(ctx, **pulses: int) -> None:
        for index in range(len(COUNTERS)):
            increment = rng.choice([0, 1, 4095])
            ctx.set(dut.increments[index], increment)
            model[index] = 0 if pulses.get("clear") else model[index] + increment
        for name, value in pulses.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        for name in pulses:
            ctx.set(getattr(dut, name), 0)

    async def bench(ctx) -> None:
        ctx.set(dut.reported.ready, 1)
        for _ in range(50):
            await step(ctx)
        before = list(model)
        await step(ctx, snapshot=1, report=1)
        if registered:
            await ctx.tick()
        for index, value in enumerate(before):
            assert ctx.get(dut.values[index]) == value
            assert ctx.get(dut.reported.valid)
            assert ctx.get(dut.reported.payload.index) == index
            assert ctx.get(dut.reported.payload.value) == value
            await ctx.tick()
        assert not ctx.get(dut.reported.valid)
        await step(ctx, clear=1)
        await step(ctx)
        expected = list(model)
        await step(ctx, snapshot=1)
        if registered:
            await ctx.tick()
        assert [ctx.get(dut.values[index]) for index in range(len(COUNTERS))] == expected

    simulate(dut, bench)
