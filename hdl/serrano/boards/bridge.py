# SPDX-License-Identifier: Apache-2.0
"""A host at a serial line: reads and writes memory and registers."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from serrano.boards.frames import (
    DATA_MAX,
    VERSION,
    BridgeCommand,
    BridgeStatus,
    FrameReceiver,
    FrameSender,
)
from serrano.boards.uart import UartReceiver, UartTransmitter
from serrano.bus.axi import INCR, AXI4Lite, AXI4Read, AXI4Write
from serrano.bus.read import MemoryOutput
from serrano.csr.registers import ADDRESS_BITS
from serrano.primitives.memory import OnChipMemory
from serrano.stream import StreamFIFO
from serrano.tape.crc import crc32_step

__all__ = ["BridgeState", "UartBridge"]

BURST_BYTES = 64
IDENTITY_BYTES = 28
WRITES_MAX = 15

SETTLING = 8
"""Cycles in which a change has become known everywhere."""
_ALL_ONES = (1 << 32) - 1


class BridgeState(data.Struct):
    """What each response says of the board."""

    irq: unsigned(1)
    ready: unsigned(1)
    stepping: unsigned(1)
    fault: unsigned(1)
    overrun: unsigned(1)


class UartBridge(wiring.Component):
    """Carries out the requests of ``docs/uart-bridge.md``, one at a time.

    A request is carried out when all of it has come and its CRC is right. What comes meanwhile waits in a
    buffer, so a host may send several requests without an answer; writing to memory is far quicker
    than the line. Data that is read goes through a buffer, never waits for the line on the bus.

    The line takes thousands of cycles for what the bridge does in some: so that its parts may lie far from
    each other, there is a register behind each of them, and whoever changes what others look at waits until
    they have seen it.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of memory addresses, at most 32.
    data_bytes : :class:`int`
        Width of the memory port: 2 or 4.
    divisor : :class:`int`
        Clock cycles in a bit.
    identity : mapping
        ``memory_bytes``, ``clock_hz`` and ``baud`` for PING.
    gap : :class:`int`
        Cycles without a byte after which a frame is given up.
    waiting : :class:`int`
        Bytes that may wait while a request is carried out.

    Members
    -------
    rx : ``In(1)``
        Line from the host.
    tx : ``Out(1)``
        Line to the host.
    read : ``Out(AXI4Read(address_bits, data_bytes))``
        Memory.
    write : ``Out(AXI4Write(address_bits, data_bytes))``
        Memory.
    registers : ``Out(AXI4Lite(12))``
        Registers.
    state : ``In(BridgeState)``
        What responses say of the board; ``overrun`` is the bridge's own.
    pinged : ``Out(1)``
        A PING begins to be answered: set for one cycle.
    received : ``Out(1)``
        A byte came in the cycle before.
    sent : ``Out(1)``
        A byte left in the cycle before.
    error : ``Out(1)``
        A byte or a request was dropped or refused two cycles before.

    Raises
    ------
    ValueError
        If the memory port is of another width.
    """

    def __init__(
        self,
        address_bits: int,
        data_bytes: int,
        *,
        divisor: int,
        identity: dict[str, int],
        gap: int,
        waiting: int = 2048,
    ):
        if data_bytes not in (2, 4):
            raise ValueError(f"The memory port must have 2 or 4 bytes, not {data_bytes!r}")
        self.width = data_bytes
        self.shift = exact_log2(data_bytes)
        self.divisor = divisor
        self.identity = identity
        self.gap = gap
        self.waiting = waiting
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1, init=1),
                "read": Out(AXI4Read(address_bits, data_bytes)),
                "write": Out(AXI4Write(address_bits, data_bytes)),
                "registers": Out(AXI4Lite(ADDRESS_BITS)),
                "state": In(BridgeState),
                "pinged": Out(1),
                "received": Out(1),
                "sent": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        words = DATA_MAX // self.width
        m.submodules.buffer = self._buffer = OnChipMemory(
            unsigned(8 * self.width), words, transparent=False, granularity=8, collides=False
        )
        m.submodules.frames = self._frames = FrameReceiver(self.gap)
        m.submodules.sender = self._sender = FrameSender()
        # Stays until it is answered.
        self._request = self._frames.o.payload
        # Words of the buffer: which is next, how many are left, and whether that is none.
        self._index, self._left, self._none = Signal(range(words)), Signal(32), Signal()
        # By how much that changes, two cycles later: what each of those that use the buffer wants.
        self._advance, self._less = Signal(), Signal(range(BURST_BYTES // self.width + 1))
        self._advances, self._lesses = [], []
        self._word = Signal(8 * self.width, reset_less=True)
        # What each of those that store words in it stores, a cycle earlier; a word of 0 if none.
        self._stores, self._words = [], []
        self._fetched = Signal(8 * self.width, reset_less=True)
        self._store, self._fetch = Signal(), Signal()
        self._status = Signal(BridgeStatus)
        self._length = Signal(16)
        self._run, self._ended, self._failed = Signal(), Signal(), Signal()
        self._chosen = {command: Signal(name=f"is_{command.name.lower()}") for command in BridgeCommand}
        self._overrun, self._good, self._bad = Signal(), Signal(32), Signal(16)
        self._build_line(m)
        self._build_buffer(m)
        self._build_control(m)
        ended, failed = zip(
            (self._build_ping(m), Const(0)),
            self._build_memory_writes(m),
            self._build_memory_reads(m),
            self._build_registers(m),
            strict=True,
        )
        # A register where each of them is, one between, and one where it is looked at.
        each_ended, each_failed = Signal(len(ended)), Signal(len(failed))
        some_ended, some_failed = Signal(), Signal()
        m.d.sync += [each_ended.eq(Cat(ended)), each_failed.eq(Cat(failed))]
        m.d.sync += [some_ended.eq(each_ended.any()), some_failed.eq(each_failed.any())]
        m.d.sync += [
            self._ended.eq(some_ended),
            self._failed.eq(some_failed),
            self._store.eq(Cat(self._stores).any()),
            self._word.eq(reduce(or_, self._words)),
            self._advance.eq(Cat(self._advances).any()),
            self._less.eq(reduce(or_, self._lesses)),
        ]
        return m

    def _build_line(self, m: Module) -> None:
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.received_bytes = waiting = StreamFIFO(unsigned(8), self.waiting, paused=True)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        wiring.connect(m, receiver.o, waiting.i)
        m.submodules.waited = waited = MemoryOutput(unsigned(8))
        wiring.connect(m, waiting.o, waited.i)
        wiring.connect(m, waited.o, self._frames.i)
        wiring.connect(m, self._sender.o, transmitter.i)
        refused, overrun, broken = Signal(), Signal(), Signal()
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        m.d.sync += [
            self.received.eq(receiver.o.valid & receiver.o.ready),
            self.sent.eq(transmitter.i.valid & transmitter.i.ready),
            refused.eq(self._frames.o.valid & self._frames.o.ready & ~self._frames.o.payload.intact),
            overrun.eq(receiver.overrun),
            broken.eq(receiver.broken),
            self.error.eq(overrun | broken | refused),
        ]
        with m.If(overrun):
            m.d.sync += self._overrun.eq(1)
        with m.Elif(self.pinged):
            m.d.sync += self._overrun.eq(0)

    def _build_buffer(self, m: Module) -> None:
        """Bytes of a request go in, those of a response out; else it belongs to what is carried out."""
        buffer, frames, sender = self._buffer, self._frames, self._sender
        # Before the memory and behind it, as it is slow, lie registers.
        place = sender.place[: self.shift]
        for _ in range(3):
            place = _delayed(m, place)
        m.d.comb += buffer.r_en.eq(1)
        m.d.sync += [
            self._index.eq(self._index + (self._store | self._advance)),
            self._left.eq(self._left - self._less),
            self._none.eq(self._left == 0),
            buffer.r_addr.eq(Mux(self._fetch, self._index, sender.place[self.shift :])),
            self._fetched.eq(buffer.r_data),
            sender.byte.eq(self._fetched.word_select(place, 8)),
            buffer.w_en.eq(Mux(self._store, ~0, frames.store << frames.place[: self.shift])),
            buffer.w_addr.eq(Mux(self._store, self._index, frames.place[self.shift :])),
            buffer.w_data.eq(Mux(self._store, self._word, frames.byte.replicate(self.width))),
        ]

    def _build_control(self, m: Module) -> None:
        frames, sender, request = self._frames, self._sender, self._request
        state, shown = Signal(BridgeState), Signal(8)
        length = Signal.like(self._length)
        chosen = self._chosen
        m.d.sync += [known.eq(request.command == command.value) for command, known in chosen.items()]
        m.d.comb += [
            sender.i.payload.state.eq(shown),
            sender.i.payload.sequence.eq(request.sequence),
            sender.i.payload.command.eq(request.command),
            sender.i.payload.status.eq(self._status),
            sender.i.payload.length.eq(length),
        ]
        fetches = Signal()
        m.d.sync += [
            fetches.eq(chosen[BridgeCommand.WRITE] | chosen[BridgeCommand.WRITE_REGISTERS]),
            self._fetch.eq(fetches),
            state.eq(self.state),
            state.overrun.eq(self._overrun),
            length.eq(Mux(self._status == BridgeStatus.OK, self._length, 0)),
            self._run.eq(0),
            self.pinged.eq(0),
        ]
        status = self._checked(m)
        last = Signal(8)
        done, repeated = Signal(), Signal()
        writes = chosen[BridgeCommand.WRITE_REGISTERS]
        m.d.sync += repeated.eq(writes & request.flags[0] & done & (request.sequence == last))
        # What is decided, and what is counted, a cycle later.
        right, refused, counts = Signal(), Signal(), Signal()
        one_good, one_bad = Signal(), Signal()
        m.d.sync += [
            right.eq(status == BridgeStatus.OK),
            refused.eq(~right),
            counts.eq(0),
            one_good.eq(counts & ~refused),
            one_bad.eq(counts & refused & ~self._bad.all()),
            self._good.eq(self._good + one_good),
            self._bad.eq(self._bad + one_bad),
        ]
        with m.FSM(name="control"):
            with m.State("WAIT"):
                m.d.sync += self._index.eq(0)
                with m.If(frames.o.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                # Cycles for the check, whose result is a register.
                m.next = "CHECKED"
            with m.State("CHECKED"):
                m.next = "JUDGED"
            with m.State("JUDGED"):
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [self._status.eq(status), shown.eq(Value.cast(state)), counts.eq(1)]
                with m.If(~right | repeated):
                    m.next = "ANSWER"
                with m.Else():
                    with m.If(writes):
                        m.d.sync += [last.eq(request.sequence), done.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(self._failed):
                    m.d.sync += self._status.eq(BridgeStatus.BUS_ERROR)
                with m.If(self._ended):
                    m.d.sync += self.pinged.eq(chosen[BridgeCommand.PING])
                    m.next = "ANSWER"
                with m.Else():
                    m.d.sync += [self._run.eq(1), shown.eq(Value.cast(state))]
            with m.State("ANSWER"):
                m.d.comb += sender.i.valid.eq(1)
                # Until now the buffer belonged to this request.
                m.d.comb += frames.o.ready.eq(sender.i.ready)
                with m.If(sender.i.ready):
                    m.next = "GONE"
            with m.State("GONE"):
                m.next = "WAIT"

    def _checked(self, m: Module) -> Signal:
        """What is wrong with a request, three cycles after it has come; and how much it asks for."""
        request, status = self._request, Signal(BridgeStatus)
        length = request.length
        data_bytes = length - 4
        wrong, known = Signal(), Signal()
        odd = request.first[: self.shift] != 0
        sizes = {
            BridgeCommand.PING: (length == 0, 0, IDENTITY_BYTES),
            BridgeCommand.READ: (
                (length == 8) & ~odd & (request.second <= DATA_MAX) & (request.second[: self.shift] == 0),
                request.second >> self.shift,
                request.second,
            ),
            BridgeCommand.WRITE: (
                (length >= 4) & ~odd & (length[: self.shift] == 0),
                data_bytes >> self.shift,
                0,
            ),
            BridgeCommand.READ_REGISTERS: (
                (length == 8) & (request.second <= DATA_MAX // 4),
                request.second,
                request.second << 2,
            ),
            BridgeCommand.WRITE_REGISTERS: ((length >= 4) & (length[:2] == 0), data_bytes >> 2, 0),
            BridgeCommand.CHECK: (
                (length == 8) & ~odd & (request.second[: self.shift] == 0),
                request.second >> self.shift,
                4,
            ),
        }
        m.d.sync += [wrong.eq(0), known.eq(Cat(self._chosen.values()).any())]
        for kind, (right, count, answer) in sizes.items():
            with m.If(self._chosen[kind]):
                m.d.sync += wrong.eq(~right)
                with m.If(~self._run):
                    m.d.sync += [self._left.eq(count), self._length.eq(answer)]
        with m.If(~request.intact):
            m.d.sync += status.eq(BridgeStatus.BAD_CRC)
        with m.Elif(~known):
            m.d.sync += status.eq(BridgeStatus.BAD_COMMAND)
        with m.Elif(wrong):
            m.d.sync += status.eq(BridgeStatus.BAD_LENGTH)
        with m.Else():
            m.d.sync += status.eq(BridgeStatus.OK)
        return status

    def _put(self, m: Module) -> tuple[Signal, Signal]:
        """Drive these for one cycle: a word is stored in the buffer, as the next one; which word."""
        store, word = Signal(), Signal.like(self._word, reset_less=False)
        stores, stored = Signal(), Signal.like(self._word)
        m.d.sync += [stores.eq(store), stored.eq(word)]
        self._stores.append(stores)
        self._words.append(stored)
        return store, word

    def _use(self, m: Module) -> tuple[Signal, Signal]:
        """Drive these for one cycle: the next word's turn, and so many words less are left."""
        advance, less = Signal.like(self._advance), Signal.like(self._less)
        wanted, fewer = Signal.like(advance), Signal.like(less)
        m.d.sync += [wanted.eq(advance), fewer.eq(less)]
        self._advances.append(wanted)
        self._lesses.append(fewer)
        return advance, less

    def _settled(self, m: Module, waiting: Value) -> tuple[Signal, Signal]:
        """Set for a cycle: all that was changed before has been known for a while, with words left; or with
        none left. Counted while a state machine waits, and anew after each."""
        since, some, none = Signal(SETTLING), Signal(), Signal()
        settled, waits = Signal(), Signal()
        m.d.comb += settled.eq(waits & since[-1] & ~some & ~none)
        m.d.sync += [
            waits.eq(waiting),
            since.eq(Mux(waits & ~some & ~none, Cat(1, since), 0)),
            some.eq(settled & ~self._none),
            none.eq(settled & self._none),
        ]
        return some, none

    def _end(self, m: Module, go: Value) -> Value:
        """In a state machine: its last state, held until the request is no longer carried out."""
        ended = Signal()
        with m.State("END"):
            m.d.comb += ended.eq(1)
            with m.If(~go):
                m.next = "IDLE"
        return ended

    def _go(self, m: Module, *commands: BridgeCommand) -> Signal:
        """A request of this kind, which has been known for some cycles, is carried out, a cycle later."""
        go, mine = Signal(), Signal()
        m.d.sync += [
            mine.eq(Cat(self._chosen[command] for command in commands).any()),
            go.eq(self._run & mine),
        ]
        return go

    def _build_ping(self, m: Module) -> Value:
        """The identity, a word at a time. Returns whether all of it is there."""
        fields = (
            int.from_bytes(b"SRNB", "little") | VERSION << 32 | (DATA_MAX + 4) << 48,
            self.identity["memory_bytes"] | self.identity["clock_hz"] << 32,
        )
        rest = self.identity["baud"] | self.width << 32
        content = Cat(*(Const(field, 64) for field in fields), Const(rest, 48), self._bad, self._good)
        words = IDENTITY_BYTES // self.width
        place, go = Signal(range(words)), self._go(m, BridgeCommand.PING)
        store, word = self._put(m)
        with m.FSM(name="ping"):
            with m.State("IDLE"):
                m.d.sync += place.eq(0)
                with m.If(go):
                    m.next = "PUT"
            with m.State("PUT"):
                m.d.comb += [store.eq(1), word.eq(content.word_select(place, 8 * self.width))]
                m.d.sync += place.eq(place + 1)
                with m.If(place == words - 1):
                    m.next = "END"
            return self._end(m, go)

    def _build_memory_writes(self, m: Module) -> tuple[Value, Value]:
        """A burst of one word after another, the answers of up to 15 of which may be on their way. Returns
        whether all have come, and whether one is bad."""
        write, width = self.write, self.width
        pending = Signal(range(WRITES_MAX + 1))
        begun, answered = Signal(), Signal()
        advance, less = self._use(m)
        go = self._go(m, BridgeCommand.WRITE)
        m.d.comb += [
            write.awsize.eq(self.shift),
            write.awburst.eq(INCR),
            write.awcache.eq(0b0011),
            write.wstrb.eq(~0),
            write.wlast.eq(1),
            write.bready.eq(1),
        ]
        m.d.sync += [answered.eq(write.bvalid), pending.eq(pending + begun - answered)]
        with m.If(write.awready):
            m.d.sync += write.awvalid.eq(0)
        with m.If(write.wready):
            m.d.sync += write.wvalid.eq(0)
        with m.If(~write.wvalid):
            m.d.sync += write.wdata.eq(self._fetched)
        with m.FSM(name="memory_writes") as fsm:
            some, none = self._settled(m, fsm.ongoing("FETCH"))
            with m.State("IDLE"):
                m.d.sync += write.awaddr.eq(self._request.first)
                with m.If(go):
                    m.next = "FETCH"
            with m.State("FETCH"):
                with m.If(none):
                    m.next = "WAIT"
                with m.If(some & (pending != WRITES_MAX)):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [begun.eq(1), advance.eq(1), less.eq(1)]
                m.d.sync += [write.awvalid.eq(1), write.wvalid.eq(1)]
                m.next = "NEXT"
            with m.State("NEXT"):
                with m.If(~write.awvalid & ~write.wvalid):
                    m.d.sync += write.awaddr.eq(write.awaddr + width)
                    m.next = "FETCH"
            with m.State("WAIT"):
                with m.If(pending == 0):
                    m.next = "END"
            return self._end(m, go), write.bvalid & write.bresp[1]

    def _build_memory_reads(self, m: Module) -> tuple[Value, Value]:
        """Bursts of up to 64 bytes, into the buffer or through a CRC. Returns whether all is there, and
        whether something is bad."""
        read, width = self.read, self.width
        burst = BURST_BYTES // width
        checking, (_, less) = Signal(), self._use(m)
        go = self._go(m, BridgeCommand.READ, BridgeCommand.CHECK)
        # Known in the memory's neighbourhood a cycle later, long before it is valid.
        address = Signal.like(read.araddr)
        words = 4 // width
        place, crc, fresh = Signal(), Signal(32), Signal()
        word, arrived, ended = Signal(8 * width, reset_less=True), Signal(), Signal()
        store, stored = self._put(m)
        last_word = Signal.like(word, reset_less=True)
        beats, to_end, few = Signal(range(burst + 1)), Signal(range(burst + 1)), Signal()
        begin = Signal.like(address[self.shift : exact_log2(BURST_BYTES)])
        # The same, where the memory is.
        asked, ask = Signal.like(beats), Signal()
        # What the state machine decides, a cycle later: what is behind it does not look at its state.
        measuring, moves, tell = Signal(), Signal(), Signal()
        m.d.comb += [
            read.arsize.eq(self.shift),
            read.arburst.eq(INCR),
            read.arcache.eq(0b0011),
            read.rready.eq(1),
        ]
        m.d.sync += [
            checking.eq(self._chosen[BridgeCommand.CHECK]),
            asked.eq(beats),
            ask.eq(0),
            moves.eq(0),
            tell.eq(0),
            read.araddr.eq(address),
            begin.eq(address[self.shift : exact_log2(BURST_BYTES)]),
            to_end.eq(burst - begin),
            few.eq(self._left < to_end),
            read.arlen.eq(asked - 1),
            word.eq(read.rdata),
            arrived.eq(read.rvalid),
            ended.eq(read.rvalid & read.rlast),
            last_word.eq(word),
            fresh.eq(arrived),
        ]
        with m.If(fresh):
            m.d.sync += crc.eq(crc32_step(crc, last_word, width))
        with m.If(moves):
            m.d.sync += address.eq(address + (asked << self.shift))
        with m.If(tell):
            m.d.sync += place.eq(place + 1)
        with m.If(~go):
            m.d.sync += [address.eq(self._request.first), place.eq(0), crc.eq(_ALL_ONES)]
        with m.If(measuring):
            m.d.sync += beats.eq(Mux(few, self._left, to_end))
        with m.If(read.arready):
            m.d.sync += read.arvalid.eq(0)
        with m.If(ask):
            m.d.comb += less.eq(beats)
            m.d.sync += read.arvalid.eq(1)
        checked = (~crc).word_select(place, 8 * width) if width == 2 else ~crc
        m.d.comb += [
            store.eq(arrived & ~checking | tell),
            stored.eq(Mux(arrived, word, 0) | Mux(tell, checked, 0)),
        ]
        with m.FSM(name="memory_reads") as fsm:
            m.d.sync += measuring.eq(fsm.ongoing("MEASURE"))
            some, none = self._settled(m, fsm.ongoing("MEASURE"))
            with m.State("IDLE"):
                with m.If(go):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                with m.If(none):
                    m.next = "FINISH"
                with m.If(some):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.sync += ask.eq(1)
                m.next = "DATA"
            with m.State("DATA"):
                with m.If(ended):
                    m.d.sync += moves.eq(1)
                    m.next = "MEASURE"
            for index in range(words):
                with m.State("FINISH" if index == 0 else f"FINISH_{index}"):
                    m.d.sync += tell.eq(checking)
                    m.next = "END" if index == words - 1 else f"FINISH_{index + 1}"
            return self._end(m, go), read.rvalid & read.rresp[1]

    def _build_registers(self, m: Module) -> tuple[Value, Value]:
        """Word after word, each after the answer to the one before. Returns whether that was the last, and
        whether one is bad."""
        bus, width = self.registers, self.width
        writing = self._chosen[BridgeCommand.WRITE_REGISTERS]
        parts = 4 // width
        part, value = Signal(range(parts + 1)), Signal(32)
        offset = Signal(ADDRESS_BITS)
        advance, less = self._use(m)
        go = self._go(m, BridgeCommand.WRITE_REGISTERS, BridgeCommand.READ_REGISTERS)
        written, read = Signal(), Signal()
        # A word of the buffer is taken into the value, or put there out of it, in this cycle.
        take, put = Signal(), Signal()
        store, word = self._put(m)
        m.d.comb += [
            bus.awaddr.eq(offset),
            bus.araddr.eq(offset),
            bus.wdata.eq(value),
            bus.wstrb.eq(~0),
            bus.bready.eq(1),
            bus.rready.eq(1),
        ]
        m.d.sync += [written.eq(bus.bvalid), read.eq(bus.rvalid), take.eq(0), put.eq(0)]
        with m.If(bus.rvalid):
            m.d.sync += value.eq(bus.rdata)
        with m.If(take | put):
            m.d.sync += [value.eq(Cat(value, self._fetched)[8 * width :]), part.eq(part + 1)]
        with m.If(take):
            m.d.comb += advance.eq(1)
        with m.If(put):
            m.d.comb += [store.eq(1), word.eq(value[: 8 * width])]
        with m.If(written | read):
            m.d.sync += offset.eq(offset + 4)
        with m.If(~go):
            m.d.sync += offset.eq(self._request.first)
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.FSM(name="registers") as fsm:
            some, none = self._settled(m, fsm.ongoing("NEXT") | fsm.ongoing("TAKE"))
            with m.State("IDLE"):
                with m.If(go):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += part.eq(0)
                with m.If(none):
                    m.next = "END"
                with m.If(some):
                    m.d.comb += less.eq(1)
                    m.d.sync += bus.arvalid.eq(~writing)
                    m.next = "READ"
                    with m.If(writing):
                        m.next = "TAKE"
            with m.State("TAKE"):
                with m.If(some | none):
                    m.d.sync += take.eq(1)
                    m.next = "TAKEN"
            with m.State("TAKEN"):
                m.next = "TAKE"
                with m.If(part == parts - 1):
                    m.d.sync += [bus.awvalid.eq(1), bus.wvalid.eq(1)]
                    m.next = "WRITE"
            with m.State("WRITE"):
                with m.If(written):
                    m.next = "NEXT"
            with m.State("READ"):
                with m.If(read):
                    m.next = "PUT"
            with m.State("PUT"):
                m.d.sync += put.eq(1)
                m.next = "PUTTING"
            with m.State("PUTTING"):
                m.next = "PUT"
                with m.If(part == parts - 1):
                    m.next = "NEXT"
            return self._end(m, go), (bus.bvalid & bus.bresp[1]) | (bus.rvalid & bus.rresp[1])


def _delayed(m: Module, value: Value) -> Signal:
    later = Signal(value.shape(), name="byte_in_word")
    m.d.sync += later.eq(value)
    return later
