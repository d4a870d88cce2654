# SPDX-License-Identifier: Apache-2.0
"""Residual: loads and saturating additions, maxima, what the trace sees."""

import random

import numpy as np
import pytest

from serrano.vector.residual import Residual
from serrano_sim.golden.linear import residual
from support.streams import STALLS, send, simulate
from support.vectors import CONFIGS, INT32_MAX, INT32_MIN, epilogue_beats, q16


async def read_rows(ctx, dut, rows: int, words: int) -> np.ndarray:
    """All words, one per cycle."""
    found = []
    ctx.set(dut.read.en, 1)
    for address in range(rows * words):
        ctx.set(dut.read.row, address // words)
        ctx.set(dut.read.word, address % words)
        await ctx.tick()
        found.append(list(ctx.get(dut.read.data)))
    ctx.set(dut.read.en, 0)
    return np.array(found).reshape(rows, -1)


async def until_idle(ctx, dut) -> None:
    await ctx.tick().until(dut.idle)


async def start(ctx, dut) -> None:
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    if dut.config.registered:
        await ctx.tick()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_rows(config, stall: float) -> None:
    rng = random.Random(1)
    dut = Residual(config)
    rows, columns = config.rows_max, config.dim_max
    steps = [np.array(q16(rng, rows * columns)).reshape(rows, columns) for _ in range(3)]
    steps[1][0, :4] = [INT32_MIN, INT32_MAX, -1, 1]
    steps[0][0, :4] = [-1, 1, INT32_MIN, INT32_MAX]
    steps[0][1], steps[1][1], steps[2][1] = 0, 0, 0
    seen = []

    async def bench(ctx) -> None:
        await start(ctx, dut)
        await send(ctx, dut.load, epilogue_beats(config, steps[0]), stall, 1)
        x = steps[0]
        for step, y in enumerate((None, *steps[1:])):
            if y is not None:
                await start(ctx, dut)
                assert not any(ctx.get(dut.maxima))
                await send(ctx, dut.add, epilogue_beats(config, y), stall, 2 + step)
                x = residual(x, y)
            await until_idle(ctx, dut)
            assert list(ctx.get(dut.maxima)) == np.abs(x).max(axis=1).tolist()
            assert (await read_rows(ctx, dut, rows, columns // config.lanes) == x).all()
            beats = [(b["values"], b["row"], b["column"], b["last"]) for b in epilogue_beats(config, x)]
            assert seen == beats
            seen.clear()

    async def watch(ctx) -> None:
        while True:
            _, _, valid, beat = await ctx.tick().sample(dut.written, dut.written_beat)
            if valid:
                seen.append((list(beat.values), beat.row, beat.column, beat.last))

    simulate(dut, bench, background=[watch])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency(config) -> None:
    dut = Residual(config)

    async def bench(ctx) -> None:
        ctx.set(dut.add.valid, 1)
        assert ctx.get(dut.add.ready)
        ctx.set(dut.load.valid, 1)
        assert not ctx.get(dut.add.ready)
        ctx.set(dut.load.valid, 0)
        for _ in range(dut.latency):
            assert not ctx.get(dut.written) and not ctx.get(dut.idle)
            await ctx.tick()
            ctx.set(dut.add.valid, 0)
        assert ctx.get(dut.written)

    simulate(dut, bench)
