# SPDX-License-Identifier: Apache-2.0
"""Cycles of commands and look-ups."""

from typing import Any

import numpy as np

from ..memory.handle import Trace
from .arithmetic import Line, fit
from .figure import Figure, Result, Scope, at_most, equal, told
from .gather import ANSWERED, ASKED
from .measure import measure

__all__ = ["run_commands", "run_translate"]

ALLOC_LIMIT, RELEASE_LIMIT, SHORT_LIMIT, LOOKUP_LIMIT = (14, 2), (8, 2), 16, 4
_EVENT = np.dtype([("what", "u1"), ("ended", "u1"), ("lookup", "u1"), ("block", "<u2")])
LINES = ("alloc", "free", "fork", "trim", "slide", "append_long", "commit_long", "append_replacing_long")
SINGLE = (
    "open",
    "append",
    "commit",
    "abort",
    "seal",
    "share",
    "evict",
    "stat",
    "refused",
    "translate_command",
    "append_replacing",
)


def _line_figure(name: str, cycles: dict[int, int], line: Line | None, limit: tuple[int, int]) -> Figure:
    base, per_block = limit
    if line is None:
        return at_most(name, None, base, bound=f"{base} + {per_block} b")
    excess = max(value - base - per_block * blocks for blocks, value in cycles.items())
    most = max(cycles)
    note = f"{most} blocks: {cycles[most]} cycles" + ("" if line.exact else "; not on one line")
    return at_most(name, excess, 0, f"{line} cycles", note, bound=f"{base} + {per_block} b")


def judge(times: dict[str, dict[int, int]], absent: list[str]) -> tuple[list[Figure], dict[str, Any]]:
    """Figures and ``command_cycles`` from cycles by command and number of blocks."""
    lines = {
        name: fit({blocks: value for blocks, value in times[name].items() if blocks})
        for name in LINES
        if name in times
    }
    worst = {name: max(times[name].values()) for name in SINGLE if name in times}
    keys: dict[str, Any] = {}
    for name in LINES:
        line = lines.get(name)
        keys[f"{name}_base"] = line.base if line else None
        keys[f"{name}_per_block"] = line.per_block if line else None
    keys |= {name: worst.get(name) for name in SINGLE}
    limits = {"alloc": ALLOC_LIMIT, "free": RELEASE_LIMIT, "fork": RELEASE_LIMIT, "trim": RELEASE_LIMIT}
    figures = [
        _line_figure(name.upper(), times.get(name, {}), lines.get(name), limit)
        for name, limit in limits.items()
    ]
    texts = {
        "append": "1 to 16 tokens at every place, nothing shared",
        "commit": "1 to 16 tokens at every place",
        "seal": "",
        "share": "of held and of free blocks",
    }
    figures += [
        at_most(name.upper(), worst.get(name), SHORT_LIMIT, note=text) for name, text in texts.items()
    ]
    for name in ("slide", "append_long", "commit_long", "append_replacing_long"):
        if name in lines:
            figures.append(told(name.upper().replace("_", " "), f"{lines[name]} cycles"))
    if (replacing := worst.get("append_replacing")) is not None:
        note = "1 to 16 tokens in shared blocks without a token yet: new blocks, nothing to copy"
        figures.append(told("APPEND that replaces", f"{replacing} cycles", note))
    apart = (*texts, "append_replacing")
    rest = {name: worst[name] for name in SINGLE if name in worst and name not in apart}
    figures.append(told("others", ", ".join(f"{name} {value}" for name, value in rest.items())))
    if "reset_pool" in times:
        ((blocks, cycles),) = times["reset_pool"].items()
        keys["reset_pool"] = cycles
        figures.append(told("RESET_POOL", f"{cycles:,} cycles", f"{blocks:,} blocks"))
    if absent:
        figures.append(equal("commands that are not there", len(absent), 0, note=", ".join(absent)))
    return figures, keys


def run_commands(scope: Scope) -> Result:
    """Every command that needs no memory, by the blocks it works on."""
    plan = {"blocks": 64, "most": 4 if scope.quick else 16, "tokens": 16}
    measured, _ = measure(scope, "commands", plan)
    times = {
        name: {int(blocks): cycles for blocks, cycles in found.items()}
        for name, found in measured["times"].items()
    }
    figures, keys = judge(times, measured["absent"])
    return Result(
        figures,
        {"command_cycles": keys},
        {"by_blocks": times, "commands": measured["commands"], "absent": measured["absent"]},
        measured["leaked"],
    )


def run_translate(scope: Scope) -> Result:
    """Look-ups in a row on a look-up port, and the command."""
    plan = {"blocks": 256, "sequences": 8, "rounds": 1, "lookups": 500 if scope.quick else 4000}
    measured, folder = measure(scope, "translate", plan)
    trace = Trace.read("events", folder=folder)
    begin, end = np.searchsorted(trace.cycles, measured["window"])
    events, cycles = trace.fields(_EVENT)[begin:end], trace.cycles[begin:end]
    asked = cycles[(events["what"] & ASKED) != 0].astype(np.int64)
    answers = (events["what"] & ANSWERED) != 0
    answered = cycles[answers].astype(np.int64)
    if len(asked) != plan["lookups"] or len(answered) != len(asked):
        raise ValueError(f"{len(asked)} look-ups were taken and {len(answered)} answered")
    wrong = np.flatnonzero(
        (events["block"][answers] != measured["blocks"]) | (events["lookup"][answers] != 0)
    )
    latency = int((answered - asked).max())
    span = int(asked[-1] - asked[0]) + 1
    figures = [
        equal("TRANSLATE, look-ups per cycle", len(asked) / span, 1, f"{len(asked):,} in {span:,} cycles"),
        at_most("TRANSLATE, latency", latency, LOOKUP_LIMIT, f"{latency} cycles"),
        equal("wrong answers", len(wrong), 0),
        told("TRANSLATE as a command", f"{max(measured['command'])} cycles", "through the queue of commands"),
    ]
    details = {
        "lookups": len(asked),
        "cycles": span,
        "latency": latency,
        "waits": measured["waits"],
        "as_command": max(measured["command"]),
    }
    return Result(figures, {"command_cycles": {"translate": latency}}, details, measured["leaked"])
