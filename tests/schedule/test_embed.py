# SPDX-License-Identifier: Apache-2.0
"""Embedder against the golden model: elements, pairs, padding, several rows."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient
from serrano.config import AcceleratorConfig, preset
from serrano.schedule.embed import Embedder
from serrano_sim.golden.embed import embed
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Tape, read_tape
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

BASE = 0x1000


@cache
def tape(n: int, align: int, head_dim: int) -> tuple[bytes, Tape]:
    model = random_model(3, dim=44, ffn=48, layers=1, heads=2, kv_heads=1, head_dim=head_dim, vocab=33)
    image = write_tape(model, n, align)
    return image, read_tape(image)


def describe(parsed: Tape) -> dict[str, int]:
    names = ("dim", "head_pad", "rope_offset", "rope_stride", "embed_offset", "embed_stride")
    return {name: parsed.fields[name] for name in names}


LONE = dataclasses.replace(preset("tiny"), name="lone", port_bytes=2, lanes=1)
"""One lane: a pair of channels is two words."""


@pytest.mark.parametrize("config", [*map(preset, ("tiny", "ulx3s", "base")), LONE], ids=lambda c: c.name)
@pytest.mark.parametrize("head_dim", [8, 20, 48])
@pytest.mark.parametrize("stall", STALLS)
def test_rows(config: AcceleratorConfig, head_dim: int, stall: float) -> None:
    image, parsed = tape(config.n, config.tape_align, head_dim)
    model = parsed.model
    dut, arbiter = Embedder(config), ReadArbiter(config, [ReadClient("embed", 16, 64)])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(1 << 16, 7, stall)
    memory.data[BASE : BASE + len(image)] = image
    rows = [(0, 0, 0), (2, 32, 63), (1, 17, 5), (3, 17, 6)]
    padded = -(-model.dim // config.n) * config.n
    pad = parsed.fields["head_pad"]

    async def feed(ctx) -> None:
        ctx.set(dut.tape, BASE)
        ctx.set(dut.model, describe(parsed))
        items = [{"row": r, "token": t, "position": p} for r, t, p in rows]
        await send(ctx, dut.command, items, stall, 1)
        await ctx.tick().until(dut.idle)

    async def elements(ctx) -> None:
        for row, token, _ in rows:
            expected = np.zeros(padded, dtype=np.int64)
            expected[: model.dim] = embed([token], model.embedding.codes, model.embedding.scales)[0]
            beats = await collect(
                ctx,
                dut.beats,
                padded // config.lanes,
                stall,
                2,
                lambda p: (p.row, p.column, list(p.values)),
            )
            assert [(r, c) for r, c, _ in beats] == [(row, c) for c in range(0, padded, config.lanes)]
            assert [v for _, _, values in beats for v in values] == expected.tolist()

    async def pairs(ctx) -> None:
        for row, _, position in rows:
            words = await collect(
                ctx,
                dut.rope,
                pad // max(2, config.lanes),
                stall,
                3,
                lambda p: (p.row, p.word, [(pair.cos, pair.sin) for pair in p.pairs]),
            )
            assert [(r, i) for r, i, _ in words] == [(row, i) for i in range(pad // max(2, config.lanes))]
            got = [pair for _, _, word in words for pair in word]
            own = [tuple(int(x) for x in pair) for pair in model.rope[position]]
            assert got == own + [(32767, 0)] * (pad // 2 - len(own))

    async def serve(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    simulate(m, feed, elements, pairs, background=[serve])


def test_the_largest_scale_saturates() -> None:
    config = preset("tiny")
    image, parsed = tape(config.n, config.tape_align, 8)
    content = bytearray(image)
    at = parsed.fields["embed_offset"] + parsed.fields["embed_stride"] * 4
    content[at : at + 2] = (63 << 10 | 1023).to_bytes(2, "little")
    dut, arbiter = Embedder(config), ReadArbiter(config, [ReadClient("embed", 16, 64)])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(1 << 16, 2)
    memory.data[: len(content)] = content
    codes = parsed.model.embedding.codes[4].astype(int)

    async def bench(ctx) -> None:
        ctx.set(dut.model, describe(parsed))
        ctx.set(dut.rope.ready, 1)
        await send(ctx, dut.command, [{"row": 0, "token": 4, "position": 0}])
        beats = await collect(ctx, dut.beats, 22, convert=lambda p: list(p.values))
        values = [v for beat in beats for v in beat][: parsed.model.dim]
        limit = (1 << 31) - 1
        assert values == [0 if c == 0 else (limit if c > 0 else -limit - 1) for c in codes]

    async def serve(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    simulate(m, bench, background=[serve])
