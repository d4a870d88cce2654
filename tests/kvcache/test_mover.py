# SPDX-License-Identifier: Apache-2.0
"""BlockMover through the arbiters and a memory, against golden pages, byte for byte."""

import dataclasses
import random

import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring

from kvcache.memory import BASE, Pages, accelerator, random_pages
from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.config import preset
from serrano.faults import FaultCode
from serrano.kvcache.mover import BlockMover
from serrano.kvcache.payloads import MoveKind
from serrano.schedule.recovery import Recovery
from support.streams import STALLS, collect, send, simulate

LAYERS, KV_HEADS = 2, 2
RECORDS = LAYERS * KV_HEADS
BLOCKS = 8
BAD = 1 << 16
"""Address of reads and writes of others that fail."""


class MoverAndBus(wiring.Component):
    """A mover with a memory port, shared with a step's clients, and the recovery of steps."""

    def __init__(self, config):
        self.mover = BlockMover(config)
        self.reads = ReadArbiter(config, [ReadClient("kv", 16, 32), ReadClient("move", 32, 128, apart=True)])
        self.writes = WriteArbiter(config, ["append", "move"], apart=["move"])
        self.recovery = Recovery(config, (7,), 8, 8)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.mover = self.mover
        m.submodules.reads = reads = self.reads
        m.submodules.writes = writes = self.writes
        m.submodules.recovery = recovery = self.recovery
        wiring.connect(m, self.mover.reads, reads.ports[1])
        wiring.connect(m, self.mover.writes, writes.ports[1])
        m.d.comb += [
            recovery.read.eq(reads.fault),
            recovery.write.eq(writes.fault),
            recovery.idle.eq(reads.idle & writes.idle),
            reads.stop.eq(recovery.stop),
            reads.flush.eq(recovery.flush),
            writes.stop.eq(recovery.stop),
        ]
        return m


class Bench(Pages):
    """Pages, their memory, and a mover; and what each move is to answer."""

    def __init__(self, config, head_dim, seed=0, latency=5, stall=0.0, rest=0):
        self.config, self.stall = config, stall
        self.dut = MoverAndBus(config)
        self.rng = random.Random(f"mover {seed}")
        cache = random_pages(LAYERS, KV_HEADS, head_dim, config.n, seed)
        # Few blocks, and behind the records of each one some bytes that are nobody's.
        cache.block_bytes += rest
        cache.image = np.random.default_rng(seed).integers(
            1, 256, (BLOCKS, cache.block_bytes), dtype=np.uint8
        )
        super().__init__(cache, RECORDS, config.port_bytes, latency, stall, seed)
        self.failed: list[int] = []

    def random_move(self) -> dict:
        rng = self.rng
        low = rng.choice([0, 0, rng.randrange(16)])
        source, destination = rng.sample(range(1, BLOCKS), 2)
        return {
            "kind": rng.choice(
                [MoveKind.COPY, MoveKind.COPY, MoveKind.ZERO, MoveKind.GATHER, MoveKind.GATHER]
            ),
            "source": source,
            "destination": destination,
            "record": rng.randrange(RECORDS),
            "low": low,
            "high": rng.randint(low, 16),
            "index": rng.randrange(8),
        }

    def make(self, move: dict) -> None:
        self.failed.append(self.move(move))

    async def serve_reads(self, ctx) -> None:
        await self.memory.serve_reads(ctx, self.dut.reads.axi)

    async def serve_writes(self, ctx) -> None:
        await self.memory.serve_writes(ctx, self.dut.writes.axi)

    def run(self, moves, background=()) -> None:
        mover = self.dut.mover
        answers = []

        async def ask(ctx) -> None:
            ctx.set(mover.geometry, self.geometry)
            ctx.set(mover.buffer, self.buffer)
            await send(ctx, mover.moves.command, moves, self.stall, 1)

        async def answer(ctx) -> None:
            for move in moves:
                (error,) = await collect(
                    ctx, mover.moves.response, 1, self.stall, len(answers), lambda p: p.error
                )
                self.make(move)
                answers.append(error)
                # What is answered is in memory, and all that is in memory.
                assert self.memory.data == self.expected, move
                assert not ctx.get(mover.writes.pending)

        benches = (ask, answer)
        simulate(
            self.dut, *benches, background=[self.serve_reads, self.serve_writes, *background], cycles=400_000
        )
        assert answers == self.failed

    def beats(self, move: dict) -> int:
        size = self.cache.record_bytes if move["kind"] == MoveKind.GATHER else self.cache.block_bytes
        return size // self.config.port_bytes


SHAPES = pytest.mark.parametrize(
    ("n", "port_bytes", "head_dim", "rest"),
    [
        (4, 4, 6, 0),
        (4, 16, 8, 192),
        (4, 8, 40, 0),
        (4, 64, 64, 64),
        (8, 2, 8, 64),
        (8, 8, 40, 0),
        (8, 32, 64, 0),
        (16, 4, 8, 0),
        (16, 16, 40, 64),
        (16, 16, 64, 0),
        (16, 64, 8, 0),
    ],
)


def sized(n: int, port_bytes: int, **changes):
    return accelerator(n, port_bytes, kv_width_max=256, head_dim_max=128, **changes)


@SHAPES
@pytest.mark.parametrize("stall", STALLS)
def test_moves(n: int, port_bytes: int, head_dim: int, rest: int, stall: float) -> None:
    config = sized(n, port_bytes, multiplier_latency=1 + n // 8, registered=n == 8)
    bench = Bench(config, head_dim, n + head_dim, 1 if stall else 30, stall, rest)
    moves = [{**bench.random_move(), "kind": kind} for kind in MoveKind]
    budget = 1200
    while budget > 0:
        moves.append(bench.random_move())
        budget -= bench.beats(moves[-1]) * (4 if stall else 1) + 60
    bench.run(moves)
    assert not any(bench.failed)
    # Records are read once each, whole, and nothing else is.
    copied = sum(RECORDS for move in moves if move["kind"] == MoveKind.COPY)
    copied += sum(1 for move in moves if move["kind"] == MoveKind.GATHER)
    assert sum(beats for _, beats in bench.memory.bursts) * port_bytes == copied * bench.cache.record_bytes
    # Words are written once each, whole.
    assert len(bench.memory.writes) == sum(bench.beats(move) for move in moves)
    assert {strobe for _, _, strobe in bench.memory.writes} == {(1 << port_bytes) - 1}


@pytest.mark.parametrize(("n", "port_bytes", "head_dim"), [(4, 4, 6), (16, 16, 40)])
@pytest.mark.parametrize("stall", STALLS)
def test_errors(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    """A word that could not be read becomes zero, and each move that met an error says so, no other one."""
    bench = Bench(sized(n, port_bytes), head_dim, n, 1 if stall else 30, stall)
    cache, rng = bench.cache, bench.rng
    blocks = rng.sample(range(1, BLOCKS), 4)

    def address(block: int) -> int:
        return BASE + block * cache.block_bytes + port_bytes * rng.randrange(cache.block_bytes // port_bytes)

    first, last = (BASE + blocks[2] * cache.block_bytes, BASE + (blocks[3] + 1) * cache.block_bytes)
    bench.memory.read_errors = {address(blocks[0]): 2, address(blocks[1]): 3}
    bench.memory.write_errors = {first: 2, last - port_bytes: 3, bench.buffer + 3 * cache.record_bytes: 2}
    moves = [
        {"kind": MoveKind.COPY, "source": blocks[2], "destination": blocks[1], "high": 16},
        {"kind": MoveKind.COPY, "source": blocks[0], "destination": blocks[1], "high": 16},
        {"kind": MoveKind.ZERO, "destination": blocks[2]},
        {"kind": MoveKind.ZERO, "destination": blocks[3]},
        {"kind": MoveKind.ZERO, "destination": blocks[0]},
        {"kind": MoveKind.GATHER, "source": blocks[3], "record": 2, "high": 16, "index": 3},
        {"kind": MoveKind.GATHER, "source": blocks[3], "record": 2, "high": 16, "index": 2},
    ]
    moves = [
        {"source": 0, "destination": 0, "record": 0, "low": 0, "high": 0, "index": 0, **m} for m in moves
    ]
    bench.run(moves + [bench.random_move() for _ in range(6)])
    assert bench.failed[:7] == [0, 1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("kind", MoveKind)
@pytest.mark.parametrize("port_bytes", [4, 16])
def test_time(kind: MoveKind, port_bytes: int) -> None:
    """A beat per cycle, and the latencies once."""
    config = dataclasses.replace(preset("base"), port_bytes=port_bytes, read_burst_bytes=512)
    latency = 60
    bench = Bench(config, 64, 1, latency)
    mover, move = bench.dut.mover, {**bench.random_move(), "kind": kind}
    cycles = []

    async def run(ctx) -> None:
        ctx.set(mover.geometry, bench.geometry)
        ctx.set(mover.buffer, bench.buffer)
        assert ctx.get(mover.idle)
        await send(ctx, mover.moves.command, [move])
        count = 1
        while not ctx.get(mover.moves.response.valid):
            assert not ctx.get(mover.idle)
            await ctx.tick()
            count += 1
        cycles.append(count)
        bench.make(move)
        assert bench.memory.data == bench.expected

    simulate(bench.dut, run, background=[bench.serve_reads, bench.serve_writes])
    beats = bench.beats(move)
    waits = latency if kind == MoveKind.ZERO else 2 * latency
    assert beats + waits < cycles[0] <= beats + waits + 16


@pytest.mark.parametrize("registered", [False, True])
def test_a_model_loaded_meanwhile(registered: bool) -> None:
    """Geometry and buffer may change as soon as the command is taken; a buffer's lowest bits do not count."""
    bench = Bench(sized(4, 4, registered=registered), 8, 3, 10)
    mover = bench.dut.mover
    moves = [{**bench.random_move(), "kind": kind} for kind in (MoveKind.COPY, MoveKind.GATHER)]

    async def run(ctx) -> None:
        for move in moves:
            ctx.set(mover.geometry, bench.geometry)
            ctx.set(mover.buffer, bench.buffer | 63)
            await send(ctx, mover.moves.command, [move])
            ctx.set(mover.geometry, {"base": 0, "block_bytes": 64, "head_dim": 2, "records": 9})
            ctx.set(mover.buffer, 0)
            assert (await collect(ctx, mover.moves.response, 1, convert=lambda p: p.error)) == [0]
            bench.make(move)
            assert bench.memory.data == bench.expected

    simulate(bench.dut, run, background=[bench.serve_reads, bench.serve_writes])


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_steps_that_fail_do_not_touch_moves(stall: float, registered: bool) -> None:
    """A step's clients meet errors all the time; each time the bus is drained and they are flushed."""
    bench = Bench(sized(4, 4, registered=registered), 8, 5, 1 if stall else 25, stall)
    dut, recovery = bench.dut, bench.dut.recovery
    bench.memory.data.extend(bytes(BAD + 4096 - len(bench.memory.data)))
    bench.expected = bytearray(bench.memory.data)
    bench.memory.read_errors = {BAD + 64: 2}
    bench.memory.write_errors = {BAD: 3}
    failures = []
    under_way = []

    async def run_steps(ctx) -> None:
        """Reads and writes that fail, from the begin of a step to its end."""
        rng = random.Random("steps")
        ctx.set(recovery.running, 1)
        while True:
            port = rng.choice([dut.reads.ports[0], dut.writes.ports[0]])
            if port is dut.reads.ports[0]:
                ctx.set(port.request.payload, {"address": BAD, "bytes": 128})
            else:
                ctx.set(port.request.payload, {"address": BAD, "strobe": 15})
            ctx.set(port.request.valid, 1)
            while not ctx.get(recovery.failed):
                await ctx.tick()
            await ctx.tick()
            ctx.set(port.request.valid, 0)
            failures.append(FaultCode(ctx.get(recovery.code)))
            under_way.append(not ctx.get(dut.mover.idle))
            assert not ctx.get(dut.reads.ports[0].data.valid)
            for _ in range(rng.randrange(20)):
                await ctx.tick()

    moves = [bench.random_move() for _ in range(16)]
    bench.run(moves, background=[run_steps])
    assert not any(bench.failed)
    assert sum(under_way) > 10
    assert set(failures) == {FaultCode.BUS_SLVERR, FaultCode.BUS_DECERR}


@pytest.mark.parametrize("stall", STALLS)
def test_moves_that_fail_do_not_touch_steps(stall: float) -> None:
    """An error of the mover is recorded with its address; the running step goes on."""
    bench = Bench(sized(4, 4), 8, 6, 1 if stall else 25, stall)
    dut, recovery = bench.dut, bench.dut.recovery
    block = BASE + 3 * bench.cache.block_bytes
    bench.memory.read_errors = {block + 300: 2}
    bench.memory.write_errors = {block: 3}
    none = {"source": 0, "destination": 0, "record": 0, "low": 0, "high": 0, "index": 0}
    copy = {**none, "kind": MoveKind.COPY, "source": 3, "destination": 2, "high": 16}
    zero = {**none, "kind": MoveKind.ZERO, "destination": 3}
    records = []

    async def step(ctx) -> None:
        """The step writes as well."""
        ctx.set(recovery.running, 1)
        item = {"address": len(bench.memory.data) - 4, "strobe": 0}
        while True:
            await send(ctx, dut.writes.ports[0].request, [item])
            for _ in range(3):
                await ctx.tick()

    async def watch(ctx) -> None:
        while True:
            assert not ctx.get(recovery.stop)
            record = ctx.get(recovery.record)
            if record.count:
                records.append((FaultCode(record.code), record.detail, record.address, record.count))
            ctx.set(recovery.clear, record.count != 0)
            await ctx.tick()

    bench.run([copy, zero, zero, {**copy, "source": 4}, copy], background=[step, watch])
    assert bench.failed == [1, 1, 1, 0, 1]
    reads = [record for record in records if not record[1] & 128]
    # The address of a burst that has the word, of client 1.
    assert {code for code, _, _, _ in reads} == {FaultCode.BUS_SLVERR}
    assert all(detail == 1 and address <= block + 300 < address + 128 for _, detail, address, _ in reads)
    assert [r for r in records if r[1] & 128] == [(FaultCode.BUS_DECERR, 129, block, 1)] * 2
    assert len(reads) == 2
