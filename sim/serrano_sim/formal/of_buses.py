# SPDX-License-Identifier: Apache-2.0
"""Proofs about the memory port, as data."""

from __future__ import annotations

from .of_streams import KEEPS_RULES, STABLE, _edit
from .proofs import Broken, Cover, Method, Proof

__all__ = ["BUSES"]

PORT = "port of 4 bytes, addresses of 16 bits"
ALIGNED = "addresses are multiples of the port's width"
PAGE = "10: no burst crosses 4 KiB"
CHANNEL = "10: valid and payload of an AXI channel stay until ready"

BUSES = (
    Proof(
        "splitter",
        "buses:splitter",
        Method.INDUCTION,
        2,
        "BurstSplitter",
        PORT,
        f"{KEEPS_RULES}; {ALIGNED}",
        {
            "page": PAGE,
            "length": "10: no burst is empty or longer than allowed (256 beats or less)",
            "covers": "10: the bursts of a run are exactly its bytes, in order, the last one marked",
            "stable": STABLE,
        },
        cases={"4": 0, "256": 0},
        covers=(Cover("two_runs", 12, "4"),),
        broken=(
            Broken(
                "page_ignored",
                "page",
                "bursts go on across a page's end",
                _edit(
                    "bus.read",
                    "Mux(to_end, page_beats - place, most)",
                    "most",
                ),
                "4",
                6,
            ),
            Broken(
                "too_long",
                "length",
                "bursts end at a page's end only",
                _edit(
                    "bus.read",
                    "Mux(to_end, page_beats - place, most)",
                    "page_beats - place",
                ),
                "256",
                6,
            ),
            Broken(
                "last_too_early",
                "covers",
                "every full burst is marked as the last of its run",
                _edit("bus.read", "last.eq(fits)", "last.eq(beats == self.burst_beats)"),
                "4",
                6,
            ),
            Broken(
                "skips",
                "covers",
                "the next burst begins where the longest one would have ended",
                _edit(
                    "bus.read",
                    "address.eq(address + (beats << self.beat_bits))",
                    "address.eq(address + (self.burst_beats << self.beat_bits))",
                ),
                "4",
                8,
            ),
            Broken(
                "goes_on",
                "stable",
                "a burst is replaced before it was taken",
                _edit(
                    "bus.read",
                    "with m.Elif(free):\n            m.d.sync += [",
                    "with m.Else():\n            m.d.sync += [",
                ),
                "4",
                6,
            ),
        ),
    ),
    Proof(
        "read_port",
        "buses:read_port",
        Method.INDUCTION,
        2,
        "ReadArbiter",
        f"{PORT}; clients with bursts of 2 and 4 beats and buffers of 4 and 8; 4 bursts in flight",
        f"{KEEPS_RULES}; {ALIGNED}; the memory answers every burst in order with as many beats as asked for; "
        "flush only while stopped and idle",
        {
            "stable": f"{CHANNEL}; {STABLE[4:]}",
            "page": PAGE,
            "length": "10: no burst is longer than its client's; incrementing, of the port's width",
            "in_flight": "10: what is kept of bursts in flight is what was asked of the memory",
            "room": "10: a beat that arrives has a place; the memory never waits for a client",
        },
        covers=(Cover("two_in_flight", 14),),
        broken=(
            Broken(
                "address_replaced",
                "stable",
                "the address channel is loaded while it waits",
                _edit(
                    "bus.read",
                    "free.eq((~self.axi.arvalid | self.axi.arready) & ordered)",
                    "free.eq(ordered)",
                ),
                depth=10,
            ),
            Broken(
                "page_ignored",
                "page",
                "bursts go on across a page's end",
                _edit(
                    "bus.read",
                    "Mux(to_end, page_beats - place, most)",
                    "most",
                ),
                depth=8,
            ),
            Broken(
                "one_more",
                "length",
                "asks for a beat too many",
                _edit("bus.read", "arlen.eq(issued.beats - 1)", "arlen.eq(issued.beats)"),
                depth=10,
            ),
            Broken(
                "forgets_whose",
                "in_flight",
                "counts bursts of all clients as the step's",
                _edit(
                    "bus.read",
                    "entered = issued.valid & ~issued.order.apart",
                    "entered = issued.valid",
                ),
                depth=10,
            ),
            Broken(
                "claims_nothing",
                "room",
                "asks for a burst if there is room for one beat",
                _edit(
                    "bus.read",
                    "claimed + burst.payload.beats <= client.fifo_beats",
                    "claimed < client.fifo_beats",
                ),
                depth=16,
            ),
        ),
    ),
    Proof(
        "write_port",
        "buses:write_port",
        Method.INDUCTION,
        2,
        "WriteArbiter",
        f"{PORT}; two clients; 4 writes in flight",
        f"{KEEPS_RULES}; {ALIGNED}; the memory acknowledges a write after taking its address and its data",
        {
            "stable": CHANNEL,
            "page": "10: every write is one aligned beat, so that none crosses 4 KiB",
            "paired": "10: as many words as addresses, in the same order",
            "pending": "4, 7: a client is told of a write in flight from its taking to its acknowledgement",
        },
        covers=(Cover("all_in_flight", 12),),
        broken=(
            Broken(
                "data_replaced",
                "stable",
                "the data channel is loaded while it waits",
                _edit(
                    "bus.write",
                    "(~axi.awvalid | axi.awready) & (~axi.wvalid | axi.wready)",
                    "(~axi.awvalid | axi.awready)",
                ),
                depth=8,
            ),
            Broken(
                "not_last",
                "page",
                "the beat is not marked as the last",
                _edit("bus.write", "axi.wlast.eq(1)", "axi.wlast.eq(axi.awready)"),
                depth=8,
            ),
            Broken(
                "data_dropped",
                "paired",
                "the word goes when the address is taken",
                _edit("bus.write", "with m.If(axi.wready):", "with m.If(axi.wready | axi.awready):"),
                depth=8,
            ),
            Broken(
                "anyone",
                "pending",
                "an acknowledgement counts for all clients",
                _edit(
                    "bus.write", "mine.eq(answer.valid & (answer.client == index))", "mine.eq(answer.valid)"
                ),
                depth=10,
            ),
        ),
    ),
    Proof(
        "combiner",
        "buses:combiner",
        Method.INDUCTION,
        2,
        "WriteCombiner",
        PORT,
        KEEPS_RULES,
        {
            "stable": STABLE,
            "aligned": "10: every word that is written begins at a multiple of the port's width",
        },
        broken=(
            Broken(
                "replaced",
                "stable",
                "a word is replaced before it was taken",
                _edit("kvcache.combine", "free = ~request.valid | request.ready", "free = Const(1)"),
                depth=10,
            ),
            Broken(
                "unaligned",
                "aligned",
                "the word's address is that of the piece",
                _edit(
                    "kvcache.combine",
                    "Cat(Const(0, width_bits), (piece.address >> width_bits) + step)",
                    "piece.address + step",
                ),
                depth=10,
            ),
        ),
    ),
)
