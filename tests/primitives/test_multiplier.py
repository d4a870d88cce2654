# SPDX-License-Identifier: Apache-2.0
"""The multiplier wrapper in Amaranth's simulator; tests/test_verilog.py runs the same on its Verilog."""

import pytest
from amaranth.hdl import Instance
from amaranth.sim import Simulator

from serrano.primitives.multiplier import Multiplier
from support.primitives import MULTIPLIERS, MultiplierModel, sequence


@pytest.mark.parametrize(("a_width", "b_width", "latency"), MULTIPLIERS)
def test_against_model(a_width, b_width, latency):
    """The declared latency is the measured one, with both operands at their extremes."""
    dut = Multiplier(a_width, b_width, latency=latency)
    assert dut.latency == latency
    seen = []

    async def testbench(ctx):
        for values, expected in sequence(MultiplierModel(a_width, b_width, latency), 300, seed=a_width):
            ctx.set(dut.a, values["a"])
            ctx.set(dut.b, values["b"])
            await ctx.tick()
            if expected is not None:
                assert ctx.get(dut.p) == expected
                seen.append(expected)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert len(seen) == 301 - latency
    assert 1 << (a_width + b_width - 2) in seen  # Both at their minimum.


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
