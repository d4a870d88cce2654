# SPDX-License-Identifier: Apache-2.0
"""StreamFIFO: order, capacity, latency and rate."""

import random
import re

import pytest
from amaranth import signed

from serrano.stream import StreamFIFO
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize("depth", [2, 3, 8])
@pytest.mark.parametrize("stall_in", STALLS)
@pytest.mark.parametrize("stall_out", STALLS)
def test_order(depth: int, stall_in: float, stall_out: float) -> None:
    dut = StreamFIFO(signed(9), depth)
    rng = random.Random(depth)
    items = [rng.choice([-256, 255, rng.randrange(-256, 256)]) for _ in range(200)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall_in, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall_out, 2) == items
        assert ctx.get(dut.level) == 0

    simulate(dut, feed, drain)


@pytest.mark.parametrize("depth", [2, 5])
def test_capacity(depth: int) -> None:
    dut = StreamFIFO(8, depth)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        accepted = 0
        for _ in range(depth + 5):
            accepted += ctx.get(dut.i.ready)
            await ctx.tick()
        assert accepted == depth
        assert ctx.get(dut.level) == depth

    simulate(dut, bench)


def test_latency_and_rate() -> None:
    dut = StreamFIFO(8, 8)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.o.ready, 1)
        for cycle in range(20):
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.i.payload, cycle)
            if ctx.get(dut.o.valid):
                seen.append((cycle, ctx.get(dut.o.payload)))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == [(cycle, cycle - dut.latency) for cycle in range(dut.latency, 20)]


@pytest.mark.parametrize("stall", STALLS)
def test_paused(stall: float) -> None:
    """The payload changes only while there is none."""
    dut = StreamFIFO(8, 4, paused=True)
    items, cycles = [(31 * k) & 0xFF for k in range(100)], []

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall, 2) == items

    async def watch(ctx) -> None:
        valid = 0
        async for _, _, now in ctx.tick().sample(dut.o.valid):
            cycles.append((valid, now))
            valid = now

    simulate(dut, feed, drain, background=[watch])
    if not stall:
        assert sum(now for _, now in cycles) == len(items)
        assert (1, 1) not in cycles


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Depth must be at least 2, not 1')}$"):
        StreamFIFO(8, 1)
