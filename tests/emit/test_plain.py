# SPDX-License-Identifier: Apache-2.0
"""The rewritings keep what a shift and a negation mean."""

import pytest
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.emit.plain import plain_negations, wide_shifts, without_empty_wires
from serrano.verilog import emit_verilog

SHIFT = """\
  cell $shift $9
    parameter \\A_SIGNED 0
    parameter \\B_SIGNED 0
    parameter \\A_WIDTH 16
    parameter \\B_WIDTH 4
    parameter \\Y_WIDTH {width}
    connect \\A \\words
    connect \\B $8
    connect \\Y {target}
  end
"""


def test_a_shift_that_drops_bits_gets_a_wire_of_its_own() -> None:
    text = wide_shifts(SHIFT.format(width=4, target="$3"))
    assert text.startswith("  wire width 16 $3$wide\n")
    assert "parameter \\Y_WIDTH 16\n" in text and "connect \\Y $3$wide\n" in text
    assert text.endswith("  end\n  connect $3 $3$wide [3:0]\n")


@pytest.mark.parametrize("width", [16, 20])
def test_a_shift_that_drops_none_stays(width: int) -> None:
    cell = SHIFT.format(width=width, target="$3")
    assert wide_shifts(cell) == cell


def test_part_of_a_wire_as_target() -> None:
    text = wide_shifts(SHIFT.format(width=4, target="\\value [7:4]"))
    assert "  connect \\value [7:4] \\value$wide [3:0]\n" in text


def test_negations() -> None:
    assert plain_negations("  assign a = ! b[2:0];\n") == "  assign a = ~| b[2:0];\n"
    for other in ("  assign a = b != c;\n", "  if (! a) begin\n", "  assign a = ~b;\n"):
        assert plain_negations(other) == other


def test_fields_without_bits() -> None:
    kept = "  wire [1:0] a;\n  reg b;\n"
    assert without_empty_wires("  wire [-1:0] tile;\n" + kept + "  reg [-1:0] \\end ;\n") == kept


class Picker(wiring.Component):
    """Picks a word, and tells whether all are zero."""

    words: In(data.ArrayLayout(8, 4))
    index: In(2)
    word: Out(8)
    none: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [
            self.word.eq(Value.cast(self.words).word_select(self.index, 8)),
            self.none.eq(Value.cast(self.words) == 0),
        ]
        return m


def test_emitted() -> None:
    text = emit_verilog(Picker(), "picker")
    assert "$wide" in text and "[7:0];" in text and " = ! " not in text
