# SPDX-License-Identifier: Apache-2.0
"""HeldElement and HeldLoader: swaps, extremes, and when the next tile may be written."""

import pytest

from serrano.config import preset
from serrano.matmul.held import HeldElement, HeldLoader
from support.streams import simulate

CONFIG = preset("tiny")
EXTREMES = [(-128, -128), (-128, 127), (255, -128), (255, 127), (0, -128), (-1, 1)]


@pytest.mark.parametrize("latency", [2, 3])
@pytest.mark.parametrize("by_column", [0, 1])
def test_a_weight_is_used_from_its_swap_on(latency: int, by_column: int) -> None:
    """A weight that is loaded while another is in use changes nothing before the swap."""
    dut = HeldElement(16, 17, latency)
    weight = dut.column_weight if by_column else dut.row_weight
    load = dut.column_load_i if by_column else dut.row_load_i
    passed_on = dut.column_load_o if by_column else dut.row_load_o

    async def multiply(ctx, operand: int, swap: int) -> int:
        ctx.set(dut.operand_i, operand)
        ctx.set(dut.swap_i, swap)
        await ctx.tick()
        assert (ctx.get(dut.operand_o), ctx.get(dut.swap_o)) == (operand, swap)
        ctx.set(dut.operand_i, 77)
        ctx.set(dut.swap_i, 0)
        for _ in range(latency - 1):
            await ctx.tick()
        ctx.set(dut.sum_i, -1000)
        await ctx.tick()
        return ctx.get(dut.sum_o)

    async def bench(ctx) -> None:
        held = None
        for operand, value in EXTREMES:
            ctx.set(weight, value)
            ctx.set(load, 1)
            await ctx.tick()
            assert ctx.get(passed_on) == 1
            ctx.set(load, 0)
            ctx.set(weight, -7)
            if held is not None:
                assert await multiply(ctx, operand, 0) == operand * held - 1000
            assert await multiply(ctx, operand, 1) == operand * value - 1000
            assert await multiply(ctx, -operand, 0) == -operand * value - 1000
            held = value

    simulate(dut, bench)


@pytest.mark.parametrize("reload", [0, 1, 2, 5])
def test_the_place_opens_in_time(reload: int) -> None:
    dut = HeldLoader(CONFIG, reload)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.valid, 1)
        assert not ctx.get(dut.loaded)
        for unit in range(CONFIG.tile_units):
            assert ctx.get(dut.load) and ctx.get(dut.unit) == unit
            await ctx.tick()
        for _ in range(3):
            assert ctx.get(dut.loaded) and ctx.get(dut.swap) and not ctx.get(dut.load)
            # The first of two rows.
            ctx.set(dut.taken, 1)
            waited = 0
            while not ctx.get(dut.load):
                await ctx.tick()
                ctx.set(dut.taken, 0)
                waited += 1
                assert ctx.get(dut.loaded) and not ctx.get(dut.swap)
            assert waited == reload
            units = CONFIG.tile_units
            if not reload:
                await ctx.tick()
                ctx.set(dut.taken, 0)
                units -= 1
            for _ in range(units):
                assert not ctx.get(dut.swap)
                await ctx.tick()
            ctx.set(dut.taken, 1)
            ctx.set(dut.last, 1)
            await ctx.tick()
            ctx.set(dut.taken, 0)
            ctx.set(dut.last, 0)

    simulate(dut, bench)


def test_tiles_of_one_unit_without_a_gap() -> None:
    """With each row the next tile comes."""
    dut = HeldLoader(CONFIG, 0)

    async def bench(ctx) -> None:
        for name in ("ends", "by_column"):
            ctx.set(dut.tiles.payload[name], 1)
        ctx.set(dut.tiles.valid, 1)
        await ctx.tick()
        ctx.set(dut.taken, 1)
        ctx.set(dut.last, 1)
        for _ in range(5):
            assert ctx.get(dut.loaded) and ctx.get(dut.swap) and ctx.get(dut.load)
            await ctx.tick()
        ctx.set(dut.tiles.valid, 0)
        await ctx.tick()
        assert not ctx.get(dut.loaded)

    simulate(dut, bench)


def test_one_row_and_a_tile_that_ends_early() -> None:
    dut = HeldLoader(CONFIG, 1)

    async def bench(ctx) -> None:
        ctx.set(dut.tiles.valid, 1)
        ctx.set(dut.tiles.payload.ends, 1)
        await ctx.tick()
        ctx.set(dut.tiles.valid, 0)
        assert ctx.get(dut.loaded) and ctx.get(dut.swap) and ctx.get(dut.unit) == 0
        ctx.set(dut.taken, 1)
        ctx.set(dut.last, 1)
        await ctx.tick()
        ctx.set(dut.taken, 0)
        assert not ctx.get(dut.loaded)

    simulate(dut, bench)
