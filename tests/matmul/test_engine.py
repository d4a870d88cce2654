# SPDX-License-Identifier: Apache-2.0
"""Engine against exact integers: every way of loading, accumulating and emitting, and the rates."""

import dataclasses
import itertools

import pytest

from serrano.config import AcceleratorConfig, preset
from serrano.layouts import Half
from serrano.matmul import Engine
from serrano.matmul.accumulator import results_depth
from support.matmul import Job
from support.streams import STALLS, collect, send, simulate

TINY = preset("tiny")
NARROW = dataclasses.replace(preset("ulx3s"), name="narrow", multiplier_latency=1, held_weights=False)
SLOW = dataclasses.replace(TINY, name="slow multiplier", multiplier_latency=3)
HELD = dataclasses.replace(NARROW, name="held", multiplier_latency=3, held_weights=True)
HELD_TWO = dataclasses.replace(TINY, name="held, two vectors", multiplier_latency=2, held_weights=True)
WIDE = dataclasses.replace(TINY, name="whole tiles", port_bytes=16)
BASE = preset("base")


def check(config: AcceleratorConfig, job: Job, stalls: tuple[float, float, float]) -> None:
    dut = Engine(config)

    async def tiles(ctx) -> None:
        await send(ctx, dut.tiles, job.units, stalls[0], 1)

    async def rows(ctx) -> None:
        await send(ctx, dut.rows, job.rows, stalls[1], 2)

    async def results(ctx) -> None:
        got = await collect(ctx, dut.results, len(job.results), stalls[2], 3, list)
        assert got == job.results

    simulate(dut, tiles, rows, results)


@pytest.mark.parametrize("config", [TINY, NARROW, SLOW, WIDE, HELD, HELD_TWO], ids=lambda config: config.name)
@pytest.mark.parametrize("stalls", [*itertools.product(STALLS, repeat=3), (0.0, 0.0, 0.9)])
def test_random_jobs(config: AcceleratorConfig, stalls: tuple[float, float, float]) -> None:
    job = Job(config, 17, 30)
    assert job.results
    check(config, job, stalls)


@pytest.mark.parametrize("stalls", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)])
def test_base(stalls: tuple[float, float, float]) -> None:
    check(BASE, Job(BASE, 3, 12), stalls)


def test_results_are_never_lost() -> None:
    """Every row emits, nothing is taken for a long time; HIGH rows take no room."""
    job = Job(TINY, 5, 80, rows=4, emits=1)
    assert sum(row["tag"]["half"] is Half.HIGH for row in job.rows) > results_depth(TINY)
    dut = Engine(TINY)

    async def tiles(ctx) -> None:
        await send(ctx, dut.tiles, job.units)

    async def rows(ctx) -> None:
        await send(ctx, dut.rows, job.rows)

    async def results(ctx) -> None:
        await ctx.tick().repeat(400)
        assert ctx.get(dut.wait_results) and not ctx.get(dut.active)
        assert await collect(ctx, dut.results, len(job.results), convert=list) == job.results

    simulate(dut, tiles, rows, results, cycles=10_000)


def measure(config: AcceleratorConfig, rows: int, by_column: int, tiles: int, first: int) -> tuple[int, int]:
    """Cycles from the first to the last row of ``tiles`` tiles of ``rows`` rows, all ready; and the latency.

    Every tile uses the same accumulators; with ``first`` it starts them anew.
    """
    dut = Engine(config)
    issued, results, sent = [], [], 0
    # A row that waits for its tile waits inside, and `active` comes a cycle later.
    before = 2 * int(config.registered)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.payload.by_column, by_column)
        ctx.set(dut.tiles.valid, 1)
        ctx.set(dut.rows.valid, 1)
        ctx.set(dut.results.ready, 1)
        ctx.set(dut.rows.payload.tag.first, first)
        nonlocal sent
        cycle = 0
        while len(issued) < rows * tiles:
            # With registers results leave at half the rate of rows.
            ctx.set(dut.rows.payload.tag.emit, sent < rows or not config.registered)
            ctx.set(dut.rows.payload.tag.address, sent % rows)
            ctx.set(dut.rows.payload.last, sent % rows == rows - 1)
            sent += ctx.get(dut.rows.ready)
            if ctx.get(dut.active):
                issued.append(cycle - before)
            if ctx.get(dut.results.valid):
                results.append(cycle)
            await ctx.tick()
            cycle += 1

    simulate(dut, bench)
    return issued[-1] - issued[0] + 1, results[0] - issued[0]


@pytest.mark.parametrize("by_column", [0, 1])
@pytest.mark.parametrize(
    ("config", "rows", "first", "per_tile"),
    [
        (TINY, 4, 0, 4),
        (TINY, 3, 0, 3),
        (TINY, 2, 0, 3),
        (TINY, 1, 0, 3),
        (TINY, 2, 1, 2.5),
        (TINY, 1, 1, 2),
        (SLOW, 2, 1, 2.5),
        (WIDE, 4, 0, 4),
        (WIDE, 1, 1, 2),
        (NARROW, 16, 0, 16),
        (NARROW, 8, 0, 8),
        (NARROW, 1, 0, 8),
        (BASE, 16, 0, 16),
        (BASE, 8, 0, 11.5),
        (BASE, 1, 0, 8),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_rate(config: AcceleratorConfig, rows: int, first: int, per_tile: float, by_column: int) -> None:
    """A tile takes as long as its rows, its units, half of a plane's round, or the accumulators' interval."""
    units, vectors = config.tile_units, config.load_vectors
    reload = max(1, *(k - k // vectors for k in range(config.n)))
    interval = 0 if first or rows > 2 else 3
    assert per_tile == max(rows, units, (units + rows - 1 + reload) / 2, interval)
    tiles = 31 if config.n < 16 else 11
    cycles, _ = measure(config, rows, by_column, tiles, first)
    assert cycles == per_tile * (tiles - 1) + rows


@pytest.mark.parametrize("config", [TINY, NARROW, SLOW, HELD, HELD_TWO, BASE], ids=lambda config: config.name)
def test_latency(config: AcceleratorConfig) -> None:
    _, latency = measure(config, 4, 0, 20, 1)
    assert latency == Engine(config).latency


def test_load_path_wider_than_a_tile() -> None:
    config = dataclasses.replace(TINY, port_bytes=32)
    message = r"^The load path must carry at most the 4 vectors of a tile, not 8$"
    with pytest.raises(ValueError, match=message):
        Engine(config)
