# SPDX-License-Identifier: Apache-2.0
"""What the KV controller's commands do, in plain Python: docs/blocks/kvcache.md.

Written for the meaning alone: a free list is a list, a table is a list, and a command looks for everything
that could be wrong before it changes anything. Bytes are not kept here; where a command moves some, it asks
``mover``, which may say that the memory refused.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Callable

BLOCK_SIZE = 16


class Opcode(enum.IntEnum):
    OPEN = 1
    ALLOC = 2
    APPEND = 3
    COMMIT = 4
    ABORT = 5
    SEAL = 6
    SHARE = 7
    FORK = 8
    TRIM = 9
    SLIDE = 10
    FREE = 11
    TRANSLATE = 12
    GATHER = 13
    EVICT = 14
    SCRUB = 15
    RESET_POOL = 16
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
    BUS_ERROR = 10
    OUT_OF_RANGE = 11
    NOT_FULL = 12
    NOT_WRITTEN = 13
    ALREADY = 14
    UNALIGNED = 15
    NULL_BLOCK = 16
    NOT_SEALED = 17
    STALE_GEN = 18
    REF_OVERFLOW = 19
    BAD_LEN = 20
    NOT_MAPPED = 21
    IN_USE = 22


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


class Kind(enum.Enum):
    """Why bytes are moved."""

    COPY = "copy"
    """Tokens ``low`` to ``high - 1`` of every record of block ``source`` to block ``destination``, and zeros
    for the others."""
    SCRUB = "scrub"
    """Zeros into the whole of block ``destination``."""
    GATHER = "gather"
    """Tokens ``low`` to ``high - 1`` of record ``record`` of block ``source``, and zeros for the others, to
    place ``index`` of the host's buffer, counted in records."""


@dataclasses.dataclass(frozen=True)
class Move:
    """Bytes to be moved; what a kind does not speak of is 0."""

    kind: Kind
    source: int = 0
    destination: int = 0
    record: int = 0
    low: int = 0
    high: int = 0
    index: int = 0


@dataclasses.dataclass
class Block:
    references: int = 0
    tenant: int = 0
    sealed: bool = False
    written: int = 0
    generation: int = 0


@dataclasses.dataclass
class Sequence:
    """A sequence. Entries of the table before ``first`` are 0."""

    tenant: int
    length: int = 0
    reserved: int = 0
    table: list[int] = dataclasses.field(default_factory=list)
    first: int = 0

    @property
    def position(self) -> int:
        """Number of the next token to be reserved."""
        return self.length + self.reserved

    @property
    def held(self) -> list[int]:
        """The blocks in the table, in order."""
        return self.table[self.first :]


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
    reference_bits
        Width of a count of references.
    records
        Records of a block: layers times KV heads of the model that is loaded.
    mover
        Called with each :class:`Move`; whether the memory took it. Without it, every move succeeds.
    """

    def __init__(
        self,
        blocks: int,
        blocks_max: int,
        sequences: int,
        entries: int,
        generation_bits: int = 32,
        reference_bits: int = 8,
        records: int = 1,
        mover: Callable[[Move], bool] | None = None,
    ):
        self.limit = sequences
        self.entries = entries
        self.generation_max = (1 << generation_bits) - 1
        self.references_max = (1 << reference_bits) - 1
        self.records = records
        self.mover = mover
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
        """Executes a command; returns its status and auxiliary value.

        After any status but OK the state is what it was before, with two exceptions, both of BUS_ERROR: a
        block that a copy on write has spoilt is evicted, and so is one whose scrubbing failed.
        """
        try:
            return Status.OK, self._execute(opcode, seq, tenant, arg0, arg1)
        except Refused as refused:
            return refused.args[0], 0

    def _execute(self, opcode: int, seq: int, tenant: int, arg0: int, arg1: int) -> int:
        # Commands that name no open sequence.
        if opcode not in list(Opcode):
            raise Refused(Status.BAD_CMD)
        if opcode == Opcode.STAT:
            return self._stat(arg0, seq, arg1)
        if opcode == Opcode.OPEN:
            return self._open(seq, tenant)
        if opcode == Opcode.RESET_POOL:
            return self._reset_pool()
        if opcode == Opcode.EVICT:
            return self._evict(arg0, tenant)
        if opcode == Opcode.SCRUB:
            return self._scrub(arg0, tenant)
        # FORK names two.
        named = [seq, arg0] if opcode == Opcode.FORK else [seq]
        if any(number not in self.sequences for number in named):
            raise Refused(Status.BAD_SEQ)
        if any(self.sequences[number].tenant != tenant for number in named):
            raise Refused(Status.TENANT)
        sequence = self.sequences[seq]
        if opcode == Opcode.FREE:
            return self._free(seq)
        if opcode == Opcode.FORK:
            return self._fork(sequence, self.sequences[arg0])
        if opcode == Opcode.SHARE:
            return self._share(sequence, arg0, arg1)
        if opcode == Opcode.GATHER:
            return self._gather(sequence, arg0, arg1 & 0xFFFF, arg1 >> 16)
        action = {
            Opcode.ALLOC: self._alloc,
            Opcode.APPEND: self._append,
            Opcode.COMMIT: self._commit,
            Opcode.ABORT: self._abort,
            Opcode.SEAL: self._seal,
            Opcode.TRIM: self._trim,
            Opcode.SLIDE: self._slide,
            Opcode.TRANSLATE: self._translate,
        }[Opcode(opcode)]
        return action(sequence, arg0)

    # Blocks.

    def _move(self, move: Move) -> bool:
        return self.mover is None or self.mover(move)

    def _take(self, tenant: int) -> int:
        """The first block of the free list, for a new owner."""
        number = self.free.pop(0)
        block = self.states[number]
        block.references, block.tenant, block.sealed, block.written = 1, tenant, False, 0
        self._advance(block)
        self.peak = max(self.peak, self.used)
        return number

    def _drop(self, number: int) -> None:
        """One reference less; a block without references goes to the free list's end."""
        block = self.states[number]
        block.references -= 1
        if block.references == 0:
            self.free.append(number)

    def _release(self, numbers: list[int]) -> int:
        """Drops these, the last one first; returns how many became free."""
        before = len(self.free)
        for number in reversed(numbers):
            self._drop(number)
        return len(self.free) - before

    def _advance(self, block: Block) -> None:
        block.generation = min(block.generation + 1, self.generation_max)

    def _forget(self, block: Block) -> int:
        """Makes what the block holds nobody's; returns its generation."""
        block.sealed = False
        self._advance(block)
        return block.generation

    # Sequences.

    def _open(self, seq: int, tenant: int) -> int:
        if seq >= self.limit:
            raise Refused(Status.BAD_SEQ)
        if seq in self.sequences:
            raise Refused(Status.SEQ_BUSY)
        self.sequences[seq] = Sequence(tenant)
        return 0

    def _needed(self, sequence: Sequence, tokens: int) -> int:
        """Blocks to be added for the next tokens."""
        total = -(-(sequence.position + tokens) // BLOCK_SIZE)
        if total > self.entries:
            raise Refused(Status.TABLE_FULL)
        return max(0, total - len(sequence.table))

    def _alloc(self, sequence: Sequence, tokens: int) -> int:
        if tokens == 0:
            raise Refused(Status.ZERO_LEN)
        count = self._needed(sequence, tokens)
        if count + len(sequence.held) > self.blocks - 1:
            raise Refused(Status.NEVER_FITS)
        if count > len(self.free):
            raise Refused(Status.NO_SPACE)
        sequence.table += [self._take(sequence.tenant) for _ in range(count)]
        return count

    def _append(self, sequence: Sequence, tokens: int) -> int:
        missing = self._needed(sequence, tokens)
        first = sequence.position
        if tokens == 0:
            return first
        # What is shared or sealed must not be written: it is replaced.
        end = min(len(sequence.table), -(-(first + tokens) // BLOCK_SIZE))
        replaced = [
            index
            for index in range(first // BLOCK_SIZE, end)
            if self.states[sequence.table[index]].references > 1 or self.states[sequence.table[index]].sealed
        ]
        if len(replaced) + missing > len(self.free):
            raise Refused(Status.NO_SPACE)
        kept = first % BLOCK_SIZE if first // BLOCK_SIZE in replaced else 0
        if kept:
            source, head = sequence.table[first // BLOCK_SIZE], self.free[0]
            if not self._move(Move(Kind.COPY, source, head, high=kept)):
                self._forget(self.states[head])
                raise Refused(Status.BUS_ERROR)
        for index in replaced:
            old = sequence.table[index]
            sequence.table[index] = self._take(sequence.tenant)
            self._drop(old)
        if kept:
            self.states[sequence.table[first // BLOCK_SIZE]].written = kept
        sequence.table += [self._take(sequence.tenant) for _ in range(missing)]
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

    def _seal(self, sequence: Sequence, index: int) -> int:
        if not sequence.first <= index < len(sequence.table):
            raise Refused(Status.OUT_OF_RANGE)
        block, end = self.states[sequence.table[index]], (index + 1) * BLOCK_SIZE
        if end > sequence.position:
            raise Refused(Status.NOT_FULL)
        if end > sequence.length or block.written != BLOCK_SIZE:
            raise Refused(Status.NOT_WRITTEN)
        if block.sealed:
            raise Refused(Status.ALREADY)
        block.sealed = True
        return block.generation

    def _share(self, sequence: Sequence, number: int, generation: int) -> int:
        exists = 0 < number < self.blocks
        if exists and self.states[number].tenant != sequence.tenant:
            raise Refused(Status.TENANT)
        if sequence.length != BLOCK_SIZE * len(sequence.table):
            raise Refused(Status.UNALIGNED)
        if len(sequence.table) == self.entries:
            raise Refused(Status.TABLE_FULL)
        if not exists:
            raise Refused(Status.NULL_BLOCK)
        block = self.states[number]
        if not block.sealed:
            raise Refused(Status.NOT_SEALED)
        # Nobody knows how often the highest generation has been used.
        if generation != block.generation or generation == self.generation_max:
            raise Refused(Status.STALE_GEN)
        if block.references == self.references_max:
            raise Refused(Status.REF_OVERFLOW)
        if block.references == 0:
            self.free.remove(number)
            self.peak = max(self.peak, self.used)
        block.references += 1
        sequence.table.append(number)
        sequence.length += BLOCK_SIZE
        return sequence.length

    def _fork(self, source: Sequence, copy: Sequence) -> int:
        if copy is source or copy.table or source.reserved:
            raise Refused(Status.SEQ_BUSY)
        # A sequence may name a block twice.
        wanted = Counter(source.held)
        if any(self.states[number].references + wanted[number] > self.references_max for number in wanted):
            raise Refused(Status.REF_OVERFLOW)
        for number in source.held:
            self.states[number].references += 1
        copy.table, copy.first, copy.length = list(source.table), source.first, source.length
        return len(source.held)

    def _trim(self, sequence: Sequence, length: int) -> int:
        if not BLOCK_SIZE * sequence.first <= length <= sequence.length:
            raise Refused(Status.BAD_LEN)
        entries = -(-length // BLOCK_SIZE)
        released = sequence.table[entries:]
        del sequence.table[entries:]
        sequence.length, sequence.reserved = length, 0
        return self._release(released)

    def _slide(self, sequence: Sequence, token: int) -> int:
        if token > sequence.length:
            raise Refused(Status.BAD_LEN)
        first = max(sequence.first, token // BLOCK_SIZE)
        released = sequence.table[sequence.first : first]
        sequence.table[:first] = [0] * first
        sequence.first = first
        return self._release(released)

    def _free(self, seq: int) -> int:
        return self._release(self.sequences.pop(seq).held)

    def _translate(self, sequence: Sequence, token: int) -> int:
        if token // BLOCK_SIZE >= len(sequence.table):
            raise Refused(Status.OUT_OF_RANGE)
        block = sequence.table[token // BLOCK_SIZE]
        if block == 0:
            raise Refused(Status.NOT_MAPPED)
        return block * BLOCK_SIZE + token % BLOCK_SIZE

    def _gather(self, sequence: Sequence, first: int, count: int, record: int) -> int:
        end = first + count
        if record >= self.records or end > sequence.length:
            raise Refused(Status.OUT_OF_RANGE)
        if count == 0:
            return 0
        if first // BLOCK_SIZE < sequence.first:
            raise Refused(Status.NOT_MAPPED)
        indices = range(first // BLOCK_SIZE, -(-end // BLOCK_SIZE))
        for place, index in enumerate(indices):
            start = index * BLOCK_SIZE
            low, high = max(first - start, 0), min(end - start, BLOCK_SIZE)
            move = Move(Kind.GATHER, sequence.table[index], 0, record, low, high, place)
            if not self._move(move):
                raise Refused(Status.BUS_ERROR)
        return len(indices)

    # The pool.

    def _held_by_nobody(self, number: int, tenant: int) -> Block:
        if 0 < number < self.blocks and self.states[number].tenant != tenant:
            raise Refused(Status.TENANT)
        if not 0 < number < self.blocks:
            raise Refused(Status.NULL_BLOCK)
        if self.states[number].references:
            raise Refused(Status.IN_USE)
        return self.states[number]

    def _evict(self, number: int, tenant: int) -> int:
        return self._forget(self._held_by_nobody(number, tenant))

    def _scrub(self, number: int, tenant: int) -> int:
        generation = self._forget(self._held_by_nobody(number, tenant))
        if not self._move(Move(Kind.SCRUB, destination=number)):
            raise Refused(Status.BUS_ERROR)
        return generation

    def _reset_pool(self) -> int:
        if self.used:
            raise Refused(Status.IN_USE)
        for number in self.free:
            self._forget(self.states[number])
        return 0

    # Statistics.

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
            return len(sequence.table) | sequence.first << 16
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
