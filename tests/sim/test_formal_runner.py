# SPDX-License-Identifier: Apache-2.0
"""The proofs' data, benches and runner, without a solver: that takes `make formal`."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Signal, unsigned

from serrano.stream import StreamFIFO
from serrano_sim.formal import __main__ as program
from serrano_sim.formal import (
    buses,
    controller,
    lookups,
    of_buses,
    of_controller,
    of_lookups,
    of_records,
    of_streams,
    patch,
    records,
    runner,
    sizes,
    streams,
)
from serrano_sim.formal.bench import START, Bench
from serrano_sim.formal.emit import find, make
from serrano_sim.formal.patch import Edit
from serrano_sim.formal.proofs import Method
from serrano_sim.formal.properties import PROOFS

ROOT = Path(__file__).resolve().parents[2]
NAMES = [proof.name for proof in PROOFS]


def source(module):
    return Path(importlib.util.find_spec(module).origin).read_text()


def test_all_proofs_are_run():
    parts = (
        *of_streams.STREAMS,
        *of_buses.BUSES,
        *of_lookups.LOOKUPS,
        *of_records.RECORDS,
        *of_controller.CONTROLLER,
    )
    assert sorted(proof.name for proof in parts) == sorted(NAMES)


def test_all_benches_are_used():
    used = {proof.bench for proof in PROOFS}
    for module in (buses, controller, lookups, records, streams):
        short = module.__name__.rpartition(".")[2]
        for name in module.__all__:
            if next(iter(inspect.signature(getattr(module, name)).parameters)) == "bench":
                used_here = f"{short}:{name}" in used
                assert used_here or name in ("sound_buffer",), f"{short}:{name}"


def test_groups_have_every_check_once():
    grouped = [(proof, case) for proof in PROOFS for case in proof.groups]
    assert grouped
    for proof, case in grouped:
        assert case in proof.cases
        checks = [check for group in proof.groups[case] for check in group]
        assert sorted(checks) == sorted(proof.checks)
        tasks = [task for task in runner.tasks_of([proof]) if (task.kind, task.case) == ("prove", case)]
        assert [task.only for task in tasks] == list(proof.groups[case])


def test_sizes():
    assert sizes.SIZES.blocks >= 4
    assert sizes.SIZES.sequences >= 2
    assert sizes.CONFIG.table_entries == sizes.SIZES.entries >= 3
    assert sizes.CONFIG.blocks_max == sizes.SIZES.blocks


@pytest.mark.parametrize("head_dim", [4, 6, 8])
def test_layout_of_a_record(head_dim):
    n, token = sizes.CONFIG.n, 5
    layout = records.layout(head_dim)
    assert len(layout) == 64 + 32 * head_dim
    codes = [byte for byte in layout if byte["run"] == 2 and byte["token"] == token]
    full = [token * n + byte for byte in range(n)]
    assert [byte["offset"] for byte in codes if byte["chunk"] == 0] == full
    for run, count in ((0, 2), (1, 2), (2, head_dim), (3, head_dim)):
        assert sum(byte["run"] == run and byte["token"] == token for byte in layout) == count
    assert [byte["run"] for byte in layout] == sorted(byte["run"] for byte in layout)


def test_names():
    assert len(set(NAMES)) == len(NAMES)
    for proof in PROOFS:
        variants = [variant.name for variant in proof.broken]
        assert len(set(variants)) == len(variants), proof.name
        assert not set(variants) & {cover.name for cover in proof.covers}, proof.name
        for one in (*proof.broken, *proof.covers):
            assert one.case in proof.cases, (proof.name, one.name)


@pytest.mark.parametrize("name", NAMES)
def test_every_check_has_a_broken_variant(name):
    proof = find(name)
    assert set(proof.checks) == {variant.check for variant in proof.broken}


@pytest.mark.parametrize("name", NAMES)
def test_broken_variants_fit_the_source(name):
    for variant in find(name).broken:
        assert variant.edits and variant.what
        for edit in variant.edits:
            changed = patch.apply(source(edit.module), edit)
            compile(changed, edit.module, "exec")
            assert changed != source(edit.module)


@pytest.mark.parametrize("name", NAMES)
def test_bench(name):
    proof = find(name)
    case = next(iter(proof.cases))
    text, checks, covers = make(proof, case)
    assert set(checks) == set(proof.checks)
    assert {cover.name for cover in proof.covers} <= set(covers)
    # Every check is in it, with its name in place of the source line, and the clock runs.
    for check in checks:
        assert re.search(rf'attribute \\src "{check}:\d+"', text), check
    assert re.search(r"^  wire width 1 input \d+  \\clk$", text, re.M)
    assert f"\\{START}" in text
    top, _, units = text.partition("\nmodule \\top.")
    assert "attribute \\init" in top
    assert ("attribute \\init" in units) == (proof.method is not Method.COMMAND)


def test_bench_keeps_what_is_named():
    proof = find("fifo")
    text, checks, _ = make(proof, "3", ["stable"])
    assert set(checks) == set(proof.checks)
    kept = set(re.findall(r'attribute \\src "(level|order|stable):\d+"', text))
    assert kept == {"stable"}
    with pytest.raises(ValueError, match=r"^No check or cover is called nothing$"):
        make(proof, "3", ["nothing"])


def test_unit_shows_its_inside():
    unit = Bench().open(StreamFIFO(unsigned(3), 4))
    assert isinstance(unit.signal("head"), Signal)
    assert len(unit["memory"].cells) == 4
    assert unit.level is unit.component.level
    with pytest.raises(KeyError, match=r"0 signals are called 'nothing'; there are .*head"):
        unit.signal("nothing")
    with pytest.raises(KeyError, match="No submodule 'nothing'; there are memory"):
        unit["nothing"]
    with pytest.raises(KeyError, match="0 signals that are driven are called 'nothing'"):
        unit.driven("nothing")


def test_edit_must_fit_once():
    edit = Edit("serrano.stream.fifo", "a", "b")
    assert patch.apply("xay", edit) == "xby"
    for text, count in (("xyz", 0), ("aa", 2)):
        with pytest.raises(
            ValueError, match=rf"^serrano.stream.fifo has {count} places 'a' where there must be one$"
        ):
            patch.apply(text, edit)


def test_edit_comes_before_import():
    with pytest.raises(ValueError, match=r"^serrano.stream.fifo has been imported already$"):
        patch.install([Edit("serrano.stream.fifo", "a", "b")])


def emitted(tmp_path, *options):
    file = tmp_path / "out.il"
    command = [sys.executable, "-m", "serrano_sim.formal.emit", "fifo", str(file), "--case", "3", *options]
    path = os.pathsep.join(str(ROOT / folder) for folder in ("hdl", "sim", "host"))
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    # Places in the source apart.
    return re.sub(r'attribute \\src "/.*', "", file.read_text())


def test_emitted_variants_differ(tmp_path):
    good = emitted(tmp_path)
    assert good == emitted(tmp_path)
    assert emitted(tmp_path, "--broken", "always_ready") != good


def test_no_such_proof():
    with pytest.raises(ValueError, match=r"^There is no proof 'nothing', but fifo, "):
        find("nothing")


def test_tasks():
    proof = find("fifo")
    tasks = runner.tasks_of(PROOFS, "fifo")
    assert [task.kind for task in tasks].count("prove") == len(proof.cases)
    assert [task.name for task in tasks if task.kind == "broken"] == [
        variant.name for variant in proof.broken
    ]
    assert {task.mode for task in tasks if task.kind == "prove"} == {"prove"}
    (first, *_, last) = runner.tasks_of(PROOFS, "fifo.stable")
    assert (first.only, last.kind, last.only) == (("stable",), "broken", ("stable",))
    assert len({task.title for task in runner.tasks_of(PROOFS)}) == len(runner.tasks_of(PROOFS))
    with pytest.raises(ValueError, match=r"^There is no proof 'nothing'; --list gives the names$"):
        runner.tasks_of(PROOFS, "nothing")
    with pytest.raises(ValueError, match=r"^fifo has no check 'nothing', but level, order, stable$"):
        runner.tasks_of(PROOFS, "fifo.nothing")


FAILED = """\
SBY [run] engine_0: ##   0:00:01  Assert failed in top: stable:22 (_witness_.check_1000)
SBY [run] engine_0: ##   0:00:01  Assert failed in top: stable:23 (_witness_.check_1001)
SBY [run] DONE (FAIL, rc=2)
"""


def test_what_the_solver_says():
    assert runner.parse_status(FAILED) == "FAIL"
    assert runner.parse_found(FAILED) == ("stable",)
    assert runner.parse_status("SBY [run] DONE (PASS, rc=0)\n") == "PASS"
    assert runner.parse_status("Killed\n") == "ERROR"


def solver(answers):
    """In place of the tools: what SymbiYosys would have said about each task."""

    def run(command, folder, environment):
        if "serrano_sim.formal.emit" in command:
            return 0, ""
        assert (folder / "run.sby").read_text().startswith("[options]\nmode ")
        assert Path(environment["PATH"].split(os.pathsep)[0]) == Path(sys.executable).parent
        return 0, answers(folder.name)

    return run


def outcome(title):
    tasks = {task.title: task for task in runner.tasks_of(PROOFS, "fifo")}
    if tasks[title].kind == "broken":
        return FAILED.replace("stable", tasks[title].only[0])
    return "SBY [run] DONE (PASS, rc=0)\n"


def run_with(monkeypatch, tmp_path, answers):
    monkeypatch.setattr(runner, "_run", solver(answers))
    lines = []
    results = runner.run_all(runner.tasks_of(PROOFS, "fifo"), tmp_path, 2, lines.append)
    return runner.report(results), lines


def test_report(monkeypatch, tmp_path):
    content, lines = run_with(monkeypatch, tmp_path, outcome)
    assert content["good"]
    assert (content["proved"], content["bounded"], content["failed"]) == (3, 0, 0)
    assert content["broken_variants"] == content["broken_variants_caught"] == 3
    assert [entry["name"] for entry in content["properties"]] == ["fifo.level", "fifo.order", "fifo.stable"]
    assert len(lines) == 6
    assert not any("NOT" in line for line in lines)


@pytest.mark.parametrize(
    ("title", "answer", "word"),
    [
        ("fifo.4", FAILED, "NOT PROVED"),
        ("fifo.3", "SBY [run] DONE (UNKNOWN, rc=4)\n", "NOT PROVED"),
        ("fifo.3.full_then_empty", "SBY [run] DONE (FAIL, rc=2)\n", "NOT POSSIBLE"),
        ("fifo.3.always_ready", "SBY [run] DONE (PASS, rc=0)\n", "NOT CAUGHT"),
        # Found, but not by the check that it is about.
        ("fifo.3.always_ready", FAILED, "NOT CAUGHT"),
        ("fifo.3.always_ready", "", "NOT CAUGHT"),
    ],
)
def test_report_of_failures(monkeypatch, tmp_path, title, answer, word):
    content, lines = run_with(monkeypatch, tmp_path, lambda name: answer if name == title else outcome(name))
    assert not content["good"]
    assert [title in line and word in line for line in lines].count(True) == 1
    assert content["failed"] == (3 if word == "NOT PROVED" else 0)


def test_report_of_a_group_that_fails(monkeypatch, tmp_path):
    def answers(folder):
        tasks = {task.title: task for task in runner.tasks_of(PROOFS, "command")}
        if folder == "command.APPEND-2.refused":
            return FAILED
        task = tasks[folder]
        return FAILED.replace("stable", task.only[0]) if task.kind == "broken" else outcome("fifo.3")

    monkeypatch.setattr(runner, "_run", solver(answers))
    results = runner.run_all(runner.tasks_of(PROOFS, "command"), tmp_path, 2, lambda line: None)
    content = runner.report(results)
    assert not content["good"]
    # The other properties have been shown in all cases, this one in all but one.
    failing = [entry["name"] for entry in content["properties"] if not entry["holds"]]
    assert failing == ["command.refused"]
    for entry in content["properties"]:
        assert set(entry["cases"]) == set(find("command").cases)


def test_program(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "_run", solver(outcome))
    monkeypatch.setattr(program, "tools_missing", lambda where: [])
    monkeypatch.setattr(program, "ROOT", tmp_path)
    file = tmp_path / "some" / "report.json"
    assert program.main(["--only", "fifo", "--json", str(file), "--jobs", "1"]) == 0
    assert json.loads(file.read_text())["proved"] == 3
    assert "3 properties proved" in capsys.readouterr().out
    monkeypatch.setattr(runner, "_run", solver(lambda name: FAILED))
    assert program.main(["--only", "fifo", "--json", str(file)]) == 1
    assert program.main(["--only", "nothing"]) == 1
    assert "There is no proof 'nothing'" in capsys.readouterr().out


def test_program_without_tools(monkeypatch, capsys):
    monkeypatch.setattr(program, "tools_missing", lambda where: ["z3"])
    assert program.main([]) == 1
    assert capsys.readouterr().out == "formal: not installed: z3; `make formal` installs what it needs\n"


def test_program_lists(capsys):
    assert program.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{proof.name}.{check}: " in text for proof in PROOFS for check in proof.checks)
