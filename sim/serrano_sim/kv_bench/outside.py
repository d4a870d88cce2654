# SPDX-License-Identifier: Apache-2.0
"""What other programs of the project measure: random commands, recordings, proofs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import serrano.kvcache

from ..conformance import DEFAULT, replay
from ..conformance import Result as Replayed
from ..kv_random import LEAST, run_random
from .figure import Figure, Result, Scope, State, at_least, equal, told

__all__ = [
    "RANDOM_COMMANDS",
    "judge_conformance",
    "judge_formal",
    "judge_random",
    "run_conformance",
    "run_formal",
    "run_random_commands",
]

RANDOM_COMMANDS = 200_000
"""From so many commands on, the number itself and the coverage are judged."""

COMMANDS_PER_SEED = 4000


# Random commands


def judge_random(found: Mapping[str, Any], full: bool) -> list[Figure]:
    """Figures of a run of random commands."""
    count = found["random_commands"]
    first = "; ".join(found["mismatches"][:1])
    amount = f"{found['cycles']:,} cycles, {found['episodes']:,} episodes, {found['seconds']} s"
    figures = [
        at_least("random commands", count, RANDOM_COMMANDS, note=amount)
        if full
        else told("random commands", f"{count:,}", amount),
        equal("mismatches", found["random_mismatches"], 0, note=first),
    ]
    for kind, name in (("command_coverage", "rarest command"), ("error_coverage", "rarest status")):
        rarest, least = min(found[kind].items(), key=lambda item: item[1])
        note = f"{rarest}, of {len(found[kind])}"
        figures.append(at_least(name, least, LEAST, note=note) if full else told(name, f"{least:,}", note))
    rare = ", ".join(f"{name} {times:,}" for name, times in found["events"].items())
    return [*figures, told("rare events", f"{len(found['events'])} kinds", rare)]


def run_random_commands(scope: Scope) -> Result:
    """Random commands against the golden model, in many seeds."""
    seeds = range(scope.seed, scope.seed + max(1, scope.commands // COMMANDS_PER_SEED))
    done = 0

    def progress(commands: int, _: list[str]) -> None:
        nonlocal done
        done += commands
        scope.progress(f"{done:,} of {scope.commands:,} commands")

    scope.progress("building the simulations")
    found = run_random(scope.commands, list(seeds), scope.folder / "random", progress)
    names = ("random_commands", "random_mismatches", "command_coverage", "error_coverage")
    keys = {name: found[name] for name in names}
    details = {name: value for name, value in found.items() if name not in names}
    figures = judge_random(found, scope.commands >= RANDOM_COMMANDS)
    return Result(figures, keys, {**details, "seeds": list(seeds)}, found["leaked_blocks"])


# Recordings


def judge_conformance(operations: int, mismatches: int, deliberate: int) -> list[Figure]:
    """Figures of a replay of the default recording, in which no divergence is deliberate."""
    return [
        at_least("recorded operations", operations, 1),
        equal("mismatches", mismatches, 0),
        equal("deliberate divergences", deliberate, 0),
    ]


def run_conformance(scope: Scope, file: Path = DEFAULT, replayer: Callable[..., Replayed] = replay) -> Result:
    """The default recording of ``make conformance``; where it is absent, nothing is said to be right."""
    if not file.exists():
        note = f"absent: {file.parent.parent.name}/{file.parent.name}/{file.name}"
        keys = {**dict.fromkeys(("operations", "mismatches", "deliberate")), "state": note}
        return Result([Figure("recorded operations", "", "", State.NOT_RUN, note)], {"conformance": keys})
    scope.progress(f"replaying {file.name}")
    found = replayer(file, lambda done: scope.progress(f"{done:,} operations"))
    counts = {name: getattr(found, name) for name in ("operations", "mismatches", "deliberate")}
    return Result(judge_conformance(**counts), {"conformance": counts}, found.as_dict(), found.leaked)


# Proofs


def _newest(folder: Path) -> float:
    return max(file.stat().st_mtime for file in folder.rglob("*.py"))


def judge_formal(report: Mapping[str, Any]) -> list[Figure]:
    """Figures of a report of ``make formal``."""
    return [
        told("properties proved without a bound", f"{report['proved']:,}"),
        told("properties proved up to a bound", f"{report['bounded']:,}"),
        equal("properties not proved", report["not_proved"], 0),
        equal("broken variants caught", report["broken_variants_caught"], report["broken_variants"]),
    ]


def run_formal(scope: Scope) -> Result:
    """What ``make formal`` has left in ``build/reports/formal.json``."""
    file = scope.reports / "formal.json"
    note = ""
    if not file.exists():
        note = "not run: make formal"
    elif file.stat().st_mtime < _newest(Path(serrano.kvcache.__file__).parent):
        note = "older than the controller: make formal"
    names = ("proved", "bounded", "broken_variants_caught")
    if note:
        keys = {**dict.fromkeys(names), "state": note}
        return Result([Figure("formal", "", "", State.NOT_RUN, note)], {"formal": keys})
    report = json.loads(file.read_text())
    return Result(
        judge_formal(report), {"formal": {name: report[name] for name in names}}, {"formal": report}
    )
