# SPDX-License-Identifier: Apache-2.0
"""`make area`: cells of each unit, by Yosys, for generic gates and for the ECP5.

The design keeps its hierarchy, so that each cell has a unit to which it belongs; what optimization across
units saves is not counted. Memories are black boxes in generic gates (their bits are counted), and so are
multipliers of the array on the ECP5. Generic gates are counted as technology mapping leaves them: what ABC
would still save, some 5 percent, takes it minutes. Exit status 2: wrong input, or a tool is missing or has
failed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serrano.accelerator import Accelerator
from serrano.config import PRESETS, AcceleratorConfig, preset
from serrano.verilog import generate

from .tools import CELLS, DEVICES, ToolError, run, taken_by, without_indices

__all__ = ["begin_mark", "main", "page", "per_unit", "resources", "totals"]

UNITS = 3
"""Levels of the hierarchy below the top that are told apart: the first is what lies behind the boundary."""

LEFT_OUT = {"$scopeinfo"}
FLIP_FLOPS = ("$_DFF", "$_SDFF", "$_DFFE", "$_SDFFE", "$_ALDFF", "TRELLIS_FF")
GENERIC = """
    read_verilog {files}
    blackbox serrano_mem_1r1w
    synth -noabc -noshare -top {top}
    opt -fast
    write_json {out}
"""
ECP5 = """
    read_verilog {files}
    synth_ecp5 -noflatten -top {top}
    write_json {out}
"""


def _kinds(cell: Mapping[str, Any], generic: bool) -> dict[str, int]:
    """What a cell counts as."""
    kind = cell["type"]
    if not generic:
        return taken_by(kind)
    if kind.startswith(FLIP_FLOPS):
        return {"ff": 1}
    if kind.startswith("$_"):
        return {"gates": 1}
    if "serrano_mem_1r1w" in kind:
        return {"memory_bits": _parameter(cell, "WIDTH") * _parameter(cell, "DEPTH")}
    return {}


def _parameter(cell: Mapping[str, Any], name: str) -> int:
    value = cell["parameters"][name]
    return int(value, 2) if isinstance(value, str) else int(value)


def _is_inner(modules: Mapping[str, Any], kind: str) -> bool:
    """Whether a cell is a module of the design. Some blocks of the ECP5 come with a model of their timing."""
    blocks = {name for weights in CELLS.values() for name in weights}
    return kind not in blocks and kind in modules and bool(modules[kind]["cells"])


def totals(modules: Mapping[str, Any], name: str, generic: bool, known: dict[str, Any]) -> dict[str, int]:
    """What a module takes, with everything in it; ``known`` keeps what has been counted."""
    if name not in known:
        found: dict[str, int] = {}
        for cell in modules[name]["cells"].values():
            inner = _is_inner(modules, cell["type"])
            more = totals(modules, cell["type"], generic, known) if inner else _kinds(cell, generic)
            for resource, count in more.items():
                found[resource] = found.get(resource, 0) + count
        known[name] = found
    return known[name]


def per_unit(
    modules: Mapping[str, Any], top: str, generic: bool, levels: int = UNITS
) -> dict[str, dict[str, int]]:
    """What each unit takes, by its path below the top; ``(own)`` is what lies in a unit beside its parts."""
    known: dict[str, Any] = {}
    units: dict[str, dict[str, int]] = {}

    def walk(name: str, path: str, left: int) -> None:
        own: dict[str, int] = {}
        for instance, cell in modules[name]["cells"].items():
            inner = _is_inner(modules, cell["type"])
            here = f"{path}.{instance}" if path else instance
            if inner and left > 1:
                walk(cell["type"], here, left - 1)
            elif inner:
                units[here] = totals(modules, cell["type"], generic, known)
            else:
                for resource, count in _kinds(cell, generic).items():
                    own[resource] = own.get(resource, 0) + count
        if own:
            units[f"{path}.(own)" if path else "(own)"] = own

    walk(top, "", levels)
    return units


def resources(total: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """The share of each device that a design takes before place and route."""
    return {
        name: {
            key: round(total.get(key, 0) / getattr(device, key), 3) for key in ("comb", "ff", "dsp", "ebr")
        }
        for name, device in DEVICES.items()
    }


def measure(config: AcceleratorConfig, folder: Path, say: Any) -> dict[str, Any]:
    """Both syntheses of a preset."""
    folder.mkdir(parents=True, exist_ok=True)
    top = "serrano_top"
    say(f"{config.name}: writing the Verilog")
    emission = generate(Accelerator(config), top, clock="aclk", reset="aresetn", reset_active_low=True)
    written = emission.write(folder)
    for file in written:
        file.write_text(without_indices(file.read_text(encoding="utf-8")), encoding="utf-8")
    files = " ".join(file.name for file in written)
    report: dict[str, Any] = {"preset": config.name, "macs": config.n**2}
    for kind, script in (("generic", GENERIC), ("ecp5", ECP5)):
        say(f"{config.name}: Yosys, {kind}; see {folder / f'{kind}.log'}")
        commands = "; ".join(
            line.strip()
            for line in script.format(files=files, top=top, out=f"{kind}.json").splitlines()
            if line.strip()
        )
        begin = time.monotonic()
        run("yosys", ["-q", "-l", f"{kind}.log", "-p", commands], folder, kind)
        modules = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))["modules"]
        total = totals(modules, top, kind == "generic", {})
        report[kind] = {
            "seconds": round(time.monotonic() - begin),
            "total": total,
            "units": per_unit(modules, top, kind == "generic"),
        }
        if kind == "ecp5":
            report["comb_per_mac"] = round(total["comb"] / config.n**2, 1)
            report["devices"] = resources(total)
    return report


def begin_mark(name: str) -> str:
    """The line behind which the table of a preset stands in the documentation."""
    return f"<!-- made by `make area PRESET={name} ARGS=--docs`: begin -->"


END_MARK = "<!-- end of area -->"


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    per_mac = report["comb_per_mac"]
    lines = [
        f"**`{report['preset']}`**: {per_mac} logic cells of the ECP5 per element of the array, all counted.",
        "",
        "| unit | gates | flip-flops | memory bits | ECP5 logic cells | flip-flops | DSP | block RAM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    generic, ecp5 = report["generic"]["units"], report["ecp5"]["units"]
    names = sorted(generic.keys() | ecp5.keys(), key=lambda name: -ecp5.get(name, {}).get("comb", 0))

    def row(name: str, one: Mapping[str, int], other: Mapping[str, int]) -> str:
        cells = [one.get(key, 0) for key in ("gates", "ff", "memory_bits")]
        cells += [other.get(key, 0) for key in ("comb", "ff", "dsp", "ebr")]
        return f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |"

    shown, rest = names[:30], names[30:]
    lines += [row(f"`{name}`", generic.get(name, {}), ecp5.get(name, {})) for name in shown]
    if rest:
        left = [
            {key: sum(part.get(name, {}).get(key, 0) for name in rest) for key in keys}
            for part, keys in (
                (generic, ("gates", "ff", "memory_bits")),
                (ecp5, ("comb", "ff", "dsp", "ebr")),
            )
        ]
        lines.append(row(f"{len(rest)} smaller ones", *left))
    lines.append(row("**all**", report["generic"]["total"], report["ecp5"]["total"]))
    lines += [
        "",
        "| before place and route | logic cells | flip-flops | DSP | block RAM |",
        "|---|---|---|---|---|",
    ]
    for name, shares in report["devices"].items():
        cells = " | ".join(f"{shares[key]:.0%}" for key in ("comb", "ff", "dsp", "ebr"))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """The largest units as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "area"
    units = report["ecp5"]["units"]
    largest = sorted(units, key=lambda name: units[name].get("comb", 0))[-24:]
    figure, axes = pyplot.subplots(figsize=(8, 7), layout="constrained")
    axes.barh(largest, [units[name].get("comb", 0) for name in largest], label="logic cells")
    axes.barh(largest, [-units[name].get("ff", 0) for name in largest], label="flip-flops")
    axes.set_title(
        f"{report['preset']} on the ECP5, by unit: flip-flops to the left, logic cells to the right"
    )
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.synthesis.area", description="Cells of each unit of a preset."
    )
    parser.add_argument("--preset", default="ulx3s", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--json", type=Path, default=Path("build/reports/area.json"), help="report")
    parser.add_argument("--docs", action="store_true", help="bring docs/performance.md up to date")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(f"area: {text}", flush=True)

    try:
        config = preset(options.preset)
        report = measure(config, Path("build/area") / config.name, say)
    except (ValueError, ToolError) as error:
        print(f"area: {error}", file=sys.stderr)
        return 2
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + os.linesep, encoding="utf-8")
    picture = options.json.with_name(f"area-{config.name}.png")
    draw(report, picture)
    print(page(report))
    say(f"report: {options.json}, picture: {picture}")
    if options.docs:
        write_docs(Path("docs/performance.md"), report)
        draw(report, Path("docs/plots") / f"area-{config.name}.svg")
    return 0


def write_docs(path: Path, report: Mapping[str, Any]) -> None:
    """Puts the table of a preset between its marks.

    Raises
    ------
    ValueError
        If the page has no marks for this preset.
    """
    text, mark = path.read_text(encoding="utf-8"), begin_mark(report["preset"])
    before, found, rest = text.partition(mark)
    _, closed, behind = rest.partition(END_MARK)
    if not found or not closed:
        raise ValueError(f"{path} has no place for the area of {report['preset']}")
    path.write_text(f"{before}{mark}\n\n{page(report)}\n{END_MARK}{behind}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
