# SPDX-License-Identifier: Apache-2.0
"""The command line of ``make conformance``."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..runner import SimulationError, build_root
from .recording import Malformed, read
from .rtl import DEFAULT, Result, replay

SHOWN = 20
"""So many differences are printed; the report has more."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.conformance",
        description="Replays recorded block-manager operations against the KV controller's RTL.",
        epilog="Exit status: 0 if all is as recorded, 1 if not, 2 if the file is no recording.",
    )
    parser.add_argument(
        "--file", type=Path, help="the recording (default: ../shared/conformance/kv-ops.jsonl)"
    )
    parser.add_argument("--json", type=Path, help="report (default: build/reports/conformance.json)")
    return parser.parse_args(argv)


def summary(result: Result) -> str:
    """The result in words."""
    outcome = result.outcome
    parts = ", ".join(f"{name} {count:,}" for name, count in outcome.operations.items())
    lines = []
    for title, differences, count in (
        ("mismatch", outcome.listed, result.mismatches),
        ("deliberate", outcome.deliberate, result.deliberate),
    ):
        lines += [f"{title}: {difference}" for difference in differences[:SHOWN]]
        if count > SHOWN:
            lines.append(f"{title}: ... {count - SHOWN:,} more")
    lines.append(
        f"{result.recording.tests:,} tests, {len(result.recording.scripts):,} pools; {parts};"
        f" {outcome.values:,} values, {outcome.refusals:,} refusals among them"
    )
    if outcome.steered:
        lines.append(f"evictions by commands, as the recording has another order: {outcome.steered:,} times")
    lines.append(
        f"{outcome.commands:,} commands, {result.cycles:,} cycles, {result.seconds} s;"
        f" controller of {result.sizes.blocks} blocks, {result.sizes.sequences} sequences of"
        f" {result.sizes.entries} entries"
    )
    lines.append(
        f"{result.operations:,} operations compared: {result.mismatches:,} mismatches,"
        f" {result.deliberate:,} deliberate divergences, {result.leaked:,} blocks leaked"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, runner: Callable[..., Result] = replay) -> int:
    """Exit status: 0 if nothing differed, 1 if something did or the simulation failed, 2 if the file is no
    recording."""
    args = arguments(argv)
    file = args.file or DEFAULT
    if not args.file and not file.exists():
        print(f"conformance: there is no {file}; name another recording: make conformance FILE=...")
        return 2
    try:
        operations = read(file).operations
        columns = (TextColumn("conformance"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task("", total=operations)
            result = runner(file, lambda done: bar.update(task, completed=done))
    except Malformed as error:
        print(f"conformance: {error}")
        return 2
    except SimulationError as error:
        print(f"conformance: {error}")
        return 1
    report = args.json or build_root() / "reports" / "conformance.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result.as_dict(), indent=2) + "\n")
    print(summary(result))
    print(f"report in {report}")
    return 1 if result.mismatches or result.leaked else 0


if __name__ == "__main__":
    sys.exit(main())
