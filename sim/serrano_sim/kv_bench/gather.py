# SPDX-License-Identifier: Apache-2.0
"""Gather through scattered blocks, through neighbouring ones, and as many bytes read in one run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory.handle import Trace
from .arithmetic import Window, scattered
from .figure import Figure, Result, Scope, at_least, at_most, equal, told
from .measure import measure
from .pages import Pages

__all__ = ["run", "window_of"]

TOKENS = 2048
RECORDS = 8
"""Records in a block: two layers of four KV heads."""

BLOCKS = 1024
LATENCY = 60

_BEAT = np.dtype([("bytes", "u1", (16,)), ("flags", "u1")])
_EVENT = np.dtype([("what", "u1"), ("ended", "u1"), ("lookup", "u1"), ("block", "<u2")])
GATHER_TAKEN, GATHER_ENDED, LINEAR_TAKEN, ASKED, ANSWERED = 1, 2, 4, 32, 64
OVERHEAD_MAX, SHARE_MIN = 0.001, 0.99


def _row(
    name: str,
    head_dim: int,
    latency: int = LATENCY,
    stall: float = 0.0,
    step: bool = False,
    dram: str = "",
    traffic: bool = False,
) -> dict[str, Any]:
    records = list(range(RECORDS)) if step else [RECORDS // 2]
    return {
        "name": name,
        "pages": {"blocks": BLOCKS, "records": RECORDS, "head_dim": head_dim, "seed": head_dim},
        "records": records,
        "tokens": TOKENS,
        "latency": latency,
        "stall": stall,
        "dram": dram,
        "traffic": traffic,
        "seed": 1 + latency,
    }


def rows(quick: bool) -> list[dict[str, Any]]:
    """What is measured; the first row is the one that the limits speak of."""
    few = [_row("one head", 64), _row("head_dim 48", 48)]
    if quick:
        return few
    return [
        few[0],
        _row(f"{RECORDS} heads in a row, as in a step", 64, step=True),
        few[1],
        _row("head_dim 128", 128),
        _row("head_dim 8", 8),
        _row("while commands come without a pause", 64, traffic=True),
        _row("latency 1", 64, latency=1),
        _row("latency 200", 64, latency=200),
        _row("channels stalled at random, 0.3", 64, stall=0.3),
        _row("DDR3-1600, 30 cycles away", 64, latency=30, step=True, dram="ddr3-1600"),
    ]


def window_of(cycles: NDArray, taken: int) -> Window:
    """The window of beats in these cycles after a command was taken.

    Raises
    ------
    ValueError
        If there are no beats.
    """
    if not len(cycles):
        raise ValueError("No beat came")
    return Window(int(taken), int(cycles[0]), int(cycles[-1]), len(cycles))


def _slice(trace: Trace, begin: int, end: int) -> slice:
    return slice(*np.searchsorted(trace.cycles, (begin, end)))


def _check(name: str, got: NDArray, wanted: NDArray, record_beats: int | None) -> int:
    """Bytes that are not as they are wanted; marks must all be right."""
    found = got["bytes"].reshape(-1)
    if len(found) != len(wanted):
        raise ValueError(f"Gather, {name}: {len(found):,} bytes came, not {len(wanted):,}")
    if (got["flags"] & 2).any():
        raise ValueError(f"Gather, {name}: a beat is marked as an error")
    if record_beats and not np.array_equal(
        np.flatnonzero(got["flags"] & 1) % record_beats, np.full(len(got) // record_beats, record_beats - 1)
    ):
        raise ValueError(f"Gather, {name}: the ends of records are not where they belong")
    return int(np.count_nonzero(found != wanted))


def evaluate(
    row: dict[str, Any], windows: dict[str, Any], tables: Sequence, folder: Path
) -> tuple[dict[str, Window], int]:
    """The windows of a row's three readings, and how many of their bytes are not the golden pages'.

    Raises
    ------
    ValueError
        If the number of bytes, or a mark or status is wrong.
    """
    pages = Pages(**row["pages"])
    image = pages.image()
    events = Trace.read("events", folder=folder)
    found, differing = {}, 0
    for name, (begin, end) in windows.items():
        linear = name == "linear"
        trace = Trace.read("linear" if linear else "beats", folder=folder)
        here = _slice(trace, begin, end)
        what = events.fields(_EVENT)[(span := _slice(events, begin, end))]
        taken = events.cycles[span][(what["what"] & (LINEAR_TAKEN if linear else GATHER_TAKEN)) != 0]
        found[name] = window_of(trace.cycles[here], taken[0])
        table = tables[int(name == "paged")]
        records = row["records"][:1] if linear else row["records"]
        wanted = np.concatenate([pages.gathered(image, table, record) for record in records])
        beats = pages.record_bytes // 16
        label = f"{row['name']}, {name}"
        differing += _check(label, trace.fields(_BEAT)[here], wanted, None if linear else beats)
        ended = what["ended"][(what["what"] & GATHER_ENDED) != 0]
        if not linear and (len(ended) != len(records) or ended.any()):
            raise ValueError(f"Gather, {label}: statuses {ended.tolist()}")
    return found, differing


def _figures(row: dict[str, Any], windows: dict[str, Window], main: bool, meanwhile: int = 0) -> list[Figure]:
    paged, contiguous, linear = (windows[name] for name in ("paged", "contiguous", "linear"))
    over = paged.cycles / contiguous.cycles - 1
    text = f"{paged.cycles:,} of {contiguous.cycles:,} cycles, {over:+.3%}"
    heads = len(row["records"])
    shares = f"{paged.share:.3%}; {paged.steady_share:.3%} from first to last beat"
    plain = heads * linear.cycles
    note = f"plain reading{f', {heads} times' if heads > 1 else ''}: {plain:,} cycles"
    if meanwhile:
        note = f"{meanwhile:,} commands meanwhile"
    if not main:
        return [told(f"GATHER, {row['name']}", f"{text}; share {shares}", note)]
    against = paged.cycles / linear.cycles - 1
    return [
        at_most("GATHER, random against contiguous table", over, OVERHEAD_MAX, text, bound="0.1%"),
        at_most(
            "GATHER, random table against one contiguous run",
            against,
            OVERHEAD_MAX,
            f"{paged.cycles:,} of {linear.cycles:,} cycles, {against:+.3%}",
            bound="0.1%",
        ),
        at_least(
            "its share of the port, latency included",
            paged.share,
            SHARE_MIN,
            f"{paged.share:.3%}",
            bound="99%",
        ),
        at_least(
            "its share, first to last beat",
            paged.steady_share,
            SHARE_MIN,
            f"{paged.steady_share:.3%}",
            bound="99%",
        ),
    ]


def run(scope: Scope) -> Result:
    """2,048 tokens of K and V: random table, contiguous table, plain reading."""
    plan = {
        "rows": rows(scope.quick),
        "blocks": BLOCKS,
        "tokens": TOKENS,
        "rounds": 1 if scope.quick else 3,
    }
    measured, folder = measure(scope, "gather", plan)
    scope.progress("comparing bytes")
    tables = measured["tables"]
    result = Result(leaked=measured["leaked"])
    lines, wrong = [], 0
    for index, (row, windows) in enumerate(zip(plan["rows"], measured["rows"], strict=True)):
        meanwhile = windows.pop("meanwhile")
        found, differing = evaluate(row, windows, tables, folder)
        wrong += differing
        result.figures += _figures(row, found, index == 0, meanwhile)
        lines.append(
            {
                **{name: row[name] for name in ("name", "latency", "stall", "dram", "tokens")},
                "head_dim": row["pages"]["head_dim"],
                "commands": len(row["records"]),
                "commands_meanwhile": meanwhile,
                **{
                    name: {
                        "cycles": window.cycles,
                        "first_to_last_beat": window.streaming,
                        "beats": window.beats,
                        "share": window.share,
                        "steady_share": window.steady_share,
                    }
                    for name, window in found.items()
                },
            }
        )
        if index == 0:
            result.keys = {
                "gather_cycles_paged": found["paged"].cycles,
                "gather_cycles_contiguous": found["contiguous"].cycles,
                "gather_port_share": found["paged"].share,
            }
    entries = TOKENS // 16
    result.figures.append(
        equal("bytes that are not the golden pages'", wrong, 0, note=f"{len(lines)} rows, every beat")
    )
    scatter = scattered(tables[1])
    result.figures.append(
        told("table of the random rows", f"{scatter} of {entries - 1} steps are not to the next block")
    )
    result.details = {"rows": lines, "scattered_entries": scatter, "table": tables[1]}
    return result
