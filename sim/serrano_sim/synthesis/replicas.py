# SPDX-License-Identifier: Apache-2.0
"""Flip-flops of an ECP5 netlist that have many loads, as several flip-flops.

A placer pulls a register to the middle of all that it drives, and the connection to the farthest of them
crosses half the device, which takes longer than a cycle. Replicas lie beside what each of them drives.
"""

import copy
from collections.abc import MutableMapping
from typing import Any

from .netlist import loads_of

__all__ = ["MOST_LOADS", "replicate_registers"]

MOST_LOADS = 200
"""Loads of one replica."""


def replicate_registers(module: MutableMapping[str, Any], most: int = MOST_LOADS) -> int:
    """Gives flip-flops with more than ``most`` loads replicas; returns how many there are then.

    Loads are taken in the order of their names, which begin with the path in the hierarchy, so those of a
    unit stay together. The flip-flop keeps the first of them, and ports of the module.

    Parameters
    ----------
    module : mapping
        A flat module of Yosys' JSON, which is changed.
    most : :class:`int`
        Loads of a flip-flop that stays alone, and of a replica.
    """
    cells, nets = module["cells"], module["netnames"]
    loads = loads_of(cells)
    unused = 1 + max((bit for net in nets.values() for bit in net["bits"] if isinstance(bit, int)), default=0)
    added = 0
    for name in [name for name, cell in cells.items() if cell["type"] == "TRELLIS_FF"]:
        (driven,) = cells[name]["connections"]["Q"]
        groups = [loads[driven][at : at + most] for at in range(most, len(loads[driven]), most)]
        for number, group in enumerate(groups, 1):
            replica = f"{name}_replica_{number}"
            cells[replica] = copy.deepcopy(cells[name])
            cells[replica]["connections"]["Q"] = [unused]
            nets[replica] = {"hide_name": 1, "bits": [unused], "attributes": {}}
            for cell, port, index in group:
                cells[cell]["connections"][port][index] = unused
            unused, added = unused + 1, added + 1
    return added
