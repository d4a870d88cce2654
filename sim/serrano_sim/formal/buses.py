# SPDX-License-Identifier: Apache-2.0
"""Proofs about the memory port: bursts, the read and the write arbiter, and the words of the appender."""

from __future__ import annotations

from typing import Any
from unittest import mock

from amaranth import *
from amaranth.utils import exact_log2

from serrano.bus import ReadArbiter, ReadClient, WriteArbiter, read, write
from serrano.bus.read import BurstSplitter
from serrano.kvcache.combine import WriteCombiner

from .bench import Bench, Unit
from .sizes import CONFIG

__all__ = ["combiner", "read_port", "sound_buffer", "splitter", "write_port"]

PAGE = 4096
BEAT_BITS = exact_log2(CONFIG.port_bytes)
IN_FLIGHT = 4
"""Bursts in flight in the proofs."""


def _in_page(address: Value, beats: Value) -> Value:
    """Whether beats from this address on stay within its 4 KiB."""
    return (address[:12] + (beats << BEAT_BITS)) <= PAGE


def _stays(bench: Bench, name: str, valid: Any, ready: Any, *payload: Any) -> None:
    """The rule of an AXI channel: valid and payload stay until ready."""
    what = bench.let(Cat(Value.cast(part) for part in payload), "payload")
    stuck = bench.past(valid & ~ready)
    bench.check(name, bench.start | ~stuck | (valid & (what == bench.past(what))))


def _entry(fifo: Unit, place: Any, field: str) -> Value:
    """A field of the payload that is number ``place`` of a buffer, the one at the output being number 0."""
    shape, depth = fifo.component.shape, fifo.component.depth
    index = fifo.signal("head") + place - fifo.o.valid
    cell = Array(Value.cast(cell) for cell in fifo["memory"].cells)[Mux(index >= depth, index - depth, index)]
    inside = Value.cast(getattr(shape(cell), field))
    return Mux(fifo.o.valid & (place == 0), Value.cast(getattr(fifo.o.payload, field)), inside)


def sound_buffer(bench: Bench, name: str, fifo: Unit) -> None:
    """What a buffer's counters have to do with each other; proved of it alone."""
    for condition in buffer_conditions(fifo):
        bench.check(name, condition)


def buffer_conditions(fifo: Unit) -> tuple[Value, Value, Value]:
    """What :func:`sound_buffer` checks."""
    depth = fifo.component.depth
    stored, head, tail = fifo.signal("stored"), fifo.signal("head"), fifo.signal("tail")
    behind = Mux(head + stored >= depth, head + stored - depth, head + stored)
    return (
        (fifo.level == stored + fifo.o.valid) & (fifo.level <= depth) & (stored <= depth),
        (head < depth) & (tail < depth) & (tail == behind),
        (fifo.signal("some") == (stored != 0)) & (fifo.signal("full") == (fifo.level == depth)),
    )


def splitter(bench: Bench, case: str) -> None:
    """Runs to bursts of at most ``case`` beats."""
    longest = int(case)
    unit = bench.open(BurstSplitter(CONFIG, longest))
    bench.free_inputs(unit)
    m = bench.m
    run, burst = unit.request, unit.burst
    bench.assume_stable(run)
    bench.assume(~run.valid | (run.payload.address[:BEAT_BITS] == 0))
    bench.stable("stable", burst)
    bench.check("page", ~burst.valid | _in_page(burst.payload.address, burst.payload.beats))
    bench.check("length", ~burst.valid | ((burst.payload.beats != 0) & (burst.payload.beats <= longest)))

    # What is left of the run whose bursts come out, and the one that was taken behind it.
    wide = len(run.payload.bytes) + 1
    address, left = Signal(CONFIG.address_bits), Signal(wide)
    next_address, next_left = Signal(CONFIG.address_bits), Signal(wide)
    given = bench.let(burst.valid & burst.ready, "given")
    ends = bench.let(given & (burst.payload.beats == left), "ends")
    beats = bench.let(run.payload.bytes >> BEAT_BITS, "beats")
    begins = bench.let(run.valid & run.ready & (beats != 0), "begins")
    with m.If(given):
        m.d.sync += [
            address.eq(address + (burst.payload.beats << BEAT_BITS)),
            left.eq(left - burst.payload.beats),
        ]
    with m.If(ends):
        m.d.sync += [address.eq(next_address), left.eq(next_left), next_left.eq(0)]
    with m.If(begins & ((left == 0) | (ends & (next_left == 0)))):
        m.d.sync += [address.eq(run.payload.address), left.eq(beats)]
    with m.Elif(begins):
        m.d.sync += [next_address.eq(run.payload.address), next_left.eq(beats)]
    # What is still inside goes on where the burst at the output ends.
    inside, place = unit.signal("left"), unit.signal("address")
    size = Mux(burst.valid, burst.payload.beats, 0)
    behind = (address + (size << BEAT_BITS))[: CONFIG.address_bits]
    bench.check("covers", ~burst.valid | ((burst.payload.address == address) & (burst.payload.beats <= left)))
    bench.check("covers", ~burst.valid | (burst.payload.last == (burst.payload.beats == left)))
    bench.check("covers", (next_left == 0) | (burst.valid & burst.payload.last))
    bench.check("covers", inside == Mux(next_left == 0, left - size, next_left))
    bench.check("covers", (inside == 0) | (place == Mux(next_left == 0, behind, next_address)))
    bench.check("covers", place[:BEAT_BITS] == 0)
    bench.cover("two_runs", (next_left != 0) & given)


def read_port(bench: Bench) -> None:
    """Two clients, the second one apart from steps; up to four bursts in flight.

    The memory answers in order, with as many beats as were asked for.
    """
    clients = [ReadClient("step", 2, 4), ReadClient("host", 4, 8, apart=True)]
    with mock.patch.object(read, "OUTSTANDING", IN_FLIGHT):
        unit = bench.open(ReadArbiter(CONFIG, clients))
    bench.free_inputs(unit)
    m, axi, order = bench.m, unit.axi, unit["order"]
    bench.assume(~unit.flush | (unit.stop & unit.idle))
    asks, answers = axi.arvalid & axi.arready, axi.rvalid & axi.rready
    _stays(bench, "stable", axi.arvalid, axi.arready, axi.araddr, axi.arlen, axi.arsize, axi.arburst)
    beats = bench.let(axi.arlen + 1, "beats")
    bench.check("page", ~axi.arvalid | _in_page(axi.araddr, beats))
    bench.check("length", ~axi.arvalid | (beats <= max(client.burst_beats for client in clients)))
    bench.check("length", (axi.arsize == BEAT_BITS) & (axi.arburst == 1) & (axi.araddr[:BEAT_BITS] == 0))

    # Bursts in flight, the one on the address channel being the last: their lengths, and whose they are.
    lengths = [Signal(9, name=f"length_{place}") for place in range(IN_FLIGHT + 1)]
    count, accepted = Signal(range(IN_FLIGHT + 2)), Signal(range(IN_FLIGHT + 2))
    ends = answers & axi.rlast
    pushes = bench.let(order.component.i.valid & order.component.i.ready, "pushes")
    chosen = unit.signal("issue")
    given = [unit[f"{client.name}_splitter"].burst.payload.beats for client in clients]
    pushed = Mux(chosen[0], given[0], given[1])
    m.d.sync += [count.eq(count + pushes - ends), accepted.eq(accepted + asks - ends)]
    for place in range(IN_FLIGHT):
        with m.If(ends):
            m.d.sync += lengths[place].eq(lengths[place + 1])
    with m.If(answers & ~axi.rlast):
        m.d.sync += lengths[0].eq(lengths[0] - 1)
    for place in range(IN_FLIGHT):
        with m.If(pushes & (count - ends == place)):
            m.d.sync += lengths[place].eq(pushed)
    bench.assume(~axi.rvalid | ((accepted != 0) & (axi.rlast == (lengths[0] == 1))))
    bench.check("in_flight", (count == order.level) & (count == accepted + axi.arvalid))
    bench.check("in_flight", ~axi.arvalid | (Array(lengths)[count - 1] == beats))
    for place in range(IN_FLIGHT):
        bench.check("in_flight", (count <= place) | (lengths[place] != 0))
    of_steps = sum((count > place) & (_entry(order, place, "client") == 0) for place in range(IN_FLIGHT))
    bench.check("in_flight", of_steps == unit.signal("in_flight"))
    for place in range(IN_FLIGHT):
        is_host = _entry(order, place, "client") == 1
        bench.check("in_flight", (count <= place) | (_entry(order, place, "apart") == is_host))
    sound_buffer(bench, "in_flight", order)

    for index, client in enumerate(clients):
        port, cut, kept = unit.ports[index], unit[f"{client.name}_splitter"], unit[f"{client.name}_fifo"]
        flush = Const(0) if client.apart else unit.flush
        bench.assume_stable(port.request)
        bench.assume(~port.request.valid | (port.request.payload.address[:BEAT_BITS] == 0))
        burst = cut.burst
        bench.check("page", ~burst.valid | _in_page(burst.payload.address, burst.payload.beats))
        fits = (burst.payload.beats != 0) & (burst.payload.beats <= client.burst_beats)
        bench.check("length", ~burst.valid | fits)
        bench.check("length", ~burst.valid | (burst.payload.address[:BEAT_BITS] == 0))
        bench.check("length", cut.signal("address")[:BEAT_BITS] == 0)
        bench.stable("stable", port.data, unless=flush)
        # Never more beats than its buffer has places for.
        claimed = unit.signals("claimed")[index]
        coming = sum(
            Mux((count > place) & (_entry(order, place, "client") == index), lengths[place], 0)
            for place in range(IN_FLIGHT)
        )
        bench.check("room", ~kept.component.i.valid | kept.component.i.ready)
        bench.check("room", claimed == coming + kept.level)
        bench.check("room", claimed <= client.fifo_beats)
        sound_buffer(bench, "room", kept)
    bench.cover("two_in_flight", (count == 3) & answers & ~axi.rlast)


def write_port(bench: Bench) -> None:
    """Two clients, the second one apart from steps; up to four writes in flight.

    The memory acknowledges a write after it took both its address and its data.
    """
    names = ["step", "host"]
    with mock.patch.object(write, "OUTSTANDING", IN_FLIGHT):
        unit = bench.open(WriteArbiter(CONFIG, names, apart=["host"]))
    bench.free_inputs(unit)
    m, axi, order = bench.m, unit.axi, unit["order"]
    for port in unit.ports:
        bench.assume_stable(port.request)
        bench.assume(~port.request.valid | (port.request.payload.address[:BEAT_BITS] == 0))
    _stays(bench, "stable", axi.awvalid, axi.awready, axi.awaddr, axi.awlen, axi.awsize, axi.awburst)
    _stays(bench, "stable", axi.wvalid, axi.wready, axi.wdata, axi.wstrb, axi.wlast)
    aligned = axi.awaddr[:BEAT_BITS] == 0
    bench.check("page", ~axi.awvalid | ((axi.awlen == 0) & (axi.awsize == BEAT_BITS) & aligned & axi.wlast))

    # Addresses and data that were taken and not acknowledged.
    addresses, words = Signal(range(IN_FLIGHT + 2)), Signal(range(IN_FLIGHT + 2))
    answers = axi.bvalid & axi.bready
    m.d.sync += [
        addresses.eq(addresses + (axi.awvalid & axi.awready) - answers),
        words.eq(words + (axi.wvalid & axi.wready) - answers),
    ]
    bench.assume(~axi.bvalid | ((addresses != 0) & (words != 0)))
    bench.check("paired", (order.level == addresses + axi.awvalid) & (order.level == words + axi.wvalid))
    sound_buffer(bench, "paired", order)
    counters = [unit.driven(f"{name}_in_flight") for name in names]
    for index, port in enumerate(unit.ports):
        mine = sum(
            (order.level > place) & (_entry(order, place, "client") == index) for place in range(IN_FLIGHT)
        )
        bench.check("pending", counters[index] == mine)
        bench.check("pending", port.pending == (mine != 0))
    bench.check("pending", sum(counters) == order.level)
    for place in range(IN_FLIGHT):
        client = _entry(order, place, "client")
        bench.check("pending", (order.level <= place) | (client <= 1))
    bench.cover("all_in_flight", order.level == IN_FLIGHT)


def combiner(bench: Bench) -> None:
    """The words that the appender writes wait unchanged until the port takes them."""
    unit = bench.open(WriteCombiner(CONFIG))
    bench.free_inputs(unit)
    bench.assume_stable(unit.pieces)
    bench.stable("stable", unit.memory.request)
    bench.check(
        "aligned", ~unit.memory.request.valid | (unit.memory.request.payload.address[:BEAT_BITS] == 0)
    )
    for held, full in zip(unit.signal("held"), unit.signal("full"), strict=True):
        bench.check("aligned", ~full | (held.address[:BEAT_BITS] == 0))
