# SPDX-License-Identifier: Apache-2.0
"""A register slice with a register for its ready: order and rate."""

import pytest

from serrano.stream import PromptRegister
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize("stall_in", STALLS)
@pytest.mark.parametrize("stall_out", STALLS)
def test_order(stall_in: float, stall_out: float) -> None:
    dut = PromptRegister(16)
    items = [(31 * k) & 0xFFFF for k in range(200)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall_in, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall_out, 2) == items

    simulate(dut, feed, drain)


def test_rate() -> None:
    dut = PromptRegister(8)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for cycle in range(10):
            ctx.set(dut.i.payload, cycle)
            assert ctx.get(dut.i.ready)
            assert ctx.get(dut.o.valid) == (cycle > 0)
            if cycle > 0:
                assert ctx.get(dut.o.payload) == cycle - 1
            await ctx.tick()

    simulate(dut, bench)
