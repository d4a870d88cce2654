# SPDX-License-Identifier: Apache-2.0
"""What all passes over a flat module of Yosys' JSON have to know."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

__all__ = ["loads_of"]


def loads_of(cells: Mapping[str, Any]) -> defaultdict[Any, list[tuple[str, str, int]]]:
    """The inputs at each net, as cell, port and index of the bit in it, in the order of the cells' names."""
    loads: defaultdict[Any, list[tuple[str, str, int]]] = defaultdict(list)
    for name in sorted(cells):
        for port, bits in cells[name]["connections"].items():
            if cells[name]["port_directions"][port] == "input":
                for index, bit in enumerate(bits):
                    loads[bit].append((name, port, index))
    return loads
