# SPDX-License-Identifier: Apache-2.0
"""Datapath: whole steps in Amaranth's simulator, and a reset in the middle of one."""

import dataclasses

import pytest
from amaranth import Module, ResetInserter, Signal
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.config import AcceleratorConfig, preset
from serrano.datapath import Datapath
from serrano.kvcache import Controller, Opcode, Status
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.sample import greedy
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import read_tape
from support.axi import AXIMemory
from support.streams import collect, send, simulate

CONFIG = dataclasses.replace(
    preset("tiny"),
    dim_max=16,
    ffn_max=16,
    heads_max=2,
    kv_width_max=8,
    head_dim_max=8,
    vocab_max=64,
    context_max=32,
    blocks_max=4,
    sequences_max=1,
    attention_rows_max=2,
)
REGISTERED = dataclasses.replace(
    CONFIG, name="registered", registered=True, multiplier_latency=3, held_weights=True
)
MODEL = random_model(2, dim=12, ffn=14, layers=1, heads=2, kv_heads=1, head_dim=6, vocab=19, context=32)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
FIELDS = read_tape(TAPE).fields
KV_BASE = 0x8000
INFO = (
    "dim ffn layers heads kv_heads head_dim head_pad vocab context program_offset head_offset end_offset"
    " program_end rope_offset rope_stride embed_offset embed_stride packets record_bytes block_bytes"
).split()


def packed(code: int) -> dict:
    return {"fraction": code & 1023, "exponent": code >> 10}


class Bench:
    """A data path with its memory and its KV controller; `flush` resets the data path."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.datapath, self.controller = Datapath(config), Controller(config)
        tape = ReadClient("tape", 64, 256, word_beats=config.load_beats)
        clients = [ReadClient("kv", 64, 128), tape, ReadClient("embed", 64, 128)]
        self.reads, self.writes = ReadArbiter(config, clients), WriteArbiter(config, ["append"])
        self.flush = Signal()
        self.memory = AXIMemory(1 << 16, 3)
        self.memory.data[: len(TAPE)] = TAPE

    def module(self) -> Module:
        m = Module()
        m.submodules.datapath = ResetInserter(self.flush)(self.datapath)
        m.submodules.controller = self.controller
        m.submodules.reads = self.reads
        m.submodules.writes = self.writes
        memories = (self.datapath.kv_memory, self.datapath.tape_memory, self.datapath.embed_memory)
        for index, port in enumerate(memories):
            wiring.connect(m, port, self.reads.ports[index])
        wiring.connect(m, self.datapath.kv_writes, self.writes.ports[0])
        for index in range(2):
            wiring.connect(m, self.datapath.translate[index], self.controller.translate[index])
        m.d.comb += self.reads.flush.eq(self.flush)
        return m

    def start(self, ctx) -> None:
        info = {name: FIELDS[name] for name in INFO}
        info |= {"group": 2, "s_eps": packed(FIELDS["s_eps"]), "s_score": packed(FIELDS["s_score"])}
        ctx.set(self.datapath.model, info)
        ctx.set(
            self.datapath.geometry,
            {"base": KV_BASE, "block_bytes": FIELDS["block_bytes"], "head_dim": MODEL.head_dim},
        )

    async def command(self, ctx, opcode: Opcode, argument: int = 0) -> None:
        await send(ctx, self.controller.steps.commands, [{"opcode": opcode.value, "arg0": argument}])
        (status,) = await collect(ctx, self.controller.steps.responses, 1, convert=lambda p: p.status)
        assert Status(status) == Status.OK, opcode

    async def begin(self, ctx, position: int, token: int) -> None:
        await self.command(ctx, Opcode.APPEND, 1)
        await send(ctx, self.datapath.span, [{"rows": 1, "position": position}])
        await send(ctx, self.datapath.step, [{"rows": 1, "sampled": 1}])
        await send(ctx, self.datapath.embed, [{"token": token, "position": position}])

    async def finish(self, ctx) -> int:
        (token,) = await collect(ctx, self.datapath.tokens, 1, convert=lambda p: p.token)
        while not ctx.get(self.datapath.done):
            await ctx.tick()
        await ctx.tick()
        await self.command(ctx, Opcode.COMMIT, 1)
        return token


@pytest.mark.parametrize("config", [CONFIG, REGISTERED], ids=lambda config: config.name)
def test_steps_and_a_reset_between(config: AcceleratorConfig) -> None:
    bench = Bench(config)
    golden = Decoder(MODEL, CONFIG.n)
    prompt = [3, 1, 4]

    async def run(ctx) -> None:
        bench.start(ctx)
        ctx.set(bench.controller.blocks, CONFIG.blocks_max)
        ctx.set(bench.controller.initialize, 1)
        await ctx.tick()
        ctx.set(bench.controller.initialize, 0)
        await bench.command(ctx, Opcode.OPEN)
        await bench.command(ctx, Opcode.ALLOC, 20)
        for position, token in enumerate(prompt):
            if position == 1:
                # A step that is given up half way, as after a fault: the bus falls silent, then the reset.
                await bench.begin(ctx, position, token)
                await ctx.tick().repeat(700)
                assert ctx.get(bench.datapath.packet) > 1
                ctx.set(bench.reads.stop, 1)
                ctx.set(bench.writes.stop, 1)
                while not (ctx.get(bench.reads.idle) and ctx.get(bench.writes.idle)):
                    await ctx.tick()
                ctx.set(bench.flush, 1)
                await ctx.tick().repeat(8)
                ctx.set(bench.flush, 0)
                ctx.set(bench.reads.stop, 0)
                ctx.set(bench.writes.stop, 0)
                await bench.command(ctx, Opcode.ABORT)
            await bench.begin(ctx, position, token)
            expected = int(greedy(golden.step([token]))[0])
            assert await bench.finish(ctx) == expected
            assert not ctx.get(bench.datapath.tape_fault.valid)
            assert not ctx.get(bench.datapath.execution_fault.valid)

    async def serve_reads(ctx) -> None:
        await bench.memory.serve_reads(ctx, bench.reads.axi)

    async def serve_writes(ctx) -> None:
        await bench.memory.serve_writes(ctx, bench.writes.axi)

    simulate(bench.module(), run, background=[serve_reads, serve_writes])
    written = golden.kv.written()[1]
    start = KV_BASE + FIELDS["block_bytes"]
    content = bench.memory.data[start : start + FIELDS["block_bytes"]]
    assert bytes(golden.kv.image[1][written]) == bytes(b for b, w in zip(content, written, strict=True) if w)
