# SPDX-License-Identifier: Apache-2.0
"""The link to a board: windows, repetition, and what it says when nothing helps."""

import os
import struct

import pytest

from serrano_host.board.frames import Command, Flags, State
from serrano_host.board.link import Link, open_line
from serrano_host.errors import TransportError
from support.fake_board import FakeBoard
from support.fake_device import FakeDevice


def link(board=None, **options):
    return Link(board or FakeBoard(FakeDevice()), "/dev/ttyX", **{"timeout": 0.02, **options})


def writes(count, size=480):
    return [(Command.WRITE, struct.pack("<I", size * i) + bytes([i % 256]) * size) for i in range(count)]


def test_identity():
    assert link().identity.memory_bytes == 1 << 20
    assert link().state & State.MEMORY_READY


def test_many_requests():
    board = FakeBoard(FakeDevice())
    found = link(board)
    counts = []
    assert found.requests(writes(600), counts.append) == [b""] * 600
    assert counts == list(range(1, 601))
    assert bytes(board.device.memory[480 * 599 : 480 * 600]) == bytes([599 % 256]) * 480
    assert found.statistics.repeated == 0


class Late(FakeBoard):
    """Answers nothing before so many bytes of requests have come, or somebody waits."""

    def __init__(self):
        super().__init__(FakeDevice())
        self.held, self.most = bytearray(), 0

    def write(self, data):
        self.held += data
        self.most = max(self.most, len(self.held))
        return len(data)

    def read(self, size):
        if self.held and not self.out:
            held, self.held = bytes(self.held), bytearray()
            super().write(held)
        return super().read(size)


def test_window():
    """Several requests are on their way, but no more than the bridge has room for."""
    board = Late()
    assert link(board).requests(writes(50)) == [b""] * 50
    assert 1500 < board.most <= 2000


@pytest.mark.parametrize("seed", range(8))
def test_a_line_that_loses_and_damages(seed):
    """One request in ten, and one answer in ten: all is done, register writes just once."""
    board = FakeBoard(FakeDevice(), damage=0.05, seed=seed)
    counts = []
    plain = board.device.write_registers
    board.device.write_registers = lambda offset, values: (counts.append(offset), plain(offset, values))
    found = link(board, timeout=0.002, retries=30)
    for number in range(20):
        found.request(Command.WRITE_REGISTERS, struct.pack("<II", 0x104, number))
    assert found.requests(writes(60)) == [b""] * 60
    assert counts == [0x104] * 20
    for index in range(60):
        assert bytes(board.device.memory[480 * index : 480 * index + 480]) == bytes([index]) * 480
    assert found.statistics.repeated > 0


def test_repeated_requests_say_so():
    board = FakeBoard(FakeDevice())
    found = link(board)
    board.damage, seen = 1.0, len(board.requests)
    with pytest.raises(TransportError):
        found.request(Command.PING)
    board.damage = 0.0
    found.request(Command.PING)
    assert [frame.flags for frame in board.requests[seen:]][-1] == Flags.NONE


def broken(board, **options):
    with pytest.raises(TransportError) as caught:
        link(board, retries=2, timeout=0.005, **options)
    return str(caught.value)


def test_no_answer():
    board = FakeBoard(FakeDevice())
    board.silent = True
    text = broken(board)
    assert text.startswith("no answer from /dev/ttyX to PING, asked 3 times, nothing came at all")
    assert "LED" in text and "baud" in text


def test_wrong_baud_rate():
    board = FakeBoard(FakeDevice())
    board.babbles = True
    text = broken(board)
    assert "bytes came that are no answers" in text and "baud rate" in text


def test_wrong_crcs():
    board = FakeBoard(FakeDevice(), damage=1.0, seed=5)
    board._damaged = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert "requests reached the board with a wrong CRC" in broken(board)


def test_wrong_crcs_of_answers():
    board = FakeBoard(FakeDevice())
    plain = board._damaged
    board._damaged = lambda data: plain(data) if not data[3] & 0x80 else data[:-1] + bytes([data[-1] ^ 1])
    assert "answers came with a wrong CRC" in broken(board)


def test_falls_silent_later():
    board = FakeBoard(FakeDevice())
    found = link(board, retries=1)
    board.silent = True
    with pytest.raises(TransportError, match="it had answered before"):
        found.request(Command.PING)


@pytest.mark.parametrize("action", ["read", "write"])
def test_unplugged(action):
    board = FakeBoard(FakeDevice())
    found = link(board)
    if action == "write":
        board.unplugged = True
    else:
        board.write = lambda data: setattr(board, "unplugged", True)
    with pytest.raises(TransportError, match="was the cable unplugged"):
        found.request(Command.PING)


@pytest.mark.parametrize(
    ("command", "payload", "text"),
    [
        (9, b"", "does not know the request"),
        (Command.READ, b"1", "length or alignment"),
        (Command.READ, struct.pack("<II", 1 << 30, 4), "bus error"),
    ],
)
def test_refusals(command, payload, text):
    with pytest.raises(TransportError, match=text):
        link().request(command, payload)


def test_other_version():
    board = FakeBoard(FakeDevice(), version=2)
    assert "speaks version 2 of the bridge's protocol, this software version 1" in broken(board)


def test_port_cannot_be_opened(tmp_path):
    with pytest.raises(TransportError, match=r"cannot be opened .* is the board plugged in"):
        open_line(str(tmp_path / "nothing"), 115_200)


def test_pseudo_terminal():
    """pyserial's own port, as far as the first byte."""
    master, slave = os.openpty()
    line = open_line(os.ttyname(slave), 1_000_000)
    line.write(b"hello")
    assert os.read(master, 5) == b"hello"
    os.write(master, b"board")
    assert line.read(5) == b"board"
    line.close()
    os.close(slave)
    os.close(master)
