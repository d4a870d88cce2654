# SPDX-License-Identifier: Apache-2.0
"""The multiplier wrapper in Amaranth's simulator; tests/test_verilog.py runs the same on its Verilog."""

import pytest
from amaranth.hdl import Instance
from amaranth.sim import Simulator

from serrano.primitives.multiplier import Multiplier
from support.primitives import MULTIPLIERS, MultiplierModel, sequence


@pytest.mark.parametrize(("a_width", "b_width", "latency"), MULTIPLIERS)
def test_against_model(a_width, b_width, latency):
    """The declared latency is the measured one, in enabled cycles, with both operands at their extremes."""
    dut = Multiplier(a_width, b_width, latency=latency)
    assert dut.latency == latency
    seen, enabled = [], []

    async def testbench(ctx):
        for values, expected in sequence(MultiplierModel(a_width, b_width, latency), 400, seed=a_width):
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)
            enabled.append(values["en"])
            await ctx.tick()
            if expected is not None:
                assert ctx.get(dut.p) == expected
                seen.append(expected)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    # From the first product on there is one after every cycle.
    first = [cycle for cycle, en in enumerate(enabled) if en][latency - 1]
    assert len(seen) == 400 - first and 0 in enabled
    assert 1 << (a_width + b_width - 2) in seen  # Both at their minimum.


def test_without_enable_it_always_runs():
    dut = Multiplier(8, 8, latency=2)

    async def testbench(ctx):
        for index in range(20):
            ctx.set(dut.a, index)
            ctx.set(dut.b, -index)
            await ctx.tick()
            if index:
                assert ctx.get(dut.p) == -((index - 1) ** 2)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_platform_may_supply_its_own():
    class Platform:
        def get_multiplier(self, multiplier):
            return Instance("dsp", i_a=multiplier.a)

    assert Multiplier(8, 8).elaborate(Platform()).type == "dsp"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 8), {}, ValueError, r"Operand width must be at least 1, not 0"),
        ((8, 8.0), {}, TypeError, r"Operand width must be an integer, not 8\.0"),
        ((8, 8), {"latency": 0}, ValueError, r"Latency must be at least 1, not 0"),
    ],
)
def test_bad_parameters(arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Multiplier(*arguments, **options)
