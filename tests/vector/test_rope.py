# SPDX-License-Identifier: Apache-2.0
"""Rotator: rotation of q and k, k's mean, v as it is."""

import pytest

from serrano.vector.payloads import HeadKind
from serrano.vector.rope import Rotator
from support.qkv import Packet, shapes
from support.streams import STALLS, collect, send, simulate
from support.vectors import BASE, CONFIGS


def beats_of(packet: Packet, values) -> list[dict]:
    lanes, kv = packet.config.lanes, packet.shape.kv_heads
    result = []
    for row, index in packet.order():
        kind, head = packet.place(index)
        for word in range(packet.shape.head_pad // lanes):
            at = slice(word * lanes, (word + 1) * lanes)
            # V and q must not lose a mean, whatever comes with them.
            means = packet.kmeans.reshape(kv, -1)[head if kind == HeadKind.K else 0, at]
            result.append(
                {
                    "values": values[row, index, at].tolist(),
                    "kmeans": means.tolist(),
                    "tag": {"kind": kind, "row": row, "head": head},
                    "word": word,
                    "half": index & 1,
                    "first": word == 0,
                    "complete": row & 1,
                    "release": head & 1,
                    "last": 0,
                }
            )
    return result


def plain(beat) -> tuple:
    tag = beat.tag
    flags = beat.half, beat.first, beat.complete, beat.release, beat.last
    return list(beat.values), tag.kind, tag.row, tag.head, beat.word, flags


def plain_input(beat: dict) -> tuple:
    tag = beat["tag"]
    flags = tuple(int(beat[name]) for name in ("half", "first", "complete", "release", "last"))
    return beat["values"], tag["kind"], tag["row"], tag["head"], beat["word"], flags


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_rotation(config, stall: float) -> None:
    dut = Rotator(config)
    packets = [Packet(config, shape, seed) for seed, shape in enumerate(shapes(config))]

    async def bench(ctx) -> None:
        for packet in packets:
            await send(ctx, dut.rope, packet.rope_writes(), stall, 1)
            feeding.append(beats_of(packet, packet.values))
            wanted = [plain_input(beat) for beat in beats_of(packet, packet.turned())]
            assert await collect(ctx, dut.o, len(wanted), stall, 2, plain) == wanted

    feeding: list[list[dict]] = []

    async def feed(ctx) -> None:
        for turn in range(len(packets)):
            while len(feeding) <= turn:
                await ctx.tick()
            await send(ctx, dut.i, feeding[turn], stall, 3)

    simulate(dut, bench, feed)


def test_latency_and_rate() -> None:
    dut = Rotator(BASE)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.i.valid, 1)
        for _ in range(dut.latency + 10):
            assert ctx.get(dut.i.ready)
            seen.append(ctx.get(dut.o.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == [0] * dut.latency + [1] * 10
