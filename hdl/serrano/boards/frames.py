# SPDX-License-Identifier: Apache-2.0
"""Frames of the UART bridge, version 1 (``docs/uart-bridge.md``): taken apart, and put together."""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.tape.crc import crc32_step

__all__ = [
    "DATA_MAX",
    "SYNC",
    "VERSION",
    "BridgeCommand",
    "BridgeStatus",
    "FrameReceiver",
    "FrameSender",
    "Request",
    "Response",
]

VERSION = 1
SYNC = b"\xa5\x5e"
DATA_MAX = 1024
"""Bytes of a payload behind its first four."""

BUFFER_LATENCY = 5
_HEADER = 6
_ARGUMENTS = 8
_ALL_ONES = (1 << 32) - 1


class BridgeCommand(enum.Enum, shape=unsigned(8)):
    """What a request asks for."""

    PING = 0
    READ = 1
    WRITE = 2
    READ_REGISTERS = 3
    WRITE_REGISTERS = 4
    CHECK = 5


class BridgeStatus(enum.Enum, shape=unsigned(8)):
    """What became of it."""

    OK = 0
    BAD_CRC = 1
    BAD_COMMAND = 2
    BAD_LENGTH = 3
    BUS_ERROR = 4


class Request(data.Struct):
    """A request whose data is in the buffer. ``first`` and ``second`` are the payload's first two words."""

    sequence: unsigned(8)
    command: unsigned(8)
    flags: unsigned(8)
    length: unsigned(16)
    first: unsigned(32)
    second: unsigned(32)
    intact: unsigned(1)
    """Its CRC is right."""


class Response(data.Struct):
    """A response; ``length`` bytes of the buffer are its payload."""

    sequence: unsigned(8)
    command: unsigned(8)
    status: BridgeStatus
    state: unsigned(8)
    length: unsigned(16)


class FrameReceiver(wiring.Component):
    """Finds frames among bytes.

    It takes a byte in every second cycle. It waits for the two bytes of SYNC; then come header, payload and
    CRC. Frames that are too long are
    none: it waits for SYNC again, as it does if nothing comes for ``gap`` cycles in the middle of one. While
    a request waits to be taken no bytes are: what was stored stays.

    Parameters
    ----------
    gap : :class:`int`
        Cycles without a byte after which a frame is given up.

    Members
    -------
    i : ``In(stream.Signature(8))``
        Bytes of the line.
    store : ``Out(1)``
        A byte of data is to be stored in this cycle.
    place : ``Out(range(1024))``
        Where: its place in the payload behind the first four bytes.
    byte : ``Out(8)``
        The byte.
    o : ``Out(stream.Signature(Request))``
        Requests.
    """

    def __init__(self, gap: int):
        self.gap = gap
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "store": Out(1),
                "place": Out(range(DATA_MAX)),
                "byte": Out(8),
                "o": Out(stream.Signature(Request)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        request = self.o.payload
        self._header = Signal(8 * _HEADER, reset_less=True)
        arguments = Signal(data.ArrayLayout(unsigned(8), _ARGUMENTS), reset_less=True)
        self._count, self._crc, self._received = Signal(11), Signal(32), Signal(32, reset_less=True)
        quiet, self._silent = Signal(range(self.gap + 1)), Signal()
        # A byte is looked at in the cycle after it was taken; the next one is taken in the cycle behind that.
        self._byte, self._taken, self._last = Signal(8, reset_less=True), Signal(), Signal()
        self._hunting, self._counted, self._measuring = (Signal() for _ in range(3))
        self._argument = Signal(_ARGUMENTS)
        # What is asked of the byte, of the count and of the length, kept beside them.
        self._is_sync = Signal(len(SYNC))
        self._in_data, self._in_arguments, self._ends_header, self._ends_crc = (Signal() for _ in range(4))
        self._long, self._empty = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~self._taken & ~self.o.valid & ~self._measuring),
            Cat(request.sequence, request.command, request.flags).eq(self._header[:24]),
            request.length.eq(self._header[32:]),
            Cat(request.first, request.second).eq(arguments),
        ]
        m.d.sync += [
            self._taken.eq(self.i.valid & self.i.ready),
            self._byte.eq(self.i.payload),
            self._is_sync.eq(Cat(self.i.payload == byte for byte in SYNC)),
            self._last.eq(self._count + 1 == request.length),
            self._in_data.eq(self._count >= 4),
            self._in_arguments.eq(self._count < _ARGUMENTS),
            self._ends_header.eq(self._count == _HEADER - 1),
            self._ends_crc.eq(self._count == 3),
            self._long.eq(request.length > DATA_MAX + 4),
            self._empty.eq(request.length == 0),
            self.byte.eq(self._byte),
            self.place.eq(self._count - 4),
            self.store.eq(0),
            self._argument.eq(0),
        ]
        for place in range(_ARGUMENTS):
            with m.If(self._argument[place]):
                m.d.sync += arguments[place].eq(self.byte)
        with m.If(self._taken | self._hunting):
            m.d.sync += [quiet.eq(self.gap), self._silent.eq(0)]
        with m.Elif(~self._silent):
            m.d.sync += [quiet.eq(quiet - 1), self._silent.eq(quiet == 1)]
        with m.If(self._taken & self._counted):
            m.d.sync += self._crc.eq(crc32_step(self._crc, self._byte, 1))
        with m.If(self._taken):
            m.d.sync += self._count.eq(self._count + 1)
        self._build_states(m)
        return m

    def _build_states(self, m: Module) -> None:
        """Where in a frame we are."""
        with m.FSM():
            with m.State("SYNC"):
                m.d.comb += self._hunting.eq(1)
                with m.If(self._taken & self._is_sync[0]):
                    m.next = "SECOND"
            with m.State("SECOND"):
                m.d.sync += [self._crc.eq(_ALL_ONES), self._count.eq(0)]
                with m.If(self._taken & self._is_sync[1]):
                    m.next = "HEADER"
                with m.Elif((self._taken & ~self._is_sync[0]) | self._silent):
                    m.next = "SYNC"
            with m.State("HEADER"):
                m.d.comb += self._counted.eq(1)
                with m.If(self._taken):
                    m.d.sync += self._header.eq(Cat(self._header[8:], self._byte))
                    with m.If(self._ends_header):
                        m.d.sync += self._count.eq(0)
                        m.next = "LENGTH"
                with m.Elif(self._silent):
                    m.next = "SYNC"
            with m.State("LENGTH"):
                m.d.comb += self._measuring.eq(1)
                m.next = "MEASURED"
            with m.State("MEASURED"):
                m.d.comb += self._measuring.eq(1)
                with m.If(self._long):
                    m.next = "SYNC"
                with m.Elif(self._empty):
                    m.next = "CRC"
                with m.Else():
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += self._counted.eq(1)
                with m.If(self._taken):
                    m.d.sync += self.store.eq(self._in_data)
                    with m.If(self._in_arguments):
                        m.d.sync += self._argument.eq(1 << self._count[:3])
                    with m.If(self._last):
                        m.d.sync += self._count.eq(0)
                        m.next = "CRC"
                with m.Elif(self._silent):
                    m.next = "SYNC"
            with m.State("CRC"):
                with m.If(self._taken):
                    m.d.sync += self._received.eq(Cat(self._received[8:], self._byte))
                    with m.If(self._ends_crc):
                        m.next = "COMPARE"
                with m.Elif(self._silent):
                    m.next = "SYNC"
            with m.State("COMPARE"):
                m.d.comb += self._measuring.eq(1)
                m.d.sync += [self.o.payload.intact.eq(self._received == ~self._crc), self.o.valid.eq(1)]
                m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += self._hunting.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += self.o.valid.eq(0)
                    m.next = "SYNC"


class FrameSender(wiring.Component):
    """Sends responses, with payloads from a buffer.

    Members
    -------
    i : ``In(stream.Signature(Response))``
        Responses; taken when the last byte has been given out.
    place : ``Out(range(1024))``
        Byte of the buffer that is wanted four cycles later.
    byte : ``In(8)``
        The byte.
    o : ``Out(stream.Signature(8))``
        Bytes for the line.
    """

    i: In(stream.Signature(Response))
    place: Out(range(DATA_MAX))
    byte: In(8)
    o: Out(stream.Signature(8))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        response = self.i.payload
        count, crc = Signal(11), Signal(32)
        content = Signal(8 * _HEADER)
        m.d.comb += [
            content.eq(
                Cat(
                    response.sequence,
                    response.command | 0x80,
                    response.status.as_value(),
                    response.state,
                    response.length,
                )
            ),
            self.place.eq(count),
        ]
        parts = {
            "SYNC": (Const(int.from_bytes(SYNC, "little"), 16).word_select(count[:1], 8), 2, False),
            "HEADER": (content.word_select(count[:3], 8), _HEADER, True),
            "PAYLOAD": (self.byte, response.length, True),
            "CRC": ((~crc).word_select(count[:2], 8), 4, False),
        }
        names = list(parts)
        following = dict(zip(names, [*names[1:], "DONE"], strict=True))
        after = Signal(range(BUFFER_LATENCY))
        # The last cycle of a wait; the part has been given out, looked at in its waits alone.
        due, given = Signal(), Signal()
        m.d.sync += due.eq(after == BUFFER_LATENCY - 2)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [count.eq(0), crc.eq(_ALL_ONES)]
                with m.If(self.i.valid):
                    m.next = "SYNC-WAIT"
            for name, (byte, length, counted) in parts.items():
                with m.State(f"{name}-WAIT"):
                    # The buffer takes four cycles, and its byte is taken in the next one.
                    m.d.sync += [
                        after.eq(Mux(due, 0, after + 1)),
                        given.eq(count == length),
                        self.o.payload.eq(byte),
                    ]
                    with m.If(due & given):
                        m.d.sync += count.eq(0)
                        if name == "CRC":
                            m.next = "DONE"
                        else:
                            m.next = f"{following[name]}-WAIT"
                    with m.Elif(due):
                        m.d.sync += self.o.valid.eq(1)
                        m.next = name
                with m.State(name), m.If(self.o.ready):
                    m.d.sync += [self.o.valid.eq(0), count.eq(count + 1)]
                    if counted:
                        m.d.sync += crc.eq(crc32_step(crc, self.o.payload, 1))
                    m.next = f"{name}-WAIT"
            with m.State("DONE"):
                m.d.comb += self.i.ready.eq(1)
                m.next = "IDLE"
        return m
