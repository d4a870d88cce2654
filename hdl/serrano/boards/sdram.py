# SPDX-License-Identifier: Apache-2.0
"""A controller for single-data-rate SDRAM, as an AXI4 subordinate."""

import math
from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.boards.description import SdramPart
from serrano.boards.segments import OKAY, ReadSegments, Segment, WriteBeats
from serrano.bus.axi import ID_BITS, AXI4Read, AXI4Write
from serrano.stream import StreamFIFO

__all__ = ["SdramController", "SdramPins", "SdramTiming"]

BURST = 4
"""Words that one READ gives."""

READ_ROOM = 32
ANSWERS = 8
WRITE_PATIENCE = 64
WRITES_MAX = 16
ALL_BANKS = 1 << 10


class SdramPins(wiring.Signature):
    """Pins of an SDRAM, as the controller has them: selects and strobes are 1 when asserted.

    Parameters
    ----------
    part : :class:`~serrano.boards.description.SdramPart`
        The memory.
    """

    def __init__(self, part: SdramPart):
        super().__init__(
            {
                "clk_en": Out(1),
                "cs": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out(part.bank_bits),
                "a": Out(max(part.row_bits, 11)),
                "dqm": Out(part.data_bits // 8),
                "dq_o": Out(part.data_bits),
                "dq_oe": Out(1),
                "dq_i": In(part.data_bits),
            }
        )


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """The times of a part, in cycles of a clock; see :class:`~serrano.boards.description.SdramPart`.

    ``postpone`` is the number of refreshes that are owed before reading is interrupted for them.
    """

    cas_latency: int
    rcd: int
    rp: int
    ras: int
    rc: int
    rrd: int
    rfc: int
    wr: int
    mrd: int
    refi: int
    init: int
    init_refreshes: int = 8
    postpone: int = 4
    postponed_max: int = 8

    @classmethod
    def of(cls, part: SdramPart, clock_hz: int, cas_latency: int) -> "SdramTiming":
        """The least cycles that satisfy a part at a clock."""

        def cycles(nanoseconds: float) -> int:
            return max(1, math.ceil(nanoseconds * clock_hz / 1e9 - 1e-6))

        return cls(
            cas_latency=cas_latency,
            rcd=cycles(part.t_rcd),
            rp=cycles(part.t_rp),
            ras=cycles(part.t_ras),
            rc=cycles(part.t_rc),
            rrd=cycles(part.t_rrd),
            rfc=cycles(part.t_rfc),
            wr=max(part.wr_cycles, cycles(part.t_wr)),
            mrd=part.mrd_cycles,
            refi=math.floor(part.t_refi * clock_hz / 1e9),
            init=cycles(part.t_init),
            init_refreshes=part.init_refreshes,
            postponed_max=part.postponed_max,
        )


class _Beat(data.StructLayout):
    """What comes with a word from memory."""

    def __init__(self):
        super().__init__({"valid": 1, "id": ID_BITS, "last": 1, "response": 2})


class SdramController(wiring.Component):
    """Serves AXI4 from an SDRAM, and keeps its data bus busy.

    Reads are segments of a row (:class:`~serrano.boards.segments.ReadSegments`). While one is read, four
    words to a READ, the next one is prepared in the free command slots: its row is opened, another one in
    that bank closed before. Between segments in two banks, or in one row, no cycle is lost. Rows stay open.

    Writes are single words, taken together: when nothing is to be read, when 64 cycles have passed, or when 8
    of them wait; at most 16 while something is to be read. A write is answered a cycle after its command:
    whatever is read for an address that comes later sees it. Answers come in order, separately for reads and
    writes.

    Refreshes are done while there is nothing else to do; or several at once, when ``postpone`` are owed,
    between two segments. A segment is interrupted only if its manager does not take data for so long that
    no more can be owed. A linear read loses cycles for refreshes only: ``rfc`` for each, and ``rp + rcd``
    and about ten more for ``postpone`` of them.

    From the cycle in which READ is at the pins to that in which its first word is at ``dq_i`` pass
    ``cas_latency`` cycles, and ``io_latency`` more for registers in the pads and the phase of the clock.
    All outputs to pins are registers, and ``dq_i`` goes into registers.

    Parameters
    ----------
    part : :class:`~serrano.boards.description.SdramPart`
        The memory.
    timing : :class:`SdramTiming`
        Its times, in cycles.
    address_bits : :class:`int`
        Width of AXI's addresses.
    io_latency : :class:`int`
        Cycles that the way to the pins and back takes.

    Members
    -------
    read : ``In(AXI4Read(address_bits, data_bytes))``
        Read channels.
    write : ``In(AXI4Write(address_bits, data_bytes))``
        Write channels.
    pins : ``Out(SdramPins(part))``
        The memory.
    ready : ``Out(1)``
        Memory has been initialized; requests that come before wait.

    Raises
    ------
    ValueError
        If ``io_latency`` is negative or the times do not fit each other.
    """

    def __init__(self, part: SdramPart, timing: SdramTiming, *, address_bits: int, io_latency: int = 0):
        if io_latency < 0:
            raise ValueError(f"io_latency must not be negative, but is {io_latency!r}")
        if not 1 <= timing.postpone < timing.postponed_max:
            raise ValueError(
                f"postpone must be from 1 to {timing.postponed_max - 1}, not {timing.postpone!r}"
            )
        self.part = part
        self.timing = timing
        self.io_latency = io_latency
        super().__init__(
            {
                "read": In(AXI4Read(address_bits, part.data_bits // 8)),
                "write": In(AXI4Write(address_bits, part.data_bits // 8)),
                "pins": Out(SdramPins(part)),
                "ready": Out(1),
            }
        )
        self.address_bits = address_bits

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        part = self.part
        m.submodules.segments = self._segments = ReadSegments(part, self.address_bits)
        m.submodules.beats = self._beats = WriteBeats(part, self.address_bits)
        m.submodules.words = self._words = StreamFIFO(
            data.StructLayout({"data": part.data_bits, "beat": _Beat()}), READ_ROOM
        )
        m.submodules.answers = self._answers = StreamFIFO(
            data.StructLayout({"id": ID_BITS, "response": 2}), ANSWERS
        )
        # Rows that are open.
        self._open = Signal(1 << part.bank_bits)
        self._rows = Array(
            Signal(part.row_bits, name=f"row{bank}", reset_less=True) for bank in range(1 << part.bank_bits)
        )
        # The segment that is prepared, and the one that is read or written.
        kinds = {"segment": Segment(part), "write": 1}
        word = {"data": part.data_bits, "strobe": part.data_bits // 8}
        self._next = Signal(data.StructLayout({**kinds, "word": data.StructLayout(word)}))
        self._now = Signal(data.StructLayout(kinds))
        self._now_valid, self._hand_over = Signal(), Signal()
        # Commands of this cycle, at most one.
        self._give_column, self._precharge, self._activate = Signal(), Signal(), Signal()
        self._precharge_all, self._refresh, self._mode, self._reopen = (Signal() for _ in range(4))
        # Held: no new work, a refresh is due. Stopped: the one for initialization and refresh has command.
        self._held, self._recheck, self._prepared = (Signal() for _ in range(3))
        self._stopped = Signal(init=1)
        self._build_axi(m)
        self._build_timers(m)
        self._build_preparation(m)
        self._build_columns(m)
        self._build_refresh(m)
        self._build_pins(m)
        return m

    def _build_axi(self, m: Module) -> None:
        read, write, words, answers = self.read, self.write, self._words.o, self._answers.o
        for name in ("arid", "araddr", "arlen", "arsize", "arburst", "arvalid"):
            m.d.comb += getattr(self._segments.axi, name).eq(getattr(read, name))
        for name in ("awid", "awaddr", "awlen", "awsize", "awburst", "awvalid"):
            m.d.comb += getattr(self._beats.axi, name).eq(getattr(write, name))
        for name in ("wdata", "wstrb", "wlast", "wvalid"):
            m.d.comb += getattr(self._beats.axi, name).eq(getattr(write, name))
        m.d.comb += [
            read.arready.eq(self._segments.axi.arready),
            write.awready.eq(self._beats.axi.awready),
            write.wready.eq(self._beats.axi.wready),
            read.rvalid.eq(words.valid),
            read.rdata.eq(words.payload.data),
            read.rid.eq(words.payload.beat.id),
            read.rlast.eq(words.payload.beat.last),
            read.rresp.eq(words.payload.beat.response),
            words.ready.eq(read.rready),
            write.bvalid.eq(answers.valid),
            write.bid.eq(answers.payload.id),
            write.bresp.eq(answers.payload.response),
            answers.ready.eq(write.bready),
        ]

    def _build_timers(self, m: Module) -> None:
        """Shared by the banks, which is enough: rows are opened one at a time."""
        timing = self.timing

        def timer(name: str, start: Value, cycles: int) -> Value:
            """Whether ``cycles`` have passed since ``start``."""
            left = Signal(range(max(2, cycles)), name=name)
            done = Signal(init=1, name=f"{name}_done")
            with m.If(start):
                m.d.sync += [left.eq(max(0, cycles - 1)), done.eq(cycles <= 1)]
            with m.Elif(~done):
                m.d.sync += [left.eq(left - 1), done.eq(left == 1)]
            return done

        opened = self._activate | self._reopen
        # ACTIVE to ACTIVE of a bank is kept where this and tRP are.
        self._may_close = timer("ras", opened, max(timing.ras, timing.rc - timing.rp)) & timer(
            "recovery", self._give_column & self._now.write, timing.wr
        )
        reading = self._give_column & ~self._now.write
        # The last word is on the bus BURST - 1 cycles after the first one; then a cycle for nobody.
        self._may_drive = timer("turn", reading, timing.cas_latency + BURST + 1)

    def _build_preparation(self, m: Module) -> None:
        part, timing, upcoming = self.part, self.timing, self._next
        reads, beats = self._segments.o, self._beats.o
        place = upcoming.segment.place
        bank, row, opened = Signal(part.bank_bits), Signal(part.row_bits, reset_less=True), Signal()
        wait = Signal(range(max(timing.rp, timing.rcd, 2)))
        idle = self._idle = Signal()
        m.d.comb += bank.eq(place.bank)
        works = ~self._held & ~self._stopped
        write = self._build_choice(m, idle & works)
        with m.If(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        # A row is not closed while it is read from.
        conflict = self._busy = Signal()
        free = ~self._give_column & works & (wait == 0)
        with m.FSM(name="preparation"):
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                m.d.sync += self._load(write)
                with m.If((reads.valid | beats.valid) & works):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [opened.eq(self._open.bit_select(bank, 1)), row.eq(self._rows[bank])]
                with m.If(~self._stopped):
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If((opened & (row == place.row)) | (upcoming.segment.response != OKAY)):
                    m.next = "READY"
                with m.Elif(opened):
                    m.next = "CLOSE"
                with m.Else():
                    m.next = "OPEN"
            with m.State("CLOSE"):
                m.d.comb += self._precharge.eq(free & self._may_close & ~conflict)
                with m.If(self._precharge):
                    m.d.sync += wait.eq(timing.rp - 1)
                    m.next = "OPEN"
                with m.If(self._recheck):
                    m.next = "LOOK"
            with m.State("OPEN"):
                m.d.comb += self._activate.eq(free)
                with m.If(self._activate):
                    m.d.sync += wait.eq(max(timing.rcd - 2, timing.rrd - 4, 0))
                    m.next = "READY"
                with m.If(self._recheck):
                    m.next = "LOOK"
            with m.State("READY"):
                m.d.comb += self._prepared.eq((wait == 0) & works)
                with m.If(self._hand_over):
                    m.next = "IDLE"
                with m.If(self._recheck):
                    m.next = "LOOK"
        # Settled: what is to be closed for a refresh may be closed.
        settled = self._settled = Signal()
        m.d.comb += settled.eq(wait == 0)
        # Noted a cycle later: nobody looks before the segment after this one comes.
        opening, closing = Signal(), Signal()
        m.d.sync += [opening.eq(self._activate), closing.eq(self._precharge)]
        with m.If(closing):
            m.d.sync += self._open.bit_select(bank, 1).eq(0)
        with m.If(opening):
            m.d.sync += [self._open.bit_select(bank, 1).eq(1), self._rows[bank].eq(place.row)]

    def _build_choice(self, m: Module, free: Value) -> Value:
        """Whether a write is taken rather than a read; and takes it."""
        reads, beats = self._segments.o, self._beats.o
        urgent, writing, write = Signal(), Signal(), Signal()
        waited = Signal(range(WRITE_PATIENCE))
        count = Signal(range(WRITES_MAX))
        before_reads = ~reads.valid | writing | urgent
        m.d.comb += [
            write.eq(beats.valid & before_reads),
            beats.ready.eq(free & before_reads),
            reads.ready.eq(free & ~write),
        ]
        # Noted a cycle later: the next choice is further away.
        took_write, took_read, waits = Signal(), Signal(), Signal()
        m.d.sync += [
            took_write.eq(beats.valid & beats.ready),
            took_read.eq(reads.valid & reads.ready),
            waits.eq(beats.valid & ~beats.ready),
        ]
        with m.If(took_write):
            m.d.sync += [count.eq(count + 1), writing.eq(~count.all()), urgent.eq(0), waited.eq(0)]
        with m.Elif(took_read):
            m.d.sync += [count.eq(0), writing.eq(0)]
        with m.If(waits):
            with m.If(~waited.all()):
                m.d.sync += waited.eq(waited + 1)
            m.d.sync += urgent.eq(waited.all() | (self._beats.level >= 8))
        return write

    def _load(self, write: Value) -> list:
        upcoming, reads, beats = self._next, self._segments.o.payload, self._beats.o.payload
        segment = upcoming.segment
        return [
            upcoming.write.eq(write),
            upcoming.word.data.eq(beats.data),
            upcoming.word.strobe.eq(beats.strobe),
            segment.place.eq(Mux(write, Value.cast(beats.place), Value.cast(reads.place))),
            segment.beats.eq(Mux(write, 1, reads.beats)),
            segment.id.eq(Mux(write, beats.id, reads.id)),
            segment.last.eq(Mux(write, beats.last, reads.last)),
            segment.response.eq(Mux(write, beats.response, reads.response)),
        ]

    def _build_columns(self, m: Module) -> None:
        now, upcoming = self._now, self._next
        segment, place = now.segment, now.segment.place
        count, final, known = Signal(range(BURST + 1)), Signal(), Signal()
        running = Signal(range(BURST))
        # No READ is going on: `running` is 0.
        slot = Signal(init=1)
        roomy, give, answerable = Signal(), Signal(), Signal()
        m.d.sync += [
            answerable.eq(self._answers.level < ANSWERS - 2),
            # Of the segment that is prepared, known well before somebody asks.
            self._busy.eq((self._now_valid | ~slot) & (place.bank == upcoming.segment.place.bank)),
        ]
        m.d.comb += [
            give.eq(self._now_valid & known & slot & ~self._stopped),
            self._give_column.eq(give & Mux(now.write, self._may_drive & answerable, roomy)),
            self._hand_over.eq(self._prepared & (~self._now_valid | (self._give_column & final))),
        ]
        with m.If(~slot):
            m.d.sync += [running.eq(running - 1), slot.eq(running == 1)]

        def words(column: Value, left: Value) -> Value:
            """Words of a READ: up to a multiple of BURST, as the memory goes on at the one before."""
            aligned = BURST - column[:2]
            return Mux(left < aligned, left, aligned)[:3]

        with m.If(self._now_valid & ~known):
            m.d.sync += [
                known.eq(1),
                count.eq(words(place.column, segment.beats)),
                final.eq(segment.beats <= BURST - place.column[:2]),
            ]
        with m.If(self._give_column):
            m.d.sync += [
                running.eq(Mux(now.write, 0, count - 1)),
                slot.eq(now.write | (count == 1)),
                place.column.eq(place.column + count),
                segment.beats.eq(segment.beats - count),
                known.eq(0),
            ]
            with m.If(final):
                m.d.sync += self._now_valid.eq(0)
        with m.If(self._hand_over):
            column, left = upcoming.segment.place.column, upcoming.segment.beats
            m.d.sync += [
                segment.eq(upcoming.segment),
                now.write.eq(upcoming.write),
                self._now_valid.eq(1),
                known.eq(1),
                count.eq(words(column, left)),
                final.eq(left <= BURST - column[:2]),
            ]
        self._slot = slot
        self._build_answers(m, count, final, running, roomy)

    def _build_answers(self, m: Module, count: Value, final: Value, running: Value, roomy: Signal) -> None:
        now, words, answers = self._now, self._words, self._answers
        segment, timing = now.segment, self.timing
        reading = self._give_column & ~now.write
        room = Signal(range(READ_ROOM + 1), init=READ_ROOM)
        given = words.o.valid & words.o.ready
        m.d.sync += [
            room.eq(room - Mux(reading, count, 0) + given),
            roomy.eq((room >= BURST) & ~reading),
        ]
        # The beat of this cycle, and of those on their way.
        keep, beat = Signal(_Beat()), Signal(_Beat())
        keep_final = Signal()
        with m.If(reading):
            m.d.comb += [
                beat.valid.eq(1),
                beat.id.eq(segment.id),
                beat.response.eq(segment.response),
                beat.last.eq(segment.last & final & (count == 1)),
            ]
            m.d.sync += [keep.eq(beat), keep_final.eq(segment.last & final)]
        with m.Else():
            m.d.comb += [
                beat.eq(keep),
                beat.valid.eq(running != 0),
                beat.last.eq(keep_final & (running == 1)),
            ]
        for _ in range(timing.cas_latency + 3 + self.io_latency):
            later = Signal(_Beat())
            m.d.sync += later.eq(beat)
            beat = later
        arrived = Signal(self.part.data_bits, reset_less=True)
        m.d.sync += arrived.eq(self.pins.dq_i)
        answer = answers.i.payload
        m.d.sync += [
            answers.i.valid.eq(self._give_column & now.write & segment.last),
            answer.id.eq(segment.id),
            answer.response.eq(segment.response),
        ]
        m.d.comb += [
            words.i.valid.eq(beat.valid),
            words.i.payload.data.eq(arrived),
            words.i.payload.beat.eq(beat),
        ]

    def _build_refresh(self, m: Module) -> None:
        timing = self.timing
        tick = Signal(range(timing.refi), init=timing.refi - 1)
        owed = Signal(range(timing.postponed_max + 1))
        due, longest = Signal(), max(timing.rfc, timing.rp, timing.mrd, timing.rcd, timing.init)
        wait, elapsed = Signal(range(longest + 1), init=timing.init), Signal()
        first = Signal(range(timing.init_refreshes + 1), init=timing.init_refreshes)
        nothing = self._idle & ~self._segments.o.valid & ~self._beats.o.valid & ~self._now_valid
        overdue = Signal()
        done = Signal()
        m.d.sync += [
            tick.eq(Mux(tick == 0, timing.refi - 1, tick - 1)),
            due.eq(self.ready & (tick == 0)),
            done.eq(self.ready & self._refresh),
            self._held.eq(self.ready & ((owed >= timing.postpone) | ((owed != 0) & (nothing | self._held)))),
            overdue.eq(owed >= timing.postponed_max - 2),
        ]
        with m.If(due & ~done & ~owed.all()):
            m.d.sync += owed.eq(owed + 1)
        with m.Elif(done & ~due & (owed != 0)):
            m.d.sync += owed.eq(owed - 1)
        quiet = self._slot & self._settled & self._may_close & (~self._now_valid | overdue)
        with m.If(~elapsed):
            m.d.sync += [wait.eq(wait - 1), elapsed.eq(wait == 1)]

        def pause(cycles: int) -> list:
            return [wait.eq(cycles - 1), elapsed.eq(cycles <= 1)]

        with m.FSM(name="refresh"):
            with m.State("POWER"):
                m.d.comb += self._precharge_all.eq(elapsed)
                with m.If(elapsed):
                    m.d.sync += pause(timing.rp)
                    m.next = "REFRESH"
            with m.State("RUN"):
                with m.If(self._held & quiet & ~self._give_column):
                    m.d.sync += self._stopped.eq(1)
                    m.next = "CLOSE"
            with m.State("CLOSE"):
                m.d.comb += self._precharge_all.eq(1)
                m.d.sync += [*pause(timing.rp), self._open.eq(0)]
                m.next = "REFRESH"
            with m.State("REFRESH"):
                m.d.comb += self._refresh.eq(elapsed)
                with m.If(elapsed):
                    m.d.sync += pause(timing.rfc)
                    with m.If(~self.ready):
                        m.d.sync += first.eq(first - 1)
                        with m.If(first == 1):
                            m.next = "MODE"
                    with m.Elif(owed <= 1):
                        m.next = "REOPEN"
            with m.State("MODE"):
                m.d.comb += self._mode.eq(elapsed)
                with m.If(elapsed):
                    m.d.sync += [*pause(timing.mrd), self.ready.eq(1)]
                    m.next = "REOPEN"
            with m.State("REOPEN"):
                needed = self._now_valid & (self._now.segment.response == OKAY)
                m.d.comb += self._reopen.eq(elapsed & needed)
                with m.If(elapsed & needed):
                    m.d.sync += pause(timing.rcd)
                with m.If(elapsed):
                    m.next = "RESUME"
            with m.State("RESUME"):
                m.d.comb += self._recheck.eq(elapsed)
                with m.If(elapsed):
                    m.d.sync += self._stopped.eq(0)
                    m.next = "RUN"
        place = self._now.segment.place
        with m.If(self._reopen):
            m.d.sync += [self._open.bit_select(place.bank, 1).eq(1), self._rows[place.bank].eq(place.row)]

    def _build_pins(self, m: Module) -> None:
        """Two cycles: what is commanded, then what that is at the pins."""
        pins, now = self.pins, self._now
        orders = {
            "column": self._give_column,
            "precharge": self._precharge,
            "precharge_all": self._precharge_all,
            "activate": self._activate,
            "reopen": self._reopen,
            "refresh": self._refresh,
            "mode": self._mode,
        }
        given = Signal(data.StructLayout({name: 1 for name in orders}))
        next_place, current = Signal.like(self._next.segment.place), Signal.like(now)
        m.d.sync += [getattr(given, name).eq(order) for name, order in orders.items()]
        m.d.sync += [next_place.eq(self._next.segment.place), current.eq(now)]
        # What is written lies at the pins. It is fetched a cycle after the segment was handed over, when the
        # next one cannot have come yet; then it is there when its command can be.
        word, handed = Signal.like(self._next.word, reset_less=True), Signal()
        m.d.sync += handed.eq(self._hand_over)
        with m.If(handed):
            m.d.sync += word.eq(self._next.word)
        place = current.segment.place
        # Of an erroneous burst nothing reaches the memory.
        column = given.column & (current.segment.response == OKAY)
        write = column & current.write
        opens = given.activate | given.reopen
        closes = given.precharge | given.precharge_all
        mode = 1 << 9 | self.timing.cas_latency << 4 | (BURST.bit_length() - 1)
        m.d.comb += [pins.clk_en.eq(1), pins.cs.eq(1)]
        m.d.sync += [
            pins.ras.eq(opens | closes | given.refresh | given.mode),
            pins.cas.eq(column | given.refresh | given.mode),
            pins.we.eq(write | closes | given.mode),
            pins.dqm.eq(Mux(given.column & current.write, ~word.strobe, 0)),
            pins.dq_o.eq(word.data),
            pins.dq_oe.eq(write),
            pins.ba.eq(Mux(given.column | given.reopen, place.bank, next_place.bank)),
            pins.a.eq(next_place.row),
        ]
        with m.If(~self.ready):
            m.d.sync += pins.dqm.eq(~0)
        with m.If(given.column):
            m.d.sync += pins.a.eq(place.column)
        with m.If(given.reopen):
            m.d.sync += pins.a.eq(place.row)
        with m.If(closes):
            m.d.sync += pins.a.eq(Mux(given.precharge_all, ALL_BANKS, 0))
        with m.If(given.mode):
            m.d.sync += [pins.a.eq(mode), pins.ba.eq(0)]
