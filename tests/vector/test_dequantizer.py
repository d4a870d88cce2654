# SPDX-License-Identifier: Apache-2.0
"""Dequantizer: linear outputs in the order block, row, slice, equal to the golden model."""

import random

import numpy as np
import pytest

from serrano.vector.dequantizer import Dequantizer
from serrano_sim.golden.linear import dequantize
from serrano_sim.golden.scale import Scale, mul
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS, packed_input, q16, scale_input, scales


def make(config, rng: random.Random, rows: int, blocks: int):
    acc = np.array(q16(rng, rows * blocks * config.n)).reshape(blocks, rows, config.n)
    row_scales = scales(rng, config.rows_max, -60, 20, packed=False)
    column_scales = scales(rng, blocks * config.n, -30, 20)
    # Some channels that scale to about 1, where rounding shows; a padding channel.
    column_scales.e[::3] = np.clip(-row_scales.e[0], -40, 23)
    column_scales.m[-1], column_scales.e[-1] = 1 << 15, -40
    kmeans = [rng.randint(-(1 << 15), (1 << 15) - 1) for _ in range(blocks * config.n)]
    return acc, row_scales, column_scales, kmeans


def inputs(config, acc, column_scales, kmeans):
    blocks, rows, n = acc.shape
    blocks_scales = [
        {
            "scales": [packed_input(column_scales, c) for c in range(b * n, b * n + n)],
            "kmeans": kmeans[b * n : b * n + n],
        }
        for b in range(blocks)
    ]
    # What is above 32 bits does not count.
    results = [(acc[b, r] + (r << 33)).tolist() for b in range(blocks) for r in range(rows)]
    return blocks_scales, results


def wanted(config, acc, row_scales, column_scales, kmeans, last_row):
    blocks, rows, n = acc.shape
    beats = []
    for b in range(blocks):
        for r in range(rows):
            s = mul(
                row_scales[last_row if r == rows - 1 else r],
                Scale(column_scales.m, column_scales.e)[b * n : b * n + n],
            )
            y = dequantize(acc[b, r], s).tolist()
            for k in range(0, n, config.lanes):
                column = b * n + k
                last = b == blocks - 1 and r == rows - 1 and k == n - config.lanes
                beats.append(
                    (y[k : k + config.lanes], kmeans[column : column + config.lanes], r, column, int(last))
                )
    return beats


def plain(beat):
    return list(beat.values), list(beat.kmeans), beat.row, beat.column, beat.last


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_outputs(config, stall: float) -> None:
    rng = random.Random(1)
    dut = Dequantizer(config)
    # Rows, blocks, and which row of the step the last one is.
    shapes = [(config.rows_max, 3, config.rows_max - 1), (1, 4, 0), (3, 1, 2), (2, 2, 3), (1, 1, 2)]
    cases = [make(config, rng, *shape[:2]) for shape in shapes]
    row_scales = cases[0][1]
    cases = [(acc, row_scales, columns, kmeans) for acc, _, columns, kmeans in cases]

    async def command(ctx) -> None:
        for r in range(config.rows_max):
            ctx.set(dut.row_scales[r], scale_input(row_scales, r))
        await send(ctx, dut.command, [{"rows": r, "blocks": b, "last": k} for r, b, k in shapes], stall, 1)

    async def feed_scales(ctx) -> None:
        await send(
            ctx, dut.scales, [s for case in cases for s in inputs(config, case[0], *case[2:])[0]], stall, 2
        )

    async def feed_results(ctx) -> None:
        await send(
            ctx, dut.results, [x for case in cases for x in inputs(config, case[0], *case[2:])[1]], stall, 3
        )

    async def drain(ctx) -> None:
        for case, (_, _, last_row) in zip(cases, shapes, strict=True):
            beats = wanted(config, *case, last_row)
            assert await collect(ctx, dut.beats, len(beats), stall, 4, plain) == beats

    simulate(dut, command, feed_scales, feed_results, drain)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency_and_rate(config) -> None:
    rng = random.Random(2)
    dut, count = Dequantizer(config), 12 * config.n // config.lanes
    acc, _, columns, kmeans = make(config, rng, 4, 3)
    scale_inputs, results = inputs(config, acc, columns, kmeans)
    seen = []
    # With registers, a cycle is free after each result, and in front of the first one.
    free = [0] * int(config.registered)
    expected = [0] * dut.latency + (free + [1] * (count // 12)) * 12 + [0]

    async def command(ctx) -> None:
        ctx.set(dut.beats.ready, 1)
        await send(ctx, dut.command, [{"rows": 4, "blocks": 3, "last": 3}])
        # The command's register is one cycle.
        for _ in expected:
            seen.append(ctx.get(dut.beats.valid))
            await ctx.tick()

    async def feed_scales(ctx) -> None:
        await send(ctx, dut.scales, scale_inputs)

    async def feed_results(ctx) -> None:
        await send(ctx, dut.results, results)

    simulate(dut, command, feed_scales, feed_results)
    assert seen == expected
