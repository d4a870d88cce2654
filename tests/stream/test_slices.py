# SPDX-License-Identifier: Apache-2.0
"""Slices and late events: there where asked for, and nowhere else."""

from typing import Any

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.slices import later, sliced
from support.streams import STALLS, collect, send, simulate


class Sliced(wiring.Component):
    """A stream through ``sliced``, and an event through ``later``."""

    def __init__(self, registered: bool):
        self.registered = registered
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "event": In(1),
                "late": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source = sliced(m, "slice", wiring.flipped(self.i), registered=self.registered)
        wiring.connect(m, source, wiring.flipped(self.o))
        m.d.comb += self.late.eq(later(m, self.event, registered=self.registered, name="event"))
        outer = Module()
        # Without registers there would be no clock.
        outer.d.sync += Signal(name="clocked").eq(1)
        outer.submodules.inner = ResetInserter(self.clear)(m)
        return outer


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_order(registered: bool, stall: float) -> None:
    dut = Sliced(registered)
    items = [(31 * k) & 0xFF for k in range(100)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall, 2) == items

    simulate(dut, feed, drain)


@pytest.mark.parametrize("registered", [False, True])
def test_a_cycle_later_or_at_once(registered: bool) -> None:
    dut = Sliced(registered)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.event, 1)
        await ctx.delay(0)
        assert ctx.get(dut.i.ready) == ctx.get(dut.i.valid) * registered
        for cycle in range(2):
            assert ctx.get(dut.o.valid) == ctx.get(dut.late) == (cycle >= registered)
            await ctx.tick()
        # A reset forgets the event of its cycle.
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert ctx.get(dut.late) == (not registered)

    simulate(dut, bench)
