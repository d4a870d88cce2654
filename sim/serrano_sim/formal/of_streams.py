# SPDX-License-Identifier: Apache-2.0
"""Proofs about streams, as data."""

from __future__ import annotations

from .patch import Edit
from .proofs import Broken, Cover, Method, Proof

__all__ = ["STREAMS"]

STABLE = "10: what is offered stays as it is until it is taken"
KEEPS_RULES = "whoever feeds it keeps the stream rules"


def _edit(module: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(f"serrano.{module}", old, new),)


STREAMS = (
    Proof(
        "fifo",
        "streams:fifo",
        Method.INDUCTION,
        2,
        "StreamFIFO",
        "3 and 4 places of 3 bits",
        KEEPS_RULES,
        {
            "level": "10: takes a payload only if there is a place for it, gives one only if there is one",
            "order": "10: every payload comes out as it went in, none before its turn",
            "stable": STABLE,
        },
        cases={"3": 0, "4": 0},
        covers=(Cover("full_then_empty", 16, "3"),),
        broken=(
            Broken(
                "always_ready",
                "level",
                "takes payloads when it is full",
                _edit("stream.fifo", "self.i.ready.eq(~full)", "self.i.ready.eq(1)"),
                "3",
                10,
            ),
            Broken(
                "reads_behind",
                "order",
                "reads the place that is written next",
                _edit("stream.fifo", "memory.r_addr.eq(head)", "memory.r_addr.eq(tail)"),
                "3",
                10,
            ),
            Broken(
                "reads_on",
                "stable",
                "reads on while the output waits",
                _edit("stream.fifo", "some & (~self.o.valid | self.o.ready)", "some"),
                "3",
                10,
            ),
        ),
    ),
    Proof(
        "register",
        "streams:register",
        Method.INDUCTION,
        2,
        "StreamRegister",
        "3 bits",
        KEEPS_RULES,
        {"order": "10: payloads come out as they went in, in order", "stable": STABLE},
        broken=(
            Broken(
                "forgets_spare",
                "order",
                "the spare place is not given",
                _edit("stream.register", "Mux(spare_valid, Value", "Mux(self.o.valid, Value"),
                depth=10,
            ),
            Broken(
                "overwrites",
                "stable",
                "a new payload replaces the one that waits",
                _edit(
                    "stream.register",
                    "loads.eq(self.o.ready | ~self.o.valid)",
                    "loads.eq(self.o.ready | self.i.valid)",
                ),
                depth=10,
            ),
        ),
    ),
    Proof(
        "fork",
        "streams:fork",
        Method.INDUCTION,
        2,
        "Fork",
        "two outputs of 3 bits",
        KEEPS_RULES,
        {"once": "10: every output gets every payload once", "stable": STABLE},
        broken=(
            Broken(
                "twice",
                "once",
                "an output that has taken is offered it again",
                _edit(
                    "stream.fork",
                    "output.valid.eq(self.i.valid & ~taken[index])",
                    "output.valid.eq(self.i.valid)",
                ),
                depth=10,
            ),
            Broken(
                "waits_for_other",
                "stable",
                "an output is offered a payload only while the first one is ready",
                _edit(
                    "stream.fork",
                    "self.i.valid & ~taken[index]",
                    "self.i.valid & ~taken[index] & self.o[0].ready",
                ),
                depth=10,
            ),
        ),
    ),
    Proof(
        "gearbox",
        "streams:gearbox",
        Method.INDUCTION,
        2,
        "Gearbox",
        "2 to 4 and 4 to 2 bytes",
        KEEPS_RULES,
        {"stable": STABLE},
        cases={"2-4": 0, "4-2": 0},
        broken=(
            Broken(
                "takes_on",
                "stable",
                "takes bytes while a word waits",
                _edit(
                    "stream.gearbox", "self.i.ready.eq(~self.o.valid | self.o.ready)", "self.i.ready.eq(1)"
                ),
                "2-4",
                10,
            ),
            Broken(
                "takes_early",
                "stable",
                "takes a word while the last part of the one before waits",
                _edit("stream.gearbox", "(left == 0) | ((left == 1) & self.o.ready)", "left <= 1"),
                "4-2",
                10,
            ),
        ),
    ),
    Proof(
        "requesters",
        "streams:requesters",
        Method.INDUCTION,
        3,
        "Requesters",
        "two sequences",
        "requesters keep the stream rules; the controller takes what is offered and responds once to each",
        {
            "order": "9: exactly one response to each command, with its tag, in order per requester",
            "fair": "9: a command that can be executed is overtaken by one of the other requester at most",
            "offers": "9: what is offered is a command, and there is one if any can be executed",
            "locked": "9: no command of the host that names a sequence of the running step is taken, "
            "unless it only reads",
            "stable": STABLE,
        },
        covers=(Cover("both_wait", 10),),
        broken=(
            Broken(
                "next_tag",
                "order",
                "answers with the tag of the command that comes next",
                _edit("kvcache.requesters", "payload.tag.eq(tag)", "payload.tag.eq(self.command.tag)"),
                depth=10,
            ),
            Broken(
                "host_waits",
                "fair",
                "the step loop always goes first",
                _edit("kvcache.requesters", "Mux(waiting.all(), ~served, waiting[1])", "waiting[1]"),
                depth=12,
            ),
            Broken(
                "offers_held",
                "offers",
                "offers commands that have to wait",
                _edit("kvcache.requesters", "config, waiting.any(), ", "config, full.any(), "),
                depth=10,
            ),
            Broken(
                "no_lock",
                "locked",
                "the host's commands do not wait for the step",
                _edit(
                    "kvcache.requesters",
                    "~port.responses.valid & ~held",
                    "~port.responses.valid",
                ),
                depth=10,
            ),
            Broken(
                "no_room",
                "stable",
                "executes a command whose requester has not taken its last response",
                _edit("kvcache.requesters", "known & ~port.responses.valid & ", "known & "),
                depth=14,
            ),
        ),
    ),
)
