# SPDX-License-Identifier: Apache-2.0
"""Registers behind block RAMs of an ECP5 netlist, moved into the block RAMs.

A block RAM has registers at its outputs, which Yosys leaves unused: without them a word comes 5.7 ns after
the clock, and with them in 0.8 ns.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from .netlist import loads_of

__all__ = ["use_output_registers"]

WIDEST = 18
"""Bits of a port; a word of 36 bits takes both ports' outputs, and stays as it is."""

PORTS = ("A", "B")


def use_output_registers(module: MutableMapping[str, Any]) -> int:
    """Moves flip-flops into the block RAMs before them, in a flat module of Yosys' JSON; returns how many.

    All bits that are read at a port of a ``DP16KD`` must go to one flip-flop each, and nowhere else. These
    must have the port's clock, no reset, and an enable in common: none, or that with which the port itself
    reads, so that it does not matter whether a block whose port stands still loads its output register.
    """
    cells = module["cells"]
    loads = loads_of(cells)
    for name, port in module.get("ports", {}).items():
        for bit in port["bits"]:
            loads[bit].append((name, "port", 0))
    moved = 0
    for cell in [cell for cell in cells.values() if cell["type"] == "DP16KD"]:
        if any(_integer(cell["parameters"][f"DATA_WIDTH_{port}"]) > WIDEST for port in PORTS):
            continue
        for port in PORTS:
            moved += _move(cells, cell, port, loads)
    return moved


def _integer(value: str | int) -> int:
    return value if isinstance(value, int) else int(value, 2)


def _move(
    cells: MutableMapping[str, Any], memory: Mapping[str, Any], port: str, loads: Mapping[Any, Any]
) -> int:
    """Moves the flip-flops behind one port, if they can be; returns how many."""
    pins, parameters = memory["connections"], memory["parameters"]
    outputs = [pin for pin in pins if pin.startswith(f"DO{port}") and loads.get(pins[pin][0])]
    ends = [loads[pins[pin][0]] for pin in outputs]
    if not outputs or parameters.get(f"REGMODE_{port}", "NOREG") != "NOREG":
        return 0
    if any(len(end) != 1 or end[0][1] != "DI" or not _is_plain(cells[end[0][0]]) for end in ends):
        return 0
    registers = {pin: end[0][0] for pin, end in zip(outputs, ends, strict=True)}
    clocks = {cells[name]["connections"]["CLK"][0] for name in registers.values()}
    enables = {_enable(cells[name]) for name in registers.values()}
    reads = pins[f"CE{port}"][0]
    if clocks != {pins[f"CLK{port}"][0]} or len(enables) != 1 or reads not in ("1", *enables):
        return 0
    parameters[f"REGMODE_{port}"] = "OUTREG"
    pins[f"OCE{port}"] = list(enables)
    for pin, name in registers.items():
        pins[pin] = cells.pop(name)["connections"]["Q"]
    return len(registers)


def _is_plain(cell: Mapping[str, Any]) -> bool:
    """Whether it is a flip-flop that does what the register of a block does."""
    parameters, pins = cell["parameters"], cell["connections"]
    return (
        cell["type"] == "TRELLIS_FF"
        and parameters.get("CLKMUX", "CLK") == "CLK"
        and parameters.get("CEMUX", "CE") in ("CE", "1", "1 ")
        and parameters.get("LSRMUX", "LSR") == "LSR"
        and pins.get("LSR", ["0"]) == ["0"]
        and parameters.get("REGSET", "RESET") == "RESET"
    )


def _enable(cell: Mapping[str, Any]) -> Any:
    if cell["parameters"].get("CEMUX", "CE") != "CE":
        return "1"
    return cell["connections"].get("CE", ["1"])[0]
