# SPDX-License-Identifier: Apache-2.0
"""Slow paths: each kind of cell, crowded nets, loops, distances after placement."""

import json

import pytest

from serrano_sim.synthesis.placement import Placement, sites
from serrano_sim.synthesis.timing import SETUP, Timing, main


def cell(kind: str, inputs: dict, outputs: dict, **parameters) -> dict:
    return {
        "type": kind,
        "parameters": parameters,
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
        "connections": {
            port: bits if isinstance(bits, list) else [bits] for port, bits in (inputs | outputs).items()
        },
    }


def module(**cells: dict) -> dict:
    nets = {bit for one in cells.values() for bits in one["connections"].values() for bit in bits}
    return {
        "cells": cells,
        "netnames": {f"net{bit}": {"bits": [bit]} for bit in sorted(bit for bit in nets if bit != "0")},
    }


def register(d: int, q: int) -> dict:
    return cell("TRELLIS_FF", {"DI": d, "CLK": 1, "CE": "0"}, {"Q": q})


def slowest(described: dict, hop: float = 1.0):
    return next(iter(Timing(described, hop).paths()))


def test_register_to_register() -> None:
    lut = cell("LUT4", {"A": 3, "B": 4, "C": "0", "D": "0"}, {"Z": 5})
    found = slowest(module(a=register(2, 3), b=register(2, 4), lut=lut, end=register(5, 6)))
    assert found.time == pytest.approx(0.52 + 1.0 + 0.24 + 1.0 + SETUP)
    assert (found.nets[-1], found.end, found.port) == ("net5", "end", "DI")


def test_carry_chain_has_no_connections_inside() -> None:
    low = cell("CCU2C", {"A0": 3, "B0": "0", "CIN": "0"}, {"COUT": 10})
    high = cell("CCU2C", {"A0": 4, "CIN": 10}, {"S0": 11, "COUT": 12})
    found = slowest(module(a=register(2, 3), low=low, high=high, end=register(11, 6)))
    assert found.time == pytest.approx(0.52 + 1.0 + 0.45 + 0.44 + 1.0 + SETUP)
    assert found.nets == ("net3", "net10", "net11")


@pytest.mark.parametrize(("registers", "expected"), [("NONE", 0.52 + 1 + 3.93), ("CLK0", 0.74)])
def test_multiplier_with_and_without_registers(registers: str, expected: float) -> None:
    block = cell("MULT18X18D", {"A0": 3, "B0": 3}, {"P0": 7}, REG_OUTPUT_CLK=registers)
    found = slowest(module(a=register(2, 3), block=block, end=register(7, 8)))
    assert found.time == pytest.approx(expected + 1.0 + SETUP)


@pytest.mark.parametrize(("mode", "expected"), [("NOREG", 5.73), ("OUTREG", 0.8)])
@pytest.mark.parametrize("port", ["A", "B"])
def test_block_ram(mode: str, expected: float, port: str) -> None:
    memory = cell("DP16KD", {"ADA0": 3, "CLKA": 1}, {f"DO{port}0": 7}, **{f"REGMODE_{port}": mode})
    paths = list(Timing(module(a=register(2, 3), memory=memory, end=register(7, 8)), 1.0).paths())
    ends = {path.end: path.time for path in paths}
    assert ends["end"] == pytest.approx(expected + 1.0 + SETUP)
    assert ends["memory"] == pytest.approx(0.52 + 1.0 + SETUP)


def test_lut_memory_and_wide_multiplexers() -> None:
    memory = cell("TRELLIS_DPR16X4", {"RAD": [3], "WAD": [3], "DI": ["0"], "WRE": 3}, {"DO": [4]})
    mux = cell("PFUMX", {"ALUT": 4, "BLUT": "0", "C0": "0"}, {"Z": 5})
    wide = cell("L6MUX21", {"D0": 5, "D1": "0", "SD": "0"}, {"Z": 6})
    found = slowest(module(a=register(2, 3), memory=memory, mux=mux, wide=wide, end=register(6, 7)))
    assert found.time == pytest.approx(0.52 + 1.0 + 0.24 + 0.0 + 0.2 + 1.0 + SETUP)


def test_many_ends_take_longer() -> None:
    ends = {f"end{index}": register(3, 100 + index) for index in range(13)}
    assert slowest(module(a=register(2, 3), **ends)).time == pytest.approx(0.52 + 1.0 + 0.3 + SETUP)


def test_a_loop_is_cut() -> None:
    one = cell("LUT4", {"A": 5, "B": 3}, {"Z": 4})
    other = cell("LUT4", {"A": 4}, {"Z": 5})
    assert slowest(module(a=register(2, 3), one=one, other=other, end=register(5, 6))).time > 2


def placed(**places: tuple[int, int]) -> dict:
    return {name: f"X{x}/Y{y}/SLICEA.LUT0" for name, (x, y) in places.items()}


@pytest.mark.parametrize(
    ("to", "tiles"), [((0, 0), 8), ((5, 0), 8 + 10), ((0, 7), 8 + 12), ((60, 40), 8 + 65 + 45)]
)
def test_a_distance_takes_its_time(to: tuple[int, int], tiles: int) -> None:
    described = module(a=register(2, 3), end=register(3, 6))
    placement = Placement(described, placed(a=(0, 0), end=to))
    times = {path.end: path.time for path in Timing(described, placement=placement).paths()}
    assert times["end"] == pytest.approx(0.52 + 0.08 * tiles + SETUP)


def test_multiplexers_and_carry_logic_lie_where_the_packer_puts_them() -> None:
    described = module(
        carry=cell("CCU2C", {"A0": 3}, {"S0": 4}),
        lut=cell("LUT4", {"A": 4}, {"Z": 5}),
        mux=cell("PFUMX", {"ALUT": 5}, {"Z": 6}),
        wide=cell("L6MUX21", {"D0": 6}, {"Z": 7}),
        pin=cell("TRELLIS_IO", {"I": 7}, {}),
    )
    placement = Placement(described, placed(**{"carry$first": (4, 5), "lut": (7, 8)}))
    assert placement.place("carry") == (4, 5)
    assert placement.place("wide") == placement.place("mux") == (7, 8)
    assert placement.place("pin") is None
    assert placement.connection(7, "pin") == 1.0


def test_sites_of_what_nextpnr_writes() -> None:
    cells = {"a": {"attributes": {"NEXTPNR_BEL": "X1/Y2/SLICEA.FF0"}}, "b": {"attributes": {}}}
    assert sites({"cells": cells}) == {"a": "X1/Y2/SLICEA.FF0"}


def test_a_placement_of_another_netlist_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell of the netlist has a place"):
        Placement(module(a=register(2, 3)), placed(other=(1, 1)))


def test_command_line(tmp_path, capsys) -> None:
    netlist = tmp_path / "netlist.json"
    netlist.write_text(json.dumps({"modules": {"top": module(a=register(2, 3), end=register(3, 6))}}))
    assert main([str(netlist), "--hop", "1.0"]) == 0
    assert "1.7 ns  net3 -> end.DI  (1 nets, 1 ends)" in capsys.readouterr().out
    places = tmp_path / "seed1.sites.json"
    places.write_text(json.dumps(placed(a=(1, 1), end=(1, 1))))
    assert main([str(netlist), "--sites", str(places), "--nets"]) == 0
    assert "1.3 ns  net3 -> end.DI" in capsys.readouterr().out
    places.write_text(json.dumps(placed(other=(1, 1))))
    assert main([str(netlist), "--sites", str(places)]) == 2
    assert "no sites of this netlist" in capsys.readouterr().err
    assert main([str(netlist), "--top", "other"]) == 2
    assert "no netlist with a module 'other'" in capsys.readouterr().err
