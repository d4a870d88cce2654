# SPDX-License-Identifier: Apache-2.0
"""Slow paths of an ECP5 netlist, in seconds and all of them at once: before it is placed, or placed.

    python -m serrano_sim.synthesis.timing build/fpga/ulx3s_85f/netlist.json [--sites sites.json]

Delays of cells are those of speed grade 6, rounded. What a connection takes is not known before placement:
every one is given the same time, and more where it has many ends. So the figures rank paths, and foretell no
frequency. With the sites of a placement, which ``make fpga`` leaves beside each seed's report, connections
take what their distances take.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from .netlist import names_of, origin
from .placement import Placement

__all__ = ["SlowPath", "Timing", "main"]

CLOCK_TO_OUTPUT = {"TRELLIS_FF": 0.52, "memory": 5.73, "memory with register": 0.8, "multiplier": 0.74}
"""From the clock to an output, in nanoseconds."""

LUT, MULTIPLIER, SETUP = 0.24, 3.93, 0.15
CARRY_IN, CARRY, CARRY_OUT = 0.45, 0.07, 0.44

CROWDS = ((150, 1.3), (40, 0.8), (12, 0.3))
"""More time for a connection with more than so many ends."""

MEMORIES = ("DP16KD", "PDPW16KD")


@dataclass(frozen=True)
class SlowPath:
    """A path: its time, the nets it passes from a register's output on, and the port at which it ends."""

    time: float
    nets: tuple[str, ...]
    end: str
    port: str


@dataclass
class Timing:
    """The graph of a netlist's delays.

    Parameters
    ----------
    module : mapping
        A flat module of Yosys' JSON.
    hop : :class:`float`
        What a connection takes, in nanoseconds.
    placement : :class:`~serrano_sim.synthesis.placement.Placement`, optional
        Places of the cells: connections take what their distances take, and ``hop`` is not used.
    """

    module: Mapping[str, Any]
    hop: float = 1.4
    placement: Placement | None = None
    _arcs: dict[int, list[tuple[int, float, str | None]]] = field(default_factory=lambda: defaultdict(list))
    _starts: dict[int, float] = field(default_factory=dict)
    _ends: list[tuple[int, str, str]] = field(default_factory=list)
    _loads: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _arrivals: dict[int, tuple[float, int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = names_of(self.module)
        for name, cell in self.module["cells"].items():
            for port, bits in cell["connections"].items():
                if cell["port_directions"][port] == "input":
                    for bit in bits:
                        self._loads[bit] += 1
            self._add(name, cell)

    def _add(self, name: str, cell: Mapping[str, Any]) -> None:
        kind = cell["type"]
        pins = {port: bits[0] for port, bits in cell["connections"].items() if bits and _is_net(bits[0])}
        if kind == "LUT4":
            self._join(pins, "ABCD", "Z", LUT, name)
        elif kind == "PFUMX":
            self._join(pins, ("ALUT", "BLUT"), "Z", 0.0)
            self._join(pins, ("C0",), "Z", 0.2, name)
        elif kind == "L6MUX21":
            self._join(pins, ("D0", "D1"), "Z", 0.2)
            self._join(pins, ("SD",), "Z", 0.2, name)
        elif kind == "CCU2C":
            low, high = ("A0", "B0", "C0", "D0"), ("A1", "B1", "C1", "D1")
            self._join(pins, low + high, "COUT", CARRY_IN, name)
            self._join(pins, low, "S0", LUT, name)
            self._join(pins, low + high, "S1", CARRY_IN, name)
            self._join(pins, ("CIN",), "COUT", CARRY)
            for output in ("S0", "S1"):
                self._join(pins, ("CIN",), output, CARRY_OUT)
        elif kind == "TRELLIS_FF":
            self._start(pins, ("Q",), CLOCK_TO_OUTPUT[kind])
            self._end(name, pins, ("DI", "M", "CE", "LSR"))
        elif kind == "TRELLIS_DPR16X4":
            connections = cell["connections"]
            for output in connections["DO"]:
                for bit in filter(_is_net, connections["RAD"]):
                    self._arcs[output].append((bit, LUT, name))
            for port in ("WAD", "DI", "WRE"):
                self._ends += [(bit, name, port) for bit in connections[port] if _is_net(bit)]
        elif kind in MEMORIES:
            self._start_or_end(name, cell, pins)
        elif kind == "MULT18X18D":
            self._add_multiplier(name, cell, pins)

    def _add_multiplier(self, name: str, cell: Mapping[str, Any], pins: Mapping[str, int]) -> None:
        operands = [port for port in pins if re.fullmatch(r"[AB]\d+", port)]
        products = [port for port in pins if re.fullmatch(r"P\d+", port)]
        if cell["parameters"].get("REG_OUTPUT_CLK", "NONE") == "NONE":
            for product in products:
                self._join(pins, operands, product, MULTIPLIER, name)
        else:
            self._start(pins, products, CLOCK_TO_OUTPUT["multiplier"])
            self._end(name, pins, [*operands, "CE0", "CE1"])

    def _start_or_end(self, name: str, cell: Mapping[str, Any], pins: Mapping[str, int]) -> None:
        for port in pins:
            if cell["port_directions"][port] == "output":
                mode = "REGMODE_B" if port.startswith("DOB") else "REGMODE_A"
                plain = cell["parameters"].get(mode, "NOREG") == "NOREG"
                self._start(pins, (port,), CLOCK_TO_OUTPUT["memory" if plain else "memory with register"])
            elif not port.startswith("CLK"):
                self._end(name, pins, (port,))

    def _join(
        self,
        pins: Mapping[str, int],
        inputs: Sequence[str],
        output: str,
        delay: float,
        cell: str | None = None,
    ) -> None:
        """From inputs to an output; without ``cell`` what drives the inputs is wired to them for good."""
        if output in pins:
            self._arcs[pins[output]] += [(pins[port], delay, cell) for port in inputs if port in pins]

    def _start(self, pins: Mapping[str, int], ports: Sequence[str], delay: float) -> None:
        self._starts.update({pins[port]: delay for port in ports if port in pins})

    def _end(self, name: str, pins: Mapping[str, int], ports: Sequence[str]) -> None:
        self._ends += [(pins[port], name, port) for port in ports if port in pins]

    def connection(self, bit: int, cell: str) -> float:
        """What a connection from this net to a cell takes."""
        if self.placement:
            return self.placement.connection(bit, cell)
        return self.hop + next((more for ends, more in CROWDS if self._loads[bit] > ends), 0.0)

    def arrival(self, bit: int) -> float:
        """When the net has settled, from the clock on."""
        waiting = [bit]
        entered = set()
        while waiting:
            net = waiting[-1]
            if net in self._arrivals:
                waiting.pop()
                continue
            arcs = self._arcs.get(net, ())
            # A net that waits for itself is a loop: it is cut there.
            missing = [
                before for before, _, _ in arcs if before not in self._arrivals and before not in entered
            ]
            entered.add(net)
            if missing:
                waiting += missing
                continue
            best: tuple[float, int | None] = (self._starts.get(net, 0.0), None)
            for before, delay, cell in arcs:
                time = self._arrivals.get(before, (0.0, None))[0] + delay
                best = max(best, (time + (self.connection(before, cell) if cell else 0.0), before), key=_time)
            self._arrivals[net] = best
            waiting.pop()
        return self._arrivals[bit][0]

    def _nets(self, bit: int | None) -> tuple[str, ...]:
        nets: list[str] = []
        while bit is not None:
            name = origin(self._names.get(bit, str(bit)))
            if not nets or nets[-1] != name:
                nets.append(name)
            bit = self._arrivals[bit][1]
        return tuple(reversed(nets))

    def paths(self) -> Iterator[SlowPath]:
        """The slowest path to each end, the slowest first."""
        timed = [
            (self.arrival(bit) + self.connection(bit, end[0]) + SETUP, bit, end) for bit, *end in self._ends
        ]
        for time, bit, (name, port) in sorted(timed, key=lambda one: -one[0]):
            yield SlowPath(time, self._nets(bit), origin(name), port)


def _is_net(bit: Any) -> bool:
    return isinstance(bit, int)


def _time(arrival: tuple[float, int | None]) -> float:
    return arrival[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: the slowest paths, one for each pair of begin and end."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano_sim.synthesis.timing",
        description="Slow paths of a netlist, before or after placement.",
    )
    parser.add_argument("netlist", type=Path, help="JSON that Yosys wrote")
    parser.add_argument("--top", default="top", help="its module (default: %(default)s)")
    parser.add_argument("--hop", type=float, default=1.4, help="nanoseconds of a connection (%(default)s)")
    parser.add_argument("--sites", type=Path, help="seedN.sites.json: distances instead of --hop")
    parser.add_argument("--nets", action="store_true", help="print the nets that a path passes")
    parser.add_argument("--count", type=int, default=40, help="how many paths (%(default)s)")
    options = parser.parse_args(arguments)
    file = options.netlist
    try:
        module = json.loads(file.read_text(encoding="utf-8"))["modules"][options.top]
    except (OSError, ValueError, KeyError) as error:
        print(f"timing: {file}: no netlist with a module {options.top!r}: {error}", file=sys.stderr)
        return 2
    file = options.sites
    try:
        placement = Placement(module, json.loads(file.read_text(encoding="utf-8"))) if file else None
    except (OSError, ValueError) as error:
        print(f"timing: {file}: no sites of this netlist: {error}", file=sys.stderr)
        return 2
    first: dict[tuple[str, ...], SlowPath] = {}
    ends: Counter[tuple[str, ...]] = Counter()
    for path in Timing(module, options.hop, placement).paths():
        pair = tuple(re.sub(r"\d+", "#", name) for name in (path.nets[0], path.end))
        first.setdefault(pair, path)
        ends[pair] += 1
    for pair, path in islice(first.items(), options.count):
        between = f"{len(path.nets)} nets, {ends[pair]} ends"
        print(f"{path.time:6.1f} ns  {path.nets[0]} -> {path.end}.{path.port}  ({between})")
        for net in path.nets[1:] if options.nets else ():
            print(f"            {net}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
