# SPDX-License-Identifier: Apache-2.0
"""Says what a machine lacks to build, simulate and test Serrano, and the command that mends each thing.

It needs nothing but the standard library, changes nothing, and also starts on an interpreter that is too old
for everything else, so that it can say so. Exit status 0 means that nothing required is missing or wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

MINIMUM_PYTHON = (3, 11)

OK = "ok"
MISSING = "missing"
WRONG = "wrong"

_PACKAGES = "the pinned Python packages"

# Package managers in the order in which they are looked for, with the command that installs a package.
_MANAGERS = {
    "apt-get": "apt-get install -y {}",
    "dnf": "dnf install -y {}",
    "pacman": "pacman -S --noconfirm {}",
    "apk": "apk add {}",
    "zypper": "zypper install -y {}",
    "brew": "brew install {}",
}


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program outside the virtual environment.

    Parameters
    ----------
    name
        What is looked for on PATH.
    purpose
        What it is needed for, for the reader of the report.
    required
        Whether set-up, simulation or tests fail without it.
    minimum
        Lowest version that is accepted.
    pattern
        Finds the version in the output of ``name --version``.
    packages
        The package's name by package manager, where it is not `name`.
    """

    name: str
    purpose: str
    required: bool
    minimum: tuple[int, ...] = ()
    pattern: str = r"(\d+\.\d+(?:\.\d+)*)"
    packages: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Check:
    """What was found about one thing; `mend` is a command for the shell, or empty."""

    name: str
    status: str
    required: bool
    found: str
    wanted: str
    purpose: str
    mend: str = ""

    @property
    def fails(self) -> bool:
        """Whether this alone makes the exit status 1."""
        return self.required and self.status != OK


TOOLS = (
    Tool(
        "g++",
        "compiles the simulation",
        True,
        (10,),
        packages={"dnf": "gcc-c++", "zypper": "gcc-c++", "pacman": "gcc", "brew": "gcc"},
    ),
    Tool("make", "runs the targets and Verilator's build", True, (3, 82), r"GNU Make (\d+\.\d+(?:\.\d+)*)"),
    Tool("perl", "runs Verilator's front end", True, (5, 8), r"v(\d+\.\d+\.\d+)"),
    Tool("iverilog", "second opinion on the emitted Verilog", False, packages={"brew": "icarus-verilog"}),
    Tool("gtkwave", "shows waveforms", False),
)

_PYTHON = Tool(
    "python3",
    "runs everything",
    True,
    MINIMUM_PYTHON,
    packages={
        "apt-get": "python3.11 python3.11-venv",
        "dnf": "python3.11",
        "pacman": "python",
        "zypper": "python311",
        "brew": "python@3.11",
    },
)


def install_command(tool: Tool, path: str, *, root: bool) -> str:
    """The command that installs `tool` with the first package manager on `path`, or else a sentence."""
    for manager, command in _MANAGERS.items():
        if shutil.which(manager, path=path):
            line = command.format(tool.packages.get(manager, tool.name))
            return line if root or manager == "brew" else f"sudo {line}"
    return f"install {tool.name} with this system's package manager"


def check_python(version: Sequence[int], executable: str, path: str, *, root: bool) -> Check:
    """Checks an interpreter's version; where it is too old, looks for a better one on `path`."""
    wanted = f"{'.'.join(map(str, MINIMUM_PYTHON))} or newer"
    found = f"{'.'.join(map(str, version[:3]))} ({executable})"
    purpose = "runs everything"
    if tuple(version[:2]) >= MINIMUM_PYTHON:
        return Check("python", OK, True, found, wanted, purpose)
    for minor in range(MINIMUM_PYTHON[1], MINIMUM_PYTHON[1] + 4):
        other = f"python{MINIMUM_PYTHON[0]}.{minor}"
        if shutil.which(other, path=path):
            mend = f"make distclean && make venv PYTHON={other}"
            return Check("python", WRONG, True, found, wanted, purpose, mend)
    mend = install_command(_PYTHON, path, root=root) + " && make distclean && make venv PYTHON=python3.11"
    return Check("python", WRONG, True, found, wanted, purpose, mend)


def check_venv_module(version: Sequence[int], path: str, *, root: bool) -> Check:
    """Whether this interpreter can make a virtual environment; Debian packages that part by itself."""
    purpose = "makes .venv"
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return Check("python venv", OK, True, "venv and ensurepip", "venv and ensurepip", purpose)
    tool = Tool(f"python{version[0]}.{version[1]}-venv", purpose, True)
    mend = install_command(tool, path, root=root)
    return Check("python venv", MISSING, True, "no ensurepip", "venv and ensurepip", purpose, mend)


def check_libpython(version: Sequence[int], config: Mapping[str, object], path: str, *, root: bool) -> Check:
    """Whether the interpreter's shared library is there: cocotb loads Python into the simulator with it.

    `config` is what `sysconfig.get_config_vars` returns.
    """
    wanted = purpose = "the shared library of this Python, for cocotb"
    name = str(config.get("INSTSONAME") or "")
    place = Path(str(config.get("LIBDIR") or "/usr/lib"))
    if config.get("PYTHONFRAMEWORK"):
        return Check("libpython", OK, True, "framework build", wanted, purpose)
    if not config.get("Py_ENABLE_SHARED"):
        mend = "install a Python that was configured with --enable-shared, then: make distclean && make venv"
        return Check("libpython", MISSING, True, "a build without it", wanted, purpose, mend)
    for folder in (place, place / str(config.get("MULTIARCH") or "")):
        if (folder / name).exists():
            return Check("libpython", OK, True, str(folder / name), wanted, purpose)
    package = f"libpython{version[0]}.{version[1]}"
    tool = Tool(
        package, purpose, True, packages={"dnf": "python3-libs", "apk": "python3", "pacman": "python"}
    )
    mend = install_command(tool, path, root=root)
    return Check("libpython", MISSING, True, f"no {name} in {place}", wanted, purpose, mend)


def check_tool(tool: Tool, path: str, *, root: bool) -> Check:
    """Looks for `tool` on `path` and asks it for its version."""
    wanted = f"{'.'.join(map(str, tool.minimum))} or newer" if tool.minimum else "any version"
    place = shutil.which(tool.name, path=path)
    if place is None:
        mend = install_command(tool, path, root=root)
        return Check(tool.name, MISSING, tool.required, "not on PATH", wanted, tool.purpose, mend)
    try:
        # A program may print its version on either stream, and may well end with a status of its own.
        done = subprocess.run(
            [place, "-V" if tool.name == "iverilog" else "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        mend = install_command(tool, path, root=root)
        return Check(tool.name, WRONG, tool.required, f"does not run: {error}", wanted, tool.purpose, mend)
    match = re.search(tool.pattern, text)
    if not tool.minimum:
        found = match.group(1) if match else place
        return Check(tool.name, OK, tool.required, found, wanted, tool.purpose)
    if match is None:
        first = text.strip().splitlines()[0] if text.strip() else "nothing"
        found, good = f"{place} prints no version but {first!r}", False
    else:
        found = match.group(1)
        good = tuple(map(int, found.split("."))) >= tool.minimum
    mend = "" if good else install_command(tool, path, root=root)
    return Check(tool.name, OK if good else WRONG, tool.required, found, wanted, tool.purpose, mend)


def read_pins(pyproject: Path) -> dict[str, dict[str, str]]:
    """The exact versions of `pyproject`: extra (empty for the base set) to package to version."""
    import tomllib

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    pins = {}
    for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        pins[extra] = {}
        for line in lines:
            match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^;\s]+)", line)
            if match is None:
                raise ValueError(f"A dependency must be pinned as name==version, not {line!r}")
            pins[extra][match.group(1)] = match.group(2)
    return pins


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_versions(environment: Path) -> dict[str, str]:
    """Every package of a virtual environment, by normalized name, found without starting its interpreter."""
    places = [str(place) for place in sorted(environment.glob("lib/python3*/site-packages"))]
    return {_normal(dist.metadata["Name"]): dist.version for dist in metadata.distributions(path=places)}


def check_packages(root: Path) -> list[Check]:
    """Compares the virtual environment in `root` with the pins of its pyproject.toml.

    An environment that was never made is no fault, as every target makes it; one that is incomplete is.
    """
    environment = root / ".venv"
    if not environment.exists():
        return [
            Check("packages", MISSING, False, ".venv is not made yet", "as pinned", _PACKAGES, "make venv")
        ]
    if not (environment / "bin" / "python").exists():
        found = ".venv has no working interpreter"
        return [Check("packages", WRONG, True, found, "as pinned", _PACKAGES, "make distclean && make venv")]
    pins, have = read_pins(root / "pyproject.toml"), installed_versions(environment)
    checks = []
    good = 0
    for extra, packages in pins.items():
        required = extra in ("", "dev")
        for name, wanted in packages.items():
            found = have.get(_normal(name))
            # A local part (2.0.1+cpu) names a build of the same version.
            if found is not None and found.split("+")[0] == wanted:
                good += 1
            elif found is not None or required:
                status = MISSING if found is None else WRONG
                mend = "make -B venv" if required else f".venv/bin/python -m pip install {name}=={wanted}"
                purpose = f"{extra or 'base'} package"
                checks.append(Check(name, status, required, found or "not installed", wanted, purpose, mend))
    total = sum(len(pins[extra]) for extra in ("", "dev"))
    if not any(check.required for check in checks):
        checks.insert(0, Check("packages", OK, True, f"{good} as pinned", f"at least {total}", _PACKAGES))
    return checks


def examine(root: Path, path: str, version: Sequence[int] = sys.version_info) -> list[Check]:
    """All checks for the project in `root`, with tools looked for on `path`."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    python = check_python(version, sys.executable, path, root=is_root)
    checks = [python, *(check_tool(tool, path, root=is_root) for tool in TOOLS)]
    if not python.fails:
        checks.insert(1, check_libpython(version, sysconfig.get_config_vars(), path, root=is_root))
    if not python.fails and not (root / ".venv").exists():
        checks.insert(1, check_venv_module(version, path, root=is_root))
    # Without a usable interpreter nothing could be installed, and pyproject.toml cannot be read.
    return checks if python.fails else checks + check_packages(root)


def report(checks: Sequence[Check], *, colour: bool = False) -> str:
    """The checks as text for a person."""
    lines = []
    for check in checks:
        word = "absent" if check.status == MISSING and not check.required else check.status
        code = "32" if check.status == OK else "31" if check.required else "33"
        shown = f"\033[{code}m{word:<8}\033[0m" if colour else f"{word:<8}"
        lines.append(f"{shown}{check.name:<22}{check.found}")
        if check.status != OK:
            kind = "required" if check.required else "optional"
            lines.append(f"{'':8}{'':22}{kind}: {check.purpose}; wanted: {check.wanted}")
        if check.mend:
            lines.append(f"{'':8}{'':22}mend with: {check.mend}")
    failing = [check.name for check in checks if check.fails]
    lines.append("")
    lines.append(f"to mend: {', '.join(failing)}" if failing else "everything that is required is here")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks, prints them and returns the exit status."""
    parser = argparse.ArgumentParser(prog="doctor", description="Check what Serrano needs on this machine.")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    options = parser.parse_args(argv)
    root = Path(__file__).resolve().parents[2]
    checks = examine(root, os.environ.get("PATH", os.defpath))
    failed = any(check.fails for check in checks)
    if options.json:
        content = {"ok": not failed, "checks": [dataclasses.asdict(check) for check in checks]}
        print(json.dumps(content, indent=2))
    else:
        print(report(checks, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
