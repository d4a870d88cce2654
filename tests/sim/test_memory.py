# SPDX-License-Identifier: Apache-2.0
"""The behavioural memory and the trace sink, on the bus and by the backdoor."""

from pathlib import Path

import numpy as np
import pytest

from serrano.verilog import generate
from serrano_sim.cocotb.testbench import axi_testbench
from serrano_sim.memory.handle import AxiMemory, Trace, violations_in
from serrano_sim.runner import SimulationError, run
from support.copier import Copiers

BENCH = Path(__file__).with_name("bench_memory.py")
WIDTHS = (2, 4, 16, 64)


def simulate(folder, **options):
    design = generate(Copiers(WIDTHS), "copiers")
    bench = axi_testbench(
        design.name,
        design.ports,
        memories={f"c{width}": f"mem{width}" for width in WIDTHS},
        traces={"beats": ("c4_beat_valid", "c4_beat_data")},
    )
    files = [*design.write(folder / "verilog"), *bench.write(folder / "verilog")]
    return run(
        files, bench.top, BENCH, name="copiers", sources=bench.cpp_sources, run_dir=folder / "run", **options
    )


def test_memory_model(tmp_path):
    results = simulate(tmp_path)
    assert len(results.tests) == 12
    # What the run left is there for the process that started it.
    memory = AxiMemory("mem4", folder=tmp_path / "run")
    assert memory.size == 1 << 20
    assert memory.statistics()["cycles"] > 48_000
    assert violations_in(tmp_path / "run") == []
    trace = Trace.read("beats", folder=tmp_path / "run")
    assert len(trace.cycles) >= 48_000
    assert (tmp_path / "run" / "beats.trace").stat().st_size == 64 + 16 * len(trace.cycles)


def test_unexpected_violation_fails_the_run(tmp_path, monkeypatch):
    """The tests pass, and yet the run fails on what the memory saw."""
    (tmp_path / "run").mkdir()
    memory = AxiMemory("mem4", folder=tmp_path / "run", size=1 << 20)
    memory.expect_violations(1)
    with pytest.raises(SimulationError, match=r"mem4: 1 violations were expected, there are none"):
        simulate(tmp_path, testcase="bandwidth_is_limited")


def test_backdoor(tmp_path):
    memory = AxiMemory(folder=tmp_path, size=8192)
    memory.write(10, b"abc")
    memory.write(4096, np.arange(4, dtype="<i4"))
    (tmp_path / "image").write_bytes(b"\x01\x02")
    assert memory.load(tmp_path / "image", 8190) == 2
    again = AxiMemory(folder=tmp_path, size=4096)
    assert again.size == 8192
    assert again.read(9, 5) == b"\0abc\0"
    view = again.array(4096, "<i4", (2, 2))
    assert view.tolist() == [[0, 1], [2, 3]]
    view[1, 1] = -1
    assert memory.read(4096 + 12, 4) == b"\xff" * 4
    assert memory.read(8190, 2) == b"\x01\x02"
    with pytest.raises(ValueError, match=r"^Bytes 0x1fff to 0x2001 are not in a memory of 0x2000 bytes$"):
        memory.read(8191, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read_latency": 0}, "read_latency must be at least 1, not 0"),
        ({"max_writes": 0}, "max_writes must be at least 1, not 0"),
        ({"read_bandwidth": (1, 0)}, r"read_bandwidth must be \(beats, cycles\) or \(0, 0\), not \(1, 0\)"),
        ({"stall": 1.0}, r"Stall probability must be in \[0, 1\), not 1.0"),
        ({"stall": {"x": 0.1}}, "Channel must be one of ar, r, aw, w, b, not 'x'"),
        ({"size": 100}, "Size must be a positive multiple of 4096 bytes, not 100"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        AxiMemory(folder=tmp_path, **settings)


def test_bad_rules(tmp_path):
    memory = AxiMemory(folder=tmp_path, size=4096)
    with pytest.raises(ValueError, match=r"^Response must be SLVERR or DECERR, not 'OKAY'$"):
        memory.inject_error("OKAY")
    with pytest.raises(ValueError, match=r"^Kind must be read, write or both, not 'none'$"):
        memory.inject_error("SLVERR", on="none")
    with pytest.raises(ValueError, match=r"^Chance must be above 0 and at most 1, not 0$"):
        memory.inject_error("SLVERR", chance=0)
    with pytest.raises(
        ValueError, match=r"^Address range must be low < high, both not negative, not 0x4 to 0x4$"
    ):
        memory.watch(4, 4)
    for _ in range(8):
        memory.inject_error("SLVERR")
    with pytest.raises(ValueError, match=r"^All 8 entries of fault are in use$"):
        memory.inject_error("SLVERR")


def test_not_a_recording(tmp_path):
    (tmp_path / "trace.trace").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"is not a recording of a trace sink$"):
        Trace.read(folder=tmp_path)


def test_files_of_another_version(tmp_path):
    (tmp_path / "memory.ctl").write_bytes(b"\x01" * 65536)
    with pytest.raises(ValueError, match=r"is not a control file of version 3$"):
        AxiMemory(folder=tmp_path)
