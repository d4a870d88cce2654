# SPDX-License-Identifier: Apache-2.0
"""Small rewritings that let the emitted Verilog pass lint without a waiver for lost bits."""

import re

__all__ = ["plain_negations", "wide_shifts", "without_empty_wires"]

_SHIFT = re.compile(
    r"^  cell \$(?:shift|shiftx|shr|sshr) \S+\n(?:    parameter [^\n]*\n)*(?:    connect [^\n]*\n)*  end\n",
    re.MULTILINE,
)
_EMPTY = re.compile(r"^  (?:wire|reg) \[-1:0\] (?:\\\S+ |\w+);\n", re.MULTILINE)
_NEGATION = re.compile(r"(?<== )! (?=[^;=]*;$)", re.MULTILINE)


def wide_shifts(rtlil: str) -> str:
    """Gives each shift a result as wide as its operand, and takes the bits that are wanted from that.

    What picks an element of an array is a shift whose upper bits nobody wants; Verilog would drop them in
    an assignment, which cannot be told from a mistake.
    """
    return _SHIFT.sub(_widened, rtlil)


def _widened(match: re.Match) -> str:
    cell = match[0]
    operand, result = (int(re.search(rf"\\{port}_WIDTH (\d+)", cell)[1]) for port in "AY")
    if result >= operand:
        return cell
    target = re.search(r"^    connect \\Y (.+)$", cell, re.MULTILINE)[1]
    wide = re.sub(r"\s*\[.*", "", target) + "$wide"
    cell = cell.replace(f"\\Y_WIDTH {result}\n", f"\\Y_WIDTH {operand}\n")
    cell = cell.replace(f"connect \\Y {target}\n", f"connect \\Y {wide}\n")
    return f"  wire width {operand} {wide}\n{cell}  connect {target} {wide} [{result - 1}:0]\n"


def plain_negations(verilog: str) -> str:
    """Writes "no bit is set" as a reduction, where Yosys writes a logical not of several bits."""
    return _NEGATION.sub("~| ", verilog)


def without_empty_wires(verilog: str) -> str:
    """Drops the declarations of fields without bits, which Verilog would take for two bits."""
    return _EMPTY.sub("", verilog)
