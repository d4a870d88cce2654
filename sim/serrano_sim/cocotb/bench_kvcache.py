# SPDX-License-Identifier: Apache-2.0
"""cocotb bench of the KV controller's Verilog: random commands on both ports against the golden model.

``COMMANDS`` in the environment says how many, ``BLOCKS`` how many blocks. Coverage goes into
``coverage.json`` in the run's folder.
"""

import json
import os
import random
from collections import Counter
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from serrano_sim.golden.block_manager import BlockManager, Opcode, Stat, Status
from serrano_sim.kv_commands import SMALL, check_invariants, manager, random_command, snapshot

# Fields of a command and of a response, lowest bits first.
COMMAND = (("tag", 8), ("opcode", 8), ("seq", 16), ("tenant", 8), ("arg0", 32), ("arg1", 32))
PORTS = ("host", "steps")


def _pack(values: tuple[int, ...]) -> int:
    word, place = 0, 0
    for value, (_, bits) in zip(values, COMMAND, strict=True):
        word |= value << place
        place += bits
    return word


class Port:
    """A requester: one command at a time, driven at falling edges."""

    def __init__(self, dut: Any, name: str):
        self.clock = dut.clk
        for channel in ("commands", "responses"):
            for signal in ("valid", "ready", "payload"):
                handle = getattr(dut, f"{name}__{channel}__{signal}")
                setattr(self, f"{channel}_{signal}", handle)

    def release(self) -> None:
        self.commands_valid.value = 0
        self.responses_ready.value = 0

    async def execute(self, command: tuple[int, ...], tag: int, pause: int = 0) -> tuple[int, int, int]:
        """Status, aux and cycles; the response is taken after a pause."""
        self.commands_payload.value = _pack((tag, *command))
        self.commands_valid.value = 1
        while not int(self.commands_ready.value):
            await FallingEdge(self.clock)
        await FallingEdge(self.clock)
        self.commands_valid.value = 0
        cycles = 1
        while not int(self.responses_valid.value):
            await FallingEdge(self.clock)
            cycles += 1
            assert cycles < 1000, f"no response to {command}"
        word = int(self.responses_payload.value)
        for _ in range(pause):
            await FallingEdge(self.clock)
            assert int(self.responses_payload.value) == word
        self.responses_ready.value = 1
        await FallingEdge(self.clock)
        self.responses_ready.value = 0
        assert word & 0xFF == tag
        return word >> 8 & 0xFF, word >> 16, cycles


async def start(dut: Any, blocks: int) -> None:
    """Reset, and wait for the pool."""
    for name in PORTS:
        Port(dut, name).release()
    dut.initialize.value = 0
    dut.locked.value = 0
    dut.blocks.value = blocks
    dut.rst.value = 1
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)
    while int(dut.initializing.value):
        await FallingEdge(dut.clk)


async def compare_state(port: Port, golden: BlockManager) -> None:
    answers = {}
    for command in snapshot(golden):
        status, aux, _ = await port.execute(command, 0)
        assert (status, aux) == golden.execute(*command), command
        _, seq, _, kind, index = command
        answers[kind, seq if kind >= Stat.SEQUENCE_OWNER else 0, index] = status, aux
    check_invariants(answers, golden.limit, golden.entries)


@cocotb.test()
async def random_commands(dut: Any) -> None:
    blocks, count = int(os.environ["BLOCKS"]), int(os.environ["COMMANDS"])
    rng = random.Random(cocotb.RANDOM_SEED)
    golden = manager(SMALL, blocks)
    ports = [Port(dut, name) for name in PORTS]
    seen: Counter = Counter()
    await start(dut, blocks)
    for number in range(count):
        command = random_command(rng, golden, [0, 1, 2])
        wanted = golden.execute(*command)
        got = await rng.choice(ports).execute(command, number % 256, rng.choice((0, 0, 0, 3)))
        assert got[:2] == wanted, f"command {number}, {command}: {got[:2]} instead of {wanted}"
        assert (int(dut.used.value), int(dut.peak.value)) == (golden.used, golden.peak)
        name = Opcode(command[0]).name if command[0] in list(Opcode) else "unknown"
        seen[f"{name} {Status(wanted[0]).name}"] += 1
        if rng.random() < 0.03 or (wanted[0] and rng.random() < 0.1):
            await compare_state(ports[number % 2], golden)
    for seq, sequence in list(golden.sequences.items()):
        await ports[0].execute((Opcode.FREE, seq, sequence.tenant, 0, 0), 1)
        golden.execute(Opcode.FREE, seq, sequence.tenant)
    await compare_state(ports[0], golden)
    assert int(dut.used.value) == 0
    with open("coverage.json", "w", encoding="utf-8") as file:
        json.dump(seen, file)
