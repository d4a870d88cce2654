# SPDX-License-Identifier: Apache-2.0
"""Proofs about look-ups, as data."""

from __future__ import annotations

from .patch import Edit
from .proofs import Broken, Method, Proof

__all__ = ["LOOKUPS"]


def _edit(old: str, new: str) -> tuple[Edit, ...]:
    return (Edit("serrano.kvcache.tables", old, new),)


LOOKUPS = (
    Proof(
        "lookups",
        "lookups:lookups",
        Method.COMMAND,
        8,
        "SequenceTables",
        "two sequences of three entries, four blocks, two ports",
        "none: any state, anything written in any cycle",
        {
            "one_per_cycle": "9: a look-up is taken unless the controller or a port before it comes first",
            "answered": "9: every look-up is answered three cycles later, and nothing else is",
            "status": "5: the status is that of the sequence, table and owner at that time",
            "block": "5: the block is the table's",
            "tenant": "5: OK is answered only if the block's owner is the sequence's",
            "tokens": "7: the block's committed tokens are those of the sequence",
        },
        broken=(
            Broken(
                "last_block_twice",
                "tokens",
                "blocks behind the last one have as many tokens as that",
                _edit("Mux(asked.index == full, partial, 0)", "partial"),
            ),
            Broken(
                "second_served",
                "one_per_cycle",
                "a second port waits although the first one asks for nothing",
                _edit("taken = taken | request.valid", "taken = Const(1)"),
            ),
            Broken(
                "all_answered",
                "answered",
                "an answer for the first port is one for all",
                _edit("found.chosen[index]", "found.chosen[0]"),
            ),
            Broken(
                "beyond_the_end",
                "status",
                "one entry too many counts",
                _edit("asked.index < state.entries", "asked.index <= state.entries"),
            ),
            Broken(
                "next_block",
                "block",
                "the block is that of the look-up behind",
                _edit("port.response.block.eq(found.block)", "port.response.block.eq(table.r_data)"),
            ),
            Broken(
                "foreign",
                "tenant",
                "the owner is not compared",
                _edit("Mux(foreign, Status.TENANT, status)", "status"),
            ),
        ),
    ),
)
