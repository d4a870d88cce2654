# SPDX-License-Identifier: Apache-2.0
"""A host at a serial line: reads and writes memory and registers."""

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
    Request,
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
        A PING is answered in this cycle.
    received : ``Out(1)``
        A byte has come in this cycle.
    sent : ``Out(1)``
        A byte leaves in this cycle.
    error : ``Out(1)``
        A byte or a request has been dropped or refused in this cycle.

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
            unsigned(8 * self.width), words, transparent=False, granularity=8
        )
        m.submodules.frames = self._frames = FrameReceiver(self.gap)
        m.submodules.sender = self._sender = FrameSender()
        self._request = Signal(Request)
        # Words of the buffer: which is next, how many are left.
        self._index, self._left = Signal(range(words + 1)), Signal(32)
        self._word = Signal(8 * self.width, reset_less=True)
        self._fetched = Signal(8 * self.width, reset_less=True)
        self._store, self._fetch, self._stored = Signal(), Signal(), Signal()
        self._status = Signal(BridgeStatus)
        self._length = Signal(16)
        self._running = {command: Signal(name=f"run_{command.name.lower()}") for command in BridgeCommand}
        self._ended = Signal()
        self._overrun, self._good, self._bad = Signal(), Signal(32), Signal(16)
        self._build_line(m)
        self._build_buffer(m)
        self._build_control(m)
        self._build_ping(m)
        self._build_memory_writes(m)
        self._build_memory_reads(m)
        self._build_registers(m)
        return m

    def _build_line(self, m: Module) -> None:
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.received_bytes = waiting = StreamFIFO(unsigned(8), self.waiting)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        wiring.connect(m, receiver.o, waiting.i)
        m.submodules.waited = waited = MemoryOutput(unsigned(8))
        wiring.connect(m, waiting.o, waited.i)
        wiring.connect(m, waited.o, self._frames.i)
        wiring.connect(m, self._sender.o, transmitter.i)
        refused = self._frames.o.valid & self._frames.o.ready & ~self._frames.o.payload.intact
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.received.eq(receiver.o.valid & receiver.o.ready),
            self.sent.eq(transmitter.i.valid & transmitter.i.ready),
            self.error.eq(receiver.overrun | receiver.broken | refused),
        ]
        with m.If(receiver.overrun):
            m.d.sync += self._overrun.eq(1)
        with m.Elif(self.pinged):
            m.d.sync += self._overrun.eq(0)

    def _build_buffer(self, m: Module) -> None:
        """Bytes of a request go in, those of a response out; else it belongs to what is carried out."""
        buffer, frames, sender = self._buffer, self._frames, self._sender
        # Behind the memory, which is slow, lies a register.
        place = sender.place[: self.shift]
        m.d.sync += [self._store.eq(0), self._fetched.eq(buffer.r_data)]
        m.d.comb += [
            buffer.r_en.eq(1),
            buffer.r_addr.eq(Mux(self._fetch, self._index, sender.place[self.shift :])),
            sender.byte.eq(self._fetched.word_select(_delayed(m, _delayed(m, place)), 8)),
            buffer.w_en.eq(Mux(self._store, ~0, frames.store << frames.place[: self.shift])),
            buffer.w_addr.eq(Mux(self._store, self._index, frames.place[self.shift :])),
            buffer.w_data.eq(Mux(self._store, self._word, frames.byte.replicate(self.width))),
        ]

    def _build_control(self, m: Module) -> None:
        frames, sender, request = self._frames, self._sender, self._request
        state, shown = Signal(BridgeState), Signal(8)
        length = Signal.like(self._length)
        chosen = {command: Signal(name=f"is_{command.name.lower()}") for command in BridgeCommand}
        m.d.sync += [known.eq(request.command == command.value) for command, known in chosen.items()]
        m.d.comb += [
            sender.i.payload.state.eq(shown),
            state.eq(self.state),
            state.overrun.eq(self._overrun),
            sender.i.payload.sequence.eq(request.sequence),
            sender.i.payload.command.eq(request.command),
            sender.i.payload.status.eq(self._status),
            sender.i.payload.length.eq(length),
        ]
        m.d.sync += length.eq(Mux(self._status == BridgeStatus.OK, self._length, 0))
        status = self._checked(m)
        last = Signal(8)
        done = Signal()
        repeated = request.flags[0] & done & (request.sequence == last)
        writes = request.command == BridgeCommand.WRITE_REGISTERS.value
        with m.FSM(name="control"):
            with m.State("WAIT"):
                m.d.sync += [request.eq(frames.o.payload), self._index.eq(0), self._stored.eq(0)]
                with m.If(frames.o.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                # A cycle for the check, whose result is a register.
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [self._status.eq(status), shown.eq(Value.cast(state))]
                with m.If(status == BridgeStatus.OK):
                    m.d.sync += self._good.eq(self._good + 1)
                with m.Elif(~self._bad.all()):
                    m.d.sync += self._bad.eq(self._bad + 1)
                with m.If((status != BridgeStatus.OK) | (writes & repeated)):
                    m.next = "ANSWER"
                with m.Else():
                    with m.If(writes):
                        m.d.sync += [last.eq(request.sequence), done.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                for command, running in self._running.items():
                    m.d.comb += running.eq(chosen[command])
                with m.If(self._ended):
                    m.d.sync += shown.eq(Value.cast(state))
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += sender.i.valid.eq(1)
                # Until now the buffer belonged to this request.
                m.d.comb += frames.o.ready.eq(sender.i.ready)
                with m.If(sender.i.ready):
                    m.next = "GONE"
            with m.State("GONE"):
                m.next = "WAIT"

    def _checked(self, m: Module) -> Signal:
        """What is wrong with a request, one cycle after it has come; and how much it asks for."""
        request, status = self._request, Signal(BridgeStatus)
        command, length = request.command, request.length
        data_bytes = length - 4
        wrong, known = Signal(), Signal(init=1)
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
        m.d.comb += [wrong.eq(0), known.eq(0)]
        with m.Switch(command):
            for kind, (right, count, answer) in sizes.items():
                with m.Case(kind.value):
                    m.d.comb += [wrong.eq(~right), known.eq(1)]
                    with m.If(~self._running[kind]):
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

    def _put(self, word: Value, index: Value) -> list:
        """Statements that store a word in the buffer, one cycle later."""
        return [self._store.eq(1), self._word.eq(word), self._index.eq(index)]

    def _build_ping(self, m: Module) -> None:
        """The identity, a word at a time."""
        fields = (
            int.from_bytes(b"SRNB", "little") | VERSION << 32 | (DATA_MAX + 4) << 48,
            self.identity["memory_bytes"] | self.identity["clock_hz"] << 32,
        )
        rest = self.identity["baud"] | self.width << 32
        content = Cat(*(Const(field, 64) for field in fields), Const(rest, 48), self._bad, self._good)
        with m.If(self._running[BridgeCommand.PING]):
            m.d.sync += self._left.eq(self._left + 1)
            with m.If(self._left == IDENTITY_BYTES // self.width):
                m.d.comb += [self._ended.eq(1), self.pinged.eq(1)]
            with m.Else():
                m.d.sync += self._put(content.word_select(self._left[:4], 8 * self.width), self._left)

    def _build_memory_writes(self, m: Module) -> None:
        """A burst of one word after another, the answers of up to 15 of which may be on their way."""
        write, width = self.write, self.width
        pending = Signal(range(WRITES_MAX + 1))
        begun, answered = Signal(), Signal()
        m.d.comb += [
            write.awsize.eq(self.shift),
            write.awburst.eq(INCR),
            write.awcache.eq(0b0011),
            write.wstrb.eq(~0),
            write.wlast.eq(1),
            write.bready.eq(1),
            answered.eq(write.bvalid),
        ]
        m.d.sync += pending.eq(pending + begun - answered)
        with m.If(answered & write.bresp[1]):
            m.d.sync += self._status.eq(BridgeStatus.BUS_ERROR)
        with m.If(write.awready):
            m.d.sync += write.awvalid.eq(0)
        with m.If(write.wready):
            m.d.sync += write.wvalid.eq(0)
        with m.FSM(name="memory_writes"):
            with m.State("IDLE"):
                m.d.sync += write.awaddr.eq(self._request.first)
                with m.If(self._running[BridgeCommand.WRITE]):
                    m.next = "FETCH"
            with m.State("FETCH"):
                free = (~write.awvalid | write.awready) & (~write.wvalid | write.wready)
                with m.If(self._left == 0):
                    m.d.comb += self._ended.eq((pending == 0) & ~write.awvalid & ~write.wvalid)
                    with m.If(self._ended):
                        m.next = "IDLE"
                with m.Elif(free & (pending != WRITES_MAX)):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += begun.eq(1)
                m.d.sync += [
                    write.awvalid.eq(1),
                    write.wvalid.eq(1),
                    write.wdata.eq(self._fetched),
                    self._index.eq(self._index + 1),
                    self._left.eq(self._left - 1),
                ]
                m.next = "NEXT"
            with m.State("NEXT"):
                with m.If(~write.awvalid | write.awready):
                    m.d.sync += write.awaddr.eq(write.awaddr + width)
                    m.next = "FETCH"

    def _build_memory_reads(self, m: Module) -> None:
        """Bursts of up to 64 bytes, into the buffer or through a CRC."""
        read, width = self.read, self.width
        burst = BURST_BYTES // width
        checking = self._running[BridgeCommand.CHECK]
        place, crc, fresh = Signal(range(DATA_MAX // width + 1)), Signal(32), Signal()
        arrived = Signal()
        beats, to_end = Signal(range(burst + 1)), Signal(range(burst + 1))
        m.d.comb += [
            read.arsize.eq(self.shift),
            read.arburst.eq(INCR),
            read.arcache.eq(0b0011),
            read.rready.eq(1),
            read.arlen.eq(beats - 1),
            to_end.eq(burst - read.araddr[self.shift : exact_log2(BURST_BYTES)]),
            arrived.eq(read.rvalid),
        ]
        m.d.sync += fresh.eq(arrived)
        with m.If(fresh):
            m.d.sync += crc.eq(crc32_step(crc, self._word, width))
        with m.If(arrived):
            m.d.sync += [*self._put(read.rdata, place), self._store.eq(~checking), place.eq(place + 1)]
            with m.If(read.rresp[1]):
                m.d.sync += self._status.eq(BridgeStatus.BUS_ERROR)
        with m.If(read.arready):
            m.d.sync += read.arvalid.eq(0)
        with m.FSM(name="memory_reads"):
            with m.State("IDLE"):
                m.d.sync += [read.araddr.eq(self._request.first), place.eq(0), crc.eq(_ALL_ONES)]
                with m.If(self._running[BridgeCommand.READ] | checking):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                m.d.sync += beats.eq(Mux(self._left < to_end, self._left, to_end))
                with m.If(self._left == 0):
                    m.d.sync += place.eq(0)
                    m.next = "FINISH"
                with m.Else():
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.sync += [read.arvalid.eq(1), self._left.eq(self._left - beats)]
                m.next = "DATA"
            with m.State("DATA"):
                with m.If(arrived & read.rlast):
                    m.d.sync += read.araddr.eq(read.araddr + (beats << self.shift))
                    m.next = "MEASURE"
            with m.State("FINISH"):
                with m.If(checking & (place != 4 // width)):
                    checked = (~crc).word_select(place[:1], 8 * width) if width == 2 else ~crc
                    m.d.sync += [*self._put(checked, place), place.eq(place + 1)]
                with m.Else():
                    m.d.comb += self._ended.eq(1)
                    m.next = "IDLE"

    def _build_registers(self, m: Module) -> None:
        """Word after word, each after the answer to the one before."""
        bus, width = self.registers, self.width
        writing = self._running[BridgeCommand.WRITE_REGISTERS]
        parts = 4 // width
        part, value = Signal(range(parts + 1)), Signal(32)
        offset = Signal(ADDRESS_BITS)
        m.d.comb += [
            self._fetch.eq(writing | self._running[BridgeCommand.WRITE]),
            bus.awaddr.eq(offset),
            bus.araddr.eq(offset),
            bus.wdata.eq(value),
            bus.wstrb.eq(~0),
            bus.bready.eq(1),
            bus.rready.eq(1),
        ]
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If((bus.bvalid & bus.bresp[1]) | (bus.rvalid & bus.rresp[1])):
            m.d.sync += self._status.eq(BridgeStatus.BUS_ERROR)
        with m.FSM(name="registers"):
            with m.State("IDLE"):
                m.d.sync += offset.eq(self._request.first)
                with m.If(writing | self._running[BridgeCommand.READ_REGISTERS]):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [part.eq(0), self._left.eq(self._left - 1)]
                with m.If(self._left == 0):
                    m.d.comb += self._ended.eq(1)
                    m.next = "IDLE"
                with m.Elif(writing):
                    m.next = "FETCH"
                with m.Else():
                    m.d.sync += bus.arvalid.eq(1)
                    m.next = "READ"
            with m.State("FETCH"):
                # The buffer takes two cycles.
                m.next = "FETCHED"
            with m.State("FETCHED"):
                m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += [
                    value.eq(Cat(value, self._fetched)[8 * width :]),
                    self._index.eq(self._index + 1),
                    part.eq(part + 1),
                ]
                with m.If(part == parts - 1):
                    m.d.sync += [bus.awvalid.eq(1), bus.wvalid.eq(1)]
                    m.next = "WRITE"
                with m.Else():
                    m.next = "FETCH"
            with m.State("WRITE"):
                with m.If(bus.bvalid):
                    m.d.sync += offset.eq(offset + 4)
                    m.next = "NEXT"
            with m.State("READ"):
                m.d.sync += value.eq(bus.rdata)
                with m.If(bus.rvalid):
                    m.d.sync += offset.eq(offset + 4)
                    m.next = "PUT"
            with m.State("PUT"):
                m.d.sync += [
                    *self._put(value[: 8 * width], self._index + self._stored),
                    value.eq(value >> 8 * width),
                    self._stored.eq(1),
                    part.eq(part + 1),
                ]
                with m.If(part == parts - 1):
                    m.next = "NEXT"


def _delayed(m: Module, value: Value) -> Signal:
    later = Signal(value.shape(), name="byte_in_word")
    m.d.sync += later.eq(value)
    return later
