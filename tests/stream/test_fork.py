# SPDX-License-Identifier: Apache-2.0
"""Fork: every output gets everything, at its own pace."""

import pytest

from serrano.stream import Fork
from support.streams import STALLS, collect, send, simulate


@pytest.mark.parametrize("stall_in", STALLS)
@pytest.mark.parametrize("stalls", [(0.0, 0.0), (0.5, 0.0), (0.5, 0.7)])
def test_all_get_all(stall_in: float, stalls: tuple[float, float]) -> None:
    dut = Fork(16, 2)
    items = [(977 * k) & 0xFFFF for k in range(150)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall_in, 1)

    def drain(index: int):
        async def bench(ctx) -> None:
            assert await collect(ctx, dut.o[index], len(items), stalls[index], index) == items

        return bench

    simulate(dut, feed, drain(0), drain(1))


def test_one_per_cycle() -> None:
    dut = Fork(8, 3)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        for output in dut.o:
            ctx.set(output.ready, 1)
        for _ in range(10):
            assert ctx.get(dut.i.ready)
            assert all(ctx.get(output.valid) for output in dut.o)
            await ctx.tick()

    simulate(dut, bench)
