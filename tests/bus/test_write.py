# SPDX-License-Identifier: Apache-2.0
"""WriteArbiter: data and strobes of several clients, pending, errors, stop."""

import random

import pytest

from serrano.bus import WriteArbiter
from serrano.config import preset
from support.axi import AXIMemory
from support.streams import STALLS, send, simulate

CONFIG = preset("tiny")


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("latency", [1, 20])
def test_two_clients(stall: float, latency: int) -> None:
    dut = WriteArbiter(CONFIG, ["a", "b"])
    model = AXIMemory(4096, latency, stall)
    expected = bytearray(4096)
    rng = random.Random(5)
    items = [[], []]
    for index in range(2):
        for _ in range(40):
            address = 2048 * index + 4 * rng.randrange(512)
            content, strobe = list(rng.randbytes(4)), rng.randrange(16)
            items[index].append({"address": address, "bytes": content, "strobe": strobe})
            for i in range(4):
                if strobe >> i & 1:
                    expected[address + i] = content[i]

    def client(index: int):
        async def bench(ctx) -> None:
            await send(ctx, dut.ports[index].request, items[index], stall, index)
            await ctx.tick()
            await ctx.tick().until(~dut.ports[index].pending)

        return bench

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, client(0), client(1), background=[serve])
    assert model.data == expected


def test_error_and_stop() -> None:
    dut = WriteArbiter(CONFIG, ["a", "b"])
    model = AXIMemory(4096, 10)
    model.write_errors = {0x20: 3}
    faults = []

    async def bench(ctx) -> None:
        for address in (0x10, 0x20, 0x30):
            await send(ctx, dut.ports[1].request, [{"address": address, "bytes": [1] * 4, "strobe": 15}])
        ctx.set(dut.stop, 1)
        ctx.set(dut.ports[0].request.valid, 1)
        await ctx.tick().until(dut.idle)
        assert not ctx.get(dut.ports[0].request.ready)
        assert not ctx.get(dut.ports[1].pending)

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode))

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, bench, background=[serve, watch])
    assert faults == [(1, 0x20, 1)]
    assert [address for address, _, _ in model.writes] == [0x10, 0x20, 0x30]


def test_one_write_per_cycle() -> None:
    dut = WriteArbiter(CONFIG, ["a"])
    model = AXIMemory(4096, 4)
    cycles = []

    async def bench(ctx) -> None:
        port = dut.ports[0].request
        ctx.set(port.valid, 1)
        ctx.set(port.payload.strobe, 15)
        for cycle in range(50):
            if ctx.get(port.ready):
                cycles.append(cycle)
            await ctx.tick()

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, bench, background=[serve])
    assert cycles == list(range(50))
