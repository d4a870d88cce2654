# SPDX-License-Identifier: Apache-2.0
"""State machines get a flip-flop for each state, and begin where they began."""

import re
from typing import Any

import pytest
from amaranth import *
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano_sim.synthesis import tools
from serrano_sim.synthesis.states import with_beginnings

BINARY = """
  attribute \\init 2'01
  attribute \\src "a.py:3"
  wire width 2 \\unit.fsm_state
  wire width 8 \\other
"""
ONE_HOT = """
  wire width 3 \\unit.fsm_state
  wire width 8 \\other
"""
STATES = ".fsm top unit.fsm_state\n.map 00 --1\n.map 01 -1-\n.map 10 1--\n"


class Machine(wiring.Component):
    """Without a reset, as on a board: ``told`` in every fourth cycle."""

    clock: In(1)
    told: Out(1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain("sync", reset_less=True)
        m.d.comb += ClockSignal().eq(self.clock)
        with m.FSM(init="THIRD"):
            for state, following in (("FIRST", "SECOND"), ("SECOND", "FOURTH"), ("THIRD", "FIRST")):
                with m.State(state):
                    m.next = following
            with m.State("FOURTH"):
                m.d.comb += self.told.eq(1)
                m.next = "THIRD"
        return m


def test_the_first_state_is_told() -> None:
    wanted = ONE_HOT.replace("  wire width 3", "  attribute \\init 3'010\n  wire width 3")
    assert with_beginnings(ONE_HOT, BINARY, STATES) == wanted
    assert with_beginnings(ONE_HOT, BINARY, "") == ONE_HOT


@pytest.mark.parametrize("binary", ["", BINARY.replace("2'01", "2'11")])
def test_a_machine_must_begin_somewhere(binary: str) -> None:
    with pytest.raises(ValueError, match=r"^State machine unit\.fsm_state must begin in one of its states$"):
        with_beginnings(ONE_HOT, binary, STATES)


def test_a_machine_must_be_found() -> None:
    with pytest.raises(ValueError, match=r"^State machines must have a register, not so unit\.fsm_state$"):
        with_beginnings("", BINARY, STATES)


def test_yosys_gives_each_state_a_flip_flop(tmp_path) -> None:
    cells = tools.synthesize(rtlil.convert(Machine(), name="top"), tmp_path)["cells"]
    begins = [cell["parameters"]["REGSET"] for cell in cells.values() if cell["type"] == "TRELLIS_FF"]
    assert sorted(begins) == ["RESET"] * 3 + ["SET"]
    text = (tmp_path / "recoded.il").read_text(encoding="utf-8")
    assert re.search(r"attribute \\init 4'0*10*\n  wire width 4 .*fsm_state", text)
