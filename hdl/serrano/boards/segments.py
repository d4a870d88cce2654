# SPDX-License-Identifier: Apache-2.0
"""What AXI4 asks for, as pieces of memory that each lie in one row of an SDRAM."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.boards.description import SdramPart
from serrano.bus.axi import ID_BITS, INCR, AXI4Read, AXI4Write
from serrano.stream import HalfRegister, StreamFIFO

__all__ = ["DECERR", "OKAY", "SLVERR", "Place", "ReadSegments", "Segment", "WriteBeat", "WriteBeats"]

OKAY, SLVERR, DECERR = 0, 2, 3
"""Responses of AXI."""

BEATS_BITS = 9
WRITES = 16
"""Writes that wait."""


class Place(data.StructLayout):
    """Where a word is. Following words are in the following column, following rows in the following bank, so
    that the next row can be opened while one is read."""

    def __init__(self, part: SdramPart):
        super().__init__({"column": part.column_bits, "bank": part.bank_bits, "row": part.row_bits})


class Segment(data.StructLayout):
    """Words of one row to read: ``beats`` of them; whether they are the ``last`` ones of burst ``id``.

    With ``response`` other than OKAY nothing is to be read, but as many beats of it answered.
    """

    def __init__(self, part: SdramPart):
        super().__init__({"place": Place(part), "beats": BEATS_BITS, "id": ID_BITS, "last": 1, "response": 2})


class WriteBeat(data.StructLayout):
    """One word to write where ``strobe`` says; with ``last``, burst ``id`` is answered afterwards."""

    def __init__(self, part: SdramPart):
        super().__init__(
            {
                "place": Place(part),
                "data": part.data_bits,
                "strobe": part.data_bits // 8,
                "id": ID_BITS,
                "last": 1,
                "response": 2,
            }
        )


def _response(part: SdramPart, address: Value, size: Value, burst: Value) -> Value:
    """What a burst is answered with, whatever becomes of it in memory."""
    word = part.data_bits // 8
    outside = (address >> exact_log2(part.capacity)).any()
    odd = (address[: exact_log2(word)] != 0) if word > 1 else Const(0)
    unable = (size != exact_log2(word)) | (burst != INCR) | odd
    return Mux(outside, DECERR, Mux(unable, SLVERR, OKAY))


class ReadSegments(wiring.Component):
    """Cuts AXI4 read bursts where a row ends.

    Bursts of type INCR, of full width and aligned to it, are read; others are answered with SLVERR, those
    behind the end of memory with DECERR. Exclusive access is not supported and answered with OKAY.

    Parameters
    ----------
    part : :class:`~serrano.boards.description.SdramPart`
        The memory.
    address_bits : :class:`int`
        Width of AXI's addresses.

    Members
    -------
    axi : ``In(AXI4Read(address_bits, data_bytes))``
        Only channel AR is used; R is not driven.
    o : ``Out(stream.Signature(Segment(part)))``
        Segments in the order of the bursts, each two cycles or more after the one before it.
    """

    def __init__(self, part: SdramPart, address_bits: int):
        self.part = part
        super().__init__(
            {
                "axi": In(AXI4Read(address_bits, part.data_bits // 8)),
                "o": Out(stream.Signature(Segment(part))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi, part, segment = self.axi, self.part, self.o.payload
        shift = exact_log2(part.data_bits // 8)
        left = Signal(BEATS_BITS)
        to_end = Signal(part.column_bits + 1)
        word = Value.cast(segment.place)
        m.d.comb += to_end.eq((1 << part.column_bits) - segment.place.column)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += axi.arready.eq(1)
                m.d.sync += [
                    left.eq(axi.arlen + 1),
                    word.eq(axi.araddr >> shift),
                    segment.id.eq(axi.arid),
                    segment.response.eq(_response(part, axi.araddr, axi.arsize, axi.arburst)),
                ]
                with m.If(axi.arvalid):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                fits = left <= to_end
                m.d.sync += [
                    self.o.valid.eq(1),
                    segment.beats.eq(Mux(fits, left, to_end)),
                    segment.last.eq(fits),
                ]
                m.next = "GIVE"
            with m.State("GIVE"):
                with m.If(self.o.ready):
                    m.d.sync += [
                        self.o.valid.eq(0),
                        left.eq(left - segment.beats),
                        # The rest of a burst begins with a row.
                        word.eq(Cat(Const(0, part.column_bits), word[part.column_bits :] + 1)),
                    ]
                    with m.If(segment.last):
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "MEASURE"
        return m


class WriteBeats(wiring.Component):
    """Takes AXI4 write bursts apart into beats, none of which waits for another one.

    The same bursts are written as :class:`ReadSegments` reads, and the others answered alike.

    Parameters
    ----------
    part : :class:`~serrano.boards.description.SdramPart`
        The memory.
    address_bits : :class:`int`
        Width of AXI's addresses.

    Members
    -------
    axi : ``In(AXI4Write(address_bits, data_bytes))``
        Channels AW and W; B is not driven.
    o : ``Out(stream.Signature(WriteBeat(part)))``
        Beats, in order.
    level : ``Out(range(17))``
        Beats that wait, at most 16.
    """

    def __init__(self, part: SdramPart, address_bits: int):
        self.part = part
        super().__init__(
            {
                "axi": In(AXI4Write(address_bits, part.data_bits // 8)),
                "o": Out(stream.Signature(WriteBeat(part))),
                "level": Out(range(WRITES + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi, part = self.axi, self.part
        shift = exact_log2(part.data_bits // 8)
        m.submodules.fifo = fifo = StreamFIFO(WriteBeat(part), WRITES)
        # Each beat keeps the memory for longer than this.
        m.submodules.output_slice = output = HalfRegister(WriteBeat(part))
        wiring.connect(m, fifo.o, output.i)
        wiring.connect(m, output.o, wiring.flipped(self.o))
        m.d.comb += self.level.eq(fifo.level)
        current = Signal(WriteBeat(part))
        word = Value.cast(current.place)
        taken, running = Signal(), Signal()
        m.d.comb += [
            axi.awready.eq(~running),
            axi.wready.eq(running & fifo.i.ready),
            taken.eq(axi.wvalid & axi.wready),
            fifo.i.valid.eq(taken),
            fifo.i.payload.eq(current),
            fifo.i.payload.data.eq(axi.wdata),
            fifo.i.payload.strobe.eq(axi.wstrb),
            fifo.i.payload.last.eq(axi.wlast),
        ]
        with m.If(~running):
            m.d.sync += [
                word.eq(axi.awaddr >> shift),
                current.id.eq(axi.awid),
                current.response.eq(_response(part, axi.awaddr, axi.awsize, axi.awburst)),
                running.eq(axi.awvalid),
            ]
        with m.Elif(taken):
            m.d.sync += [word.eq(word + 1), running.eq(~axi.wlast)]
        return m
