# SPDX-License-Identifier: Apache-2.0
"""`make fpga`: a board's bitstream and a report of what place and route reached.

``python -m serrano_sim.synthesis.fpga BOARD`` builds the whole board top, ``--unit array`` the array alone in
a wrapper of shift registers. What the board top takes of its device before place and route is written to
``build/reports/estimate-BOARD.json``; ``--estimate`` ends there. Exit status 1: the clock is not met at the
median of the seeds; 2: wrong input, or a tool that is missing or has failed, or a device that is too small.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from amaranth.back import rtlil

from serrano.boards import BOARDS, Board, board
from serrano.boards.ecp5 import ECP5Blocks
from serrano.boards.pll import Clocking
from serrano.boards.shell import Shell, platform_of
from serrano.config import PRESETS, preset
from serrano.matmul.array import SystolicArray
from serrano_host.estimate import Memory, Shape, Span, estimate, read_config
from serrano_host.presets import MACHINES

from .place_and_route import place, reached
from .tools import DEVICES, ToolError, pack, synthesize, utilization
from .units import per_unit, table
from .wrapper import ShiftWrapper

__all__ = ["SHAPES", "estimated", "main", "memory_of", "summarize", "tokens_per_second"]

SHAPES = {
    "jargon (the checkpoint of this repository)": "models/jargon",
    "15m": Shape(dim=288, ffn=768, layers=6, heads=6, kv_heads=6, head_dim=48, vocab=32000),
}
"""Models whose tokens per second are computed; a text is a folder with a config.json."""

AIMS = 1.0, 1.03
"""How fast the router is to make the design, in parts of the clock; the next one where one is reached."""

LEVELS = 4
"""Levels of the hierarchy whose units are told apart: board, accelerator, data path, its units."""

CONTEXT = 128
"""Committed tokens of the one sequence that decodes."""


def memory_of(described: Board, clock_hz: float) -> Memory:
    """The board's SDRAM as estimates know memories: pages that open, refresh, a bus that turns round."""
    part, cycle = described.sdram, 1e9 / clock_hz

    def cycles(nanoseconds: float) -> int:
        return -int(-nanoseconds // cycle)

    return Memory(
        latency=cycles(part.t_rcd) + described.cas_latency + 6,
        opening=0,
        interval=int(part.t_refi / cycle),
        pause=cycles(part.t_rp) + cycles(part.t_rfc) + cycles(part.t_rcd),
        to_write=2,
        to_read=described.cas_latency + 2,
        banks=1 << part.bank_bits,
        row_bytes=part.data_bits // 8 << part.column_bits,
    )


def tokens_per_second(described: Board, clock_hz: float) -> dict[str, dict[str, Any]]:
    """Computed from the estimate of a step's cycles, not measured: one sequence that decodes."""
    found = {}
    for name, source in SHAPES.items():
        shape = source if isinstance(source, Shape) else Shape.of(read_config(Path(source)))
        step = estimate(
            MACHINES[described.preset], shape, [Span(CONTEXT)], None, memory_of(described, clock_hz)
        )
        found[name] = {
            "computed": True,
            "cycles_per_token": round(step.cycles),
            "tokens_per_second": round(clock_hz / step.cycles, 2),
            "of_sdram_bandwidth": round(step.mbu, 4),
        }
    return found


def summarize(
    name: str,
    device: str,
    clock_mhz: float,
    reports: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    macs: int,
) -> dict[str, Any]:
    """The report of some seeds: the frequencies of the slowest clock, and what the design takes."""
    fmax = [round(reached(report), 1) for report in reports]
    used = reports[0]["utilization"]
    comb = used["TRELLIS_COMB"]["used"]
    median = statistics.median(fmax)
    return {
        "board": name,
        "device": device,
        "seeds": list(seeds),
        "fmax_mhz": fmax,
        "fmax_median_mhz": median,
        "clock_mhz": clock_mhz,
        "comb": comb,
        "ff": used["TRELLIS_FF"]["used"],
        "dsp": used["MULT18X18D"]["used"],
        "ebr": used["DP16KD"]["used"],
        "comb_per_mac": round(comb / macs, 1),
        "meets_timing": median >= clock_mhz,
    }


def _say(text: str) -> None:
    print(f"fpga: {text}", flush=True)


def _place_all(folder: Path, seeds: Sequence[int], **options: Any) -> list[dict[str, Any]]:
    """Reports of all seeds, as many at once as there are processors."""

    def of(seed: int) -> dict[str, Any]:
        _say(f"placing and routing, seed {seed}: see {folder / f'seed{seed}.*.log'}")
        report = place(folder, seed=seed, **options)
        _say(f"seed {seed}: {reached(report):.1f} MHz")
        return report

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(of, seeds))


def estimated(used: Mapping[str, int], device: str) -> dict[str, Any]:
    """What a design takes of a device before place and route, and whether that is there."""
    there = {key: getattr(DEVICES[device], key) for key in used}
    over = [key for key, value in used.items() if value > there[key]]
    share = {key: round(value / there[key], 3) for key, value in used.items()}
    return {"device": device, **used, "there": there, "share": share, "too_many": over, "fits": not over}


def _tell_utilization(cells: Any, device: str, report: Path | None = None, **known: Any) -> dict[str, Any]:
    """Says what a design takes, and writes it to a file.

    Raises
    ------
    ToolError
        If there is not as much.
    """
    found = known | estimated(utilization(cells), device)
    text = ", ".join(f"{found[key]} of {value} {key}" for key, value in found["there"].items())
    _say(f"before place and route: {text}")
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(found, indent=2) + os.linesep, encoding="utf-8")
        _say(f"estimate: {report}")
    if not found["fits"]:
        raise ToolError(f"the design does not fit {device}: too many {', '.join(found['too_many'])}")
    return found


def aimed(clock_mhz: float) -> str:
    """Constraints of the clock's nets, as LPF, in place of those that follow from the PLL."""
    return "".join(f'FREQUENCY NET "{net}" {clock_mhz:.2f} MHZ;\n' for net in ("pll_clk", "clk"))


def build_board(
    described: Board, seeds: Sequence[int], clock_hz: int, folder: Path, *, estimate_only: bool = False
) -> dict[str, Any]:
    """Builds the board's top; the bitstream of the best seed is ``folder/BOARD.bit``."""
    platform = platform_of(described)
    Clocking.of(platform.default_clk_frequency, clock_hz)
    _say(f"{described.title}, preset {described.preset}, {clock_hz / 1e6:g} MHz: writing the design")
    plan = platform.build(Shell(described, clock_hz=clock_hz), name="top", do_build=False)
    _say("synthesis with Yosys, some minutes")
    netlist = synthesize(plan.files["top.il"], folder)
    report = Path("build/reports") / f"estimate-{described.name}.json"
    units = per_unit(netlist, LEVELS)
    known = {"board": described.name, "preset": described.preset, "units": units}
    if estimate_only:
        _say(f"by unit, as far as cells have kept its name:\n{table(units)}")
    found = _tell_utilization(netlist["cells"], platform.device, report, **known)
    if estimate_only:
        return found
    constraints = plan.files["top.lpf"]
    clock_mhz = clock_hz / 1e6
    (folder / "top.lpf").write_text(
        constraints if isinstance(constraints, str) else constraints.decode(), encoding="utf-8"
    )
    aims = [f"aim{number}.lpf" for number in range(len(AIMS))]
    for name, part in zip(aims, AIMS, strict=True):
        (folder / name).write_text(aimed(clock_mhz * part), encoding="utf-8")
    package = platform._nextpnr_package_options[platform.package]
    reports = _place_all(
        folder, seeds, device=platform.device, package=package, speed=platform.speed,
        clock_mhz=clock_mhz, constraints="top.lpf", aims=aims,
    )  # fmt: skip
    config = PRESETS[described.preset]
    summary = summarize(described.name, platform.device, clock_mhz, reports, seeds, config.n**2)
    best = seeds[summary["fmax_mhz"].index(max(summary["fmax_mhz"]))]
    summary["bitstream"] = str(pack(folder, best, f"{described.name}.bit"))
    summary["tokens"] = tokens_per_second(described, clock_hz)
    return summary


def build_array(preset: str, seeds: Sequence[int], clock_mhz: float, folder: Path) -> dict[str, Any]:
    """Places and routes the array alone on an ECP5-85F, between shift registers."""
    config = PRESETS[preset]
    wrapper = ShiftWrapper(SystolicArray(config))
    _say(f"array of {preset}, {config.n} x {config.n}: synthesis")
    text = rtlil.convert(
        wrapper, name="top", platform=ECP5Blocks(), ports=[wrapper.shift_in, wrapper.folded], emit_src=False
    )
    _tell_utilization(synthesize(text, folder)["cells"], "LFE5U-85F")
    reports = _place_all(
        folder, seeds, device="LFE5U-85F", package="CABGA381", speed="6", clock_mhz=clock_mhz, placer="heap"
    )
    summary = summarize(f"array of {preset}", "LFE5U-85F", clock_mhz, reports, seeds, config.n**2)
    return summary | {"macs_per_dsp": round(config.n**2 / summary["dsp"], 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.synthesis.fpga", description="Place and route a board's top."
    )
    parser.add_argument("board", nargs="?", default="ulx3s_85f", help=f"one of {', '.join(BOARDS)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (default: %(default)s)")
    parser.add_argument("--clock", type=float, help="MHz, instead of the board's own")
    parser.add_argument("--preset", help=f"another preset than the board's: {', '.join(PRESETS)}")
    parser.add_argument("--estimate", action="store_true", help="end before place and route")
    parser.add_argument("--unit", choices=["array"], help="the array alone instead of the board's top")
    parser.add_argument("--json", type=Path, help="report (default: build/reports/fpga.json)")
    options = parser.parse_args(arguments)
    try:
        described = board(options.board)
        if options.preset:
            described = dataclasses.replace(described, preset=preset(options.preset).name)
        if options.seeds < 1:
            raise ValueError(f"seeds must be at least 1, not {options.seeds!r}")
        seeds = range(1, options.seeds + 1)
        if options.unit:
            folder = Path("build/fpga") / f"{described.preset}-array"
            summary = build_array(described.preset, seeds, options.clock or 170.0, folder)
        else:
            clock_hz = round(options.clock * 1e6) if options.clock else described.clock_hz
            folder = Path("build/fpga") / described.name
            summary = build_board(described, seeds, clock_hz, folder, estimate_only=options.estimate)
    except (ValueError, ToolError) as error:
        print(f"fpga: {error}", file=sys.stderr)
        return 2
    if options.estimate and not options.unit:
        return 0
    name = "fpga-array.json" if options.unit else "fpga.json"
    report = options.json or Path("build/reports") / name
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(summary, indent=2) + os.linesep, encoding="utf-8")
    for key, value in summary.items():
        _say(f"{key}: {value}")
    _say(f"report: {report}")
    if not summary["meets_timing"]:
        _say(f"timing is NOT met: {summary['fmax_median_mhz']} MHz of {summary['clock_mhz']:g} MHz")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
