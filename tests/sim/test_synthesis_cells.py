# SPDX-License-Identifier: Apache-2.0
"""Netlists of ECP5 cells as Verilog, and what the cells do."""

from pathlib import Path

import pytest

from serrano_sim.runner import run
from serrano_sim.synthesis.netlist_verilog import CELLS_FILE, netlist_verilog

BENCH = Path(__file__).with_name("bench_cells.py")
ADDS, CARRIES = 0x660A, {"INJECT1_0": "NO", "INJECT1_1": "NO"}
"""With a fourth input of 1 the sum of the first two; with 0, for the carry, the first one."""


class Netlist:
    """A module of Yosys' JSON that is put together cell by cell."""

    def __init__(self) -> None:
        self.ports: dict = {}
        self.cells: dict = {}
        self.nets = 1

    def fresh(self, width: int) -> list[int]:
        self.nets += width
        return list(range(self.nets - width + 1, self.nets + 1))

    def port(self, name: str, width: int = 1, direction: str = "input") -> list[int]:
        self.ports[name] = {"direction": direction, "bits": self.fresh(width)}
        return self.ports[name]["bits"]

    def output(self, name: str, width: int = 1) -> list[int]:
        return self.port(name, width, "output")

    def cell(self, kind: str, parameters: dict, **pins) -> None:
        self.cells[f"cell{len(self.cells)}"] = {"type": kind, "parameters": parameters, "connections": pins}

    def module(self) -> dict:
        return {"ports": self.ports, "cells": self.cells}


def numbered(name: str, bits: list) -> dict:
    return {f"{name}{index}": [bit] for index, bit in enumerate(bits)}


def initial() -> dict[str, str]:
    """Parts of INITVAL: word i of 18 bits is 5 * i."""
    parts = {}
    for part in range(64):
        words = [format(5 * (16 * part + index) % (1 << 18), "020b") for index in reversed(range(16))]
        parts[f"INITVAL_{part:02X}"] = "".join(words)
    return parts


def memory(
    netlist: Netlist, clock: list, width: int, mode: str, *, register: bool = False, fixed: bool = False
) -> None:
    """A block RAM written at port A, if it is not fixed, and read at port B; of 36 bits both have the pins of
    both."""
    name, shift = "fixed" if fixed else f"m{width}", {36: 5, 18: 4, 9: 3, 4: 2}[width]
    pads = ["0"] * shift if width < 18 else None
    enables = netlist.port(f"{name}_be", max(1, width // 9))
    low = pads or [*enables, *["0"] * (shift - len(enables))]
    data, out = netlist.port(f"{name}_d", width), netlist.output(f"{name}_q", width)
    pins = {
        **numbered("ADA", [*low, *netlist.port(f"{name}_wa", 14 - shift)]),
        **numbered("ADB", [*["0"] * shift, *netlist.port(f"{name}_ra", 14 - shift)]),
        **numbered("DIA", data[:18]),
        **(numbered("DIB", data[18:]) if width == 36 else {}),
        **(numbered("DOA", out[:18]) | numbered("DOB", out[18:]) if width == 36 else numbered("DOB", out)),
        **{f"CS{port}{bit}": ["0"] for port in "AB" for bit in range(3)},
        **dict.fromkeys(("CLKA", "CLKB"), clock),
        **{pin: ["0"] for pin in ("RSTA", "RSTB", "WEB", "OCEA")},
        **{pin: ["1"] for pin in ("CEA", "OCEB")},
        "WEA": netlist.port(f"{name}_we"),
        "CEB": netlist.port(f"{name}_re"),
    }
    if fixed:
        pins["CLKA"] = pins["CEA"] = ["0"]
    parameters = {f"DATA_WIDTH_{port}": format(width, "032b") for port in "AB"}
    parameters |= {f"WRITEMODE_{port}": mode for port in "AB"}
    parameters |= {"REGMODE_B": "OUTREG" if register else "NOREG", **initial()}
    netlist.cell("DP16KD", parameters, **pins)


def everything() -> Netlist:
    netlist = Netlist()
    clock = netlist.port("clk")
    table = netlist.port("table_i", 4)
    netlist.cell(
        "LUT4",
        {"INIT": format(0xB3C5, "016b")},
        **{name: [bit] for name, bit in zip("ABCD", table, strict=True)},
        Z=netlist.output("table_o"),
    )
    x, y, total = netlist.port("sum_x", 4), netlist.port("sum_y", 4), netlist.output("sum_o", 4)
    carry = netlist.port("sum_c")
    for at in (0, 2):
        out = netlist.fresh(1) if at == 0 else netlist.output("sum_carry")
        netlist.cell(
            "CCU2C", CARRIES | {f"INIT{bit}": format(ADDS, "016b") for bit in (0, 1)},
            CIN=carry, COUT=out, S0=[total[at]], S1=[total[at + 1]],
            **{f"{pin}{bit}": [source[at + bit]] for bit in (0, 1) for pin, source in (("A", x), ("B", y))},
            **{f"{pin}{bit}": [value] for bit in (0, 1) for pin, value in (("C", "0"), ("D", "1"))},
        )  # fmt: skip
        carry = out
    d, ce, lsr = (netlist.port(f"ff_{name}") for name in ("d", "ce", "lsr"))
    q = netlist.output("ff_q", 4)
    for bit, (enable, together, value) in enumerate(
        [("1 ", True, "SET"), ("CE", True, "RESET"), ("INV", True, "RESET"), ("CE", False, "SET")]
    ):
        mode = "LSR_OVER_CE" if together else "ASYNC"
        netlist.cell(
            "TRELLIS_FF", {"CEMUX": enable, "SRMODE": mode, "REGSET": value, "GSR": "DISABLED"},
            CLK=clock, DI=d, LSR=lsr, Q=[q[bit]], **({} if enable == "1 " else {"CE": ce}),
        )  # fmt: skip
    netlist.cell(
        "TRELLIS_DPR16X4", {"INITVAL": format(0xFEDCBA9876543210, "064b"), "WCKMUX": "WCK", "WREMUX": "WRE"},
        DI=netlist.port("dpr_d", 4), WAD=netlist.port("dpr_wa", 4), RAD=netlist.port("dpr_ra", 4),
        WRE=netlist.port("dpr_we"), WCK=clock, DO=netlist.output("dpr_q", 4),
    )  # fmt: skip
    a, b = netlist.port("mul_a", 18), netlist.port("mul_b", 18)
    for name, pipeline in (("mul_slow", "CLK0"), ("mul_fast", "NONE")):
        clocks = {f"REG_{stage}_CLK": "CLK0" for stage in ("INPUTA", "INPUTB", "OUTPUT")}
        netlist.cell(
            "MULT18X18D",
            {**clocks, "REG_PIPELINE_CLK": pipeline, "REG_INPUTB_CE": "CE1"},
            **numbered("A", a), **numbered("B", b), **numbered("P", netlist.output(name, 36)),
            **numbered("CLK", [*clock, "0", "0", "0"]), **numbered("RST", ["0"] * 4),
            CE0=["1"], CE1=netlist.port(f"{name}_b_en"), SIGNEDA=["1"], SIGNEDB=["1"],
            SOURCEA=["0"], SOURCEB=["0"],
        )  # fmt: skip
    for width, mode, register in (
        (36, "NORMAL", False),
        (18, "READBEFOREWRITE", False),
        (9, "NORMAL", True),
        (4, "READBEFOREWRITE", True),
    ):
        memory(netlist, clock, width, mode, register=register)
    memory(netlist, clock, 36, "NORMAL", fixed=True)
    netlist.cell("$scopeinfo", {})
    return netlist


def test_cells_do_what_they_should(tmp_path) -> None:
    file = tmp_path / "cells.v"
    file.write_text(netlist_verilog(everything().module(), "cells"))
    results = run(
        [file, CELLS_FILE], "cells", BENCH, name="cells", flags=["-Wno-fatal"], run_dir=tmp_path / "run"
    )
    assert len(results.tests) == 4


def test_unknown_cells() -> None:
    netlist = everything()
    netlist.cell("PFUMX", {}, Z=netlist.output("z"))
    with pytest.raises(ValueError, match=r"^Cells must be among .*LUT4.*, not PFUMX$"):
        netlist_verilog(netlist.module(), "cells")


def test_memories_have_one_clock() -> None:
    netlist = everything()
    (block, *_) = (cell for cell in netlist.cells.values() if cell["type"] == "DP16KD")
    block["connections"]["CLKB"] = netlist.port("other")
    with pytest.raises(ValueError, match=r"^A memory must have one clock$"):
        netlist_verilog(netlist.module(), "cells")


def test_wires_are_declared_once() -> None:
    text = netlist_verilog(everything().module(), "cells")
    declared = [line for line in text.splitlines() if line.startswith("wire ")]
    assert len(declared) == len(set(declared)) > 300
