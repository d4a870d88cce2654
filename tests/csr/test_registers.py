# SPDX-License-Identifier: Apache-2.0
"""ControlRegisters: access rules, strobes, events, and the AXI4-Lite handshakes."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.config import preset
from serrano.csr import ControlRegisters, register
from serrano.csr.counters import Counters
from serrano.csr.registers import constants
from serrano.csr.table import COUNTER_BASE, COUNTERS, REGISTERS, Access
from support.axi import lite_read, lite_write
from support.streams import STALLS, simulate


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "base"])
def test_constants_tell_the_configuration(name: str) -> None:
    config = preset(name)
    dut = ControlRegisters(config)

    async def bench(ctx) -> None:
        for entry, value in constants(config).items():
            assert await lite_read(ctx, dut.bus, register(entry).offset) == value
        assert await lite_read(ctx, dut.bus, 0) == int.from_bytes(b"SRNO", "little")

    simulate(dut, bench)
    assert constants(config)["DIM_MAX"] == config.dim_max


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_read_write_and_strobes(name: str) -> None:
    config = preset(name)
    dut = ControlRegisters(config)
    offset = register("KV_ADDRESS_LO").offset

    async def bench(ctx) -> None:
        await lite_write(ctx, dut.bus, offset, 0x12345678)
        await lite_write(ctx, dut.bus, offset, 0xFFFFFFFF, strobe=0b0100)
        assert await lite_read(ctx, dut.bus, offset) == 0x12FF5678
        assert ctx.get(dut.kv_address_lo) == 0x12FF5678
        assert await lite_read(ctx, dut.bus, 0x7F0) == 0
        await lite_write(ctx, dut.bus, 0x7F0, 1)
        await lite_write(ctx, dut.bus, 0, 1)
        assert await lite_read(ctx, dut.bus, 0) == constants(config)["ID"]

    simulate(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_what_the_host_writes_is_read(name: str) -> None:
    """All of it, and 0 before; a byte alone leaves 0 beside it."""
    dut = ControlRegisters(preset(name))
    written = [entry for entry in REGISTERS if entry.access in (Access.READ_WRITE, Access.COMMAND)]
    values = {entry: 0x01020304 * (2 + number) for number, entry in enumerate(written)}
    rng = random.Random(5)
    rng.shuffle(written)

    async def bench(ctx) -> None:
        for entry in written:
            assert await lite_read(ctx, dut.bus, entry.offset) == 0
            await lite_write(ctx, dut.bus, entry.offset, values[entry], strobe=0b0010)
            assert await lite_read(ctx, dut.bus, entry.offset) == values[entry] & 0xFF00
            assert ctx.get(getattr(dut, entry.attribute)) == values[entry] & 0xFF00
        for entry in written:
            await lite_write(ctx, dut.bus, entry.offset, values[entry])
        for entry in written:
            assert await lite_read(ctx, dut.bus, entry.offset) == values[entry]

    simulate(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_a_read_and_a_write_at_once(name: str) -> None:
    """The read gives the old value or the new one, whichever cycle the write comes in."""
    dut = ControlRegisters(preset(name))
    offset = register("WATCHDOG").offset
    seen = []

    async def read(ctx) -> None:
        for _ in range(12):
            seen.append(await lite_read(ctx, dut.bus, offset))

    async def write(ctx) -> None:
        for number in range(8):
            await ctx.tick().repeat(1 + number)
            await lite_write(ctx, dut.bus, offset, number)

    simulate(dut, read, write)
    assert seen == sorted(seen) and set(seen) <= set(range(8)) and len(set(seen)) > 2


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_command_is_an_event(name: str) -> None:
    dut = ControlRegisters(preset(name))
    events = []

    async def bench(ctx) -> None:
        offset = register("SUBMIT_TAIL").offset
        for value in (5, 5, 6):
            await lite_write(ctx, dut.bus, offset, value)
        # A write of no byte is none, as a narrow bus makes of the other half of its word.
        await lite_write(ctx, dut.bus, offset, 0xFFFFFFFF, strobe=0)
        await lite_write(ctx, dut.bus, offset, 0xFFFFFFFF, strobe=0b0010)
        assert await lite_read(ctx, dut.bus, offset) == 0xFF06
        await ctx.tick().repeat(3)

    async def watch(ctx) -> None:
        async for _, _, event, value in ctx.tick().sample(dut.submit_tail_write, dut.submit_tail):
            if event:
                events.append(value)

    simulate(dut, bench, background=[watch])
    assert events == [5, 5, 6, 0xFF06]


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_write_one_to_clear(name: str) -> None:
    dut = ControlRegisters(preset(name))
    offset = register("IRQ").offset

    async def bench(ctx) -> None:
        ctx.set(dut.irq_set, 0b011)
        await ctx.tick()
        ctx.set(dut.irq_set, 0)
        assert await lite_read(ctx, dut.bus, offset) == 0b011
        await lite_write(ctx, dut.bus, offset, 0b001)
        assert await lite_read(ctx, dut.bus, offset) == 0b010
        ctx.set(dut.irq_set, 0b010)
        await lite_write(ctx, dut.bus, offset, 0b010)
        assert ctx.get(dut.irq) == 0b010
        # Bits that mean nothing stay 0.
        ctx.set(dut.irq_set, 0xFFFFFFFF)
        await ctx.tick()
        assert ctx.get(dut.irq) == 0b111

    simulate(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_random_accesses_with_stalls(name: str) -> None:
    dut = ControlRegisters(preset(name))
    rng = random.Random(2)
    model = {}

    async def bench(ctx) -> None:
        for _ in range(200):
            entry = register(rng.choice(["KV_ARGUMENT0", "KV_ARGUMENT1", "COMPLETE_SIZE", "WATCHDOG"]))
            if rng.random() < 0.5:
                model[entry] = rng.randrange(1 << 32)
                await lite_write(ctx, dut.bus, entry.offset, model[entry], rng=rng)
            else:
                assert await lite_read(ctx, dut.bus, entry.offset, rng=rng) == model.get(entry, 0)

    simulate(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
def test_every_value_is_at_its_place(name: str) -> None:
    dut = ControlRegisters(preset(name))
    values = [
        entry for entry in REGISTERS if entry.access is Access.READ_ONLY and entry.offset < COUNTER_BASE
    ]

    async def bench(ctx) -> None:
        for number, entry in enumerate(values):
            ctx.set(getattr(dut, entry.attribute), 1000 + number)
        for number, entry in enumerate(values):
            assert await lite_read(ctx, dut.bus, entry.offset) == 1000 + number

    simulate(dut, bench)


@pytest.mark.parametrize("name", ["tiny", "ulx3s"])
@pytest.mark.parametrize("stall", STALLS)
def test_counters(name: str, stall: float) -> None:
    """A snapshot is read by the accesses right behind the write that asks for it."""
    config = preset(name)
    m = Module()
    m.submodules.dut = dut = ControlRegisters(config)
    m.submodules.counters = counters = Counters(registered=config.registered)
    wiring.connect(m, dut.counters, counters.read)
    m.d.comb += counters.snapshot.eq(dut.control_write & dut.control[1])
    m.d.comb += [increment.eq(index) for index, increment in enumerate(counters.increments)]
    rng = random.Random(3) if stall else None
    low = [register(f"COUNTER_{name.upper()}_LO").offset for name, _ in COUNTERS]

    async def bench(ctx) -> None:
        for _ in range(3):
            await lite_write(ctx, dut.bus, register("CONTROL").offset, 2)
            values = [await lite_read(ctx, dut.bus, offset, rng=rng) for offset in low]
            assert values[1] > 0 and values == [values[1] * index for index in range(len(values))]
            for offset in low:
                assert await lite_read(ctx, dut.bus, offset + 4, rng=rng) == 0
            # Beside the counters there is nothing.
            assert await lite_read(ctx, dut.bus, low[-1] + 8) == await lite_read(ctx, dut.bus, 0x300) == 0
            assert await lite_read(ctx, dut.bus, 0) == constants(config)["ID"]
            await ctx.tick().repeat(100)

    simulate(m, bench)
