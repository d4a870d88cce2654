# SPDX-License-Identifier: Apache-2.0
"""A synthesized netlist behaves like the design: memory bank and multipliers, on the bench of the design."""

import json
import shutil
from pathlib import Path

import pytest

from serrano.config import preset
from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.handoff import gates
from serrano_sim.handoff.gates import main, synthesize
from serrano_sim.runner import run
from serrano_sim.top.design import top_design
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


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """With the design itself in the place of a netlist; and with a bench that fails."""
    design = top_design(preset("tiny"))
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path))
    cells = {"$_AND_": 3, "$_NOT_": 1, "$_DFF_P_": 2, "$_SDFF_PP0_": 5, "serrano_mem_1r1w": 4}
    monkeypatch.setattr(gates, "top_design", lambda config: design)
    monkeypatch.setattr(gates, "synthesize", lambda files, top, folder: (list(files), cells))
    status = main(["tiny"])
    said = capsys.readouterr()
    if shutil.which("iverilog") is None:
        assert status == 1 and said.err == "gates: iverilog is not installed\n"
        return
    assert status == 0 and said.out.startswith("4 gates, 7 flip-flops, 4 memories; now the bench\n")
    report = json.loads((tmp_path / "reports" / "gates.json").read_text())
    assert report["passed"] and report["cells"] == cells
    assert said.out.splitlines()[-1] == report["result"] == "PASS: 6 records of 3 requests in 6045 cycles"
    failed = {"bench": "stand-alone", "result": "FAIL: 1 failures in 9 cycles", "passed": False, "log": []}
    monkeypatch.setattr(gates, "run_stand_alone", lambda *arguments: failed)
    assert main(["tiny"]) == 1


def test_unknown_preset(capsys: pytest.CaptureFixture) -> None:
    assert main(["huge"]) == 2
    assert "preset must be one of" in capsys.readouterr().err
