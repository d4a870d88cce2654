# SPDX-License-Identifier: Apache-2.0
"""What the KV controller's commands do, in plain Python: docs/blocks/kvcache.md.

Written for the meaning alone: a free list is a list, a table is a list, and a command that fails works on
nothing but its arguments.
"""

from __future__ import annotations

import dataclasses
import enum

BLOCK_SIZE = 16


class Opcode(enum.IntEnum):
    OPEN = 1
    ALLOC = 2
    APPEND = 3
    COMMIT = 4
    ABORT = 5
    FREE = 11
    TRANSLATE = 12
    STAT = 17


class Status(enum.IntEnum):
    OK = 0
    BAD_CMD = 1
    BAD_SEQ = 2
    TENANT = 3
    SEQ_BUSY = 4
    ZERO_LEN = 5
    TABLE_FULL = 6
    NEVER_FITS = 7
    NO_SPACE = 8
    NOT_RESERVED = 9
    OUT_OF_RANGE = 11
    NOT_MAPPED = 21


class Stat(enum.IntEnum):
    POOL_BLOCKS = 0
    POOL_USED = 1
    POOL_PEAK = 2
    POOL_ENDS = 3
    BLOCK_STATE = 8
    BLOCK_GENERATION = 9
    BLOCK_LINKS = 10
    SEQUENCE_OWNER = 16
    SEQUENCE_LENGTH = 17
    SEQUENCE_RESERVED = 18
    SEQUENCE_TABLE = 19
    SEQUENCE_ENTRY = 20


class Refused(Exception):
    """A command that cannot be executed; its argument is the status."""


@dataclasses.dataclass
class Block:
    references: int = 0
    tenant: int = 0
    sealed: bool = False
    written: int = 0
    generation: int = 0


@dataclasses.dataclass
class Sequence:
    tenant: int
    length: int = 0
    reserved: int = 0
    table: list[int] = dataclasses.field(default_factory=list)


class BlockManager:
    """The controller's state and its commands.

    Parameters
    ----------
    blocks
        Blocks of the pool, NULL included.
    blocks_max
        Blocks that the device has room for.
    sequences
        Number of sequences.
    entries
        Entries of a block table.
    generation_bits
        Width of a generation, which stays at its highest value.
    """

    def __init__(self, blocks: int, blocks_max: int, sequences: int, entries: int, generation_bits: int = 32):
        self.limit = sequences
        self.entries = entries
        self.generation_max = (1 << generation_bits) - 1
        self.states = [Block() for _ in range(blocks_max)]
        self._start(blocks)

    def _start(self, blocks: int) -> None:
        self.blocks = max(1, min(blocks, len(self.states)))
        self.free = list(range(1, self.blocks))
        self.sequences: dict[int, Sequence] = {}
        self.peak = 0

    def initialize(self, blocks: int) -> None:
        """Starts over with all sequences closed and all blocks free; generations advance."""
        self.states = [
            Block(generation=min(block.generation + 1, self.generation_max)) for block in self.states
        ]
        self._start(blocks)

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self.blocks - 1 - len(self.free)

    def execute(self, opcode: int, seq: int, tenant: int, arg0: int = 0, arg1: int = 0) -> tuple[Status, int]:
        """Executes a command; returns its status and auxiliary value."""
        try:
            if opcode not in list(Opcode):
                raise Refused(Status.BAD_CMD)
            if opcode == Opcode.STAT:
                return Status.OK, self._stat(arg0, seq, arg1)
            if opcode == Opcode.OPEN:
                return Status.OK, self._open(seq, tenant)
            if seq not in self.sequences:
                raise Refused(Status.BAD_SEQ)
            sequence = self.sequences[seq]
            if sequence.tenant != tenant:
                raise Refused(Status.TENANT)
            if opcode == Opcode.FREE:
                return Status.OK, self._free(seq)
            action = {
                Opcode.ALLOC: self._alloc,
                Opcode.APPEND: self._append,
                Opcode.COMMIT: self._commit,
                Opcode.ABORT: self._abort,
                Opcode.TRANSLATE: self._translate,
            }[Opcode(opcode)]
            return Status.OK, action(sequence, arg0)
        except Refused as refused:
            return refused.args[0], 0

    def _open(self, seq: int, tenant: int) -> int:
        if seq >= self.limit:
            raise Refused(Status.BAD_SEQ)
        if seq in self.sequences:
            raise Refused(Status.SEQ_BUSY)
        self.sequences[seq] = Sequence(tenant)
        return 0

    def _grow(self, sequence: Sequence, count: int) -> None:
        for _ in range(count):
            number = self.free.pop(0)
            block = self.states[number]
            block.references, block.tenant, block.sealed, block.written = 1, sequence.tenant, False, 0
            block.generation = min(block.generation + 1, self.generation_max)
            sequence.table.append(number)
        self.peak = max(self.peak, self.used)

    def _needed(self, sequence: Sequence, tokens: int) -> int:
        """Blocks to be added for the next tokens."""
        total = -(-(sequence.length + sequence.reserved + tokens) // BLOCK_SIZE)
        if total > self.entries:
            raise Refused(Status.TABLE_FULL)
        return max(0, total - len(sequence.table))

    def _alloc(self, sequence: Sequence, tokens: int) -> int:
        if tokens == 0:
            raise Refused(Status.ZERO_LEN)
        count = self._needed(sequence, tokens)
        if count + len(sequence.table) > self.blocks - 1:
            raise Refused(Status.NEVER_FITS)
        if count > len(self.free):
            raise Refused(Status.NO_SPACE)
        self._grow(sequence, count)
        return count

    def _append(self, sequence: Sequence, tokens: int) -> int:
        count = self._needed(sequence, tokens)
        if count > len(self.free):
            raise Refused(Status.NO_SPACE)
        self._grow(sequence, count)
        first = sequence.length + sequence.reserved
        sequence.reserved += tokens
        return first

    def _commit(self, sequence: Sequence, tokens: int) -> int:
        if tokens > sequence.reserved:
            raise Refused(Status.NOT_RESERVED)
        for position in range(sequence.length, sequence.length + tokens):
            self.states[sequence.table[position // BLOCK_SIZE]].written = position % BLOCK_SIZE + 1
        sequence.length += tokens
        sequence.reserved -= tokens
        return sequence.length

    def _abort(self, sequence: Sequence, _: int) -> int:
        if sequence.reserved == 0:
            raise Refused(Status.NOT_RESERVED)
        sequence.reserved = 0
        return sequence.length

    def _free(self, seq: int) -> int:
        before = len(self.free)
        for number in reversed(self.sequences.pop(seq).table):
            block = self.states[number]
            block.references -= 1
            if block.references == 0:
                self.free.append(number)
        return len(self.free) - before

    def _translate(self, sequence: Sequence, token: int) -> int:
        if token // BLOCK_SIZE >= len(sequence.table):
            raise Refused(Status.OUT_OF_RANGE)
        block = sequence.table[token // BLOCK_SIZE]
        if block == 0:
            raise Refused(Status.NOT_MAPPED)
        return block * BLOCK_SIZE + token % BLOCK_SIZE

    def _stat(self, kind: int, seq: int, index: int) -> int:
        if kind not in list(Stat):
            raise Refused(Status.OUT_OF_RANGE)
        if kind < Stat.BLOCK_STATE:
            ends = (self.free[0] | self.free[-1] << 16) if self.free else 0
            return [self.blocks, self.used, self.peak, ends][kind]
        if kind < Stat.SEQUENCE_OWNER:
            if index >= self.blocks:
                raise Refused(Status.OUT_OF_RANGE)
            return self._block_stat(kind, index)
        if seq >= self.limit:
            raise Refused(Status.OUT_OF_RANGE)
        sequence = self.sequences.get(seq, Sequence(0))
        if kind == Stat.SEQUENCE_OWNER:
            return sequence.tenant | (seq in self.sequences) << 8
        if kind == Stat.SEQUENCE_LENGTH:
            return sequence.length
        if kind == Stat.SEQUENCE_RESERVED:
            return sequence.reserved
        if kind == Stat.SEQUENCE_TABLE:
            return len(sequence.table)
        if index >= len(sequence.table):
            raise Refused(Status.OUT_OF_RANGE)
        return sequence.table[index]

    def _block_stat(self, kind: int, number: int) -> int:
        block = self.states[number]
        if kind == Stat.BLOCK_STATE:
            return block.references | block.tenant << 8 | block.written << 16 | block.sealed << 24
        if kind == Stat.BLOCK_GENERATION:
            return block.generation
        if number not in self.free:
            return 0
        place = self.free.index(number)
        following = self.free[place + 1] if place + 1 < len(self.free) else 0
        previous = self.free[place - 1] if place else 0
        return following | previous << 16
