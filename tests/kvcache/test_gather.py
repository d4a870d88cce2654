# SPDX-License-Identifier: Apache-2.0
"""Gather through the read arbiter and a memory, against golden pages."""

import dataclasses
import random

import pytest
from amaranth import *
from amaranth.lib import wiring

from kvcache.memory import BASE, accelerator, masked_record, random_pages, translator
from serrano.bus import ReadArbiter, ReadClient
from serrano.config import preset
from serrano.kvcache import Status
from serrano.kvcache.gather import Gather
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate


class GatherAndBus(wiring.Component):
    """A gather unit with a memory port of its own."""

    def __init__(self, config, burst_beats=64, fifo_beats=256):
        self.gather = Gather(config)
        self.arbiter = ReadArbiter(config, [ReadClient("kv", burst_beats, fifo_beats)])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.gather = self.gather
        m.submodules.arbiter = self.arbiter
        wiring.connect(m, self.gather.memory, self.arbiter.ports[0])
        return m


class Bench:
    """Pages in memory, tables, and what a list of commands is to give."""

    def __init__(self, config, head_dim, layers=2, kv_heads=2, seed=0, latency=5, stall=0.0):
        self.config, self.stall = config, stall
        self.cache = random_pages(layers, kv_heads, head_dim, config.n, seed)
        self.rng = random.Random(f"gather {seed}")
        self.memory = AXIMemory(BASE + self.cache.image.size + 4096, latency, stall, seed)
        self.memory.data[BASE : BASE + self.cache.image.size] = self.cache.image.tobytes()
        blocks = self.rng.sample(range(1, 32), 21)
        self.tables = {0: blocks[:16], 1: blocks[16:19], 2: blocks[19:]}
        self.lengths = {seq: 16 * len(table) for seq, table in self.tables.items()}
        self.statuses = []

    def geometry(self, ctx, dut):
        ctx.set(
            dut.geometry,
            {
                "base": BASE,
                "block_bytes": self.cache.block_bytes,
                "head_dim": self.cache.head_dim,
            },
        )

    def random_command(self):
        seq = self.rng.randrange(3)
        tokens = 16 * len(self.tables[seq])
        first = self.rng.randrange(tokens)
        count = min(self.rng.choice([0, 1, 16, 17, 40]), tokens - first)
        return {"seq": seq, "record": self.rng.randrange(4), "first": first, "count": count}

    def records(self, command):
        """(bytes, error, read) of each record of a command."""
        first, end = command["first"], command["first"] + command["count"]
        length = self.lengths[command["seq"]]
        for index in range(first // 16, -(-end // 16)) if end > first else ():
            low, high = max(0, first - 16 * index), min(16, end - 16 * index)
            table = self.tables[command["seq"]]
            block = table[index] if index < len(table) else 0
            there = min(high, length - 16 * index)
            read = int(block != 0 and there > low)
            data = masked_record(self.cache, block, command["record"], low, there if read else low)
            yield data, int(not read or there < high), read

    def run(self, commands, dut=None, room_stall=0.0):
        dut = dut or GatherAndBus(self.config)
        gather, axi = dut.gather, dut.arbiter.axi
        beats = self.cache.record_bytes // self.config.port_bytes
        wanted = [record for command in commands for record in self.records(command)]
        got = []

        async def ask(ctx):
            self.geometry(ctx, gather)
            await send(ctx, gather.command, commands, self.stall, 1)

        async def receive(ctx):
            for _ in wanted:
                taken = await collect(
                    ctx, gather.records, beats, self.stall, 2, lambda p: (bytes(p.bytes), p.last, p.error)
                )
                got.append(taken)

        async def watch(ctx):
            async for _, _, ended in ctx.tick().sample(gather.ended):
                if ended.valid:
                    self.statuses.append(ended.status)
                    if len(self.statuses) == len(commands):
                        break
            await ctx.tick().repeat(3)
            assert ctx.get(gather.idle)
            assert not ctx.get(gather.records.valid)

        async def consumer(ctx):
            """Room for two records, given back some time after a record's end."""
            free, cycles, promised = 2, 0, 0
            rng = random.Random(f"room {self.stall}")
            while True:
                ctx.set(gather.room, free > 0)
                claim = ctx.get(gather.claim)
                assert not claim or free > 0
                promised += claim
                done = free < 2 and promised > len(got) >= cycles + 1 and rng.random() >= room_stall
                cycles += done
                free += done - claim
                await ctx.tick()

        async def answer(ctx):
            await translator(ctx, gather.translate, self.tables, self.stall, lengths=self.lengths)

        async def serve(ctx):
            await self.memory.serve_reads(ctx, axi)

        simulate(dut, ask, receive, watch, background=[consumer, answer, serve], cycles=300_000)
        for taken, (data, error, _) in zip(got, wanted, strict=True):
            assert b"".join(word for word, _, _ in taken) == data
            assert [last for _, last, _ in taken] == [0] * (beats - 1) + [1]
            assert not error or all(flag for _, _, flag in taken)
            assert error or self.memory.read_errors or not any(flag for _, _, flag in taken)
        # Whole records, once each, nothing else.
        total = sum(beats for _, beats in self.memory.bursts) * self.config.port_bytes
        assert total == sum(read for _, _, read in wanted) * self.cache.record_bytes
        return got


@pytest.mark.parametrize(
    ("n", "port_bytes", "head_dim"),
    [(4, 4, 8), (4, 16, 6), (16, 4, 8), (16, 16, 48), (16, 16, 64), (8, 2, 12), (16, 64, 34)],
)
@pytest.mark.parametrize("stall", STALLS)
def test_random_tables_and_ranges(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    config = accelerator(n, port_bytes, kv_width_max=256, head_dim_max=128, registered=n == 8)
    bench = Bench(config, head_dim, seed=n + head_dim, latency=1 if stall else 30, stall=stall)
    budget = 1800
    commands = []
    while budget > 0:
        commands.append(bench.random_command())
        count = len(list(bench.records(commands[-1])))
        budget -= count * bench.cache.record_bytes // port_bytes + 20
    bench.run(commands, room_stall=stall)
    assert bench.statuses == [Status.OK] * len(commands)


@pytest.mark.parametrize(("n", "port_bytes", "head_dim"), [(4, 4, 8), (8, 2, 12), (16, 16, 48), (16, 64, 34)])
@pytest.mark.parametrize("stall", STALLS)
def test_tokens_that_are_not_committed(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    """They are zeros whatever lies in memory, blocks without others are not read, and the status tells."""
    config = accelerator(n, port_bytes, kv_width_max=256, head_dim_max=128, registered=n == 8)
    bench = Bench(config, head_dim, seed=n + head_dim, latency=1 if stall else 30, stall=stall)
    bench.tables[3] = bench.tables[2]
    # Just a block, a token more, a token less, within a block, nothing.
    bench.lengths = {0: 128, 1: 33, 2: 15, 3: 0}
    commands, statuses = [], []

    def ask(seq: int, first: int, count: int) -> None:
        commands.append({"seq": seq, "record": bench.rng.randrange(4), "first": first, "count": count})
        beyond = count and first + count > bench.lengths[seq]
        statuses.append(Status.OUT_OF_RANGE if beyond else Status.OK)

    for seq, length in bench.lengths.items():
        for first, count in (
            (0, length), (0, length + 1), (max(0, length - 1), 1), (length, 1), (length, 0), (length, 17),
        ):  # fmt: skip
            ask(seq, first, min(count, 16 * len(bench.tables[seq]) - first))
    for _ in range(12):
        seq = bench.rng.randrange(4)
        first = bench.rng.randrange(16 * len(bench.tables[seq]))
        ask(seq, first, bench.rng.randint(0, min(40, 16 * len(bench.tables[seq]) - first)))
    bench.run(commands, room_stall=stall)
    assert bench.statuses == statuses
    assert {Status.OK, Status.OUT_OF_RANGE} == set(statuses)


@pytest.mark.parametrize("registered", [False, True])
def test_blocks_that_are_not_there(registered: bool) -> None:
    config = accelerator(4, 4, registered=registered)
    bench = Bench(config, 8, stall=0.3)
    bench.tables[1][1] = 0
    command = {"seq": 1, "record": 1, "first": 3, "count": 17}
    commands = [
        {**command, "count": 13},
        {**command, "count": 14},
        {**command, "seq": 2, "count": 60},
        {**command, "count": 0},
        {**command, "seq": 0},
    ]
    bench.run(commands)
    assert bench.statuses == [
        Status.OK, Status.NOT_MAPPED, Status.OUT_OF_RANGE, Status.OK, Status.OK,
    ]  # fmt: skip
    # Nothing was read in their place.
    assert sum(beats for _, beats in bench.memory.bursts) * 4 == 6 * bench.cache.record_bytes


@pytest.mark.parametrize("registered", [False, True])
def test_the_first_thing_that_is_wrong_is_told(registered: bool) -> None:
    config = accelerator(4, 4, registered=registered)
    bench = Bench(config, 8)
    table = bench.tables[1]
    bench.tables[1] = [table[0], 0, table[1]]
    bench.lengths[1] = 40
    bench.tables[2].append(0)
    bench.lengths[2] = 8
    bench.memory.read_errors = {
        BASE + block * bench.cache.block_bytes: 2 for block in (table[0], bench.tables[2][0])
    }
    command = {"seq": 1, "record": 0, "first": 0, "count": 48}
    bench.run(
        [
            command,
            {**command, "first": 16, "count": 32},
            {**command, "record": 1},
            {**command, "record": 1, "first": 39, "count": 2},
            {**command, "seq": 2},
            {**command, "seq": 2, "count": 8},
        ]
    )
    assert bench.statuses == [
        Status.BUS_ERROR, Status.NOT_MAPPED, Status.NOT_MAPPED, Status.OUT_OF_RANGE, Status.OUT_OF_RANGE,
        Status.BUS_ERROR,
    ]  # fmt: skip


@pytest.mark.parametrize("registered", [False, True])
def test_bus_error(registered: bool) -> None:
    config = accelerator(4, 4, registered=registered)
    bench = Bench(config, 8)
    table = bench.tables[0]
    bench.memory.read_errors = {BASE + table[1] * bench.cache.block_bytes + bench.cache.record_bytes + 8: 2}
    command = {"seq": 0, "record": 1, "first": 0, "count": 32}
    got = bench.run([{**command, "first": 16}, command, {**command, "record": 0}])
    assert bench.statuses == [Status.BUS_ERROR, Status.BUS_ERROR, Status.OK]
    assert [[i for i, beat in enumerate(record) if beat[2]] for record in got] == [
        [2], [], [], [2], [], [],
    ]  # fmt: skip


@pytest.mark.parametrize("registered", [False, True])
def test_a_reset_between_question_and_answer(registered: bool) -> None:
    """An answer that comes after a reset of the unit alone leads to nothing."""
    config = accelerator(4, 4, registered=registered)
    reset = Signal()
    gather = Gather(config)

    class Resettable(wiring.Component):
        def __init__(self):
            super().__init__({})

        def elaborate(self, platform):
            m = Module()
            m.submodules.gather = ResetInserter(reset)(gather)
            return m

    async def bench(ctx) -> None:
        ctx.set(gather.geometry, {"head_dim": 8})
        ctx.set(gather.room, 1)
        ctx.set(gather.translate.request.ready, 1)
        await send(ctx, gather.command, [{"first": 0, "count": 40}])
        await ctx.tick()
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        ctx.set(gather.translate.response, {"valid": 1, "block": 3, "tokens": 16, "status": Status.OK})
        await ctx.tick()
        ctx.set(gather.translate.response.valid, 0)
        for _ in range(20):
            await ctx.tick()
            assert not ctx.get(gather.memory.request.valid)
            assert ctx.get(gather.idle)
        # And the unit still works.
        await send(ctx, gather.command, [{"first": 0, "count": 1}])
        await ctx.tick().repeat(3)
        ctx.set(gather.translate.response.valid, 1)
        await ctx.tick()
        ctx.set(gather.translate.response.valid, 0)
        await ctx.tick().until(gather.memory.request.valid)

    simulate(Resettable(), bench)


def gather_cycles(table: list[int], head_dim: int, latency: int) -> tuple[int, int]:
    """Cycles from the first to the last beat of 48 blocks, and those of the beats themselves."""
    config = dataclasses.replace(preset("base"), context_max=1024, blocks_max=256, address_bits=32)
    dut = GatherAndBus(config)
    gather = dut.gather
    record = 16 * (2 * head_dim + 4)
    beats = 48 * record // 16
    memory = AXIMemory(BASE + 256 * 3 * record + 4096, latency)
    seen = []

    async def bench(ctx):
        ctx.set(gather.geometry, {"base": BASE, "block_bytes": 3 * record, "head_dim": head_dim})
        ctx.set(gather.room, 1)
        ctx.set(gather.records.ready, 1)
        # As one command for each of two heads.
        for record_index in range(2):
            ctx.set(gather.command.payload, {"record": record_index, "first": 0, "count": 24 * 16})
            ctx.set(gather.command.valid, 1)
            await ctx.tick().until(gather.command.ready)
        ctx.set(gather.command.valid, 0)

    async def watch(ctx):
        cycle = 0
        while len(seen) < beats:
            if ctx.get(gather.records.valid):
                seen.append(cycle)
            await ctx.tick()
            cycle += 1

    async def answer(ctx):
        await translator(ctx, gather.translate, {0: table})

    async def serve(ctx):
        await memory.serve_reads(ctx, dut.arbiter.axi)

    simulate(dut, bench, watch, background=[answer, serve])
    return seen[-1] - seen[0] + 1, beats


@pytest.mark.parametrize("head_dim", [8, 48, 64])
def test_scattered_blocks_at_full_rate(head_dim: int) -> None:
    """Without a lost cycle where 16 bursts cover the latency, and never slower than contiguous blocks."""
    contiguous, beats = gather_cycles(list(range(1, 65)), head_dim, 60)
    scattered, _ = gather_cycles(random.Random(1).sample(range(1, 256), 64), head_dim, 60)
    assert scattered <= 1.001 * contiguous
    assert beats <= scattered <= 1.01 * beats
