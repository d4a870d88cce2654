# SPDX-License-Identifier: Apache-2.0
"""Where nextpnr has put the cells of an ECP5 netlist, and what that makes a connection take."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Placement", "sites"]

TILE, NEAR, START = 0.08, 5, 8
"""A tile further away takes so many nanoseconds; twice as many for the first ``NEAR`` tiles of each
direction; and as many as ``START`` tiles take for leaving and entering. These are what nextpnr 0.11 expects
of speed grade 6 before it routes, but for ``START``, which it takes for 3: with 8 the slow paths of a routed
board top are met on average."""

ELSEWHERE = 1.0
"""Of a connection with an end that has no place, as that of a pin, in nanoseconds."""

INSIDE = {"PFUMX": "ALUT", "L6MUX21": "D0"}
"""Multiplexers have no place of their own: they lie with what drives these ports."""


def sites(written: Mapping[str, Any]) -> dict[str, str]:
    """The site of each cell by its name, as ``X12/Y34/SLICEA.LUT0``.

    Parameters
    ----------
    written : mapping
        A module as ``nextpnr-ecp5 --write`` gives it.
    """
    found = {name: cell["attributes"].get("NEXTPNR_BEL") for name, cell in written["cells"].items()}
    return {name: site for name, site in found.items() if site}


class Placement:
    """Places of the cells of a netlist.

    Parameters
    ----------
    module : mapping
        A flat module of Yosys' JSON.
    placed : mapping
        Their :func:`sites`.

    Raises
    ------
    ValueError
        If no cell of the netlist has a site.
    """

    def __init__(self, module: Mapping[str, Any], placed: Mapping[str, str]):
        self._places: dict[str, tuple[int, int] | None] = {}
        for name, site in placed.items():
            if place := re.match(r"X(\d+)/Y(\d+)/", site):
                at = int(place[1]), int(place[2])
                # The packer cuts carry logic into halves, which carry the cell's name and one more.
                self._places[name] = self._places.setdefault(name.rsplit("$", 1)[0], at) and at
        self._cells = module["cells"]
        if self._places.keys().isdisjoint(self._cells):
            raise ValueError("no cell of the netlist has a place")
        self._drivers = {
            bit: name
            for name, cell in self._cells.items()
            for port, bits in cell["connections"].items()
            if cell["port_directions"][port] == "output"
            for bit in bits
        }

    def place(self, cell: str) -> tuple[int, int] | None:
        """Column and row of a cell, in tiles; ``None`` if it has none."""
        if cell not in self._places:
            port = INSIDE.get(self._cells[cell]["type"])
            bit = self._cells[cell]["connections"][port][0] if port else None
            self._places[cell] = self.place(self._drivers[bit]) if bit in self._drivers else None
        return self._places[cell]

    def connection(self, net: int, cell: str) -> float:
        """What a connection from this net's driver to this cell takes, in nanoseconds."""
        begin = self.place(self._drivers[net]) if net in self._drivers else None
        end = self.place(cell)
        if begin is None or end is None:
            return ELSEWHERE
        tiles = START
        for one, other in zip(begin, end, strict=True):
            tiles += abs(one - other) + min(abs(one - other), NEAR)
        return TILE * tiles
