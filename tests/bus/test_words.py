# SPDX-License-Identifier: Apache-2.0
"""WordReader and RecordWriter at every port width."""

import dataclasses
import random
import struct

import pytest

from serrano.bus import ReadArbiter, ReadClient, RecordWriter, WordReader, WriteArbiter
from serrano.config import AcceleratorConfig, preset
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

CONFIGS = [
    preset("tiny"),
    preset("ulx3s"),
    preset("base"),
    dataclasses.replace(preset("base"), n=32, port_bytes=64, lanes=16),
]


def with_memory(config: AcceleratorConfig, block, arbiter):
    from amaranth import Module
    from amaranth.lib import wiring

    m = Module()
    m.submodules.block = block
    m.submodules.arbiter = arbiter
    wiring.connect(m, block.memory, arbiter.ports[0])
    return m


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.port_bytes))
@pytest.mark.parametrize("stall", STALLS)
def test_words(config: AcceleratorConfig, stall: float) -> None:
    dut, arbiter = WordReader(config), ReadArbiter(config, [ReadClient("words", 16, 32)])
    model = AXIMemory(4096, 5, stall)
    model.data[:] = random.Random(1).randbytes(4096)
    model.read_errors = {0x800: 2}
    runs = [(64, 8), (4, 1), (8, 1), (60, 1), (128, 16), (2044, 1), (16, 2), (0x800, 1), (12, 1)]

    async def feed(ctx) -> None:
        await send(ctx, dut.command, [{"address": a, "words": n} for a, n in runs], stall, 1)

    async def drain(ctx) -> None:
        for address, count in runs:
            words = await collect(ctx, dut.words, count, stall, 2, lambda p: (p.value, p.last, p.error))
            expected = struct.unpack_from(f"<{count}I", model.data, address)
            assert [value for value, _, _ in words] == list(expected)
            assert [last for _, last, _ in words] == [0] * (count - 1) + [1]
            assert words[-1][2] == (address == 0x800)

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, arbiter.axi)

    simulate(with_memory(config, dut, arbiter), feed, drain, background=[serve])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.port_bytes))
@pytest.mark.parametrize("stall", STALLS)
def test_records(config: AcceleratorConfig, stall: float) -> None:
    dut, arbiter = RecordWriter(config), WriteArbiter(config, ["records"])
    model = AXIMemory(4096, 5, stall)
    rng = random.Random(3)
    records = [(16 * rng.randrange(256), rng.randbytes(16)) for _ in range(20)]
    expected = bytearray(4096)
    for address, record in records:
        expected[address : address + 16] = record

    async def feed(ctx) -> None:
        items = [{"address": a, "record": int.from_bytes(r, "little")} for a, r in records]
        await send(ctx, dut.command, items, stall, 1)
        await ctx.tick().until(~dut.pending)

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, arbiter.axi)

    simulate(with_memory(config, dut, arbiter), feed, background=[serve])
    assert model.data == expected
