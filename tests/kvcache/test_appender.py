# SPDX-License-Identifier: Apache-2.0
"""Appender through the write arbiter and a memory, against golden pages, byte for byte."""

import random

import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring

from kvcache.memory import BASE, accelerator, translator
from serrano.bus import WriteArbiter
from serrano.kvcache import Status
from serrano.kvcache.appender import Appender
from serrano.vector.payloads import HeadKind
from serrano_sim.golden.kvcache import KVCache
from support.axi import AXIMemory
from support.streams import STALLS, send, simulate

LAYERS, KV_HEADS, HEADS = 2, 2, 3


class AppenderAndBus(wiring.Component):
    """An appender with a memory port of its own."""

    def __init__(self, config):
        self.appender = Appender(config)
        self.arbiter = WriteArbiter(config, ["kv"])
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.appender = self.appender
        m.submodules.arbiter = self.arbiter
        wiring.connect(m, self.appender.memory, self.arbiter.ports[0])
        return m


def head_pad(head_dim: int, n: int) -> int:
    if head_dim >= n:
        return -(-head_dim // n) * n
    return max(n // 2, 1 << (head_dim - 1).bit_length())


def packet(config, rows, head_dim, k, s_k, v, s_v, rng):
    """Codes and scales as the heads give them: head after head, rows inside, padding and q too."""
    codes, scales = [], []
    for kind, heads in ((HeadKind.K, KV_HEADS), (HeadKind.V, KV_HEADS), (HeadKind.Q, HEADS)):
        for head in range(heads):
            for row in range(rows):
                vector = np.full(head_pad(head_dim, config.n), 99)
                packed = rng.randrange(1 << 16)
                if kind != HeadKind.Q:
                    vector[:head_dim] = (k if kind == HeadKind.K else v)[head, row]
                    packed = int((s_k if kind == HeadKind.K else s_v)[head, row])
                tag = {"kind": kind, "row": row, "head": head}
                for column in range(0, len(vector), config.lanes):
                    lanes = vector[column : column + config.lanes].tolist()
                    codes.append({**tag, "column": column, "codes": lanes, "last": 0})
                scale = {"mantissa": 1 << 15 | (packed & 1023) << 5, "exponent": (packed >> 10) - 40}
                scales.append({**tag, "scale": scale, "last": 0})
    codes[-1]["last"] = scales[-1]["last"] = 1
    return codes, scales


@pytest.mark.parametrize(
    ("n", "port_bytes", "lanes", "head_dim"),
    [
        (4, 4, 2, 8),
        (4, 2, 1, 6),
        (4, 4, 1, 2),
        (8, 2, 1, 12),
        (4, 16, 2, 6),
        (4, 4, 2, 2),
        (8, 2, 2, 12),
        (8, 2, 4, 10),
        (16, 4, 8, 8),
        (16, 16, 8, 48),
        (16, 16, 8, 20),
        (16, 16, 8, 64),
        (16, 4, 8, 34),
        (16, 64, 8, 34),
    ],
)
@pytest.mark.parametrize("stall", STALLS)
def test_pages(n: int, port_bytes: int, lanes: int, head_dim: int, stall: float) -> None:
    config = accelerator(n, port_bytes, lanes, kv_width_max=256, head_dim_max=128, registered=n == 8)
    dut = AppenderAndBus(config)
    appender = dut.appender
    rng = random.Random(f"{n} {head_dim}")
    numbers = np.random.default_rng(head_dim)
    cache = KVCache(LAYERS, KV_HEADS, head_dim, n, blocks=32)
    tables = {seq: rng.sample(range(1 + 8 * seq, 9 + 8 * seq), 4) for seq in range(3)}
    memory = AXIMemory(BASE + cache.image.size + 4096, 1 if stall else 20, stall, 6)
    for seq, table in tables.items():
        cache.open(seq, table)
        cache.commit(seq, rng.randrange(13, 18))

    def tokens(count):
        made = [numbers.integers(-128, 128, (KV_HEADS, count, head_dim)) for _ in range(2)]
        made += [numbers.integers(0, 1 << 16, (KV_HEADS, count)) for _ in range(2)]
        return made

    async def bench(ctx) -> None:
        ctx.set(
            appender.geometry,
            {"base": BASE, "block_bytes": cache.block_bytes, "head_dim": head_dim},
        )
        for step in range(2):
            # Rows of a step: one or several of each of two sequences.
            counts = {seq: count for seq, count in zip(rng.sample(range(3), 2), (1, 3), strict=True)}
            rows = [
                {"seq": seq, "position": cache.length(seq) + i}
                for seq, count in counts.items()
                for i in range(count)
            ]
            await send(
                ctx, appender.places, [{**place, "row": row} for row, place in enumerate(rows)], stall, step
            )
            assert ctx.get(appender.pending)
            for layer in range(LAYERS):
                parts = [tokens(count) for count in counts.values()]
                for (seq, _), (k, v, s_k, s_v) in zip(counts.items(), parts, strict=True):
                    cache.append(seq, layer, k, s_k, v, s_v)
                k, v, s_k, s_v = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))
                streams.append(packet(config, len(rows), head_dim, k, s_k, v, s_v, rng))
                await send(ctx, appender.command, [{"record": layer * KV_HEADS}], stall, layer)
                assert ctx.get(appender.pending)
                await ctx.tick().until(appender.command.ready)
            await ctx.tick().until(~appender.pending)
            for seq, count in counts.items():
                cache.commit(seq, count)
            # What is acknowledged is in memory.
            assert bytes(memory.data[BASE : BASE + cache.image.size]) == cache.image.tobytes()
        assert not any(memory.data[:BASE])
        assert not any(memory.data[BASE + cache.image.size :])

    streams: list = []

    def feed(index: int):
        port = (appender.codes, appender.scales)[index]

        async def run(ctx) -> None:
            for number in range(2 * LAYERS):
                while len(streams) <= number:
                    await ctx.tick()
                await send(ctx, port, streams[number][index], stall, 10 * number + index)

        return run

    async def answer(ctx) -> None:
        await translator(ctx, appender.translate, tables, stall)

    async def serve(ctx) -> None:
        await memory.serve_writes(ctx, dut.arbiter.axi)

    simulate(dut, bench, feed(0), feed(1), background=[answer, serve], cycles=200_000)
    assert memory.writes


def test_rows_without_a_block_are_not_written() -> None:
    config = accelerator(4, 4, 2)
    dut = AppenderAndBus(config)
    appender = dut.appender
    cache = KVCache(1, KV_HEADS, 8, 4, blocks=32)
    cache.open(0, [3])
    memory = AXIMemory(BASE + cache.image.size, 3)
    faults = []
    rng = random.Random(1)
    k, v = (np.full((KV_HEADS, 1, 8), value) for value in (5, -6))
    s_k, s_v = (np.full((KV_HEADS, 1), value) for value in (0x1234, 0xABCD))
    cache.append(0, 0, k, s_k, v, s_v)
    three = [np.repeat(part, 3, axis=1) for part in (k, s_k, v, s_v)]
    codes, scales = packet(config, 3, 8, *three, rng)

    async def bench(ctx) -> None:
        ctx.set(appender.geometry, {"base": BASE, "block_bytes": cache.block_bytes, "head_dim": 8})
        places = [
            {"row": 0, "seq": 0, "position": 16},
            {"row": 1, "seq": 0, "position": 0},
            {"row": 2, "seq": 1, "position": 5},
        ]
        await send(ctx, appender.places, places)
        await send(ctx, appender.command, [{"record": 0}])
        await ctx.tick().until(~appender.pending)

    async def feed_codes(ctx) -> None:
        await send(ctx, appender.codes, codes)

    async def feed_scales(ctx) -> None:
        await send(ctx, appender.scales, scales)

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(appender.fault):
            if fault.valid:
                faults.append(fault.status)

    async def answer(ctx) -> None:
        await translator(ctx, appender.translate, {0: [3], 1: [0]})

    async def serve(ctx) -> None:
        await memory.serve_writes(ctx, dut.arbiter.axi)

    simulate(dut, bench, feed_codes, feed_scales, background=[answer, watch, serve])
    assert faults == [Status.OUT_OF_RANGE, Status.NOT_MAPPED]
    assert bytes(memory.data[BASE:]) == cache.image.tobytes()


def test_pending_covers_the_last_response() -> None:
    """A write response that is late keeps ``pending``; a row of zeros in head_dim 8 is ten words."""
    config = accelerator(16, 16, 8)
    dut = AppenderAndBus(config)
    appender = dut.appender
    memory = AXIMemory(1 << 16, latency=200)
    k = np.ones((KV_HEADS, 1, 8), dtype=int)
    codes, scales = packet(config, 1, 8, k, k[..., 0], k, k[..., 0], random.Random(1))
    cycles = []

    async def bench(ctx) -> None:
        ctx.set(appender.geometry, {"base": BASE, "block_bytes": 1280, "head_dim": 8})
        await send(ctx, appender.places, [{"row": 0, "seq": 0, "position": 7}])
        await send(ctx, appender.command, [{"record": 0}])
        count = 0
        while ctx.get(appender.pending):
            await ctx.tick()
            count += 1
        cycles.append(count)

    async def feed_codes(ctx) -> None:
        await send(ctx, appender.codes, codes)

    async def feed_scales(ctx) -> None:
        await send(ctx, appender.scales, scales)

    async def answer(ctx) -> None:
        await translator(ctx, appender.translate, {0: [1]})

    async def serve(ctx) -> None:
        await memory.serve_writes(ctx, dut.arbiter.axi)

    simulate(dut, bench, feed_codes, feed_scales, background=[answer, serve])
    assert 200 < cycles[0] < 260
    # K and V of two heads: a scale and a word of codes each.
    assert len(memory.writes) == 2 * 2 * 2
