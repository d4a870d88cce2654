# SPDX-License-Identifier: Apache-2.0
"""The memory wrapper in Amaranth's simulator; tests/test_verilog.py runs the same on its Verilog."""

import pytest
from amaranth.hdl import Instance, Value, signed, unsigned
from amaranth.lib import data
from amaranth.sim import Simulator

from serrano.primitives.memory import OnChipMemory
from support.primitives import MEMORIES, MemoryModel, sequence


@pytest.mark.parametrize(("width", "depth", "granularity", "transparent"), MEMORIES)
def test_against_model(width, depth, granularity, transparent):
    dut = OnChipMemory(width, depth, granularity=granularity, transparent=transparent)
    seen = []

    async def testbench(ctx):
        for values, expected in sequence(
            MemoryModel(width, depth, granularity, transparent), 400, seed=width
        ):
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()
            if expected is not None:
                assert ctx.get(dut.r_data) == expected
                seen.append(expected)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert len(seen) > 300


def test_structured_words():
    """Lanes of an array layout are counted in elements, and negative elements keep their sign."""
    dut = OnChipMemory(data.ArrayLayout(signed(8), 4), 8, granularity=2, transparent=False)
    assert dut.lanes == 2

    async def testbench(ctx):
        ctx.set(dut.w_addr, 5)
        ctx.set(dut.r_addr, 5)
        ctx.set(dut.r_en, 1)
        ctx.set(dut.w_en, 0b11)
        ctx.set(dut.w_data, [1, -128, 127, -1])
        await ctx.tick()
        ctx.set(dut.w_en, 0b10)
        ctx.set(dut.w_data, [9, 9, -3, 4])
        await ctx.tick()
        ctx.set(dut.w_en, 0)
        await ctx.tick()
        assert [ctx.get(dut.r_data[i]) for i in range(4)] == [1, -128, -3, 4]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_platform_may_supply_its_own():
    class Platform:
        def get_on_chip_memory(self, memory):
            return Instance("macro", i_data=Value.cast(memory.w_data))

    memory = OnChipMemory(8, 16, transparent=False)
    assert memory.elaborate(Platform()).type == "macro"


@pytest.mark.parametrize(
    ("shape", "depth", "options", "error", "message"),
    [
        (8, 1, {}, ValueError, r"Depth must be at least 2, not 1"),
        (8, 2.0, {}, TypeError, r"Depth must be an integer, not 2\.0"),
        (8, True, {}, TypeError, r"Depth must be an integer, not True"),
        (0, 4, {}, ValueError, r"Shape must have at least one bit, not 0"),
        (8, 4, {"transparent": 1}, TypeError, r"Transparent must be True or False, not 1"),
        (8, 4, {"collides": 0}, TypeError, r"Collides must be True or False, not 0"),
        (8, 4, {"granularity": 3}, ValueError, r"Granularity must divide the word's 8 bits, not 3"),
        (8, 4, {"granularity": 0}, ValueError, r"Granularity must be a positive integer or None, not 0"),
        (
            signed(8),
            4,
            {"granularity": 8},
            ValueError,
            r"Granularity needs an unsigned shape or an array layout, not signed\(8\)",
        ),
        (
            data.ArrayLayout(unsigned(4), 6),
            4,
            {"granularity": 4},
            ValueError,
            r"Granularity must divide the word's 6 elements, not 4",
        ),
    ],
)
def test_bad_parameters(shape, depth, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        OnChipMemory(shape, depth, **{"transparent": False, **options})
