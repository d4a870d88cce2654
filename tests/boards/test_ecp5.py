# SPDX-License-Identifier: Apache-2.0
"""DSP blocks of the ECP5 behind the wrappers: which are used, with which registers."""

import dataclasses
import random
import re

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Const, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.boards.ecp5 import (
    DSP_LATENCY,
    ECP5Blocks,
    dsp_multiplier,
    memory_blocks,
    memory_cells,
    wide_multiplier,
)
from serrano.config import preset
from serrano.matmul.array import SystolicArray
from serrano.primitives.held_multiplier import HeldMultiplier
from serrano.primitives.memory import OnChipMemory
from serrano.primitives.multiplier import Multiplier
from serrano.vector.quantizer import LaneQuantizer
from support.streams import simulate


def text_of(component) -> str:
    return rtlil.convert(component, platform=ECP5Blocks())


@pytest.mark.parametrize("kind", [Multiplier, HeldMultiplier])
def test_all_registers_are_used(kind) -> None:
    text = text_of(kind(9, 8, latency=DSP_LATENCY))
    assert text.count("cell \\MULT18X18D") == 1
    registers = dict(re.findall(r'parameter \\REG_(\w+)_CLK "(\w+)"', text))
    assert registers == {
        "INPUTA": "CLK0", "INPUTB": "CLK0", "PIPELINE": "CLK0", "OUTPUT": "CLK0", "INPUTC": "NONE"
    }  # fmt: skip
    assert "$mul" not in text


def test_enables_reach_the_registers() -> None:
    text = text_of(Multiplier(17, 18, latency=2))
    enables = dict(re.findall(r'parameter \\REG_(\w+)_CE "(\w+)"', text))
    assert enables == {"INPUTA": "CE0", "INPUTB": "CE0", "PIPELINE": "CE0", "OUTPUT": "CE0"}
    assert re.search(r"connect \\CE0 \\en\b", text) and "\\CE1" not in text
    text = text_of(HeldMultiplier(9, 8, latency=DSP_LATENCY))
    enables = dict(re.findall(r'parameter \\REG_(\w+)_CE "(\w+)"', text))
    assert enables == {"INPUTA": "CE0", "INPUTB": "CE1", "PIPELINE": "CE0", "OUTPUT": "CE0"}
    assert re.search(r"connect \\CE1 \\b_en\b", text) and re.search(r"connect \\CE0 1'1", text)


def test_products_of_the_lanes_are_blocks() -> None:
    """With their registers: none of the product's is left outside, and no product is either."""
    text = text_of(LaneQuantizer(2, registered=True))
    assert text.count("cell \\MULT18X18D") == 2 and "cell $mul" not in text
    assert set(re.findall(r'parameter \\REG_(?:INPUTA|INPUTB|OUTPUT)_CLK "(\w+)"', text)) == {"CLK0"}
    assert "MULT18X18D" not in text_of(LaneQuantizer(2))


@pytest.mark.parametrize(
    "multiplier", [Multiplier(9, 8), Multiplier(19, 19, latency=3), HeldMultiplier(9, 8)]
)
def test_others_are_described(multiplier) -> None:
    text = text_of(multiplier)
    assert "MULT18X18D" not in text and "cell $mul" in text


class Wide(wiring.Component):
    def __init__(self, narrow: int, wide: int):
        super().__init__(
            {
                "en": In(1),
                "a": In(signed(narrow)),
                "b": In(signed(wide)),
                "p": Out(signed(narrow + wide)),
            }
        )

    def elaborate(self, platform):
        return wide_multiplier(self.a, self.b, self.p, en=self.en)


@pytest.mark.parametrize(("narrow", "wide"), [(18, 35), (12, 29), (2, 19), (18, 19)])
def test_two_blocks_for_a_wide_operand(narrow: int, wide: int) -> None:
    text = text_of(Multiplier(wide, narrow, latency=3))
    assert text.count("cell \\MULT18X18D") == 2 and "$mul" not in text
    assert set(re.findall(r'parameter \\REG_PIPELINE_CLK "(\w+)"', text)) == {"NONE"}
    dut, rng = Wide(narrow, wide), random.Random(narrow)
    ends = [(-(1 << bits - 1), -1, 0, 1, (1 << bits - 1) - 1) for bits in (narrow, wide)]
    pairs = [(a, b) for a in ends[0] for b in ends[1]]
    pairs += [
        (rng.randrange(ends[0][0], ends[0][4]), rng.randrange(ends[1][0], ends[1][4])) for _ in range(99)
    ]

    async def bench(ctx) -> None:
        for cycle in range(len(pairs) + DSP_LATENCY):
            if cycle >= DSP_LATENCY:
                a, b = pairs[cycle - DSP_LATENCY]
                assert ctx.get(dut.p) == a * b
            a, b = pairs[min(cycle, len(pairs) - 1)]
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            while rng.random() < 0.3:
                ctx.set(dut.en, 0)
                await ctx.tick()
            ctx.set(dut.en, 1)
            await ctx.tick()

    simulate(dut, bench)


def test_one_block_per_element() -> None:
    config = dataclasses.replace(preset("ulx3s"), n=4, lanes=2, multiplier_latency=3, held_weights=True)
    text = text_of(SystolicArray(config))
    assert text.count("cell \\MULT18X18D") == 16 and "cell $mul" not in text


@pytest.mark.parametrize(
    ("width", "depth", "cells", "blocks"),
    [
        (4, 16, 6, 1),
        (40, 64, 360, 2),
        (512, 8, 768, 15),
        (36, 1024, 9 * 64 * 6 + 36 * 63, 2),
        (8, 4096, None, 2),
    ],
)
def test_what_a_memory_takes(width: int, depth: int, cells: int | None, blocks: int) -> None:
    memory = OnChipMemory(width, depth, transparent=False)
    assert cells is None or memory_cells(memory) == cells
    assert memory_blocks(memory) == blocks


@pytest.mark.parametrize(("worth", "forced"), [(None, 0), (180, 1), (181, 0)])
def test_block_ram_where_it_is_worth_it(worth: int | None, forced: int) -> None:
    blocks = ECP5Blocks()
    blocks.cells_per_block = worth
    text = rtlil.convert(OnChipMemory(40, 64, transparent=False), platform=blocks)
    assert text.count('attribute \\ram_style "block"') == forced


def test_operands_that_are_too_wide() -> None:
    with pytest.raises(ValueError, match=r"^a must have at most 18 bits, not 19$"):
        dsp_multiplier(Signal(19), Const(0, 8), Signal(27))
