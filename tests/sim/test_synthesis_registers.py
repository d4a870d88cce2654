# SPDX-License-Identifier: Apache-2.0
"""Registers behind block RAMs: which of them move in, and which have to stay."""

import copy

import pytest

from serrano_sim.synthesis.registers import use_output_registers

CLOCK, READS, ENABLE, OTHER = 1, 2, 3, 4


def register(d: int, q: int, enable: int | str = "1", **changes) -> dict:
    parameters = {
        "CEMUX": "1 " if enable == "1" else "CE",
        "CLKMUX": "CLK",
        "LSRMUX": "LSR",
        "REGSET": "RESET",
    }
    pins = {"DI": [d], "CLK": [CLOCK], "LSR": ["0"], "Q": [q]} | ({} if enable == "1" else {"CE": [enable]})
    directions = dict.fromkeys(pins, "input") | {"Q": "output"}
    return {
        "type": "TRELLIS_FF",
        "parameters": parameters | {k: v for k, v in changes.items() if k in parameters},
        "connections": pins | {k: v for k, v in changes.items() if k in pins},
        "port_directions": directions,
    }


def design(reads: int | str = "1", enable: int | str = "1", width: int = 4, **changes) -> dict:
    """A memory with two bits read at port B, and a register behind each."""
    pins = {
        "CLKA": [CLOCK],
        "CLKB": [CLOCK],
        "CEB": [reads],
        "OCEB": ["1"],
        "DOB0": [10],
        "DOB1": [11],
        "DOB2": [12],
    }
    memory = {
        "type": "DP16KD",
        "parameters": {f"DATA_WIDTH_{port}": f"{width:032b}" for port in "AB"} | {"REGMODE_B": "NOREG"},
        "connections": pins,
        "port_directions": {pin: "output" if pin.startswith("DO") else "input" for pin in pins},
    }
    return {
        "cells": {
            "memory": memory,
            "low": register(10, 20, enable),
            "high": register(11, 21, enable, **changes),
        },
        "ports": {"q": {"bits": [20, 21]}},
    }


@pytest.mark.parametrize(("reads", "enable"), [("1", "1"), ("1", ENABLE), (ENABLE, ENABLE)])
def test_registers_move(reads, enable) -> None:
    module = design(reads, enable)
    assert use_output_registers(module) == 2
    assert list(module["cells"]) == ["memory"]
    memory = module["cells"]["memory"]
    assert memory["parameters"]["REGMODE_B"] == "OUTREG"
    assert memory["connections"]["OCEB"] == [enable]
    assert [memory["connections"][f"DOB{bit}"] for bit in range(3)] == [[20], [21], [12]]
    # There is one register at each output.
    assert use_output_registers(module) == 0


@pytest.mark.parametrize(
    "module",
    [
        # A port that stands still while its register goes on, or with another enable.
        design(READS, "1"),
        design(READS, ENABLE),
        design("1", ENABLE, CE=[OTHER]),
        # Another clock, a falling edge, a reset, a one at power-up.
        design(CLK=[OTHER]),
        design(CLKMUX="INV"),
        design(LSR=[OTHER]),
        design(REGSET="SET"),
        # A bit that is not only registered.
        design(DI=[12]) | {"ports": {"q": {"bits": [20, 11]}}},
        design(width=36),
    ],
)
def test_registers_stay(module: dict) -> None:
    before = copy.deepcopy(module)
    assert use_output_registers(module) == 0
    assert module == before


def test_a_bit_with_two_ends_stays() -> None:
    module = design()
    module["cells"]["more"] = register(10, 22)
    assert use_output_registers(module) == 0
