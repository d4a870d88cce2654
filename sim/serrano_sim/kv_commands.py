# SPDX-License-Identifier: Apache-2.0
"""Commands for benches of the KV controller: seeded random ones, and the state as STAT tells it."""

import dataclasses
import random

from serrano.config import AcceleratorConfig, preset

from .golden.block_manager import BlockManager, Opcode, Stat

__all__ = ["SMALL", "UNKNOWN", "check_invariants", "manager", "random_command", "snapshot"]

SMALL = dataclasses.replace(preset("tiny"), context_max=80, blocks_max=12, sequences_max=3)
"""Twelve blocks, three sequences of five entries: everything runs out often."""

UNKNOWN = (0, 18, 128, 255)
"""Opcodes that are answered with BAD_CMD."""


def manager(
    config: AcceleratorConfig, blocks: int, generation_bits: int = 32, reference_bits: int = 8
) -> BlockManager:
    """The golden model of a controller."""
    return BlockManager(
        blocks,
        config.blocks_max,
        config.sequences_max,
        config.table_entries,
        generation_bits,
        reference_bits,
    )


def random_command(rng: random.Random, golden: BlockManager, seqs: list[int]) -> tuple[int, ...]:
    """A command of opcode, seq, tenant, arg0, arg1; most are legal in the golden model's state."""
    basic = [Opcode.OPEN, Opcode.ALLOC, Opcode.APPEND, Opcode.COMMIT, Opcode.ABORT, Opcode.FREE]
    basic += [Opcode.TRANSLATE, Opcode.STAT]
    opcode = rng.choices([*basic, rng.choice(UNKNOWN)], weights=[10, 14, 22, 18, 4, 7, 10, 8, 3], k=1)[0]
    seq = rng.choice(seqs) if rng.random() < 0.96 else rng.choice([golden.limit, 8, 256, 65535])
    sequence = golden.sequences.get(seq)
    tenant = rng.randrange(3)
    if sequence and rng.random() < 0.93:
        tenant = sequence.tenant
    arg0, arg1 = rng.randrange(20), rng.randrange(golden.blocks + 2)
    if rng.random() < 0.2:
        arg0 = rng.choice([0, 1, 16, 17, 31, 32, 33, 48, 80, 81, 96, 1 << 16, (1 << 32) - 1])
    elif sequence and opcode == Opcode.COMMIT and rng.random() < 0.8:
        arg0 = rng.randint(0, sequence.reserved)
    elif sequence and opcode == Opcode.TRANSLATE:
        arg0 = rng.randrange(16 * len(sequence.table) + 4)
    if opcode == Opcode.STAT:
        arg0 = rng.choice(list(Stat)) if rng.random() < 0.95 else rng.choice([4, 11, 21, 256 + 8])
        if arg0 == Stat.SEQUENCE_ENTRY:
            arg1 = rng.randrange(golden.entries + 1)
    return int(opcode), seq, tenant, int(arg0), arg1


def snapshot(golden: BlockManager) -> list[tuple[int, ...]]:
    """STAT commands that together tell the whole state."""
    every = [(Opcode.STAT, 0, 0, kind, 0) for kind in Stat if kind < Stat.BLOCK_STATE]
    for number in range(golden.blocks):
        every += [
            (Opcode.STAT, 0, 0, kind, number)
            for kind in (Stat.BLOCK_STATE, Stat.BLOCK_GENERATION, Stat.BLOCK_LINKS)
        ]
    for seq in range(golden.limit):
        every += [
            (Opcode.STAT, seq, 0, kind, 0)
            for kind in (
                Stat.SEQUENCE_OWNER,
                Stat.SEQUENCE_LENGTH,
                Stat.SEQUENCE_RESERVED,
                Stat.SEQUENCE_TABLE,
            )
        ]
        every += [(Opcode.STAT, seq, 0, Stat.SEQUENCE_ENTRY, index) for index in range(golden.entries)]
    return [tuple(map(int, command)) for command in every]


def check_invariants(answers: dict[tuple[int, int, int], tuple[int, int]], limit: int, entries: int) -> None:
    """Invariants 1 to 3 on the state that was read: answers (status, aux) by (kind, seq, index)."""

    def stat(kind: int, index: int = 0, seq: int = 0) -> int:
        status, aux = answers[int(kind), seq, index]
        assert status == 0
        return aux

    blocks, used, ends = (stat(kind) for kind in (Stat.POOL_BLOCKS, Stat.POOL_USED, Stat.POOL_ENDS))
    references = dict.fromkeys(range(blocks), 0)
    for seq in range(limit):
        table = stat(Stat.SEQUENCE_TABLE, 0, seq) & 0xFFFF
        for index in range(entries):
            status, block = answers[int(Stat.SEQUENCE_ENTRY), seq, index]
            assert (status == 0) == (index < table)
            if index < table:
                references[block] += 1
    assert references[0] == 0
    assert [stat(Stat.BLOCK_STATE, number) & 0xFF for number in range(blocks)] == list(references.values())
    # The free list, from both ends.
    for end, shift in ((ends & 0xFFFF, 0), (ends >> 16, 16)):
        free, number = [], end
        while number:
            free.append(number)
            assert len(free) < blocks
            number = stat(Stat.BLOCK_LINKS, number) >> shift & 0xFFFF
        assert sorted(free) == [number for number in range(1, blocks) if references[number] == 0]
        assert len(free) + used + 1 == blocks
