# SPDX-License-Identifier: Apache-2.0
"""The table for people and the report for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figure import Figure, Result, State

__all__ = ["KEYS", "build_report", "failed", "show_figures"]

KEYS = (
    "gather_cycles_paged",
    "gather_cycles_contiguous",
    "gather_port_share",
    "command_cycles",
    "random_commands",
    "random_mismatches",
    "command_coverage",
    "error_coverage",
    "conformance",
    "formal",
    "leaked_blocks",
)
"""Keys that a report always has; ``None`` where a part was not run."""

_STYLES = {State.PASS: "green", State.MISS: "bold red", State.TOLD: "dim", State.NOT_RUN: "yellow"}


def failed(figures: Sequence[Figure]) -> list[Figure]:
    """Figures that miss their limit."""
    return [figure for figure in figures if figure.state is State.MISS]


def build_report(
    results: Mapping[str, Result], figures: Mapping[str, Sequence[Figure]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of ``kvcache.json``."""
    report: dict[str, Any] = dict.fromkeys(KEYS)
    for result in results.values():
        for key, value in result.keys.items():
            if isinstance(value, dict) and isinstance(report.get(key), dict):
                report[key] = {**report[key], **value}
            else:
                report[key] = value
    leaks = [result.leaked for result in results.values() if result.leaked is not None]
    report["leaked_blocks"] = sum(leaks) if leaks else None
    report["passed"] = not any(failed(group) for group in figures.values())
    report["figures"] = [
        {
            "part": part,
            "name": figure.name,
            "value": figure.value,
            "limit": figure.limit,
            "state": figure.state.value.lower() or "told",
            "note": figure.note,
        }
        for part, group in figures.items()
        for figure in group
    ]
    report["details"] = {part: result.details for part, result in results.items() if result.details}
    return {**report, **settings}


def show_figures(console: Console, figures: Mapping[str, Sequence[Figure]]) -> None:
    """Prints all figures, part by part."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, style in (("figure", ""), ("measured", ""), ("limit", ""), ("", ""), ("", "dim")):
        table.add_column(name, style=style, header_style="bold", overflow="fold")
    for part, group in figures.items():
        table.add_row(Text(part, style="bold cyan"))
        for figure in group:
            state = Text(figure.state.value, style=_STYLES[figure.state])
            cells = (figure.name, figure.value, figure.limit)
            table.add_row(*map(Text, cells), state, Text(figure.note))
    console.print(table)
