# SPDX-License-Identifier: Apache-2.0
"""What each command of the KV controller does to its state, as expressions over the whole state at once.

This is a second account of the command table, next to ``golden/block_manager.py`` and tested against it: a
proof needs one that a solver can read. The free list is a list, a table is a list, and nothing takes time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from amaranth import *

from serrano.kvcache.commands import Opcode, Stat, Status

__all__ = ["Ask", "Outcome", "Sizes", "State", "reference"]

BLOCK_SIZE = 16
COUNT_BITS = 8
TENANT_BITS = 8


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the state is."""

    blocks: int = 4
    sequences: int = 2
    entries: int = 3
    reference_bits: int = 2
    generation_bits: int = 2

    @property
    def references_max(self) -> int:
        return (1 << self.reference_bits) - 1

    @property
    def generation_max(self) -> int:
        return (1 << self.generation_bits) - 1


class State:
    """The controller's state. Blocks that are not on the free list, and entries that are not live, are 0.

    Attributes
    ----------
    references, tenant, sealed, written, generation
        Per block.
    order, count
        The free list, first block first, and its length.
    size, peak
        Blocks of the pool, NULL included, and most blocks held.
    opened, owner, length, reserved, entries, first
        Per sequence.
    table
        Per sequence and entry.
    """

    def __init__(self, sizes: Sizes, name: str):
        self.sizes = sizes
        self.name = name
        number = range(sizes.blocks)
        tokens, entries = range(BLOCK_SIZE * sizes.entries + 1), range(sizes.entries + 1)

        def several(what: str, shape: Any, count: int) -> list[Signal]:
            return [Signal(shape, name=f"{name}_{what}_{index}") for index in range(count)]

        self.references = several("references", sizes.reference_bits, sizes.blocks)
        self.tenant = several("tenant", TENANT_BITS, sizes.blocks)
        self.sealed = several("sealed", 1, sizes.blocks)
        self.written = several("written", 5, sizes.blocks)
        self.generation = several("generation", sizes.generation_bits, sizes.blocks)
        self.order = several("order", number, sizes.blocks - 1)
        self.count = Signal(COUNT_BITS, name=f"{name}_count")
        self.size = Signal(COUNT_BITS, name=f"{name}_size")
        self.peak = Signal(COUNT_BITS, name=f"{name}_peak")
        self.opened = several("opened", 1, sizes.sequences)
        self.owner = several("owner", TENANT_BITS, sizes.sequences)
        self.length = several("length", tokens, sizes.sequences)
        self.reserved = several("reserved", tokens, sizes.sequences)
        self.entries = several("entries", entries, sizes.sequences)
        self.first = several("first", entries, sizes.sequences)
        self.table = [several(f"table_{s}", number, sizes.entries) for s in range(sizes.sequences)]

    def parts(self) -> dict[str, Signal]:
        """All signals by name, without the state's own name."""
        found = {}
        for value in vars(self).values():
            for signal in _flatten(value):
                found[signal.name.removeprefix(f"{self.name}_")] = signal
        return found

    def equals(self, other: State) -> Value:
        """Whether two states are the same."""
        mine, its = self.parts(), other.parts()
        return Cat(mine[name] == its[name] for name in mine).all()

    @property
    def used(self) -> Value:
        """Blocks that sequences hold."""
        return self.size - 1 - self.count


def _flatten(value: Any) -> list[Signal]:
    if isinstance(value, Signal):
        return [value]
    if isinstance(value, list):
        return [signal for part in value for signal in _flatten(part)]
    return []


@dataclasses.dataclass(frozen=True)
class Ask:
    """A command, and what the rest of the machine contributes to its outcome.

    ``records`` is the number of records of a block, ``failed`` whether the memory reported an error.
    """

    seq: Any
    tenant: Any
    arg0: Any
    arg1: Any
    records: Any = 1
    failed: Any = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A command's response and the state after it. ``copies``: bytes are moved, if it is executed at all."""

    status: Signal
    aux: Signal
    state: State
    copies: Any = 0


class _Builder:
    """Makes states out of states, by adding statements to a module."""

    def __init__(self, m: Module, before: State, ask: Ask):
        self.m = m
        self.before = before
        self.ask = ask
        self.sizes = before.sizes
        self.serial = 0
        self.advanced = [
            self.let(Mux(value.all(), value, value + 1), value.shape()) for value in before.generation
        ]

    def let(self, value: Any, shape: Any = None) -> Signal:
        self.serial += 1
        value = Value.cast(value)
        signal = Signal(
            value.shape() if shape is None else shape, name=f"{self.before.name}_let_{self.serial}"
        )
        self.m.d.comb += signal.eq(value)
        return signal

    def following(self, state: State) -> State:
        """A state that is the same as this one, until statements say otherwise."""
        self.serial += 1
        new = State(self.sizes, f"{self.before.name}_step_{self.serial}")
        old = state.parts()
        self.m.d.comb += [signal.eq(old[name]) for name, signal in new.parts().items()]
        return new

    def sequence(self, seq: Any) -> dict[str, Any]:
        """State of the sequence with this number."""
        before = self.before

        def chosen(values: Sequence[Signal]) -> Signal:
            return self.let(Array(values)[seq])

        names = ("opened", "owner", "length", "reserved", "entries", "first")
        found: dict[str, Any] = {name: chosen(getattr(before, name)) for name in names}
        found["table"] = [chosen(column) for column in zip(*before.table, strict=True)]
        found["inside"] = Value.cast(seq) < self.sizes.sequences
        return found

    def of_block(self, values: Sequence[Signal], number: Any) -> Signal:
        return self.let(Array(values)[number])

    def take(self, state: State, when: Any, tenant: Any) -> State:
        """The first block of the free list goes to ``tenant``."""
        m, new = self.m, self.following(state)
        with m.If(when):
            for number in range(self.sizes.blocks):
                with m.If(state.order[0] == number):
                    generation = state.generation[number]
                    m.d.comb += [
                        new.references[number].eq(1),
                        new.tenant[number].eq(tenant),
                        new.sealed[number].eq(0),
                        new.written[number].eq(0),
                        new.generation[number].eq(Mux(generation.all(), generation, generation + 1)),
                    ]
            self.leave(state, new, state.order[0])
        return new

    def leave(self, state: State, new: State, number: Any) -> None:
        """A block leaves the free list, wherever it is in it."""
        m, slots = self.m, len(state.order)
        gone: Any = Const(0)
        for place in range(slots):
            gone = gone | (state.order[place] == number)
            rest = state.order[place + 1] if place + 1 < slots else Const(0)
            with m.If(gone):
                m.d.comb += new.order[place].eq(rest)
        m.d.comb += new.count.eq(state.count - 1)
        with m.If(state.used + 1 > state.peak):
            m.d.comb += new.peak.eq(state.used + 1)

    def drop(self, state: State, when: Any, number: Any) -> State:
        """One reference less; at 0 to the end of the free list."""
        m, new = self.m, self.following(state)
        with m.If(when):
            for block in range(self.sizes.blocks):
                with m.If(number == block):
                    m.d.comb += new.references[block].eq(state.references[block] - 1)
            with m.If(Array(state.references)[number] == 1):
                m.d.comb += new.count.eq(state.count + 1)
                for place in range(len(state.order)):
                    with m.If(state.count == place):
                        m.d.comb += new.order[place].eq(number)
        return new

    def put(self, values: Sequence[Signal], index: Any, value: Any) -> None:
        """Assigns one of several signals."""
        for place, signal in enumerate(values):
            with self.m.If(index == place):
                self.m.d.comb += signal.eq(value)

    def status(self, *errors: tuple[Any, Status]) -> Signal:
        """The first error whose condition holds."""
        status: Any = Const(Status.OK.value, 8)
        for condition, error in reversed(errors):
            status = Mux(Value.cast(condition).bool(), error.value, status)
        return self.let(status, 8)

    def end(self, status: Signal, aux: Any, state: State, *, copies: Any = 0, failing: Any = None) -> Outcome:
        """The outcome: ``state`` where the status is OK, the state before, or ``failing`` for BUS_ERROR."""
        after = self.following(self.before)
        new, failed = state.parts(), (failing or self.before).parts()
        for name, signal in after.parts().items():
            with self.m.If(status == Status.OK.value):
                self.m.d.comb += signal.eq(new[name])
            with self.m.Elif(status == Status.BUS_ERROR.value):
                self.m.d.comb += signal.eq(failed[name])
        result = self.let(Mux(status == Status.OK.value, Value.cast(aux), 0), 32)
        return Outcome(status, result, after, copies)

    def named(self) -> tuple[dict[str, Any], list[tuple[Any, Status]]]:
        """The sequence that a command names, and the errors that come of it."""
        s = self.sequence(self.ask.seq)
        return s, [
            (~(s["inside"] & s["opened"]), Status.BAD_SEQ),
            (s["owner"] != self.ask.tenant, Status.TENANT),
        ]

    def pool_block(self, number: Any) -> tuple[Value, Signal]:
        """Whether there is such a block, and its tenant."""
        exists = (number != 0) & (number < self.before.size)
        return self.let(exists, 1), self.of_block(self.before.tenant, number)


def _blocks_for(tokens: Value) -> Value:
    return (tokens + BLOCK_SIZE - 1) >> 4


def _open(b: _Builder) -> Outcome:
    s = b.sequence(b.ask.seq)
    status = b.status((~s["inside"], Status.BAD_SEQ), (s["opened"], Status.SEQ_BUSY))
    new = b.following(b.before)
    b.put(new.opened, b.ask.seq, 1)
    b.put(new.owner, b.ask.seq, b.ask.tenant)
    return b.end(status, 0, new)


def _grow(b: _Builder, *, append: bool) -> Outcome:
    s, errors = b.named()
    before, tokens = b.before, b.ask.arg0
    position = b.let(s["length"] + s["reserved"])
    total = b.let(_blocks_for(position + tokens))
    missing = b.let(Mux(total > s["entries"], total - s["entries"], 0))
    table_full = total > b.sizes.entries
    swapped: list[Any] = []
    for index in range(b.sizes.entries):
        block = s["table"][index]
        touched = (16 * index < position + tokens) & (16 * (index + 1) > position) & (tokens != 0)
        guarded = (b.of_block(before.references, block) > 1) | b.of_block(before.sealed, block)
        swapped.append(b.let(touched & (index < s["entries"]) & guarded & append, 1))
    slot = position[:4]
    keeps = [b.let(swap & (position >> 4 == index) & (slot != 0)) for index, swap in enumerate(swapped)]
    copies = b.let(Cat(keeps).any())
    needed = missing + sum(swapped)
    if append:
        errors += [(table_full, Status.TABLE_FULL), (needed > before.count, Status.NO_SPACE)]
        errors.append((copies & b.ask.failed, Status.BUS_ERROR))
    else:
        live = s["entries"] - s["first"]
        errors += [
            (tokens == 0, Status.ZERO_LEN),
            (table_full, Status.TABLE_FULL),
            (missing + live > before.size - 1, Status.NEVER_FITS),
            (missing > before.count, Status.NO_SPACE),
        ]
    state = before
    for index in range(b.sizes.entries):
        new_one = (index >= s["entries"]) & (index < total) & (True if not append else tokens != 0)
        changes = b.let(swapped[index] | new_one, 1)
        block = state.order[0]
        taken = b.take(state, changes, s["owner"])
        written = b.following(taken)
        with b.m.If(keeps[index]):
            b.put(written.written, block, slot)
        with b.m.If(changes):
            b.put([written.table[q][index] for q in range(b.sizes.sequences)], b.ask.seq, block)
        state = b.drop(written, swapped[index], s["table"][index])
    new = b.following(state)
    b.put(new.entries, b.ask.seq, s["entries"] + missing)
    if append:
        b.put(new.reserved, b.ask.seq, s["reserved"] + tokens)
    status = b.status(*errors)
    # What a copy that failed has spoilt is forgotten.
    spoilt = b.following(before)
    for number in range(b.sizes.blocks):
        with b.m.If(before.order[0] == number):
            b.m.d.comb += [spoilt.sealed[number].eq(0), spoilt.generation[number].eq(b.advanced[number])]
    return b.end(status, position if append else missing, new, copies=copies, failing=spoilt)


def _alloc(b: _Builder) -> Outcome:
    return _grow(b, append=False)


def _append(b: _Builder) -> Outcome:
    return _grow(b, append=True)


def _commit(b: _Builder) -> Outcome:
    s, errors = b.named()
    tokens = b.ask.arg0
    end = b.let(s["length"] + tokens)
    status = b.status(*errors, (tokens > s["reserved"], Status.NOT_RESERVED))
    state = b.before
    for index in range(b.sizes.entries):
        state = b.following(state)
        with b.m.If((tokens != 0) & (16 * index < end) & (16 * (index + 1) > s["length"])):
            b.put(state.written, s["table"][index], Mux(end > 16 * (index + 1), 16, end - 16 * index))
    b.put(state.length, b.ask.seq, end)
    b.put(state.reserved, b.ask.seq, s["reserved"] - tokens)
    return b.end(status, end, state)


def _abort(b: _Builder) -> Outcome:
    s, errors = b.named()
    status = b.status(*errors, (s["reserved"] == 0, Status.NOT_RESERVED))
    new = b.following(b.before)
    b.put(new.reserved, b.ask.seq, 0)
    return b.end(status, s["length"], new)


def _seal(b: _Builder) -> Outcome:
    s, errors = b.named()
    index = b.ask.arg0
    block = b.let(Array(s["table"])[index])
    end = b.let((index + 1) * 16)
    full = b.of_block(b.before.written, block) == 16
    status = b.status(
        *errors,
        ((index >= s["entries"]) | (index < s["first"]), Status.OUT_OF_RANGE),
        (end > s["length"] + s["reserved"], Status.NOT_FULL),
        ((end > s["length"]) | ~full, Status.NOT_WRITTEN),
        (b.of_block(b.before.sealed, block), Status.ALREADY),
    )
    new = b.following(b.before)
    b.put(new.sealed, block, 1)
    return b.end(status, b.of_block(b.before.generation, block), new)


def _share(b: _Builder) -> Outcome:
    s, errors = b.named()
    before, number = b.before, b.ask.arg0
    exists, tenant = b.pool_block(number)
    references = b.of_block(before.references, number)
    generation = b.of_block(before.generation, number)
    status = b.status(
        *errors,
        (exists & (tenant != s["owner"]), Status.TENANT),
        (s["length"] != 16 * s["entries"], Status.UNALIGNED),
        (s["entries"] == b.sizes.entries, Status.TABLE_FULL),
        (~exists, Status.NULL_BLOCK),
        (~b.of_block(before.sealed, number), Status.NOT_SEALED),
        ((b.ask.arg1 != generation) | generation.all(), Status.STALE_GEN),
        (references.all(), Status.REF_OVERFLOW),
    )
    new = b.following(before)
    b.put(new.references, number, references + 1)
    with b.m.If(references == 0):
        b.leave(before, new, number)
    for q in range(b.sizes.sequences):
        with b.m.If(b.ask.seq == q):
            b.put(new.table[q], s["entries"], number)
    b.put(new.entries, b.ask.seq, s["entries"] + 1)
    b.put(new.length, b.ask.seq, s["length"] + 16)
    return b.end(status, s["length"] + 16, new)


def _fork(b: _Builder) -> Outcome:
    before, target = b.before, b.ask.arg0
    s, d = b.sequence(b.ask.seq), b.sequence(target)
    named = [
        b.let(sum((entry == number) & (number != 0) for entry in s["table"]))
        for number in range(b.sizes.blocks)
    ]
    after = [references + more for references, more in zip(before.references, named, strict=True)]
    overflow = Cat(
        (more != 0) & (value > b.sizes.references_max) for value, more in zip(after, named, strict=True)
    )
    status = b.status(
        (~(s["inside"] & s["opened"] & d["inside"] & d["opened"]), Status.BAD_SEQ),
        ((s["owner"] != b.ask.tenant) | (d["owner"] != b.ask.tenant), Status.TENANT),
        ((target == b.ask.seq) | (d["entries"] != 0) | (s["reserved"] != 0), Status.SEQ_BUSY),
        (overflow.any(), Status.REF_OVERFLOW),
    )
    new = b.following(before)
    b.m.d.comb += [signal.eq(value) for signal, value in zip(new.references, after, strict=True)]
    for name in ("entries", "first", "length"):
        b.put(getattr(new, name), target, s[name])
    for index, entry in enumerate(s["table"]):
        b.put([new.table[q][index] for q in range(b.sizes.sequences)], target, entry)
    return b.end(status, s["entries"] - s["first"], new)


def _release(b: _Builder, s: dict[str, Any], low: Any, high: Any) -> tuple[State, Signal]:
    """Drops entries from ``high - 1`` down to ``low``; returns how many blocks became free."""
    state = b.before
    for index in reversed(range(b.sizes.entries)):
        going = b.let((index >= low) & (index < high), 1)
        state = b.drop(state, going, s["table"][index])
        gone = b.following(state)
        with b.m.If(going):
            b.put([gone.table[q][index] for q in range(b.sizes.sequences)], b.ask.seq, 0)
        state = gone
    return b.following(state), b.let(state.count - b.before.count, COUNT_BITS)


def _trim(b: _Builder) -> Outcome:
    s, errors = b.named()
    length = b.ask.arg0
    status = b.status(*errors, ((length > s["length"]) | (length < 16 * s["first"]), Status.BAD_LEN))
    entries = b.let(_blocks_for(length))
    new, freed = _release(b, s, entries, s["entries"])
    b.put(new.entries, b.ask.seq, entries)
    b.put(new.length, b.ask.seq, length)
    b.put(new.reserved, b.ask.seq, 0)
    return b.end(status, freed, new)


def _slide(b: _Builder) -> Outcome:
    s, errors = b.named()
    token = b.ask.arg0
    status = b.status(*errors, (token > s["length"], Status.BAD_LEN))
    first = b.let(Mux((token >> 4) > s["first"], token >> 4, s["first"]))
    new, freed = _release(b, s, s["first"], first)
    b.put(new.first, b.ask.seq, first)
    return b.end(status, freed, new)


def _free(b: _Builder) -> Outcome:
    s, errors = b.named()
    new, freed = _release(b, s, s["first"], s["entries"])
    for name in ("opened", "owner", "length", "reserved", "entries", "first"):
        b.put(getattr(new, name), b.ask.seq, 0)
    return b.end(b.status(*errors), freed, new)


def _translate(b: _Builder) -> Outcome:
    s, errors = b.named()
    index = b.ask.arg0 >> 4
    block = b.let(Array(s["table"])[index])
    status = b.status(
        *errors, (index >= s["entries"], Status.OUT_OF_RANGE), (index < s["first"], Status.NOT_MAPPED)
    )
    return b.end(status, Cat(b.ask.arg0[:4], block), b.before)


def _gather(b: _Builder) -> Outcome:
    s, errors = b.named()
    first, count, record = b.ask.arg0, b.ask.arg1[:16], b.ask.arg1[16:]
    end = b.let(first + count)
    status = b.status(
        *errors,
        ((record >= b.ask.records) | (end > s["length"]), Status.OUT_OF_RANGE),
        ((first >> 4 < s["first"]) & (count != 0), Status.NOT_MAPPED),
        ((count != 0) & b.ask.failed, Status.BUS_ERROR),
    )
    return b.end(status, Mux(count != 0, _blocks_for(end) - (first >> 4), 0), b.before, copies=count != 0)


def _unheld(b: _Builder) -> tuple[list[tuple[Any, Status]], State]:
    number = b.ask.arg0
    exists, tenant = b.pool_block(number)
    errors = [
        (exists & (tenant != b.ask.tenant), Status.TENANT),
        (~exists, Status.NULL_BLOCK),
        (b.of_block(b.before.references, number) != 0, Status.IN_USE),
    ]
    new = b.following(b.before)
    for block in range(b.sizes.blocks):
        with b.m.If(number == block):
            b.m.d.comb += [new.sealed[block].eq(0), new.generation[block].eq(b.advanced[block])]
    return errors, new


def _evict(b: _Builder) -> Outcome:
    errors, new = _unheld(b)
    return b.end(b.status(*errors), b.of_block(new.generation, b.ask.arg0), new)


def _scrub(b: _Builder) -> Outcome:
    errors, new = _unheld(b)
    status = b.status(*errors, (b.ask.failed, Status.BUS_ERROR))
    return b.end(status, b.of_block(new.generation, b.ask.arg0), new, copies=1, failing=new)


def _reset_pool(b: _Builder) -> Outcome:
    status = b.status((b.before.used != 0, Status.IN_USE))
    new = b.following(b.before)
    for block in range(1, b.sizes.blocks):
        with b.m.If(block < b.before.size):
            b.m.d.comb += [new.sealed[block].eq(0), new.generation[block].eq(b.advanced[block])]
    return b.end(status, 0, new)


def _stat(b: _Builder) -> Outcome:
    before, kind, index = b.before, b.ask.arg0, b.ask.arg1
    s = b.sequence(b.ask.seq)
    block = {
        name: b.of_block(getattr(before, name), index)
        for name in ("references", "tenant", "written", "sealed", "generation")
    }
    last: Any = Const(0)
    behind: Any = Const(0)
    ahead: Any = Const(0)
    for place, number in enumerate(before.order):
        last = Mux(before.count == place + 1, number, last)
        if place:
            here = (number == index) & (number != 0)
            ahead = Mux(here, before.order[place - 1], ahead)
            behind = Mux((before.order[place - 1] == index) & (index != 0), number, behind)
    of_block, of_sequence = index < before.size, s["inside"]
    entry_exists = of_sequence & (index < s["entries"])
    answers = {
        Stat.POOL_BLOCKS: (1, before.size),
        Stat.POOL_USED: (1, before.used),
        Stat.POOL_PEAK: (1, before.peak),
        Stat.POOL_ENDS: (1, before.order[0] | (last << 16)),
        Stat.BLOCK_STATE: (
            of_block,
            block["references"] | (block["tenant"] << 8) | (block["written"] << 16) | (block["sealed"] << 24),
        ),
        Stat.BLOCK_GENERATION: (of_block, block["generation"]),
        Stat.BLOCK_LINKS: (of_block, behind | (ahead << 16)),
        Stat.SEQUENCE_OWNER: (of_sequence, s["owner"] | (s["opened"] << 8)),
        Stat.SEQUENCE_LENGTH: (of_sequence, s["length"]),
        Stat.SEQUENCE_RESERVED: (of_sequence, s["reserved"]),
        Stat.SEQUENCE_TABLE: (of_sequence, s["entries"] | (s["first"] << 16)),
        Stat.SEQUENCE_ENTRY: (entry_exists, Array(s["table"])[index]),
    }
    found: Any = Const(0)
    aux: Any = Const(0, 32)
    for stat, (exists, value) in answers.items():
        found = found | ((kind == stat.value) & exists)
        aux = Mux(kind == stat.value, value, aux)
    return b.end(b.status((~found, Status.OUT_OF_RANGE)), aux, before)


_COMMANDS: dict[Opcode, Callable[[_Builder], Outcome]] = {
    Opcode.OPEN: _open,
    Opcode.ALLOC: _alloc,
    Opcode.APPEND: _append,
    Opcode.COMMIT: _commit,
    Opcode.ABORT: _abort,
    Opcode.SEAL: _seal,
    Opcode.SHARE: _share,
    Opcode.FORK: _fork,
    Opcode.TRIM: _trim,
    Opcode.SLIDE: _slide,
    Opcode.FREE: _free,
    Opcode.TRANSLATE: _translate,
    Opcode.GATHER: _gather,
    Opcode.EVICT: _evict,
    Opcode.SCRUB: _scrub,
    Opcode.RESET_POOL: _reset_pool,
    Opcode.STAT: _stat,
}


def reference(m: Module, before: State, opcode: Opcode | None, ask: Ask) -> Outcome:
    """What a command does in a state; ``None`` stands for all opcodes that do not exist."""
    builder = _Builder(m, before, ask)
    if opcode is None:
        return builder.end(builder.status((1, Status.BAD_CMD)), 0, before)
    return _COMMANDS[opcode](builder)
