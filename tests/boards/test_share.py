# SPDX-License-Identifier: Apache-2.0
"""Two managers at one memory."""

import random

import pytest
from amaranth.sim import Simulator

from serrano.boards.share import AXIShare
from support.sdram import Manager
from support.streams import STALLS


class Memory:
    """A subordinate that answers in order, with the IDs of the requests; the address is the data."""

    def __init__(self, stall):
        self.stall, self.rng = stall, random.Random(9)
        self.written, self.numbers = [], []

    def go(self):
        return self.rng.random() >= self.stall

    async def serve_reads(self, ctx, axi):
        while True:
            ctx.set(axi.arready, 1)
            _, _, valid, number, address, length = await ctx.tick().sample(
                axi.arvalid, axi.arid, axi.araddr, axi.arlen
            )
            if not valid:
                continue
            ctx.set(axi.arready, 0)
            self.numbers.append(number)
            for beat in range(length + 1):
                while not self.go():
                    await ctx.tick()
                ctx.set(axi.rid, number)
                ctx.set(axi.rdata, (address + 2 * beat) & 0xFFFF)
                ctx.set(axi.rlast, beat == length)
                ctx.set(axi.rresp, 2 * (address == 0x7000))
                ctx.set(axi.rvalid, 1)
                while not (await ctx.tick().sample(axi.rready))[2]:
                    pass
                ctx.set(axi.rvalid, 0)

    async def serve_writes(self, ctx, axi):
        while True:
            ctx.set(axi.awready, 1)
            _, _, valid, number, address = await ctx.tick().sample(axi.awvalid, axi.awid, axi.awaddr)
            if not valid:
                continue
            ctx.set(axi.awready, 0)
            last = False
            while not last:
                ready = self.go()
                ctx.set(axi.wready, ready)
                _, _, valid, word, last_beat = await ctx.tick().sample(axi.wvalid, axi.wdata, axi.wlast)
                if ready and valid:
                    self.written.append((number, address, word))
                    address, last = address + 2, last_beat
            ctx.set(axi.wready, 0)
            ctx.set(axi.bid, number)
            ctx.set(axi.bresp, 3 * (self.written[-1][1] == 0x7000))
            ctx.set(axi.bvalid, 1)
            while not (await ctx.tick().sample(axi.bready))[2]:
                pass
            ctx.set(axi.bvalid, 0)


@pytest.mark.parametrize("stall", STALLS)
def test_traffic(stall):
    dut, rng = AXIShare(32, 2), random.Random(4)
    memory, managers = Memory(stall), [Manager(stall, seed) for seed in range(2)]
    reads, writes = [[], []], [[], []]
    for number, manager in enumerate(managers):
        for _ in range(25):
            address = 0x7000 if rng.random() < 0.2 else 2 * rng.randrange(1 << 14)
            beats = rng.randrange(1, 6)
            reads[number].append((address, beats))
            manager.reads.append((0, address, beats))
            data = [(rng.randrange(1 << 16), 3) for _ in range(rng.randrange(1, 4))]
            writes[number].append((address, data))
            manager.writes.append((0, address, data))
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for number, manager in enumerate(managers):
        manager.attach(sim, dut.reads[number], dut.writes[number])

    async def serve_reads(ctx):
        await memory.serve_reads(ctx, dut.read)

    async def serve_writes(ctx):
        await memory.serve_writes(ctx, dut.write)

    async def run(ctx):
        for _ in range(5000):
            await ctx.tick()
            if all(len(m.answers) == 25 for m in managers) and all(
                len(m.read_beats) == sum(beats for _, beats in reads[n]) for n, m in enumerate(managers)
            ):
                return
        raise AssertionError("took too long")

    sim.add_testbench(serve_reads, background=True)
    sim.add_testbench(serve_writes, background=True)
    sim.add_testbench(run)
    sim.run()
    for number, manager in enumerate(managers):
        assert manager.read_beats == [
            (0, (address + 2 * beat) & 0xFFFF, 2 * (address == 0x7000), beat == beats - 1)
            for address, beats in reads[number]
            for beat in range(beats)
        ]
        written = [(address, word) for manager_, address, word in memory.written if manager_ == number]
        assert written == [
            (address + 2 * beat, word)
            for address, data in writes[number]
            for beat, (word, _) in enumerate(data)
        ]
        assert [response for _, response in manager.answers] == [
            3 * (address + 2 * len(data) - 2 == 0x7000) for address, data in writes[number]
        ]
    if not stall:
        # Both ask all the time, so they take turns.
        assert memory.numbers[:20] in ([0, 1] * 10, [1, 0] * 10)
