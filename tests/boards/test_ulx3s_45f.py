# SPDX-License-Identifier: Apache-2.0
"""The ULX3S with the smaller device as data."""

from amaranth_boards.ulx3s import ULX3S_45F_Platform

from serrano.boards.ulx3s_45f import BOARD


def test_pins_fit_the_memory() -> None:
    io = {sub.name: sub.ios[0] for sub in _resource("sdram").ios}
    part = BOARD.sdram
    widths = {"dq": part.data_bits, "ba": part.bank_bits, "a": part.row_bits, "dqm": part.data_bits // 8}
    assert {name: len(io[name].names) for name in widths} == widths


def test_platform_is_named() -> None:
    module, name = BOARD.platform.split(":")
    assert (module, name) == (ULX3S_45F_Platform.__module__, ULX3S_45F_Platform.__name__)


def test_there_are_a_line_and_a_clock() -> None:
    assert _resource("uart") and _resource(ULX3S_45F_Platform.default_clk).clock.frequency > 0


def _resource(name: str):
    return next(r for r in ULX3S_45F_Platform.resources if r.name == name)
