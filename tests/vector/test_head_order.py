# SPDX-License-Identifier: Apache-2.0
"""HeadOrder: each beat's place, padding dropped."""

import pytest

from serrano.vector.head_order import HeadOrder
from support.qkv import Packet, shapes
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS


def places(packet: Packet) -> list[tuple]:
    """What is wanted, from the channel of each beat."""
    shape, config = packet.shape, packet.config
    lanes, pad = config.lanes, shape.head_pad
    result = []
    for beat in packet.beats():
        index, within = divmod(beat["column"], pad)
        if index >= shape.count:
            continue
        kind, head = packet.place(index)
        complete = within + lanes == pad
        last_row = beat["row"] == shape.rows - 1
        half = pad < config.n and index % 2 == 1
        ends_unit = pad >= config.n or half or index == shape.count - 1
        result.append(
            (
                (kind, beat["row"], head, within // lanes, int(half)),
                (int(within == 0), int(complete), int(complete and last_row and ends_unit)),
                int(complete and last_row and index == shape.count - 1),
                beat["values"],
                beat["kmeans"],
            )
        )
    return result


def plain(beat) -> tuple:
    tag = beat.tag
    return (
        (tag.kind, tag.row, tag.head, beat.word, beat.half),
        (beat.first, beat.complete, beat.release),
        beat.last,
        list(beat.values),
        list(beat.kmeans),
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_places(config, stall: float) -> None:
    dut = HeadOrder(config)
    packets = [Packet(config, shape, seed) for seed, shape in enumerate(shapes(config))]

    async def command(ctx) -> None:
        await send(ctx, dut.command, [p.command() for p in packets], stall, 1)

    async def feed(ctx) -> None:
        await send(ctx, dut.beats, [b for p in packets for b in p.beats()], stall, 2)

    async def drain(ctx) -> None:
        for packet in packets:
            wanted = places(packet)
            assert await collect(ctx, dut.placed, len(wanted), stall, 3, plain) == wanted
            assert (ctx.get(dut.score.mantissa), ctx.get(dut.score.exponent)) == (
                int(packet.score.m),
                int(packet.score.e),
            )
            await ctx.tick().repeat(20)
            assert not ctx.get(dut.command.ready)
            ctx.set(dut.finished, 1)
            await ctx.tick()
            ctx.set(dut.finished, 0)

    simulate(dut, command, feed, drain)
