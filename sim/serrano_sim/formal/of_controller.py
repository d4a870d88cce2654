# SPDX-License-Identifier: Apache-2.0
"""Proofs about the controller, as data."""

from __future__ import annotations

from .limits import LIMITS
from .patch import Edit
from .proofs import Broken, Cover, Method, Proof

__all__ = ["CONTROLLER"]

SIZE = (
    "4 blocks, 2 sequences of 3 entries, 8 bits of tenant, 2 bits of count, 2 of generation, arguments of 32 "
    "bits; pools of 1 to 4 blocks"
)


def _edit(module: str, *pieces: str) -> tuple[Edit, ...]:
    """Pieces to be replaced, each followed by what takes its place."""
    return tuple(
        Edit(f"serrano.kvcache.{module}", old, new)
        for old, new in zip(pieces[::2], pieces[1::2], strict=True)
    )


CHECKS = {
    "status": "every status is the reference's, in its order of errors",
    "aux": "every auxiliary value is the reference's",
    "one_response": "9: exactly one response to a command",
    "state": "11: the whole state afterwards, free order included, is the reference's",
    "refused": "6: after any status but OK the state is what it was, but for what a failed move has spoilt",
    "references": "1: a block's count is the number of table entries that name it",
    "free_list": "2: a block is on the free list once if its count is 0 and it is not NULL, else not at all; "
    "free + used + 1 = blocks; both directions of the list agree, and what is held has no links",
    "null": "3: NULL is nobody's and in no table, and nothing of it is ever written",
    "reserved_blocks": "4: the block of every reserved slot has one reference and is not sealed",
    "tenants": "5: the blocks of a sequence are its tenant's, for commands and for look-ups",
    "written": "7: what is committed is written; what is sealed is written to its end",
    "sound": "7: lengths and reservations fit the table, and look-ups see the same state as commands",
    "no_wrap": "8: no count or generation ever wraps, in any cycle",
    "completes": "9: a command has ended, and nothing of it is left, within the cycles stated",
    "moves": "4, 7: bytes are moved into blocks that nobody holds only, and exactly those the command means",
}

GROUPS = (
    ("status", "aux", "one_response", "completes", "moves"),
    ("state",),
    ("refused",),
    ("references", "free_list", "null", "no_wrap"),
    ("reserved_blocks", "tenants", "written", "sound"),
)
"""Checks that are shown in one run, where all of them together take long."""

COMMAND = Proof(
    "command",
    "controller:command",
    Method.COMMAND,
    0,
    "Controller",
    SIZE,
    "begins in a state that satisfies the invariants; moves are taken and answered within two cycles "
    "each; the number of records is constant; everything else is free: both requesters, look-ups, locked, "
    "initialize",
    CHECKS,
    cases={case: limit + 2 for case, limit in LIMITS.items()},
    covers=tuple(Cover("ok", limit + 2, case) for case, limit in LIMITS.items() if case != "UNKNOWN"),
    groups={case: GROUPS for case in ("APPEND-1", "APPEND-2", "APPEND-3", "GATHER-2", "GATHER-3")},
    broken=(
        Broken(
            "slide_to_length",
            "status",
            "SLIDE refuses the length itself",
            _edit(
                "check",
                "[(Status.BAD_LEN, first > state.length)]",
                "[(Status.BAD_LEN, first >= state.length)]",
            ),
            "SLIDE",
        ),
        Broken(
            "last_generation",
            "status",
            "SHARE believes in a generation that has stopped counting",
            _edit(
                "check", "(block.generation != second) | block.generation.all()", "block.generation != second"
            ),
            "SHARE",
        ),
        Broken(
            "last_not_counted",
            "aux",
            "the block released last is not counted",
            _edit("walks", "total = released + parts.pool.freed", "total = released"),
            "FREE",
        ),
        Broken(
            "answers_twice",
            "one_response",
            "SEAL answers when it begins, and when it ends",
            _edit(
                "execution",
                "operate(m, parts, PoolOperation.SEAL, parts.entry)",
                "operate(m, parts, PoolOperation.SEAL, parts.entry)\n        finish(m, parts, write=False)",
            ),
            "SEAL",
        ),
        Broken(
            "first_released_first",
            "state",
            "blocks are released in the order of the table",
            _edit(
                "walks",
                "[parts.index.eq(last), parts.final.eq(begin)]",
                "[parts.index.eq(begin), parts.final.eq(last)]",
                "m.d.sync += parts.index.eq(parts.below)",
                "m.d.sync += parts.index.eq(parts.above)",
            ),
            "FREE",
        ),
        Broken(
            "fork_not_undone",
            "refused",
            "FORK that meets a full count leaves the references that it has added",
            _edit("walks", "with m.If(is_first):", "with m.If(1):"),
            "FORK",
        ),
        Broken(
            "share_not_counted",
            "references",
            "SHARE and FORK add no reference",
            _edit("pool", "changed.references.eq(self.state.references + 1)", "changed.references.eq(1)"),
            "SHARE",
        ),
        Broken(
            "new_head_linked",
            "free_list",
            "the new head of the list still names the old one as the block before it",
            _edit("pool", "predecessors.w_data.eq(0),", "predecessors.w_data.eq(self.subject),"),
            "ALLOC",
        ),
        Broken(
            "list_cut",
            "free_list",
            "a block taken from the middle takes the rest of the list with it",
            _edit("pool", "followers.w_data.eq(self.following),", "followers.w_data.eq(0),"),
            "SHARE",
        ),
        Broken(
            "null_evicted",
            "null",
            "block 0 counts as a block of the pool",
            _edit("check", "return (block != 0) & (block < self.size)", "return block < self.size"),
            "EVICT",
        ),
        Broken(
            "shared_written",
            "reserved_blocks",
            "APPEND replaces sealed blocks, but not shared ones",
            _edit(
                "walks",
                "(state.references > 1) | state.sealed",
                "state.sealed",
            ),
            "APPEND-1",
        ),
        Broken(
            "fork_of_reserved",
            "reserved_blocks",
            "FORK shares blocks with reserved slots",
            _edit("check", "~self.destination.empty | (state.reserved != 0)", "~self.destination.empty"),
            "FORK",
        ),
        Broken(
            "nobodys_tenant",
            "tenants",
            "blocks are allocated for tenant 0",
            _edit("controller", "pool.tenant.eq(command.tenant)", "pool.tenant.eq(0)"),
            "ALLOC",
        ),
        Broken(
            "foreign_shared",
            "tenants",
            "SHARE does not look at the block's tenant",
            _edit("check", "(Opcode.SHARE, Opcode.EVICT, Opcode.SCRUB)", "(Opcode.EVICT, Opcode.SCRUB)"),
            "SHARE",
        ),
        Broken(
            "sealed_unwritten",
            "written",
            "SEAL takes reserved tokens for written ones",
            _edit(
                "check",
                "(Status.NOT_WRITTEN, sealed_end > state.length),\n"
                "                (Status.NOT_WRITTEN, block.written != BLOCK_SIZE),",
                "",
            ),
            "SEAL",
        ),
        Broken(
            "reservation_kept",
            "sound",
            "TRIM keeps the reservation",
            _edit(
                "walks",
                "state.reserved.eq(0),\n            state.entries.eq(walks.kept),",
                "state.entries.eq(walks.kept),",
            ),
            "TRIM",
        ),
        Broken(
            "count_wraps",
            "no_wrap",
            "one reference more than can be counted",
            _edit("pool", "states.w_en.eq(~self.full)", "states.w_en.eq(1)"),
            "FORK",
        ),
        Broken(
            "generation_wraps",
            "no_wrap",
            "generations start over",
            _edit("pool", "Mux(generation.all(), generation, generation + 1)", "(generation + 1)"),
            "EVICT",
        ),
        Broken(
            "walks_on",
            "completes",
            "releasing stops an entry too late, once around the table",
            _edit(
                "walks",
                'with m.If(parts.at_end):\n            m.next = "RELEASED"',
                'with m.If(parts.index + 1 == parts.final):\n            m.next = "RELEASED"',
            ),
            "FREE",
        ),
        Broken(
            "copies_onto_itself",
            "moves",
            "the copy of a block goes into the shared block",
            _edit("walks", '"destination": pool.head', '"destination": parts.entry'),
            "APPEND-1",
        ),
        Broken(
            "gathers_too_much",
            "moves",
            "GATHER gives the first block from its beginning",
            _edit("execution", "Mux(place == 0, first[:SLOT_BITS], 0)", "Const(0, SLOT_BITS)"),
            "GATHER-1",
        ),
    ),
)

INITIALIZATION = Proof(
    "initialization",
    "controller:initialization",
    Method.COMMAND,
    11,
    "Controller",
    SIZE,
    "any state in which initialize is wanted and no command is executed, which is that after reset too",
    {
        "invariants": "1 to 5, 7: all invariants hold afterwards",
        "fresh": "11: blocks 1 to blocks - 1 are free in this order, all sequences are closed",
        "completes": "9: it is over within 8 cycles",
    },
    broken=(
        Broken(
            "sequences_stay",
            "invariants",
            "sequences stay open",
            _edit("controller", "tables.clear.eq(acts & wanted)", "tables.clear.eq(0)"),
        ),
        Broken(
            "one_more_block",
            "fresh",
            "the list goes on behind the last block",
            _edit(
                "pool",
                "(number != 0) & (number < last), number + 1",
                "(number != 0) & (number <= last), number + 1",
            ),
        ),
        Broken(
            "never_ready",
            "completes",
            "does not stop at the last block",
            _edit("pool", "reading.eq(index != last_block)", "reading.eq(1)"),
        ),
    ),
)

FROM_RESET = Proof(
    "from_reset",
    "controller:from_reset",
    Method.BOUNDED,
    30,
    "Controller",
    SIZE,
    "moves are taken and answered within two cycles each; the number of records is constant",
    {"invariants": "1 to 5, 7: all invariants hold whenever no command is executed"},
    covers=(Cover("three_commands", 30),),
    broken=(
        Broken(
            "new_head_linked",
            "invariants",
            "the new head of the list still names the old one as the block before it",
            _edit("pool", "predecessors.w_data.eq(0),", "predecessors.w_data.eq(self.subject),"),
        ),
    ),
)

CONTROLLER: tuple[Proof, ...] = (COMMAND, INITIALIZATION, FROM_RESET)
