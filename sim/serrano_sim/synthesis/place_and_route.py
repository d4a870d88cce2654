# SPDX-License-Identifier: Apache-2.0
"""nextpnr: places a netlist, routes it, and routes anew what is too slow."""

import json
import re
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .placement import sites
from .tools import DEVICES, ToolError, run

__all__ = ["place", "reached"]

ATTEMPTS, STRIDE = 3, 1000
"""How often a placement is routed at most, and by how much the seeds of that differ."""

WRITTEN = ("--log", "log"), ("--report", "json"), ("--textcfg", "config")
"""What is written of each routing: nextpnr's options, and the files' endings."""

PATIENCE = 40
"""Lines of the first router's log in a row in which it does not come nearer to the end of a round, after
which it will not."""

ROUNDS = 8
"""Rounds in a row that leave no less to be mended than one before, after which none will."""

CROWDED, CROWDED_ROUNDS = 10, 10
"""The second router does not get through where so many wires or more are shared, and have been no fewer in so
many rounds. The last ones take it a while."""

STILL_SECONDS = 180.0
"""A tool at work whose log stands still for so many seconds, and as long as it ran until then, is stuck."""

PLACER_PATIENCE = 3
"""A placer is stuck when its log has stood still for so many times as long as it ran until then: on a device
that is too full it looks for places of the last cells without end."""

TAKEN = re.compile(r"Info:\s+(TRELLIS_COMB|TRELLIS_FF|MULT18X18D|DP16KD): .*?(\d+%)")
"""What of a device is taken, in the placer's log."""

ROUND = re.compile(r"arcs ripped up due to negative slack WNS=[-.\d]+ns TNS=-?([.\d]+)ns")
"""The begin of a round, and by how much all ends together are too slow."""

WITHIN_TILE = 24
"""Three times as many wires as a connection takes that does not leave its tile."""

SHARED = re.compile(r"iter=\d+ wires=\d+ overused=(\d+)")
"""Wires that are shared after a round of the second router."""

LEFT = re.compile(r"\| +(\d+)\| +[\d.]+ +[\d.]+\|$", re.MULTILINE)
"""Connections that are left to be routed in a round."""


def reached(report: dict[str, Any]) -> float:
    """The frequency of the slowest clock of nextpnr's report, in MHz."""
    return min(clock["achieved"] for clock in report["fmax"].values())


def place(
    folder: Path,
    *,
    device: str,
    package: str,
    speed: str,
    clock_mhz: float,
    seed: int,
    constraints: str | None = None,
    aims: Sequence[str] = (),
    placer: str = "static",
) -> dict[str, Any]:
    """Places and routes ``folder/netlist.json`` and returns nextpnr's report; the bitstream's text is beside.

    The sites of the cells are beside as well, for :mod:`serrano_sim.synthesis.timing`. Timing that is not met
    is no error: the report says what was reached. Of nextpnr's placers ``static`` spreads all cells at once
    as charges are by a field: wires of a board's top are a fifth shorter than with ``heap``. For a small
    design in the middle of a large device it is the other way round.

    It is routed by ``router2``, in which connections share wires at first and pay more for it from round to
    round; that comes to an end, but with some connections that are too slow. Where the clock is not reached,
    ``router1`` goes on from there: it takes up what is too slow and routes that anew, at the cost of what is
    less urgent. Its ``aims``, files with constraints of the clock, are tried in turn as long as the clock is
    reached, and the best result counts; placement has the last one, and ``router2`` the first. What is left
    to ``router1`` differs by some MHz with the order in which ``router2`` begins: where the clock is not
    reached so either, all is routed again, with another seed. On a device that is nearly full ``router2`` may
    not get through at all; then ``router1`` routes everything.

    Raises
    ------
    ToolError
        If nextpnr is missing or fails, or finds no places for all cells or no routes.
    """
    name, placed = f"seed{seed}", folder / f"seed{seed}.placed.json"
    common = [
        DEVICES[device].option, "--package", package.upper(), "--speed", speed, "--freq", f"{clock_mhz:g}",
        "--timing-allow-fail", "--quiet", *(["--lpf", constraints] if constraints else []),
    ]  # fmt: skip
    tried = [("--lpf", file) for file in aims] or [()]
    log = folder / f"{name}.place.log"
    ended = run(
        "nextpnr-ecp5",
        [
            *common, *tried[-1], "--seed", str(seed), "--json", "netlist.json", "--log", log.name,
            "--placer", placer, "--no-route", "--write", placed.name,
        ],
        folder, f"{name}.place", hopeless=_still(log, TAKEN, PLACER_PATIENCE),
    )  # fmt: skip
    if not ended:
        taken = ", ".join(f"{share} of {kind}" for kind, share in TAKEN.findall(_text(log)))
        raise ToolError(f"nextpnr finds no places for all cells on {device} ({taken} are taken), see {log}")
    design = json.loads(placed.read_text(encoding="utf-8"))
    found = {cell: site for module in design["modules"].values() for cell, site in sites(module).items()}
    (folder / f"{name}.sites.json").write_text(json.dumps(found), encoding="utf-8")
    placed.write_text(json.dumps(_without_options(design)), encoding="utf-8")
    routed = folder / f"{name}.routed.json"
    routers = _Routers(folder, name, [*common, "--no-pack", "--no-place"])
    for attempt in range(ATTEMPTS):
        seeded = "--seed", str(seed + attempt * STRIDE)
        options = *tried[0], *seeded, "--json", placed.name, "--write", routed.name
        crowded = _crowded(folder / f"{name}.router2.log")
        found = routers.run("router2", *options, hopeless=crowded)
        if found < clock_mhz:
            begin, goals = placed, tried[-1:]
            if found:
                begin, goals = routed, tried
                design = json.loads(routed.read_text(encoding="utf-8"))
                routed.write_text(json.dumps(_reopened(design)), encoding="utf-8")
            for aim in goals:
                stuck = _stuck(folder / f"{name}.router1.log")
                options = *aim, *seeded, "--json", begin.name, "--tmg-ripup"
                if routers.run("router1", *options, hopeless=stuck) < clock_mhz:
                    break
        if routers.best >= clock_mhz:
            break
    if not routers.best:
        raise ToolError(f"nextpnr's routers came to no end on {device}, see {folder / name}.router*.log")
    # They are some times as large as the netlist.
    placed.unlink()
    routed.unlink(missing_ok=True)
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@dataclass
class _Routers:
    """Runs of nextpnr's routers on one placement; the best one's report and text are kept as ``name``."""

    folder: Path
    name: str
    common: Sequence[str]
    best: float = 0.0

    def run(self, router: str, *options: str, hopeless: Callable[[], bool] = lambda: False) -> float:
        """The frequency that is reached, or 0 if routing was given up."""
        trial, kept = (self.folder / name for name in (f"{self.name}.{router}", self.name))
        written = [part for option, kind in WRITTEN for part in (option, f"{trial.name}.{kind}")]
        arguments = [*self.common, *options, "--router", router, *written]
        if not run("nextpnr-ecp5", arguments, self.folder, trial.name, hopeless=hopeless):
            return 0.0
        report = Path(f"{trial}.json")
        fmax = reached(json.loads(report.read_text(encoding="utf-8")))
        if fmax > self.best:
            self.best = fmax
            for kind in ("json", "config"):
                Path(f"{trial}.{kind}").replace(f"{kept}.{kind}")
        return fmax


def _without_options(design: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A design that does not keep the options for routing that it was written with, before those given."""
    for module in design["modules"].values():
        settings = module.get("settings", {})
        for key in [key for key in settings if key.startswith(("rout", "input/", "seed"))]:
            del settings[key]
    return design


def _reopened(design: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A routed design, but for one short connection: without any to route the router takes up nothing."""
    for module in _without_options(design)["modules"].values():
        routed = (net["attributes"] for net in module["netnames"].values() if "ROUTING" in net["attributes"])
        # Shorter ones are within a tile, and made again when the design is read.
        routes = [attributes for attributes in routed if attributes["ROUTING"].count(";") >= WITHIN_TILE]
        if routes:
            del min(routes, key=lambda attributes: len(attributes["ROUTING"]))["ROUTING"]
    return design


def _still(log: Path, at_work: re.Pattern[str], patience: int = 1) -> Callable[[], bool]:
    """Whether a tool, begun now and at work, is silent for so many times as long as it ran until then."""
    begun = time.time()
    log.unlink(missing_ok=True)

    def still() -> bool:
        if not at_work.search(_text(log)):
            # It is still reading the design.
            return False
        written = log.stat().st_mtime
        return time.time() - written > max(STILL_SECONDS, patience * (written - begun))

    return still


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8") if log.exists() else ""


def _stuck(log: Path) -> Callable[[], bool]:
    """Whether the first router, begun now, will come to no end, as its log tells."""
    still = _still(log, LEFT)

    def stuck() -> bool:
        text = _text(log)
        rounds = [float(slack) for slack in ROUND.findall(text)]
        left = [int(number) for number in LEFT.findall(ROUND.split(text)[-1])]
        return still() or _no_better(rounds, ROUNDS) or _no_better(left, PATIENCE)

    return stuck


def _crowded(log: Path) -> Callable[[], bool]:
    """Whether the second router, begun now, will not get through."""
    log.unlink(missing_ok=True)

    def crowded() -> bool:
        shared = [int(number) for number in SHARED.findall(_text(log))]
        return _no_better(shared, CROWDED_ROUNDS) and min(shared) >= CROWDED

    return crowded


def _no_better(values: Sequence[float], patience: int) -> bool:
    """Whether the least one is more than so many values ago."""
    return bool(values) and len(values) - values.index(min(values)) > patience
