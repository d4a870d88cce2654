# SPDX-License-Identifier: Apache-2.0
"""Commands that move bytes: copy on write, SCRUB, and GATHER into the host's memory."""

from .figure import Figure, Result, Scope, equal, told
from .gather import LATENCY, RECORDS
from .measure import measure
from .pages import Pages

__all__ = ["run"]

HEAD_DIM = 64
BLOCKS = 32
WRITES = (16, 64)
"""Writes that the memory has under way at most: as everywhere else, and as many as the write arbiter has."""


def run(scope: Scope) -> Result:
    """APPEND behind 1 to 15 tokens of a shared or sealed block, SCRUB, GATHER; all bytes compared."""
    settings = {"blocks": BLOCKS, "records": RECORDS, "head_dim": HEAD_DIM, "seed": scope.seed}
    plan = {
        "pages": settings,
        "latency": LATENCY,
        "writes": WRITES,
        "tokens": [1, 8, 15] if scope.quick else list(range(1, 16)),
        "scrubbed": [1, 5, BLOCKS - 1],
        "gathered": [1, 8],
    }
    measured, _ = measure(scope, "moves", plan)
    pages, moves = Pages(**settings), measured["moves"]
    width = scope.config.port_bytes
    beats, record_beats = pages.block_bytes // width, pages.record_bytes // width

    def cycles(name: str, writes: int, size: int | None = None) -> int:
        chosen = [move for move in moves if (move["name"], move["writes"]) == (name, writes)]
        return max(move["cycles"] for move in chosen if size in (None, move["size"]))

    def line(text: str, written: int, name: str, size: int | None = None) -> Figure:
        few, many = (cycles(name, writes, size) for writes in WRITES)
        note = f"{written:,} beats; {many:,} cycles where the memory takes {WRITES[1]} writes at a time"
        return told(text, f"{few:,} cycles", note)

    figures = [
        line(f"APPEND with a copy of {RECORDS} records", beats, "append_copy"),
        line("SCRUB", beats, "scrub"),
        *(
            line(f"GATHER by command, records: {count}", count * record_beats, "gather", count)
            for count in plan["gathered"]
        ),
        equal(
            "bytes of the pool or the host's buffer that differ",
            sum(move["differing"] for move in moves),
            0,
            note=f"all {BLOCKS * pages.block_bytes:,} bytes compared after each of {len(moves)} moves",
        ),
    ]
    keys = {name: cycles(name, WRITES[0]) for name in ("append_copy", "scrub")}
    details = {
        "latency": LATENCY,
        "block_bytes": pages.block_bytes,
        "record_bytes": pages.record_bytes,
        "moves": moves,
    }
    return Result(figures, {"command_cycles": keys}, details, measured["leaked"])
