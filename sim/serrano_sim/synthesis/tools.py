# SPDX-License-Identifier: Apache-2.0
"""Yosys, nextpnr and ecppack: native ones where PATH has them, else those of YoWASP."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serrano.primitives.memory import NEVER_COLLIDES

from . import states
from .placement import sites
from .registers import use_output_registers
from .replicas import replicate_registers

__all__ = ["DEVICES", "Device", "ToolError", "command", "pack", "place", "synthesize", "utilization"]


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

PATIENCE = {"router1": 40, "router2": 25}
"""Lines of its log in a row in which a router does not come nearer to its end, after which it will not."""

STILL, STILL_SECONDS = 0.5, 300.0
"""A router whose log stands still for that part of the time until then, and so many seconds, is stuck."""

LEFT = {
    "router1": re.compile(r"\| +(\d+)\| +[\d.]+ +[\d.]+\|$", re.MULTILINE),
    "router2": re.compile(r"overuse=(\d+) tmgfail=(\d+)"),
}
"""What a router has left to do, as its log tells: connections, or wires used twice and those too slow."""

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
    """Synthesizes RTLIL for the ECP5 into ``folder/netlist.json``, and returns the netlist's cells.

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
    return netlist["modules"][top]["cells"]


def utilization(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """What the cells of a netlist take before place and route: ``comb``, ``ff``, ``dsp``, ``ebr``."""
    totals = dict.fromkeys(CELLS, 0)
    for cell in cells.values():
        for resource, weights in CELLS.items():
            totals[resource] += weights.get(cell["type"], 0)
    return totals


def place(
    folder: Path,
    *,
    device: str,
    package: str,
    speed: str,
    clock_mhz: float,
    seed: int,
    constraints: str | None = None,
    aims: Sequence[str] = (),
) -> dict[str, Any]:
    """Places and routes ``folder/netlist.json`` and returns nextpnr's report; the bitstream's text is beside.

    The sites of the cells are beside as well, for :mod:`serrano_sim.synthesis.timing`. Timing that is not met
    is no error: the report says what was reached. The placer is nextpnr's ``static``, which spreads all cells
    at once as charges are by a field: wires are a fifth shorter than with its ``heap``.

    Routing takes up again what is too slow for the clock, which never ends where the clock is out of reach.
    So it is tried with each of ``aims`` in turn, files with constraints of the clock that ask for less and
    less, and in the end without. The first one is that of placement, and tried with ``router1`` before
    ``router2``: it is the better one where it comes to an end.
    """
    name, placed = f"seed{seed}", folder / f"seed{seed}.placed.json"
    common = [
        DEVICES[device].option, "--package", package.upper(), "--speed", speed, "--freq", f"{clock_mhz:g}",
        "--seed", str(seed), "--timing-allow-fail", "--quiet",
        *(["--lpf", constraints] if constraints else []),
    ]  # fmt: skip
    tried = [("--lpf", file) for file in aims] or [()]
    run(
        "nextpnr-ecp5",
        [
            *common, *tried[0], "--json", "netlist.json", "--log", f"{name}.place.log",
            "--placer", "static", "--no-route", "--write", placed.name,
        ],
        folder, f"{name}.place",
    )  # fmt: skip
    design = json.loads(placed.read_text(encoding="utf-8"))
    found = {cell: site for module in design["modules"].values() for cell, site in sites(module).items()}
    (folder / f"{name}.sites.json").write_text(json.dumps(found), encoding="utf-8")
    # It keeps the name of the router that placement had, instead of the one that it is given.
    for module in design["modules"].values():
        module.get("settings", {}).pop("router", None)
    placed.write_text(json.dumps(design), encoding="utf-8")
    log = folder / f"{name}.log"
    common += [
        "--json", placed.name, "--log", log.name, "--no-pack", "--no-place",
        "--report", f"{name}.json", "--textcfg", f"{name}.config",
    ]  # fmt: skip

    def reaches(router: str, *aim: str) -> bool:
        begun = time.time()

        def hopeless() -> bool:
            if not log.exists():
                return False
            written = log.stat().st_mtime
            if time.time() - written > max(STILL_SECONDS, STILL * (written - begun)):
                return True
            text = log.read_text(encoding="utf-8")
            left = [sum(map(int, numbers.groups())) for numbers in LEFT[router].finditer(text)]
            return bool(left) and len(left) - left.index(min(left)) > PATIENCE[router]

        log.unlink(missing_ok=True)
        options = [*common, "--router", router, *aim, "--tmg-ripup"]
        return run("nextpnr-ecp5", options, folder, name, hopeless=hopeless)

    attempts = [("router1", *tried[0]), *(("router2", *aim) for aim in tried)]
    if not any(reaches(*attempt) for attempt in attempts):
        run("nextpnr-ecp5", [*common, "--router", "router2"], folder, name)
    # It is some times as large as the netlist.
    placed.unlink()
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def pack(folder: Path, seed: int, target: str) -> Path:
    """Makes the bitstream of a placed and routed design, for the board's loader."""
    run("ecppack", ["--compress", "--input", f"seed{seed}.config", "--bit", target], folder, "ecppack")
    return folder / target
