# SPDX-License-Identifier: Apache-2.0
"""The Verilog of Engine under Verilator: random jobs with stalls and resets, and the rate of long runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig, preset
from serrano.layouts import ACCUMULATOR_BITS, accumulator_depth
from serrano.matmul import Engine, RowBeat, TileUnit
from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.runner import SimulationError, run
from support.matmul import Job

HERE = Path(__file__).parent
BENCH = "serrano_sim.cocotb.bench_matmul"


def hexadecimal(layout, items) -> list[str]:
    return [f"{layout.const(item).as_bits():x}" for item in items]


def make_pass(config: AcceleratorConfig, job: Job, stalls, seed: int, cycles: int | None = None) -> dict:
    """A job in the form in which the bench reads it."""
    mask = (1 << ACCUMULATOR_BITS) - 1
    results = [sum((v & mask) << ACCUMULATOR_BITS * j for j, v in enumerate(row)) for row in job.results]
    return {
        "tiles": hexadecimal(TileUnit(config), job.units),
        "rows": hexadecimal(RowBeat(config), job.rows),
        "results": [f"{result:x}" for result in results],
        "stalls": stalls,
        "seed": seed,
        "cycles": cycles,
    }


def simulate(config: AcceleratorConfig, plan: list[dict], folder: Path) -> list[dict]:
    design = generate(Engine(config), "engine")
    bench = axi_testbench(design.name, design.ports)
    files = [*design.write(folder / "verilog"), *bench.write(folder / "verilog")]
    place = folder / "run"
    place.mkdir()
    (place / "passes.json").write_text(json.dumps(plan))
    run(
        files,
        bench.top,
        BENCH,
        name=f"engine-{config.name}",
        sources=bench.cpp_sources,
        random_reset=True,
        run_dir=place,
    )
    return json.loads((place / "measured.json").read_text())


@pytest.mark.parametrize(("name", "tiles"), [("tiny", 60), ("base", 20)])
def test_random_jobs(tmp_path, name, tiles):
    """Each stream alone and all of them stalled; cut off by a reset in several places and begun anew."""
    config = preset(name)
    stalls = [(0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.9), (0.5, 0.5, 0.5)]
    plan = []
    for seed, chances in enumerate(stalls):
        job = Job(config, seed, tiles)
        plan.append(make_pass(config, job, (0.2, 0.2, 0.2), seed, cycles=23 + 6 * seed))
        plan.append(make_pass(config, job, chances, seed))
        assert len(job.results) > tiles / 2
    measured = simulate(config, plan, tmp_path)
    assert [found["cycles"] for found in measured[::2]] == [item["cycles"] for item in plan[::2]]
    assert [found["results"] for found in measured[1::2]] == [len(item["results"]) for item in plan[1::2]]


def test_a_wrong_result_fails(tmp_path):
    config = preset("tiny")
    plan = [make_pass(config, Job(config, 1, 20), (0, 0, 0), 1)]
    plan[0]["results"][3] = f"{int(plan[0]['results'][3], 16) ^ 1:x}"
    with pytest.raises(SimulationError, match=r"result 3 is 0x[0-9a-f]+, not 0x[0-9a-f]+"):
        simulate(config, plan, tmp_path)


def mix(x: np.ndarray) -> np.ndarray:
    """The hash in rate.sv."""
    x = np.asarray(x, dtype=np.uint64) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(16))


def checksum(n: int, tiles: int, rows: int, by_column: int) -> int:
    """The weighted sum of all results of rate.sv."""
    words = mix(np.arange(tiles * n * n // 4)).astype("<u4")
    weights = words.view(np.int8).reshape(tiles, n, n).astype(np.int64)
    if by_column:
        weights = weights.transpose(0, 2, 1)
    drawn = mix(0x80000000 + np.arange(tiles * rows * n)).astype(np.int64)
    operands = np.where(drawn >> 8 & 1, drawn & 255, (drawn & 255 ^ 128) - 128).reshape(tiles, rows, n)
    results = (operands @ weights).reshape(tiles // 4, 4, rows, n).sum(axis=1).reshape(-1)
    factors = mix(0x40000000 + np.arange(results.size))
    return (
        int((factors * (results & 0xFFFFFFFF).astype(np.uint64) & np.uint64(0xFFFFFFFF)).sum()) & 0xFFFFFFFF
    )


@pytest.mark.parametrize(("name", "loading"), [("ulx3s", 9), ("base", 8)])
def test_long_runs(tmp_path, name, loading):
    """10,000 tiles: as many cycles as a tile has rows, or as it takes to load, and not one more.

    With held weights a tile is loaded from the cycle on after the one before it came into use.
    """
    config = preset(name)
    assert config.n**2 == (loading - config.held_weights) * config.load_bytes
    runs = [
        {"tiles": 10_000, "rows": rows, "by_column": by_column} for rows in (1, 16) for by_column in (0, 1)
    ]
    design = generate(Engine(config), "engine")
    files = [*design.write(tmp_path), HERE / "rate.sv"]
    parameters = {
        "N": config.n,
        "VECTORS": config.load_vectors,
        "ADDRESS_BITS": ceil_log2(accumulator_depth(config)),
    }
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    run(
        files,
        "rate",
        HERE / "bench_rate.py",
        name=f"rate-{name}",
        flags=[f"-G{key}={value}" for key, value in parameters.items()],
        run_dir=tmp_path,
    )
    for settings, found in zip(runs, json.loads((tmp_path / "measured.json").read_text()), strict=True):
        tiles, rows = settings["tiles"], settings["rows"]
        assert found["active_cycles"] == tiles * rows
        assert found["cycles"] == (tiles - 1) * max(rows, loading) + rows
        assert found["results"] == tiles // 4 * rows
        assert found["checksum"] == checksum(config.n, tiles, rows, settings["by_column"])
