# SPDX-License-Identifier: Apache-2.0
"""Proofs about streams: buffers, the controller's requesters."""

from __future__ import annotations

from typing import Any

from amaranth import *

from serrano.kvcache.commands import Opcode
from serrano.kvcache.requesters import Requesters
from serrano.stream import Fork, Gearbox, StreamFIFO, StreamRegister

from .bench import Bench
from .sizes import CONFIG

__all__ = ["fifo", "fork", "gearbox", "register", "requesters"]

WIDTH = 3


def _transfer(stream: Any) -> Value:
    return stream.valid & stream.ready


def fifo(bench: Bench, case: str) -> None:
    """A buffer of ``case`` places. One payload, whichever, is followed from the input to the output."""
    depth = int(case)
    unit = bench.open(StreamFIFO(WIDTH, depth))
    bench.free_inputs(unit)
    m = bench.m
    bench.assume_stable(unit.i)
    stored, head, tail = unit.signal("stored"), unit.signal("head"), unit.signal("tail")
    enters, leaves = _transfer(unit.i), _transfer(unit.o)

    level = Signal(range(depth + 2))
    m.d.sync += level.eq(level + enters - leaves)
    bench.check("level", (unit.level == level) & (level <= depth))
    bench.check("level", unit.level == stored + unit.o.valid)
    bench.check("level", (unit.signal("some") == (stored != 0)) & (unit.signal("full") == (level == depth)))
    bench.check("level", (stored <= depth) & (head < depth) & (tail < depth))
    behind = Mux(head + stored >= depth, head + stored - depth, head + stored)
    bench.check("level", tail == behind)
    bench.check("level", ~((level == 0) & unit.o.valid) & ~((level == depth) & unit.i.ready))

    # ``ahead`` counts the payloads that come before the one that is followed, and it.
    follow = bench.free(1, "follow")
    ahead = Signal(range(depth + 2))
    value = Signal(WIDTH)
    begins = enters & follow & (ahead == 0)
    with m.If(begins):
        m.d.sync += [value.eq(unit.i.payload), ahead.eq(level + 1 - leaves)]
    with m.Elif((ahead != 0) & leaves):
        m.d.sync += ahead.eq(ahead - 1)
    place = head + ahead - 1 - unit.o.valid
    cell = Array(unit["memory"].cells)[Mux(place >= depth, place - depth, place)]
    arrived = (ahead == 1) & unit.o.valid
    bench.check("order", ~arrived | (unit.o.payload == value))
    bench.check("order", (ahead == 0) | arrived | (cell == value))
    bench.check("order", ahead <= level)
    bench.stable("stable", unit.o)
    bench.cover("full_then_empty", arrived & (level == 1) & bench.past(level == depth, when=level == depth))


def register(bench: Bench) -> None:
    """A register slice, against a list of two places."""
    unit = bench.open(StreamRegister(WIDTH))
    bench.free_inputs(unit)
    m = bench.m
    bench.assume_stable(unit.i)
    first, second, count = Signal(WIDTH), Signal(WIDTH), Signal(2)
    enters, leaves = _transfer(unit.i), _transfer(unit.o)
    m.d.sync += count.eq(count + enters - leaves)
    with m.If(leaves):
        m.d.sync += first.eq(second)
    with m.If(enters & (count - leaves == 0)):
        m.d.sync += first.eq(unit.i.payload)
    with m.If(enters & (count - leaves == 1)):
        m.d.sync += second.eq(unit.i.payload)
    bench.check("order", (unit.o.valid == (count != 0)) & (count <= 2))
    bench.check("order", unit.i.ready == (count != 2))
    bench.check("order", ~unit.o.valid | (unit.o.payload == first))
    bench.check("order", (count != 2) | (unit.signal("spare") == second))
    bench.stable("stable", unit.o)


def fork(bench: Bench) -> None:
    """One stream to two consumers."""
    unit = bench.open(Fork(WIDTH, 2))
    bench.free_inputs(unit)
    bench.assume_stable(unit.i)
    taken = unit.signal("taken")
    for index, output in enumerate(unit.o):
        given = Signal(name=f"given_{index}")
        bench.m.d.sync += given.eq((given | _transfer(output)) & ~_transfer(unit.i))
        bench.check("once", ~(given & output.valid))
        bench.check("once", given == taken[index])
        bench.check("once", ~_transfer(unit.i) | given | _transfer(output))
        bench.check("once", ~output.valid | (output.payload == unit.i.payload))
        bench.stable("stable", output)


def gearbox(bench: Bench, case: str) -> None:
    """Words of ``case`` bytes, as ``2-4``."""
    narrow, wide = (int(count) for count in case.split("-"))
    unit = bench.open(Gearbox(narrow, wide))
    bench.free_inputs(unit)
    bench.assume_stable(unit.i)
    bench.stable("stable", unit.o)


def requesters(bench: Bench) -> None:
    """Two requesters, against a list of the tags that wait for a response, of each."""
    unit = bench.open(Requesters(CONFIG))
    bench.free_inputs(unit)
    m = bench.m
    busy, owner = Signal(), Signal()
    # What the controller promises.
    bench.assume(~unit.take | (unit.offered & ~busy))
    bench.assume(~unit.respond | busy)
    chosen = unit.signal("chosen")
    full, waiting = unit.signal("full"), unit.signal("waiting")
    served, tag = unit.signal("served"), unit.signal("tag")
    with m.If(unit.take):
        m.d.sync += [busy.eq(1), owner.eq(chosen)]
    with m.If(unit.respond):
        m.d.sync += busy.eq(0)
    bench.check("order", ~busy | (owner == served))
    for index, port in enumerate((unit.host, unit.steps)):
        bench.assume_stable(port.commands)
        bench.stable("stable", port.responses)
        tags = [Signal(8, name=f"tag_{index}_{place}") for place in range(3)]
        count = Signal(2, name=f"count_{index}")
        enters, leaves = _transfer(port.commands), _transfer(port.responses)
        kept = count - leaves
        m.d.sync += count.eq(kept + enters)
        for place, kept_tag in enumerate(tags):
            with m.If(enters & (kept == place)):
                m.d.sync += kept_tag.eq(port.commands.payload.tag)
            with m.Elif(leaves & (place < 2)):
                m.d.sync += kept_tag.eq(tags[min(place + 1, 2)])
        running = busy & (owner == index)
        here = unit.signal("commands")[index]
        bench.check("order", count == full[index] + running + port.responses.valid)
        bench.check("order", ~(running & port.responses.valid))
        bench.check("order", ~port.responses.valid | (port.responses.payload.tag == tags[0]))
        bench.check("order", ~running | (tag == tags[0]))
        last = Array(tags)[count - 1]
        bench.check("order", ~full[index] | (here.tag == last))
        # A command that could be executed is overtaken by one of the other requester at most.
        overtaken = Signal(range(3), name=f"overtaken_{index}")
        with m.If(unit.take & (chosen == index) | ~waiting[index]):
            m.d.sync += overtaken.eq(0)
        with m.Elif(unit.take):
            m.d.sync += overtaken.eq(overtaken + (overtaken != 2))
        bench.check("fair", overtaken != 2)
        bench.check("fair", (overtaken != 1) | (served != index))
    bench.check("offers", ~unit.take | Array((full[0], full[1]))[chosen])
    bench.check("offers", unit.offered == waiting.any())
    given = unit.command
    touched = Signal(CONFIG.sequences_max)
    named = Signal(CONFIG.sequences_max)
    free = (Opcode.TRANSLATE, Opcode.STAT, Opcode.EVICT, Opcode.SCRUB, Opcode.RESET_POOL)
    for seq in range(CONFIG.sequences_max):
        m.d.comb += [
            named[seq].eq(
                ~Cat(given.opcode == opcode.value for opcode in free).any() & (given.seq == seq)
                | (given.opcode == Opcode.FORK.value) & (given.arg0 == seq)
            ),
            touched[seq].eq(named[seq] & unit.locked[seq]),
        ]
    bench.check("locked", ~(unit.take & (chosen == 0)) | (touched == 0))
    bench.cover("both_wait", waiting.all() & unit.take & served)
