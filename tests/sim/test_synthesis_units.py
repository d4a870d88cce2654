# SPDX-License-Identifier: Apache-2.0
"""What each unit takes of a flat netlist."""

from serrano_sim.synthesis.units import per_unit, table


def cell(kind: str, output: int) -> dict:
    return {
        "type": kind,
        "connections": {"A": [9], "Z": [output]},
        "port_directions": {"A": "input", "Z": "output"},
    }


MODULE = {
    "netnames": {
        "top.a.sum": {"bits": [2, "0"], "hide_name": 0},
        "$auto$1": {"bits": [2], "hide_name": 1},
        "top.b.part.longer": {"bits": [3], "hide_name": 0},
        "top.b.own": {"bits": [3], "hide_name": 0},
        "ready": {"bits": [4]},
    },
    "cells": {
        "top.a.inner.x_LUT4_Z_1": cell("LUT4", 8),
        "top.a.inner.deep.y_TRELLIS_FF_Q": cell("TRELLIS_FF", 8),
        "top.a.z_MULT18X18D_P0": cell("MULT18X18D", 8),
        "$1": cell("CCU2C", 2),
        "$2": cell("DP16KD", 3),
        "$3": cell("LUT4", 4),
        "$4": cell("LUT4", 7),
        "top.a.z_PFUMX_Z": cell("PFUMX", 8),
    },
}


def row(comb: int = 0, ff: int = 0, dsp: int = 0, ebr: int = 0) -> dict[str, int]:
    return {"comb": comb, "ff": ff, "dsp": dsp, "ebr": ebr}


def test_cells_count_for_the_unit_whose_name_they_keep() -> None:
    assert list(per_unit(MODULE, 3).items()) == [
        ("(top)", row(comb=2)),
        ("top.a", row(comb=2, dsp=1)),
        ("top.a.inner", row(comb=1, ff=1)),
        ("top.b", row(ebr=1)),
    ]


def test_deeper_units_count_for_the_one_that_is_told() -> None:
    assert per_unit(MODULE, 2)["top.a"] == row(comb=3, ff=1, dsp=1)


def test_table_sums_the_smaller_ones() -> None:
    units = {f"u{index}": row(comb=2000 - index) for index in range(22)}
    lines = table(units).splitlines()
    assert lines[2] == "| u0 | 2,000 | 0 | 0 | 0 |"
    assert lines[22:] == ["| 2 smaller ones | 3,959 | 0 | 0 | 0 |", "| all | 43,769 | 0 | 0 | 0 |"]
    assert len(table(dict(list(units.items())[:3])).splitlines()) == 6
