# SPDX-License-Identifier: Apache-2.0
"""Executing commands that go through a table entry by entry: two cycles for each block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amaranth import *

from serrano.stream.pace import settled

from .commands import Opcode, Status
from .execution import Parts, build_answer, build_move, finish, judged, operate, refuse, step
from .payloads import BLOCK_SIZE, SLOT_BITS, MoveKind
from .pool import PoolOperation

__all__ = [
    "Walks",
    "build_fork",
    "build_growth",
    "build_mark",
    "build_release",
    "measure_walks",
    "start_walk",
]


@dataclass(frozen=True)
class Walks:
    """What is known of the walks that the command may mean, before it is judged.

    ``kept`` entries stay after TRIM, ``dead`` ones do not after SLIDE, ``last_dead`` being the last of these;
    ``last`` is the last entry of all. The rest says whether there is
    something to be released, by opcode, to be shared by FORK, and to be allocated.
    """

    kept: Any
    dead: Any
    last_dead: Any
    last: Any
    releases: Mapping[Opcode, Any]
    shares: Any
    allocates: Any


def measure_walks(m: Module, parts: Parts) -> Walks:
    """What the judgment has to know."""
    command, check, held = parts.command, parts.check, parts.tables.r_state

    def known(value: Any, name: str) -> Any:
        return settled(m, parts.config, value, name)

    kept = known((command.arg0 + (BLOCK_SIZE - 1)) >> SLOT_BITS, "kept_entries")
    dead = (command.arg0 >> SLOT_BITS)[: len(held.first)]
    releases = {
        Opcode.FREE: known(held.entries > held.first, "frees"),
        Opcode.TRIM: known(held.entries > kept[: len(held.entries)], "trims"),
        Opcode.SLIDE: known(dead > held.first, "slides"),
    }
    shares = known(held.entries != held.first, "shares")
    last_dead = known((dead - 1)[: len(dead)], "last_dead")
    last = known((held.entries - 1)[: len(held.entries)], "last_entry")
    return Walks(kept, dead, last_dead, last, releases, shares, known(check.missing != 0, "allocates"))


def start_walk(m: Module, parts: Parts, walks: Walks) -> None:
    """Where the walk begins and ends."""
    command, state, check, tables = parts.command, parts.state, parts.check, parts.tables
    index, final, held = parts.index, parts.final, tables.r_state
    with judged(m, parts, Opcode.ALLOC):
        m.d.sync += [index.eq(held.entries), final.eq(check.final)]
        m.next = "GROWN"
        with m.If(walks.allocates):
            m.next = "GROW"
    with judged(m, parts, Opcode.APPEND):
        m.d.sync += [index.eq(check.position >> SLOT_BITS), final.eq(check.last_present)]
        m.next = "SCAN_BEGIN"
    with judged(m, parts, Opcode.FORK):
        m.d.sync += [index.eq(held.first), final.eq(walks.last)]
        m.next = "FORKED"
        with m.If(walks.shares):
            m.next = "FORK_ENTRY"
    # Look-ups find the new state from now on; what is released is not found any more.
    with judged(m, parts, Opcode.FREE):
        m.d.comb += [tables.w_en.eq(1), tables.w_open.eq(0)]
        _release(m, parts, walks.last, held.first, walks.releases[Opcode.FREE])
    with judged(m, parts, Opcode.TRIM):
        m.d.comb += [
            tables.w_en.eq(1),
            state.length.eq(command.arg0),
            state.reserved.eq(0),
            state.entries.eq(walks.kept),
        ]
        kept = walks.kept[: len(held.entries)]
        _release(m, parts, walks.last, kept, walks.releases[Opcode.TRIM])
    with judged(m, parts, Opcode.SLIDE):
        slides = walks.releases[Opcode.SLIDE]
        with m.If(slides):
            m.d.comb += [tables.w_en.eq(1), state.first.eq(walks.dead)]
        _release(m, parts, walks.last_dead, held.first, slides)


def _release(m: Module, parts: Parts, last: Value, begin: Value, some: Value) -> None:
    """Entries ``last`` down to ``begin`` are to be released, if there are some."""
    m.d.sync += [parts.index.eq(last), parts.final.eq(begin)]
    m.next = "RELEASED"
    with m.If(some):
        m.next = "RELEASE_ENTRY"


def _read_entry(m: Module, parts: Parts, following: str) -> None:
    m.d.comb += [parts.tables.entry_index.eq(parts.index), parts.tables.entry_r_en.eq(1)]
    m.next = following


def build_release(m: Module, parts: Parts) -> None:
    """FREE, TRIM, SLIDE: the last entry first."""
    # A block comes to the free list in the cycle after RELEASE.
    released = Signal(range(parts.tables.config.table_entries + 1))
    total = released + parts.pool.freed
    told = settled(m, parts.config, total, "released_total")
    with step(m, parts, "RELEASE_ENTRY"):
        m.d.sync += released.eq(total)
        _read_entry(m, parts, "RELEASE")
    with step(m, parts, "RELEASE"):
        operate(m, parts, PoolOperation.DROP, parts.tables.entry_block)
        m.d.sync += parts.index.eq(parts.below)
        m.next = "RELEASE_ENTRY"
        with m.If(parts.at_end):
            m.next = "RELEASED"
    with step(m, parts, "RELEASED"):
        m.d.sync += released.eq(0)
        finish(m, parts, told, write=False)


def build_mark(m: Module, parts: Parts) -> None:
    """COMMIT: tokens count as written, then the length advances."""
    check, pool, state, index = parts.check, parts.pool, parts.state, parts.index
    partial = settled(m, parts.config, index == (check.committed >> SLOT_BITS), "partial")
    rest = settled(m, parts.config, parts.tables.r_state.reserved - parts.command.arg0, "rest_reserved")
    with step(m, parts, "MARK_ENTRY"):
        _read_entry(m, parts, "MARK")
    with step(m, parts, "MARK"):
        operate(m, parts, PoolOperation.MARK, parts.tables.entry_block)
        m.d.comb += pool.written.eq(Mux(partial, check.committed[:SLOT_BITS], BLOCK_SIZE))
        m.d.sync += index.eq(parts.above)
        m.next = "MARK_ENTRY"
        with m.If(parts.at_end):
            m.next = "MARKED"
    with step(m, parts, "MARKED"):
        m.d.comb += [
            state.length.eq(check.committed),
            state.reserved.eq(rest),
        ]
        finish(m, parts, check.committed)


def build_fork(m: Module, parts: Parts) -> None:
    """FORK: one reference more for each block; all given back if one of them has as many as can be."""
    tables, pool, state = parts.tables, parts.pool, parts.state
    index, destination = parts.index, parts.command.arg0
    held = tables.r_state
    is_first = settled(m, parts.config, (index - held.first)[: len(index)] == 1, "is_first")
    shared = settled(m, parts.config, held.entries - held.first, "shared_entries")
    two_below = settled(m, parts.config, (index - 2)[: len(index)], "two_below")

    def undo() -> None:
        # The block in front of `index` was full; those before it have a reference too many.
        m.d.sync += [index.eq(two_below), parts.final.eq(held.first)]
        m.next = "UNFORK_ENTRY"
        with m.If(is_first):
            refuse(m, parts, Status.REF_OVERFLOW)

    with step(m, parts, "FORK_ENTRY"):
        _read_entry(m, parts, "FORK")
        with m.If(pool.full):
            undo()
    with step(m, parts, "FORK"):
        operate(m, parts, PoolOperation.HOLD, tables.entry_block)
        m.d.comb += [
            tables.entry_seq.eq(destination),
            tables.entry_index.eq(index),
            tables.entry_w_en.eq(1),
            tables.entry_w_block.eq(tables.entry_block),
        ]
        m.d.sync += index.eq(parts.above)
        m.next = "FORK_ENTRY"
        with m.If(parts.at_end):
            m.next = "FORKED"
    with step(m, parts, "FORKED"):
        m.d.comb += [tables.w_seq.eq(destination), state.reserved.eq(0)]
        with m.If(pool.full):
            undo()
        with m.Else():
            finish(m, parts, shared)
    with step(m, parts, "UNFORK_ENTRY"):
        _read_entry(m, parts, "UNFORK")
    with step(m, parts, "UNFORK"):
        operate(m, parts, PoolOperation.DROP, tables.entry_block)
        m.d.sync += index.eq(parts.below)
        m.next = "UNFORK_ENTRY"
        with m.If(parts.at_end):
            m.next = "UNFORKED"
    with step(m, parts, "UNFORKED"):
        refuse(m, parts, Status.REF_OVERFLOW)


def build_growth(m: Module, parts: Parts) -> None:
    """ALLOC and APPEND: how many blocks must not be written, then a copy if need be, then the blocks."""
    tables, pool, check, command = parts.tables, parts.pool, parts.check, parts.command
    index, held = parts.index, tables.r_state
    # Slots of the first block that are in use: what a copy has to copy.
    kept = check.position[:SLOT_BITS]
    copied = Signal()
    count, first_frozen = _build_scan(m, parts)
    total = settled(m, parts.config, count + check.missing, "total")
    lacks = settled(m, parts.config, total > pool.free, "lacks")
    some = settled(m, parts.config, total != 0, "some")
    replaces = settled(m, parts.config, count != 0, "replaces")
    copies = settled(m, parts.config, first_frozen & (kept != 0), "copies")
    entries = settled(m, parts.config, held.entries + check.missing, "grown_entries")
    reserved = settled(m, parts.config, held.reserved + command.arg0, "grown_reserved")
    if parts.config.registered:
        with step(m, parts, "COUNTED"):
            m.next = "SCANNED"
    with step(m, parts, "SCANNED"):
        m.d.sync += [index.eq(check.position >> SLOT_BITS), parts.final.eq(check.final), copied.eq(0)]
        with m.If(lacks):
            refuse(m, parts, Status.NO_SPACE)
        with m.Elif(~some):
            m.next = "GROWN"
        with m.Else():
            with m.If(~replaces):
                m.d.sync += index.eq(held.entries)
            m.next = "GROW"
            with m.If(copies):
                m.next = "COPY"
    with m.State("COPY"):
        fields = {"source": parts.entry, "destination": pool.head, "low": 0, "high": kept}
        build_move(m, parts, "COPIED", MoveKind.COPY, **fields)
    with step(m, parts, "COPIED"):
        with build_answer(m, parts):
            m.d.sync += copied.eq(1)
            m.next = "GROW"
            with m.If(parts.move.response.payload.error):
                m.next = "SPOILT"
    with step(m, parts, "SPOILT"):
        # The head's bytes are not what they were: nobody may share them any more.
        operate(m, parts, PoolOperation.FORGET, pool.head)
        m.next = "FORGOTTEN_HEAD"
    with step(m, parts, "FORGOTTEN_HEAD"):
        refuse(m, parts, Status.BUS_ERROR)
    _build_blocks(m, parts, copied, kept)
    with step(m, parts, "GROWN"):
        append = command.opcode == Opcode.APPEND
        m.d.comb += [
            parts.state.entries.eq(entries),
            parts.state.reserved.eq(Mux(append, reserved, held.reserved)),
        ]
        finish(m, parts, Mux(append, check.position, check.missing))


def _frozen(m: Module, parts: Parts) -> Any:
    """The block that was looked up must not be written."""
    state = parts.pool.state
    return settled(m, parts.config, (state.references > 1) | state.sealed, "frozen")


def _build_scan(m: Module, parts: Parts) -> tuple[Value, Value]:
    """The entries that APPEND would write: how many are shared or sealed, and whether the first one is.

    Both are right in the state after the scan: COUNTED, which leaves time for sums, or SCANNED.
    """
    scanned = "COUNTED" if parts.config.registered else "SCANNED"
    tables, index = parts.tables, parts.index
    frozen = _frozen(m, parts)
    counted = Signal(range(tables.config.table_entries + 1))
    scanning, at_first, first = Signal(), Signal(), Signal()
    count = counted + (scanning & frozen)
    first_frozen = first | (scanning & at_first & frozen)
    with step(m, parts, "SCAN_ENTRY"):
        _read_entry(m, parts, "SCAN")
        m.d.sync += [counted.eq(count), first.eq(first_frozen)]
    with step(m, parts, "SCAN"):
        operate(m, parts, PoolOperation.READ, tables.entry_block)
        m.d.sync += [index.eq(parts.above), scanning.eq(1), at_first.eq(~scanning)]
        with m.If(~scanning):
            m.d.sync += parts.entry.eq(tables.entry_block)
        m.next = "SCAN_ENTRY"
        with m.If(parts.at_end):
            m.next = scanned
    with step(m, parts, "SCAN_BEGIN"):
        m.d.sync += [counted.eq(0), first.eq(0), scanning.eq(0)]
        m.next = scanned
        with m.If(parts.check.present):
            m.next = "SCAN_ENTRY"
    return count, first_frozen


def _build_blocks(m: Module, parts: Parts, copied: Signal, kept: Value) -> None:
    """Entry after entry: one that the table has is replaced if need be, another one gets a block."""
    tables, pool, index = parts.tables, parts.pool, parts.index
    old, new = Signal.like(tables.entry_block), Signal.like(tables.entry_block)
    present = settled(m, parts.config, index < tables.r_state.entries, "present")
    frozen = _frozen(m, parts)

    def go_on() -> None:
        m.d.sync += index.eq(parts.above)
        m.next = "GROW"
        with m.If(parts.at_end):
            m.next = "GROWN"

    with step(m, parts, "GROW"):
        with m.If(present):
            _read_entry(m, parts, "REPLACE")
        with m.Else():
            operate(m, parts, PoolOperation.TAKE)
            m.next = "TAKEN"
    with step(m, parts, "REPLACE"):
        operate(m, parts, PoolOperation.READ, tables.entry_block)
        m.d.sync += old.eq(tables.entry_block)
        m.next = "REPLACED"
    with step(m, parts, "REPLACED"):
        with m.If(frozen):
            m.next = "TAKE"
        with m.Else():
            go_on()
    with step(m, parts, "TAKE"):
        operate(m, parts, PoolOperation.TAKE)
        m.next = "TAKEN"
    with step(m, parts, "TAKEN"):
        m.d.comb += [tables.entry_index.eq(index), tables.entry_w_en.eq(1), tables.owner_en.eq(1)]
        m.d.sync += new.eq(pool.subject)
        with m.If(present):
            m.next = "DROP"
        with m.Else():
            go_on()
    with step(m, parts, "DROP"):
        operate(m, parts, PoolOperation.DROP, old)
        m.next = "DROPPED"
    with step(m, parts, "DROPPED"):
        with m.If(copied):
            m.next = "COPY_MARK"
        with m.Else():
            go_on()
    with step(m, parts, "COPY_MARK"):
        operate(m, parts, PoolOperation.MARK, new)
        m.d.comb += pool.written.eq(kept)
        m.d.sync += copied.eq(0)
        m.next = "COPY_MARKED"
    with step(m, parts, "COPY_MARKED"):
        go_on()
