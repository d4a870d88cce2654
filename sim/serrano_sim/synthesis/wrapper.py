# SPDX-License-Identifier: Apache-2.0
"""A unit between shift registers, so that it can be placed and routed alone."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ShiftWrapper"]


class ShiftWrapper(wiring.Component):
    """Brings all inputs of a unit in through one pin, and all of its outputs out through another one.

    Every input comes from a register and every output goes into one, so that the paths of the unit are all
    that there is. The outputs are folded, four to one with a register behind, down to one bit.

    Parameters
    ----------
    unit : :class:`~amaranth.lib.wiring.Component`
        The unit; it lives in domain ``sync``.
    leave_out : tuple of :class:`str`
        First names of ports that are left open.

    Members
    -------
    shift_in : ``In(1)``
        Next bit of the inputs.
    folded : ``Out(1)``
        Parity of the outputs.
    """

    shift_in: In(1)
    folded: Out(1)

    def __init__(self, unit: wiring.Component, leave_out: tuple[str, ...] = ()):
        self.unit = unit
        self.leave_out = leave_out
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        inputs, outputs = [], []
        for path, member, value in self.unit.signature.flatten(self.unit):
            if path[0] not in self.leave_out:
                (inputs if member.flow is wiring.In else outputs).append(Value.cast(value))
        driven, seen = Cat(inputs), Cat(outputs)
        shift = Signal(len(driven), reset_less=True)
        level = Signal(len(seen), name="level_0", reset_less=True)
        m.d.sync += [shift.eq(Cat(self.shift_in, shift)), level.eq(seen)]
        m.d.comb += driven.eq(shift)
        depth = 0
        while len(level) > 1:
            depth += 1
            following = Signal(-(-len(level) // 4), name=f"level_{depth}", reset_less=True)
            m.d.sync += following.eq(Cat(level[4 * k : 4 * k + 4].xor() for k in range(len(following))))
            level = following
        m.d.comb += self.folded.eq(level)
        return m
