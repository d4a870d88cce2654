# SPDX-License-Identifier: Apache-2.0
"""The rings, byte for byte as docs/rings.md has them, at every port width."""

import dataclasses
import random
import struct

import pytest
from amaranth import Module
from amaranth.lib import wiring

from serrano.bus import ReadArbiter, ReadClient, WriteArbiter
from serrano.config import AcceleratorConfig, preset
from serrano.faults import FaultCode
from serrano.schedule.rings import NO_SEQUENCE, CompletionRing, SubmissionRing
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

CONFIGS = [
    preset("tiny"),
    preset("ulx3s"),
    preset("base"),
    dataclasses.replace(preset("base"), n=32, port_bytes=64, lanes=16),
]
RING = 0x400


class Passing(dict):
    """Errors by address that go away after so many accesses: address to (response, times)."""

    def get(self, address: int, default: int = 0) -> int:
        response, times = super().get(address, (default, 0))
        if not times:
            return default
        self[address] = response, times - 1
        return response


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.port_bytes))
@pytest.mark.parametrize("stall", STALLS)
def test_submissions(config: AcceleratorConfig, stall: float) -> None:
    dut, arbiter = SubmissionRing(config), ReadArbiter(config, [ReadClient("ring", 16, 32)])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(4096, 6, stall)
    rng = random.Random(1)
    memory.data[:] = rng.randbytes(4096)
    # Entry 2 cannot be read at all, entry 3 at the second attempt.
    passing = (RING + 64 * 3 + 32) // config.port_bytes * config.port_bytes
    memory.read_errors = Passing({RING + 64 * 2: (3, 99), passing: (2, 1)})
    entries = [struct.unpack_from("<IIQIIIII", memory.data, RING + 64 * (i % 4)) for i in range(7)]

    async def host(ctx) -> None:
        ctx.set(dut.address, RING)
        ctx.set(dut.size, 4)
        await ctx.tick().repeat(20)
        ctx.set(dut.enable, 1)
        ctx.set(dut.tail, 3)
        await ctx.tick().until(dut.head == 3)
        ctx.set(dut.tail, 7)

    async def drain(ctx) -> None:
        names = ("id", "tenant", "prompt", "prompt_tokens", "max_new", "eos", "flags", "sequence")

        def plain(request) -> tuple:
            flags = request.flags
            values = {name: getattr(request, name) for name in names}
            values["flags"] = flags.adopt | flags.keep << 1 | flags.cancelled << 2 | flags.unknown << 3
            return tuple(values.values())

        got = await collect(
            ctx,
            dut.requests,
            7,
            stall,
            2,
            lambda p: (plain(p.request), p.error, p.number),
        )
        assert [(error, number) for _, error, number in got] == [(int(i % 4 == 2), i) for i in range(7)]
        for (request, error, _), entry in zip(got, entries, strict=True):
            assert error or request == entry
        assert got[2][0][0] == 2 and got[6][0][0] == 6
        assert memory.read_errors[passing] == (2, 0)

    async def serve(ctx) -> None:
        await memory.serve_reads(ctx, arbiter.axi)

    simulate(m, host, drain, background=[serve])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.port_bytes))
@pytest.mark.parametrize("stall", STALLS)
def test_completions(config: AcceleratorConfig, stall: float) -> None:
    dut, arbiter = CompletionRing(config), WriteArbiter(config, ["ring"])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(4096, 6, stall)
    records = [
        {
            "id": 7 + i,
            "token": 1000 * i,
            "status": FaultCode.NONE,
            "has_token": 1,
            "ended": i == 4,
            "sequence": 0x1F00 + i,
        }
        for i in range(5)
    ]
    records.append(
        {
            "id": 9,
            "token": 0,
            "status": FaultCode.PACKET_CRC,
            "has_token": 0,
            "ended": 1,
            "sequence": NO_SEQUENCE,
        }
    )

    async def host(ctx) -> None:
        ctx.set(dut.address, RING)
        ctx.set(dut.size, 4)
        ctx.set(dut.head, 2)
        await send(ctx, dut.records, records, stall, 1)
        assert ctx.get(dut.tail) == 6 and ctx.get(dut.free) == 0
        ctx.set(dut.head, 6)
        await ctx.tick()
        assert ctx.get(dut.free) == 4 and ctx.get(dut.idle)

    async def serve(ctx) -> None:
        await memory.serve_writes(ctx, arbiter.axi)

    simulate(m, host, background=[serve])
    for number, record in list(enumerate(records, 1))[-4:]:
        at = RING + 16 * ((number - 1) % 4)
        flags = record["has_token"] | record["ended"] << 1
        assert struct.unpack_from("<IIBBHI", memory.data, at) == (
            record["id"],
            record["token"],
            record["status"].value,
            flags,
            record["sequence"],
            number,
        )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.port_bytes))
@pytest.mark.parametrize("stall", STALLS)
def test_a_completion_that_memory_refuses(config: AcceleratorConfig, stall: float) -> None:
    """It is written again. Whenever its number can be seen, all of it can, and it is counted after that."""
    dut, arbiter = CompletionRing(config), WriteArbiter(config, ["ring"])
    m = Module()
    m.submodules.dut = dut
    m.submodules.arbiter = arbiter
    wiring.connect(m, dut.memory, arbiter.ports[0])
    memory = AXIMemory(4096, 6, stall)
    width = config.port_bytes
    last = (RING + 12) // width * width
    memory.write_errors = Passing(
        {RING // width * width: (2, 2), last + (16 if width <= 16 else 0): (3, 3), RING + 64: (2, 1)}
    )
    fields = {"status": FaultCode.NONE, "has_token": 1, "ended": 0, "sequence": 3}
    records = [{"id": 0x01010101 * (i + 1), "token": 5 + i, **fields} for i in range(6)]

    async def host(ctx) -> None:
        ctx.set(dut.address, RING)
        ctx.set(dut.size, 8)
        await send(ctx, dut.records, records, stall, 1)
        assert ctx.get(dut.tail) == 6

    async def watch(ctx) -> None:
        async for _ in ctx.tick():
            tail = ctx.get(dut.tail)
            for place, record in enumerate(records):
                identity, token, _, _, _, number = struct.unpack_from(
                    "<IIBBHI", memory.data, RING + 16 * place
                )
                if number == place + 1:
                    assert (identity, token) == (record["id"], record["token"])
                else:
                    assert number == 0 and place >= tail

    async def serve(ctx) -> None:
        await memory.serve_writes(ctx, arbiter.axi)

    simulate(m, host, background=[serve, watch])
    assert all(times == 0 for _, times in memory.write_errors.values())
