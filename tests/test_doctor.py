# SPDX-License-Identifier: Apache-2.0
"""The doctor against machines that lack things: fake tools on a fake PATH, fake virtual environments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serrano_sim import doctor

ROOT = Path(__file__).resolve().parents[1]

GOOD = {
    "g++": "g++ (Debian 12.2.0-14+deb12u1) 12.2.0",
    "make": "GNU Make 4.3",
    "perl": "This is perl 5, version 36, subversion 0 (v5.36.0) built for x86_64-linux-gnu",
    "iverilog": "Icarus Verilog version 11.0 (stable) ()",
    "gtkwave": "GTKWave Analyzer v3.3.104",
}


@pytest.fixture
def machine(tmp_path):
    """Makes a folder of programs, each of which prints the given text, and returns it as a PATH."""

    def make(tools: dict[str, str]) -> str:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in tools.items():
            (folder / name).write_text(f"#!/bin/sh\necho '{text}'\n")
            (folder / name).chmod(0o755)
        return str(folder)

    return make


@pytest.fixture
def project(tmp_path):
    """Makes a project folder with pins and, with `installed`, an environment of fake packages."""

    def make(installed: dict[str, str] | None = None) -> Path:
        root = tmp_path / "project"
        root.mkdir()
        (root / "pyproject.toml").write_text(
            '[project]\ndependencies = ["Alpha_One[extra]==1.2.3"]\n'
            '[project.optional-dependencies]\ndev = ["beta==2.0"]\nfpga = ["gamma==3.0"]\n'
        )
        if installed is not None:
            site = root / ".venv" / "lib" / "python3.11" / "site-packages"
            (root / ".venv" / "bin").mkdir(parents=True)
            (root / ".venv" / "bin" / "python").touch()
            for name, version in installed.items():
                info = site / f"{name}-{version}.dist-info"
                info.mkdir(parents=True)
                (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return root

    return make


def by_name(checks):
    return {check.name: check for check in checks}


def test_complete_machine(machine, project):
    root = project({"alpha-one": "1.2.3", "beta": "2.0"})
    checks = doctor.examine(root, machine(GOOD), (3, 11, 7))
    assert [check.name for check in checks if check.status != doctor.OK] == []
    versions = {name: check.found for name, check in by_name(checks).items() if name in GOOD}
    assert versions == {
        "g++": "12.2.0",
        "make": "4.3",
        "perl": "5.36.0",
        "iverilog": "11.0",
        "gtkwave": "3.3.104",
    }
    assert by_name(checks)["packages"].found == "2 as pinned"


@pytest.mark.parametrize("name", ["g++", "make", "perl"])
def test_required_tool_missing(machine, project, name):
    path = machine({"apt-get": "apt", **{tool: text for tool, text in GOOD.items() if tool != name}})
    checks = doctor.examine(project({"alpha-one": "1.2.3", "beta": "2.0"}), path, (3, 11, 7))
    assert [check.name for check in checks if check.fails] == [name]
    check = by_name(checks)[name]
    assert check.status == doctor.MISSING
    assert check.mend.removeprefix("sudo ") == f"apt-get install -y {name}"


@pytest.mark.parametrize("name", ["iverilog", "gtkwave"])
def test_optional_tool_missing(machine, project, name):
    path = machine({tool: text for tool, text in GOOD.items() if tool != name})
    checks = doctor.examine(project({"alpha-one": "1.2.3", "beta": "2.0"}), path, (3, 11, 7))
    assert not any(check.fails for check in checks)
    check = by_name(checks)[name]
    assert (check.status, check.required) == (doctor.MISSING, False)
    assert check.mend == f"install {name} with this system's package manager"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("g++", "g++ (GCC) 9.5.0", "9.5.0"),
        ("make", "GNU Make 3.81", "3.81"),
        ("make", "bmake 20200710", None),
        ("perl", "This is perl, v5.6.1 built for somewhere", "5.6.1"),
        ("perl", "", None),
    ],
)
def test_wrong_version(machine, project, name, text, found):
    path = machine({**GOOD, name: text, "dnf": "4.1"})
    checks = doctor.examine(project({"alpha-one": "1.2.3", "beta": "2.0"}), path, (3, 11, 7))
    check = by_name(checks)[name]
    assert [check.name for check in checks if check.fails] == [name]
    assert check.status == doctor.WRONG
    assert check.found == found if found else "prints no version but" in check.found
    assert check.mend.removeprefix("sudo ") == f"dnf install -y {'gcc-c++' if name == 'g++' else name}"


def test_tool_that_does_not_run(machine, project):
    path = machine(GOOD)
    (Path(path) / "g++").write_text("#!/nonexistent-interpreter\n")
    checks = doctor.examine(project({"alpha-one": "1.2.3", "beta": "2.0"}), path, (3, 11, 7))
    assert by_name(checks)["g++"].status == doctor.WRONG
    assert by_name(checks)["g++"].found.startswith("does not run: ")


@pytest.mark.parametrize(
    ("manager", "root", "command"),
    [
        ("apt-get", True, "apt-get install -y g++"),
        ("apt-get", False, "sudo apt-get install -y g++"),
        ("pacman", False, "sudo pacman -S --noconfirm gcc"),
        ("brew", False, "brew install gcc"),
    ],
)
def test_install_command(machine, manager, root, command):
    assert doctor.install_command(doctor.TOOLS[0], machine({manager: ""}), root=root) == command


def test_old_python(machine, project):
    # Nothing is read from pyproject.toml, as an old interpreter has no reader for it.
    path = machine({**GOOD, "apt-get": ""})
    checks = doctor.examine(project(), path, (3, 9, 2))
    assert [check.name for check in checks if check.fails] == ["python"]
    assert by_name(checks)["python"].mend.removeprefix("sudo ") == (
        "apt-get install -y python3.11 python3.11-venv && make distclean && make venv PYTHON=python3.11"
    )


def test_old_python_with_a_better_one_beside_it(machine, project):
    path = machine({**GOOD, "python3.12": "Python 3.12.1"})
    checks = doctor.examine(project(), path, (3, 9, 2))
    assert by_name(checks)["python"].mend == "make distclean && make venv PYTHON=python3.12"


def test_python_without_ensurepip(machine, monkeypatch):
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name
    )
    check = doctor.check_venv_module((3, 11, 2), machine({"apt-get": ""}), root=True)
    assert (check.fails, check.mend) == (True, "apt-get install -y python3.11-venv")


def test_libpython(machine, tmp_path):
    path = machine({"apt-get": ""})
    config = {"Py_ENABLE_SHARED": 1, "INSTSONAME": "libpython3.11.so.1.0", "LIBDIR": str(tmp_path)}
    check = doctor.check_libpython((3, 11, 2), config, path, root=True)
    assert (check.fails, check.mend) == (True, "apt-get install -y libpython3.11")
    (tmp_path / "some-arch").mkdir()
    (tmp_path / "some-arch" / "libpython3.11.so.1.0").touch()
    assert not doctor.check_libpython((3, 11, 2), {**config, "MULTIARCH": "some-arch"}, path, root=True).fails
    static = {**config, "MULTIARCH": "some-arch", "Py_ENABLE_SHARED": 0}
    check = doctor.check_libpython((3, 11, 2), static, path, root=True)
    assert check.fails and "--enable-shared" in check.mend


def test_environment_not_made(project):
    (check,) = doctor.check_packages(project())
    assert (check.fails, check.mend, check.found) == (False, "make venv", ".venv is not made yet")


def test_environment_without_interpreter(project):
    root = project({"alpha-one": "1.2.3", "beta": "2.0"})
    (root / ".venv" / "bin" / "python").unlink()
    (check,) = doctor.check_packages(root)
    assert (check.fails, check.mend) == (True, "make distclean && make venv")


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"alpha-one": "1.2.3"}, ("beta", doctor.MISSING, True, "not installed", "make -B venv")),
        ({"alpha.one": "1.2.4", "beta": "2.0"}, ("Alpha_One", doctor.WRONG, True, "1.2.4", "make -B venv")),
        (
            {"alpha-one": "1.2.3", "beta": "2.0", "gamma": "2.9"},
            ("gamma", doctor.WRONG, False, "2.9", ".venv/bin/python -m pip install gamma==3.0"),
        ),
    ],
)
def test_packages_against_pins(project, installed, expected):
    checks = [check for check in doctor.check_packages(project(installed)) if check.name != "packages"]
    assert [(c.name, c.status, c.required, c.found, c.mend) for c in checks] == [expected]


def test_a_build_of_the_pinned_version(project):
    checks = doctor.check_packages(project({"alpha-one": "1.2.3+cpu", "beta": "2.0"}))
    assert [check.status for check in checks] == [doctor.OK]


def test_a_dependency_that_is_not_pinned(project):
    root = project({})
    (root / "pyproject.toml").write_text(
        '[project]\ndependencies = ["alpha>=1"]\n[project.optional-dependencies]\n'
    )
    with pytest.raises(ValueError, match=r"^A dependency must be pinned as name==version, not 'alpha>=1'$"):
        doctor.check_packages(root)


def test_every_dependency_of_this_project_is_pinned():
    pins = doctor.read_pins(ROOT / "pyproject.toml")
    assert pins[""]["amaranth"] == "0.5.10"
    assert set(pins) == {"", "dev", "formal", "fpga", "train"}
    # Training is no part of set-up.
    assert "torch" not in {name for extra in ("", "dev", "formal", "fpga") for name in pins[extra]}


def test_report(machine, project):
    path = machine({"make": GOOD["make"], "perl": GOOD["perl"], "iverilog": GOOD["iverilog"], "apt-get": ""})
    root = project({"alpha-one": "1.2.3", "beta": "2.0"})
    text = doctor.report(doctor.examine(root, path, (3, 11, 7)))
    assert "missing g++" in text
    assert "absent  gtkwave" in text
    assert text.endswith("\n\nto mend: g++")
    machine(GOOD)
    text = doctor.report(doctor.examine(root, path, (3, 11, 7)))
    assert "mend" not in text
    assert text.endswith("\n\neverything that is required is here")


def run(path: str, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "sim")}
    command = [sys.executable, "-m", "serrano_sim.doctor", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_exit_status_and_json(machine):
    path = machine({name: text for name, text in GOOD.items() if name != "perl"})
    done = run(path, "--json")
    content = json.loads(done.stdout)
    assert (done.returncode, content["ok"], done.stderr) == (1, False, "")
    perl = next(check for check in content["checks"] if check["name"] == "perl")
    assert (perl["status"], perl["required"]) == ("missing", True)
    done = run(machine(GOOD), "--json")
    tools = {c["name"]: c["status"] for c in json.loads(done.stdout)["checks"] if c["name"] in GOOD}
    assert tools == dict.fromkeys(GOOD, "ok")


def test_needs_only_the_standard_library(machine):
    # -S: no site-packages at all.
    environment = {"PATH": machine({}), "PYTHONPATH": str(ROOT / "sim")}
    command = [sys.executable, "-S", "-m", "serrano_sim.doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "to mend: g++, make, perl" in done.stdout
