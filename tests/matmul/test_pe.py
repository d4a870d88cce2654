# SPDX-License-Identifier: Apache-2.0
"""ProcessingElement: both planes, both ways of loading, extremes, and what is passed on."""

import pytest

from serrano.matmul.pe import ProcessingElement
from support.streams import simulate

EXTREMES = [(-256, -128), (-256, 127), (255, -128), (255, 127), (0, -128), (-1, 1)]


@pytest.mark.parametrize("latency", [1, 3])
def test_products_of_both_planes(latency: int) -> None:
    dut = ProcessingElement(20, latency)

    async def bench(ctx) -> None:
        for operand, weight in EXTREMES:
            other = -weight - 1
            ctx.set(dut.row_weight, weight)
            ctx.set(dut.row_load_i, {"write": 1, "plane": 0})
            ctx.set(dut.column_weight, other)
            ctx.set(dut.column_load_i, {"write": 1, "plane": 1})
            await ctx.tick()
            assert ctx.get(dut.row_load_o).as_bits() == 0b01
            assert ctx.get(dut.column_load_o).as_bits() == 0b11
            ctx.set(dut.row_load_i, {"write": 0, "plane": 1})
            ctx.set(dut.column_load_i, {"write": 0})
            for plane, value in enumerate((weight, other)):
                ctx.set(dut.operand_i, operand)
                ctx.set(dut.plane_i, plane)
                await ctx.tick()
                assert (ctx.get(dut.operand_o), ctx.get(dut.plane_o)) == (operand, plane)
                ctx.set(dut.operand_i, 0)
                for _ in range(latency - 1):
                    await ctx.tick()
                ctx.set(dut.sum_i, -1000)
                await ctx.tick()
                assert ctx.get(dut.sum_o) == operand * value - 1000

    simulate(dut, bench)
