# SPDX-License-Identifier: Apache-2.0
"""The figures of the KV controller and its data path, measured on the RTL, each against its limit.

The report goes to ``build/reports/kvcache.json``. Exit status 1 if a limit is missed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from serrano.config import preset

from ..conformance import Malformed
from ..runner import SimulationError, build_root
from .commands import run_commands, run_translate
from .figure import Figure, Result, Scope, State, equal
from .gather import run as run_gather
from .moves import run as run_moves
from .outside import run_conformance, run_formal, run_random_commands
from .report import build_report, failed, show_figures
from .waste import run as run_waste

__all__ = ["PARTS", "arguments", "bench", "main"]

PARTS: dict[str, Callable[[Scope], Result]] = {
    "gather": run_gather,
    "translate": run_translate,
    "commands": run_commands,
    "moves": run_moves,
    "waste": run_waste,
    "random": run_random_commands,
    "conformance": run_conformance,
    "formal": run_formal,
}

LINE_SECONDS = 10
COMMANDS, QUICK_COMMANDS = 200_000, 4_000


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serrano_sim.kv_bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything; limits on amounts rest")
    parser.add_argument("--commands", type=int, help=f"random commands (default: {COMMANDS:,})")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (default: 1)")
    parser.add_argument(
        "--only", action="append", choices=list(PARTS), help="only this part; may be repeated"
    )
    parser.add_argument("--json", type=Path, help="the report (default: build/reports/kvcache.json)")
    args = parser.parse_args(argv)
    if args.commands is None:
        args.commands = QUICK_COMMANDS if args.quick else COMMANDS
    if args.commands < 1:
        parser.error("--commands must be at least 1")
    return args


class Lines:
    """Progress where nobody watches: one line now and then."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console, self._clock = console, clock
        self._next = clock()

    def tell(self, text: str) -> None:
        """Prints a line, unless there was one just before."""
        if not self._console.is_terminal and self._clock() >= self._next:
            self._console.print(text, highlight=False)
            self._next = self._clock() + LINE_SECONDS


def bench(
    scope: Scope, parts: Mapping[str, Callable[[Scope], Result]], console: Console
) -> tuple[dict[str, Result], dict[str, list[Figure]]]:
    """Runs the parts; a part that breaks down is a figure that misses its limit."""
    results: dict[str, Result] = {}
    figures: dict[str, list[Figure]] = {}
    for name, part in parts.items():
        began = time.monotonic()
        lines = Lines(console)
        with console.status(name) as status:

            def progress(text: str, name: str = name, status: Any = status, lines: Lines = lines) -> None:
                status.update(f"{name}: {text}")
                lines.tell(f"{name}: {text}")

            try:
                results[name] = part(Scope(**{**vars(scope), "progress": progress}))
                figures[name] = list(results[name].figures)
            except (Malformed, SimulationError, ValueError) as error:
                console.print(f"{name}: {error}", style="red", markup=False, highlight=False)
                first = str(error).partition("\n")[0]
                results[name] = Result()
                figures[name] = [Figure(name, "broke down", "", State.MISS, first)]
        if (leaked := results[name].leaked) is not None:
            figures[name].append(equal("blocks leaked", leaked, 0))
        console.print(f"{name}: {time.monotonic() - began:.1f} s", highlight=False)
    return results, figures


def run_folder(root: Path) -> Path:
    """A new folder for the runs' files."""
    runs = root / "sim" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="kv_bench-", dir=runs))


def main(
    argv: Sequence[str] | None = None,
    parts: Mapping[str, Callable[[Scope], Result]] = PARTS,
    console: Console | None = None,
) -> int:
    """Exit status: 0 if no limit is missed, else 1."""
    args = arguments(argv)
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=150)
    root, began = build_root(), time.monotonic()
    scope = Scope(
        config=preset("base"),
        quick=args.quick,
        commands=args.commands,
        seed=args.seed,
        folder=run_folder(root),
        reports=root / "reports",
    )
    chosen = {name: part for name, part in parts.items() if args.only is None or name in args.only}
    results, figures = bench(scope, chosen, console)
    seconds = round(time.monotonic() - began, 1)
    settings = {
        "preset": scope.config.name,
        "quick": args.quick,
        "seed": args.seed,
        "parts": list(chosen),
        "seconds": seconds,
    }
    report = build_report(results, figures, settings)
    file = args.json or scope.reports / "kvcache.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    show_figures(console, figures)
    missed = [figure.name for group in figures.values() for figure in failed(group)]
    if missed:
        console.print(f"files of the runs: {scope.folder}", highlight=False, soft_wrap=True)
    else:
        shutil.rmtree(scope.folder)
    verdict = f"limits missed: {', '.join(missed)}" if missed else "every limit that was measured is kept"
    console.print(f"{verdict}; {seconds} s", style="red" if missed else "green", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
