# SPDX-License-Identifier: Apache-2.0
"""Executing commands that go through a table entry by entry: two cycles for each block."""

from amaranth import *

from .commands import Opcode, Status
from .execution import Parts, build_answer, build_move, finish, operate, refuse
from .payloads import BLOCK_SIZE, SLOT_BITS, MoveKind
from .pool import PoolOperation

__all__ = ["build_fork", "build_growth", "build_mark", "build_release", "start_walk"]


def start_walk(m: Module, parts: Parts) -> None:
    """In JUDGE: where the walk begins and ends."""
    command, state, check, tables = parts.command, parts.state, parts.check, parts.tables
    index, final, held = parts.index, parts.final, tables.r_state
    with m.Case(Opcode.ALLOC):
        m.d.sync += [index.eq(held.entries), final.eq(check.final)]
        m.next = "GROW"
        with m.If(check.missing == 0):
            m.next = "GROWN"
    with m.Case(Opcode.APPEND):
        m.d.sync += [index.eq(check.position >> SLOT_BITS), final.eq(check.last_present)]
        m.next = "SCAN_BEGIN"
    with m.Case(Opcode.FORK):
        m.d.sync += [index.eq(held.first), final.eq(held.entries - 1)]
        m.next = "FORK_ENTRY"
        with m.If(held.entries == held.first):
            m.next = "FORKED"
    # Look-ups find the new state from now on; what is released is not found any more.
    with m.Case(Opcode.FREE):
        m.d.comb += [tables.w_en.eq(1), tables.w_open.eq(0)]
        _release(m, parts, held.entries, held.first)
    with m.Case(Opcode.TRIM):
        kept = (command.arg0 + (BLOCK_SIZE - 1)) >> SLOT_BITS
        m.d.comb += [
            tables.w_en.eq(1),
            state.length.eq(command.arg0),
            state.reserved.eq(0),
            state.entries.eq(kept),
        ]
        _release(m, parts, held.entries, kept[: len(held.entries)])
    with m.Case(Opcode.SLIDE):
        dead = (command.arg0 >> SLOT_BITS)[: len(held.first)]
        with m.If(dead > held.first):
            m.d.comb += [tables.w_en.eq(1), state.first.eq(dead)]
        _release(m, parts, dead, held.first)


def _release(m: Module, parts: Parts, end: Value, begin: Value) -> None:
    """Entries ``end - 1`` down to ``begin`` are to be released."""
    m.d.sync += [parts.index.eq(end - 1), parts.final.eq(begin)]
    m.next = "RELEASED"
    with m.If(end > begin):
        m.next = "RELEASE_ENTRY"


def _read_entry(m: Module, parts: Parts, following: str) -> None:
    m.d.comb += [parts.tables.entry_index.eq(parts.index), parts.tables.entry_r_en.eq(1)]
    m.next = following


def build_release(m: Module, parts: Parts) -> None:
    """FREE, TRIM, SLIDE: the last entry first."""
    # A block comes to the free list in the cycle after RELEASE.
    released = Signal(range(parts.tables.config.table_entries + 1))
    total = released + parts.pool.freed
    with m.State("RELEASE_ENTRY"):
        m.d.sync += released.eq(total)
        _read_entry(m, parts, "RELEASE")
    with m.State("RELEASE"):
        operate(m, parts, PoolOperation.DROP, parts.tables.entry_block)
        m.d.sync += parts.index.eq(parts.index - 1)
        m.next = "RELEASE_ENTRY"
        with m.If(parts.index == parts.final):
            m.next = "RELEASED"
    with m.State("RELEASED"):
        m.d.sync += released.eq(0)
        finish(m, parts, total, write=False)


def build_mark(m: Module, parts: Parts) -> None:
    """COMMIT: tokens count as written, then the length advances."""
    check, pool, state, index = parts.check, parts.pool, parts.state, parts.index
    with m.State("MARK_ENTRY"):
        _read_entry(m, parts, "MARK")
    with m.State("MARK"):
        operate(m, parts, PoolOperation.MARK, parts.tables.entry_block)
        partial = index == (check.committed >> SLOT_BITS)
        m.d.comb += pool.written.eq(Mux(partial, check.committed[:SLOT_BITS], BLOCK_SIZE))
        m.d.sync += index.eq(index + 1)
        m.next = "MARK_ENTRY"
        with m.If(index == parts.final):
            m.next = "MARKED"
    with m.State("MARKED"):
        m.d.comb += [
            state.length.eq(check.committed),
            state.reserved.eq(parts.tables.r_state.reserved - parts.command.arg0),
        ]
        finish(m, parts, check.committed)


def build_fork(m: Module, parts: Parts) -> None:
    """FORK: one reference more for each block; all given back if one of them has as many as can be."""
    tables, pool, state = parts.tables, parts.pool, parts.state
    index, destination = parts.index, parts.command.arg0
    held = tables.r_state
    # Whether a block could not be held is known in the cycle after HOLD: at the end of a long path from the
    # pool's memory, for which there is a cycle more if there are to be registers.
    full, registered = pool.full, tables.config.registered
    if registered:
        full = Signal(name="fork_full")
        m.d.sync += full.eq(pool.full)

    def undo() -> None:
        # The block in front of `index` was full; those before it have a reference too many.
        m.d.sync += [index.eq(index - 2), parts.final.eq(held.first)]
        m.next = "UNFORK_ENTRY"
        with m.If((index - held.first)[: len(index)] == 1):
            refuse(m, parts, Status.REF_OVERFLOW)

    with m.State("FORK_ENTRY"):
        _read_entry(m, parts, "FORK")
        with m.If(full):
            undo()
    with m.State("FORK"):
        operate(m, parts, PoolOperation.HOLD, tables.entry_block)
        m.d.comb += [
            tables.entry_seq.eq(destination),
            tables.entry_index.eq(index),
            tables.entry_w_en.eq(1),
            tables.entry_w_block.eq(tables.entry_block),
        ]
        m.d.sync += index.eq(index + 1)
        last = index == parts.final
        if registered:
            ends = Signal(name="fork_ends")
            m.d.sync += ends.eq(last)
            m.next = "FORK_HELD"
        else:
            m.next = "FORK_ENTRY"
            with m.If(last):
                m.next = "FORKED"
    if registered:
        with m.State("FORK_HELD"):
            m.next = "FORK_ENTRY"
            with m.If(ends):
                m.next = "FORKED"
    with m.State("FORKED"):
        m.d.comb += [tables.w_seq.eq(destination), state.reserved.eq(0)]
        with m.If(full):
            undo()
        with m.Else():
            finish(m, parts, held.entries - held.first)
    with m.State("UNFORK_ENTRY"):
        _read_entry(m, parts, "UNFORK")
    with m.State("UNFORK"):
        operate(m, parts, PoolOperation.DROP, tables.entry_block)
        m.d.sync += index.eq(index - 1)
        m.next = "UNFORK_ENTRY"
        with m.If(index == parts.final):
            m.next = "UNFORKED"
    with m.State("UNFORKED"):
        refuse(m, parts, Status.REF_OVERFLOW)


def build_growth(m: Module, parts: Parts) -> None:
    """ALLOC and APPEND: how many blocks must not be written, then a copy if need be, then the blocks."""
    tables, pool, check, command = parts.tables, parts.pool, parts.check, parts.command
    index, held = parts.index, tables.r_state
    # Slots of the first block that are in use: what a copy has to copy.
    kept = check.position[:SLOT_BITS]
    copied = Signal()
    count, first_frozen = _build_scan(m, parts)
    with m.State("SCANNED"):
        m.d.sync += [index.eq(check.position >> SLOT_BITS), parts.final.eq(check.final), copied.eq(0)]
        with m.If(count + check.missing > pool.free):
            refuse(m, parts, Status.NO_SPACE)
        with m.Elif(count + check.missing == 0):
            m.next = "GROWN"
        with m.Else():
            with m.If(count == 0):
                m.d.sync += index.eq(held.entries)
            m.next = "GROW"
            with m.If(first_frozen & (kept != 0)):
                m.next = "COPY"
    with m.State("COPY"):
        fields = {"source": parts.entry, "destination": pool.head, "low": 0, "high": kept}
        build_move(m, parts, "COPIED", MoveKind.COPY, **fields)
    with m.State("COPIED"):
        with build_answer(m, parts):
            m.d.sync += copied.eq(1)
            m.next = "GROW"
            with m.If(parts.move.response.payload.error):
                m.next = "SPOILT"
    with m.State("SPOILT"):
        # The head's bytes are not what they were: nobody may share them any more.
        operate(m, parts, PoolOperation.FORGET, pool.head)
        m.next = "FORGOTTEN_HEAD"
    with m.State("FORGOTTEN_HEAD"):
        refuse(m, parts, Status.BUS_ERROR)
    _build_blocks(m, parts, copied, kept)
    with m.State("GROWN"):
        append = command.opcode == Opcode.APPEND
        m.d.comb += [
            parts.state.entries.eq(held.entries + check.missing),
            parts.state.reserved.eq(held.reserved + Mux(append, command.arg0, 0)),
        ]
        finish(m, parts, Mux(append, check.position, check.missing))


def _build_scan(m: Module, parts: Parts) -> tuple[Value, Value]:
    """The entries that APPEND would write: how many are shared or sealed, and whether the first one is.

    Both are right in SCANNED.
    """
    tables, pool, index = parts.tables, parts.pool, parts.index
    frozen = (pool.state.references > 1) | pool.state.sealed
    counted = Signal(range(tables.config.table_entries + 1))
    scanning, at_first, first = Signal(), Signal(), Signal()
    count = counted + (scanning & frozen)
    first_frozen = first | (scanning & at_first & frozen)
    with m.State("SCAN_ENTRY"):
        _read_entry(m, parts, "SCAN")
        m.d.sync += [counted.eq(count), first.eq(first_frozen)]
    with m.State("SCAN"):
        operate(m, parts, PoolOperation.READ, tables.entry_block)
        m.d.sync += [index.eq(index + 1), scanning.eq(1), at_first.eq(~scanning)]
        with m.If(~scanning):
            m.d.sync += parts.entry.eq(tables.entry_block)
        m.next = "SCAN_ENTRY"
        with m.If(index == parts.final):
            m.next = "SCANNED"
    with m.State("SCAN_BEGIN"):
        m.d.sync += [counted.eq(0), first.eq(0), scanning.eq(0)]
        m.next = "SCANNED"
        with m.If(parts.check.present):
            m.next = "SCAN_ENTRY"
    return count, first_frozen


def _build_blocks(m: Module, parts: Parts, copied: Signal, kept: Value) -> None:
    """Entry after entry: one that the table has is replaced if need be, another one gets a block."""
    tables, pool, index = parts.tables, parts.pool, parts.index
    old, new = Signal.like(tables.entry_block), Signal.like(tables.entry_block)
    present = index < tables.r_state.entries

    def go_on() -> None:
        m.d.sync += index.eq(index + 1)
        m.next = "GROW"
        with m.If(index == parts.final):
            m.next = "GROWN"

    with m.State("GROW"):
        with m.If(present):
            _read_entry(m, parts, "REPLACE")
        with m.Else():
            operate(m, parts, PoolOperation.TAKE)
            m.next = "TAKEN"
    with m.State("REPLACE"):
        operate(m, parts, PoolOperation.READ, tables.entry_block)
        m.d.sync += old.eq(tables.entry_block)
        m.next = "REPLACED"
    with m.State("REPLACED"):
        with m.If((pool.state.references > 1) | pool.state.sealed):
            m.next = "TAKE"
        with m.Else():
            go_on()
    with m.State("TAKE"):
        operate(m, parts, PoolOperation.TAKE)
        m.next = "TAKEN"
    with m.State("TAKEN"):
        m.d.comb += [tables.entry_index.eq(index), tables.entry_w_en.eq(1), tables.owner_en.eq(1)]
        m.d.sync += new.eq(pool.subject)
        with m.If(present):
            m.next = "DROP"
        with m.Else():
            go_on()
    with m.State("DROP"):
        operate(m, parts, PoolOperation.DROP, old)
        m.next = "DROPPED"
    with m.State("DROPPED"):
        with m.If(copied):
            m.next = "COPY_MARK"
        with m.Else():
            go_on()
    with m.State("COPY_MARK"):
        operate(m, parts, PoolOperation.MARK, new)
        m.d.comb += pool.written.eq(kept)
        m.d.sync += copied.eq(0)
        m.next = "COPY_MARKED"
    with m.State("COPY_MARKED"):
        go_on()
