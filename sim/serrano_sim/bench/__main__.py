# SPDX-License-Identifier: Apache-2.0
"""Steps of several models on the Verilog: cycles, both rooflines, and where each cycle went.

The report goes to ``build/reports/bench.json``.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from serrano.config import PRESETS, preset
from serrano_host.errors import CompileError
from serrano_host.estimate import Shape
from serrano_host.presets import MACHINES

from ..runner import SimulationError, build_root
from ..top.design import top_design
from .cases import (
    SHAPES,
    WHOLE_CYCLES,
    Case,
    Piece,
    Plan,
    chosen,
    full_plan,
    pieces_of,
    problems_of,
    quick_plan,
    read_shape,
)
from .cycles import PartitionError
from .page import write_page
from .piece import Measured, measure_piece
from .plots import write_plots
from .report import show_packets, show_rows, show_sums
from .rows import build_row, figures_of, throughput

__all__ = ["arguments", "bench", "main"]

LINE_SECONDS = 15
PAGE = "performance.md"
CHECKED = ("decode", 1, 0)
"""Phase, batch and context of the step of 15m that shows what an extrapolation is worth."""
USAGE, FAILED, INTERRUPTED = 2, 1, 130


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most a quarter of an hour")
    parser.add_argument("--shape", type=Path, help="a model of one's own: JSON with its dimensions, instead")
    parser.add_argument(
        "--presets", help="separated by commas (default: all but wide, each with what is meant for it)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TAGS",
        help="only rows that have all of these, for instance 15m,decode,b1,c256,fixed60; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="say which rows there are, and stop")
    parser.add_argument("--packets", action="store_true", help="tell where each row's cycles went, by packet")
    parser.add_argument("--jobs", type=int, default=2, help="simulations at the same time (default: 2)")
    parser.add_argument(
        "--whole",
        type=float,
        default=WHOLE_CYCLES,
        help="steps up to so many cycles are not extrapolated (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="the report (default: build/reports/bench.json)")
    parser.add_argument("--from", dest="saved", type=Path, help="simulate nothing: show this report")
    parser.add_argument("--docs", action="store_true", help="write plots and tables into docs/performance.md")
    args = parser.parse_args(argv)
    if args.docs and args.shape is not None:
        parser.error("--docs is for the models of the project, not for --shape")
    if args.presets is not None:
        args.presets = [name for name in args.presets.split(",") if name]
        for name in args.presets:
            if name not in PRESETS or name not in MACHINES:
                parser.error(f"--presets: {name} is none of {', '.join(PRESETS)}")
        if not args.presets:
            parser.error("--presets: none is named")
        if args.quick:
            parser.error("--quick is for base; --presets needs --only to be quick")
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args


def plan_of(args: argparse.Namespace) -> tuple[dict[str, Shape], list[Case], list[str]]:
    """Shapes, the rows that are wanted, and why others are not measured.

    Raises
    ------
    CompileError, ValueError
        If the shape cannot be read, or nothing is wanted.
    """
    shapes = dict(SHAPES)
    if args.shape is not None:
        name, shape = read_shape(args.shape)
        shapes = {name: shape}
    cases = quick_plan(list(shapes)) if args.quick else full_plan(list(shapes), args.presets)
    kept, left = [], []
    if not args.quick and args.presets is None:
        left.append("wide, as it takes long to build: --presets wide")
    for case in chosen(cases, args.only):
        problems = problems_of(case, shapes[case.shape])
        if problems:
            left.append(f"{case}: {'; '.join(problems)}")
        else:
            kept.append(case)
    if not kept:
        raise ValueError("\n".join(["nothing is left to be measured", *left]))
    return shapes, kept, left


Measurements = Mapping[Piece, Measured]


class _Stopped(Exception):
    """The bench is to end."""


class Show:
    """Bars where somebody watches, else a line now and then."""

    def __init__(self, console: Console, count: int):
        self._console, self._count, self._done = console, count, 0
        self._lock, self._next = threading.Lock(), time.monotonic()
        self.stop = threading.Event()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[doing]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("all", total=count, doing="")

    def __enter__(self) -> "Show":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    @contextlib.contextmanager
    def piece(self, name: str) -> Iterator[Callable[[str, float], None]]:
        """A piece from its begin to its end; gives what tells how far it is."""
        task: TaskID = self._progress.add_task(name, total=1.0, doing="")

        def tell(doing: str, share: float) -> None:
            if self.stop.is_set():
                raise _Stopped
            self._progress.update(task, completed=share, doing=doing)
            with self._lock:
                if not self._console.is_terminal and time.monotonic() >= self._next:
                    line = f"{self._done} of {self._count}; {name}: {doing} {100 * share:.0f} %"
                    self._console.print(line, highlight=False, markup=False)
                    self._next = time.monotonic() + LINE_SECONDS

        try:
            yield tell
        finally:
            self._progress.remove_task(task)
            self._done += 1
            self._progress.advance(self._all)

    def tell(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(text, style=style, highlight=False, markup=False)


def bench(
    plans: Sequence[Plan], jobs: int, folder: Path, console: Console
) -> tuple[dict[Piece, Measured], dict[Piece, str]]:
    """Simulates all pieces: what was measured, and what broke down."""
    pieces = list(dict.fromkeys(piece for plan in plans for piece in plan.pieces))
    designs = {}
    for name in dict.fromkeys(piece.preset for piece in pieces):
        waiting = lambda name=name: console.print(f"making the Verilog of {name}", highlight=False)  # noqa: E731
        designs[name] = top_design(preset(name), waiting)
    measured: dict[Piece, Measured] = {}
    failed: dict[Piece, str] = {}
    with Show(console, len(pieces)) as show:

        def run(number: int, piece: Piece) -> None:
            with contextlib.suppress(_Stopped), show.piece(piece.name) as tell:
                try:
                    found = measure_piece(piece, designs[piece.preset], folder / str(number), tell)
                except (SimulationError, PartitionError, ValueError) as error:
                    failed[piece] = str(error)
                    show.tell(f"{piece.name}: {error}", "red")
                    return
                measured[piece] = found
                rate = found.simulated / max(found.seconds, 0.001)
                show.tell(f"{piece.name}: {found.cycles:,} cycles ({rate:,.0f} simulated in a second)")

        # The longest ones first, so that the last ones end together.
        order = sorted(enumerate(pieces), key=lambda item: -item[1].cycles() * (1 + item[1].settle))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(run, *item) for item in order]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                show.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return measured, failed


def check_plan(shapes: Mapping[str, Shape], plans: Mapping[Case, Plan]) -> dict[Case, Plan]:
    """Steps that are simulated whole, and once more as if they were too large for it."""
    found = {}
    for case, plan in plans.items():
        if case.shape == "15m" and case.memory == "fixed60" and not plan.extrapolated:
            parts = pieces_of(case, shapes[case.shape], 0)
            if (case.phase, case.batch, case.context) == CHECKED and parts.extrapolated:
                found[case] = parts
    return found


def _extrapolation(case: Case, shape: Shape, plans: Sequence[Plan], measured: Measurements) -> dict[str, Any]:
    """A step that was simulated whole against what is made of its parts."""
    whole, made = (build_row(case, shape, plan, measured)["cycles"] for plan in plans)
    return {"case": str(case), "whole": whole, "extrapolated": made, "error": made / whole - 1}


def present(report: Mapping[str, Any], args: argparse.Namespace, console: Console) -> None:
    """Shows a report, and puts it into the page if that is wanted."""
    show_rows(console, report["rows"])
    show_sums(console, report)
    if args.packets:
        for row in report["rows"]:
            show_packets(console, row)
    if args.docs:
        docs = Path(__file__).resolve().parents[3] / "docs"
        write_page(report, docs / PAGE, write_plots(report, docs / "plots"))
        console.print(f"{docs / PAGE} is up to date", highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Exit status: 0 if all was measured, whether or not targets are met."""
    args = arguments(argv)
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=150)
    if args.saved is not None:
        try:
            report = json.loads(args.saved.read_text())
            present(report, args, console)
        except (OSError, ValueError, KeyError, TypeError) as error:
            console.print(f"bench: {args.saved}: no report ({error!r})", style="red", markup=False)
            return USAGE
        return 0
    try:
        shapes, cases, left = plan_of(args)
    except (CompileError, ValueError) as error:
        console.print(f"bench: {error}", style="red", highlight=False, markup=False)
        return USAGE
    for line in left:
        console.print(f"left out: {line}", style="yellow", highlight=False, markup=False)
    if args.list:
        for case in cases:
            console.print(str(case), highlight=False)
        return 0
    plans = {case: pieces_of(case, shapes[case.shape], args.whole) for case in cases}
    checks = check_plan(shapes, plans)
    root, began = build_root(), time.monotonic()
    runs = root / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=runs))
    with contextlib.suppress(OSError):
        os.nice(10 - os.nice(0))
    try:
        measured, failed = bench([*plans.values(), *checks.values()], args.jobs, folder, console)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        console.print("interrupted", style="red")
        return INTERRUPTED
    there = {case: plan for case, plan in plans.items() if set(plan.pieces) <= set(measured)}
    rows = [build_row(case, shapes[case.shape], plan, measured) for case, plan in there.items()]
    checked = [
        _extrapolation(case, shapes[case.shape], (plans[case], parts), measured)
        for case, parts in checks.items()
        if case in there and set(parts.pieces) <= set(measured)
    ]
    times = throughput(rows)
    report = {
        "rows": rows,
        "figures": figures_of(rows, times),
        "extrapolation": checked,
        "throughput": times,
        "shapes": {name: vars(shapes[name]) for name in dict.fromkeys(case.shape for case in cases)},
        "failed": {piece.name: error for piece, error in failed.items()},
        "left_out": left,
        "quick": args.quick,
        "seconds": round(time.monotonic() - began, 1),
    }
    file = args.json or root / "reports" / "bench.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    present(report, args, console)
    if rows:
        write_plots(report, file.parent, f"{file.stem}-")
    if failed:
        console.print(f"files of the runs: {folder}", highlight=False, soft_wrap=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(f"{file}; {report['seconds']} s", highlight=False, soft_wrap=True)
    return FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
