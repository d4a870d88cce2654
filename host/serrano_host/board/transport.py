# SPDX-License-Identifier: Apache-2.0
"""A board at a serial line as the driver's transport."""

import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence

from serrano_host.driver.limits import array_sizes
from serrano_host.driver.registers import Register
from serrano_host.driver.transport import Transport
from serrano_host.errors import TransportError
from serrano_host.presets import MACHINES
from serrano_host.tape import Descriptor

from .frames import Command, State
from .link import TIMEOUT_SECONDS, Line, Link, open_line

__all__ = ["BAUD", "SerialTransport", "estimate_seconds", "open_transport", "preset_of"]

BAUD = 1_000_000
WRITE_BYTES = 480
"""Data of a WRITE: four of them fit what the bridge has room for."""

READ_BYTES = 1024
READY_SECONDS = 2.0
PIECE = 1 << 14
"""Bytes that are checked together."""

VERIFIED = 1 << 12
"""Shorter writes are not checked; each frame of theirs has its CRC."""

ROUNDS = 3
_ARGUMENTS = struct.Struct("<II")
_WORD = struct.Struct("<I")


def _say_nothing(text: str) -> None:
    """No progress is shown."""


def estimate_seconds(size: int, baud: int) -> float:
    """Seconds that so many bytes take to a board: frames and their answers' pauses included."""
    frames = -(-size // WRITE_BYTES)
    return (size + frames * 16) * 10 / baud * 1.05 + 0.01


class SerialTransport(Transport):
    """A board's memory and registers behind a bridge.

    What is long is written in pieces: those that memory holds already are left out, which a CRC tells that
    the board takes of its memory, and what has been written is checked so too, and written again where it is
    not the same.

    Parameters
    ----------
    line : Line
        The serial port.
    name : str
        What to call it in messages.
    progress : callable
        Gets a text while something takes long.
    timeout : float
        Seconds without a byte after which a request is repeated.

    Raises
    ------
    TransportError
        If no bridge answers, or memory does not become ready.
    """

    def __init__(
        self,
        line: Line,
        name: str,
        *,
        progress: Callable[[str], None] = _say_nothing,
        timeout: float = TIMEOUT_SECONDS,
    ):
        self._progress = progress
        try:
            self.link = Link(line, name, timeout=timeout)
            self._wait_ready(timeout)
        except BaseException:
            line.close()
            raise
        self.identity = self.link.identity
        self.memory_bytes = self.identity.memory_bytes
        self._start = time.monotonic()

    def _wait_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + max(READY_SECONDS, timeout)
        while not self.link.state & State.MEMORY_READY:
            if time.monotonic() > deadline:
                raise TransportError(
                    f"the memory of the board at {self.link.name} does not become ready; reset it"
                )
            self.link.request(Command.PING)

    # Registers

    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""
        return self.read_registers(offset, 1)[0]

    def write_register(self, offset: int, value: int) -> None:
        """Write a register."""
        self.write_registers(offset, [value])

    def read_registers(self, offset: int, count: int) -> list[int]:
        """So many consecutive registers, in one transfer."""
        payload = self.link.request(Command.READ_REGISTERS, _ARGUMENTS.pack(offset, count))
        if len(payload) != 4 * count:
            raise TransportError(f"{self.link.name}: {len(payload)} bytes for {count} registers")
        return list(struct.unpack(f"<{count}I", payload))

    def write_registers(self, offset: int, values: Sequence[int]) -> None:
        """Write consecutive registers, in one transfer."""
        payload = struct.pack(f"<{len(values) + 1}I", offset, *values)
        self.link.request(Command.WRITE_REGISTERS, payload)

    # Memory

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes from an address on."""
        self._check_range(address, size)
        width = self.identity.word_bytes
        start, end = address // width * width, -(-(address + size) // width) * width
        places = range(start, end, READ_BYTES)
        answers = self.link.requests(
            (Command.READ, _ARGUMENTS.pack(place, min(READ_BYTES, end - place))) for place in places
        )
        return b"".join(answers)[address - start :][:size]

    def write_memory(self, address: int, data: bytes) -> None:
        """Put bytes at an address; all of them are there, and checked if they are many."""
        self._check_range(address, len(data))
        width = self.identity.word_bytes
        before, after = address % width, -(address + len(data)) % width
        if before:
            data = self.read_memory(address - before, before) + data
        if after:
            data += self.read_memory(address - before + len(data), after)
        address -= before
        if len(data) < VERIFIED:
            self._write(address, data)
            return
        self._write_checked(address, data)

    def check_memory(self, address: int, size: int) -> int:
        """CRC-32 of a range of memory, as ``zlib.crc32``; both whole words."""
        payload = self.link.request(Command.CHECK, _ARGUMENTS.pack(address, size))
        return _WORD.unpack(payload)[0]

    def _check_range(self, address: int, size: int) -> None:
        if address < 0 or size < 0 or address + size > self.memory_bytes:
            raise TransportError(
                f"{size} bytes at {address:#x} are outside the board's memory of {self.memory_bytes} bytes"
            )

    def _write(self, address: int, data: bytes, done: Callable[[int], None] = lambda count: None) -> None:
        self.link.requests(
            (
                (Command.WRITE, _WORD.pack(address + place) + data[place : place + WRITE_BYTES])
                for place in range(0, len(data), WRITE_BYTES)
            ),
            done,
        )

    def _write_checked(self, address: int, data: bytes) -> None:
        pieces = [(place, data[place : place + PIECE]) for place in range(0, len(data), PIECE)]
        for attempt in range(ROUNDS):
            pieces = self._different(address, pieces)
            if not pieces:
                return
            left = sum(len(piece) for _, piece in pieces)
            baud, begun = self.identity.baud, time.monotonic()
            what = "loading" if not attempt else "loading again what came damaged:"
            seconds = estimate_seconds(left, baud)
            self._progress(f"{what} {left:,} of {len(data):,} bytes at {baud:,} baud, about {seconds:,.0f} s")
            shown, sent = begun, 0
            for place, piece in pieces:
                self._write(address + place, piece)
                sent += len(piece)
                now = time.monotonic()
                if now - shown > 1 or sent == left:
                    shown, rest = now, (now - begun) / sent * (left - sent)
                    self._progress(f"{what} {sent / left:.0%} of {left:,} bytes, {rest:,.0f} s to go")
        if self._different(address, pieces):
            raise TransportError(
                f"memory of the board at {self.link.name} does not hold what was written at"
                f" {address + pieces[0][0]:#x}: run `serrano selftest`"
            )

    def _different(self, address: int, pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Those pieces that memory does not hold."""
        answers = self.link.requests(
            (Command.CHECK, _ARGUMENTS.pack(address + place, len(piece))) for place, piece in pieces
        )
        found = zip(pieces, answers, strict=True)
        return [piece for piece, answer in found if _WORD.unpack(answer)[0] != zlib.crc32(piece[1])]

    # Waiting

    def wait(self, cycles: int) -> bool:
        """Look for the interrupt line until so many cycles of the board's clock have gone by."""
        end = time.monotonic() + cycles / self.identity.clock_hz
        while True:
            # The shortest request; each answer tells of the line.
            self.link.request(Command.READ, _ARGUMENTS.pack(0, 0))
            if self.link.state & State.IRQ:
                return True
            if time.monotonic() >= end:
                return False

    def cycles(self) -> int:
        """Cycles of the board's clock since the transport was opened, by this machine's clock."""
        return round((time.monotonic() - self._start) * self.identity.clock_hz)

    def close(self) -> None:
        """Close the port."""
        self.link.close()


def preset_of(transport: SerialTransport) -> str:
    """The preset of the accelerator on a board, by its register of sizes.

    Of presets with the same sizes, whose tapes are the same, it is the first.

    Raises
    ------
    TransportError
        If it is none that is known.
    """
    n, port, load, lanes = array_sizes(transport.read_register(Register.GEOMETRY))
    for name, machine in MACHINES.items():
        if (machine.n, machine.port_bytes, machine.load_bytes, machine.lanes) == (n, port, load, lanes):
            return name
    raise TransportError(
        f"the board at {transport.link.name} has an array of {n} x {n}, a port of {port} bytes and {lanes}"
        " lanes, which is no known preset: say with --preset for which one to compile, or give a tape"
    )


def open_transport(
    preset_name: str,
    descriptor: Descriptor | None,
    options: Mapping[str, str],
    progress: Callable[[str], None] = _say_nothing,
    **sizes: int,
) -> SerialTransport:
    """A board at a port: what `serrano run --port` calls.

    Options are ``port``, ``baud`` and ``timeout``; how the tape was compiled is compared with the board when
    it is loaded.

    Raises
    ------
    TransportError
        If the port cannot be opened, or nobody answers.
    """
    known = {"port", "baud", "timeout"}
    if unknown := set(options) - known:
        raise TransportError(
            f"a serial port has no option {min(unknown)!r}; it has {', '.join(sorted(known))}"
        )
    if "port" not in options:
        raise TransportError("a serial port must be named: --port, or -O port=NAME")
    try:
        baud = int(options.get("baud", BAUD))
        timeout = float(options.get("timeout", TIMEOUT_SECONDS))
    except ValueError as error:
        raise TransportError(f"baud and timeout must be numbers: {error}") from error
    if baud < 1 or not 0 < timeout < 1e6:
        raise TransportError("baud and timeout must be positive")
    port = options["port"]
    progress(f"connecting to {port} at {baud:,} baud")
    return SerialTransport(open_line(port, baud), port, progress=progress, timeout=timeout)
