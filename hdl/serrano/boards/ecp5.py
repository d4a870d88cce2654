# SPDX-License-Identifier: Apache-2.0
"""Blocks of the Lattice ECP5 behind the project's wrappers."""

from typing import Any

from amaranth import *
from amaranth.hdl import Instance

from serrano.primitives.held_multiplier import HeldMultiplier
from serrano.primitives.memory import OnChipMemory
from serrano.primitives.multiplier import Multiplier

__all__ = [
    "DSP_LATENCY",
    "DSP_WIDTH",
    "ECP5Blocks",
    "dsp_multiplier",
    "memory_blocks",
    "memory_cells",
    "wide_multiplier",
]

DSP_WIDTH = 18
"""Width of the operands of a DSP block's multiplier."""

DSP_LATENCY = 3
"""Cycles through a multiplier with all of its registers: operands, pipeline, output."""

LOW_BITS = DSP_WIDTH - 1
"""Bits of a wide operand that go to the first block, as a positive number."""


def dsp_multiplier(
    a: Value, b: Value, p: Value, *, en: Value | int = 1, b_en: Value | None = None, pipeline: bool = True
) -> Module:
    """A ``MULT18X18D``, signed, with registers for operands and output: the only way in which it is fast.

    Parameters
    ----------
    a, b : signed :class:`~amaranth.hdl.Value`
        Operands of up to 18 bits.
    p : :class:`~amaranth.hdl.Value`
        Product, three enabled cycles later.
    en : :class:`~amaranth.hdl.Value`
        Clock enable of the registers.
    b_en : :class:`~amaranth.hdl.Value`
        Clock enable of the register of ``b``, if that has its own.
    pipeline : :class:`bool`
        Also with the register in the middle; without, the product comes a cycle earlier.

    Raises
    ------
    ValueError
        If an operand is too wide.
    """
    for name, operand in (("a", a), ("b", b)):
        if len(operand) > DSP_WIDTH:
            raise ValueError(f"{name} must have at most {DSP_WIDTH} bits, not {len(operand)!r}")
    product = Signal(2 * DSP_WIDTH)
    registers = {}
    for name in ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT"):
        clock = "NONE" if name == "PIPELINE" and not pipeline else "CLK0"
        enable = "CE1" if name == "INPUTB" and b_en is not None else "CE0"
        registers |= {f"p_REG_{name}_CLK": clock, f"p_REG_{name}_CE": enable, f"p_REG_{name}_RST": "RST0"}
    # Four multipliers that lie together share four enables: one that is not used must not take any.
    enables = {"i_CE0": en} if b_en is None else {"i_CE0": en, "i_CE1": b_en}
    operands = {}
    for name, operand in (("A", a), ("B", b), ("C", Const(0, signed(DSP_WIDTH)))):
        wide = Signal(signed(DSP_WIDTH), name=f"operand_{name}")
        operands[name] = (wide, operand)
    pins = {f"i_{name}{bit}": wide[bit] for name, (wide, _) in operands.items() for bit in range(DSP_WIDTH)}
    m = Module()
    m.d.comb += [wide.eq(operand) for wide, operand in operands.values()]
    m.d.comb += p.eq(product[: len(p)])
    m.submodules.block = Instance(
        "MULT18X18D",
        **registers,
        p_REG_INPUTC_CLK="NONE",
        p_GSR="DISABLED",
        p_RESETMODE="SYNC",
        p_SOURCEB_MODE="B_SHIFT",
        i_CLK0=ClockSignal(),
        **{f"i_CLK{index}": Const(0, 1) for index in range(1, 4)},
        **enables,
        **{f"i_RST{index}": Const(0, 1) for index in range(4)},
        i_SIGNEDA=Const(1, 1),
        i_SIGNEDB=Const(1, 1),
        i_SOURCEA=Const(0, 1),
        i_SOURCEB=Const(0, 1),
        **pins,
        **{f"o_P{bit}": product[bit] for bit in range(2 * DSP_WIDTH)},
    )
    return m


def memory_cells(memory: OnChipMemory) -> int:
    """Logic cells of a memory in LUTs: six for 16 words of 4 bits, and what chooses among more words."""
    banks = -(-memory.depth // 16)
    return -(-memory.width // 4) * banks * 6 + memory.width * (banks - 1)


def memory_blocks(memory: OnChipMemory) -> int:
    """Block RAMs of a memory: 512 words of 36 bits each, or more words of fewer bits."""
    return min(
        -(-memory.width // width) * -(-memory.depth // (18432 // width)) for width in (36, 18, 9, 4, 2, 1)
    )


def wide_multiplier(a: Value, b: Value, p: Value, *, en: Value | int = 1) -> Module:
    """Two blocks for the two parts of ``b``, and an adder behind: ``p`` is ``a * b`` three enabled cycles on.

    Parameters
    ----------
    a : signed :class:`~amaranth.hdl.Value`
        Operand of up to 18 bits.
    b : signed :class:`~amaranth.hdl.Value`
        Operand of 19 to 35 bits.
    p : :class:`~amaranth.hdl.Value`
        Product.
    en : :class:`~amaranth.hdl.Value`
        Clock enable of the registers.
    """
    m = Module()
    high = b[LOW_BITS:].as_signed()
    m.submodules.low = low = Multiplier(len(a), DSP_WIDTH, latency=DSP_LATENCY - 1)
    m.submodules.high = upper = Multiplier(len(a), len(high), latency=DSP_LATENCY - 1)
    total = Signal.like(p, reset_less=True)
    m.d.comb += [low.a.eq(a), low.b.eq(b[:LOW_BITS]), upper.a.eq(a), upper.b.eq(high), p.eq(total)]
    m.d.comb += [low.en.eq(en), upper.en.eq(en)]
    with m.If(en):
        m.d.sync += total.eq(Cat(low.p[:LOW_BITS], upper.p + low.p[LOW_BITS:].as_signed()))
    return m


class ECP5Blocks:
    """Mixed into a platform, or used as one: multipliers become DSP blocks.

    Multipliers with other latencies than a block has with its registers, or wider ones than two blocks make,
    stay what they are, and the tools make of them what they can. So do memories; but one that would take
    ``cells_per_block`` logic cells or more for each block RAM that can hold it instead, is to lie in block
    RAM.
    """

    cells_per_block: int | None = None
    """What a block RAM is worth; without it, memories are left to the tools."""

    def get_on_chip_memory(self, memory: OnChipMemory) -> Any:
        """Block RAM where that is asked for and worth it."""
        worth = self.cells_per_block
        if worth is None or memory_cells(memory) < worth * memory_blocks(memory):
            return memory.describe()
        return memory.describe(ram_style="block")

    def get_multiplier(self, multiplier: Multiplier) -> Any:
        """DSP blocks where width and latency are right, the general description elsewhere."""
        latency, (narrow, wide) = multiplier.latency, sorted((multiplier.a, multiplier.b), key=len)
        if latency in (DSP_LATENCY - 1, DSP_LATENCY) and len(wide) <= DSP_WIDTH:
            pipeline = latency == DSP_LATENCY
            operands = (multiplier.a, multiplier.b, multiplier.p)
            return dsp_multiplier(*operands, en=multiplier.en, pipeline=pipeline)
        if latency == DSP_LATENCY and len(narrow) <= DSP_WIDTH and len(wide) <= DSP_WIDTH + LOW_BITS:
            return wide_multiplier(narrow, wide, multiplier.p, en=multiplier.en)
        return multiplier.describe()

    def get_held_multiplier(self, multiplier: HeldMultiplier) -> Any:
        """As :meth:`get_multiplier`; the operand that stays is held in the block."""
        if multiplier.latency != DSP_LATENCY or max(multiplier.a_width, multiplier.b_width) > DSP_WIDTH:
            return multiplier.describe()
        return dsp_multiplier(multiplier.a, multiplier.b, multiplier.p, b_en=multiplier.b_en)
