# SPDX-License-Identifier: Apache-2.0
"""RecordMask: every byte of every shape of record."""

import random

import pytest

from kvcache.memory import accelerator, masked_record, random_pages
from serrano.kvcache import Status
from serrano.kvcache.mask import RecordMask
from support.streams import STALLS, collect, send, simulate

SHAPES = pytest.mark.parametrize(
    ("n", "port_bytes", "head_dim"),
    [(4, 4, 8), (4, 4, 6), (4, 16, 6), (4, 64, 2), (4, 64, 6), (8, 2, 12), (8, 2, 4), (16, 4, 48),
     (16, 16, 8), (16, 16, 20), (16, 16, 64), (16, 32, 2), (16, 64, 34), (16, 64, 48), (64, 64, 128)],
)  # fmt: skip


@SHAPES
@pytest.mark.parametrize("stall", STALLS)
def test_records(n: int, port_bytes: int, head_dim: int, stall: float) -> None:
    config = accelerator(n, port_bytes, kv_width_max=256, head_dim_max=128, registered=n == 8)
    dut = RecordMask(config)
    cache = random_pages(1, 2, head_dim, n, head_dim)
    rng = random.Random(f"{n} {port_bytes} {head_dim}")
    tasks, data, wanted = [], [], []
    beats = cache.record_bytes // port_bytes
    for number in range(max(3, min(9, 600 // beats))):
        low, high = sorted((rng.randrange(17), rng.randrange(17))) if number else (0, 16)
        status = Status.OK if rng.random() < 0.8 or not number else Status.NOT_MAPPED
        block, record = rng.randrange(32), rng.randrange(2)
        short = int(rng.random() < 0.2)
        tasks.append({"low": low, "high": high, "status": status, "short": short, "final": 0})
        expected = masked_record(cache, block, record, low, high)
        if status == Status.OK:
            whole = masked_record(cache, block, record, 0, 16)
            bad = rng.randrange(beats) if rng.random() < 0.3 else -1
            for beat in range(beats):
                word = list(whole[beat * port_bytes : (beat + 1) * port_bytes])
                data.append({"bytes": word, "last": beat == beats - 1, "error": beat == bad})
        for beat in range(beats):
            word = expected[beat * port_bytes : (beat + 1) * port_bytes]
            if status == Status.OK:
                wanted.append((word, int(beat == beats - 1), int(beat == bad or short)))
            else:
                wanted.append((bytes(port_bytes), int(beat == beats - 1), 1))

    async def ask(ctx) -> None:
        await ctx.tick()
        await send(ctx, dut.tasks, tasks, stall, 1)

    async def feed(ctx) -> None:
        await send(ctx, dut.data, data, stall, 2)

    async def check(ctx) -> None:
        ctx.set(dut.head_dim, head_dim)
        got = await collect(
            ctx, dut.records, len(wanted), stall, 3, lambda p: (bytes(p.bytes), p.last, p.error)
        )
        assert got == wanted

    simulate(dut, check, ask, feed)


@pytest.mark.parametrize("registered", [False, True])
def test_one_beat_per_cycle(registered: bool) -> None:
    config = accelerator(16, 16, registered=registered)
    dut = RecordMask(config)

    async def bench(ctx) -> None:
        ctx.set(dut.head_dim, 48)
        if registered:
            await ctx.tick()
        ctx.set(dut.tasks.payload, {"low": 0, "high": 16})
        ctx.set(dut.tasks.valid, 1)
        ctx.set(dut.data.valid, 1)
        ctx.set(dut.records.ready, 1)
        lasts = []
        if registered:
            await ctx.tick().repeat(3)
        for _ in range(300):
            await ctx.tick()
            assert ctx.get(dut.records.valid)
            lasts.append(ctx.get(dut.records.payload.last))
        assert [i for i, last in enumerate(lasts) if last] == [99, 199, 299]

    simulate(dut, bench)
