# SPDX-License-Identifier: Apache-2.0
"""AXISlice: every channel, in order, at the rate of its ends."""

import random

import pytest

from serrano.bus import AXI4Read, AXI4Write, AXISlice
from serrano.bus.axi import INCR
from support.axi import AXIMemory
from support.streams import STALLS, simulate


@pytest.mark.parametrize("stall", STALLS)
def test_reads(stall: float) -> None:
    dut = AXISlice(AXI4Read(32, 4))
    model = AXIMemory(1 << 12, 3, stall)
    model.data[:] = random.Random(2).randbytes(len(model.data))
    got = []

    async def ask(ctx) -> None:
        rng = random.Random(3)
        for burst in range(16):
            while rng.random() < stall:
                await ctx.tick()
            for name, value in (("araddr", 256 * burst), ("arlen", 15), ("arsize", 2), ("arburst", INCR)):
                ctx.set(getattr(dut.i, name), value)
            ctx.set(dut.i.arvalid, 1)
            await ctx.tick().until(dut.i.arready)
            ctx.set(dut.i.arvalid, 0)

    async def take(ctx) -> None:
        rng = random.Random(4)
        while len(got) < 256:
            ready = rng.random() >= stall
            ctx.set(dut.i.rready, ready)
            _, _, valid, word, last = await ctx.tick().sample(dut.i.rvalid, dut.i.rdata, dut.i.rlast)
            if ready and valid:
                got.append((word, last))

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.o)

    simulate(dut, ask, take, background=[serve])
    for index, (word, last) in enumerate(got):
        at = 256 * (index // 16) + 4 * (index % 16)
        assert word == int.from_bytes(model.data[at : at + 4], "little") and last == (index % 16 == 15)


@pytest.mark.parametrize("stall", STALLS)
def test_writes(stall: float) -> None:
    dut = AXISlice(AXI4Write(32, 4))
    model = AXIMemory(1 << 12, 3, stall)
    rng = random.Random(5)
    words = [rng.randrange(1 << 32) for _ in range(64)]
    model.write_errors = {40: 2}
    answers = []

    async def give(ctx, channel: str, fields: list[dict]) -> None:
        rng = random.Random(channel)
        for values in fields:
            while rng.random() < stall:
                await ctx.tick()
            for name, value in values.items():
                ctx.set(getattr(dut.i, name), value)
            ctx.set(getattr(dut.i, f"{channel}valid"), 1)
            await ctx.tick().until(getattr(dut.i, f"{channel}ready"))
            ctx.set(getattr(dut.i, f"{channel}valid"), 0)

    async def addresses(ctx) -> None:
        fixed = {"awsize": 2, "awburst": INCR}
        await give(ctx, "aw", [{"awaddr": 4 * i, **fixed} for i in range(len(words))])

    async def contents(ctx) -> None:
        await give(ctx, "w", [{"wdata": word, "wstrb": 15, "wlast": 1} for word in words])

    async def take(ctx) -> None:
        ctx.set(dut.i.bready, 1)
        while len(answers) < len(words):
            _, _, valid, response = await ctx.tick().sample(dut.i.bvalid, dut.i.bresp)
            if valid:
                answers.append(response)

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.o)

    simulate(dut, addresses, contents, take, background=[serve])
    # The write that failed has left nothing.
    words[10] = 0
    assert model.data[:256] == b"".join(word.to_bytes(4, "little") for word in words)
    assert answers == [2 * (index == 10) for index in range(len(words))]
