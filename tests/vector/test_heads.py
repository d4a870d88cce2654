# SPDX-License-Identifier: Apache-2.0
"""Heads: from linear outputs to codes and scales, for head sizes below, at and above n."""

import dataclasses

import pytest

from serrano.config import preset
from serrano.vector.heads import Heads, UnitGate
from support.qkv import Packet, Shape, plain_codes, plain_scale, shapes
from support.streams import STALLS, collect, send, simulate
from support.vectors import BASE, CONFIGS, LATE, SMALL


def run(config, packets: list[Packet], stall: float, scale_stall: float | None = None) -> None:
    dut = Heads(config)

    async def bench(ctx) -> None:
        for packet in packets:
            await send(ctx, dut.rope, packet.rope_writes(), stall, 1)
            await send(ctx, dut.command, [packet.command()])
            await send(ctx, dut.beats, packet.beats(), stall, 2)
            while done[0] < 2 * (1 + packets.index(packet)):
                await ctx.tick()

    done = [0]

    async def drain_codes(ctx) -> None:
        for packet in packets:
            wanted = packet.codes()
            assert await collect(ctx, dut.codes, len(wanted), stall, 3, plain_codes) == wanted
            done[0] += 1

    async def drain_scales(ctx) -> None:
        for packet in packets:
            wanted = packet.scales()
            rate = stall if scale_stall is None else scale_stall
            assert await collect(ctx, dut.scales, len(wanted), rate, 4, plain_scale) == wanted
            done[0] += 1

    simulate(dut, bench, drain_codes, drain_scales)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_packets(config, stall: float) -> None:
    run(config, [Packet(config, shape, seed) for seed, shape in enumerate(shapes(config))], stall)


def test_late_scales() -> None:
    """Codes wait for scales that nobody takes, and nothing is lost."""
    run(SMALL, [Packet(SMALL, shape, seed) for seed, shape in enumerate(shapes(SMALL))], 0.0, 0.95)


@pytest.mark.parametrize("head_pad", [8, 48, 64, 128])
def test_base(head_pad: int) -> None:
    config = dataclasses.replace(preset("base"), dim_max=128, ffn_max=128, heads_max=8, kv_width_max=256)
    run(config, [Packet(config, Shape(config.rows_max, 1, 2, head_pad), 9)], 0.0)


@pytest.mark.parametrize("shape", [Shape(8, 2, 4, 48), Shape(8, 2, 4, 8), Shape(8, 2, 4, 64)], ids=str)
def test_rate(shape: Shape) -> None:
    """With as many rows as a step of prefill has, one beat per cycle, without stalls."""
    packet = Packet(BASE, shape, 5)
    dut = Heads(BASE)

    async def bench(ctx) -> None:
        ctx.set(dut.codes.ready, 1)
        ctx.set(dut.scales.ready, 1)
        await send(ctx, dut.command, [packet.command()])
        for beat in packet.beats():
            ctx.set(dut.beats.payload, beat)
            ctx.set(dut.beats.valid, 1)
            assert ctx.get(dut.beats.ready)
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency(config) -> None:
    """From the last beat of a head to its first codes."""
    packet = Packet(config, Shape(1, 1, 1, config.n), 6)
    dut = Heads(config)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.codes.ready, 1)
        await send(ctx, dut.command, [packet.command()])
        for beat in packet.beats()[: config.n // config.lanes]:
            ctx.set(dut.beats.payload, beat)
            ctx.set(dut.beats.valid, 1)
            while not ctx.get(dut.beats.ready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(dut.beats.valid, 0)
        # One cycle has passed since the last beat came.
        for _ in range(dut.latency + 1):
            seen.append(ctx.get(dut.codes.valid))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == [0] * (dut.latency - 1) + [1, 1]


def test_gate() -> None:
    """Two units pass, then one for each slot that is released; beats between a unit's ends are free."""
    dut = UnitGate(LATE)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        # Units of two beats; a slot comes back in the cycle of a unit's end, and while none is left.
        for release, released in (
            (0, 0),
            (1, 0),
            (0, 0),
            (1, 1),
            (0, 0),
            (1, 0),
            (0, 0),
            (0, 1),
            (0, 0),
            (1, 0),
        ):
            ctx.set(dut.i.payload.release, release)
            ctx.set(dut.released, released)
            seen.append(ctx.get(dut.o.valid))
            assert ctx.get(dut.i.ready) == seen[-1]
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        seen.append(ctx.get(dut.i.ready))

    simulate(dut, bench)
    assert seen == [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0]
