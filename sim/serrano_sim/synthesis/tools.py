# SPDX-License-Identifier: Apache-2.0
"""Yosys, nextpnr and ecppack: native ones where PATH has them, else those of YoWASP."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serrano.primitives.memory import NEVER_COLLIDES

from . import states
from .registers import use_output_registers
from .replicas import replicate_registers

__all__ = [
    "CELLS",
    "DEVICES",
    "Device",
    "ToolError",
    "command",
    "pack",
    "run",
    "synthesize",
    "taken_by",
    "utilization",
    "version",
]


class ToolError(Exception):
    """A tool is missing or has failed; the text says which, and where its log is."""


@dataclass(frozen=True)
class Device:
    """What a device has: logic cells (LUT4 with their share of carry logic), flip-flops, DSP multipliers and
    block RAMs of 18 kbit; and its option for nextpnr."""

    option: str
    comb: int
    ff: int
    dsp: int
    ebr: int


DEVICES = {
    "LFE5U-25F": Device("--25k", 24288, 24288, 28, 56),
    "LFE5U-45F": Device("--45k", 43848, 43848, 72, 108),
    "LFE5U-85F": Device("--85k", 83640, 83640, 156, 208),
}
"""ECP5 devices by name."""

NAME = re.compile(r"\\[^\s]*\[[^\s]*")
"""A public name of RTLIL in which there is a bracket; slices have a space in front of theirs."""

WATCH_SECONDS = 1.0
"""How often a running tool is looked at."""

CELLS = {
    "comb": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
    "ff": {"TRELLIS_FF": 1},
    "dsp": {"MULT18X18D": 1},
    "ebr": {"DP16KD": 1, "PDPW16KD": 1},
}
"""How many of each resource a cell of the netlist takes. A LUT memory of 16 x 4 bits takes four logic cells,
and two more lie under its write port."""


def command(tool: str, search: Callable[[str], str | None] = shutil.which) -> list[str]:
    """The command that runs ``tool``: the native one, or that of YoWASP beside this interpreter.

    Raises
    ------
    ToolError
        If there is neither.
    """
    native = search(tool)
    if native:
        return [native]
    beside = Path(sys.executable).with_name(f"yowasp-{tool}")
    found = str(beside) if beside.exists() else search(f"yowasp-{tool}")
    if not found:
        raise ToolError(
            f"neither {tool} nor yowasp-{tool} was found; `pip install -e '.[fpga]'` brings the latter"
        )
    return [found]


def version(tool: str) -> str:
    """What the tool that ``command`` finds says of its version.

    Raises
    ------
    ToolError
        If there is none.
    """
    return subprocess.run([*command(tool), "--version"], capture_output=True, text=True, check=True).stdout


def run(
    tool: str,
    arguments: Sequence[str],
    folder: Path,
    log: str,
    *,
    hopeless: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs a tool in a folder; whether it came to its end before it was ``hopeless``.

    Raises
    ------
    ToolError
        If it is missing or fails; with the last lines that it wrote.
    """
    output = folder / f"{log}.out"
    with output.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command(tool), *arguments], cwd=folder, stdout=stream, stderr=subprocess.STDOUT
        )
        with process:
            try:
                while process.poll() is None:
                    if hopeless():
                        return False
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(WATCH_SECONDS)
            finally:
                process.kill()
    if process.returncode:
        tail = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        raise ToolError(f"{tool} failed ({process.returncode}), see {output}:\n" + "\n".join(tail))
    return True


def without_indices(rtlil: str) -> str:
    """RTLIL, or Verilog, in which no name looks like a bit of another wire.

    Yosys may take ``a[1]`` for bit 1 of ``a``.
    """
    return NAME.sub(lambda name: name[0].replace("[", ".").replace("]", ""), rtlil)


def without_collisions(rtlil: str) -> str:
    """RTLIL in which a read is undefined where it meets a write, in memories where that does not matter."""
    modules = rtlil.split("\nmodule ")
    for index, module in enumerate(modules):
        if f"attribute \\{NEVER_COLLIDES} " in module:
            modules[index] = re.sub(
                r"(?<=\\COLLISION_X_MASK )(\d+)'\d+", lambda mask: f"{mask[1]}'{'1' * int(mask[1])}", module
            )
    return "\nmodule ".join(modules)


def synthesize(rtlil: str, folder: Path, *, top: str = "top") -> dict[str, Any]:
    """Synthesizes RTLIL for the ECP5 into ``folder/netlist.json``, and returns the netlist.

    Block RAMs get the registers behind them, and registers with many loads are replicated. Functions of more
    than four inputs are made of single LUT4s: in wider ones two or more are bound to one place, and wires get
    longer. State machines of the accelerator get a flip-flop for each state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{top}.il").write_text(without_collisions(without_indices(rtlil)), encoding="utf-8")
    run("yosys", ["-q", "-l", "states.log", "-p", states.recoding(top)], folder, "states")
    recoded = states.write_recoded(folder).name
    script = f"read_rtlil {recoded}; synth_ecp5 -nowidelut -top {top} -json netlist.json"
    run("yosys", ["-q", "-l", "yosys.log", "-p", script], folder, "yosys")
    netlist = json.loads((folder / "netlist.json").read_text(encoding="utf-8"))
    use_output_registers(netlist["modules"][top])
    replicate_registers(netlist["modules"][top])
    (folder / "netlist.json").write_text(json.dumps(netlist), encoding="utf-8")
    return netlist["modules"][top]


def taken_by(kind: str) -> dict[str, int]:
    """What a cell of this type takes, of each resource that it takes any of."""
    return {resource: weights[kind] for resource, weights in CELLS.items() if kind in weights}


def utilization(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """What the cells of a netlist take before place and route: ``comb``, ``ff``, ``dsp``, ``ebr``."""
    totals = dict.fromkeys(CELLS, 0)
    for cell in cells.values():
        for resource, count in taken_by(cell["type"]).items():
            totals[resource] += count
    return totals


def pack(folder: Path, seed: int, target: str) -> Path:
    """Makes the bitstream of a placed and routed design, for the board's loader."""
    run("ecppack", ["--compress", "--input", f"seed{seed}.config", "--bit", target], folder, "ecppack")
    return folder / target
