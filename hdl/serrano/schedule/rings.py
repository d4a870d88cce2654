# SPDX-License-Identifier: Apache-2.0
"""The submission and completion rings in memory: ``docs/rings.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus import RECORD_BYTES, ReadPort, RecordWriter, WordReader, WritePort
from serrano.config import AcceleratorConfig
from serrano.faults import FaultCode
from serrano.stream import HalfRegister
from serrano.stream.pace import settled
from serrano.stream.slices import connect_reads, sliced

__all__ = [
    "NO_SEQUENCE",
    "Completion",
    "CompletionRing",
    "Request",
    "RequestFlags",
    "Submission",
    "SubmissionRing",
]

ENTRY_BYTES = 64
ENTRY_WORDS = 9
"""Words of an entry that mean something."""


class RequestFlags(data.Struct):
    """What a request wants beyond the usual; ``unknown`` bits are to be 0.

    ``adopt``: go on in a sequence that the host has opened. ``keep``: leave the sequence open at the end.
    ``cancelled``: the host has changed its mind.
    """

    adopt: unsigned(1)
    keep: unsigned(1)
    cancelled: unsigned(1)
    unknown: unsigned(29)


class Request(data.Struct):
    """A submission ring entry."""

    id: unsigned(32)
    tenant: unsigned(32)
    prompt: unsigned(64)
    prompt_tokens: unsigned(32)
    max_new: unsigned(32)
    eos: unsigned(32)
    flags: RequestFlags
    sequence: unsigned(32)


class Submission(data.Struct):
    """An entry as it was read: its ``number``, counted from 0, and whether reading it was an error."""

    request: Request
    number: unsigned(32)
    error: unsigned(1)


NO_SEQUENCE = 0xFFFF
"""The sequence of a request that never got one."""


class Completion(data.Struct):
    """What a completion record says, its number apart."""

    id: unsigned(32)
    token: unsigned(32)
    status: FaultCode
    has_token: unsigned(1)
    ended: unsigned(1)
    sequence: unsigned(16)


class SubmissionRing(wiring.Component):
    """Takes requests from the ring, one at a time, in order.

    ``requests`` gives an entry as soon as the host has submitted it; the entry counts as taken when the
    request is accepted. An entry that cannot be read is read once more; if that fails too, it is given with
    its number as the request's id.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    enable : ``In(1)``
        Look for requests.
    address : ``In(config.address_bits)``
        Address of the ring.
    size : ``In(32)``
        Entries, a power of two.
    tail : ``In(32)``
        Entries submitted.
    head : ``Out(32)``
        Entries taken.
    memory : ``Out(ReadPort(config))``
        Port to memory.
    waiting : ``Out(1)``
        There are entries that have not been taken; with ``enable``.
    reading : ``Out(1)``
        An entry has been asked for, and not been taken.
    requests : ``Out(stream.Signature(Submission))``
        The requests.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "enable": In(1),
                "address": In(config.address_bits),
                "size": In(32),
                "tail": In(32),
                "head": Out(32),
                "memory": Out(ReadPort(config)),
                "waiting": Out(1),
                "reading": Out(1),
                "requests": Out(stream.Signature(Submission)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.reader = reader = WordReader(self.config)
        config = self.config
        connect_reads(m, reader.memory, wiring.flipped(self.memory), registered=config.registered)
        words = sliced(m, "word", reader.words, registered=config.registered, kind=HalfRegister)
        payload, word, again = self.requests.payload, words.payload, Signal()
        place = settled(m, config, self.head & settled(m, config, self.size - 1, "mask"), "place")
        differs = settled(m, config, self.head != self.tail, "differs")
        m.d.comb += [
            reader.command.payload.address.eq(self.address + place * ENTRY_BYTES),
            reader.command.payload.words.eq(ENTRY_WORDS),
            self.waiting.eq(self.enable & differs),
            payload.number.eq(self.head),
        ]
        # Words come in READ alone.
        entry = Value.cast(payload.request)
        with m.If(words.valid):
            m.d.sync += [entry.eq(Cat(entry, word.value)[32:]), payload.error.eq(word.error)]
            with m.If(word.last & word.error):
                m.d.sync += payload.request.id.eq(self.head)
        with m.FSM() as fsm:
            m.d.comb += self.reading.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += reader.command.valid.eq(self.waiting)
                m.d.sync += again.eq(0)
                with m.If(reader.command.valid & reader.command.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += words.ready.eq(1)
                with m.If(words.valid & word.last):
                    m.next = "GIVE"
                    with m.If(word.error):
                        m.d.sync += again.eq(1)
                        with m.If(~again):
                            m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += reader.command.valid.eq(1)
                with m.If(reader.command.ready):
                    m.next = "READ"
            with m.State("GIVE"):
                m.d.comb += self.requests.valid.eq(1)
                with m.If(self.requests.ready):
                    m.d.sync += self.head.eq(self.head + 1)
                    m.next = "TAKEN" if config.registered else "IDLE"
            if config.registered:
                # Time for what follows from the head.
                with m.State("TAKEN"):
                    m.next = "IDLE"
        return m


class CompletionRing(wiring.Component):
    """Writes completion records into the ring, numbered from 1.

    It does not look whether a record is free: whoever starts a request does, by ``free``. A record that the
    memory refuses is written again until it takes it.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    address : ``In(config.address_bits)``
        Address of the ring.
    size : ``In(32)``
        Records, a power of two.
    head : ``In(32)``
        Records that the host has consumed.
    tail : ``Out(32)``
        Records written and acknowledged.
    free : ``Out(32)``
        Records that may be written.
    records : ``In(stream.Signature(Completion))``
        Records to be written.
    memory : ``Out(WritePort(config))``
        Port to memory.
    idle : ``Out(1)``
        Every record taken is written and acknowledged.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        super().__init__(
            {
                "address": In(config.address_bits),
                "size": In(32),
                "head": In(32),
                "tail": Out(32),
                "free": Out(32),
                "records": In(stream.Signature(Completion)),
                "memory": Out(WritePort(config)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.writer = writer = RecordWriter(self.config)
        wiring.connect(m, writer.memory, wiring.flipped(self.memory))
        record = self.records.payload
        number = Signal(32)
        mask = settled(m, self.config, self.size - 1, "mask")
        m.d.comb += [
            number.eq(self.tail + 1),
            self.free.eq(self.size - (self.tail - self.head)),
            writer.command.payload.address.eq(self.address + (self.tail & mask) * RECORD_BYTES),
            writer.command.payload.record.eq(
                Cat(
                    record.id,
                    record.token,
                    record.status,
                    record.has_token,
                    record.ended,
                    Const(0, 6),
                    record.sequence,
                    number,
                )
            ),
        ]
        m.d.comb += [
            writer.command.valid.eq(self.records.valid),
            self.records.ready.eq(writer.command.ready),
            self.idle.eq(~self.records.valid),
        ]
        with m.If(self.records.valid & self.records.ready):
            m.d.sync += self.tail.eq(number)
        return m
