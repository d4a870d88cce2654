# SPDX-License-Identifier: Apache-2.0
"""The Verilog of the attention unit on its array, under Verilator: equal to golden, and how fast."""

import json

import numpy as np
import pytest

from attention import step
from serrano.attention.payloads import AttendCommand
from serrano.config import preset
from serrano.kvcache.payloads import RecordBeat
from serrano.vector.payloads import HeadCodes, HeadScale, StagedBeat
from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.runner import SimulationError, run

BENCH = "serrano_sim.cocotb.bench_attention"


def hexadecimal(layout, items):
    return [f"{layout.const(item).as_bits():x}" for item in items]


def staged_beats(config, one):
    """The beats in their order: KV head, chunk, query token, query head, slice."""
    n, lanes, command = config.n, config.lanes, one.command
    pad, group, beats = command["head_pad"], command["group"], []
    for head in range(command["kv_heads"]):
        for chunk in range(0, pad, n):
            for row in range(command["rows"]):
                for member in range(group):
                    for part in range(chunk, min(chunk + n, pad), lanes):
                        column = (head * group + member) * pad + part
                        codes = [one.staged[row, column + lane] for lane in range(lanes)]
                        beats.append({"codes": codes, "half": 0, "row": row, "column": column, "last": 0})
    beats[-1]["last"] = 1
    return beats


def plan_of(config, one, stalls=(0.0, 0.0), seed=0, cycles=None):
    """A step in the form in which the bench reads it."""
    return {
        "head_pad": one.command["head_pad"],
        "codes": hexadecimal(HeadCodes(config), one.codes),
        "scales": hexadecimal(HeadScale(config), one.scales),
        "command": hexadecimal(AttendCommand(config), [one.command])[0],
        "records": [hexadecimal(RecordBeat(config), step.record_beats(config, r)) for r in one.records],
        "staged": hexadecimal(StagedBeat(config), staged_beats(config, one)),
        "stalls": stalls,
        "seed": seed,
        "cycles": cycles,
    }


def simulate(config, plan, folder):
    design = generate(step.AttentionWithEngine(config), "attention")
    bench = axi_testbench(design.name, design.ports)
    files = [*design.write(folder / "verilog"), *bench.write(folder / "verilog")]
    place = folder / "run"
    place.mkdir()
    (place / "steps.json").write_text(json.dumps(plan))
    run(
        files,
        bench.top,
        BENCH,
        name=f"attention-{config.name}",
        sources=bench.cpp_sources,
        random_reset=True,
        run_dir=place,
    )
    return json.loads((place / "measured.json").read_text())


# kv_heads, group, head_dim, committed, rows
SHAPES = {
    "tiny": [(2, 1, 8, 0, 1), (2, 4, 8, 37, 1), (1, 8, 6, 16, 1), (3, 2, 34, 53, 3), (16, 1, 2, 5, 4)],
    "ulx3s": [(2, 4, 8, 0, 3), (1, 1, 48, 37, 1), (2, 2, 4, 16, 16), (1, 8, 64, 53, 2)],
    "base": [
        (2, 1, 8, 5, 1),
        (1, 8, 8, 37, 1),
        (2, 4, 48, 16, 3),
        (1, 4, 64, 37, 3),
        (2, 8, 128, 53, 2),
        (3, 1, 18, 0, 16),
    ],
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_golden(tmp_path, name):
    """Each shape with stalls and without, and cut off by a reset somewhere before it begins anew."""
    config = preset(name)
    rng = np.random.default_rng(1)
    plan = []
    for seed, shape in enumerate(SHAPES[name]):
        one = step.make(rng, config, *shape)
        plan.append(plan_of(config, one, (0.2, 0.2), seed, cycles=len(one.codes) * 5 // 4 + 80 * seed + 40))
        plan.append(plan_of(config, one, (0.5, 0.5), seed))
        plan.append(plan_of(config, one))
    measured = simulate(config, plan, tmp_path)
    assert len(measured) == len(plan)


def test_a_wrong_output_fails(tmp_path):
    config = preset("tiny")
    plan = [plan_of(config, step.make(np.random.default_rng(2), config, 1, 1, 8, 5, 1))]
    plan[0]["staged"][1] = f"{int(plan[0]['staged'][1], 16) ^ 1:x}"
    with pytest.raises(SimulationError, match=r"result 1 is 0x[0-9a-f]+, not 0x[0-9a-f]+"):
        simulate(config, plan, tmp_path)


def test_rate(tmp_path):
    """Over many items the slower of port and array sets the pace; one beginning and one end are paid for."""
    config = preset("base")
    rng = np.random.default_rng(3)
    shapes = [(2, 1, 64, 495, 1), (4, 2, 16, 495, 1), (1, 4, 64, 496, 4), (2, 1, 128, 495, 16)]
    plan = [plan_of(config, step.make(rng, config, *shape)) for shape in shapes]
    measured = simulate(config, plan, tmp_path)
    for (kv_heads, group, head_dim, committed, rows), found in zip(shapes, measured, strict=True):
        items = kv_heads * -(-(committed + rows) // 16)
        port = 16 * (2 * head_dim + 4) // config.port_bytes
        chunks, item_rows = head_dim // 16, rows * group
        array = chunks * (max(item_rows, config.tile_units) + max(2 * item_rows, config.tile_units))
        softmax = item_rows * 16 // config.lanes
        print(items, port, array, softmax, found)
        assert found["cycles"] <= items * max(port, array, softmax) + 250
