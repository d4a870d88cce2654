# SPDX-License-Identifier: Apache-2.0
"""The table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..top.figures import PORT_BUSY
from .page import way_text

__all__ = ["show_packets", "show_rows", "show_sums"]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def show_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints all rows."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = ("shape", "preset", "phase", "rows", "context", "memory", "cycles", "per token")
    for name in names:
        table.add_column(name, justify="left" if name in ("shape", "preset", "phase", "memory") else "right")
    for name in ("MBU %", "busy %", "MAC %", "bound %", "est. %", "target", "", "golden"):
        table.add_column(name, justify="left" if name in ("", "golden") else "right")
    for row in rows:
        state = Text("")
        target = ""
        if row["target"]:
            target = f"{100 * row['target_value']:.1f}"
            state = Text("met", "green") if row["met"] else Text("MISS", "bold red")
        table.add_row(
            *(row[name] for name in ("shape", "preset", "phase")),
            str(row["batch"]),
            str(row["context"]),
            row["memory"],
            f"{row['cycles']:,}" + ("*" if row["extrapolated"] else ""),
            f"{row['cycles_per_token']:,.0f}",
            *(_share(row[name]) for name in ("mbu", "port_busy", "mac_utilization", "bound_share")),
            f"{100 * (row['estimated_cycles'] / row['cycles'] - 1):+.2f}",
            target,
            state,
            "=" if row["golden_checked"] else "",
        )
    console.print(table)
    if any(row["extrapolated"] for row in rows):
        console.print("* two layers and the LM head were simulated", style="dim", highlight=False)


def show_sums(console: Console, report: Mapping[str, Any]) -> None:
    """Prints what follows from several rows, and what is in the way where a figure is missed."""
    for figure in report["figures"]:
        state = "[green]met[/]" if figure["met"] else "[bold red]MISSED[/]"
        least, target = figure["least"], figure["target_value"]
        console.print(f"{state} {figure['figure']}: {least:.4g}, at least {target:.4g}", highlight=False)
    for row in report["rows"]:
        if row["met"] is False:
            case = " ".join(
                str(row[name]) for name in ("shape", "preset", "phase", "batch", "context", "memory")
            )
            console.print(f"{case}: {way_text(row)}", highlight=False)
    for found in report["extrapolation"]:
        console.print(
            f"{found['case']}: {found['whole']:,} cycles whole, {found['extrapolated']:,} extrapolated,"
            f" {100 * found['error']:+.2f} %",
            highlight=False,
        )
    for found in report["throughput"]:
        case = " ".join(str(found[name]) for name in ("shape", "preset", "context", "memory"))
        target = f", at least {found['target_value']}" if found["target_value"] else ""
        console.print(
            f"{case}: 16 sequences give {found['times']:.1f} times the tokens of one{target}",
            style="" if found["met"] is not False else "red",
            highlight=False,
        )


def show_packets(console: Console, row: Mapping[str, Any]) -> None:
    """Prints where the cycles of a row went, packet by packet: of array and port only what was in the way."""
    case = " ".join(str(row[name]) for name in ("shape", "preset", "phase", "batch", "context", "memory"))
    table = Table(box=None, padding=(0, 2, 0, 0), title=case, title_justify="left")
    for name in (
        "packet",
        "times",
        "cycles",
        "bound",
        "over",
        "% of step",
        "array not busy",
        "port not busy",
    ):
        left = name in ("packet", "array not busy", "port not busy")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for packet in row["packets"]:
        over = packet["cycles"] - packet["bound_cycles"]
        lost = [
            {name: value for name, value in packet[kind].items() if name not in useful}
            for kind, useful in (("array_cycles", ("busy",)), ("port_cycles", PORT_BUSY))
        ]
        table.add_row(
            packet["packet"],
            str(packet["times"]),
            f"{packet['cycles']:,}",
            f"{packet['bound_cycles']:,}",
            f"{over:,}",
            f"{100 * over / row['cycles']:.2f}",
            *(
                ", ".join(f"{name} {value:,}" for name, value in sorted(part.items(), key=lambda i: -i[1]))
                for part in lost
            ),
        )
    console.print(table)
