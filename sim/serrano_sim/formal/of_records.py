# SPDX-License-Identifier: Apache-2.0
"""Proofs about the bytes of records, as data."""

from __future__ import annotations

from .of_streams import KEEPS_RULES, STABLE
from .patch import Edit
from .proofs import Broken, Cover, Method, Proof

__all__ = ["RECORDS"]

PORT = "chunks of 4 dimensions, port of 4 bytes"


def _edit(module: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(f"serrano.kvcache.{module}", old, new),)


RECORDS = (
    Proof(
        "mask",
        "records:mask",
        Method.INDUCTION,
        2,
        "RecordMask",
        f"{PORT}; heads of 4, 6 and 8 dimensions",
        KEEPS_RULES,
        {
            "beats": "7: a record has as many beats as its layout says, each where it belongs",
            "blank": "7: bytes of tokens that are not wanted are zero",
            "data": "7: bytes of tokens that are wanted are those of the memory",
            "error": "7: a record that lacks data, or tokens that were asked for, is marked as wrong",
            "stable": STABLE,
        },
        cases={"4": 0, "6": 0, "8": 0},
        covers=(Cover("whole_record", 52, "4"),),
        broken=(
            Broken(
                "half_chunks",
                "beats",
                "a chunk ends after eight tokens",
                _edit(
                    "mask",
                    "((1 << SLOT_BITS + width) - self.piece)",
                    "((1 << SLOT_BITS - 1 + width) - self.piece)",
                ),
                "6",
                10,
            ),
            Broken(
                "nothing_blanked",
                "blank",
                "bytes of all tokens are given",
                _edit("mask", "Mux(good, kept, 0)", "Mux(good, ~0, 0)"),
                "6",
                10,
            ),
            Broken(
                "first_blanked",
                "data",
                "the first token that is wanted is not given",
                _edit("mask", "first, end = low << shift,", "first, end = (low + 1) << shift,"),
                "6",
                10,
            ),
            Broken(
                "unmarked",
                "error",
                "a record that lacks tokens looks like any other",
                _edit("mask", "~mark.good | mark.task.short | beat.error", "~mark.good | beat.error"),
                "6",
                10,
            ),
            Broken(
                "replaced",
                "stable",
                "a beat is replaced before it was taken",
                _edit(
                    "mask",
                    "out.ready if config.registered else ~out.valid | out.ready",
                    "1",
                ),
                "6",
                10,
            ),
        ),
    ),
    Proof(
        "gather",
        "records:gather",
        Method.INDUCTION,
        5,
        "Gather",
        f"{PORT}; 3 entries; 8 look-ups ahead, 32 records in flight",
        f"{KEEPS_RULES}; tokens of a command within the longest sequence; room stays until it is "
        "claimed; geometry constant; every look-up is answered after 3 cycles, with any answer",
        {
            "range": "7: exactly the tokens asked for, and the records that hold them",
            "no_loss": "9: every answer finds who asked, and a place to wait",
            "committed": "5, 7: memory is read after an OK only, and no token that is not committed",
            "address": "7: a record is read where its block says",
            "stable": STABLE,
        },
        covers=(Cover("short_record", 10),),
        broken=(
            Broken(
                "one_more",
                "range",
                "the token behind the last one counts",
                _edit(
                    "gather",
                    "end.eq(command.first + command.count - 1)",
                    "end.eq(command.first + command.count)",
                ),
                depth=8,
            ),
            Broken(
                "too_far_ahead",
                "no_loss",
                "looks up whether there is a place or not",
                _edit("gather", "ask.valid.eq(place)", "ask.valid.eq(1)"),
                depth=24,
            ),
            Broken(
                "beyond_committed",
                "committed",
                "gives what was asked for, committed or not",
                _edit("gather", "Mux(short, answer.tokens, this.high)", "this.high"),
                depth=10,
            ),
            Broken(
                "first_record",
                "address",
                "reads the first record of every block",
                _edit(
                    "gather",
                    'block + delayed(m, record_offset.p, name="record_offset", **late)',
                    "block",
                ),
                depth=10,
            ),
            Broken(
                "asks_if_taken",
                "stable",
                "asks for a run only while its consumer is ready",
                _edit(
                    "gather",
                    "next_run.valid & self.room &",
                    "next_run.valid & self.room & self.records.ready &",
                ),
                depth=12,
            ),
        ),
    ),
    Proof(
        "mover",
        "records:mover",
        Method.INDUCTION,
        6,
        "BlockMover",
        f"{PORT}; 4 blocks; 8 records ahead",
        f"{KEEPS_RULES}; block_bytes a multiple of 64, record numbers below 4 of 65,536; fewer than "
        "64 writes in flight, errors come with acknowledgements",
        {
            "writes_inside": "4: a move writes its destination, word by word, and nothing else",
            "reads_inside": "7: a move reads the records it was told of, and nothing else",
            "complete": "4, 7: the response comes after all was read, written and acknowledged",
            "stable": STABLE,
        },
        broken=(
            Broken(
                "into_the_source",
                "writes_inside",
                "writes into the block that it reads",
                _edit(
                    "mover",
                    "Mux(to_host, command.index, command.destination)",
                    "Mux(to_host, command.index, command.source)",
                ),
                depth=9,
            ),
            Broken(
                "wrong_record",
                "reads_inside",
                "a copy begins at some record",
                _edit(
                    "mover", "operands.a.eq(Mux(to_host, command.record, 0))", "operands.a.eq(command.record)"
                ),
                depth=9,
            ),
            Broken(
                "too_early",
                "complete",
                "responds before the last write is acknowledged",
                _edit("mover", "self.writes.request.valid | self.writes.pending", "Const(0)"),
                depth=28,
            ),
            Broken(
                "asks_if_taken",
                "stable",
                "asks for a run only while a word is taken",
                _edit(
                    "mover",
                    "self._asking & task.ready",
                    "self._asking & task.ready & word.ready",
                ),
                depth=10,
            ),
        ),
    ),
    Proof(
        "mover_completes",
        "records:mover_completes",
        Method.COMMAND,
        74,
        "BlockMover",
        f"{PORT}; blocks of 64 to 192 bytes, heads of 2 and 4 dimensions, one record",
        "any state between moves, as `mover.complete` has it; memory always ready, with data at once and "
        "acknowledgements in the next cycle",
        {"completes": "9: a move is answered within 72 cycles of its command"},
        covers=(Cover("copied", 74),),
        broken=(
            Broken(
                "endless",
                "completes",
                "words are written, but not counted",
                _edit("mover", "self._left.eq(self._left - 1),", "self._left.eq(self._left),"),
            ),
        ),
    ),
    Proof(
        "places",
        "records:places",
        Method.INDUCTION,
        3,
        "Places",
        "4 blocks, 2 rows",
        f"{KEEPS_RULES}; geometry constant; look-ups are answered with anything",
        {
            "mapped": "4, 5: a row counts as having a block only after an OK",
            "address": "4: what is kept is the block, the slot and the row of that very look-up",
            "stable": STABLE,
        },
        broken=(
            Broken(
                "always_mapped",
                "mapped",
                "a row has a block whatever the answer was",
                _edit("places", "stage.mapped.eq(answer.status == Status.OK)", "stage.mapped.eq(1)"),
                depth=10,
            ),
            Broken(
                "next_slot",
                "address",
                "the slot is that of the row behind",
                _edit(
                    "places",
                    "entries.w_data.slot.eq(late.target.slot)",
                    "entries.w_data.slot.eq(stage.target.slot)",
                ),
                depth=10,
            ),
            Broken(
                "asks_if_taken",
                "stable",
                "asks only while the row is taken",
                _edit(
                    "places",
                    "request.valid.eq(self.places.valid & wanted.i.ready)",
                    "request.valid.eq(self.places.valid & wanted.i.ready & ~self.r_en)",
                ),
                depth=10,
            ),
        ),
    ),
    Proof(
        "appender",
        "records:appender",
        Method.COMMAND,
        5,
        "Appender",
        f"{PORT}; heads of 6 and 8 dimensions: a full chunk and one of 2, two full chunks",
        "any state; geometry constant; columns are multiples of the lanes; record numbers below 4 of 65,536",
        {
            "mapped": "4: nothing is written for a row without a block",
            "slot": "4: what is written for a row lies in its record, and belongs to its token alone",
            "place": "4: and it lies where the layout has this scale, or this dimension of K or V",
        },
        cases={"6": 0, "8": 0},
        broken=(
            Broken(
                "unmapped_written",
                "mapped",
                "rows without a block are written as well",
                _edit("appender", "pieces.i.valid.eq(valid[-1] & mapped)", "pieces.i.valid.eq(valid[-1])"),
                "6",
            ),
            Broken(
                "wide_slots",
                "slot",
                "slots in the last chunk are as wide as in the others",
                _edit("appender", "narrow.eq(last_shift(config, head_dim))", "narrow.eq(n_bits)"),
                "6",
            ),
            Broken(
                "v_into_k",
                "place",
                "codes of V go where those of K belong",
                _edit("appender", "run = Mux(codes.kind == HeadKind.V, head_dim << SLOT_BITS, 0)", "run = 0"),
                "6",
            ),
        ),
    ),
)
