# SPDX-License-Identifier: Apache-2.0
"""CommandCheck: the status of every command in the states of a random run, against the golden model."""

import copy
import dataclasses
import random
from collections import Counter

import pytest

from serrano.kvcache import Opcode, Status
from serrano.kvcache.check import CommandCheck
from serrano_sim.kv_commands import SMALL, manager, random_command
from support.streams import simulate

FIELDS = ("opcode", "seq", "tenant", "arg0", "arg1")
STATE = ("tenant", "length", "reserved", "first")
LATER = {
    (Opcode.APPEND.value, Status.NO_SPACE.value),
    (Opcode.FORK.value, Status.REF_OVERFLOW.value),
}
"""What is found later, when tables have been read."""


def block_of(golden, command) -> int:
    """The block that a command speaks of; 0 if there is none."""
    opcode, seq, _, arg0, arg1 = command
    sequence = golden.sequences.get(seq)
    if opcode in (Opcode.SEAL.value, Opcode.TRANSLATE.value):
        index = arg0 if opcode == Opcode.SEAL.value else arg0 // 16
        return sequence.table[index] if sequence and index < len(sequence.table) else 0
    number = arg1 if opcode == Opcode.STAT.value else arg0
    return number if number < golden.blocks else 0


def inputs(golden, command) -> dict:
    opcode, seq, _, arg0, _ = command
    values = {"command": dict(zip(FIELDS, command, strict=True)), "open": seq in golden.sequences}
    sequence = golden.sequences.get(seq)
    values["state"] = {}
    if sequence:
        values["state"] = {name: getattr(sequence, name) for name in STATE} | {"entries": len(sequence.table)}
    block = golden.states[block_of(golden, command)]
    names = ("references", "tenant", "sealed", "written", "generation")
    values["block"] = {name: getattr(block, name) for name in names}
    other = golden.sequences.get(arg0)
    values["destination"] = {"open": 0}
    if opcode == Opcode.FORK.value and other:
        values["destination"] = {"open": 1, "tenant": other.tenant, "empty": not other.table}
    return values | {"size": golden.blocks, "free": len(golden.free), "records": golden.records}


@pytest.mark.parametrize("registered", [False, True])
def test_status_against_the_golden_model(registered: bool) -> None:
    dut = CommandCheck(dataclasses.replace(SMALL, registered=registered), 32, 2)
    seen: Counter = Counter()

    async def bench(ctx) -> None:
        for blocks in (12, 12, 9, 4, 2):
            rng = random.Random(f"check {blocks}")
            golden = manager(SMALL, blocks, reference_bits=2)
            golden.records = 3
            for _ in range(900):
                command = tuple(map(int, random_command(rng, golden, [0, 1, 2])))
                for name, value in inputs(golden, command).items():
                    ctx.set(getattr(dut, name), value)
                if dut.block_latency:
                    # The block comes later than the sequence.
                    ctx.set(dut.block, {"tenant": 77, "generation": 5})
                    await ctx.tick().repeat(dut.latency - dut.block_latency)
                    ctx.set(dut.block, inputs(golden, command)["block"])
                await ctx.tick().repeat(dut.block_latency or dut.latency)
                before = copy.deepcopy(golden)
                status, aux = golden.execute(*command)
                found = ctx.get(dut.status)
                seen[command[0], int(status)] += 1
                if (command[0], int(status)) in LATER:
                    assert found in (Status.OK, Status(status)), command
                    continue
                assert found == Status(status), (command, before.sequences)
                if status == 0:
                    check_sums(ctx, dut, before, command, aux)

    simulate(dut, bench, cycles=100_000)
    assert len({status for _, status in seen}) >= len(Status) - 2
    assert {opcode for opcode, status in seen if status == 0} == {opcode.value for opcode in Opcode}


def check_sums(ctx, dut, before, command, aux: int) -> None:
    opcode, seq, _, arg0, _ = command
    if opcode == Opcode.ALLOC.value:
        assert ctx.get(dut.missing) == aux
    if opcode == Opcode.COMMIT.value:
        assert ctx.get(dut.committed) == aux
    if opcode == Opcode.APPEND.value:
        entries = len(before.sequences[seq].table)
        needed = -(-(aux + arg0) // 16)
        assert ctx.get(dut.position) == aux
        assert ctx.get(dut.missing) == max(0, needed - entries)
        assert ctx.get(dut.present) == (arg0 > 0 and aux // 16 < entries)
        if ctx.get(dut.present):
            assert ctx.get(dut.last_present) == min(entries, needed) - 1
        if arg0:
            assert ctx.get(dut.final) == needed - 1
