# SPDX-License-Identifier: Apache-2.0
"""PipelineControl: order under stalls, latency and rate; delayed registers."""

import random
import re
from typing import Any

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream import StreamRegister
from serrano.stream.pipeline import PipelineControl, delayed
from support.streams import STALLS, collect, send, simulate


class Delay(wiring.Component):
    """A stream through ``latency`` stages that do nothing; with ``registered`` the last is a slice."""

    def __init__(self, latency: int, registered: bool = False):
        self.latency = latency
        self.registered = registered
        signature = stream.Signature(signed(16))
        super().__init__({"i": In(signature), "o": Out(signature)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        stages = self.latency - int(self.registered)
        m.submodules.control = control = PipelineControl(stages, registered=self.registered)
        last = self.o
        if self.registered:
            m.submodules.slice = register = StreamRegister(signed(16))
            wiring.connect(m, register.o, wiring.flipped(self.o))
            last = register.i
        m.d.comb += [
            control.i_valid.eq(self.i.valid),
            self.i.ready.eq(control.i_ready),
            last.valid.eq(control.o_valid),
            control.o_ready.eq(last.ready),
            last.payload.eq(delayed(m, self.i.payload, stages, enable=control.advance)),
        ]
        return m


CASES = [(1, False), (5, False), (2, True), (6, True)]


@pytest.mark.parametrize(("latency", "registered"), CASES)
@pytest.mark.parametrize("stall", STALLS)
def test_order(latency: int, registered: bool, stall: float) -> None:
    dut = Delay(latency, registered)
    values = [random.Random(1).randint(-(1 << 15), (1 << 15) - 1) for _ in range(100)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, values, stall, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(values), stall, 2) == values

    simulate(dut, feed, drain)


@pytest.mark.parametrize(("latency", "registered"), CASES)
def test_latency_and_rate(latency: int, registered: bool) -> None:
    dut = Delay(latency, registered)
    valid = []

    async def bench(ctx) -> None:
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.valid, 1)
        for _ in range(20):
            assert ctx.get(dut.i.ready)
            valid.append(ctx.get(dut.o.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert valid == [0] * latency + [1] * (20 - latency)


@pytest.mark.parametrize("latency", [2, 6])
def test_registered_rate_behind_a_stop(latency: int) -> None:
    """After a stop of any length, one payload per cycle leaves again, without a gap and in order."""
    dut = Delay(latency, registered=True)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        given, taken = 0, []
        for cycle in range(200):
            ctx.set(dut.i.payload, given)
            # Stops of 0 to 12 cycles, and 4 cycles between them.
            ready = cycle % 16 >= cycle // 16
            ctx.set(dut.o.ready, ready)
            if ctx.get(dut.o.valid) and ready:
                taken.append(ctx.get(dut.o.payload))
            assert ctx.get(dut.o.valid) == (cycle >= latency)
            given += ctx.get(dut.i.ready)
            await ctx.tick()
        assert taken == list(range(len(taken)))

    simulate(dut, bench)


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Latency must be at least 1, not 0')}$"):
        PipelineControl(0)
