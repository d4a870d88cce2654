# SPDX-License-Identifier: Apache-2.0
"""Commands for benches of the KV controller: seeded random ones; and its state, read in several ways.

A state is compared as a :class:`View`, whether it was told by STAT, read from the memories, or is the golden
model's.
"""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from serrano.config import AcceleratorConfig, preset

from .golden.block_manager import BLOCK_SIZE, BlockManager, Opcode, Stat
from .golden.block_manager import Sequence as GoldenSequence

__all__ = [
    "BUSY",
    "CLOSING",
    "SMALL",
    "UNKNOWN",
    "BlockView",
    "SequenceView",
    "View",
    "check_invariants",
    "check_view",
    "manager",
    "random_command",
    "snapshot",
    "view_of",
    "view_of_answers",
]

SMALL = dataclasses.replace(preset("tiny"), context_max=80, blocks_max=12, sequences_max=3)
"""Twelve blocks, three sequences of five entries: everything runs out often."""

UNKNOWN = (0, 18, 19, 64, 128, 255)
"""Opcodes that are answered with BAD_CMD."""

Command = tuple[int, int, int, int, int]

_HIGH = (1 << 32) - 1
_LENGTHS = (0, 1, 15, 16, 17, 31, 32, 33, 48, 80, 81, 96, 1 << 16, 1 << 31, _HIGH)
_TENANTS = (1, 1, 1, 1, 2, 2, 255)


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


# Random commands.

BUSY: Mapping[Opcode, float] = {
    Opcode.OPEN: 5,
    Opcode.ALLOC: 6,
    Opcode.APPEND: 20,
    Opcode.COMMIT: 18,
    Opcode.ABORT: 2,
    Opcode.SEAL: 10,
    Opcode.SHARE: 6,
    Opcode.FORK: 4,
    Opcode.TRIM: 4,
    Opcode.SLIDE: 3,
    Opcode.FREE: 2,
    Opcode.TRANSLATE: 3,
    Opcode.GATHER: 4,
    Opcode.EVICT: 1.5,
    Opcode.SCRUB: 2,
    Opcode.RESET_POOL: 0.5,
    Opcode.STAT: 3,
}
"""How often each command is drawn while sequences live and share."""

CLOSING: Mapping[Opcode, float] = {
    **BUSY,
    Opcode.OPEN: 1,
    Opcode.ALLOC: 1,
    Opcode.APPEND: 2,
    Opcode.COMMIT: 4,
    Opcode.SEAL: 4,
    Opcode.FORK: 1,
    Opcode.SHARE: 2,
    Opcode.TRIM: 8,
    Opcode.SLIDE: 8,
    Opcode.FREE: 12,
    Opcode.EVICT: 4,
    Opcode.SCRUB: 4,
    Opcode.RESET_POOL: 6,
}
"""The same while everything comes to an end, and the pool is reset."""


class _Draw:
    """The arguments of one command, from what the golden model's state makes interesting."""

    def __init__(self, rng: random.Random, golden: BlockManager, seqs: Sequence[int]):
        self.rng = rng
        self.golden = golden
        self.seqs = list(seqs)
        self.open = [seq for seq in self.seqs if seq in golden.sequences]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def wild(self, *near: int) -> int:
        """A number that is near something, or far from everything."""
        return self.rng.choice((*near, *near, *_LENGTHS)) & _HIGH

    def sequence(self, good: Callable[[GoldenSequence], bool] = lambda _: True) -> tuple[int, GoldenSequence]:
        """A sequence, mostly one that is open, and if possible a good one."""
        rng, sequences = self.rng, self.golden.sequences
        if self.chance(0.03) or not self.open:
            seq = rng.choice([*self.seqs, self.golden.limit, self.golden.limit + 4, 256, 65535])
        else:
            best = [seq for seq in self.open if good(sequences[seq])]
            seq = rng.choice(best if best and self.chance(0.75) else self.open)
        return seq, sequences.get(seq, GoldenSequence(rng.choice(_TENANTS)))

    def tenant(self, owner: int) -> int:
        return owner if self.chance(0.94) else self.rng.choice((owner ^ 1, owner ^ 128, *_TENANTS))

    def block(self, good: Callable[[int], bool]) -> int:
        """A block's number, mostly of a good one."""
        golden, rng = self.golden, self.rng
        every = range(1, golden.blocks)
        best = [number for number in every if good(number)]
        if best and self.chance(0.7):
            return rng.choice(best)
        some = rng.randrange(golden.blocks + 2)
        return rng.choice((*[some] * 8, 0, golden.blocks, some + (1 << 16), some | 1 << 31))

    def forks(self) -> list[tuple[int, int]]:
        """Pairs of a sequence and an empty one of the same tenant."""
        sequences = self.golden.sequences
        return [
            (seq, copy)
            for seq in self.open
            for copy in self.open
            if sequences[seq].table
            and not sequences[seq].reserved
            and not sequences[copy].table
            and sequences[seq].tenant == sequences[copy].tenant
        ]

    def shares(self) -> list[tuple[int, int]]:
        """Pairs of a sequence and a block that it may share."""
        golden, states = self.golden, self.golden.states
        sealed = [number for number in range(1, golden.blocks) if states[number].sealed]
        fresh = [number for number in sealed if states[number].generation < golden.generation_max]
        return [
            (seq, number)
            for seq in self.open
            for number in fresh or sealed
            if golden.sequences[seq].length == BLOCK_SIZE * len(golden.sequences[seq].table)
            and len(golden.sequences[seq].table) < golden.entries
            and states[number].tenant == golden.sequences[seq].tenant
        ]

    def alloc(self) -> tuple[int, ...]:
        seq, state = self.sequence()
        rest = BLOCK_SIZE * self.golden.entries - state.position
        tokens = self.rng.choices([self.rng.randint(1, 36), rest, 0, self.wild(60)], [65, 18, 8, 9])[0]
        return seq, self.tenant(state.tenant), tokens, 0

    def append(self) -> tuple[int, ...]:
        rng = self.rng
        limit, states = BLOCK_SIZE * self.golden.entries, self.golden.states

        def copies(state: GoldenSequence) -> bool:
            """Whether tokens would be copied."""
            tail = states[state.table[state.position // BLOCK_SIZE]] if state.position % BLOCK_SIZE else None
            return tail is not None and (tail.references > 1 or tail.sealed)

        good = copies if self.chance(0.5) else (lambda s: s.position < limit)
        seq, state = self.sequence(good)
        to_end = -state.position % BLOCK_SIZE
        tokens = rng.choices(
            [rng.randint(1, 20), to_end, to_end + BLOCK_SIZE, self.wild(0, 40)], [50, 30, 12, 8], k=1
        )[0]
        return seq, self.tenant(state.tenant), tokens, 0

    def commit(self) -> tuple[int, ...]:
        seq, state = self.sequence(lambda s: s.reserved > 0)
        tokens = state.reserved
        if self.chance(0.2):
            tokens = self.rng.randint(0, state.reserved)
        elif self.chance(0.1):
            tokens = self.wild(tokens + 1)
        return seq, self.tenant(state.tenant), tokens, 0

    def abort(self) -> tuple[int, ...]:
        seq, state = self.sequence(lambda s: s.reserved > 0)
        return seq, self.tenant(state.tenant), self.rng.randrange(3), 0

    def seal(self) -> tuple[int, ...]:
        rng, states = self.rng, self.golden.states

        def ready(state: GoldenSequence) -> list[int]:
            whole = range(state.first, state.length // BLOCK_SIZE)
            return [index for index in whole if not states[state.table[index]].sealed]

        seq, state = self.sequence(lambda s: bool(ready(s)))
        done = [index for index, number in enumerate(state.table) if states[number].sealed]
        if ready(state) and self.chance(0.7):
            index = rng.choice(ready(state))
        elif done and self.chance(0.4):
            index = rng.choice(done)
        elif self.chance(0.3):
            index = state.length // BLOCK_SIZE
        else:
            index = rng.randrange(len(state.table) + 1)
            if self.chance(0.1):
                index |= rng.choice((8, 16, 1 << 28, 1 << 31))
        return seq, self.tenant(state.tenant), index, 0

    def share(self) -> tuple[int, ...]:
        rng, golden, possible = self.rng, self.golden, self.shares()
        if possible and self.chance(0.7):
            # Again and again the same, for its count.
            pairs = rng.choices(
                possible, [1 + 9 * golden.states[number].references for _, number in possible]
            )
            seq, number = pairs[0]
            state = golden.sequences[seq]
        else:
            seq, state = self.sequence(
                lambda s: s.length == BLOCK_SIZE * len(s.table) and len(s.table) < golden.entries
            )
            number = self.block(lambda number: golden.states[number].tenant == state.tenant)
        generation = golden.states[number].generation if number < len(golden.states) else 0
        if self.chance(0.2):
            generation = rng.choice(
                (
                    generation + 1,
                    generation - 1,
                    generation - 1,
                    generation ^ 1 << 31,
                    generation + golden.generation_max + 1,
                )
            )
        return seq, self.tenant(state.tenant), number, generation & _HIGH

    def fork(self) -> tuple[int, ...]:
        rng, possible = self.rng, self.forks()
        if possible and self.chance(0.8):
            seq, copy = rng.choice(possible)
            state = self.golden.sequences[seq]
        else:
            seq, state = self.sequence()
            copy = rng.choice(self.open or self.seqs) if self.chance(0.8) else rng.choice(self.seqs)
        if self.chance(0.04):
            copy |= rng.choice((4, 16, 1 << 16, 1 << 31))
        return seq, self.tenant(state.tenant), copy, 0

    def trim(self) -> tuple[int, ...]:
        rng = self.rng
        seq, state = self.sequence(lambda s: s.length > 0)
        low = BLOCK_SIZE * state.first
        length = rng.choice((rng.randint(low, max(low, state.length)), state.length, state.length - 1))
        if self.chance(0.2):
            length = self.wild(low - 1, state.length + 1, state.length // BLOCK_SIZE * BLOCK_SIZE)
        return seq, self.tenant(state.tenant), length & _HIGH, 0

    def slide(self) -> tuple[int, ...]:
        rng = self.rng
        seq, state = self.sequence(lambda s: s.length >= BLOCK_SIZE * (s.first + 1))
        token = rng.choice((rng.randint(0, state.length), BLOCK_SIZE * (state.first + 1), state.length))
        if self.chance(0.15):
            token = self.wild(state.length + 1, 0)
        return seq, self.tenant(state.tenant), token, 0

    def free(self) -> tuple[int, ...]:
        seq, state = self.sequence()
        return seq, self.tenant(state.tenant), self.rng.randrange(3), 0

    def translate(self) -> tuple[int, ...]:
        seq, state = self.sequence(lambda s: s.first > 0 if self.chance(0.3) else bool(s.table))
        token = self.rng.randrange(BLOCK_SIZE * (len(state.table) + 1))
        return seq, self.tenant(state.tenant), self.wild(token) if self.chance(0.1) else token, 0

    def gather(self) -> tuple[int, ...]:
        rng = self.rng
        seq, state = self.sequence(lambda s: s.first > 0 if self.chance(0.3) else s.length > 0)
        first = rng.randint(0, state.length)
        if self.chance(0.6):
            first = rng.randint(min(BLOCK_SIZE * state.first, state.length), state.length)
        count = rng.choice((rng.randint(0, state.length - first), state.length - first, rng.randrange(40)))
        record = rng.randrange(self.golden.records)
        if self.chance(0.1):
            record = rng.choice((self.golden.records, record | 256, 0xFFFF))
        if self.chance(0.06):
            first, count = self.wild(state.length + 1), rng.choice((0, 1, 0xFFFF))
        return seq, self.tenant(state.tenant), first, count | record << 16

    def evict(self) -> tuple[int, ...]:
        """EVICT and SCRUB."""
        number = self.block(lambda number: self.golden.states[number].references == 0)
        owner = self.golden.states[number].tenant if number < len(self.golden.states) else 1
        return self.rng.choice((*self.seqs, 65535)), self.tenant(owner), number, 0

    def reset_pool(self) -> tuple[int, ...]:
        return self.rng.choice((*self.seqs, 65535)), self.rng.choice(_TENANTS), self.rng.randrange(3), 0

    def open_(self) -> tuple[int, ...]:
        closed = [seq for seq in self.seqs if seq not in self.golden.sequences]
        seq = self.rng.choice(closed) if closed and self.chance(0.9) else self.sequence()[0]
        return seq, self.rng.choice(_TENANTS), self.rng.randrange(3), 0

    def stat(self) -> tuple[int, ...]:
        rng, golden = self.rng, self.golden
        kind = rng.choice(list(Stat)) if self.chance(0.9) else rng.choice((4, 7, 11, 21, 256 + 8, 1 << 31))
        index = rng.randrange(golden.blocks + 2)
        if kind == Stat.SEQUENCE_ENTRY:
            index = rng.randrange(golden.entries + 1)
        if self.chance(0.05):
            index |= 1 << 16
        return self.sequence()[0], rng.choice(_TENANTS), int(kind), index

    def any_(self) -> tuple[int, ...]:
        rng = self.rng
        return rng.choice((*self.seqs, 65535)), rng.choice(_TENANTS), self.wild(), self.wild()


_ARGUMENTS: dict[Opcode, Callable[[_Draw], tuple[int, ...]]] = {
    Opcode.OPEN: _Draw.open_,
    Opcode.SCRUB: _Draw.evict,
    **{
        opcode: getattr(_Draw, opcode.name.lower())
        for opcode in Opcode
        if opcode not in (Opcode.OPEN, Opcode.SCRUB)
    },
}


def random_command(
    rng: random.Random,
    golden: BlockManager,
    seqs: Sequence[int],
    weights: Mapping[Opcode, float] = BUSY,
) -> Command:
    """A command of opcode, seq, tenant, arg0, arg1; most are legal in the golden model's state.

    Parameters
    ----------
    rng
        The source of chance.
    golden
        Its state says what is interesting; it is not changed.
    seqs
        The sequences to work on.
    weights
        How often each command is drawn; those that it lacks never are.
    """
    draw = _Draw(rng, golden, seqs)
    chances = dict(weights)
    # What is possible only now.
    if golden.used == 0 and Opcode.RESET_POOL in chances:
        chances[Opcode.RESET_POOL] *= 2
    if (shares := draw.shares()) and Opcode.SHARE in chances:
        most = max(golden.states[number].references for _, number in shares)
        chances[Opcode.SHARE] *= 2 + most
    if draw.forks() and Opcode.FORK in chances:
        chances[Opcode.FORK] *= 4
    if len(draw.open) <= len(seqs) // 2 and Opcode.OPEN in chances:
        chances[Opcode.OPEN] *= 4
    if rng.random() < 0.02:
        return rng.choice(UNKNOWN), *draw.any_()
    opcode = rng.choices(list(chances), list(chances.values()))[0]
    seq, tenant, arg0, arg1 = _ARGUMENTS[opcode](draw)
    return int(opcode), seq, tenant, arg0, arg1


# States.


@dataclasses.dataclass(frozen=True, slots=True)
class BlockView:
    """A block; the links are 0 where there is no neighbour."""

    references: int
    tenant: int
    sealed: int
    written: int
    generation: int
    following: int
    previous: int


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceView:
    """A sequence; all 0 if it is not open. The table has only its live entries, those from ``first`` on."""

    open: int
    tenant: int
    length: int
    reserved: int
    entries: int
    first: int
    table: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """The whole state. ``blocks`` may go beyond the pool, whose size is ``size``."""

    size: int
    used: int
    peak: int
    head: int
    tail: int
    blocks: tuple[BlockView, ...]
    sequences: tuple[SequenceView, ...]

    def differences(self, wanted: "View") -> list[str]:
        """What is not as wanted, in words."""
        found = [
            f"{name} is {getattr(self, name)} instead of {getattr(wanted, name)}"
            for name in ("size", "used", "peak", "head", "tail")
            if getattr(self, name) != getattr(wanted, name)
        ]
        for kind in ("blocks", "sequences"):
            pairs = zip(getattr(self, kind), getattr(wanted, kind), strict=True)
            for number, (one, other) in enumerate(pairs):
                found += [
                    f"{kind[:-1]} {number}: {field.name} is {getattr(one, field.name)}"
                    f" instead of {getattr(other, field.name)}"
                    for field in dataclasses.fields(one)
                    if getattr(one, field.name) != getattr(other, field.name)
                ]
        return found


def view_of(golden: BlockManager) -> View:
    """The golden model's state, with all blocks that the device has room for."""
    free = golden.free
    following = dict(itertools.pairwise(free))
    previous = {after: before for before, after in following.items()}
    blocks = tuple(
        BlockView(
            block.references,
            block.tenant,
            int(block.sealed),
            block.written,
            block.generation,
            following.get(number, 0),
            previous.get(number, 0),
        )
        for number, block in enumerate(golden.states)
    )
    sequences = []
    for seq in range(golden.limit):
        state = golden.sequences.get(seq)
        if state is None:
            sequences.append(SequenceView(0, 0, 0, 0, 0, 0, ()))
        else:
            sequences.append(
                SequenceView(
                    1,
                    state.tenant,
                    state.length,
                    state.reserved,
                    len(state.table),
                    state.first,
                    tuple(state.held),
                )
            )
    head, tail = (free[0], free[-1]) if free else (0, 0)
    return View(golden.blocks, golden.used, golden.peak, head, tail, blocks, tuple(sequences))


def snapshot(golden: BlockManager) -> list[Command]:
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


def view_of_answers(
    answers: Mapping[tuple[int, int, int], tuple[int, int]], limit: int, entries: int
) -> View:
    """The state as STAT told it: answers (status, aux) by (kind, seq, index)."""

    def stat(kind: int, index: int = 0, seq: int = 0) -> int:
        status, aux = answers[int(kind), seq, index]
        assert status == 0, (kind, seq, index)
        return aux

    size, ends = stat(Stat.POOL_BLOCKS), stat(Stat.POOL_ENDS)
    blocks = []
    for number in range(size):
        state, links = stat(Stat.BLOCK_STATE, number), stat(Stat.BLOCK_LINKS, number)
        blocks.append(
            BlockView(
                state & 0xFF,
                state >> 8 & 0xFF,
                state >> 24,
                state >> 16 & 0xFF,
                stat(Stat.BLOCK_GENERATION, number),
                links & 0xFFFF,
                links >> 16,
            )
        )
    sequences = []
    for seq in range(limit):
        owner, table = stat(Stat.SEQUENCE_OWNER, 0, seq), stat(Stat.SEQUENCE_TABLE, 0, seq)
        used, first = table & 0xFFFF, table >> 16
        listed = [answers[int(Stat.SEQUENCE_ENTRY), seq, index] for index in range(entries)]
        assert [status == 0 for status, _ in listed] == [index < used for index in range(entries)]
        assert not any(block for _, block in listed[:first])
        sequences.append(
            SequenceView(
                owner >> 8,
                owner & 0xFF,
                stat(Stat.SEQUENCE_LENGTH, 0, seq),
                stat(Stat.SEQUENCE_RESERVED, 0, seq),
                used,
                first,
                tuple(block for _, block in listed[first:used]),
            )
        )
    return View(
        size,
        stat(Stat.POOL_USED),
        stat(Stat.POOL_PEAK),
        ends & 0xFFFF,
        ends >> 16,
        tuple(blocks),
        tuple(sequences),
    )


def check_view(view: View) -> None:
    """The invariants that a state shows by itself: 1, 2, 3 and 5, and what publication rests on.

    Raises
    ------
    AssertionError
        If one of them does not hold.
    """
    blocks = view.blocks
    named = Counter(number for state in view.sequences for number in state.table)
    # 1 and 3: counts, and NULL.
    assert 0 not in named
    assert all(number < view.size for number in named)
    assert [block.references for block in blocks] == [named[number] for number in range(len(blocks))]
    assert not blocks[0].sealed
    # 2: the free list, from both ends.
    unused = [number for number in range(1, view.size) if not named[number]]
    for link, number in (("following", view.head), ("previous", view.tail)):
        free = []
        while number:
            free.append(number)
            assert len(free) < view.size
            number = getattr(blocks[number], link)
        assert sorted(free) == unused
    assert len(unused) + view.used + 1 == view.size
    assert view.used <= view.peak < view.size
    assert all(not block.sealed or block.written == BLOCK_SIZE for block in blocks)
    for state in view.sequences:
        position = state.length + state.reserved
        assert len(state.table) == state.entries - state.first
        assert BLOCK_SIZE * state.first <= state.length
        assert position <= BLOCK_SIZE * state.entries
        for index, number in enumerate(state.table, state.first):
            block, start = blocks[number], BLOCK_SIZE * index
            # 5: nobody holds another's block.
            assert block.tenant == state.tenant
            # Nothing counts as there that was not written.
            assert min(BLOCK_SIZE, state.length - start) <= block.written <= BLOCK_SIZE
            # 4: what is reserved may be written: nobody else reads it.
            if state.reserved and start < position and start + BLOCK_SIZE > state.length:
                assert block.references == 1
                assert not block.sealed


def check_invariants(
    answers: Mapping[tuple[int, int, int], tuple[int, int]], limit: int, entries: int
) -> None:
    """The invariants on a state that STAT told: answers (status, aux) by (kind, seq, index)."""
    check_view(view_of_answers(answers, limit, entries))
