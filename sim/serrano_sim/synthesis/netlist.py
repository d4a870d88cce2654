# SPDX-License-Identifier: Apache-2.0
"""What all passes over a flat module of Yosys' JSON have to know."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

__all__ = ["loads_of", "names_of", "origin"]

GENERATED = re.compile(
    r"_(LUT4|PFUMX|L6MUX21|CCU2C|TRELLIS_FF|TRELLIS_DPR16X4|DP16KD|PDPW16KD|MULT18X18D)_.*"
)
"""What Yosys appends to a signal's name when it names the cells that make it."""


def loads_of(cells: Mapping[str, Any]) -> defaultdict[Any, list[tuple[str, str, int]]]:
    """The inputs at each net, as cell, port and index of the bit in it, in the order of the cells' names."""
    loads: defaultdict[Any, list[tuple[str, str, int]]] = defaultdict(list)
    for name in sorted(cells):
        for port, bits in cells[name]["connections"].items():
            if cells[name]["port_directions"][port] == "input":
                for index, bit in enumerate(bits):
                    loads[bit].append((name, port, index))
    return loads


def names_of(module: Mapping[str, Any]) -> dict[int, str]:
    """A name of each net: one of the design's if there is one, and the shortest of those."""
    best: dict[int, tuple[int, int, str]] = {}
    for name, net in module["netnames"].items():
        rank = (net.get("hide_name", 0), len(name), name)
        for bit in net["bits"]:
            if isinstance(bit, int) and rank < best.get(bit, (2, 0, "")):
                best[bit] = rank
    return {bit: name for bit, (*_, name) in best.items()}


def origin(name: str) -> str:
    """The name of the signal after which Yosys named a cell or a net."""
    return GENERATED.sub("", name)
