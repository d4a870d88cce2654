# SPDX-License-Identifier: Apache-2.0
"""What each unit of a design takes of a flat netlist, by the names that its cells have kept.

Other than in :mod:`serrano_sim.synthesis.area`, which keeps the hierarchy, what optimization across units
saves is counted here; what lies between two units has the name of one of them.
"""

from collections.abc import Mapping
from typing import Any

from .netlist import names_of, origin
from .tools import CELLS, taken_by

__all__ = ["per_unit", "table"]

SHOWN = 20
"""Units that have a line of their own in the table."""


def per_unit(module: Mapping[str, Any], levels: int) -> dict[str, dict[str, int]]:
    """What the units down to a level of the hierarchy take, those with most logic cells first.

    Parameters
    ----------
    module : mapping
        A flat module of Yosys' JSON.
    levels : :class:`int`
        Levels that are told apart. What lies in a unit itself counts for it and for no part of it.
    """
    names = names_of(module)
    found: dict[str, dict[str, int]] = {}
    for name, cell in module["cells"].items():
        taken = taken_by(cell["type"])
        if not taken:
            continue
        *path, _ = origin(_of_output(cell, names) if name.startswith("$") else name).split(".")
        unit = found.setdefault(".".join(path[:levels]) or "(top)", dict.fromkeys(CELLS, 0))
        for resource, count in taken.items():
            unit[resource] += count
    return dict(sorted(found.items(), key=lambda item: (-item[1]["comb"], item[0])))


def _of_output(cell: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """The name of the first net that a cell drives."""
    ports = cell["connections"].items()
    driven = (bit for port, bits in ports if cell["port_directions"][port] == "output" for bit in bits)
    return next((names[bit] for bit in driven if bit in names), "")


def table(units: Mapping[str, Mapping[str, int]]) -> str:
    """The largest units as Markdown, and the sum of the others."""
    rows = list(units.items())
    rest = rows[SHOWN:]
    if rest:
        rows = [*rows[:SHOWN], (f"{len(rest)} smaller ones", _sum(dict(rest)))]
    rows.append(("all", _sum(units)))
    lines = ["| unit | logic cells | flip-flops | DSP | block RAM |", "|---|---|---|---|---|"]
    return "\n".join(
        lines
        + [f"| {name} | " + " | ".join(f"{value:,}" for value in row.values()) + " |" for name, row in rows]
    )


def _sum(units: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {resource: sum(row[resource] for row in units.values()) for resource in CELLS}
