# SPDX-License-Identifier: Apache-2.0
"""Requests and answers over a serial line: several at a time, repeated where a line lost them."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

from serrano_host.errors import TransportError

from .frames import RESPONSE, VERSION, Command, Decoder, Flags, Frame, Identity, State, Status, encode

__all__ = ["Line", "Link", "Statistics", "open_line"]

WINDOW_BYTES = 2000
"""Bytes of requests without an answer: what the bridge has room for."""

WINDOW_FRAMES = 16
RETRIES = 4
TIMEOUT_SECONDS = 1.0
SLICE_SECONDS = 0.02

_REFUSALS = {
    Status.BAD_COMMAND: "does not know the request; its bitstream is older than this software",
    Status.BAD_LENGTH: "refused the request's length or alignment",
    Status.BUS_ERROR: "met a bus error; is the address outside its memory?",
}


def _name(command: int) -> str:
    return Command(command).name if command in list(Command) else f"command {command}"


class Line(Protocol):
    """What is needed of a serial port: pyserial's ``Serial`` has it."""

    timeout: float | None

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer after ``timeout``."""
        ...

    def write(self, data: bytes) -> int | None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Close the port."""


@dataclass
class Statistics:
    """What came of a line so far."""

    sent_bytes: int = 0
    received_bytes: int = 0
    requests: int = 0
    repeated: int = 0
    bad_at_board: int = 0
    overruns: int = 0


class _Pending:
    """A request without an answer."""

    def __init__(self, place: int, frame: Frame):
        self.place, self.frame, self.tries = place, frame, 0
        self.bytes = len(encode(frame))


def open_line(port: str, baud: int) -> Line:
    """A serial port.

    Raises
    ------
    TransportError
        If it cannot be opened.
    """
    import serial

    try:
        line = serial.Serial(port, baud, timeout=SLICE_SECONDS, write_timeout=30, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        hint = "is the board plugged in, and may you use the port (group dialout or uucp)?"
        if "exclusive" in str(error).lower():
            hint = "another program uses it."
        raise TransportError(f"{port} cannot be opened ({error}): {hint}") from error
    # Only some drivers have it. It saves up to 16 ms for each answer.
    with suppress(AttributeError, OSError, ValueError, NotImplementedError):
        line.set_low_latency_mode(True)
    with suppress(OSError, serial.SerialException):
        line.reset_input_buffer()
    return line


class Link:
    """A bridge at the other end of a line.

    Every request is repeated until it is answered, at most ``retries`` times. All requests can be repeated
    without harm: the bridge carries out a repeated write of registers only if it missed the first one.

    Parameters
    ----------
    line : Line
        The serial port.
    name : str
        What to call it in messages.
    timeout : float
        Seconds without a byte after which requests are repeated.
    retries : int
        How often one is repeated.
    """

    def __init__(self, line: Line, name: str, *, timeout: float = TIMEOUT_SECONDS, retries: int = RETRIES):
        self.line, self.name = line, name
        self.timeout, self.retries = timeout, retries
        self.statistics = Statistics()
        self.state = State(0)
        self._decoder = Decoder()
        self._sequence = 0
        self.identity = self._identify()

    # Requests

    def request(self, command: Command, payload: bytes = b"") -> bytes:
        """Carry out a request; the payload of its answer."""
        return self.requests([(command, payload)])[0]

    def requests(
        self,
        wanted: Iterable[tuple[Command, bytes]],
        done: Callable[[int], None] = lambda count: None,
    ) -> list[bytes]:
        """Carry out requests, several at a time; the payloads of their answers.

        All have been carried out when this returns; while they are, in any order where the line loses some.
        Register writes must come alone.

        Parameters
        ----------
        wanted : iterable of (command, payload)
            The requests.
        done : callable
            Gets the number of answers so far, after each.

        Raises
        ------
        TransportError
            If the bridge refuses one, or does not answer.
        """
        waiting = deque(_Pending(place, self._frame(*item)) for place, item in enumerate(wanted))
        answers: list[bytes] = [b""] * len(waiting)
        pending: dict[int, _Pending] = {}
        count, quiet_since = 0, time.monotonic()
        while waiting or pending:
            while waiting and len(pending) < WINDOW_FRAMES:
                used = sum(one.bytes for one in pending.values())
                if pending and used + waiting[0].bytes > WINDOW_BYTES:
                    break
                one = waiting.popleft()
                # Here and not before, so that no two under way have the same number.
                one.frame = self._numbered(one.frame)
                pending[one.frame.sequence] = one
                self._send(one)
            received = self._receive()
            if received is None:
                if time.monotonic() - quiet_since > self.timeout:
                    self._decoder.forget()
                    for one in list(pending.values()):
                        self._send(one)
                    quiet_since = time.monotonic()
                continue
            quiet_since = time.monotonic()
            for frame in received:
                one = pending.get(frame.sequence)
                if one is None or frame.command != one.frame.command | RESPONSE:
                    # A second answer to a request that was repeated, or to one that came damaged.
                    continue
                if frame.flags == Status.BAD_CRC:
                    self.statistics.bad_at_board += 1
                    self._send(one)
                    continue
                self._check(frame, one.frame)
                del pending[frame.sequence]
                answers[one.place] = frame.payload
                count += 1
                done(count)
        return answers

    def _frame(self, command: Command, payload: bytes) -> Frame:
        return Frame(0, command, 0, payload)

    def _numbered(self, frame: Frame) -> Frame:
        self._sequence = (self._sequence + 1) % 256
        return Frame(self._sequence, frame.command, 0, frame.payload)

    def _send(self, one: _Pending) -> None:
        if one.tries > self.retries:
            raise TransportError(self._unanswered(one))
        frame = one.frame
        if one.tries:
            self.statistics.repeated += 1
            frame = Frame(frame.sequence, frame.command, Flags.REPEATED, frame.payload)
        one.tries += 1
        data = encode(frame)
        self._guard(lambda: self.line.write(data))
        self.statistics.sent_bytes += len(data)
        self.statistics.requests += one.tries == 1

    def _receive(self) -> list[Frame] | None:
        """Frames that have come, or ``None`` if no byte has."""
        data = self._guard(lambda: self.line.read(max(1, getattr(self.line, "in_waiting", 1))))
        if not data:
            return None
        self.statistics.received_bytes += len(data)
        frames = [frame for frame in self._decoder.feed(data) if frame.is_response]
        for frame in frames:
            self.state = State(frame.state & 0x1F)
            if self.state & State.OVERRUN:
                self.statistics.overruns += 1
        return frames

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except OSError as error:
            # pyserial's own errors are of this kind too.
            raise TransportError(
                f"{self.name} is gone ({error}): was the cable unplugged, or the board switched off?"
            ) from error

    # What went wrong

    def _check(self, answer: Frame, request: Frame) -> None:
        if answer.flags != Status.OK:
            name = _name(request.command)
            why = _REFUSALS.get(answer.flags, f"answered with status {answer.flags}")
            raise TransportError(f"the board at {self.name} {why} ({name} {request.payload[:8].hex(' ')})")

    def _unanswered(self, one: _Pending) -> str:
        decoder, counts = self._decoder, self.statistics
        what = f"no answer from {self.name} to {_name(one.frame.command)}, asked {one.tries} times"
        if counts.bad_at_board:
            return (
                f"{what}: {counts.bad_at_board} requests reached the board with a wrong CRC. The line is"
                " disturbed: try another cable or port, or a lower baud rate on both sides"
            )
        if decoder.bad:
            return (
                f"{what}: {decoder.bad} answers came with a wrong CRC. The line is disturbed: try another"
                " cable or port, or a lower baud rate on both sides"
            )
        if decoder.dropped:
            return (
                f"{what}: {decoder.dropped} bytes came that are no answers. Is the baud rate that of the"
                " bitstream, and is this the board's port?"
            )
        if counts.received_bytes:
            return f"{what}; it had answered before. Was the board reset, or its bitstream lost?"
        return (
            f"{what}, nothing came at all. Is this the board's port, is the bitstream loaded (does the first"
            " LED blink?), and is the baud rate that of the bitstream?"
        )

    # The board

    def _identify(self) -> Identity:
        payload = self.request(Command.PING)
        try:
            identity = Identity.unpack(payload)
        except ValueError as error:
            raise TransportError(f"{self.name}: {error}") from error
        if identity.version != VERSION:
            raise TransportError(
                f"the board at {self.name} speaks version {identity.version} of the bridge's protocol, this"
                f" software version {VERSION}; build both from the same sources"
            )
        return identity

    def close(self) -> None:
        """Close the port."""
        with suppress(OSError):
            self.line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
