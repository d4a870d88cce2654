# SPDX-License-Identifier: Apache-2.0
"""Latency and throughput of served prompts, in cycles."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from serrano_host.driver import Stats

from .session import Served

__all__ = ["build_report", "distribution", "percentile", "show_report"]

PERCENTILES = (50, 90, 99)


def percentile(values: Sequence[int], p: float) -> int:
    """The smallest value that at least `p` percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(p / 100 * len(ordered))) - 1]


def distribution(values: Sequence[int]) -> dict[str, float] | None:
    """Count, mean, extremes and percentiles; ``None`` without values."""
    if not values:
        return None
    found: dict[str, float] = {"count": len(values), "mean": round(sum(values) / len(values), 1)}
    found |= {f"p{p}": percentile(values, p) for p in PERCENTILES}
    return found | {"min": min(values), "max": max(values)}


def _gaps(cycles: Sequence[int | None]) -> list[int]:
    return [after - before for before, after in itertools.pairwise(cycles) if before is not None]


def _first(served: Served) -> int | None:
    """Cycles from arrival to the first token."""
    cycles = served.handle.cycles if served.handle else []
    if not cycles or cycles[0] is None or served.arrival is None:
        return None
    return cycles[0] - served.arrival


def _request(served: Served, start: int | None) -> dict[str, Any]:
    handle, wanted = served.handle, served.wanted

    def relative(cycle: int | None) -> int | None:
        return None if cycle is None or start is None else cycle - start

    return {
        "index": served.index,
        "number": handle.number if handle else None,
        "tenant": wanted.tenant,
        "prompt": wanted.text,
        "prompt_tokens": len(wanted.prompt_ids),
        "max_new": wanted.max_new,
        "tokens": list(served.tokens),
        "text": served.text,
        "status": handle.status if handle else None,
        "error": served.error,
        "arrival": relative(served.arrival),
        "submitted": relative(handle.submitted) if handle else None,
        "token_cycles": [relative(cycle) for cycle in handle.cycles] if handle else [],
        "ended": relative(handle.ended_at) if handle else None,
        "time_to_first_token": _first(served),
        "inter_token_latency": distribution(_gaps(handle.cycles)) if handle else None,
    }


def build_report(
    served: Sequence[Served], start: int | None, stats: Stats, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as it goes to a file.

    Parameters
    ----------
    served : sequence of Served
        What became of the prompts.
    start : int or None
        Cycle in which serving began; all cycles of the report count from it.
    stats : Stats
        The device's, afterwards.
    about : mapping
        What ran: put in front.
    """
    handles = [one.handle for one in served if one.handle]
    tokens = sum(len(handle.tokens) for handle in handles)
    last = max((h.ended_at for h in handles if h.ended_at is not None), default=None)
    cycles = None if last is None or start is None else last - start
    throughput: dict[str, Any] = {"tokens": tokens, "cycles": cycles}
    if cycles and tokens:
        throughput |= {
            "cycles_per_token": round(cycles / tokens, 1),
            "tokens_per_million_cycles": round(1e6 * tokens / cycles, 3),
        }
    return {
        **about,
        "requests_served": sum(one.ended and not one.error for one in served),
        "requests_failed": sum(bool(one.error) for one in served),
        "time_to_first_token": distribution([f for one in served if (f := _first(one)) is not None]),
        "inter_token_latency": distribution([gap for handle in handles for gap in _gaps(handle.cycles)]),
        "throughput": throughput,
        "kv_blocks": {"there": stats.kv_blocks, "used": stats.kv_used, "peak": stats.kv_peak},
        "counters": dict(stats.counters),
        "faults": [{**vars(fault), "text": str(fault)} for fault in stats.faults],
        "requests": [_request(one, start) for one in served],
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """Prints a report for people."""
    latencies = Table(title="latency in cycles", title_justify="left", box=None, padding=(0, 2, 0, 0))
    names = ("p50", "p90", "p99", "mean", "min", "max", "count")
    latencies.add_column("", style="dim")
    for name in names:
        latencies.add_column(name, justify="right")
    for key, title in (
        ("time_to_first_token", "to the first token"),
        ("inter_token_latency", "between tokens"),
    ):
        values = report[key] or {}
        latencies.add_row(title, *(_number(values.get(name)) for name in names))
    throughput, blocks = report["throughput"], report["kv_blocks"]
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_column(style="dim")
    rows.add_column()
    failed = f", {report['requests_failed']} failed" if report["requests_failed"] else ""
    rows.add_row("requests", f"{report['requests_served']} served{failed}")
    rows.add_row("tokens", _number(throughput["tokens"]))
    if throughput["cycles"] is not None:
        rows.add_row("cycles", _number(throughput["cycles"]))
    if "cycles_per_token" in throughput:
        per_million = throughput["tokens_per_million_cycles"]
        rows.add_row(
            "throughput",
            f"{throughput['cycles_per_token']:,} cycles per token, {per_million:,} tokens per million cycles",
        )
    rows.add_row(
        "KV blocks", f"{blocks['peak']:,} at most of {blocks['there'] - 1:,}, {blocks['used']:,} now"
    )
    for fault in report["faults"]:
        rows.add_row("fault", fault["text"])
    for one in report["requests"]:
        if one["error"]:
            rows.add_row(f"request {one['index']}", one["error"])
    console.print(Group(latencies, rows))
