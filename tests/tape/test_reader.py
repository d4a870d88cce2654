# SPDX-License-Identifier: Apache-2.0
"""TapeReader against the golden tape parser: headers, payloads, checks, rate."""

from functools import cache

import pytest

from serrano.config import PRESETS, AcceleratorConfig
from serrano.faults import FaultCode
from serrano.tape.reader import TapeReader
from serrano_sim.golden.synthetic import random_model, write_tape
from serrano_sim.golden.tape import Tape, read_tape
from support.streams import STALLS, collect, send, simulate

CONFIGS = PRESETS


@cache
def tape(n: int, align: int) -> tuple[bytes, Tape]:
    image = write_tape(random_model(1, dim=40, ffn=44, layers=1, heads=2, kv_heads=1, vocab=33), n, align)
    return image, read_tape(image)


def program(config: AcceleratorConfig) -> tuple[bytearray, Tape]:
    image, parsed = tape(config.n, config.tape_align)
    return bytearray(image[parsed.fields["program_offset"] : parsed.fields["program_end"]]), parsed


def offsets(config: AcceleratorConfig, parsed: Tape) -> list[int]:
    starts = [0]
    for packet in parsed.packets:
        starts.append(starts[-1] + config.tape_align + packet.payload_bytes)
    return starts


def units(config: AcceleratorConfig, content: bytes) -> list[dict]:
    width = config.load_bytes
    return [{"bytes": list(content[i : i + width])} for i in range(0, len(content), width)]


async def begin(ctx, dut: TapeReader, parsed: Tape) -> None:
    ctx.set(dut.start, 1)
    ctx.set(dut.last_index, len(parsed.packets) - 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stall", STALLS)
def test_headers_and_payloads(name: str, stall: float) -> None:
    config = CONFIGS[name]
    content, parsed = program(config)
    dut = TapeReader(config)
    starts = offsets(config, parsed)
    count = sum(packet.payload_bytes for packet in parsed.packets) // config.load_bytes

    async def feed(ctx) -> None:
        await begin(ctx, dut, parsed)
        await send(ctx, dut.units, units(config, content), stall, 1)
        await ctx.tick().repeat(4 + config.registered)
        assert ctx.get(dut.checked) == len(parsed.packets)
        assert not ctx.get(dut.fault.valid)

    async def headers(ctx) -> None:
        got = await collect(
            ctx,
            dut.headers,
            len(parsed.packets),
            stall,
            2,
            lambda p: (p.opcode, p.layer, p.k, p.n_out, p.payload_bytes, p.index),
        )
        assert got == [
            (int(p.opcode), p.layer, p.k, p.n_out, p.payload_bytes, p.index) for p in parsed.packets
        ]

    async def payload(ctx) -> None:
        got = await collect(ctx, dut.payload, count, stall, 3, lambda p: (bytes(p.bytes), p.last))
        expected, lasts = b"", []
        for start, packet in zip(starts, parsed.packets, strict=False):
            body = content[start + config.tape_align :][: packet.payload_bytes]
            expected += body
            lasts += [0] * (len(body) // config.load_bytes - 1) + [1] * bool(body)
        assert b"".join(b for b, _ in got) == expected
        assert [last for _, last in got] == lasts

    simulate(dut, feed, headers, payload)


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "base"])
def test_no_pause_between_packets(name: str) -> None:
    config = CONFIGS[name]
    content, parsed = program(config)
    dut = TapeReader(config)

    async def bench(ctx) -> None:
        await begin(ctx, dut, parsed)
        ctx.set(dut.headers.ready, 1)
        ctx.set(dut.payload.ready, 1)
        for unit in units(config, content):
            ctx.set(dut.units.payload, unit)
            ctx.set(dut.units.valid, 1)
            assert ctx.get(dut.units.ready)
            await ctx.tick()

    simulate(dut, bench)


def field(offset: int, value: int, length: int = 4) -> tuple[int, bytes]:
    return offset, value.to_bytes(length, "little")


@pytest.mark.parametrize("name", ["tiny", "ulx3s", "base", "wide"])
@pytest.mark.parametrize(
    ("packet", "change", "code"),
    [
        (2, field(0, 0x55, 1), FaultCode.PACKET_OPCODE),
        (3, field(16, 9), FaultCode.PACKET_INDEX),
        (2, field(12, 0), FaultCode.PACKET_LENGTH),
        (2, field(12, 33), FaultCode.PACKET_LENGTH),
        (1, field(12, 64), FaultCode.PACKET_LENGTH),
        (2, field(4, 41), FaultCode.PACKET_CRC),
        (2, field(28, 0x12345678), FaultCode.PACKET_CRC),
        (4, field(2, 3, 2), FaultCode.PACKET_CRC),
        (2, (200, b"\x99"), FaultCode.PACKET_CRC),
    ],
)
def test_faults(name: str, packet: int, change: tuple[int, bytes], code: FaultCode) -> None:
    config = CONFIGS[name]
    content, parsed = program(config)
    offset, replacement = change
    at = offsets(config, parsed)[packet] + offset
    content[at : at + len(replacement)] = replacement
    dut = TapeReader(config)

    async def feed(ctx) -> None:
        await begin(ctx, dut, parsed)
        ctx.set(dut.headers.ready, 1)
        ctx.set(dut.payload.ready, 1)
        for unit in units(config, content):
            ctx.set(dut.units.payload, unit)
            ctx.set(dut.units.valid, 1)
            await ctx.tick()
            if ctx.get(dut.fault.valid):
                break
        assert ctx.get(dut.fault.code) == code
        assert ctx.get(dut.fault.index) == packet
        # The check of the packet before may still be on its way.
        assert packet - 1 <= ctx.get(dut.checked) <= packet
        # With registers one more unit is taken.
        if config.registered:
            await ctx.tick()
        assert not ctx.get(dut.units.ready)

    simulate(dut, feed)


def test_the_head_may_be_skipped() -> None:
    config = CONFIGS["base"]
    content, parsed = program(config)
    starts = offsets(config, parsed)
    skipped = content[: starts[-5]] + content[starts[-2] :]
    dut = TapeReader(config)

    async def feed(ctx) -> None:
        await begin(ctx, dut, parsed)
        ctx.set(dut.headers.ready, 1)
        ctx.set(dut.payload.ready, 1)
        await send(ctx, dut.units, units(config, skipped))
        await ctx.tick().repeat(3)
        assert ctx.get(dut.checked) == len(parsed.packets) - 3
        assert not ctx.get(dut.fault.valid)

    simulate(dut, feed)


def test_an_end_of_another_program() -> None:
    config = CONFIGS["base"]
    content, parsed = program(config)
    dut = TapeReader(config)

    async def feed(ctx) -> None:
        await begin(ctx, dut, parsed)
        ctx.set(dut.last_index, len(parsed.packets))
        ctx.set(dut.headers.ready, 1)
        ctx.set(dut.payload.ready, 1)
        await send(ctx, dut.units, units(config, content))
        await ctx.tick()
        assert ctx.get(dut.fault.valid)
        assert ctx.get(dut.fault.code) == FaultCode.PACKET_INDEX

    simulate(dut, feed)
