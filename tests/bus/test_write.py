# SPDX-License-Identifier: Apache-2.0
"""WriteArbiter: data and strobes of several clients, pending, errors, stop."""

import dataclasses
import random
import re

import pytest

from serrano.bus import WriteArbiter
from serrano.config import preset
from support.axi import AXIMemory
from support.streams import STALLS, send, simulate

CONFIG = preset("tiny")
REGISTERED = dataclasses.replace(CONFIG, registered=True)
configs = pytest.mark.parametrize("config", [CONFIG, REGISTERED], ids=["plain", "registered"])


@configs
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("latency", [1, 20])
def test_two_clients(config, stall: float, latency: int) -> None:
    dut = WriteArbiter(config, ["a", "b"])
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


@configs
def test_error_and_stop(config) -> None:
    dut = WriteArbiter(config, ["a", "b"])
    model = AXIMemory(4096, 10)
    model.write_errors = {0x20: 3}
    faults = []

    async def bench(ctx) -> None:
        for address in (0x10, 0x20, 0x30):
            await send(ctx, dut.ports[1].request, [{"address": address, "bytes": [1] * 4, "strobe": 15}])
        ctx.set(dut.stop, 1)
        if config.registered:
            await ctx.tick()
        ctx.set(dut.ports[0].request.valid, 1)
        await ctx.tick().until(dut.idle)
        assert not ctx.get(dut.ports[0].request.ready)
        assert not ctx.get(dut.ports[1].pending)

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode, fault.apart))

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, bench, background=[serve, watch])
    assert faults == [(1, 0x20, 1, 0)]
    assert [address for address, _, _ in model.writes] == [0x10, 0x20, 0x30]


@configs
@pytest.mark.parametrize("stall", STALLS)
def test_a_client_learns_of_its_errors(config, stall: float) -> None:
    """One cycle of error per failed write, at the right port, and never after ``pending`` has fallen."""
    dut = WriteArbiter(config, ["a", "b"])
    model = AXIMemory(4096, 1 if stall else 20, stall)
    model.write_errors = {0x20: 3, 0x24: 2, 0x820: 2, 0x10: 1}
    errors = [0, 0]

    def client(index: int):
        async def bench(ctx) -> None:
            items = [{"address": 2048 * index + 4 * i, "strobe": 15} for i in range(30)]
            await send(ctx, dut.ports[index].request, items, stall, index)
            await ctx.tick()
            await ctx.tick().until(~dut.ports[index].pending)
            assert errors[index] == [2, 1][index]

        return bench

    async def watch(ctx) -> None:
        while True:
            for index, port in enumerate(dut.ports):
                if ctx.get(port.error):
                    assert ctx.get(port.pending)
                    errors[index] += 1
            await ctx.tick()

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, client(0), client(1), background=[serve, watch])


@configs
@pytest.mark.parametrize("stall", STALLS)
def test_a_client_apart_goes_on(config, stall: float) -> None:
    """While the other client is stopped, it writes, and is not waited for."""
    dut = WriteArbiter(config, ["a", "b"], apart=["b"])
    model = AXIMemory(4096, 1 if stall else 20, stall)
    model.write_errors = {0x840: 2}
    faults = []

    async def stopped(ctx) -> None:
        port = dut.ports[0].request
        await send(ctx, port, [{"address": 4 * i, "strobe": 15, "bytes": [1] * 4} for i in range(8)])
        ctx.set(dut.stop, 1)
        if config.registered:
            await ctx.tick()
        ctx.set(port.payload, {"address": 0x100, "strobe": 15, "bytes": [9] * 4})
        ctx.set(port.valid, 1)
        await ctx.tick().until(dut.idle)
        assert ctx.get(dut.ports[1].pending), "the other one has ended before"
        assert not ctx.get(dut.ports[0].pending)
        await ctx.tick().until(~dut.ports[1].pending)
        assert not ctx.get(port.ready) and model.data[0x100] == 0
        ctx.set(dut.stop, 0)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)
        await ctx.tick()
        await ctx.tick().until(dut.idle)
        assert model.data[0x100] == 9

    async def apart(ctx) -> None:
        items = [{"address": 0x800 + 4 * i, "strobe": 15, "bytes": [2] * 4} for i in range(100)]
        await send(ctx, dut.ports[1].request, items)

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode, fault.apart))

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, stopped, apart, background=[serve, watch])
    assert faults == [(1, 0x840, 0, 1)]
    assert model.data[:32] == bytes([1] * 32)
    assert model.data[0x800:0x840] + model.data[0x844:0x990] == bytes([2] * 396)


@pytest.mark.parametrize(
    ("clients", "apart", "message"),
    [
        ([], [], "A port must have 1 to 16 clients, not 0"),
        (["a", "a"], [], "Clients of a port must have names of their own, not ['a', 'a']"),
        (["a"], ["b"], "Clients apart must be clients, not ['b']"),
    ],
)
def test_clients_refused(clients: list, apart: list, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WriteArbiter(CONFIG, clients, apart)


@configs
def test_one_write_per_cycle(config) -> None:
    dut = WriteArbiter(config, ["a"])
    model = AXIMemory(4096, 60)
    cycles = []

    async def bench(ctx) -> None:
        port = dut.ports[0].request
        ctx.set(port.valid, 1)
        ctx.set(port.payload.strobe, 15)
        for cycle in range(250):
            if ctx.get(port.ready):
                cycles.append(cycle)
            await ctx.tick()

    async def serve(ctx) -> None:
        await model.serve_writes(ctx, dut.axi)

    simulate(dut, bench, background=[serve])
    assert cycles == list(range(250))
