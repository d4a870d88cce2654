# SPDX-License-Identifier: Apache-2.0
"""ReadArbiter: data, bursts, priority, room, errors, stop and flush."""

import dataclasses
import random
import re

import pytest

from serrano.bus import ReadArbiter, ReadClient
from serrano.bus.read import BurstSplitter, MemoryOutput
from serrano.config import preset
from support.axi import AXIMemory
from support.streams import STALLS, collect, send, simulate

CONFIG = preset("tiny")
REGISTERED = dataclasses.replace(CONFIG, registered=True)
configs = pytest.mark.parametrize("config", [CONFIG, REGISTERED], ids=["plain", "registered"])
WIDTH = CONFIG.port_bytes


def memory(stall: float = 0.0, latency: int = 5) -> AXIMemory:
    model = AXIMemory(1 << 16, latency, stall, 3)
    model.data[:] = random.Random(1).randbytes(len(model.data))
    return model


def beat_bytes(payload) -> tuple[bytes, int, int]:
    return bytes(payload.bytes), payload.last, payload.error


@configs
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("latency", [1, 20])
def test_two_clients(config, stall: float, latency: int) -> None:
    dut = ReadArbiter(config, [ReadClient("a", 16, 32), ReadClient("b", 256, 600)])
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


@configs
def test_a_stalled_client_blocks_nobody(config) -> None:
    dut = ReadArbiter(config, [ReadClient("a", 16, 32), ReadClient("b", 16, 32)])
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


def long_run(dut: ReadArbiter, latency: int) -> int:
    """Cycles from the first to the last of 2,000 beats, which are taken as they come."""
    model = memory(latency=latency)
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
    return cycles[-1] - cycles[0]


@configs
def test_full_rate(config) -> None:
    assert long_run(ReadArbiter(config, [ReadClient("a", 64, 256)]), latency=60) == 1999


@configs
@pytest.mark.parametrize("latency", [1, 60, 61, 200, 400])
@pytest.mark.parametrize("client", ["kv", "tape"])
def test_the_latency_of_the_configuration_is_covered(config, client: str, latency: int) -> None:
    """A long run takes a beat in every cycle, with the buffers that follow from the latency, and no longer
    where it is much more."""
    config = dataclasses.replace(config, memory_latency=latency, tape_fifo_bytes=4096)
    sizes = {"kv": (config.kv_fifo_beats, None), "tape": (4096 // WIDTH, config.queue_beats)}
    fifo, queue = sizes[client]
    dut = ReadArbiter(config, [ReadClient(client, config.read_burst_beats, fifo, queue_beats=queue)])
    assert long_run(dut, latency) == 1999
    assert long_run(dut, 2 * max(latency, 64) + 20) > 2100


@configs
def test_error_is_reported_once_with_its_burst(config) -> None:
    dut = ReadArbiter(config, [ReadClient("a", 16, 32), ReadClient("b", 16, 32)])
    model = memory()
    model.read_errors = {0x108: 2, 0x10C: 3, 0x114: 2, 0x13C: 2, 0x140: 2, 0x240: 3}
    faults = []

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[1].request, [{"address": 0x100, "bytes": 0x180}])
        beats = await collect(ctx, dut.ports[1].data, 0x180 // WIDTH, convert=beat_bytes)
        assert [i for i, (_, _, error) in enumerate(beats) if error] == [2, 3, 5, 15, 16, 80]

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode, fault.apart))

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, bench, background=[serve, watch])
    assert faults == [(1, 0x100, 0, 0), (1, 0x140, 0, 0), (1, 0x240, 1, 0)]


@configs
def test_stop_drains_and_flush_forgets(config) -> None:
    dut = ReadArbiter(config, [ReadClient("a", 16, 64)])
    model = memory(latency=30)

    async def bench(ctx) -> None:
        await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": 4096}])
        await ctx.tick().repeat(10)
        ctx.set(dut.stop, 1)
        if config.registered:
            await ctx.tick().repeat(2)
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


@configs
@pytest.mark.parametrize("stall", STALLS)
def test_a_client_apart_goes_on(config, stall: float) -> None:
    """Stop and flush again and again: one client loses its runs, the other one nothing."""
    clients = [ReadClient("a", 16, 64), ReadClient("b", 16, 64, apart=True)]
    dut = ReadArbiter(config, clients)
    model = memory(stall, latency=1 if stall else 30)
    model.read_errors = {0x4004: 2}
    rng = random.Random(11)
    runs = [(WIDTH * rng.randrange(4096, 8000), WIDTH * rng.choice([1, 16, 17, 200])) for _ in range(20)]
    runs.append((0x4000, 2 * WIDTH))
    faults, ended = [], []

    async def request(ctx) -> None:
        items = [{"address": a, "bytes": n} for a, n in runs]
        await send(ctx, dut.ports[1].request, items, stall, 1)

    async def receive(ctx) -> None:
        for address, count in runs:
            beats = await collect(ctx, dut.ports[1].data, count // WIDTH, stall, 2, beat_bytes)
            assert b"".join(b for b, _, _ in beats) == bytes(model.data[address : address + count])
            assert [last for _, last, _ in beats] == [0] * (len(beats) - 1) + [1]
        ended.append(True)

    async def recover(ctx) -> None:
        pauses = random.Random(13)
        while not ended:
            await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": 2048}], 0.0)
            await ctx.tick().repeat(pauses.randrange(1, 60))
            ctx.set(dut.stop, 1)
            if config.registered:
                await ctx.tick().repeat(2)
            await ctx.tick().until(dut.idle)
            ctx.set(dut.flush, 1)
            await ctx.tick().repeat(8)
            ctx.set(dut.flush, 0)
            ctx.set(dut.stop, 0)
            if config.registered:
                await ctx.tick()
            assert not ctx.get(dut.ports[0].data.valid)
        # Nothing of the past is given to the one that was flushed.
        await send(ctx, dut.ports[0].request, [{"address": 8192, "bytes": 512}])
        beats = await collect(ctx, dut.ports[0].data, 512 // WIDTH, convert=beat_bytes)
        assert b"".join(b for b, _, _ in beats) == bytes(model.data[8192:8704])

    async def watch(ctx) -> None:
        async for _, _, fault in ctx.tick().sample(dut.fault):
            if fault.valid:
                faults.append((fault.client, fault.address, fault.decode, fault.apart))

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, request, receive, recover, background=[serve, watch])
    assert faults == [(1, 0x4000, 0, 1)]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("port_bytes", [2, 4, 16, 64])
def test_bursts_of_any_run(port_bytes: int, registered: bool, stall: float) -> None:
    """Runs of every length and place become bursts within 4 KiB and the limit, without a hole."""
    rng = random.Random(f"{port_bytes} {stall}")
    limit = 256 if port_bytes < 64 else 64
    config = dataclasses.replace(
        preset("base"), port_bytes=port_bytes, read_burst_bytes=256, registered=registered
    )
    dut = BurstSplitter(config, limit)
    runs = []
    for _ in range(40):
        page, beats = 4096 * rng.randrange(1, 1 << 20), rng.choice([1, 2, limit - 1, limit, limit + 1, 700])
        runs.append(
            (page - port_bytes * rng.choice([0, 1, 2, beats, rng.randrange(1, 2048 // port_bytes)]), beats)
        )
    got = []

    async def feed(ctx) -> None:
        items = [{"address": address, "bytes": beats * port_bytes} for address, beats in runs]
        await send(ctx, dut.request, items, stall, 1)

    async def drain(ctx) -> None:
        for address, beats in runs:
            while beats:
                (burst,) = await collect(
                    ctx, dut.burst, 1, stall, len(got), lambda p: (p.address, p.beats, p.last)
                )
                start, count, last = burst
                assert start == address and 1 <= count <= min(limit, beats)
                assert start // 4096 == (start + count * port_bytes - 1) // 4096
                address, beats = address + count * port_bytes, beats - count
                assert last == (beats == 0)
                # As long as it may be.
                assert not beats or count == limit or address % 4096 == 0
                got.append(burst)

    simulate(dut, feed, drain)
    assert max(count for _, count, _ in got) == limit


@configs
def test_splitter_limits(config) -> None:
    dut = BurstSplitter(config, 256)

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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "A port must have 1 to 16 clients, not 0"),
        ([str(i) for i in range(17)], "A port must have 1 to 16 clients, not 17"),
        ("aba", "Clients of a port must have names of their own, not ['a', 'b', 'a']"),
    ],
)
def test_clients_refused(names, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ReadArbiter(CONFIG, [ReadClient(name, 1, 2) for name in names])


@configs
def test_words_of_several_beats(config) -> None:
    """A client that gets two beats at a time; an error in either of them marks the word."""
    dut = ReadArbiter(config, [ReadClient("a", 16, 32, word_beats=2), ReadClient("b", 16, 32)])
    model = memory(0.3)
    model.read_errors = {40 * WIDTH: 2}

    async def request(ctx) -> None:
        await send(ctx, dut.ports[0].request, [{"address": 0, "bytes": 80 * WIDTH}], 0.3)

    async def receive(ctx) -> None:
        words = await collect(ctx, dut.ports[0].data, 40, 0.3, 1, beat_bytes)
        assert b"".join(b for b, _, _ in words) == bytes(model.data[: 80 * WIDTH])
        assert [last for _, last, _ in words] == [0] * 39 + [1]
        assert [error for _, _, error in words] == [0] * 20 + [1] + [0] * 19

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, request, receive, background=[serve])


@configs
def test_short_bursts_are_not_interrupted(config) -> None:
    """Runs of one burst each, asked for without a pause, go before a long one of the client behind."""
    dut = ReadArbiter(config, [ReadClient("a", 8, 128), ReadClient("b", 64, 512)])
    model = memory(latency=30)

    async def first(ctx) -> None:
        await ctx.tick()
        await send(ctx, dut.ports[0].request, [{"address": 64 * i, "bytes": 8 * WIDTH} for i in range(12)])

    async def second(ctx) -> None:
        await ctx.tick().repeat(4)
        await send(ctx, dut.ports[1].request, [{"address": 8192, "bytes": 256 * WIDTH}])

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    async def receive(ctx) -> None:
        for index, beats in ((0, 96), (1, 256)):
            await collect(ctx, dut.ports[index].data, beats)

    simulate(dut, first, second, receive, background=[serve])
    order = [address >= 8192 for address, _ in model.bursts]
    assert order == sorted(order)


@configs
@pytest.mark.parametrize("queue", [None, 100])
def test_a_queue_is_kept_short(config, queue: int | None) -> None:
    """What a patient client has on its way, at most: bursts that began below its limit."""
    dut = ReadArbiter(config, [ReadClient("a", 8, 16), ReadClient("b", 64, 512, queue_beats=queue)])
    model = memory(latency=40)
    taken = []

    async def request(ctx) -> None:
        await send(ctx, dut.ports[1].request, [{"address": 0, "bytes": 512 * WIDTH}])

    async def watch(ctx) -> None:
        ctx.set(dut.ports[1].data.ready, 1)
        asked = came = 0
        while came < 512:
            _, _, valid, ready, length, beats = await ctx.tick().sample(
                dut.axi.arvalid, dut.axi.arready, dut.axi.arlen, dut.beats
            )
            asked += (length + 1) * (valid & ready)
            came += beats >> 1 & 1
            taken.append(asked - came)

    async def serve(ctx) -> None:
        await model.serve_reads(ctx, dut.axi)

    simulate(dut, request, watch, background=[serve])
    assert (max(taken) < 164) == (queue is not None)
    # The memory has something to do all the time nevertheless.
    assert len(taken) < 512 + 60


def test_words_that_a_buffer_does_not_hold() -> None:
    message = "Buffer of 'a' must hold whole words of 3 beats, not 32 beats"
    with pytest.raises(ValueError, match=re.escape(message)):
        ReadClient("a", 16, 32, word_beats=3)


@pytest.mark.parametrize("stall", STALLS)
def test_words_behind_a_memory(stall: float) -> None:
    """All of them, in order; one per cycle if nobody stalls."""
    dut = MemoryOutput(16)
    items = [random.Random(3).randrange(1 << 16) for _ in range(300)]
    cycles = []

    async def feed(ctx) -> None:
        await send(ctx, dut.i, items, stall, 1)

    async def drain(ctx) -> None:
        assert await collect(ctx, dut.o, len(items), stall, 2) == items

    async def count(ctx) -> None:
        async for _ in ctx.tick():
            cycles.append(None)

    simulate(dut, feed, drain, background=[count])
    assert stall or len(cycles) <= len(items) + dut.latency + 2
