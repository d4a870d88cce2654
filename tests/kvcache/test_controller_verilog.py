# SPDX-License-Identifier: Apache-2.0
"""The controller's Verilog under Verilator: bench_kvcache."""

import json

import pytest

from serrano.kvcache import Controller
from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.golden.block_manager import Opcode
from serrano_sim.kv_commands import SMALL
from serrano_sim.runner import run


@pytest.fixture(scope="module")
def verilog(tmp_path_factory):
    """Files of the controller and its bench, and the bench's name."""
    folder = tmp_path_factory.mktemp("kv_controller")
    design = generate(Controller(SMALL), "kv_controller")
    bench = axi_testbench("kv_controller", design.ports)
    return [*design.write(folder), *bench.write(folder)], bench


@pytest.mark.parametrize(("blocks", "seed"), [(12, 1), (4, 2)])
def test_random_commands(verilog, tmp_path, blocks: int, seed: int) -> None:
    files, bench = verilog
    run(
        files,
        bench.top,
        "serrano_sim.cocotb.bench_kvcache",
        name="kv_controller",
        sources=bench.cpp_sources,
        env={"COMMANDS": "3000", "BLOCKS": str(blocks)},
        random_reset=True,
        seed=seed,
        run_dir=tmp_path,
    )
    seen = json.loads((tmp_path / "coverage.json").read_text())
    assert sum(seen.values()) == 3000
    for opcode in Opcode:
        assert seen[f"{opcode.name} OK"] > 10
    refused = {name.split()[1] for name in seen} - {"OK"}
    assert refused >= {
        "BAD_CMD", "BAD_SEQ", "TENANT", "SEQ_BUSY", "ZERO_LEN", "TABLE_FULL", "NO_SPACE", "NOT_RESERVED",
        "OUT_OF_RANGE",
    } | ({"NEVER_FITS"} if blocks == 4 else set())  # fmt: skip
