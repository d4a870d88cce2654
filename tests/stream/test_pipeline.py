# SPDX-License-Identifier: Apache-2.0
"""PipelineControl: order under stalls, latency and rate; delayed registers."""

import random
import re
from typing import Any

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import PipelineControl, delayed
from support.streams import STALLS, collect, send, simulate


class Delay(wiring.Component):
    """A stream through ``latency`` stages that do nothing."""

    def __init__(self, latency: int):
        self.latency = latency
        signature = stream.Signature(signed(16))
        super().__init__({"i": In(signature), "o": Out(signature)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.control = control = PipelineControl(self.latency)
        m.d.comb += [
            control.i_valid.eq(self.i.valid),
            self.i.ready.eq(control.i_ready),
            self.o.valid.eq(control.o_valid),
            control.o_ready.eq(self.o.ready),
            self.o.payload.eq(delayed(m, self.i.payload, self.latency, enable=control.advance)),
        ]
        return m


@pytest.mark.parametrize("latency", [1, 5])
@pytest.mark.parametrize("stall", STALLS)
def test_order(latency: int, stall: float) -> None:
    dut = Delay(latency)
    values = [random.Random(1).randint(-(1 << 15), (1 << 15) - 1) for _ in range(100)]

    async def feed(ctx) -> None:
        await send(ctx, dut.i, values, stall, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(values), stall, 2) == values

    simulate(dut, feed, drain)


@pytest.mark.parametrize("latency", [1, 5])
def test_latency_and_rate(latency: int) -> None:
    dut = Delay(latency)
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


def test_refused() -> None:
    with pytest.raises(ValueError, match=f"^{re.escape('Latency must be at least 1, not 0')}$"):
        PipelineControl(0)
