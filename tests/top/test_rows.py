# SPDX-License-Identifier: Apache-2.0
"""The data path without the scheduler: steps of several rows and sequences, and resets at any moment.

A memory with stalls, tables of blocks and the commands of a scheduler are all that it gets. Every result
that it shows, and every byte of KV memory, equals the golden decoder's.
"""

import dataclasses
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from amaranth import Module, ResetInserter, Signal
from amaranth.lib import wiring

from kvcache.memory import translator
from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.config import preset
from serrano.datapath import Datapath
from serrano.faults import FaultCode
from serrano.schedule.descriptor import ModelInfo
from serrano_sim.golden.decoder import Decoder
from serrano_sim.golden.sample import greedy
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import NO_LAYER, Opcode, read_tape
from support.axi import AXIMemory
from support.streams import STALLS, send, simulate

CONFIG = dataclasses.replace(
    preset("tiny"),
    rows_max=8,
    dim_max=32,
    ffn_max=32,
    heads_max=8,
    kv_width_max=32,
    head_dim_max=16,
    context_max=64,
)
MODEL = random_model(2, dim=6, ffn=5, layers=1, heads=4, kv_heads=2, head_dim=6, vocab=7, context=64)
TAPE = write_tape(MODEL, CONFIG.n, CONFIG.tape_align)
PARSED = read_tape(TAPE)
TAPE_AT, KV_AT = 0x1000, 0x8000
TABLES = {0: [3, 1, 2], 1: [7], 2: [10, 4, 9], 3: [6, 5]}
BLOCKS = 11
Rows = tuple[int, int, list[int]]
"""Sequence, position of the first token, tokens."""
FLUSH_CYCLES = 8
"""As the recovery of the accelerator has it: longer than a look-up takes."""


class Bench:
    """The data path, its memory, and what it has shown since the last :meth:`forget`."""

    def __init__(self, latency: int = 4, stall: float = 0.0, seed: int = 0):
        self.dut = dut = Datapath(CONFIG)
        self.flush, self.stop = Signal(), Signal()
        self.reads = reads = ReadArbiter(
            CONFIG,
            [
                ReadClient("kv", 16, 64),
                ReadClient("tape", 16, 64, word_beats=CONFIG.load_beats),
                ReadClient("embed", 16, 64),
            ],
        )
        self.writes = writes = WriteArbiter(CONFIG, ["append"])
        self.top = m = Module()
        m.submodules.dut = ResetInserter(self.flush)(dut)
        m.submodules.reads, m.submodules.writes = reads, writes
        for index, name in enumerate(("kv_memory", "tape_memory", "embed_memory")):
            wiring.connect(m, getattr(dut, name), reads.ports[index])
        wiring.connect(m, dut.kv_writes, writes.ports[0])
        m.d.comb += [reads.stop.eq(self.stop), writes.stop.eq(self.stop), reads.flush.eq(self.flush)]
        self.memory = AXIMemory(1 << 16, latency, stall, seed)
        self.memory.data[TAPE_AT : TAPE_AT + len(TAPE)] = TAPE
        noise = random.Random(f"noise {seed}").randbytes(len(self.memory.data) - KV_AT)
        self.memory.data[KV_AT:] = noise
        self.stall, self.seed = stall, seed
        self.forget()

    def load(self, decoder: Decoder) -> None:
        """Put the tokens that a decoder has into KV memory."""
        image, mask = decoder.kv.image.reshape(-1), decoder.kv.written().reshape(-1)
        for offset in np.flatnonzero(mask):
            self.memory.data[KV_AT + offset] = image[offset]

    def forget(self) -> None:
        """Start a new record."""
        self.beats: dict[tuple[str, int], list] = defaultdict(list)
        self.steps_done = 0

    def run(self, *benches) -> None:
        """Simulate, with the surroundings at work."""

        async def serve_reads(ctx) -> None:
            await self.memory.serve_reads(ctx, self.reads.axi)

        async def serve_writes(ctx) -> None:
            await self.memory.serve_writes(ctx, self.writes.axi)

        async def look_up_for_gather(ctx) -> None:
            await translator(ctx, self.dut.translate[0], TABLES, self.stall, self.seed)

        async def look_up_for_append(ctx) -> None:
            await translator(ctx, self.dut.translate[1], TABLES, self.stall, self.seed)

        background = [serve_reads, serve_writes, look_up_for_gather, look_up_for_append, self._watch]
        simulate(self.top, *benches, background=background, cycles=200_000)

    def setup(self, ctx) -> None:
        """Constant inputs."""
        fields = PARSED.fields
        names = {field for field, _ in ModelInfo.as_shape()} & set(fields)
        scales = {
            name: {"fraction": fields[name] & 1023, "exponent": fields[name] >> 10}
            for name in ("s_eps", "s_score")
        }
        model = {name: fields[name] for name in names} | scales | {"group": MODEL.heads // MODEL.kv_heads}
        ctx.set(self.dut.model, model)
        ctx.set(self.dut.tape, TAPE_AT)
        geometry = {"base": KV_AT, "block_bytes": fields["block_bytes"], "head_dim": fields["head_dim"]}
        ctx.set(self.dut.geometry, geometry)

    async def _watch(self, ctx) -> None:
        """Record results as they are shown."""
        dut = self.dut
        while True:
            *_, results, packet, done = await ctx.tick().sample(dut.results, dut.packet, dut.done)
            for kind in ("residual", "codes", "heads", "logits"):
                if getattr(results, kind).valid:
                    self.beats[kind, packet].append(getattr(results, kind).beat)
            self.steps_done += done

    async def step(self, ctx, parts: "list[Rows]", sampled: int, cycles: int | None = None):
        """Run a step; give its tokens, or None if it was left after so many cycles."""
        dut, spans, rows = self.dut, [], []
        for sequence, position, tokens in parts:
            spans.append({"sequence": sequence, "row": len(rows), "rows": len(tokens), "position": position})
            rows += [
                {"row": len(rows) + r, "sequence": sequence, "token": t, "position": position + r}
                for r, t in enumerate(tokens)
            ]
        await send(ctx, dut.span, spans)
        ctx.set(dut.step.payload, {"rows": len(rows), "sampled": sampled, "last": len(rows) - 1})
        ctx.set(dut.step.valid, 1)
        ctx.set(dut.tokens.ready, 1)
        taken, done, self.cycles = [], False, 0
        while not done and self.cycles != cycles:
            *_, step, embed, has_token, token, done = await ctx.tick().sample(
                dut.step.valid & dut.step.ready,
                dut.embed.valid & dut.embed.ready,
                dut.tokens.valid,
                dut.tokens.payload,
                dut.done,
            )
            self.cycles += 1
            if step:
                ctx.set(dut.step.valid, 0)
            if step or embed:
                ctx.set(dut.embed.valid, bool(rows))
                ctx.set(dut.embed.payload, rows.pop(0) if rows else {})
            if has_token:
                taken.append((token.row, token.token, token.value))
        ctx.set(dut.step.valid, 0)
        ctx.set(dut.embed.valid, 0)
        return taken if done else None

    async def reset(self, ctx) -> None:
        """As the accelerator's recovery does it: silence the memory port, then reset what holds data."""
        ctx.set(self.stop, 1)
        await ctx.tick().until(self.reads.idle & self.writes.idle)
        ctx.set(self.flush, 1)
        await ctx.tick().repeat(FLUSH_CYCLES)
        ctx.set(self.flush, 0)
        ctx.set(self.stop, 0)
        self.forget()

    def shown(self, rows: int) -> dict[tuple[str, int], np.ndarray]:
        """What was recorded, [rows, width] by kind and packet."""
        lanes, pad, kv = CONFIG.lanes, PARSED.fields["head_pad"], MODEL.kv_heads
        found = {}
        for key, beats in self.beats.items():
            values = np.zeros((rows, 256), dtype=np.int64)
            for beat in beats:
                if key[0] == "heads":
                    # k, v, q.
                    head = beat.head + (0, kv, 2 * kv)[beat.kind.value]
                    values[beat.row, head * pad + beat.column :][:lanes] = beat.codes
                else:
                    inside = beat.codes if key[0] == "codes" else beat.values
                    values[beat.row, beat.column : beat.column + lanes] = inside
            found[key] = values
        return found


KINDS = {
    Opcode.EMBED: "residual",
    Opcode.NORM: "codes",
    Opcode.QKV: "heads",
    Opcode.ATTEND: "codes",
    Opcode.GATE_UP: "codes",
}


class Golden:
    """The golden decoder, and what it had last."""

    def __init__(self, *before: Sequence[int]):
        self.results: dict[tuple[str, int], np.ndarray] = {}
        self.decoder = Decoder(MODEL, CONFIG.n, BLOCKS, trace=self._keep)
        for sequence, tokens in enumerate(before):
            self.decoder.open(sequence, TABLES[sequence])
            for token in tokens:
                self.decoder.step([token], sequence, False)

    def _keep(self, packet: int, opcode: Opcode, layer: int, values) -> None:
        if opcode is not Opcode.SAMPLE:
            kind = KINDS.get(opcode, "logits" if layer == NO_LAYER else "residual")
            self.results[kind, packet] = np.array(values)

    def step(self, parts: "list[Rows]", sampled: int) -> list[tuple[int, int, int]]:
        """One step; gives the tokens as the hardware shows them."""
        self.results.clear()
        assert all(self.decoder.kv.length(sequence) == position for sequence, position, _ in parts)
        logits = self.decoder.step_batch([(sequence, tokens) for sequence, _, tokens in parts], sampled > 0)
        if not sampled:
            return []
        # The first rows and the last one.
        chosen = logits[[*range(sampled - 1), len(logits) - 1]]
        for key in self.results:
            if key[0] == "logits":
                self.results[key] = chosen
        return [(row, int(token), int(chosen[row, token])) for row, token in enumerate(greedy(chosen))]


def compare(bench: Bench, golden: Golden, rows: int) -> None:
    """All results of a step, and KV memory as far as it was written."""
    found, pad = bench.shown(rows), PARSED.fields["head_pad"]
    assert set(found) == set(golden.results)
    for (kind, packet), values in golden.results.items():
        assert not found[kind, packet][len(values) :].any()
        columns = np.arange(values.shape[1])
        # Heads lie head_pad apart, also where they are the inputs of a projection.
        if kind == "heads" or packet in ATTENDS:
            columns = columns // MODEL.head_dim * pad + columns % MODEL.head_dim
        assert np.array_equal(found[kind, packet][: len(values), columns], values), (kind, packet)
    image, mask = golden.decoder.kv.image, golden.decoder.kv.written()
    memory = np.frombuffer(bytes(bench.memory.data[KV_AT : KV_AT + image.size]), np.uint8)
    assert np.array_equal(memory.reshape(image.shape)[mask], image[mask])


ATTENDS = [index for index, packet in enumerate(PARSED.packets) if packet.opcode is Opcode.ATTEND]


@pytest.mark.parametrize("stall", STALLS)
def test_steps_of_several_rows(stall: float) -> None:
    """Rows of a step see each other and what was there before, also where a block begins between them."""
    tokens = random.Random(4).choices(range(MODEL.vocab), k=20)
    bench, golden = Bench(stall=stall / 2, seed=1), Golden(tokens[:13])
    bench.load(golden.decoder)

    async def steps(ctx) -> None:
        bench.setup(ctx)
        position = 13
        for rows, sampled in ((4, 0), (3, 3)):
            parts = [(0, position, tokens[position : position + rows])]
            bench.forget()
            assert await bench.step(ctx, parts, sampled) == golden.step(parts, sampled)
            compare(bench, golden, rows)
            position += rows
        assert position == len(tokens)
        assert not ctx.get(bench.dut.tape_fault.valid) and not ctx.get(bench.dut.execution_fault.valid)

    bench.run(steps)


@pytest.mark.parametrize("stall", STALLS)
def test_steps_of_several_sequences(stall: float) -> None:
    """Decoding rows and a chunk of prompt share a step; of the chunk only the last row is sampled, if any.

    Chunks of more than four rows are more than attention takes at a time.
    """
    rng = random.Random(5)
    lengths = (13, 0, 35, 16)
    known = [rng.choices(range(MODEL.vocab), k=length) for length in lengths]
    bench, golden = Bench(stall=stall / 2, seed=3), Golden(*known)
    bench.load(golden.decoder)
    # Rows of each sequence, and how many rows are sampled.
    plan = [({2: 1, 0: 1, 1: 5}, 2), ({3: 1, 1: 6}, 2), ({0: 1, 1: 1, 2: 1, 3: 1}, 4), ({0: 2, 3: 6}, 0)]

    async def steps(ctx) -> None:
        bench.setup(ctx)
        at = list(lengths)
        for counts, sampled in plan:
            parts = []
            for sequence, rows in counts.items():
                parts.append((sequence, at[sequence], rng.choices(range(MODEL.vocab), k=rows)))
                at[sequence] += rows
            bench.forget()
            assert await bench.step(ctx, parts, sampled) == golden.step(parts, sampled)
            compare(bench, golden, sum(counts.values()))
        assert not ctx.get(bench.dut.tape_fault.valid) and not ctx.get(bench.dut.execution_fault.valid)

    bench.run(steps)


def test_a_reset_in_the_middle_leaves_no_trace() -> None:
    """Whenever it comes: the step is run again and gives what it gives without."""
    bench, golden, rng = Bench(latency=9, stall=0.2, seed=2), Golden([3, 5, 1], [2]), random.Random(6)
    bench.load(golden.decoder)
    parts = [(0, 3, [2]), (1, 1, [4, 6])]

    async def steps(ctx) -> None:
        bench.setup(ctx)
        expected = golden.step(parts, 2)
        assert await bench.step(ctx, parts, 2) == expected
        compare(bench, golden, 3)
        part = bench.cycles // 5
        for index in range(5):
            assert await bench.step(ctx, parts, 2, part * index + rng.randrange(1, part)) is None
            await bench.reset(ctx)
        assert await bench.step(ctx, parts, 2) == expected
        compare(bench, golden, 3)

    bench.run(steps)


def test_a_block_that_is_not_mapped_is_a_fault() -> None:
    bench = Bench()

    async def steps(ctx) -> None:
        bench.setup(ctx)
        # Position 48 is in the fourth block; the table has three. The slot is looked up while EMBED runs.
        assert await bench.step(ctx, [(0, 48, [1])], 0, 200) is None
        fault = ctx.get(bench.dut.execution_fault)
        assert fault.valid and fault.code is FaultCode.KV_MAP and fault.index == 0

    bench.run(steps)
