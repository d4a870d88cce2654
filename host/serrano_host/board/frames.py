# SPDX-License-Identifier: Apache-2.0
"""Frames of the UART bridge, version 1: docs/uart-bridge.md is normative.

Nothing here knows a line: bytes go in and come out.
"""

import enum
import struct
import zlib
from dataclasses import dataclass

__all__ = [
    "HEADER_BYTES",
    "PAYLOAD_MAX",
    "SYNC",
    "VERSION",
    "Command",
    "Decoder",
    "Flags",
    "Frame",
    "Identity",
    "State",
    "Status",
    "encode",
]

VERSION = 1
SYNC = b"\xa5\x5e"
PAYLOAD_MAX = 1028
"""Four bytes of address and 1 KiB."""

HEADER_BYTES = 8
_HEADER = struct.Struct("<2sBBBBH")
_CRC = struct.Struct("<I")
_IDENTITY = struct.Struct("<4sHHIIIHHI")
IDENTITY_MAGIC = b"SRNB"
RESPONSE = 0x80


class Command(enum.IntEnum):
    """What a request asks for."""

    PING = 0
    READ = 1
    WRITE = 2
    READ_REGISTERS = 3
    WRITE_REGISTERS = 4
    CHECK = 5


class Status(enum.IntEnum):
    """What became of it."""

    OK = 0
    BAD_CRC = 1
    BAD_COMMAND = 2
    BAD_LENGTH = 3
    BUS_ERROR = 4


class Flags(enum.IntFlag):
    """Of a request."""

    NONE = 0
    REPEATED = 1


class State(enum.IntFlag):
    """Of the board, in each response."""

    IRQ = 1
    MEMORY_READY = 2
    STEPPING = 4
    FAULT = 8
    OVERRUN = 16


@dataclass(frozen=True)
class Frame:
    """A frame: a request, or with ``command`` above 0x80 a response.

    ``flags`` are :class:`Flags` in a request and a :class:`Status` in a response, ``state`` 0 in a request.
    """

    sequence: int
    command: int
    flags: int = 0
    payload: bytes = b""
    state: int = 0

    @property
    def is_response(self) -> bool:
        return bool(self.command & RESPONSE)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises
    ------
    ValueError
        If the payload is too long.
    """
    if len(frame.payload) > PAYLOAD_MAX:
        raise ValueError(f"a payload has at most {PAYLOAD_MAX} bytes, not {len(frame.payload)}")
    header = _HEADER.pack(SYNC, frame.sequence, frame.command, frame.flags, frame.state, len(frame.payload))
    content = header[len(SYNC) :] + frame.payload
    return SYNC + content + _CRC.pack(zlib.crc32(content))


class Decoder:
    """Finds frames among bytes: after garbage, or a frame whose CRC is wrong, at the next one.

    ``dropped`` counts bytes that belong to no frame, ``bad`` what began like a frame and was none.
    """

    def __init__(self):
        self._bytes = bytearray()
        self.dropped = 0
        self.bad = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take more bytes; the frames that they complete."""
        self._bytes += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._bytes)

    def forget(self) -> None:
        """Drop what is not complete."""
        self.dropped += len(self._bytes)
        self._bytes.clear()

    def _drop(self, count: int) -> None:
        self.dropped += count
        del self._bytes[:count]

    def _next(self) -> Frame | None:
        while True:
            start = self._bytes.find(SYNC)
            if start < 0:
                # The first byte of the next one may be there.
                self._drop(len(self._bytes) - self._bytes.endswith(SYNC[:1]))
                return None
            self._drop(start)
            if len(self._bytes) < HEADER_BYTES:
                return None
            _, sequence, command, flags, state, length = _HEADER.unpack_from(self._bytes)
            if length <= PAYLOAD_MAX:
                end = HEADER_BYTES + length
                if len(self._bytes) < end + _CRC.size:
                    return None
                content = bytes(self._bytes[len(SYNC) : end])
                if _CRC.unpack_from(self._bytes, end)[0] == zlib.crc32(content):
                    del self._bytes[: end + _CRC.size]
                    return Frame(sequence, command, flags, content[HEADER_BYTES - len(SYNC) :], state)
            self.bad += 1
            self._drop(len(SYNC))


@dataclass(frozen=True)
class Identity:
    """What a board says of itself in answer to PING."""

    version: int
    payload_max: int
    memory_bytes: int
    clock_hz: int
    baud: int
    word_bytes: int
    frames_bad: int
    frames_good: int

    @classmethod
    def unpack(cls, payload: bytes) -> "Identity":
        """From the payload of the response.

        Raises
        ------
        ValueError
            If it is no identity.
        """
        if len(payload) != _IDENTITY.size or payload[:4] != IDENTITY_MAGIC:
            raise ValueError(f"no identity of a bridge: {payload.hex()}")
        _, *values = _IDENTITY.unpack(payload)
        return cls(*values)

    def pack(self) -> bytes:
        """The payload of the response."""
        return _IDENTITY.pack(
            IDENTITY_MAGIC,
            self.version,
            self.payload_max,
            self.memory_bytes,
            self.clock_hz,
            self.baud,
            self.word_bytes,
            self.frames_bad,
            self.frames_good,
        )
