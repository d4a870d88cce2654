# SPDX-License-Identifier: Apache-2.0
"""HeadQuantizer and HeadMaxima on placed beats."""

import numpy as np
import pytest

from serrano.vector.head_quantizer import HeadMaxima, HeadQuantizer
from support.qkv import Packet, Shape, plain_codes, plain_scale, shapes
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS, scale_input


def placed(packet: Packet) -> list[dict]:
    """The packet's rotated values, beat by beat in the order block, row, slice."""
    shape, config = packet.shape, packet.config
    lanes, pad, turned = config.lanes, shape.head_pad, packet.turned()
    beats = []
    for beat in packet.beats():
        index, within = divmod(beat["column"], pad)
        if index >= shape.count:
            continue
        kind, head = packet.place(index)
        complete = within + lanes == pad
        ends = complete and beat["row"] == shape.rows - 1
        half = pad < config.n and index % 2 == 1
        beats.append(
            {
                "values": turned[beat["row"], index, within : within + lanes].tolist(),
                "kmeans": [0] * lanes,
                "tag": {"kind": kind, "row": beat["row"], "head": head},
                "word": within // lanes,
                "half": half,
                "first": within == 0,
                "complete": complete,
                "release": ends and (pad >= config.n or half or index == shape.count - 1),
                "last": ends and index == shape.count - 1,
            }
        )
    return beats


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_quantized(config, stall: float) -> None:
    dut = HeadQuantizer(config)
    packets = [Packet(config, shape, seed) for seed, shape in enumerate(shapes(config))]
    score = packets[0].score
    for packet in packets:
        packet.score = score

    async def feed(ctx) -> None:
        ctx.set(dut.score, scale_input(score))
        await send(ctx, dut.beats, [b for p in packets for b in placed(p)], stall, 1)

    async def drain_codes(ctx) -> None:
        for packet in packets:
            wanted = packet.codes()
            assert await collect(ctx, dut.codes, len(wanted), stall, 2, plain_codes) == wanted

    async def drain_scales(ctx) -> None:
        for packet in packets:
            wanted = packet.scales()
            assert await collect(ctx, dut.scales, len(wanted), stall, 3, plain_scale) == wanted

    simulate(dut, feed, drain_codes, drain_scales)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_maxima(config) -> None:
    dut = HeadMaxima(config)
    packets = [Packet(config, shape, seed) for seed, shape in enumerate(shapes(config))]
    found, ends = [], []

    async def bench(ctx) -> None:
        beats = [(b, slot & 1) for slot, p in enumerate(packets) for b in placed(p)]
        for cycle in range(len(beats) + dut.latency + 1):
            if ctx.get(dut.job_valid):
                job = ctx.get(dut.job)
                tag = job.tag
                found.append((job.maximum, job.words, tag.head.kind, tag.head.row, tag.head.head, tag.slot))
                assert ends[len(found) - 1] + dut.latency == cycle
            ctx.set(dut.valid, cycle < len(beats))
            if cycle < len(beats):
                beat, slot = beats[cycle]
                ctx.set(dut.beat, beat)
                ctx.set(dut.slot, slot)
                if beat["complete"]:
                    ends.append(cycle)
            await ctx.tick()

    simulate(dut, bench)
    wanted = []
    for slot, packet in enumerate(packets):
        maxima = np.abs(packet.turned()).max(axis=-1)
        words = packet.shape.head_pad // config.lanes
        for row, index in packet.order():
            kind, head = packet.place(index)
            wanted.append((int(maxima[row, index]), words, kind, row, head, slot & 1))
    assert found == wanted


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency(config) -> None:
    """From the last beat of a head of one block to its first codes."""
    dut = HeadQuantizer(config)
    packet = Packet(config, Shape(1, 1, 1, config.n), 1)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.codes.ready, 1)
        for beat in placed(packet)[: config.n // config.lanes]:
            ctx.set(dut.beats.payload, beat)
            ctx.set(dut.beats.valid, 1)
            await ctx.tick()
        ctx.set(dut.beats.valid, 0)
        for _ in range(dut.latency + 1):
            seen.append(ctx.get(dut.codes.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == [0] * (dut.latency - 1) + [1, 1]
