# SPDX-License-Identifier: Apache-2.0
"""An SDRAM with its rules on the pins of a controller, in Amaranth's simulator; and AXI4 traffic for it."""

import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from serrano.boards.ulx3s_85f import SDRAM
from serrano_sim.memory.sdram import Sdram

__all__ = ["CLOCK_HZ", "FAST_START", "Manager", "serve_sdram"]

CLOCK_HZ = 100_000_000
FAST_START = replace(SDRAM, t_init=300)
"""The part of the ULX3S, but awake soon after power-up."""

SAMPLED = ("clk_en", "cs", "ras", "cas", "we", "dq_oe", "ba", "a", "dqm", "dq_o")


async def serve_sdram(ctx: Any, pins: Any, sdram: Sdram, io_latency: int = 0) -> None:
    """Be the memory for ever; run it as a background testbench."""
    signals = [getattr(pins, name) for name in SAMPLED]
    late = deque([0] * io_latency)
    async for _, _, *values in ctx.tick().sample(*signals):
        late.append(sdram.edge(dict(zip(SAMPLED, values, strict=True))))
        ctx.set(pins.dq_i, late.popleft())


@dataclass
class Manager:
    """A manager of AXI4: queues of bursts, and what was answered, in order.

    Reads are (id, address, beats), writes (id, address, [(data, strobe)]).
    """

    stall: float = 0.0
    seed: int = 0
    reads: deque = field(default_factory=deque)
    writes: deque = field(default_factory=deque)
    read_beats: list = field(default_factory=list)
    """(id, data, response, last) of each beat."""
    read_cycles: list = field(default_factory=list)
    answers: list = field(default_factory=list)
    """(id, response) of each write."""
    overrides: dict = field(default_factory=dict)
    """Values for other signals of AR and AW."""

    def __post_init__(self):
        self.rng = random.Random(f"manager {self.seed}")
        self.cycle = 0

    def go(self) -> bool:
        return self.rng.random() >= self.stall

    async def send_reads(self, ctx: Any, axi: Any) -> None:
        width = len(axi.rdata) // 8
        ctx.set(axi.arsize, width.bit_length() - 1)
        ctx.set(axi.arburst, 1)
        while True:
            if not self.reads or not self.go():
                await ctx.tick()
                continue
            number, address, beats = self.reads.popleft()
            ctx.set(axi.arid, number)
            ctx.set(axi.araddr, address)
            ctx.set(axi.arlen, beats - 1)
            for name in ("arsize", "arburst"):
                if name in self.overrides:
                    ctx.set(getattr(axi, name), self.overrides[name])
            ctx.set(axi.arvalid, 1)
            while not (await ctx.tick().sample(axi.arready))[2]:
                pass
            ctx.set(axi.arvalid, 0)

    async def take_reads(self, ctx: Any, axi: Any) -> None:
        while True:
            ready = self.go()
            ctx.set(axi.rready, ready)
            _, _, valid, *beat = await ctx.tick().sample(axi.rvalid, axi.rid, axi.rdata, axi.rresp, axi.rlast)
            self.cycle += 1
            if ready and valid:
                self.read_beats.append(tuple(beat))
                self.read_cycles.append(self.cycle)

    async def send_addresses(self, ctx: Any, axi: Any, pending: deque) -> None:
        ctx.set(axi.awsize, (len(axi.wdata) // 8).bit_length() - 1)
        ctx.set(axi.awburst, 1)
        while True:
            if not self.writes or not self.go():
                await ctx.tick()
                continue
            number, address, beats = self.writes.popleft()
            ctx.set(axi.awid, number)
            ctx.set(axi.awaddr, address)
            ctx.set(axi.awlen, len(beats) - 1)
            for name in ("awsize", "awburst"):
                if name in self.overrides:
                    ctx.set(getattr(axi, name), self.overrides[name])
            ctx.set(axi.awvalid, 1)
            while not (await ctx.tick().sample(axi.awready))[2]:
                pass
            ctx.set(axi.awvalid, 0)
            pending.extend(
                (data, strobe, index == len(beats) - 1) for index, (data, strobe) in enumerate(beats)
            )

    async def send_words(self, ctx: Any, axi: Any, pending: deque) -> None:
        while True:
            if not pending or not self.go():
                await ctx.tick()
                continue
            data, strobe, last = pending.popleft()
            ctx.set(axi.wdata, data)
            ctx.set(axi.wstrb, strobe)
            ctx.set(axi.wlast, last)
            ctx.set(axi.wvalid, 1)
            while not (await ctx.tick().sample(axi.wready))[2]:
                pass
            ctx.set(axi.wvalid, 0)

    async def take_answers(self, ctx: Any, axi: Any) -> None:
        while True:
            ready = self.go()
            ctx.set(axi.bready, ready)
            _, _, valid, *answer = await ctx.tick().sample(axi.bvalid, axi.bid, axi.bresp)
            if ready and valid:
                self.answers.append(tuple(answer))

    def attach(self, sim: Any, read: Any, write: Any) -> None:
        """Add all five channels to a simulator."""
        pending: deque = deque()

        def channel(function: Any, *arguments: Any) -> None:
            async def run(ctx: Any) -> None:
                await function(ctx, *arguments)

            sim.add_testbench(run, background=True)

        channel(self.send_reads, read)
        channel(self.take_reads, read)
        channel(self.send_addresses, write, pending)
        channel(self.send_words, write, pending)
        channel(self.take_answers, write)
