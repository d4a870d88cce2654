# SPDX-License-Identifier: Apache-2.0
"""The netlist that goes to place and route, as Verilog that can be simulated."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.lib import wiring

from serrano.boards.ecp5 import ECP5Blocks
from serrano.emit.boundary import Boundary

from .tools import synthesize

__all__ = ["CELLS_FILE", "netlist_verilog", "write_netlist"]

CELLS_FILE = Path(__file__).parent / "ecp5_cells.v"
"""What the cells do."""

SIMULATED = frozenset(re.findall(r"^module (\w+)", CELLS_FILE.read_text(encoding="utf-8"), re.MULTILINE))

SEVERAL_PINS = "DP16KD", "MULT18X18D"
"""Cells that have a pin for each bit, which are one port in the file; so are their parts of INITVAL."""

PIN = re.compile(r"(DI[AB]|AD[AB]|DO[AB]|CS[AB]|[ABCP]|CLK|RST)(\d+)$")
INITVAL = re.compile(r"INITVAL_([0-9A-F]{2})$")
INIT_WORD, INIT_WORD_STORED, INIT_WORDS = 18, 20, 16
"""Bits of a word of a block RAM, what it takes in its part of INITVAL, and how many there are in one."""


def netlist_verilog(module: Mapping[str, Any], name: str) -> str:
    """A flat module of Yosys' JSON as Verilog, of the cells in :data:`CELLS_FILE`.

    Parameters
    ----------
    module : mapping
        The module.
    name : :class:`str`
        Its name in the Verilog.

    Raises
    ------
    ValueError
        If there is another cell, or a memory with two clocks.
    """
    cells = {key: cell for key, cell in module["cells"].items() if cell["type"] != "$scopeinfo"}
    if unknown := {cell["type"] for cell in cells.values()} - SIMULATED:
        raise ValueError(
            f"Cells must be among {', '.join(sorted(SIMULATED))}, not {', '.join(sorted(unknown))}"
        )
    ports, wires, body = [], set(), []
    for port, described in module["ports"].items():
        ports.append(f"{described['direction']} [{len(described['bits']) - 1}:0] {port}")
        bits = _concatenation(described["bits"], wires)
        body.append(
            f"assign {bits} = {port};" if described["direction"] == "input" else f"assign {port} = {bits};"
        )
    for number, cell in enumerate(cells.values()):
        parameters, pins = cell["parameters"], cell["connections"]
        if cell["type"] in SEVERAL_PINS:
            parameters, pins = _joined_parameters(parameters), _joined_pins(pins)
        if cell["type"] == "DP16KD":
            pins |= _clocked(pins)
        given = ", ".join(f".{key}({_value(value)})" for key, value in parameters.items())
        wired = ", ".join(f".{key}({_concatenation(bits, wires)})" for key, bits in pins.items())
        body.append(f"{cell['type']} #({given}) c{number} ({wired});")
    declared = [f"wire {wire};" for wire in sorted(wires)]
    return "\n".join([f"module {name} ({', '.join(ports)});", *declared, *body, "endmodule", ""])


def write_netlist(
    component: wiring.Component, name: str, folder: Path, *, cells_per_block: int | None = None
) -> Sequence[Path]:
    """Synthesizes a component as board tops are, and writes Verilog of it that begins without a reset.

    Parameters
    ----------
    component : :class:`~amaranth.lib.wiring.Component`
        What is simulated.
    name : :class:`str`
        Name of the module.
    folder : path
        Where the netlist goes, and what tools write.
    cells_per_block : :class:`int` or ``None``
        What a block RAM is worth, as of :class:`~serrano.boards.ecp5.ECP5Blocks`.

    Returns
    -------
    sequence of path
        The Verilog.

    Raises
    ------
    ToolError
        If Yosys is missing, or fails.
    """
    boundary = Boundary(
        component,
        port_names=getattr(component, "port_names", {}),
        clock="clk",
        reset=None,
        reset_active_low=False,
    )
    platform = ECP5Blocks()
    platform.cells_per_block = cells_per_block
    text = rtlil.convert(
        boundary, name=name, platform=platform, ports=[port for port, _ in boundary.ports.values()],
        emit_src=False,
    )  # fmt: skip
    netlist = synthesize(text, folder, top=name)
    target = folder / f"{name}.v"
    target.write_text(netlist_verilog(netlist, name), encoding="utf-8")
    return target, CELLS_FILE


def _clocked(pins: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The clocks of a block RAM, both the same also where one port is not used."""
    clocks = {pins[f"CLK{port}"][0] for port in "AB"} - {"0", "1", "x"}
    if len(clocks) != 1:
        raise ValueError("A memory must have one clock")
    return {f"CLK{port}": list(clocks) for port in "AB"}


def _concatenation(bits: Sequence[Any], wires: set[str]) -> str:
    """The nets, the first one being the lowest; notes their names."""
    names = [f"1'b{int(bit == '1')}" if isinstance(bit, str) else f"n{bit}" for bit in bits]
    wires.update(name for name in names if name[0] == "n")
    return "{" + ", ".join(reversed(names)) + "}"


def _value(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if value and set(value) <= set("01xz"):
        return f"{len(value)}'b{value.replace('x', '0').replace('z', '0')}"
    # Yosys puts a space behind a text that might be a number.
    return f'"{value.rstrip()}"'


def _joined_pins(pins: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    joined: dict[str, list[Any]] = {}
    numbered: defaultdict[str, dict[int, Any]] = defaultdict(dict)
    for pin, (bit,) in pins.items():
        if found := PIN.match(pin):
            numbered[found[1]][int(found[2])] = bit
        else:
            joined[pin] = [bit]
    return joined | {port: [bits[index] for index in range(len(bits))] for port, bits in numbered.items()}


def _joined_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    joined, parts = {}, {}
    for key, value in parameters.items():
        if found := INITVAL.match(key):
            parts[int(found[1], 16)] = value.rjust(INIT_WORD_STORED * INIT_WORDS, "0")
        else:
            joined[key] = value
    if parts:
        # The last word comes first in a text.
        words = [
            parts[part][at + INIT_WORD_STORED - INIT_WORD : at + INIT_WORD_STORED]
            for part in sorted(parts, reverse=True)
            for at in range(0, INIT_WORD_STORED * INIT_WORDS, INIT_WORD_STORED)
        ]
        joined["INITVAL"] = "".join(words)
    return joined
