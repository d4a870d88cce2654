# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the attention unit's Verilog with the array: carries out the steps in the run's folder.

``steps.json`` is a list of steps. A step has ``head_pad``; ``codes``, ``scales`` and ``staged`` (payloads as
hexadecimal numbers, in order); ``command``; ``records``, each a list of payloads; ``stalls``, a probability
for records and for staged; ``seed``; and ``cycles``: after so many the design is reset in mid-course,
``null`` lets the step end. ``measured.json`` gets for each step the cycles from its command to its end, and
how many of them each activity output was set.
"""

import json
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from serrano_sim.cocotb.axilite import reset
from serrano_sim.cocotb.bench_matmul import Sink, Source

PATIENCE = 5000
"""Cycles in which nothing moves, after which the design is given up."""

ACTIVITIES = ("wait_record", "wait_weights")


class Records(Source):
    """Sends records, each only when there is a slot for it; such a record must be taken without a pause."""

    def __init__(self, dut: Any, records: list[list[int]], stall: float, seed: str):
        beats = [beat for record in records for beat in record]
        super().__init__(dut, "records", beats, stall, seed)
        self._free = dut.free_records
        # Beats left when each record begins.
        starts, left = set(), len(beats)
        for record in records:
            starts.add(left)
            left -= len(record)
        self._starts = starts

    def drive(self) -> None:
        if self.offers or len(self) not in self._starts or int(self._free.value):
            super().drive()
        else:
            self._valid.value = 0

    def sample(self) -> bool:
        taken = super().sample()
        assert taken or not self.offers, f"a record waits, with {len(self)} beats left"
        return taken


def numbers(items: list[str]) -> list[int]:
    return [int(item, 16) for item in items]


async def carry_out(dut: Any, step: dict[str, Any]) -> dict[str, int]:
    """One step: codes and scales, with the first records beside them, then the command."""
    seed = str(step["seed"])
    fast = [Source(dut, name, numbers(step[name]), 0.1, seed) for name in ("codes", "scales")]
    command = Source(dut, "command", [int(step["command"], 16)], 0.0, seed)
    records = Records(dut, [numbers(record) for record in step["records"]], step["stalls"][0], seed)
    staged = Sink(dut, "staged", numbers(step["staged"]), step["stalls"][1], seed)
    activities = {name: getattr(dut, name) for name in (*ACTIVITIES, "loaded")}
    found = dict.fromkeys(("cycles", *activities), 0)
    dut.head_pad.value = step["head_pad"]
    clk, idle = dut.clk, dut.idle
    cycle = quiet = 0
    running = True
    while running and cycle != step["cycles"]:
        ports = [*fast, records, staged]
        if not any(fast):
            ports.append(command)
        for port in ports:
            port.drive()
        await ReadOnly()
        moved = [port.sample() for port in ports]
        if not command:
            found["cycles"] += 1
            for name, signal in activities.items():
                found[name] += int(signal.value)
            running = bool(staged) or not int(idle.value)
        cycle += 1
        quiet = 0 if any(moved) else quiet + 1
        assert quiet < PATIENCE, f"{len(records)} beats of records, {len(staged)} of the outputs are left"
        await FallingEdge(clk)
        if not command:
            dut.command__valid.value = 0
    if not running:
        assert not records, f"{len(records)} beats of records were not taken"
        assert found["loaded"] == 1, f"loaded was set {found['loaded']} times"
    return found


def release(dut: Any) -> None:
    """Nothing is offered, nothing taken."""
    for name in ("codes__valid", "scales__valid", "command__valid", "records__valid", "staged__ready"):
        getattr(dut, name).value = 0


@cocotb.test()
async def steps(dut: Any) -> None:
    """All steps, in turn; the design is reset before the first one and where a step is cut off."""
    release(dut)
    await reset(dut)
    measured = []
    for step in json.loads(Path("steps.json").read_text()):
        measured.append(await carry_out(dut, step))
        release(dut)
        if step["cycles"] is not None:
            await reset(dut, 1)
    Path("measured.json").write_text(json.dumps(measured))
