# SPDX-License-Identifier: Apache-2.0
"""Pace: states that act in their turn, and registers that are there only if asked for."""

import dataclasses
import itertools

import pytest
from amaranth import *

from serrano.stream.pace import PACE, pace, paced, settled, take_turns
from serrano_sim.kv_commands import SMALL
from support.streams import simulate


class Walker(Elaboratable):
    """Goes around two states; counts."""

    def __init__(self, registered: bool):
        self.config = dataclasses.replace(SMALL, registered=registered)
        self.first, self.second, self.twice = Signal(8), Signal(8), Signal(9)

    def elaborate(self, platform) -> Module:
        m = Module()
        acts = take_turns(m, self.config)
        m.d.comb += self.twice.eq(settled(m, self.config, self.first * 2))
        with m.FSM():
            for name, following, count in (("ONE", "TWO", self.first), ("TWO", "ONE", self.second)):
                with paced(m, name, acts):
                    m.d.sync += count.eq(count + 1)
                    m.next = following
        return m


@pytest.mark.parametrize(("registered", "cycles"), [(False, 1), (True, PACE)])
def test_states_act_in_their_turn(registered: bool, cycles: int) -> None:
    dut = Walker(registered)
    assert pace(dut.config) == cycles

    async def bench(ctx) -> None:
        counts, before = [], 0
        for _ in range(40):
            first = ctx.get(dut.first)
            assert ctx.get(dut.twice) == 2 * (before if registered else first)
            counts.append((first, ctx.get(dut.second)))
            before = first
            await ctx.tick()
        changes = [number for number in range(1, 40) if counts[number] != counts[number - 1]]
        assert {after - before for before, after in itertools.pairwise(changes)} == {cycles}
        assert all(first - second in (0, 1) for first, second in counts)

    simulate(dut, bench)
