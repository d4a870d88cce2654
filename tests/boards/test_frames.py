# SPDX-License-Identifier: Apache-2.0
"""Frames in hardware, byte by byte, against the host's."""

import random

import pytest
from amaranth.sim import Simulator

from serrano.boards.frames import FrameReceiver, FrameSender
from serrano_host.board.frames import Decoder, Frame, encode
from support.streams import STALLS


@pytest.mark.parametrize("stall", STALLS)
def test_receiver(stall):
    """Requests of all lengths, also back to back, with garbage between them; bytes come in every cycle."""
    rng = random.Random(1)
    frames = [
        Frame(i, rng.randrange(256), rng.randrange(256), rng.randbytes(n))
        for i, n in enumerate((0, 1, 4, 5, 8, 9, 61, 1028))
    ]
    data, expected = b"", []
    for frame in frames:
        data += rng.choice([b"", b"\x00", b"\xa5", b"\xa5\xa5", b"garbage"]) + encode(frame)
        words = [int.from_bytes((frame.payload[i : i + 4] + b"\0" * 4)[:4], "little") for i in (0, 4)]
        expected.append((frame.sequence, frame.command, frame.flags, len(frame.payload), *words))
    bad = bytearray(encode(Frame(99, 1, 2, b"12345678")))
    bad[12] ^= 1
    dut = FrameReceiver(gap=1000)
    memory, seen = bytearray(2048), []

    async def give(ctx):
        for byte in data + b"\xa5\x5e\1\1\0\0\x05\x04" + bytes(bad):
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(dut.i.payload, byte)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def store(ctx):
        async for _, _, en, place, byte in ctx.tick().sample(dut.store, dut.place, dut.byte):
            if en:
                memory[place] = byte

    async def take(ctx):
        for frame in (*frames, None):
            await ctx.tick().until(dut.o.valid)
            request = ctx.get(dut.o.payload)
            names = "sequence command flags length first second".split()
            seen.append([*(request[name] for name in names), request.intact])
            if frame is not None:
                size = len(frame.payload)
                # What is behind the payload's end in the two words is left from before.
                mask = [(1 << 8 * min(4, max(0, size - start))) - 1 for start in (0, 4)]
                seen[-1][4] &= mask[0]
                seen[-1][5] &= mask[1]
                assert memory[: max(0, size - 4)] == frame.payload[4:]
            await ctx.tick().repeat(3)
            assert ctx.get(dut.o.valid), "a request stays until it is taken"
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(give)
    sim.add_testbench(take)
    sim.add_testbench(store, background=True)
    sim.run()
    assert [tuple(one) for one in seen[:-1]] == [(*one, 1) for one in expected]
    assert (seen[-1][0], seen[-1][-1]) == (99, 0)


@pytest.mark.parametrize("cut", [1, 2, 5, 8, 10, 20, 22])
def test_gap(cut):
    """A frame that breaks off is forgotten after the gap, and not before."""
    frame = encode(Frame(7, 1, 0, b"123456789abc"))
    dut = FrameReceiver(gap=50)

    async def bench(ctx):
        async def give(data):
            for byte in data:
                ctx.set(dut.i.payload, byte)
                ctx.set(dut.i.valid, 1)
                await ctx.tick().until(dut.i.ready)
                ctx.set(dut.i.valid, 0)

        await give(frame[:cut])
        await ctx.tick().repeat(40)
        await give(frame[cut:])
        await ctx.tick().repeat(3)
        assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload.intact)
        ctx.set(dut.o.ready, 1)
        await ctx.tick()
        ctx.set(dut.o.ready, 0)
        await give(frame[:cut])
        await ctx.tick().repeat(60)
        await give(frame[cut:])
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.o.valid)
        await ctx.tick().repeat(60)
        await give(frame)
        await ctx.tick().repeat(3)
        assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload.intact)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("stall", STALLS)
def test_sender(stall):
    rng = random.Random(3)
    memory = rng.randbytes(1024)
    answers = [
        (rng.randrange(256), rng.randrange(6), rng.randrange(5), rng.randrange(256), n)
        for n in (0, 1, 4, 28, 333)
    ]
    dut = FrameSender()
    received = bytearray()

    async def give(ctx):
        for sequence, command, status, state, length in answers:
            values = {
                "sequence": sequence,
                "command": command,
                "status": status,
                "state": state,
                "length": length,
            }
            ctx.set(dut.i.payload, values)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def buffer(ctx):
        async for _, _, place in ctx.tick().sample(dut.place):
            ctx.set(dut.byte, memory[place % 1024])

    async def take(ctx):
        while True:
            ready = rng.random() >= stall
            ctx.set(dut.o.ready, ready)
            _, _, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if ready and valid:
                received.append(byte)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(give)
    sim.add_testbench(buffer, background=True)
    sim.add_testbench(take, background=True)
    sim.run()
    decoder = Decoder()
    assert decoder.feed(bytes(received)) == [
        Frame(sequence, command | 0x80, status, memory[:length], state)
        for sequence, command, status, state, length in answers
    ]
    assert decoder.dropped == 0
