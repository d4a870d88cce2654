# SPDX-License-Identifier: Apache-2.0
"""Register slices: order, rate, and registered handshakes."""

import pytest

from serrano.stream import ForwardRegister, HalfRegister, PromptRegister, StreamRegister
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize("stall_in", STALLS)
@pytest.mark.parametrize("stall_out", STALLS)
@pytest.mark.parametrize("block", [ForwardRegister, HalfRegister, PromptRegister, StreamRegister])
def test_order(block, stall_in: float, stall_out: float) -> None:
    dut = block(16)
    items = [(31 * k) & 0xFFFF for k in range(200)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall_in, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall_out, 2) == items

    simulate(dut, feed, drain)


@pytest.mark.parametrize(
    ("block", "period"), [(ForwardRegister, 1), (StreamRegister, 1), (PromptRegister, 1), (HalfRegister, 2)]
)
def test_rate(block, period: int) -> None:
    dut = block(8)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for cycle in range(10):
            ctx.set(dut.i.payload, cycle)
            assert ctx.get(dut.i.ready) == (cycle % period == 0)
            assert ctx.get(dut.o.valid) == (cycle > 0 and (cycle - 1) % period == 0)
            if ctx.get(dut.o.valid):
                assert ctx.get(dut.o.payload) == cycle - 1
            await ctx.tick()

    simulate(dut, bench)
