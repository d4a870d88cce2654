# SPDX-License-Identifier: Apache-2.0
"""TileLoader: planes in turn, and how long a plane stays closed."""

import pytest

from serrano.config import preset
from serrano.matmul.loader import TileLoader
from support.streams import simulate

CONFIG = preset("tiny")


@pytest.mark.parametrize("reload", [0, 1, 2, 5])
def test_a_plane_opens_in_time(reload: int) -> None:
    dut = TileLoader(CONFIG, reload)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.valid, 1)
        writes = []
        for _ in range(2 * CONFIG.tile_units):
            assert ctx.get(dut.load)
            writes.append((ctx.get(dut.load_plane), ctx.get(dut.unit)))
            await ctx.tick()
        assert writes == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert not ctx.get(dut.load)
        for plane in (0, 1, 0):
            assert ctx.get(dut.loaded) and ctx.get(dut.use_plane) == plane
            ctx.set(dut.release, 1)
            waited = 0
            await ctx.tick()
            ctx.set(dut.release, 0)
            while not ctx.get(dut.load):
                await ctx.tick()
                waited += 1
            assert waited + 1 == max(1, reload)
            assert ctx.get(dut.load_plane) == plane
            for _ in range(CONFIG.tile_units):
                await ctx.tick()

    simulate(dut, bench)


def test_not_loaded_before_the_last_unit() -> None:
    dut = TileLoader(CONFIG, 1)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.valid, 1)
        await ctx.tick()
        ctx.set(dut.tiles.valid, 0)
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.loaded)
        ctx.set(dut.tiles.valid, 1)
        await ctx.tick()
        assert ctx.get(dut.loaded)

    simulate(dut, bench)


def test_a_tile_may_end_early() -> None:
    dut = TileLoader(CONFIG, 1)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.valid, 1)
        ctx.set(dut.tiles.payload.ends, 1)
        await ctx.tick()
        assert ctx.get(dut.loaded) and ctx.get(dut.load_plane) == 1 and ctx.get(dut.unit) == 0
        ctx.set(dut.tiles.payload.ends, 0)
        await ctx.tick()
        assert ctx.get(dut.load) and ctx.get(dut.unit) == 1

    simulate(dut, bench)
