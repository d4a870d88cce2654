# SPDX-License-Identifier: Apache-2.0
"""Replicas of registers in a netlist share its loads, and are the same register."""

from typing import Any

from serrano_sim.synthesis.replicas import replicate_registers


def register(d: int, q: int) -> dict[str, Any]:
    return {
        "type": "TRELLIS_FF",
        "parameters": {"REGSET": "SET"},
        "attributes": {"src": "somewhere"},
        "port_directions": {"CLK": "input", "DI": "input", "Q": "output"},
        "connections": {"CLK": [2], "DI": [d], "Q": [q]},
    }


def lut(a: Any, b: Any, z: int) -> dict[str, Any]:
    return {
        "type": "LUT4",
        "parameters": {},
        "attributes": {},
        "port_directions": {"A": "input", "B": "input", "Z": "output"},
        "connections": {"A": [a], "B": [b], "Z": [z]},
    }


def netlist(loads: int) -> dict[str, Any]:
    """Register ``wide``, of which its own input is one load of several, and ``narrow``, which has one."""
    cells = {"wide": register(3, 4), "narrow": register(4, 5), "unit_0.next": lut(4, 5, 3)}
    cells |= {
        f"unit_{1 + index // 4}.load_{index % 4}": lut("1", 4, 10 + index) for index in range(loads - 2)
    }
    names = {"wide": [4], "narrow": [5], "next": [3], "loads": [10 + index for index in range(loads - 2)]}
    nets = {name: {"hide_name": 0, "bits": bits, "attributes": {}} for name, bits in names.items()}
    return {"ports": {"q": {"direction": "output", "bits": [4]}}, "cells": cells, "netnames": nets}


def drivers(module: dict[str, Any]) -> dict[int, str]:
    """Which register drives a net."""
    cells = module["cells"].items()
    return {cell["connections"]["Q"][0]: name for name, cell in cells if cell["type"] == "TRELLIS_FF"}


def test_loads_are_shared() -> None:
    module = netlist(10)
    assert replicate_registers(module, 4) == 2
    found = {}
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input" and (driver := drivers(module).get(bits[0])):
                found.setdefault(driver, []).append(f"{name}.{port}")
    assert {driver: sorted(loads) for driver, loads in found.items()} == {
        "narrow": ["unit_0.next.B"],
        "wide": ["narrow.DI", "unit_0.next.A", "unit_1.load_0.B", "unit_1.load_1.B"],
        "wide_replica_1": ["unit_1.load_2.B", "unit_1.load_3.B", "unit_2.load_0.B", "unit_2.load_1.B"],
        "wide_replica_2": ["unit_2.load_2.B", "unit_2.load_3.B"],
    }
    for number in (1, 2):
        replica = module["cells"][f"wide_replica_{number}"]
        (driven,) = replica["connections"]["Q"]
        assert replica == register(3, driven) and driven > 17
        assert module["netnames"][f"wide_replica_{number}"]["bits"] == [driven]
    assert module["ports"]["q"]["bits"] == [4]


def test_few_loads_stay() -> None:
    module = netlist(10)
    assert replicate_registers(module, 10) == 0
    assert module == netlist(10)
