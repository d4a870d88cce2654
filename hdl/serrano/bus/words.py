# SPDX-License-Identifier: Apache-2.0
"""32-bit words in memory, whatever the width of the port."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.bus.read import ReadPort
from serrano.bus.write import WritePort
from serrano.config import AcceleratorConfig
from serrano.stream import Gearbox
from serrano.stream.slices import sliced

__all__ = ["RECORD_BYTES", "RecordWriter", "WordReader"]

RECORD_BYTES = 16


class WordReader(wiring.Component):
    """Reads runs of 32-bit words.

    A command's address is a multiple of 4. Whole words of the port are read. With ``config.registered`` a
    command is taken, and words are given, a cycle later.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature({"address", "words"}))``
        Where, and how many (1 to 127).
    memory : ``Out(ReadPort(config))``
        Port to memory.
    words : ``Out(stream.Signature({"value", "last", "error"}))``
        The words in order; ``error``: the memory reported one.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        command = data.StructLayout({"address": config.address_bits, "words": 7})
        super().__init__(
            {
                "command": In(stream.Signature(command)),
                "memory": Out(ReadPort(config)),
                "words": Out(stream.Signature(data.StructLayout({"value": 32, "last": 1, "error": 1}))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.config.port_bytes
        m.submodules.gearbox = gearbox = Gearbox(width, 4)
        skip = Signal(range(max(2, width // 4)))
        left = Signal(7)
        # The word in hand is the last one, or none of those that are wanted: known beside their counts.
        last, drops = Signal(), Signal()
        error = Signal()
        address, words = self.command.payload.address, self.command.payload.words
        # Words before the first one in its beat.
        lead = address[2 : exact_log2(width)] if width > 4 else Const(0)
        request = self.memory.request
        beat = sliced(m, "beats", wiring.flipped(self.memory.data), registered=self.config.registered)
        span = (lead + words) << 2
        grain = max(4, width)
        m.d.comb += [
            request.payload.address.eq(address & ~(grain - 1)),
            request.payload.bytes.eq((span + grain - 1) & ~(grain - 1)),
            gearbox.i.valid.eq(beat.valid),
            gearbox.i.payload.bytes.eq(beat.payload.bytes),
            gearbox.i.payload.last.eq(beat.payload.last),
            beat.ready.eq(gearbox.i.ready),
            self.words.payload.value.eq(gearbox.o.payload.bytes),
            self.words.payload.last.eq(last),
            self.words.payload.error.eq(error),
        ]
        with m.If(beat.valid & beat.ready & beat.payload.error):
            m.d.sync += error.eq(1)
        with m.FSM():
            asks = "IDLE"
            if self.config.registered:
                asks = "ASK"
                with m.State("IDLE"), m.If(self.command.valid):
                    m.next = "ASK"
            with m.State(asks):
                m.d.comb += [
                    request.valid.eq(self.command.valid | int(self.config.registered)),
                    self.command.ready.eq(request.ready),
                ]
                m.d.sync += [skip.eq(lead), left.eq(words), error.eq(0)]
                m.d.sync += [last.eq(words == 1), drops.eq(lead != 0)]
                with m.If(request.valid & request.ready):
                    m.next = "READ"
            with m.State("READ"):
                with m.If(drops):
                    m.d.comb += gearbox.o.ready.eq(1)
                with m.Else():
                    m.d.comb += [
                        self.words.valid.eq(gearbox.o.valid),
                        gearbox.o.ready.eq(self.words.ready),
                    ]
                with m.If(gearbox.o.valid & gearbox.o.ready):
                    with m.If(skip != 0):
                        m.d.sync += [skip.eq(skip - 1), drops.eq(skip != 1)]
                    with m.Elif(left != 0):
                        m.d.sync += [left.eq(left - 1), last.eq(left == 2), drops.eq(left == 1)]
                    with m.If(gearbox.o.payload.last):
                        m.next = "IDLE"
        return m


class RecordWriter(wiring.Component):
    """Writes records of 16 bytes at multiples of 16, the highest bytes last.

    A command is taken when its record is written and acknowledged, with ``config.registered`` a cycle later.
    A port narrower than a record writes the highest four bytes when the others have been acknowledged, so
    that whoever finds them finds all. When the memory reports an error the record is written again, as often
    as it takes.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    command : ``In(stream.Signature({"address", "record"}))``
        Where, and what.
    memory : ``Out(WritePort(config))``
        Port to memory.
    pending : ``Out(1)``
        A record is not yet written and acknowledged.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        command = data.StructLayout({"address": config.address_bits, "record": 8 * RECORD_BYTES})
        super().__init__(
            {
                "command": In(stream.Signature(command)),
                "memory": Out(WritePort(config)),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = self.config.port_bytes
        beats = max(1, RECORD_BYTES // width)
        # Those that wait for the others: the last word.
        late = max(1, 4 // width)
        command, request = self.command.payload, self.memory.request
        index = Signal(range(max(2, beats)))
        m.d.comb += [
            self.pending.eq(self.command.valid | self.memory.pending),
        ]
        if width > RECORD_BYTES:
            place = command.address[exact_log2(RECORD_BYTES) : exact_log2(width)]
            m.d.comb += [
                request.payload.address.eq(command.address & ~(width - 1)),
                request.payload.bytes.eq(command.record.replicate(width // RECORD_BYTES)),
                request.payload.strobe.eq(((1 << RECORD_BYTES) - 1) << (place * RECORD_BYTES)),
            ]
        else:
            m.d.comb += [
                request.payload.address.eq(command.address + index * width),
                request.payload.bytes.eq(command.record.word_select(index, 8 * width)),
                request.payload.strobe.eq(~0),
            ]
        failed = Signal()
        m.d.sync += failed.eq(failed | self.memory.error)
        with m.FSM():
            with m.State("SEND"):
                m.d.comb += request.valid.eq(self.command.valid)
                with m.If(request.valid & request.ready):
                    m.d.sync += index.eq(Mux(index == beats - 1, 0, index + 1))
                    with m.If((index == beats - 1) | (index == max(beats, late + 1) - late - 1)):
                        m.next = "SENT"
            with m.State("SENT"):
                # `pending` of the port rises in the cycle after its request was taken.
                m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(~self.memory.pending):
                    m.d.sync += failed.eq(0)
                    m.next = "SEND"
                    with m.If(failed):
                        m.d.sync += index.eq(0)
                    with m.Elif(index == 0):
                        if self.config.registered:
                            m.next = "TAKEN"
                        else:
                            m.d.comb += self.command.ready.eq(1)
            if self.config.registered:
                with m.State("TAKEN"):
                    m.d.comb += self.command.ready.eq(1)
                    m.next = "SEND"
        return m
