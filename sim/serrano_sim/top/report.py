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

__all__ = ["build_report", "request_report", "show_summary"]

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


def request_report(
    *,
    prompt: str,
    prompt_tokens: int,
    tokens: Sequence[int],
    text: str,
    figures: Figures | None,
    blocks_peak: int | None,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """What the report tells about one request; figures are ``None`` where there are none.

    ``run`` has cycles and time from doorbell to last completion.
    """

    def figure(name: str) -> Any:
        return None if figures is None else getattr(figures, name)

    return {
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "generated_tokens": len(tokens),
        "tokens": list(tokens),
        "text": text,
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
        "run": dict(run),
    }


def build_report(
    config: AcceleratorConfig,
    *,
    model: str,
    requests: Sequence[Mapping[str, Any]],
    bit_exact: bool,
    errors: Sequence[str],
    compared: Mapping[str, int],
    settings: Mapping[str, Any],
    prefix: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of ``sim.json``.

    ``requests`` are those of :func:`request_report`: the one that was asked for; with a second prompt also
    that one, with blocks of the first and alone, and ``prefix`` is what was saved. ``compared`` has the
    counts of what was compared, ``settings`` how the memory behaved.
    """
    first, *others = requests
    return {
        "preset": config.name,
        "model": model,
        "bit_exact": bit_exact,
        **compared,
        **first,
        "errors": list(errors),
        **settings,
        **dict(zip(("second", "alone"), others, strict=False)),
        **({} if prefix is None else {"prefix": dict(prefix)}),
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


METHOD_TEXT = {
    "nothing": "nothing was shared",
    "share": "by SHARE of whole blocks",
    "share and trim": "by SHARE of sealed blocks, TRIM, and a copy of the last one",
    "fork and trim": "by FORK, TRIM, and a copy of the last block",
}


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _savings(report: Mapping[str, Any]) -> Table:
    """The second prompt with the first one's blocks, and alone."""
    prefix = report["prefix"]
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title_style="bold")
    table.title = "The second prompt, with blocks of the first and alone"
    table.add_column(style="dim", min_width=NAME)
    for name in ("shared", "alone", "saved"):
        table.add_column(name, justify="right", min_width=11)
    rows = (
        ("cycles", "cycles"),
        ("cycles to the first token", "cycles_to_first_token"),
        ("steps", "steps"),
        ("KV blocks taken from the pool", "blocks_allocated"),
        ("bytes written to KV memory", "kv_bytes_written"),
    )
    for text, name in rows:
        values = prefix[name]
        cells = [_number(values[column]) for column in ("shared", "alone", "saved")]
        if values["saved"] is not None and values["alone"]:
            cells.append(f"{values['saved'] / values['alone']:.1%}")
        table.add_row(text, *cells)
    return table


def _prefix_facts(report: Mapping[str, Any]) -> Table:
    prefix = report["prefix"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=NAME)
    table.add_column(justify="right", min_width=11)
    table.add_column(style="dim")
    rows = (
        ("common prefix, tokens", "common_tokens", ""),
        ("of these not computed again", "reused_tokens", METHOD_TEXT[prefix["method"]]),
        ("KV blocks shared", "blocks_shared", f"{prefix['memory_saved_bytes']:,} bytes of memory saved"),
        ("KV blocks copied", "blocks_copied", f"{prefix['kv_bytes_copied']:,} bytes"),
        ("K and V not computed again, bytes", "kv_bytes_not_computed", ""),
        ("KV commands of the host for it", "host_commands", f"{prefix['host_command_cycles']:,} cycles"),
    )
    for text, name, more in rows:
        table.add_row(text, _number(prefix[name]), more)
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
    if "second" in report:
        parts.insert(0, Text("The first prompt", style="bold"))
    if "prefix" in report:
        parts += ["", _prefix_facts(report), "", _savings(report)]
    title = f"{report['model']} on {report['preset']}"
    console.print(Panel(Group(*parts), title=title, title_align="left", expand=False))
    if "second" in report:
        for name, request in (("first", report), ("second", report["second"])):
            text = Text(f"{name} text: ", style="dim")
            console.print(text.append(request["prompt"]).append(request["text"], style="not dim bold"))
    if report["bit_exact"]:
        console.print(
            f"[bold green]bit exact[/]: {report['logits_compared']:,} logits,"
            f" {report['elements_compared']:,} elements and {report['kv_bytes_compared']:,} bytes of KV"
            " memory equal the golden model's"
        )
        if "prefix" in report:
            prefix = report["prefix"]
            console.print(
                f"second prompt, shared and alone: {prefix['logits_equal']:,} logits and"
                f" {prefix['elements_equal']:,} elements of {prefix['positions_compared']:,} positions"
                " are equal"
            )
    else:
        console.print("[bold red]not bit exact[/]")
    for error in report["errors"]:
        console.print(Text(f"  {error}", style="red"))
