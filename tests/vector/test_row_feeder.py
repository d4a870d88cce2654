# SPDX-License-Identifier: Apache-2.0
"""RowFeeder: the order block, tile, row, at one row per cycle."""

import random

import numpy as np
import pytest

from serrano.layouts import Half
from serrano.vector.row_feeder import RowFeeder
from support.streams import STALLS, collect, send, simulate
from support.vectors import CONFIGS

SHAPES = [(3, 2, 2, 4), (1, 0, 1, 5), (1, 3, 3, 1), (4, 3, 3, 2), (2, 3, 2, 2)]
"""(rows, last, tiles, blocks)."""


class Bench:
    """Plays the activation buffer."""

    def __init__(self, config):
        rng = random.Random(1)
        self.config = config
        self.dut = RowFeeder(config)
        count = config.rows_max * config.input_max
        codes = [rng.choice([-128, 127, rng.randint(-128, 127)]) for _ in range(count)]
        self.codes = np.array(codes).reshape(config.rows_max, -1, config.n)

    async def memory(self, ctx) -> None:
        port = self.dut.read
        while True:
            _, _, en, row, tile = await ctx.tick().sample(port.en, port.row, port.tile)
            if en:
                ctx.set(port.data, self.codes[row, tile].tolist())

    def wanted(self, rows: int, last: int, tiles: int, blocks: int) -> list[tuple]:
        return [
            (
                self.codes[last if row == rows - 1 else row, tile].tolist(),
                row,
                int(tile == 0),
                int(tile == tiles - 1),
                int(row == rows - 1),
            )
            for _ in range(blocks)
            for tile in range(tiles)
            for row in range(rows)
        ]


def plain(beat) -> tuple:
    tag = beat.tag
    assert tag.shift == 0 and tag.half == Half.WHOLE
    return list(beat.operand), tag.address, tag.first, tag.emit, beat.last


def commands() -> list[dict]:
    return [dict(zip(("rows", "last", "tiles", "blocks"), shape, strict=True)) for shape in SHAPES]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
@pytest.mark.parametrize("stall", STALLS)
def test_order(config, stall: float) -> None:
    bench = Bench(config)

    async def command(ctx) -> None:
        await send(ctx, bench.dut.command, commands(), stall, 1)

    async def drain(ctx) -> None:
        for shape in SHAPES:
            wanted = bench.wanted(*shape)
            assert await collect(ctx, bench.dut.rows, len(wanted), stall, 2, plain) == wanted

    simulate(bench.dut, command, drain, background=[bench.memory])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_latency_and_rate(config) -> None:
    bench = Bench(config)
    dut, valid, asked = bench.dut, [], []

    async def run(ctx) -> None:
        ctx.set(dut.rows.ready, 1)
        await send(ctx, dut.command, commands()[:1])
        for _ in range(25 + dut.latency):
            asked.append(ctx.get(dut.read.en))
            valid.append(ctx.get(dut.rows.valid))
            await ctx.tick()

    simulate(dut, run, background=[bench.memory])
    # With registers something is asked for in every cycle.
    wanted = [1] * len(asked) if config.registered else [1] * 24 + [0] * (1 + dut.latency)
    assert asked == wanted
    assert valid == [0] * dut.latency + [1] * 24 + [0]
