# SPDX-License-Identifier: Apache-2.0
"""Bytes on a serial line."""

import random

import pytest
from amaranth.sim import Simulator

from serrano.boards.uart import UartReceiver, UartTransmitter
from support.line import receive_line, send_line


@pytest.mark.parametrize("divisor", [4, 7, 100])
@pytest.mark.parametrize("gap", [0, 13])
def test_receiver(divisor, gap):
    data = bytes([0, 255, 0x55, 0xAA]) + random.Random(1).randbytes(8)
    dut, received, trouble = UartReceiver(divisor), bytearray(), []

    async def line(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(5)
        await send_line(ctx, dut.rx, data, divisor, gap)
        await ctx.tick().repeat(2 * divisor + 5)

    async def take(ctx):
        ctx.set(dut.o.ready, 1)
        async for _, _, valid, byte, bad in ctx.tick().sample(
            dut.o.valid, dut.o.payload, dut.overrun | dut.broken
        ):
            if valid:
                received.append(byte)
            trouble.append(bad)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(line)
    sim.add_testbench(take, background=True)
    sim.run()
    assert received == data
    assert not any(trouble)


def test_receiver_drops():
    """A byte too many, one without a stop bit, and a start bit that is none."""
    dut, divisor = UartReceiver(8), 8
    overruns, broken = [], []

    async def line(ctx):
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(2)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(100)
        assert not ctx.get(dut.o.valid)
        await send_line(ctx, dut.rx, b"\x12\x34", divisor)
        await ctx.tick().repeat(20)
        assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload) == 0x12
        assert (sum(overruns), sum(broken)) == (1, 0)
        ctx.set(dut.o.ready, 1)
        await ctx.tick()
        ctx.set(dut.o.ready, 0)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(10 * divisor)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(30)
        assert not ctx.get(dut.o.valid)
        assert (sum(overruns), sum(broken)) == (1, 1)

    async def watch(ctx):
        async for _, _, one, other in ctx.tick().sample(dut.overrun, dut.broken):
            overruns.append(one)
            broken.append(other)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(line)
    sim.add_testbench(watch, background=True)
    sim.run()


@pytest.mark.parametrize("divisor", [4, 33])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_transmitter(divisor, stall):
    rng = random.Random(2)
    data = rng.randbytes(12)
    dut, received = UartTransmitter(divisor), bytearray()

    async def give(ctx):
        await ctx.tick().repeat(5)
        assert ctx.get(dut.tx)
        for byte in data:
            while rng.random() < stall:
                await ctx.tick().repeat(divisor)
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(11 * divisor)

    async def line(ctx):
        await receive_line(ctx, dut.tx, divisor, received)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(give)
    sim.add_testbench(line, background=True)
    sim.run()
    assert received == data


@pytest.mark.parametrize("block", [UartReceiver, UartTransmitter])
def test_refuses(block):
    with pytest.raises(ValueError, match=r"^A bit must have at least 4 cycles, not 3$"):
        block(3)
