# SPDX-License-Identifier: Apache-2.0
"""ReadArbiter: data, bursts, priority, room, errors, stop and flush."""

import random
import re

import pytest

from serrano.bus import ReadArbiter, ReadClient
from serrano.bus.read import BurstSplitter
from serrano.config import preset
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

CONFIG = preset("tiny")
WIDTH = CONFIG.port_bytes


def memory(stall: float = 0.0, latency: int = 5) -> AXIMemory:
    model = AXIMemory(1 << 16, latency, stall, 3)
    model.data[:] = random.Random(1).randbytes(len(model.data))
    return model


def beat_bytes(payload) -> tuple[bytes, int, int]:
    return bytes(payload.bytes), payload.last, payload.error


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("latency", [1, 20])
def test_two_clients(stall: float, latency: int) -> None:
    dut = ReadArbiter(CONFIG, [ReadClient("a", 16, 32), ReadClient("b", 256, 600)])
    model = memory(stall, latency)
    rng = random.Random(7)
    lengths = [1, 2, 15, 16, 17, 100, 700]
    runs = [[(WIDTH * rng.randrange(0, 8000), WIDTH * n) for n in rng.sample(lengths, 7)] for _ in range(2)]

    def client(index: int):
        async def request(ctx) -> None:
            items = [{"address": a, "bytes": n} for a, n in runs[index]]
            await send(ctx, dut.ports[index].request, items, stall, index)

        async def receive(ctx) -> None:
            for address, count in runs[index]:
                port = dut.ports[index].data
                beats = await collect(ctx, port, count // WIDTH, stall, index, beat_bytes)
                assert b"".join(b for b, _, _ in beats) == bytes(model.data[address : address + count])
                assert [last for _, last, _ in beats] == [0] * (len(beats) - 1) + [1]
                assert not any(error for _, _, error in beats)

        return request, receive

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, *client(0), *client(1), background=[serve])
    assert max(beats for _, beats in model.bursts) == 256
    assert model.max_in_flight > 1


def test_a_stalled_client_blocks_nobody() -> None:
    dut = ReadArbiter(CONFIG, [ReadClient("a", 16, 32), ReadClient("b", 16, 32)])
    model = memory()

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": 4096}])
        await ctx.tick().repeat(100)  # Nobody takes client 0's data.
        await send(ctx, dut.ports[1].request, [{"address": 4096, "bytes": 1024}])
        beats = await collect(ctx, dut.ports[1].data, 256, convert=beat_bytes)
        assert b"".join(b for b, _, _ in beats) == bytes(model.data[4096:5120])
        assert ctx.get(dut.blocked)

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, bench, background=[serve])
    assert sum(beats for address, beats in model.bursts if address < 4096) == 32


def test_full_rate() -> None:
    dut = ReadArbiter(CONFIG, [ReadClient("a", 64, 256)])
    model = memory(latency=60)
    cycles = []

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": WIDTH * 2000}])
        ctx.set(dut.ports[0].data.ready, 1)
        cycle = 0
        while len(cycles) < 2000:
            if ctx.get(dut.ports[0].data.valid):
                cycles.append(cycle)
            await ctx.tick()
            cycle += 1

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, bench, background=[serve])
    assert cycles[-1] - cycles[0] == 1999


def test_error_is_reported_with_its_burst() -> None:
    dut = ReadArbiter(CONFIG, [ReadClient("a", 16, 32), ReadClient("b", 16, 32)])
    model = memory()
    model.read_errors = {0x108: 2, 0x240: 3}
    faults = []

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[1].request, [{"address": 0x100, "bytes": 0x180}])
        beats = await collect(ctx, dut.ports[1].data, 0x180 // WIDTH, convert=beat_bytes)
        assert [i for i, (_, _, error) in enumerate(beats) if error] == [2, 80]

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode))

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, bench, background=[serve, watch])
    assert faults == [(1, 0x100, 0), (1, 0x240, 1)]


def test_stop_drains_and_flush_forgets() -> None:
    dut = ReadArbiter(CONFIG, [ReadClient("a", 16, 64)])
    model = memory(latency=30)

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": 4096}])
        await ctx.tick().repeat(10)
        ctx.set(dut.stop, 1)
        await ctx.tick().until(dut.idle)
        fetched = len(model.bursts)
        ctx.set(dut.flush, 1)
        await ctx.tick()
        ctx.set(dut.flush, 0)
        ctx.set(dut.stop, 0)
        await ctx.tick().repeat(50)
        assert len(model.bursts) == fetched < 64
        assert not ctx.get(dut.ports[0].data.valid)
        await send(ctx, dut.ports[0].request, [{"address": 8192, "bytes": 512}])
        beats = await collect(ctx, dut.ports[0].data, 128, convert=beat_bytes)
        assert b"".join(b for b, _, _ in beats) == bytes(model.data[8192:8704])

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, bench, background=[serve])


def test_splitter_limits() -> None:
    dut = BurstSplitter(CONFIG, 256)

    async def feed(ctx) -> None:
        await send(ctx, dut.request, [{"address": 4092, "bytes": 2056}, {"address": 16, "bytes": 0}])

    async def drain(ctx) -> None:
        bursts = await collect(ctx, dut.burst, 4, convert=lambda p: (p.address, p.beats, p.last))
        assert bursts == [(4092, 1, 0), (4096, 256, 0), (5120, 256, 0), (6144, 1, 1)]

    simulate(dut, feed, drain)


@pytest.mark.parametrize(
    ("burst", "depth", "message"),
    [
        (257, 600, "Burst of 'x' must be 1 to 256 beats, not 257"),
        (16, 31, "Buffer of 'x' must hold two bursts (32 beats), not 31"),
    ],
)
def test_client_refused(burst: int, depth: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ReadClient("x", burst, depth)
