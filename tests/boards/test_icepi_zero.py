# SPDX-License-Identifier: Apache-2.0
"""The Icepi Zero as data."""

from amaranth_boards.icepi_zero import IcepiZero1_3Platform

from serrano.boards.icepi_zero import BOARD


def test_pins_fit_the_memory() -> None:
    io = {sub.name: sub.ios[0] for sub in _resource("sdram").ios}
    part = BOARD.sdram
    widths = {"dq": part.data_bits, "ba": part.bank_bits, "a": part.row_bits, "dqm": part.data_bits // 8}
    assert {name: len(io[name].names) for name in widths} == widths


def test_platform_is_named() -> None:
    module, name = BOARD.platform.split(":")
    assert (module, name) == (IcepiZero1_3Platform.__module__, IcepiZero1_3Platform.__name__)


def test_there_are_a_line_and_a_clock() -> None:
    assert _resource("uart") and _resource(IcepiZero1_3Platform.default_clk).clock.frequency > 0


def _resource(name: str):
    return next(r for r in IcepiZero1_3Platform.resources if r.name == name)
