# SPDX-License-Identifier: Apache-2.0
"""The runner: what passes, what fails, and what is built anew."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serrano_sim.runner import SimulationError, build, build_root, run

HERE = Path(__file__).parent
PLAIN = HERE / "plain.sv"
BENCH = HERE / "bench_plain.py"
GOOD = ("registers", "counts")


def simulate(*tests, **options):
    settings = {"name": "plain", "env": {"SAYS": "hello"}, "timeout": 60.0}
    return run([PLAIN], "plain", BENCH, testcase=list(tests), **{**settings, **options})


def test_results_and_cache(tmp_path):
    first = simulate(*GOOD, run_dir=tmp_path)
    assert [test.name for test in first.tests] == ["bench_plain.registers", "bench_plain.counts"]
    assert all(test.passed for test in first.tests)
    assert "PASS=2" in (tmp_path / "sim.log").read_text()
    again = simulate("counts")
    assert again.cached
    assert again.build_dir == first.build_dir
    assert not again.run_dir.exists()
    assert first.build_dir.parent == build_root() / "sim"
    assert {file.name for file in first.build_dir.iterdir()} == {"plain", "build.log", "public.vlt"}


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("fails", r"bench_plain\.fails failed: .*this must be seen"),
        ("ends_the_simulator", r"the simulator ended with status 3"),
        ("leaves_quietly", r"it left no results"),
        ("no_such_test", r"no test ran"),
    ],
)
def test_failures(tmp_path, test, message):
    with pytest.raises(SimulationError, match=message):
        simulate(test, run_dir=tmp_path)


def test_module_without_tests(tmp_path):
    empty = tmp_path / "bench_empty.py"
    empty.write_text("import cocotb\n")
    with pytest.raises(SimulationError, match=r"it left no results"):
        run([PLAIN], "plain", empty, name="plain", run_dir=tmp_path)


def test_timeout(tmp_path):
    with pytest.raises(SimulationError, match=r"no end after 2 s"):
        simulate("never_ends", run_dir=tmp_path, timeout=2.0)


def test_random_contents(tmp_path):
    """Without reset a register starts at random, by the seed; in a fast build at zero."""

    def unset(folder, **options):
        simulate("random_contents", run_dir=folder, **options)
        return int((folder / "unset.txt").read_text())

    values = [unset(tmp_path / f"{i}", random_reset=True, seed=seed) for i, seed in enumerate((1, 2, 1))]
    assert values[0] == values[2]
    assert values[0] != values[1]
    assert unset(tmp_path / "fast") == 0


def test_waves(tmp_path):
    simulate("counts", waves=True, run_dir=tmp_path)
    text = (tmp_path / "dump.vcd").read_text()
    assert text.startswith("$version")
    assert re.search(r"\$var \w+ +32 \S+ count ", text)


def test_everything_is_in_the_key(tmp_path, monkeypatch):
    """Another text, another flag or another C++ source is another build; another folder is not."""
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path / "build"))
    source = tmp_path / "unit.sv"
    source.write_text("module unit(input wire a, output wire o); assign o = a; endmodule\n")
    commands = []
    monkeypatch.setattr("serrano_sim.runner._compile", lambda target, *rest: commands.append(target.name))
    cpp = tmp_path / "unit.cpp"
    cpp.write_text("// nothing\n")

    def key(**options):
        build([source], "unit", name="unit", **options)
        return commands[-1]

    base = key()
    assert re.fullmatch(r"unit-[0-9a-f]{16}", base)
    others = [
        key(waves=True),
        key(random_reset=True),
        key(flags=["-DX=1"]),
        key(optimize="-O3"),
        key(public=["a"]),
        key(sources=[cpp]),
    ]
    header = tmp_path / "unit.h"
    header.write_text("// new\n")
    others.append(key(sources=[cpp]))
    source.write_text("module unit(input wire a, output wire o); assign o = !a; endmodule\n")
    others.append(key())
    monkeypatch.setattr("serrano_sim.runner._tool_versions", lambda: ("9.9",))
    others.append(key())
    assert len({base, *others}) == 10


def test_build_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path / "build"))
    broken = tmp_path / "broken.sv"
    broken.write_text("module broken(input wire a); assign b = ; endmodule\n")
    with pytest.raises(
        SimulationError, match=r"build of broken-\w+ failed, log in .*\n(.*\n)*.*syntax error"
    ):
        build([broken], "broken", name="broken")
    with pytest.raises(SimulationError, match=r"there is no file .*absent\.v$"):
        build([tmp_path / "absent.v"], "absent", name="absent")
    with pytest.raises(ValueError, match=r"^No source defines module 'other'$"):
        build([broken], "other", name="other")
    assert [file.name for file in (tmp_path / "build" / "sim").glob(".broken*")] == []


def test_one_build_for_many(tmp_path, monkeypatch):
    """Those who want the same build at once wait for the one who makes it."""
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path / "build"))
    source = tmp_path / "unit.sv"
    source.write_text("module unit(input wire a, output wire o); assign o = a; endmodule\n")
    made = []

    def compile_once(target, files, extra, control, top, options, waves, optimize):
        made.append(target)
        target.mkdir()
        (target / top).write_text("")

    monkeypatch.setattr("serrano_sim.runner._compile", compile_once)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: build([source], "unit", name="unit"), range(8)))
    assert len(made) == 1
    assert sum(not result.cached for result in results) == 1


def test_environment_is_left_alone(monkeypatch):
    monkeypatch.setenv("WAVES", "0")
    before = dict(os.environ)
    simulate("counts")
    assert dict(os.environ) == before
