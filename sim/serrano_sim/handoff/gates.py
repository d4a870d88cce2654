# SPDX-License-Identifier: Apache-2.0
"""Gate level: what Yosys makes of the emitted Verilog, on the bench of the whole accelerator.

``python -m serrano_sim.handoff.gates tiny`` synthesizes a preset to generic gates and flip-flops, memories
left as they are, and has the netlist serve requests: those of the stand-alone bench, or with ``--cocotb`` on
the bench of ``make sim``, where every result is compared with the golden model.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serrano.config import AcceleratorConfig, preset

from ..golden.synthetic import random_model, write_tape
from ..runner import build_root
from ..top.compare import check
from ..top.design import Design, top_design
from ..top.job import MemorySettings
from ..top.layout import Request
from ..top.simulate import Options, run_job
from .checks import CheckError, find_yosys, run_tool
from .folder import BENCH, TOP, write_bench

__all__ = ["main", "run_cocotb", "run_stand_alone", "synthesize"]

MEMORY = "serrano_mem_1r1w.v"
REPORT = "gates.json"
_CELL = re.compile(r"^ +(\d+) +(\$_\w+_|serrano_mem_1r1w)$", re.MULTILINE)


def synthesize(files: Sequence[Path], top: str, folder: Path) -> tuple[list[Path], dict[str, int]]:
    """Maps a design to gates, its memories excepted.

    Parameters
    ----------
    files : sequence of paths
        Verilog of the design; the memories' wrapper is left alone.
    top : :class:`str`
        Outermost module.
    folder : path
        Where the netlist goes.

    Returns
    -------
    tuple of (list of paths, dict of :class:`str` to :class:`int`)
        The files to simulate, and how many there are of each kind of cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    wrappers = [file.name for file in files if file.name == MEMORY]
    others = [file.name for file in files if file.name != MEMORY]
    command, _ = find_yosys()
    script = [
        *(f"read_verilog -lib {name}" for name in wrappers),
        f"read_verilog {' '.join(others)}",
        f"synth -top {top} -noabc",
        "check -assert",
        "tee -q -o cells.txt stat",
        "write_verilog -noattr gates.v",
    ]
    run_tool("yosys", [*command, "-q", "-p", "; ".join(script)], folder)
    # The last part of the statistics is that of the whole, submodules included.
    total = (folder / "cells.txt").read_text().rpartition("===")[2]
    cells = {name: int(count) for count, name in _CELL.findall(total)}
    return [*(folder / name for name in wrappers), folder / "gates.v"], cells


def run_stand_alone(config: AcceleratorConfig, files: Sequence[Path], folder: Path) -> dict[str, Any]:
    """The bench of the folder for synthesis under Icarus Verilog, from X in all flip-flops and memories."""
    write_bench(config, folder)
    program = folder / "gates.vvp"
    options = ["-g2005", "-Ivectors", "-s", f"tb_{TOP}", "-o", str(program)]
    run_tool("iverilog", ["iverilog", *options, *map(str, files), *BENCH], folder)
    said = run_tool("vvp", ["vvp", "-n", str(program)], folder)
    *log, last = said.splitlines()
    return {
        "bench": "stand-alone",
        "result": last,
        "passed": last.startswith("PASS"),
        "log": log,
    }


def run_cocotb(config: AcceleratorConfig, design: Design, folder: Path) -> dict[str, Any]:
    """The bench of the whole accelerator under Verilator, from random contents, with stalls."""
    model = random_model(21, dim=28, ffn=39, layers=2, heads=4, kv_heads=2, head_dim=10, vocab=61)
    tape = write_tape(model, config.n, config.tape_align)
    requests = [Request((5, 9, 2), 6), Request((1,), 2)]
    memory = MemorySettings.of(60, 0.1, 2)
    # A short run: what takes long is to compile the netlist.
    options = Options(random_reset=True, seed=1, optimize="-O0")
    result = run_job(config, tape, requests, folder, design=design, options=options, memory=memory)
    verdict = check(result, model)
    passed = verdict.bit_exact and not verdict.errors
    text = f"{'PASS' if passed else 'FAIL'}: {verdict.elements_compared} elements in {result.cycles} cycles"
    return {"bench": "cocotb", "result": text, "passed": passed, "log": list(verdict.errors)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Synthesizes a preset and runs a bench on the netlist; 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.handoff.gates",
        description="Run a synthesized netlist on the top's bench.",
    )
    parser.add_argument("preset", nargs="?", default="tiny", help="hardware configuration (default: tiny)")
    parser.add_argument(
        "--cocotb", action="store_true", help="the bench under Verilator, which takes long to build"
    )
    options = parser.parse_args(arguments)
    try:
        config = preset(options.preset)
    except ValueError as error:
        print(f"gates: {error}", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    design, folder = top_design(config), build_root() / "gates" / config.name
    try:
        files, cells = synthesize(design.files, TOP, folder)
        flip_flops = sum(count for name, count in cells.items() if "DFF" in name)
        memories = cells.get("serrano_mem_1r1w", 0)
        gates = sum(cells.values()) - flip_flops - memories
        print(f"{gates} gates, {flip_flops} flip-flops, {memories} memories; now the bench", flush=True)
        if options.cocotb:
            with tempfile.TemporaryDirectory() as work:
                outcome = run_cocotb(config, Design(tuple(files), design.ports), Path(work) / "run")
        else:
            outcome = run_stand_alone(config, files, folder)
    except CheckError as error:
        print(f"gates: {error}", file=sys.stderr)
        return 1
    counts = {"gates": gates, "flip_flops": flip_flops, "memories": memories, "cells": cells}
    report = {"preset": config.name, **counts, **outcome, "seconds": round(time.perf_counter() - begin, 1)}
    file = build_root() / "reports" / REPORT
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(*outcome["log"], outcome["result"], sep="\n")
    return 0 if outcome["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
