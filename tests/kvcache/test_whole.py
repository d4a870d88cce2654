# SPDX-License-Identifier: Apache-2.0
"""Controller, appender, gather and mover together: random commands, and every byte that follows from them."""

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring

from kvcache.memory import BASE, Pages, accelerator, masked_record, random_pages
from kvcache.test_appender import KV_HEADS, LAYERS, packet
from kvcache.test_controller import compare_state, execute, start
from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.kvcache import Appender, BlockMover, Controller, Gather, Status
from serrano.kvcache.payloads import MoveKind
from serrano_sim.golden.block_manager import Kind, Move, Opcode
from serrano_sim.kv_commands import BUSY, manager, random_command
from support.streams import STALLS, collect, send, simulate

RECORDS = LAYERS * KV_HEADS
BLOCKS = 9
KINDS = {Kind.COPY: MoveKind.COPY, Kind.SCRUB: MoveKind.ZERO, Kind.GATHER: MoveKind.GATHER}
MOVING = (Opcode.APPEND, Opcode.GATHER, Opcode.SCRUB)


class WholeCache(wiring.Component):
    """The blocks of the KV cache, and a memory port."""

    def __init__(self, config):
        self.controller = Controller(config)
        self.gather = Gather(config)
        self.appender = Appender(config)
        self.mover = BlockMover(config)
        self.reads = ReadArbiter(config, [ReadClient("kv", 16, 64), ReadClient("move", 16, 64, apart=True)])
        self.writes = WriteArbiter(config, ["kv", "move"], apart=["move"])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        for name in ("controller", "gather", "appender", "mover", "reads", "writes"):
            m.submodules[name] = getattr(self, name)
        wiring.connect(m, self.gather.translate, self.controller.translate[0])
        wiring.connect(m, self.appender.translate, self.controller.translate[1])
        wiring.connect(m, self.controller.moves, self.mover.moves)
        wiring.connect(m, self.gather.memory, self.reads.ports[0])
        wiring.connect(m, self.mover.reads, self.reads.ports[1])
        wiring.connect(m, self.appender.memory, self.writes.ports[0])
        wiring.connect(m, self.mover.writes, self.writes.ports[1])
        return m


class Bench:
    """The units, a memory, and what is to be in it."""

    def __init__(self, n: int, port_bytes: int, head_dim: int, stall: float):
        self.config = dataclasses.replace(
            accelerator(n, port_bytes), context_max=80, blocks_max=12, sequences_max=3
        )
        self.stall = stall
        self.dut = WholeCache(self.config)
        self.rng = random.Random(f"whole {n} {stall}")
        self.numbers = np.random.default_rng(n)
        # Bytes of everybody in every block: nothing of them may ever be read.
        cache = random_pages(LAYERS, KV_HEADS, head_dim, n, n)
        cache.image = cache.image[:BLOCKS].copy()
        self.pages = Pages(cache, RECORDS, port_bytes, 1 if stall else 20, stall, 2)
        self.golden = manager(self.config, BLOCKS)
        self.golden.records = RECORDS
        self.golden.mover = self.move
        self.steps: list = []
        self.ended: list = []
        self.seen: Counter = Counter()

    def move(self, move: Move) -> bool:
        """A move in the golden memory."""
        failed = self.pages.move({**dataclasses.asdict(move), "kind": KINDS[move.kind]})
        self.seen[f"{move.kind.name} {'failed' if failed else 'done'}"] += 1
        return not failed

    def spoil(self) -> None:
        """A word of every block, or of the host's buffer, that cannot be read or written."""
        pages, rng = self.pages, self.rng
        size = pages.cache.block_bytes
        word = pages.width * rng.randrange(size // pages.width)
        addresses = [BASE + block * size + word for block in range(BLOCKS)]
        addresses += [pages.buffer + word % pages.cache.record_bytes]
        errors = rng.choice((pages.memory.read_errors, pages.memory.write_errors))
        errors.update({address: 2 for address in addresses})

    async def command(self, ctx, values, spoilt: bool = False) -> int:
        """A command, on one of the ports; its status, which is the golden model's."""
        port = self.rng.choice((self.dut.controller.host, self.dut.controller.steps))
        if spoilt:
            self.spoil()
        status, aux, _ = await execute(ctx, port, values)
        assert (status, aux) == self.golden.execute(*values), values
        self.pages.memory.read_errors.clear()
        self.pages.memory.write_errors.clear()
        if values[0] in list(Opcode):
            self.seen[Opcode(values[0]).name] += status == Status.OK.value
        return status

    async def append(self, ctx, seq: int, first: int, count: int) -> None:
        """A step's k and v for reserved tokens."""
        appender, cache = self.dut.appender, self.pages.cache
        places = [{"row": row, "seq": seq, "position": first + row} for row in range(count)]
        await send(ctx, appender.places, places, self.stall, 1)
        self.pages.load()
        cache._tables[seq] = list(self.golden.sequences[seq].table)
        cache._lengths[seq] = first
        head_dim = cache.head_dim
        for layer in range(LAYERS):
            k, v = (self.numbers.integers(-128, 128, (KV_HEADS, count, head_dim)) for _ in range(2))
            s_k, s_v = (self.numbers.integers(0, 1 << 16, (KV_HEADS, count)) for _ in range(2))
            cache.append(seq, layer, k, s_k, v, s_v)
            self.steps.append(packet(self.config, count, head_dim, k, s_k, v, s_v, self.rng))
            await send(ctx, appender.command, [{"record": layer * KV_HEADS}], self.stall, 2)
            await ctx.tick().until(appender.command.ready)
        self.pages.store()
        await ctx.tick().until(~appender.pending)

    async def read(self, ctx) -> None:
        """Any tokens of any sequence, there or not, committed or not."""
        gather, cache, rng = self.dut.gather, self.pages.cache, self.rng
        self.pages.load()
        seq = rng.choice(list(self.golden.sequences))
        state = self.golden.sequences[seq]
        first = rng.randrange(80)
        first = rng.choice((0, first, max(0, state.length - rng.randrange(20)) % 80))
        count = min(rng.choice((1, 16, state.length or 1, rng.randint(1, 80))), 80 - first)
        record = rng.randrange(RECORDS)
        self.ended.clear()
        await send(ctx, gather.command, [{"seq": seq, "record": record, "first": first, "count": count}])
        status = Status.OK
        for index in range(first // 16, (first + count - 1) // 16 + 1):
            got = await collect(
                ctx,
                gather.records,
                cache.record_bytes // self.config.port_bytes,
                self.stall,
                index,
                lambda p: (bytes(p.bytes), p.error),
            )
            low, high = max(0, first - 16 * index), min(16, first + count - 16 * index)
            there = min(high, state.length - 16 * index)
            block = state.table[index] if index < len(state.table) else 0
            wrong = Status.OK
            if block == 0:
                wrong = Status.NOT_MAPPED if index < len(state.table) else Status.OUT_OF_RANGE
            elif there < high:
                wrong = Status.OUT_OF_RANGE
            status = wrong if status == Status.OK else status
            wanted = masked_record(cache, block, record, low, there if block and there > low else low)
            assert b"".join(word for word, _ in got) == wanted
            assert {error for _, error in got} == {int(wrong != Status.OK)}
        await ctx.tick()
        assert self.ended == [status]
        self.seen[f"read {status.name}"] += 1

    async def run(self, ctx, commands: int) -> None:
        dut, pages, golden, rng = self.dut, self.pages, self.golden, self.rng
        for unit in (dut.gather, dut.appender, dut.mover):
            ctx.set(unit.geometry, pages.geometry)
        ctx.set(dut.mover.buffer, pages.buffer)
        ctx.set(dut.controller.records, RECORDS)
        ctx.set(dut.gather.room, 1)
        await start(ctx, dut.controller, BLOCKS)
        golden.initialize(BLOCKS)
        for number in range(commands):
            # First some that are sure to do what the others may not come to.
            if number < len(SCRIPT):
                values = (*SCRIPT[number], 0)[:5]
                if values[0] == Opcode.SHARE:
                    values = (*values[:4], golden.states[values[3]].generation)
            else:
                values = random_command(rng, golden, range(3), WEIGHTS)
            opcode, seq, _, count, _ = values
            state = golden.sequences.get(seq)
            first = state.position if state else 0
            moving = opcode in MOVING
            status = await self.command(ctx, values, moving and (number < len(SCRIPT) or rng.random() < 0.2))
            if number < len(SCRIPT) and status == Status.BUS_ERROR.value:
                status = await self.command(ctx, values)
            if opcode == Opcode.APPEND and status == Status.OK.value:
                for start_at in range(first, first + count, self.config.rows_max):
                    rows = min(self.config.rows_max, first + count - start_at)
                    await self.append(ctx, seq, start_at, rows)
            assert pages.memory.data == pages.expected, values
            if golden.sequences and rng.random() < 0.4:
                await self.read(ctx)
        await compare_state(ctx, dut.controller.host, golden)
        for seq, state in list(golden.sequences.items()):
            await self.command(ctx, (Opcode.FREE, seq, state.tenant, 0, 0))
        assert golden.used == ctx.get(dut.controller.used) == 0
        await compare_state(ctx, dut.controller.host, golden)

    def feed(self, index: int):
        port = (self.dut.appender.codes, self.dut.appender.scales)[index]

        async def run(ctx) -> None:
            number = 0
            while True:
                while len(self.steps) <= number:
                    await ctx.tick()
                await send(ctx, port, self.steps[number][index], self.stall, 10 * number + index)
                number += 1

        return run

    async def watch(self, ctx) -> None:
        async for _, _, end in ctx.tick().sample(self.dut.gather.ended):
            if end.valid:
                self.ended.append(end.status)

    async def serve_reads(self, ctx) -> None:
        await self.pages.memory.serve_reads(ctx, self.dut.reads.axi)

    async def serve_writes(self, ctx) -> None:
        await self.pages.memory.serve_writes(ctx, self.dut.writes.axi)


SCRIPT = (
    (Opcode.OPEN, 0, 1, 0),
    (Opcode.APPEND, 0, 1, 21),
    (Opcode.COMMIT, 0, 1, 20),
    (Opcode.ABORT, 0, 1, 0),
    (Opcode.SEAL, 0, 1, 0),
    (Opcode.OPEN, 1, 1, 0),
    (Opcode.FORK, 0, 1, 1),
    # A copy of what is shared: block 1 is sealed and full, block 2 has 4 tokens.
    (Opcode.APPEND, 1, 1, 15),
    (Opcode.COMMIT, 1, 1, 15),
    (Opcode.GATHER, 1, 1, 3, 30 | 2 << 16),
    (Opcode.OPEN, 2, 1, 0),
    (Opcode.SHARE, 2, 1, 1),
    (Opcode.TRIM, 2, 1, 9),
    # And one of what is sealed.
    (Opcode.APPEND, 2, 1, 2),
    (Opcode.COMMIT, 2, 1, 2),
    (Opcode.SLIDE, 1, 1, 20),
    (Opcode.FREE, 0, 1, 0),
    (Opcode.SCRUB, 0, 1, 2),
    (Opcode.EVICT, 0, 1, 1),
)
WEIGHTS = {**BUSY, Opcode.COMMIT: 30, Opcode.GATHER: 6, Opcode.SCRUB: 4, Opcode.STAT: 1, Opcode.ALLOC: 2}


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("n", "port_bytes", "head_dim"), [(4, 4, 8), (16, 16, 20)])
def test_random_commands(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    bench = Bench(n, port_bytes, head_dim, stall)

    async def run(ctx) -> None:
        await bench.run(ctx, 50)

    background = [bench.feed(0), bench.feed(1), bench.watch, bench.serve_reads, bench.serve_writes]
    simulate(bench.dut, run, background=background, cycles=400_000)
    seen = bench.seen
    for what in ("COPY done", "SCRUB done", "GATHER done", "read OK", "read OUT_OF_RANGE"):
        assert seen[what], (what, seen)
    for opcode in (Opcode.SHARE, Opcode.FORK, Opcode.TRIM, Opcode.SLIDE, Opcode.SEAL, Opcode.EVICT):
        assert seen[opcode.name], (opcode, seen)
    assert seen["COPY done"] >= 2 and sum(seen[f"{kind.name} failed"] for kind in Kind), seen
    assert max(block.generation for block in bench.golden.states) > 2, "no block was used twice"
