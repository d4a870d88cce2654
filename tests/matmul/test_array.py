# SPDX-License-Identifier: Apache-2.0
"""SystolicArray: the diagonal wave, exact products, and reloading as early as it is allowed."""

import dataclasses

import numpy as np
import pytest

from serrano.config import AcceleratorConfig, preset
from serrano.matmul.array import SystolicArray
from support.streams import simulate

CONFIGS = [
    preset("tiny"),
    dataclasses.replace(preset("ulx3s"), multiplier_latency=3, held_weights=False),
    dataclasses.replace(preset("ulx3s"), name="held", multiplier_latency=3, held_weights=True),
    dataclasses.replace(preset("tiny"), name="held, two vectors", multiplier_latency=2, held_weights=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("by_column", [0, 1])
def test_wave_and_earliest_reload(config: AcceleratorConfig, by_column: int) -> None:
    """Two rows per tile, one plane only: the next tile is written as early as it may be."""
    dut = SystolicArray(config)
    n, vectors = config.n, config.load_vectors
    rng = np.random.default_rng(1)
    tiles = rng.choice([-128, -1, 0, 1, 127], (6, n, n))
    rows = rng.choice([-128, -1, 0, 127, 255], (6, 2, n))
    sums: dict[tuple[int, int], int] = {}

    async def bench(ctx) -> None:
        cycle = 0

        async def tick() -> None:
            nonlocal cycle
            for j in range(n):
                sums[cycle, j] = ctx.get(dut.sums[j])
            await ctx.tick()
            cycle += 1

        expected = []
        free = 0
        for tile, pair in zip(tiles, rows, strict=True):
            while cycle < free:
                await tick()
            sent = tile.T if by_column else tile
            for unit in range(config.tile_units):
                part = sent[unit * vectors : (unit + 1) * vectors].tolist()
                ctx.set(dut.tile, {"vectors": part, "by_column": by_column})
                ctx.set(dut.unit, unit)
                ctx.set(dut.load, 1)
                await tick()
            ctx.set(dut.load, 0)
            for index, row in enumerate(pair):
                ctx.set(dut.valid, 1)
                ctx.set(dut.operand, row.tolist())
                if config.held_weights:
                    ctx.set(dut.swap, not index)
                expected.append((cycle, row @ tile))
                # Weights that are held are out of the way of the next tile's from the first row on.
                if not (config.held_weights and index):
                    free = cycle + max(1, dut.reload)
                await tick()
            ctx.set(dut.valid, 0)
            ctx.set(dut.operand, [-1] * n)
        for _ in range(dut.latency + n):
            await tick()
        for start, result in expected:
            assert [sums[start + dut.latency + j, j] for j in range(n)] == result.tolist()

    simulate(dut, bench)
