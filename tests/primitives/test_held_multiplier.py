# SPDX-License-Identifier: Apache-2.0
"""The multiplier that keeps an operand: in Amaranth's simulator, and its Verilog under Verilator's rules."""

import random

import pytest
from amaranth.hdl import Instance
from amaranth.sim import Simulator

from serrano.primitives.held_multiplier import HeldMultiplier
from serrano.verilog import generate


@pytest.mark.parametrize(("a_width", "b_width", "latency"), [(9, 8, 2), (9, 8, 3), (16, 33, 4)])
def test_against_model(a_width: int, b_width: int, latency: int) -> None:
    dut = HeldMultiplier(a_width, b_width, latency=latency)
    rng = random.Random(a_width + latency)
    products = []

    def operand(width: int) -> int:
        low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
        return rng.choice([low, high, -1, 0, rng.randint(low, high)])

    async def testbench(ctx) -> None:
        held = 0
        for cycle in range(300):
            a, b, enable = operand(a_width), operand(b_width), int(not cycle or rng.random() < 0.3)
            held = b if enable else held
            products.append(a * held)
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            ctx.set(dut.b_en, enable)
            await ctx.tick()
            if cycle >= latency - 1:
                assert ctx.get(dut.p) == products[cycle - latency + 1]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert 1 << (a_width + b_width - 2) in products


def test_platform_may_supply_its_own() -> None:
    class Platform:
        def get_held_multiplier(self, multiplier):
            return Instance("dsp", i_a=multiplier.a)

    assert HeldMultiplier(8, 8).elaborate(Platform()).type == "dsp"


def test_verilog_refers_to_its_wrapper() -> None:
    design = generate(HeldMultiplier(9, 8, latency=3), "held")
    assert [file.name for file in design.wrappers] == ["serrano_mul_held.v"]
    assert "serrano_mul_held #(" in design.text and ".LATENCY(32'd3)" in design.text


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 8), {}, ValueError, r"Operand width must be at least 1, not 0"),
        ((8, 8.0), {}, TypeError, r"Operand width must be an integer, not 8\.0"),
        ((8, 8), {"latency": 1}, ValueError, r"Latency must be at least 2, not 1"),
    ],
)
def test_bad_parameters(arguments, options, error, message) -> None:
    with pytest.raises(error, match=f"^{message}$"):
        HeldMultiplier(*arguments, **options)
