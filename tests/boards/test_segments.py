# SPDX-License-Identifier: Apache-2.0
"""AXI4 bursts as segments of rows, and as beats."""

import random

import pytest
from amaranth.sim import Simulator

from serrano.boards.segments import ReadSegments, WriteBeats
from serrano.boards.ulx3s_85f import SDRAM
from support.streams import STALLS

ROW = 1 << SDRAM.column_bits


def _place(word):
    return {"column": word % ROW, "bank": word // ROW % 4, "row": word // ROW // 4}


@pytest.mark.parametrize("stall", STALLS)
def test_reads(stall):
    rng = random.Random(1)
    bursts = [(rng.randrange(16), 2 * rng.randrange(1 << 24), rng.randrange(1, 257)) for _ in range(100)]
    bursts += [(1, 1022, 1), (2, 1022, 2), (3, 0, 256), (4, (32 << 20) - 2, 1), (5, 512, 256)]
    expected = []
    for number, address, beats in bursts:
        word = address // 2
        while beats:
            part = min(beats, ROW - word % ROW)
            expected.append((_place(word), part, number, int(part == beats), 0))
            word, beats = word + part, beats - part
    dut = ReadSegments(SDRAM, 32)
    seen = []

    async def send(ctx):
        ctx.set(dut.axi.arsize, 1)
        ctx.set(dut.axi.arburst, 1)
        for number, address, beats in bursts:
            ctx.set(dut.axi.arid, number)
            ctx.set(dut.axi.araddr, address)
            ctx.set(dut.axi.arlen, beats - 1)
            ctx.set(dut.axi.arvalid, 1)
            await ctx.tick().until(dut.axi.arready)
            ctx.set(dut.axi.arvalid, 0)

    async def take(ctx):
        while len(seen) < len(expected):
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, segment = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if ready and valid:
                place = {name: segment.place[name] for name in ("column", "bank", "row")}
                seen.append((place, segment.beats, segment.id, segment.last, segment.response))

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(send)
    sim.add_testbench(take)
    sim.run()
    assert seen == expected


@pytest.mark.parametrize("stall", STALLS)
def test_writes(stall):
    rng = random.Random(2)
    bursts = [(rng.randrange(16), 2 * rng.randrange(1 << 24), rng.choice([1, 1, 2, 9])) for _ in range(60)]
    expected, words = [], []
    for number, address, beats in bursts:
        for index in range(beats):
            word, strobe, last = rng.randrange(1 << 16), rng.randrange(4), int(index == beats - 1)
            words.append((word, strobe, last))
            expected.append((_place((address // 2 + index) % (1 << 24)), word, strobe, number, last, 0))
    dut = WriteBeats(SDRAM, 32)
    seen = []

    async def addresses(ctx):
        ctx.set(dut.axi.awsize, 1)
        ctx.set(dut.axi.awburst, 1)
        for number, address, beats in bursts:
            ctx.set(dut.axi.awid, number)
            ctx.set(dut.axi.awaddr, address)
            ctx.set(dut.axi.awlen, beats - 1)
            ctx.set(dut.axi.awvalid, 1)
            await ctx.tick().until(dut.axi.awready)
            ctx.set(dut.axi.awvalid, 0)

    async def send(ctx):
        for word, strobe, last in words:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.axi.wdata, word)
            ctx.set(dut.axi.wstrb, strobe)
            ctx.set(dut.axi.wlast, last)
            ctx.set(dut.axi.wvalid, 1)
            await ctx.tick().until(dut.axi.wready)
            ctx.set(dut.axi.wvalid, 0)

    async def take(ctx):
        most = 0
        while len(seen) < len(expected):
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, beat, level = await ctx.tick().sample(dut.o.valid, dut.o.payload, dut.level)
            most = max(most, level)
            if ready and valid:
                place = {name: beat.place[name] for name in ("column", "bank", "row")}
                seen.append((place, beat.data, beat.strobe, beat.id, beat.last, beat.response))
        assert most <= 16

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for bench in (addresses, send, take):
        sim.add_testbench(bench)
    sim.run()
    assert seen == expected
