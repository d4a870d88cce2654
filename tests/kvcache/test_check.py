# SPDX-License-Identifier: Apache-2.0
"""CommandCheck: the status of every command in random states, legal or not, against the golden model."""

import random
from collections import Counter

from serrano.kvcache import Opcode, Status
from serrano.kvcache.check import CommandCheck
from serrano_sim.golden.block_manager import Sequence
from serrano_sim.kv_commands import SMALL, manager, random_command
from support.streams import simulate


def test_status_against_the_golden_model() -> None:
    dut = CommandCheck(SMALL)
    seen: Counter = Counter()

    async def bench(ctx) -> None:
        rng = random.Random(11)
        for _ in range(3000):
            # A state out of the blue: only the counts matter here.
            golden = manager(SMALL, rng.choice([2, 4, 12]))
            entries = rng.randrange(min(5, golden.blocks - 1) + 1)
            total = rng.randint(0, 16 * entries)
            length = rng.randint(0, total)
            is_open = rng.random() < 0.9
            if is_open:
                table = [golden.free.pop() for _ in range(entries)]
                golden.sequences[1] = Sequence(rng.randrange(3), length, total - length, table)
            for _ in range(rng.randrange(len(golden.free) + 1)):
                golden.free.pop()
            size, free = golden.blocks, len(golden.free)
            command = random_command(rng, golden, [1])
            ctx.set(dut.command, dict(zip(("opcode", "seq", "tenant", "arg0", "arg1"), command, strict=True)))
            state = golden.sequences.get(1)
            ctx.set(dut.open, is_open and command[1] == 1)
            ctx.set(
                dut.state,
                {
                    "tenant": state.tenant,
                    "length": length,
                    "reserved": total - length,
                    "entries": entries,
                    "first": 0,
                }
                if state and command[1] == 1
                else {},
            )
            ctx.set(dut.size, size)
            ctx.set(dut.free, free)
            await ctx.tick().repeat(dut.latency)
            wanted = golden.execute(*command)
            assert ctx.get(dut.status) == Status(wanted[0]), command
            seen[command[0], wanted[0]] += 1
            if wanted[0] != 0:
                continue
            if command[0] == Opcode.ALLOC.value:
                assert ctx.get(dut.missing) == wanted[1]
            if command[0] == Opcode.APPEND.value:
                assert ctx.get(dut.position) == wanted[1]
                assert ctx.get(dut.missing) == free - len(golden.free)
            if command[0] == Opcode.COMMIT.value:
                assert ctx.get(dut.committed) == wanted[1]

    simulate(dut, bench)
    assert {Status(status).name for _, status in seen} == {
        "OK", "BAD_CMD", "BAD_SEQ", "TENANT", "SEQ_BUSY", "ZERO_LEN", "TABLE_FULL", "NEVER_FITS", "NO_SPACE",
        "NOT_RESERVED", "OUT_OF_RANGE",
    }  # fmt: skip
