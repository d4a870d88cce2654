# SPDX-License-Identifier: Apache-2.0
"""Controller, appender and gather together: sequences come, grow, are read and go."""

import random

import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring

from kvcache.memory import BASE, accelerator, masked_record
from kvcache.test_appender import KV_HEADS, LAYERS, packet
from kvcache.test_controller import compare_state, execute, start
from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.kvcache import Appender, Controller, Gather, Opcode, Status
from serrano_sim.golden.kvcache import KVCache
from serrano_sim.kv_commands import manager
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate


class WholeCache(wiring.Component):
    """The three blocks of the KV cache, and a memory port."""

    def __init__(self, config):
        self.controller = Controller(config)
        self.gather = Gather(config)
        self.appender = Appender(config)
        self.reads = ReadArbiter(config, [ReadClient("kv", 16, 64)])
        self.writes = WriteArbiter(config, ["kv"])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        for name in ("controller", "gather", "appender", "reads", "writes"):
            m.submodules[name] = getattr(self, name)
        wiring.connect(m, self.gather.translate, self.controller.translate[0])
        wiring.connect(m, self.appender.translate, self.controller.translate[1])
        wiring.connect(m, self.gather.memory, self.reads.ports[0])
        wiring.connect(m, self.appender.memory, self.writes.ports[0])
        return m


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("n", "port_bytes", "head_dim"), [(4, 4, 8), (16, 16, 20)])
def test_sequences_come_and_go(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    config = accelerator(n, port_bytes, sequences_max=3)
    dut = WholeCache(config)
    controller, gather, appender = dut.controller, dut.gather, dut.appender
    # Five blocks: they change hands often, and their bytes stay where they are.
    golden = manager(config, 10)
    cache = KVCache(LAYERS, KV_HEADS, head_dim, n, blocks=10)
    memory = AXIMemory(BASE + cache.image.size + 4096, 1 if stall else 20, stall, 2)
    rng = random.Random(f"whole {n} {stall}")
    numbers = np.random.default_rng(n)
    steps: list = []
    ended: list = []

    async def command(ctx, opcode, seq, tenant, arg0=0) -> int:
        values = (opcode.value, seq, tenant, arg0, 0)
        status, aux, _ = await execute(ctx, controller.steps, values)
        assert (status, aux) == golden.execute(*values)
        return status

    async def append(ctx, seq: int, count: int) -> None:
        sequence = golden.sequences[seq]
        places = [{"row": row, "seq": seq, "position": sequence.length + row} for row in range(count)]
        await send(ctx, appender.places, places, stall, 1)
        for layer in range(LAYERS):
            parts = [numbers.integers(-128, 128, (KV_HEADS, count, head_dim)) for _ in range(2)]
            scales = [numbers.integers(0, 1 << 16, (KV_HEADS, count)) for _ in range(2)]
            k, v, s_k, s_v = (*parts, *scales)
            cache.append(seq, layer, k, s_k, v, s_v)
            steps.append(packet(config, count, head_dim, k, s_k, v, s_v, rng))
            await send(ctx, appender.command, [{"record": layer * KV_HEADS}], stall, 2)
            await ctx.tick().until(appender.command.ready)
        await ctx.tick().until(~appender.pending)

    async def read(ctx, seq: int) -> None:
        """A range of committed tokens of each head."""
        length = golden.sequences[seq].length
        first = rng.randrange(length)
        count = rng.randint(1, length - first)
        table = golden.sequences[seq].table
        beats = cache.record_bytes // port_bytes
        ended.clear()
        for record in range(LAYERS * KV_HEADS):
            run = {"seq": seq, "record": record, "first": first, "count": count}
            await send(ctx, gather.command, [run], stall, record)
            for index in range(first // 16, (first + count - 1) // 16 + 1):
                got = await collect(ctx, gather.records, beats, stall, index, lambda p: bytes(p.bytes))
                low, high = max(0, first - 16 * index), min(16, first + count - 16 * index)
                assert b"".join(got) == masked_record(cache, table[index], record, low, high)
        await ctx.tick()
        assert ended == [Status.OK] * (LAYERS * KV_HEADS)

    async def bench(ctx) -> None:
        geometry = {"base": BASE, "block_bytes": cache.block_bytes, "head_dim": head_dim}
        ctx.set(gather.geometry, geometry)
        ctx.set(appender.geometry, geometry)
        ctx.set(gather.room, 1)
        await start(ctx, controller, 6)
        golden.initialize(6)
        for number in range(11):
            seq, tenant = rng.randrange(3), number % 7
            if seq not in golden.sequences:
                await command(ctx, Opcode.OPEN, seq, tenant)
                cache.open(seq)
            sequence = golden.sequences[seq]
            tenant = sequence.tenant
            count = rng.randint(1, config.rows_max)
            if await command(ctx, Opcode.APPEND, seq, tenant, 8 + count) == 0:
                cache._tables[seq] = sequence.table
                await append(ctx, seq, count)
                await command(ctx, Opcode.COMMIT, seq, tenant, count)
                # A host commits the tokens behind them, as it might after writing them itself.
                await command(ctx, Opcode.COMMIT, seq, tenant, 8)
                cache.commit(seq, count + 8)
                await read(ctx, seq)
            if rng.random() < 0.5 or golden.used == 5:
                await command(ctx, Opcode.FREE, seq, tenant)
                cache.close(seq)
        await compare_state(ctx, controller.host, golden)

    def feed(index: int):
        port = (appender.codes, appender.scales)[index]

        async def run(ctx) -> None:
            number = 0
            while True:
                while len(steps) <= number:
                    await ctx.tick()
                await send(ctx, port, steps[number][index], stall, 10 * number + index)
                number += 1

        return run

    async def watch(ctx) -> None:
        async for _, _, end in ctx.tick().sample(gather.ended):
            if end.valid:
                ended.append(end.status)

    async def serve_reads(ctx) -> None:
        await memory.serve_reads(ctx, dut.reads.axi)

    async def serve_writes(ctx) -> None:
        await memory.serve_writes(ctx, dut.writes.axi)

    simulate(dut, bench, background=[feed(0), feed(1), watch, serve_reads, serve_writes], cycles=300_000)
    # The committed bytes of all open sequences, and everything that anybody has ever written.
    assert bytes(memory.data[BASE : BASE + cache.image.size]) == cache.image.tobytes()
    assert not any(memory.data[BASE : BASE + cache.block_bytes]), "the NULL block was written"
    assert max(block.generation for block in golden.states) > 2, "no block was used twice"
