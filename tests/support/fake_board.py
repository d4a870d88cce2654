# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a board's bridge at a serial line, which can lose, damage and refuse what it is asked."""

import random
import struct
import zlib

from serrano_host.board.frames import (
    PAYLOAD_MAX,
    RESPONSE,
    VERSION,
    Command,
    Decoder,
    Flags,
    Frame,
    Identity,
    State,
    Status,
    encode,
)

WORD = 4


class FakeBoard:
    """A line of pyserial's kind with a bridge at its other end, and a transport behind that.

    Parameters
    ----------
    device : FakeDevice
        Memory and registers.
    damage : float
        Probability, for requests and for answers, that a bit is wrong; and as often a byte is lost.
    seed : int
        Of that.
    """

    def __init__(self, device, damage=0.0, seed=0, version=VERSION):
        self.device, self.damage, self.rng = device, damage, random.Random(f"board {seed}")
        self.version = version
        self.timeout = 0.0
        self.decoder = Decoder()
        self.out = bytearray()
        self.closed = self.unplugged = self.silent = self.babbles = False
        self.ready_after = 0
        self.last = None
        self.requests = []
        self.most_waiting = 0
        self.spoil_memory = lambda data, address: data

    # The line

    @property
    def in_waiting(self):
        return len(self.out)

    def read(self, size):
        if self.unplugged:
            raise OSError(5, "Input/output error")
        data = bytes(self.out[:size])
        del self.out[:size]
        return data

    def write(self, data):
        if self.unplugged:
            raise OSError(5, "Input/output error")
        if self.silent:
            return len(data)
        if self.babbles:
            self.out += self.rng.randbytes(len(data) // 3)
            return len(data)
        for frame in self._received(self._damaged(data)):
            self.out += self._damaged(encode(self._carry_out(frame)))
        return len(data)

    def close(self):
        self.closed = True

    def _damaged(self, data):
        data = bytearray(data)
        if self.rng.random() < self.damage:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        if self.rng.random() < self.damage:
            del data[self.rng.randrange(len(data))]
        return bytes(data)

    def _received(self, data):
        """Frames; one that is not complete when the line falls silent is forgotten."""
        frames = self.decoder.feed(data)
        bad, self.decoder.bad = self.decoder.bad, 0
        if bad and len(data) > 8:
            self.out += encode(Frame(data[2], data[3] | RESPONSE, Status.BAD_CRC))
        self.decoder.forget()
        return frames

    # The bridge

    def _carry_out(self, frame):
        self.requests.append(frame)
        if self.ready_after:
            self.ready_after -= 1
        state = State(0) if self.ready_after else State.MEMORY_READY
        state |= State.IRQ if self.device.wait(20) else State(0)
        status, payload = Status.OK, b""
        try:
            payload = self._answer(frame)
        except KeyError:
            status = Status.BAD_COMMAND
        except struct.error:
            status = Status.BAD_LENGTH
        except IndexError:
            status = Status.BUS_ERROR
        return Frame(frame.sequence, frame.command | RESPONSE, status, payload, state)

    def _answer(self, frame):
        device, payload = self.device, frame.payload
        if frame.command == Command.PING:
            size = device.memory_bytes
            return Identity(self.version, PAYLOAD_MAX, size, 10**8, 10**6, WORD, 0, 1).pack()
        if frame.command == Command.WRITE_REGISTERS:
            offset, *values = struct.unpack(f"<{len(payload) // 4}I", payload)
            if not (frame.flags & Flags.REPEATED and self.last == frame.sequence):
                device.write_registers(offset, values)
            self.last = frame.sequence
            return b""
        if frame.command == Command.WRITE:
            address = struct.unpack_from("<I", payload)[0]
            self._check(address, len(payload) - 4)
            device.write_memory(address, self.spoil_memory(payload[4:], address))
            return b""
        if frame.command not in (Command.READ, Command.READ_REGISTERS, Command.CHECK):
            raise KeyError(frame.command)
        first, second = struct.unpack("<II", payload)
        if frame.command == Command.READ_REGISTERS:
            return struct.pack(f"<{second}I", *device.read_registers(first, second))
        self._check(first, second)
        if frame.command == Command.READ:
            return device.read_memory(first, second)
        return struct.pack("<I", zlib.crc32(device.read_memory(first, second)))

    def _check(self, address, size):
        if address % WORD or size % WORD:
            raise struct.error("alignment")
        if address + size > self.device.memory_bytes:
            raise IndexError("outside")
