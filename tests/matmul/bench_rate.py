# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of rate.sv: starts each run of ``runs.json``, and writes down its counters when it is done."""

import json
from pathlib import Path

import cocotb
from cocotb.triggers import RisingEdge, with_timeout

from serrano_sim.cocotb.axilite import reset


@cocotb.test()
async def long_runs(dut):
    measured = []
    for settings in json.loads(Path("runs.json").read_text()):
        for name, value in settings.items():
            getattr(dut, name).value = value
        await reset(dut)
        await with_timeout(RisingEdge(dut.done), 4 * settings["tiles"] * (settings["rows"] + 16), "ns")
        names = ("cycles", "active_cycles", "results", "checksum")
        measured.append({name: int(getattr(dut, name).value) for name in names})
    Path("measured.json").write_text(json.dumps(measured))
