# SPDX-License-Identifier: Apache-2.0
"""The golden block manager: what each command does, and in which order it looks for errors."""

import copy

import pytest

from serrano_sim.golden.block_manager import BlockManager, Kind, Move, Opcode, Stat, Status

TENANT = 7
HIGH = (1 << 32) - 1


class Bench:
    """A block manager whose commands must succeed unless a status is named; refused ones change nothing."""

    def __init__(self, blocks: int = 12, sequences: int = 4, entries: int = 5, **options):
        self.moves: list[Move] = []
        self.broken = 0
        self.golden = BlockManager(blocks, blocks, sequences, entries, mover=self._move, **options)

    def _move(self, move: Move) -> bool:
        self.moves.append(move)
        self.broken -= 1
        return self.broken != 0

    def state(self):
        golden = self.golden
        return copy.deepcopy((golden.states, golden.free, golden.sequences, golden.peak, golden.blocks))

    def run(self, name: str, seq: int = 0, arg0: int = 0, arg1: int = 0, *, tenant: int = TENANT) -> int:
        status, aux = self.golden.execute(Opcode[name], seq, tenant, arg0, arg1)
        assert status == Status.OK, (name, status)
        return aux

    def refused(
        self, status: str, name: str, seq: int = 0, arg0: int = 0, arg1: int = 0, *, tenant: int = TENANT
    ) -> None:
        before = self.state()
        assert self.golden.execute(Opcode[name], seq, tenant, arg0, arg1) == (Status[status], 0)
        assert self.state() == before

    def filled(self, seq: int, tokens: int, *, tenant: int = TENANT) -> list[int]:
        """Opens a sequence with so many committed tokens; returns its table."""
        self.run("OPEN", seq, tenant=tenant)
        self.run("APPEND", seq, tokens, tenant=tenant)
        self.run("COMMIT", seq, tokens, tenant=tenant)
        return self.table(seq)

    def table(self, seq: int) -> list[int]:
        return list(self.golden.sequences[seq].table)

    def block(self, number: int):
        return self.golden.states[number]

    def counts(self) -> dict[int, int]:
        return {n: b.references for n, b in enumerate(self.golden.states) if b.references}


def test_order_of_errors() -> None:
    bench = Bench()
    bench.run("OPEN", 1)
    for opcode in Opcode:
        if opcode in (Opcode.STAT, Opcode.EVICT, Opcode.SCRUB, Opcode.RESET_POOL):
            continue
        bench.refused("BAD_SEQ", opcode.name, 4, HIGH, HIGH, tenant=TENANT + 1)
        if opcode != Opcode.OPEN:
            bench.refused("BAD_SEQ", opcode.name, 0, HIGH, HIGH, tenant=TENANT + 1)
            arg0 = 1 if opcode == Opcode.FORK else HIGH
            bench.refused("TENANT", opcode.name, 1, arg0, HIGH, tenant=TENANT + 1)
    for number in (0, 18, 128, 255):
        assert bench.golden.execute(number, 9, 9, 9, 9) == (Status.BAD_CMD, 0)


def test_commands_as_of_old() -> None:
    bench = Bench()
    bench.run("OPEN", 0)
    bench.refused("SEQ_BUSY", "OPEN")
    bench.refused("ZERO_LEN", "ALLOC")
    bench.refused("TABLE_FULL", "ALLOC", 0, 81)
    assert bench.run("ALLOC", 0, 17) == 2
    assert bench.run("APPEND", 0, 20) == 0
    bench.refused("NOT_RESERVED", "COMMIT", 0, 21)
    assert bench.run("COMMIT", 0, 18) == 18
    assert [bench.block(number).written for number in (1, 2)] == [16, 2]
    assert bench.run("ABORT") == 18
    bench.refused("NOT_RESERVED", "ABORT")
    assert bench.run("TRANSLATE", 0, 31) == 2 * 16 + 15
    bench.refused("OUT_OF_RANGE", "TRANSLATE", 0, 32)
    assert bench.run("FREE") == 2
    assert bench.golden.free == [*range(3, 12), 2, 1]
    small = Bench(blocks=4)
    small.run("OPEN")
    small.run("OPEN", 1)
    small.refused("NEVER_FITS", "ALLOC", 0, 49)
    small.run("ALLOC", 1, 16)
    small.refused("NO_SPACE", "ALLOC", 0, 48)
    small.refused("NO_SPACE", "APPEND", 0, 48)


def test_seal() -> None:
    bench = Bench()
    bench.run("OPEN")
    bench.run("APPEND", 0, 30)
    bench.run("COMMIT", 0, 15)
    bench.refused("OUT_OF_RANGE", "SEAL", 0, 2)
    bench.refused("OUT_OF_RANGE", "SEAL", 0, HIGH)
    bench.refused("NOT_FULL", "SEAL", 0, 1)
    bench.refused("NOT_WRITTEN", "SEAL", 0, 0)
    bench.run("COMMIT", 0, 1)
    assert bench.run("SEAL") == bench.block(1).generation == 1
    bench.refused("ALREADY", "SEAL")
    bench.run("COMMIT", 0, 14)
    bench.run("SLIDE", 0, 16)
    bench.refused("OUT_OF_RANGE", "SEAL", 0, 0)


def test_share() -> None:
    bench = Bench(reference_bits=2)
    first, second = bench.filled(0, 32)
    generation = bench.run("SEAL", 0, 0)
    bench.run("OPEN", 1)
    bench.run("OPEN", 2, tenant=9)
    bench.refused("TENANT", "SHARE", 2, first, generation, tenant=9)
    bench.refused("NULL_BLOCK", "SHARE", 2, 0, generation, tenant=9)
    bench.refused("NULL_BLOCK", "SHARE", 1, 12, generation)
    bench.refused("NOT_SEALED", "SHARE", 1, second, 1)
    bench.refused("STALE_GEN", "SHARE", 1, first, generation + 1)
    assert bench.run("SHARE", 1, first, generation) == 16
    assert bench.run("SHARE", 1, first, generation) == 32
    assert bench.counts() == {first: 3, second: 1}
    bench.refused("REF_OVERFLOW", "SHARE", 1, first, generation)
    bench.run("APPEND", 1, 1)
    bench.refused("UNALIGNED", "SHARE", 1, first, generation)
    bench.refused("TENANT", "SHARE", 1, 9, generation)
    bench.run("FREE", 1)
    bench.run("FREE", 0)
    # From the middle of the free list.
    assert bench.golden.free == [*range(4, 12), 3, second, first]
    bench.filled(0, 80)
    bench.refused("TABLE_FULL", "SHARE", 0, first, generation)
    bench.run("FREE")
    bench.run("OPEN")
    bench.run("SHARE", 0, first, generation)
    assert first not in bench.golden.free
    assert bench.block(first).generation == generation


def test_share_of_the_highest_generation() -> None:
    bench = Bench(blocks=2, generation_bits=2)
    for generation in (1, 2, 3, 3):
        assert bench.filled(0, 16) == [1]
        assert bench.run("SEAL") == generation
        bench.run("OPEN", 1)
        if generation < 3:
            bench.run("SHARE", 1, 1, generation)
        else:
            bench.refused("STALE_GEN", "SHARE", 1, 1, generation)
        bench.run("FREE", 1)
        bench.run("FREE", 0)


def test_fork() -> None:
    bench = Bench(reference_bits=2)
    table = bench.filled(0, 40)
    bench.run("OPEN", 1)
    bench.refused("BAD_SEQ", "FORK", 0, 2)
    bench.refused("BAD_SEQ", "FORK", 0, 1 << 16)
    bench.refused("SEQ_BUSY", "FORK", 0, 0)
    bench.run("OPEN", 2, tenant=3)
    bench.refused("TENANT", "FORK", 0, 2)
    bench.refused("TENANT", "FORK", 0, 2, tenant=3)
    bench.run("APPEND", 0, 1)
    bench.refused("SEQ_BUSY", "FORK", 0, 1)
    bench.run("ABORT")
    bench.run("SLIDE", 0, 17)
    assert bench.run("FORK", 0, 1) == 2
    assert bench.golden.sequences[1] == bench.golden.sequences[0]
    assert bench.table(1) == [0, *table[1:]]
    bench.refused("SEQ_BUSY", "FORK", 0, 1)
    bench.run("OPEN", 3)
    bench.run("FORK", 1, 3)
    bench.run("FREE", 2, tenant=3)
    bench.run("OPEN", 2)
    bench.refused("REF_OVERFLOW", "FORK", 0, 2)


def test_fork_of_a_sequence_that_names_a_block_twice() -> None:
    bench = Bench(reference_bits=2)
    (block,) = bench.filled(0, 16)
    bench.run("SHARE", 0, block, bench.run("SEAL"))
    bench.run("OPEN", 1)
    # Two references and two more would be one too many, although the count is not at its maximum.
    bench.refused("REF_OVERFLOW", "FORK", 0, 1)
    bench.run("TRIM", 0, 16)
    assert bench.run("FORK", 0, 1) == 1
    assert bench.counts() == {block: 2}


def test_trim() -> None:
    bench = Bench()
    table = bench.filled(0, 40)
    bench.run("ALLOC", 0, 40)
    bench.run("APPEND", 0, 10)
    bench.refused("BAD_LEN", "TRIM", 0, 41)
    assert bench.run("TRIM", 0, 40) == 2
    assert bench.golden.sequences[0].reserved == 0
    assert bench.table(0) == table
    assert bench.golden.free[-2:] == [5, 4]
    assert bench.run("TRIM", 0, 17) == 1
    assert bench.block(table[1]).written == 16
    bench.run("SLIDE", 0, 16)
    bench.refused("BAD_LEN", "TRIM", 0, 15)
    assert bench.run("TRIM", 0, 16) == 1
    assert bench.table(0) == [0]
    assert bench.run("APPEND", 0, 1) == 16


def test_slide() -> None:
    bench = Bench()
    table = bench.filled(0, 70)
    bench.refused("BAD_LEN", "SLIDE", 0, 71)
    assert bench.run("SLIDE", 0, 15) == 0
    assert bench.run("SLIDE", 0, 47) == 2
    assert bench.table(0) == [0, 0, *table[2:]]
    assert bench.golden.free[-2:] == [table[1], table[0]]
    assert bench.run("SLIDE", 0, 16) == 0
    bench.refused("NOT_MAPPED", "TRANSLATE", 0, 31)
    assert bench.run("STAT", 0, Stat.SEQUENCE_TABLE) == 5 | 2 << 16
    assert bench.run("STAT", 0, Stat.SEQUENCE_ENTRY, 1) == 0
    assert bench.run("FREE") == 3
    assert bench.golden.free[-3:] == [5, 4, 3]


def test_sliding_makes_room_for_sequences_that_never_end() -> None:
    bench = Bench(blocks=3)
    bench.filled(0, 32)
    bench.refused("NEVER_FITS", "ALLOC", 0, 1)
    bench.run("SLIDE", 0, 16)
    assert bench.run("ALLOC", 0, 1) == 1
    assert bench.table(0) == [0, 2, 1]


def test_copy_on_write_of_a_shared_block() -> None:
    bench = Bench()
    table = bench.filled(0, 20)
    bench.run("OPEN", 1)
    bench.run("FORK", 0, 1)
    assert bench.run("APPEND", 1, 30) == 20
    assert bench.moves == [Move(Kind.COPY, table[1], 3, high=4)]
    assert bench.table(1) == [table[0], 3, 4, 5]
    assert bench.counts() == {1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert (bench.block(3).written, bench.block(3).tenant) == (4, TENANT)
    # The other one has its block for itself now.
    assert bench.run("APPEND", 0, 1) == 20
    assert len(bench.moves) == 1
    # What was copied stays.
    bench.run("ABORT", 1)
    assert bench.run("APPEND", 1, 1) == 20
    assert len(bench.moves) == 1


def test_copy_on_write_of_a_sealed_block() -> None:
    bench = Bench()
    table = bench.filled(0, 32)
    generation = bench.run("SEAL", 0, 1)
    bench.run("TRIM", 0, 25)
    bench.run("APPEND", 0, 1)
    assert bench.table(0) == [table[0], 3]
    assert bench.golden.free[-1] == table[1]
    # Still there for others.
    bench.run("OPEN", 1)
    assert bench.run("SHARE", 1, table[1], generation) == 16


def test_blocks_that_are_replaced_without_a_copy() -> None:
    bench = Bench()
    bench.filled(0, 16)
    bench.run("ALLOC", 0, 40)
    bench.run("OPEN", 1)
    bench.run("FORK", 0, 1)
    assert bench.table(1) == [1, 2, 3, 4]
    assert bench.run("APPEND", 1, 0) == 16
    assert bench.table(1) == [1, 2, 3, 4]
    bench.run("APPEND", 1, 17)
    assert bench.table(1) == [1, 5, 6, 4]
    assert not bench.moves
    assert bench.counts() == {1: 2, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1}


def test_copy_on_write_needs_space() -> None:
    bench = Bench(blocks=4)
    bench.filled(0, 20)
    bench.run("OPEN", 1)
    bench.run("FORK", 0, 1)
    bench.refused("NO_SPACE", "APPEND", 1, 13)
    bench.run("APPEND", 1, 12)
    assert bench.golden.peak == 3
    assert not bench.golden.free


def test_a_copy_that_fails_evicts_the_block_it_spoilt() -> None:
    bench = Bench()
    # The head of the free list is a sealed block with data.
    spoilt = bench.filled(0, 16)[0]
    generation = bench.run("SEAL")
    bench.run("FREE")
    table = bench.filled(0, 75)
    bench.run("OPEN", 1)
    bench.run("FORK", 0, 1)
    bench.filled(2, 80)
    assert bench.golden.free == [spoilt]
    before = bench.state()
    bench.broken = 1
    assert bench.golden.execute(Opcode.APPEND, 1, TENANT, 2) == (Status.BUS_ERROR, 0)
    assert bench.moves == [Move(Kind.COPY, table[4], spoilt, high=11)]
    assert (bench.block(spoilt).sealed, bench.block(spoilt).generation) == (False, generation + 1)
    after = bench.state()
    for state in (before, after):
        state[0][spoilt] = None
    assert before == after
    bench.run("APPEND", 1, 2)
    assert bench.table(1)[4] == spoilt


def test_gather() -> None:
    bench = Bench(records=4)
    table = bench.filled(0, 60)
    bench.run("APPEND", 0, 4)
    bench.refused("OUT_OF_RANGE", "GATHER", 0, 0, 1 | 4 << 16)
    bench.refused("OUT_OF_RANGE", "GATHER", 0, 60, 1)
    bench.refused("OUT_OF_RANGE", "GATHER", 0, 61, 0)
    bench.refused("OUT_OF_RANGE", "GATHER", 0, HIGH, 0xFFFF)
    assert bench.run("GATHER", 0, 60, 0) == 0
    assert not bench.moves
    assert bench.run("GATHER", 0, 18, 30 | 3 << 16) == 2
    assert bench.moves == [
        Move(Kind.GATHER, table[1], 0, 3, 2, 16, 0),
        Move(Kind.GATHER, table[2], 0, 3, 0, 16, 1),
    ]
    bench.moves.clear()
    assert bench.run("GATHER", 0, 35, 2) == 1
    assert bench.moves == [Move(Kind.GATHER, table[2], 0, 0, 3, 5, 0)]
    bench.moves.clear()
    bench.broken = 2
    bench.refused("BUS_ERROR", "GATHER", 0, 0, 60)
    assert len(bench.moves) == 2
    bench.run("SLIDE", 0, 40)
    bench.refused("NOT_MAPPED", "GATHER", 0, 31, 20)
    assert bench.run("GATHER", 0, 31, 0) == 0
    assert bench.run("GATHER", 0, 32, 28) == 2


@pytest.mark.parametrize("name", ["EVICT", "SCRUB"])
def test_evict_and_scrub(name: str) -> None:
    bench = Bench()
    block, _ = bench.filled(0, 32)
    generation = bench.run("SEAL")
    bench.refused("TENANT", name, 0, block, tenant=8)
    bench.refused("NULL_BLOCK", name, 0, 0)
    bench.refused("NULL_BLOCK", name, 0, 12)
    bench.refused("IN_USE", name, 0, block)
    bench.run("FREE")
    order = list(bench.golden.free)
    assert bench.run(name, 99, block) == generation + 1
    assert bench.golden.free == order
    bench.run("OPEN")
    bench.refused("NOT_SEALED", "SHARE", 0, block, generation + 1)
    assert bench.moves == ([Move(Kind.SCRUB, destination=block)] if name == "SCRUB" else [])


def test_scrubbing_that_fails_evicts() -> None:
    bench = Bench()
    (block,) = bench.filled(0, 16)
    generation = bench.run("SEAL")
    bench.run("FREE")
    bench.broken = 1
    assert bench.golden.execute(Opcode.SCRUB, 0, TENANT, block) == (Status.BUS_ERROR, 0)
    assert (bench.block(block).sealed, bench.block(block).generation) == (False, generation + 1)


def test_reset_of_the_pool() -> None:
    bench = Bench(blocks=5)
    block = bench.filled(0, 16)[0]
    bench.run("SEAL")
    bench.refused("IN_USE", "RESET_POOL", 9, tenant=1)
    bench.run("FREE")
    assert bench.run("RESET_POOL", 9, tenant=1) == 0
    assert bench.golden.free == [2, 3, 4, block]
    assert [state.generation for state in bench.golden.states] == [0, 2, 1, 1, 1]
    assert not any(state.sealed for state in bench.golden.states)
    # Whoever is open stays open.
    bench.run("OPEN")
    bench.run("RESET_POOL")
    bench.run("APPEND", 0, 1)


def test_peak_counts_old_and_new_block_of_a_copy() -> None:
    bench = Bench()
    bench.filled(0, 32)
    bench.run("SEAL", 0, 1)
    bench.run("TRIM", 0, 20)
    assert bench.golden.peak == 2
    bench.run("APPEND", 0, 1)
    assert (bench.golden.used, bench.golden.peak) == (2, 3)
