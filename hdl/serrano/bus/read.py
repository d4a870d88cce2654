# SPDX-License-Identifier: Apache-2.0
"""Sharing the read channels of the memory port."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus.axi import INCR, AXI4Read
from serrano.bus.faults import BusFault, client_bits
from serrano.config import READS_MAX, AcceleratorConfig
from serrano.layouts import ReadRequest, tag_bits
from serrano.stream import StreamFIFO, StreamRegister, StreamSlice
from serrano.stream.slices import later

__all__ = ["BurstSplitter", "ReadArbiter", "ReadBeat", "ReadClient", "ReadPort"]

OUTSTANDING = READS_MAX
"""Bursts in flight at a time."""


class ReadBeat(data.StructLayout):
    """A word of a run, of one beat or ``beats``: its bytes, whether it is the last, and whether the memory
    reported an error."""

    def __init__(self, config: AcceleratorConfig, beats: int = 1):
        width = config.port_bytes * beats
        super().__init__({"bytes": data.ArrayLayout(unsigned(8), width), "last": 1, "error": 1})


class ReadPort(wiring.Signature):
    """A client's port: it requests runs of memory and gets their bytes, in order, ``beats`` at a time."""

    def __init__(self, config: AcceleratorConfig, beats: int = 1):
        super().__init__(
            {
                "request": Out(stream.Signature(ReadRequest(config))),
                "data": In(stream.Signature(ReadBeat(config, beats))),
            }
        )


@dataclass(frozen=True)
class ReadClient:
    """A client of the read arbiter.

    Parameters
    ----------
    name : :class:`str`
        Name of its port.
    burst_beats : :class:`int`
        Longest burst issued for it.
    fifo_beats : :class:`int`
        Beats buffered for it; at least two bursts, so that one can fly while the other is consumed.
    apart : :class:`bool`
        It is not part of a step: ``stop`` and ``flush`` of the arbiter leave it alone.
    word_beats : :class:`int`
        Beats that it gets at a time, so that it can catch up with the port; its runs are multiples of that.
    queue_beats : :class:`int` or ``None``
        It asks for a burst only while fewer beats than this are on their way, whoever has asked for them:
        what it asks for in advance shall not keep those before it waiting for long. More than the memory's
        latency, in cycles.

    Raises
    ------
    ValueError
        If the bursts are longer than AXI permits, or the buffer holds less than two or no whole words.
    """

    name: str
    burst_beats: int
    fifo_beats: int
    apart: bool = False
    word_beats: int = 1
    queue_beats: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.burst_beats <= 256:
            raise ValueError(f"Burst of {self.name!r} must be 1 to 256 beats, not {self.burst_beats!r}")
        if self.fifo_beats < 2 * self.burst_beats:
            raise ValueError(
                f"Buffer of {self.name!r} must hold two bursts ({2 * self.burst_beats} beats), "
                f"not {self.fifo_beats!r}"
            )
        if self.word_beats < 1 or self.fifo_beats % self.word_beats:
            raise ValueError(
                f"Buffer of {self.name!r} must hold whole words of {self.word_beats!r} beats, "
                f"not {self.fifo_beats!r} beats"
            )


class BurstSplitter(wiring.Component):
    """Cuts a run into bursts that neither cross 4 KiB nor exceed ``burst_beats`` beats.

    A run whose length is zero is dropped. One burst per cycle, with ``config.registered`` in three, or
    two after the one before has been taken.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    burst_beats : :class:`int`
        Longest burst.

    Members
    -------
    request : ``In(stream.Signature(ReadRequest(config)))``
        Runs.
    burst : ``Out(stream.Signature({"address", "beats", "last", "tag"}))``
        Bursts in address order; ``last`` marks the last one of a run, ``tag`` is the run's.
    """

    def __init__(self, config: AcceleratorConfig, burst_beats: int):
        self.config = config
        self.burst_beats = burst_beats
        self.beat_bits = exact_log2(config.port_bytes)
        burst = data.StructLayout(
            {"address": config.address_bits, "beats": 9, "last": 1, "tag": tag_bits(config)}
        )
        super().__init__(
            {
                "request": In(stream.Signature(ReadRequest(config))),
                "burst": Out(stream.Signature(burst)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        address, left = Signal(self.config.address_bits), Signal(32)
        tag = Signal(tag_bits(self.config), reset_less=True)
        beats, last, more, free = Signal(9), Signal(), Signal(), Signal()
        measured = self._build_measures(m, address, left, beats, last, more)
        registered = self.config.registered
        # With registers a place is free when the burst in it has gone, so that few know of its going.
        place = ~self.burst.valid | (self.burst.ready & int(not registered))
        m.d.comb += free.eq(place & measured)
        with m.If(place):
            m.d.sync += [
                self.burst.payload.address.eq(address),
                self.burst.payload.beats.eq(beats),
                self.burst.payload.last.eq(last),
                self.burst.payload.tag.eq(tag),
                self.burst.valid.eq(measured & more),
            ]
        with m.Elif(self.burst.ready):
            m.d.sync += self.burst.valid.eq(0)
        if registered:
            m.d.sync += self.request.ready.eq(Mux(self.request.ready, ~self.request.valid, free & last))
        else:
            m.d.comb += self.request.ready.eq(left == 0)
        with m.If(self.request.ready):
            # With registers, what is taken before a request comes means nothing.
            with m.If(self.request.valid | int(registered)):
                m.d.sync += [
                    address.eq(self.request.payload.address),
                    left.eq(self.request.payload.bytes >> self.beat_bits),
                    tag.eq(self.request.payload.tag),
                ]
        with m.Elif(free):
            m.d.sync += [address.eq(address + (beats << self.beat_bits)), left.eq(left - beats)]
        return m

    def _build_measures(
        self, m: Module, address: Signal, left: Signal, beats: Signal, last: Signal, more: Signal
    ) -> Value:
        """How long a burst from here may be, and whether there is one. True if both are known."""
        page_beats = 4096 // self.config.port_bytes
        most = min(self.burst_beats, page_beats)
        place = address[self.beat_bits : 12]
        limit = Signal(range(most + 1))
        domain = m.d.sync if self.config.registered else m.d.comb
        fits = left <= limit
        # A single beat ends in its page.
        to_end = place > page_beats - most if most > 1 else Const(0)
        domain += [
            limit.eq(Mux(to_end, page_beats - place, most)),
            beats.eq(Mux(fits, left, limit)),
            last.eq(fits),
            more.eq(left != 0),
        ]
        if not self.config.registered:
            return Const(1)
        # A register each, after the address and what is left have changed.
        since = Signal(2)
        with m.If(self.request.ready | (since[1] & ~self.burst.valid)):
            m.d.sync += since.eq(0)
        with m.Else():
            m.d.sync += since.eq(Cat(1, since))
        return since[1]


class MemoryOutput(StreamSlice):
    """Behind a buffer in block memory, which is slow: takes its words as they are, into a register, and gives
    them out from a register slice.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        From the buffer.
    o : ``Out(stream.Signature(shape))``
        The same, two cycles later.
    """

    latency = 1 + StreamRegister.latency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.slice = output = StreamRegister(self.shape)
        word = Signal(self.shape, reset_less=True)
        # It moves on whenever the slice can take it, whether it is there or not: less has to be known.
        m.d.comb += [self.i.ready.eq(output.i.ready), output.i.payload.eq(word)]
        with m.If(output.i.ready):
            m.d.sync += [output.i.valid.eq(self.i.valid), word.eq(self.i.payload)]
        wiring.connect(m, output.o, wiring.flipped(self.o))
        return m


class ReadArbiter(wiring.Component):
    """Gives one AXI4 read port to several clients, the first one listed having priority.

    A burst is issued only when its client's buffer has room for all of it, so that no client can make another
    one wait for data; a client that has more to ask for, and room, is not interrupted by those behind it. Up
    to 16 bursts are in flight, under one id, answered in order. While ``stop`` is set no new burst is issued;
    ``idle`` tells that none is in flight. ``flush`` resets buffers and pending requests, and is to be used
    only while ``stop`` and ``idle``. All three are about the clients that are not ``apart``; those go on as
    if nothing happened.

    With ``config.registered`` a burst is chosen from what was known a cycle ago and issued in the next cycle,
    at most one in three cycles; beats and faults are told two cycles later, words given out five cycles
    later, and their room is free two more cycles later.
    ``stop`` and ``flush`` work a cycle later, and ``idle`` is told a cycle later: it holds from the third
    cycle with ``stop`` on.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    clients : sequence of :class:`ReadClient`
        The clients, in descending priority; at most 16.

    Members
    -------
    axi : ``Out(AXI4Read)``
        Memory port.
    <name>_port : ``In(ReadPort(config, word_beats))``
        Port of the client of this name. ``ports`` lists all of them, in the order of ``clients``.
    stop : ``In(1)``
        No new bursts.
    flush : ``In(1)``
        Forget all requests and buffered beats.
    idle : ``Out(1)``
        Nothing is in flight.
    fault : ``Out(BusFault(config))``
        Valid in the first erroneous beat of a burst, with the burst's address.
    beats : ``Out(len(clients))``
        Bit ``i``: a beat for client ``i`` crosses the port in this cycle.
    blocked : ``Out(1)``
        A burst is waiting for room in its client's buffer and nothing else is issued.

    Raises
    ------
    ValueError
        If there are no clients, more than 16, or two of the same name.
    """

    def __init__(self, config: AcceleratorConfig, clients: Sequence[ReadClient]):
        self.config = config
        self.clients = tuple(clients)
        self.client_bits = client_bits([client.name for client in self.clients])
        super().__init__(
            {
                "axi": Out(AXI4Read(config.address_bits, config.port_bytes)),
                "stop": In(1),
                "flush": In(1),
                "idle": Out(1),
                "fault": Out(BusFault(config)),
                "beats": Out(len(self.clients)),
                "blocked": Out(1),
                **{f"{client.name}_port": In(ReadPort(config, client.word_beats)) for client in self.clients},
            }
        )
        self.ports = [getattr(self, f"{client.name}_port") for client in self.clients]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        order = data.StructLayout(
            {
                "client": self.client_bits,
                "last": 1,
                "apart": 1,
                "address": self.config.address_bits,
                "tag": tag_bits(self.config),
            }
        )
        m.submodules.order = order_fifo = StreamFIFO(order, OUTSTANDING)
        self._flushed = self._late(m, self.flush)
        self._flushing = self._late(m, self.flush | self._flushed)
        beat = self._build_arrival(m, order_fifo)
        issue = Signal(len(self.clients))
        # Beats on their way, for all clients.
        self._coming = Signal(range(OUTSTANDING * max(client.burst_beats for client in self.clients) + 1))
        bursts = [self._build_client(m, index, beat, issue) for index in range(len(self.clients))]
        issued, picked = self._build_issue(m, bursts, issue, order_fifo)
        self._build_address(m, issued, order_fifo)
        # Bursts of clients that are not apart, from their address to their last beat.
        in_flight = Signal(range(OUTSTANDING + 1))
        entered = issued.valid & ~issued.order.apart
        m.d.sync += [
            in_flight.eq(in_flight + entered - (beat.ended & ~beat.apart)),
            self._coming.eq(self._coming + issued.beats - self._late(m, beat.clients.any())),
        ]
        idle = Signal()
        m.d.comb += [
            idle.eq((in_flight == 0) & ~picked & ~(entered & int(self.config.registered))),
            self.idle.eq(self._late(m, idle)),
            self.beats.eq(beat.clients),
        ]
        return m

    def _late(self, m: Module, value: Any) -> Any:
        """The value, with registers that of the cycle before."""
        return later(m, value, registered=self.config.registered, name="late")

    def _build_arrival(self, m: Module, order_fifo: StreamFIFO) -> Any:
        """The beat of this cycle, with registers that of the last one, and its fault."""
        count = len(self.clients)
        layout = {"clients": count, "bytes": 8 * self.config.port_bytes, "last": 1, "error": 1}
        beat = Signal(data.StructLayout({**layout, "ended": 1, "apart": 1}))
        arriving = order_fifo.o.payload
        accepted, ended, error, reported = Signal(), Signal(), Signal(), Signal()
        came = Signal(
            data.StructLayout({"valid": 1, "data": len(self.axi.rdata), "resp": 2, "last": 1}), name="came"
        )
        for name in ("valid", "data", "resp", "last"):
            m.d.comb += came[name].eq(getattr(self.axi, f"r{name}"))
        # There is room for every beat, and its burst is in the list before it can come.
        came = self._late(m, came)
        m.d.comb += [
            self.axi.rready.eq(1 if self.config.registered else order_fifo.o.valid),
            accepted.eq(came.valid & order_fifo.o.valid),
            ended.eq(accepted & came.last),
            order_fifo.o.ready.eq(ended),
            error.eq(accepted & came.resp[1]),
        ]
        m.d.sync += reported.eq((reported | error) & ~ended)
        domain = m.d.sync if self.config.registered else m.d.comb
        domain += [
            beat.clients.eq(Cat(accepted & (arriving.client == index) for index in range(count))),
            beat.bytes.eq(came.data),
            beat.last.eq(arriving.last & came.last),
            beat.error.eq(came.resp[1]),
            beat.ended.eq(ended),
            beat.apart.eq(arriving.apart),
            self.fault.valid.eq(error & ~reported),
            self.fault.client.eq(arriving.client),
            self.fault.address.eq(arriving.address),
            self.fault.decode.eq(came.resp[0]),
            self.fault.apart.eq(arriving.apart),
            self.fault.tag.eq(arriving.tag),
        ]
        return beat

    def _build_client(self, m: Module, index: int, beat: Any, issue: Signal) -> tuple:
        client, port = self.clients[index], self.ports[index]
        # A register of its own: the buffers lie far apart. Nothing comes or goes while it is set.
        flush = Const(0) if client.apart else self._late(m, self._flushed)
        reset = (lambda block: block) if client.apart else ResetInserter(flush)
        splitter = BurstSplitter(self.config, client.burst_beats)
        word = ReadBeat(self.config, client.word_beats)
        fifo = StreamFIFO(word, client.fifo_beats // client.word_beats)
        m.submodules[f"{client.name}_splitter"] = reset(splitter)
        m.submodules[f"{client.name}_fifo"] = reset(fifo)
        wiring.connect(m, wiring.flipped(port.request), splitter.request)
        words = fifo.o
        if self.config.registered:
            output = MemoryOutput(word)
            m.submodules[f"{client.name}_output"] = reset(output)
            wiring.connect(m, fifo.o, output.i)
            words = output.o
        wiring.connect(m, words, wiring.flipped(port.data))

        room = Signal()
        # Beats that are buffered or on their way.
        claimed = Signal(range(client.fifo_beats + 1))
        given, left = Signal(), Signal()
        burst = splitter.burst
        # The buffers lie far apart: their beats come a cycle later, each in a register of its own.
        arrived = Signal(data.StructLayout({"mine": 1, "bytes": beat.bytes.shape(), "last": 1, "error": 1}))
        m.d.comb += [
            arrived.mine.eq(beat.clients[index]),
            arrived.bytes.eq(beat.bytes),
            arrived.last.eq(beat.last),
            arrived.error.eq(beat.error),
            left.eq(self._late(m, self._late(m, given))),
            room.eq(claimed + burst.payload.beats <= client.fifo_beats),
            burst.ready.eq(issue[index]),
        ]
        m.d.comb += given.eq(fifo.o.valid & fifo.o.ready)
        claim = Mux(issue[index], burst.payload.beats, 0)
        m.d.sync += claimed.eq(claimed + claim - Mux(left, client.word_beats, 0))
        self._build_words(m, client, self._kept(m, arrived), fifo, flush)
        with m.If(flush):
            m.d.sync += claimed.eq(0)
        wanting = Signal(name=f"{client.name}_wanting")
        m.d.comb += wanting.eq(self._late(m, port.request.valid) | ~splitter.request.ready | burst.valid)
        return burst, room, wanting

    def _kept(self, m: Module, arrived: Any) -> Any:
        """With registers, a client's own copy of a beat that is its own, in a cycle after it has come."""
        if not self.config.registered:
            return arrived
        kept = Signal.like(arrived, name="arrived")
        with m.If(arrived.mine):
            m.d.sync += kept.eq(arrived)
        m.d.sync += kept.mine.eq(arrived.mine)
        return kept

    def _build_words(self, m: Module, client: ReadClient, beat: Any, fifo: StreamFIFO, flush: Value) -> None:
        """A client's beats become words of its buffer."""
        width, beats = 8 * self.config.port_bytes, client.word_beats
        word, mine = fifo.i.payload, beat.mine
        m.d.comb += word.last.eq(beat.last)
        if beats == 1:
            m.d.comb += [fifo.i.valid.eq(mine), word.bytes.eq(beat.bytes), word.error.eq(beat.error)]
            return
        before = Signal((beats - 1) * width, name=f"{client.name}_before", reset_less=True)
        earlier, phase = Signal(name=f"{client.name}_earlier"), Signal(range(beats))
        complete = phase == beats - 1
        following = Cat(before, beat.bytes)
        m.d.comb += [
            fifo.i.valid.eq(mine & complete),
            word.bytes.eq(following),
            word.error.eq(beat.error | earlier),
        ]
        with m.If(mine):
            m.d.sync += [
                before.eq(following[width:]),
                phase.eq(Mux(complete, 0, phase + 1)),
                earlier.eq(word.error & ~complete),
            ]
        with m.If(flush):
            m.d.sync += [phase.eq(0), earlier.eq(0)]

    def _build_issue(
        self, m: Module, bursts: list[tuple], issue: Signal, order_fifo: StreamFIFO
    ) -> tuple[Any, Value]:
        """The burst that is issued, and whether there will be one of a client that is not apart."""
        registered = self.config.registered
        domain = m.d.sync if registered else m.d.comb
        free, ordered = Signal(), Signal()
        waiting, able, held = (Signal(len(bursts)) for _ in range(3))
        choice, some = self._build_choice(m, able, held)
        choice = Mux(free, choice, 0)
        issued = Signal(data.StructLayout({"beats": 9, "order": order_fifo.shape, "valid": 1}))
        # What is known in the cycle of an issue means nothing in the next.
        issuing = Signal()
        settled = ~issuing if registered else Const(1)
        full = order_fifo.level == OUTSTANDING
        if registered:
            full |= issued.valid & (order_fifo.level == OUTSTANDING - 1)
        domain += [
            issue.eq(Mux(settled, choice, 0)),
            issuing.eq(settled & free & some),
            issued.valid.eq(issuing),
            ordered.eq(~full),
        ]
        m.d.comb += free.eq((~self.axi.arvalid | self.axi.arready) & ordered)
        coming = self._coming + (issued.beats if registered else 0)
        chosen = []
        for index, (burst, room, wanting) in enumerate(bursts):
            client = self.clients[index]
            few = Const(1)
            if client.queue_beats is not None:
                # With registers the sum takes a cycle: this client waits for one more after an issue.
                few = self._late(m, coming < client.queue_beats)
                few = few & ~self._late(m, issuing) if registered else few
            known = settled & ~(self._flushing & int(not client.apart)) if registered else Const(1)
            going = Const(1) if client.apart else ~self.stop
            m.d.comb += waiting[index].eq(burst.valid & ~room)
            domain += [
                able[index].eq(burst.valid & room & few & known & going),
                held[index].eq(wanting & ~waiting[index] | ~known),
            ]
            order = Cat(Const(index, self.client_bits), burst.payload.last, Const(int(client.apart), 1))
            order = Cat(order, burst.payload.address, burst.payload.tag)
            chosen.append(Mux(issue[index], Cat(burst.payload.beats, order), 0))
        domain += Value.cast(issued)[:-1].eq(reduce(or_, chosen))
        domain += self.blocked.eq(self._late(m, waiting).any() & ~issuing)
        apart = Cat(int(client.apart) for client in self.clients)
        return issued, (issue & ~apart).any() if registered else Const(0)

    def _build_address(self, m: Module, issued: Any, order_fifo: StreamFIFO) -> None:
        axi = self.axi
        m.d.comb += [order_fifo.i.valid.eq(issued.valid), order_fifo.i.payload.eq(issued.order)]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(issued.valid):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(issued.order.address),
                axi.arlen.eq(issued.beats - 1),
            ]
        m.d.comb += [
            axi.arsize.eq(exact_log2(self.config.port_bytes)),
            axi.arburst.eq(INCR),
            # Normal memory, non-cacheable, bufferable; data, secure, unprivileged.
            axi.arcache.eq(0b0011),
        ]

    def _build_choice(self, m: Module, able: Signal, held: Signal) -> tuple[Signal, Value]:
        """The client whose burst is next, and whether there is one."""
        # A client before has more to ask for, and room for it. Bursts of the others do not slip in between
        # its own: of short ones, as KV records are, it would get too few.
        choice = Signal(len(self.clients))
        chosen, before = Const(0), Const(0)
        for index, client in enumerate(self.clients):
            # Who is able and not apart is held too: that decides on whoever is behind it.
            may = able[index] & ~(chosen if client.apart else before)
            m.d.comb += choice[index].eq(may)
            chosen = chosen | may
            before = before | (able[index] if client.apart else held[index])
        return choice, chosen
