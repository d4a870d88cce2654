# SPDX-License-Identifier: Apache-2.0
"""The folder of preset `tiny` as a whole: what is in it, the same bytes every time, and its test bench."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serrano.config import preset
from serrano_sim.handoff.__main__ import main
from serrano_sim.handoff.checks import CheckError
from serrano_sim.top.design import top_design

ROOT = Path(__file__).parents[2]
STRICT = ["--strict"] if os.environ.get("STRICT", "0") not in ("", "0") else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("handoff") / "tiny"
    assert main(["tiny", "-o", str(path), *STRICT]) == 0
    return path


def test_a_preset_with_registers(tmp_path: Path) -> None:
    """Deeper multipliers, one lane, and all registers that a board needs."""
    assert main(["small", "-o", str(tmp_path / "small"), *STRICT]) == 0
    names_are_plain(tmp_path / "small")


def files_of(folder: Path) -> dict[str, str]:
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            found[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    found = files_of(folder)
    found.pop("manifest.json")
    assert manifest["files"] == found
    icarus = "not run" if shutil.which("iverilog") is None else "pass"
    assert manifest["checks"] == {"verilator": "pass", "icarus": icarus, "yosys": "pass", "reset": icarus}
    assert manifest["configuration"]["n"] == 4 and manifest["tools"]["amaranth"] == "0.5.10"
    wanted = (
        "serrano_top.v serrano_mem_1r1w.v serrano_mul.v filelist.f serrano.sdc serrano.core waivers.vlt"
        " memories.json Makefile registers/serrano.rdl registers/serrano.h registers/html/index.html"
        " docs/integration.md vectors/expected.hex bench/tb_serrano_top.v"
    ).split()
    assert set(wanted) <= set(found)


def test_the_benches_simulate_this_file(folder: Path) -> None:
    for file in top_design(preset("tiny")).files:
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_same_bytes_in_another_process(folder: Path, tmp_path: Path) -> None:
    """With another order of hashes, too, and over what an earlier run has left."""
    again = tmp_path / "again"
    (again / "registers").mkdir(parents=True)
    (again / "registers" / "stale").touch()
    (again / "old.v").touch()
    (again / "manifest.json").write_text('{"files": {"old.v": ""}}')
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "serrano_sim.handoff", "tiny", "-o", str(again), *STRICT]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert files_of(again) == files_of(folder)


def test_nothing_of_this_machine(folder: Path) -> None:
    words = {str(ROOT), str(folder), str(Path.home()), os.environ.get("HOSTNAME") or "\0"}
    for file in folder.rglob("*"):
        if file.suffix in (".v", ".json", ".h", ".rdl", ".md", ".html", ".core", ".sdc", ".f", ".vh"):
            text = file.read_text()
            assert not [word for word in words if word in text], file


def test_modules_lead_back_to_the_source(folder: Path) -> None:
    text = (folder / "serrano_top.v").read_text()
    heads = re.findall(r"^// (\w+), (serrano/\S+\.py)\n(?://[^\n]*\n)?module ", text, re.MULTILINE)
    assert len(heads) == len(re.findall(r"^module ", text, re.MULTILINE))
    for name, file in heads:
        assert re.search(rf"^class {name}\b", (ROOT / "hdl" / file).read_text(), re.MULTILINE), (name, file)


def names_are_plain(folder: Path) -> None:
    """No instance has a name that tools want escaped: scripts find memories by their paths."""
    listed = json.loads((folder / "memories.json").read_text())
    cells = [*listed["memories"], *(cell for kind in listed["multipliers"] for cell in kind["instances"])]
    assert len(cells) > 50 and not [
        cell["path"] for cell in cells if not re.fullmatch(r"[\w.]+", cell["path"])
    ]
    text = (folder / "serrano_top.v").read_text()
    assert not re.findall(r"^  \w+ (?:#\([^;]*?\) )?\\\S+ +\($", text, re.MULTILINE)


def test_names_are_plain(folder: Path) -> None:
    names_are_plain(folder)


def test_links_of_the_pages(folder: Path) -> None:
    for page in (folder / "docs").rglob("*.md"):
        for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def check(folder: Path) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", "-C", str(folder), "check"], env=environment, capture_output=True, text=True, check=False
    )


def copy_for_check(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "copy", ignore=shutil.ignore_patterns("registers", "docs"))


def test_stand_alone_bench(folder: Path, tmp_path: Path) -> None:
    """It passes; without Icarus it cannot even begin."""
    copy = copy_for_check(folder, tmp_path)
    done = check(copy)
    if shutil.which("iverilog") is None:
        assert done.returncode and "iverilog" in done.stderr
        return
    assert done.returncode == 0, done.stdout
    assert re.search(r"^PASS: 6 records of 3 requests in \d+ cycles$", done.stdout, re.MULTILINE)
    assert "cycle 267: the model is loaded" in done.stdout


def flip(file: Path, line: int) -> None:
    """One bit of one line."""
    lines = file.read_text().splitlines()
    lines[line] = lines[line][:-1] + f"{int(lines[line][-1], 16) ^ 1:x}"
    file.write_text("\n".join(lines) + "\n")


def test_wrong_expectations_fail(folder: Path, tmp_path: Path) -> None:
    copy = copy_for_check(folder, tmp_path)
    for file, line in (("expected", 4), ("identity", 2), ("final", 5)):
        flip(copy / "vectors" / f"{file}.hex", line)
    done = check(copy)
    assert done.returncode
    if shutil.which("iverilog"):
        for what in ("a constant register", "a record", "a register in the end"):
            assert done.stdout.count(f": {what}: found ") == 1
        assert "\nFAIL: 3 failures in" in done.stdout


def test_a_wrong_bit_in_the_tape_fails(folder: Path, tmp_path: Path) -> None:
    copy = copy_for_check(folder, tmp_path)
    memory = copy / "vectors" / "memory.hex"
    tape = memory.read_text().splitlines().index("4f4e5253")
    flip(memory, tape + (256 + 32 + 8) // 4)
    done = check(copy)
    assert done.returncode
    if shutil.which("iverilog"):
        assert ": a record: found " in done.stdout and "\nFAIL: " in done.stdout


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["huge", "-o", str(tmp_path / "x")]) == 2
    assert "preset must be one of" in capsys.readouterr().err

    def failing(*arguments: object, **options: object) -> None:
        raise CheckError("yosys failed with status 1:\nsomething")

    monkeypatch.setattr("serrano_sim.handoff.__main__.write_folder", failing)
    assert main(["tiny", "-o", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err == "verilog: yosys failed with status 1:\nsomething\n"
