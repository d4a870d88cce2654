# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the array engine's Verilog: carries out the passes in the run's folder.

``passes.json`` is a list of passes; a pass has ``tiles``, ``rows`` and ``results`` (payloads as hexadecimal
numbers, in order), ``stalls`` (a probability for each of the three streams), ``seed``, and ``cycles``: after
so many the engine is reset in mid-course, ``null`` lets it end. ``measured.json`` gets the cycles and the
number of results of each pass.
"""

import json
import random
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from serrano_sim.cocotb.axilite import reset

PATIENCE = 5000
"""Cycles in which nothing moves, after which the engine is given up."""


class Source:
    """Sends payloads into a stream, with random pauses before them; valid stays until ready."""

    def __init__(self, dut: Any, name: str, items: Iterable[int], stall: float, seed: str):
        self._payload = getattr(dut, f"{name}__payload")
        self._valid, self._ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self._items = deque(items)
        self._stall, self._rng = stall, random.Random(f"{name} {seed}")
        self.offers = False
        self._valid.value = 0

    def __len__(self) -> int:
        return len(self._items)

    def drive(self) -> None:
        """At the falling edge: offers the next payload, or pauses."""
        if not self.offers and self._items and self._rng.random() >= self._stall:
            self.offers = True
            self._payload.value = self._items[0]
        self._valid.value = int(self.offers)

    def sample(self) -> bool:
        """Before the rising edge: whether the payload is taken."""
        taken = self.offers and int(self._ready.value) == 1
        if taken:
            self._items.popleft()
            self.offers = False
        return taken


class Sink:
    """Takes payloads from a stream, with random pauses, and compares them with what is expected."""

    def __init__(self, dut: Any, name: str, expected: Iterable[int], stall: float, seed: str):
        self._payload = getattr(dut, f"{name}__payload")
        self._valid, self._ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self._expected = deque(expected)
        self._stall, self._rng = stall, random.Random(f"{name} {seed}")
        self._takes = False
        self._offered: int | None = None
        self.count = 0

    def __len__(self) -> int:
        return len(self._expected)

    def drive(self) -> None:
        """At the falling edge: is ready, or pauses."""
        self._takes = self._rng.random() >= self._stall
        self._ready.value = int(self._takes)

    def sample(self) -> bool:
        """Before the rising edge: checks the payload; whether it is taken."""
        valid = int(self._valid.value) == 1
        if not valid:
            assert self._offered is None, f"result {self.count} was withdrawn"
            return False
        payload = int(self._payload.value)
        assert self._offered in (None, payload), f"result {self.count} changed while it waited"
        assert self._expected, f"result {payload:#x} after the last one"
        assert payload == self._expected[0], (
            f"result {self.count} is {payload:#x}, not {self._expected[0]:#x}"
        )
        self._offered = None if self._takes else payload
        if self._takes:
            self._expected.popleft()
            self.count += 1
        return self._takes


async def carry_out(dut: Any, plan: dict[str, Any]) -> dict[str, int]:
    """One pass: all three streams, cycle by cycle."""
    numbers = {name: [int(item, 16) for item in plan[name]] for name in ("tiles", "rows", "results")}
    stalls, seed = plan["stalls"], str(plan["seed"])
    tiles = Source(dut, "tiles", numbers["tiles"], stalls[0], seed)
    rows = Source(dut, "rows", numbers["rows"], stalls[1], seed)
    results = Sink(dut, "results", numbers["results"], stalls[2], seed)
    clk, active, wait_tile, wait_results = dut.clk, dut.active, dut.wait_tile, dut.wait_results
    cycle = quiet = 0
    # A few cycles more, in which nothing may come.
    after = 40
    while after and cycle != plan["cycles"]:
        for port in (tiles, rows, results):
            port.drive()
        await ReadOnly()
        offers = rows.offers
        moved = [port.sample() for port in (tiles, rows, results)]
        state = [int(signal.value) for signal in (active, wait_tile, wait_results)]
        assert sum(state) == offers and state[0] == moved[1], f"counters {state} in cycle {cycle}"
        cycle += 1
        quiet = 0 if any(moved) else quiet + 1
        if not (tiles or rows or results):
            after -= 1
        assert quiet < PATIENCE, f"{len(tiles)} units, {len(rows)} rows, {len(results)} results are left"
        await FallingEdge(clk)
    return {"cycles": cycle, "results": results.count}


async def begin_anew(dut: Any, cycles: int) -> None:
    """Resets the engine, with nothing offered afterwards."""
    for name in ("tiles__valid", "rows__valid", "results__ready"):
        getattr(dut, name).value = 0
    await reset(dut, cycles)


@cocotb.test()
async def passes(dut: Any) -> None:
    """All passes, in turn; the engine is reset before the first one and where a pass is cut off."""
    await begin_anew(dut, 5)
    measured = []
    for plan in json.loads(Path("passes.json").read_text()):
        measured.append(await carry_out(dut, plan))
        if plan["cycles"] is not None:
            await begin_anew(dut, 1)
    Path("measured.json").write_text(json.dumps(measured))
