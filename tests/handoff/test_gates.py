# SPDX-License-Identifier: Apache-2.0
"""A synthesized netlist behaves like the design: memory bank and multipliers, on the bench of the design."""

from pathlib import Path

import pytest

from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.handoff.gates import main, synthesize
from serrano_sim.runner import run
from support.primitives import Bank

BENCH = Path(__file__).parents[1] / "primitives" / "bench_primitives.py"


def test_netlist_on_the_bench_of_the_design(tmp_path: Path) -> None:
    design = generate(Bank(), "bank")
    files, cells = synthesize(design.write(tmp_path / "design"), "bank", tmp_path / "gates")
    assert [file.name for file in files] == ["serrano_mem_1r1w.v", "gates.v"]
    assert cells["$_AND_"] > 0 and any("DFF" in name for name in cells)
    assert cells["serrano_mem_1r1w"] == design.text.count("serrano_mem_1r1w #(")
    text = files[1].read_text()
    assert "serrano_mul" in text and " * " not in text
    bench = axi_testbench(design.name, design.ports)
    listed = [*files, *bench.write(tmp_path)]
    results = run(listed, bench.top, BENCH, name="gates", sources=bench.cpp_sources, random_reset=True)
    assert len(results.tests) == 2


def test_unknown_preset(capsys: pytest.CaptureFixture) -> None:
    assert main(["huge"]) == 2
    assert "preset must be one of" in capsys.readouterr().err
