# SPDX-License-Identifier: Apache-2.0
"""The ring of records."""

import dataclasses
import random

import pytest

from attention import reference, step
from serrano.attention.records import RecordBuffer, record_units
from support.streams import STALLS, simulate


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(
    ("n", "port", "lookahead"), [(4, 4, 4), (8, 2, 2), (16, 16, 2), (16, 32, 4), (16, 64, 3)]
)
def test_ring(n, port, lookahead, stall):
    config = dataclasses.replace(reference.small(n, 2, head_dim_max=n, lookahead=lookahead), port_bytes=port)
    slots, load = lookahead + 2, config.load_bytes
    rng = random.Random(n + port)
    # Of several sizes, up to the largest.
    sizes = [64 + 32 * rng.choice([2, n // 2, n]) for _ in range(14)]
    records = [rng.randbytes(size) for size in sizes]
    dut = RecordBuffer(config)
    state = {"freed": 0, "begun": 0, "given": [0] * len(records)}

    async def write(ctx):
        for index, record in enumerate(records):
            while not ctx.get(dut.free_records):
                await ctx.tick()
            for number, beat in enumerate(step.record_beats(config, record)):
                while rng.random() < stall:
                    await ctx.tick()
                assert ctx.get(dut.records.ready)
                ctx.set(dut.records.payload, beat)
                ctx.set(dut.records.valid, 1)
                await ctx.tick()
                ctx.set(dut.records.valid, 0)
                state["given"][index] += port
                state["begun"] = index + 1
                # With registers it is seen a cycle later that a record begins.
                if number or not config.registered:
                    assert ctx.get(dut.free_records) == slots - state["begun"] + state["freed"]

    async def read(ctx):
        port_, pair = dut.read, dut.read_scales
        for index, record in enumerate(records):
            while rng.random() < stall:
                await ctx.tick()
            for reader in (port_, pair):
                ctx.set(reader.slot, index % slots)
                ctx.set(reader.serial, index % 8)
            while not ctx.get(pair.present):
                assert state["given"][index] < 64 + port * (1 + config.registered)
                await ctx.tick()
            ctx.set(pair.en, 1)
            await ctx.tick()
            ctx.set(pair.en, 0)
            scales = ctx.get(pair.data)
            packed = [s.exponent << 10 | s.fraction for s in [*scales.k, *scales.v]]
            assert b"".join(code.to_bytes(2, "little") for code in packed) == record[:64]
            units = list(range(len(record) // load))
            for unit in units if rng.random() < 0.5 else reversed(units):
                ctx.set(port_.unit, unit)
                while not ctx.get(port_.present):
                    await ctx.tick()
                assert state["given"][index] >= (unit + 1) * load
                ctx.set(port_.en, 1)
                await ctx.tick()
                ctx.set(port_.en, 0)
                data = bytes(byte & 255 for byte in ctx.get(port_.data))
                assert data == record[unit * load : (unit + 1) * load]
            # What has not begun to come is not there, whatever is in its slot.
            if state["begun"] <= index + 1:
                ctx.set(port_.serial, (index + 1) % 8)
                ctx.set(port_.unit, 0)
                ctx.set(pair.serial, (index + 2) % 8)
                await ctx.delay(0)
                assert state["begun"] > index + 1 or not ctx.get(port_.present)
                assert not ctx.get(pair.present)
            ctx.set(port_.serial, index % 8)
            while not ctx.get(port_.complete):
                await ctx.tick()
            assert state["given"][index] == len(record)
            ctx.set(dut.free, 1)
            state["freed"] += 1
            await ctx.tick()
            ctx.set(dut.free, 0)

    simulate(dut, write, read)


@pytest.mark.parametrize("late", ["codes", "scales"])
def test_waits_for_a_slot(late):
    """Of both memories, whichever is read last."""
    config = reference.small(16, 8, head_dim_max=16, lookahead=1)
    dut = RecordBuffer(config)
    free = {"codes": dut.free, "scales": dut.read_scales.en}

    async def pulse(ctx, signal):
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    async def bench(ctx):
        for left in (3, 2, 1):
            assert ctx.get(dut.free_records) == left
            for beat in step.record_beats(config, bytes(64 + 32 * 16)):
                assert ctx.get(dut.records.ready)
                ctx.set(dut.records.payload, beat)
                ctx.set(dut.records.valid, 1)
                await ctx.tick()
        # All that is read of one does not help without the other.
        for _ in range(3):
            assert not ctx.get(dut.records.ready)
            await pulse(ctx, next(signal for name, signal in free.items() if name != late))
        assert not ctx.get(dut.records.ready) and ctx.get(dut.free_records) == 0
        await pulse(ctx, free[late])
        assert ctx.get(dut.records.ready) and ctx.get(dut.free_records) == 1

    simulate(dut, bench)


def test_units_of_a_record():
    assert record_units(reference.small(16, 8, head_dim_max=64)) == (64 + 32 * 64) // 32
