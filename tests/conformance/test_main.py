# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m serrano_sim.conformance`."""

import json

import pytest

from conformance.software import recording, text
from serrano_sim.conformance import __main__ as command
from serrano_sim.conformance.executor import GoldenExecutor, finish
from serrano_sim.conformance.recording import read
from serrano_sim.conformance.rtl import Result
from serrano_sim.conformance.script import replay_scripts
from serrano_sim.conformance.unit import Sizes
from serrano_sim.runner import SimulationError


def on_golden(file, progress=None) -> Result:
    """What a replay gives, without the RTL."""
    source = read(file)
    golden = GoldenExecutor(64, 128, 128)
    outcome = finish(replay_scripts(source.scripts, golden, progress))
    return Result(source, outcome, Sizes(64, 128, 128), 1234, 0.5)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command with some text as the recording; status, output, report."""

    def run(content: str | bytes, runner=on_golden):
        file, report = tmp_path / "made.jsonl", tmp_path / "reports" / "report.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        status = command.main(["--file", str(file), "--json", str(report)], runner)
        told = json.loads(report.read_text()) if report.exists() else None
        return status, capsys.readouterr().out, told

    return run


def test_all_as_recorded(run) -> None:
    tests = list(recording(1, tests=2))
    count = sum(len(test["ops"]) for test in tests)
    status, output, report = run(text(tests))
    assert status == 0
    assert f"{count:,} operations compared: 0 mismatches, 0 deliberate divergences, 0 blocks leaked" in output
    assert "2 tests, " in output
    assert report["operations"] == count
    assert (report["mismatches"], report["deliberate"], report["leaked"]) == (0, 0, 0)
    assert report["deliberate_kinds"] == []
    assert sum(report["by_operation"].values()) == count


def test_mismatches(run) -> None:
    ops = [{"op": "INIT", "n": 3}, *([{"op": "FREE", "blk": [], "free": [2, 1]}] * 30)]
    status, output, report = run(text([{"test": "swapped", "ops": ops}]))
    assert status == 1
    assert "line 1, swapped, ops[1] FREE: free[0]: expected 2, got 1 (and 1 more)" in output
    assert "mismatch: ... 10 more" in output
    assert "31 operations compared: 30 mismatches" in output
    assert len(report["mismatches_listed"]) == report["mismatches"] == 30
    assert report["mismatches_listed"][0] == {
        "test": "swapped",
        "line": 1,
        "pool": 0,
        "number": 1,
        "op": "FREE",
        "field": "free[0]",
        "expected": 2,
        "got": 1,
        "more": 1,
    }


def test_deliberate_divergences_are_no_mismatches(run) -> None:
    ops = [
        {"op": "INIT", "n": 3},
        {"op": "ALLOC", "n": 1, "ret": [1]},
        {"op": "FREE", "blk": [1]},
        {"op": "SHARE", "blk": [[1]]},
    ]
    status, output, report = run(text([{"test": "unsealed", "ops": ops}]))
    assert status == 0
    assert "deliberate: line 1, unsealed, ops[3] SHARE: refused share: expected OK, got NOT_SEALED" in output
    assert (report["deliberate"], report["deliberate_kinds"]) == (1, ["refused share"])


def test_another_order_is_told(run) -> None:
    status, output, report = run(text(recording(2, counted=True)))
    assert status == 0
    assert f"evictions by commands, as the recording has another order: {report['steered']} times" in output


def test_leaks_fail(run) -> None:
    def leaking(file, progress=None) -> Result:
        result = on_golden(file)
        result.outcome.leaked = 2
        return result

    status, output, _ = run(text(recording(1, tests=1)), leaking)
    assert status == 1
    assert "2 blocks leaked" in output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"test": "a", "ops": [{"op": "INIT"', "made.jsonl, line 1: not JSON: "),
        ('{"test": "a", "ops": [{"op": "GROW"}]}', "made.jsonl, line 1: ops[0]: op must be one of INIT, "),
        (b"\xff\xfe", "made.jsonl, line 1: not UTF-8: "),
        ("", "made.jsonl: there is no operation in it"),
    ],
)
def test_malformed(run, content, told) -> None:
    status, output, report = run(content)
    assert status == 2
    assert told in output
    assert report is None


def test_files_that_are_not_there(tmp_path, monkeypatch, capsys) -> None:
    assert command.main(["--file", str(tmp_path / "none.jsonl")], on_golden) == 2
    assert "none.jsonl: No such file or directory" in capsys.readouterr().out
    monkeypatch.setattr(command, "DEFAULT", tmp_path / "default.jsonl")
    assert command.main([], on_golden) == 2
    output = capsys.readouterr().out
    assert "there is no " in output and "default.jsonl" in output and "make conformance FILE=" in output


def test_the_default(tmp_path, monkeypatch, capsys) -> None:
    default = tmp_path / "default.jsonl"
    default.write_text(text(recording(1, tests=1)))
    monkeypatch.setattr(command, "DEFAULT", default)
    monkeypatch.setenv("SERRANO_BUILD_DIR", str(tmp_path / "build"))
    assert command.main([], on_golden) == 0
    report = json.loads((tmp_path / "build" / "reports" / "conformance.json").read_text())
    assert report["file"] == "default.jsonl"
    assert "operations compared: 0 mismatches" in capsys.readouterr().out


def test_a_simulation_that_fails(run) -> None:
    def failing(file, progress=None) -> Result:
        raise SimulationError("the controller did not answer")

    status, output, report = run(text(recording(1, tests=1)), failing)
    assert status == 1
    assert "conformance: the controller did not answer" in output
    assert report is None
