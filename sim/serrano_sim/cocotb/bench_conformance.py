# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of ``serrano_sim.conformance``: replays a recording on the KV controller's Verilog.

``PLAN`` in the environment is a JSON object: ``file``, the recording; ``sequences`` and ``entries`` of the
controller. The bench leaves ``outcome.json``, and from time to time the number of operations done in
``progress``, in the run's folder.
"""

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ValueChange, with_timeout

from serrano.kvcache import KVCommand
from serrano_sim.cocotb.axilite import reset
from serrano_sim.conformance.executor import TENANT, DeviceError, Executor
from serrano_sim.conformance.recording import read
from serrano_sim.conformance.script import replay_scripts
from serrano_sim.conformance.unit import ANSWERS
from serrano_sim.golden.block_manager import Opcode, Stat, Status

PATIENCE_NS = 2_000_000
"""Time for a command, or a new pool, above which the controller counts as stuck."""

INTERVAL = 0.3
"""Seconds between two notes of progress."""

_HEADER = 64
_RECORD = struct.Struct("<QBBI2x")


class RTLExecutor(Executor):
    """The unit of :mod:`serrano_sim.conformance.unit`; responses come through its trace."""

    def __init__(self, dut: Any, sequences: int, entries: int):
        super().__init__(sequences, entries)
        self.dut = dut
        self.clk, self.done, self.go = dut.clk, dut.done, dut.go
        self.fields = (dut.command, dut.count, dut.follow)
        self.level = 0
        self.trace = os.open(f"{ANSWERS}.trace", os.O_RDONLY)
        self.cycles = 0

    async def initialize(self, blocks: int) -> None:
        dut = self.dut
        dut.blocks.value = blocks
        dut.initialize.value = 1
        await FallingEdge(self.clk)
        dut.initialize.value = 0
        await FallingEdge(self.clk)
        if int(dut.initializing.value):
            await with_timeout(ValueChange(dut.initializing), PATIENCE_NS, "ns")
            await FallingEdge(self.clk)

    async def run(
        self, opcode: Opcode, seq: int, arg0: int, arg1: int, count: int = 1, follow: bool = False
    ) -> list[tuple[int, int]]:
        """Executes a command ``count`` times; all responses."""
        values = dict(tag=0, opcode=opcode, seq=seq, tenant=TENANT, arg0=arg0, arg1=arg1)
        for handle, value in zip(
            self.fields, (KVCommand.const(values).as_bits(), count, int(follow)), strict=True
        ):
            handle.value = value
        self.level ^= 1
        self.go.value = self.level
        await with_timeout(ValueChange(self.done), PATIENCE_NS * (1 + count), "ns")
        await FallingEdge(self.clk)
        return self.answers()

    def answers(self) -> list[tuple[int, int]]:
        """The responses that have come since the last time."""
        (total,) = struct.unpack("<Q", os.pread(self.trace, 8, 32))
        count = total - self.commands
        raw = os.pread(self.trace, count * _RECORD.size, _HEADER + self.commands * _RECORD.size)
        self.commands = total
        found = []
        for place, (cycle, tag, status, aux) in enumerate(_RECORD.iter_unpack(raw)):
            if tag != place & 0xFF:
                raise DeviceError(f"the response to command {place & 0xFF} has tag {tag}")
            found.append((status, aux))
            self.cycles = cycle
        return found

    async def execute(self, opcode: Opcode, seq: int = 0, arg0: int = 0, arg1: int = 0) -> tuple[int, int]:
        (answer,) = await self.run(opcode, seq, arg0, arg1)
        return answer

    async def sweep(self, kind: Stat, seq: int, first: int, count: int) -> list[int]:
        if not count:
            return []
        return self.values(kind, await self.run(Opcode.STAT, seq, kind, first, count))

    async def walk(self, first: int, most: int) -> list[int]:
        if not first:
            return []
        kind = Stat.BLOCK_LINKS
        return self.values(kind, await self.run(Opcode.STAT, 0, kind, first, most, follow=True))

    def values(self, kind: Stat, answers: list[tuple[int, int]]) -> list[int]:
        if answers[-1][0] != Status.OK:
            raise DeviceError(f"STAT {kind.name} ended with status {answers[-1][0]}")
        return [aux for _, aux in answers]


@cocotb.test()
async def replay(dut: Any) -> None:
    plan = json.loads(os.environ["PLAN"])
    for handle in (dut.go, dut.command, dut.count, dut.follow, dut.initialize, dut.blocks):
        handle.value = 0
    await reset(dut)
    executor = RTLExecutor(dut, plan["sequences"], plan["entries"])
    told = 0.0

    def progress(done: int) -> None:
        nonlocal told
        if time.monotonic() > told + INTERVAL:
            Path("progress").write_text(str(done))
            told = time.monotonic()

    outcome = await replay_scripts(read(plan["file"]).scripts, executor, progress, alone=plan["alone"])
    left = {**outcome.as_dict(), "cycles": executor.cycles}
    Path("outcome.json").write_text(json.dumps(left))
