# SPDX-License-Identifier: Apache-2.0
"""The self-test against a stand-in that is wrong in one way; tests/boards has it on the real design."""

import pytest
from typer.testing import CliRunner

from serrano_host.board import selftest
from serrano_host.board.transport import SerialTransport
from serrano_host.board.vector import EXPECTED
from serrano_host.cli import app
from support.fake_board import FakeBoard
from support.fake_device import FakeDevice

NAMES = ["line", "data lines", "address lines", "blocks", "registers", "model"]


def run(board):
    board.device.watches = False
    results = list(selftest.self_test(SerialTransport(board, "/dev/ttyX", timeout=0.2), hold=0.0))
    assert [result.name for result in results] == NAMES[: len(results)]
    assert all(result.passed for result in results[:-1])
    return results


def test_up_to_the_model():
    """All but the model, which the stand-in does not compute: its tokens are noticed."""
    results = run(FakeBoard(FakeDevice()))
    assert len(results) == 6 and not results[-1].passed
    assert f"not {EXPECTED[0]}: the design computes wrongly" in results[-1].text
    assert results[0].text == "1,000,000 baud, clock 100 MHz, 1 MiB"
    assert results[4].text.startswith("version 1.0, array 4 x 4")


def test_a_stuck_data_line():
    board = FakeBoard(FakeDevice())
    board.device.read_memory = lambda address, size, plain=board.device.read_memory: bytes(
        byte & (0xDF if (address + place) % 4 == 2 else 0xFF)
        for place, byte in enumerate(plain(address, size))
    )
    result = run(board)[-1]
    # The first test writes random data, and finds it changed.
    assert result.name == "line" and "came back changed" in result.text
    transport = SerialTransport(board, "/dev/ttyX", timeout=0.2)
    with pytest.raises(Exception, match=r"^data lines 21 are wrong"):
        selftest._data_lines(transport, 1, 0.0)


def test_an_address_line_that_does_nothing():
    board = FakeBoard(FakeDevice())
    for name in ("read_memory", "write_memory"):
        plain = getattr(board.device, name)
        setattr(board.device, name, lambda address, what, plain=plain: plain(address & ~(1 << 14), what))
    result = run(board)[-1]
    assert result.name == "address lines" and "0x4000" in result.text


def test_memory_that_forgets(monkeypatch):
    board = FakeBoard(FakeDevice())
    fill = lambda seconds: board.device.memory.__setitem__(slice(None), bytes(1 << 20))  # noqa: E731
    monkeypatch.setattr(selftest.time, "sleep", fill)
    result = run(board)[-1]
    assert result.name == "blocks" and "is memory refreshed?" in result.text


def test_no_accelerator():
    result = run(FakeBoard(FakeDevice(identity=7)))[-1]
    assert result.name == "registers" and "no accelerator" in result.text


def test_a_register_that_cannot_be_written():
    board = FakeBoard(FakeDevice())
    board.device.write_registers = lambda offset, values: None
    result = run(board)[-1]
    assert result.name == "registers" and "reads 0x" in result.text


def test_command(monkeypatch):
    board = FakeBoard(FakeDevice(watches=False))
    monkeypatch.setattr("serrano_host.board.transport.open_line", lambda port, baud: board)
    result = CliRunner().invoke(app, ["selftest", "--port", "/dev/ttyX", "--hold", "0"])
    assert result.exit_code == 1
    assert "the test takes about" in result.stdout
    assert "passed  data lines" in result.stdout and "FAILED  model" in result.stdout
    assert board.closed


def test_command_without_a_board():
    result = CliRunner().invoke(app, ["selftest", "--port", "no-such-folder/port"])
    assert result.exit_code == 1
    assert result.stderr.startswith("serrano: error: no-such-folder/port cannot be opened")


def test_estimate():
    assert 2 < selftest.estimate(1_000_000) < 10
