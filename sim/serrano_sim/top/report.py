# SPDX-License-Identifier: Apache-2.0
"""What `make sim` tells at its end: the report for programs, and the summary for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from serrano.config import AcceleratorConfig

from .figures import Figures

__all__ = ["build_report", "show_summary"]

BAR, NAME = 32, 34
ARRAY_TEXT = {
    "busy": "a row entered the array",
    "wait_tape": "its weights were not there yet",
    "wait_kv": "its K or V was not there yet",
    "epilogue": "no room for results",
    "serial": "a packet waited for an earlier one",
    "idle": "no step was running",
}
PORT_TEXT = {
    "weights": "weights",
    "kv": "keys and values",
    "other": "embedding, RoPE, rings",
    "no_space": "no room in a buffer",
    "latency": "waiting for memory",
    "no_request": "nothing to fetch",
}
BYTES_TEXT = {
    "weights": "weights, headers and padding",
    "kv_read": "keys and values read",
    "kv_write": "keys and values written",
    "other": "other",
}


def build_report(
    config: AcceleratorConfig,
    *,
    model: str,
    prompt: str,
    prompt_tokens: int,
    tokens: Sequence[int],
    text: str,
    bit_exact: bool,
    errors: Sequence[str],
    figures: Figures | None,
    compared: Mapping[str, int],
    blocks_peak: int | None,
    settings: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The contents of ``sim.json``; figures are ``None`` where there are none.

    ``compared`` has the counts of what was compared, ``settings`` how the memory behaved, ``run`` the cycles
    and the time of the whole run.
    """

    def figure(name: str) -> Any:
        return None if figures is None else getattr(figures, name)

    return {
        "preset": config.name,
        "model": model,
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(tokens),
        "tokens": list(tokens),
        "text": text,
        "bit_exact": bit_exact,
        **compared,
        "cycles": figure("cycles"),
        "cycles_per_token": figure("cycles_per_token"),
        "mbu": figure("mbu"),
        "port_busy": figure("port_busy"),
        "mac_utilization": figure("mac_utilization"),
        "bytes": figure("bytes"),
        "useful_bytes": figure("useful_bytes"),
        "useful_macs": figure("useful_macs"),
        "rows_issued": figure("rows_issued"),
        "array_cycles": figure("array_cycles"),
        "port_cycles": figure("port_cycles"),
        "kv_blocks_peak": blocks_peak,
        "errors": list(errors),
        **settings,
        "run": dict(run),
    }


def _bars(title: str, cycles: Mapping[str, int], names: Mapping[str, str]) -> Table:
    total = sum(cycles.values())
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for justify, width in (("left", NAME), ("left", BAR), ("right", 6), ("right", 11)):
        table.add_column(justify=justify, no_wrap=True, min_width=width)
    table.show_header = False
    for name, value in cycles.items():
        share = value / total if total else 0.0
        bar = "█" * round(share * BAR) or ("▏" if value else "")
        table.add_row(names[name], Text(bar, style="cyan"), f"{share:.1%}", f"{value:,}")
    return table


def _facts(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=NAME)
    table.add_column(justify="right", min_width=11)
    table.add_column(style="dim")
    run = report["run"]
    rows = [
        ("tokens", f"{report['generated_tokens']:,}", f"after a prompt of {report['prompt_tokens']:,}"),
    ]
    if report["cycles"] is not None:
        rows += [
            ("cycles per token", f"{report['cycles_per_token']:,.1f}", ""),
            ("MBU", f"{report['mbu']:.1%}", "of the read port moved bytes that the algorithm needs"),
            ("port busy", f"{report['port_busy']:.1%}", "of the cycles moved a beat"),
            ("MAC utilization", f"{report['mac_utilization']:.1%}", "of the array's multiply-accumulates"),
        ]
        rows += [(f"bytes, {BYTES_TEXT[name]}", f"{value:,}", "") for name, value in report["bytes"].items()]
    if report["kv_blocks_peak"] is not None:
        rows.append(("KV blocks, peak", f"{report['kv_blocks_peak']:,}", ""))
    if run.get("cycles"):
        rate = run["cycles_per_second"]
        told = f"in {run['seconds']:,.1f} s, {rate:,.0f} cycles per second"
        rows.append(("simulated", f"{run['cycles']:,}", f"cycles {told}"))
    for row in rows:
        table.add_row(*row)
    return table


def show_summary(console: Console, report: Mapping[str, Any]) -> None:
    """Prints the summary."""
    parts: list[Any] = [_facts(report)]
    if report["cycles"] is not None:
        parts += [
            "",
            _bars("What the array did", report["array_cycles"], ARRAY_TEXT),
            "",
            _bars("What the read port did", report["port_cycles"], PORT_TEXT),
        ]
    title = f"{report['model']} on {report['preset']}"
    console.print(Panel(Group(*parts), title=title, title_align="left", expand=False))
    if report["bit_exact"]:
        console.print(
            f"[bold green]bit exact[/]: {report['logits_compared']:,} logits,"
            f" {report['elements_compared']:,} elements and {report['kv_bytes_compared']:,} bytes of KV"
            " memory equal the golden model's"
        )
    else:
        console.print("[bold red]not bit exact[/]")
    for error in report["errors"]:
        console.print(Text(f"  {error}", style="red"))
