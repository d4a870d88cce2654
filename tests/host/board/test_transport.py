# SPDX-License-Identifier: Apache-2.0
"""A board as the driver's transport."""

import random

import pytest

from serrano_host.board.frames import Command
from serrano_host.board.transport import SerialTransport, estimate_seconds, open_transport, preset_of
from serrano_host.driver import Device
from serrano_host.driver.registers import Register
from serrano_host.errors import TransportError
from serrano_host.presets import MACHINES
from serrano_sim.golden.synthetic import random_model, write_tape
from support.fake_board import FakeBoard
from support.fake_device import FakeDevice, continuation

MODEL = random_model(3, dim=12, ffn=10, layers=2, heads=4, kv_heads=2, head_dim=6, vocab=40, context=64)
TAPE = write_tape(MODEL, 4, 32)


def transport(damage=0.0, seed=0, said=None, **options):
    board = FakeBoard(FakeDevice(watches=False, knows_cycles=False, **options), damage, seed)
    retry = {"timeout": 0.005} if damage else {"timeout": 0.2}
    found = SerialTransport(board, "/dev/ttyX", progress=([] if said is None else said).append, **retry)
    return found, board


def count(board, command):
    return sum(frame.command == command for frame in board.requests)


@pytest.mark.parametrize(("address", "size"), [(0, 4), (1, 1), (3, 2), (5, 4000), (4096, 9000), (7, 20001)])
def test_memory(address, size):
    found, board = transport()
    board.device.memory[:] = random.Random(1).randbytes(1 << 20)
    expected = bytearray(board.device.memory)
    data = random.Random(2).randbytes(size)
    assert found.read_memory(address, size) == bytes(expected[address : address + size])
    found.write_memory(address, data)
    expected[address : address + size] = data
    assert board.device.memory == expected
    assert found.read_memory(address, size) == data


def test_registers():
    found, board = transport()
    found.write_registers(0x104, [5, 6])
    assert found.read_registers(0x104, 2) == [5, 6]
    assert found.read_register(0) == int.from_bytes(b"SRNO", "little")
    assert count(board, Command.WRITE_REGISTERS) == 1


@pytest.mark.parametrize("name", MACHINES)
def test_the_board_says_which_preset_it_has(name):
    found, board = transport()
    machine = MACHINES[name]
    board.device.values[Register.GEOMETRY] = int.from_bytes(
        bytes([machine.n, machine.port_bytes, machine.load_bytes, machine.lanes]), "little"
    )
    # Presets that differ in registers only take the same tapes.
    assert preset_of(found) == {"lean": "small"}.get(name, name)
    board.device.values[Register.GEOMETRY] += 1 << 24
    with pytest.raises(TransportError, match=r"^the board at /dev/ttyX has an array of .* no known preset"):
        preset_of(found)


def test_outside():
    found, _ = transport()
    with pytest.raises(TransportError, match="outside the board's memory of 1048576 bytes"):
        found.read_memory((1 << 20) - 4, 8)
    with pytest.raises(TransportError, match="outside"):
        found.write_memory(-4, b"1234")


def test_only_what_differs_is_written():
    said = []
    found, board = transport(said=said)
    data = random.Random(3).randbytes(100_000)
    found.write_memory(0x10000, data)
    first = count(board, Command.WRITE)
    assert first >= 100_000 // 480
    assert said[0].startswith("loading 100,000 of 100,000 bytes at 1,000,000 baud, about 1 s")
    found.write_memory(0x10000, data)
    assert count(board, Command.WRITE) == first
    board.device.memory[0x10000 + 50_000] ^= 1
    found.write_memory(0x10000, data)
    assert 0 < count(board, Command.WRITE) - first <= 40
    assert bytes(board.device.memory[0x10000 : 0x10000 + 100_000]) == data


def test_memory_that_forgets_once():
    said = []
    found, board = transport(said=said)
    data, spoiled = random.Random(4).randbytes(40_000), []

    def spoil(piece, address):
        if address == 0x4800 and not spoiled:
            spoiled.append(1)
            return bytes(len(piece))
        return piece

    # The pieces lie at multiples of 480 from a piece's beginning on.
    board.spoil_memory = lambda piece, address: spoil(piece, 0x4800 if address >= 0x4000 else 0)
    found.write_memory(0, data)
    assert spoiled and bytes(board.device.memory[:40_000]) == data
    assert any(text.startswith("loading again what came damaged") for text in said)


def test_memory_that_cannot_be_written():
    found, board = transport()
    board.spoil_memory = lambda piece, address: bytes(len(piece))
    with pytest.raises(
        TransportError, match="does not hold what was written at 0x1000: run `serrano selftest`"
    ):
        found.write_memory(0x1000, b"1" * 5000)


@pytest.mark.parametrize("damage", [0.0, 0.02])
def test_driver(damage):
    """Tape, requests and tokens, as over any transport; and over a line that is not good."""
    found, board = transport(damage, 1)
    found.link.retries = 40
    with Device(found) as device:
        device.load(TAPE)
        handles = [device.submit([1 + i] * (1 + i), 3 + i) for i in range(3)]
        device.wait()
        for index, handle in enumerate(handles):
            assert handle.tokens == continuation([1 + index] * (1 + index), 3 + index, 40)
    assert board.closed


def test_memory_gets_ready():
    board = FakeBoard(FakeDevice())
    board.ready_after = 3
    SerialTransport(board, "/dev/ttyX")
    assert count(board, Command.PING) == 3


def test_memory_never_gets_ready(monkeypatch):
    monkeypatch.setattr("serrano_host.board.transport.READY_SECONDS", 0.05)
    board = FakeBoard(FakeDevice())
    board.ready_after = 1 << 30
    with pytest.raises(TransportError, match="does not become ready"):
        SerialTransport(board, "/dev/ttyX", timeout=0.02)
    assert board.closed


def test_estimate():
    assert estimate_seconds(1_000_000, 1_000_000) == pytest.approx(11, rel=0.05)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "must be named"),
        ({"port": "x", "speed": "1"}, "has no option 'speed'; it has baud, port, timeout"),
        ({"port": "x", "baud": "fast"}, "must be numbers"),
        ({"port": "x", "baud": "0"}, "must be positive"),
        ({"port": "x", "timeout": "0"}, "must be positive"),
        ({"port": "no-such-folder/port"}, "cannot be opened"),
    ],
)
def test_options(options, text):
    with pytest.raises(TransportError, match=text):
        open_transport("ulx3s", None, options)
