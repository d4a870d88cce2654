# SPDX-License-Identifier: Apache-2.0
"""Runs of the bench ``bench_kv_figures``, one per part."""

import json
import shutil
from pathlib import Path
from typing import Any

from .. import runner
from .figure import Scope
from .unit import write_bench

__all__ = ["MEMORY_BYTES", "measure"]

MEMORY_BYTES = 0x8000000


def measure(scope: Scope, part: str, plan: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Carries out a plan; what the bench left behind, and the run's folder.

    Raises
    ------
    SimulationError
        If the run fails: a response that is not the golden model's, a violation of the bus protocol.
    """
    scope.progress("building the simulation")
    bench = write_bench(scope.config)
    folder = scope.folder / part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    plan = {"preset": scope.config.name, "seed": scope.seed, "memory_bytes": MEMORY_BYTES, **plan}
    (folder / "plan.json").write_text(json.dumps(plan))
    scope.progress("simulating")
    runner.run(
        bench.files,
        bench.top,
        "serrano_sim.cocotb.bench_kv_figures",
        name=bench.top.removeprefix("tb_"),
        sources=bench.sources,
        testcase=part,
        run_dir=folder,
        timeout=3600.0,
    )
    return json.loads((folder / "measured.json").read_text()), folder
