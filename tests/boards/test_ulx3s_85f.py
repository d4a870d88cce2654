# SPDX-License-Identifier: Apache-2.0
"""The ULX3S as data."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from serrano.boards.ulx3s_85f import BOARD, SDRAM


def test_pins_fit_the_memory():
    io = {sub.name: sub.ios[0] for sub in _resource("sdram").ios}
    assert len(io["dq"].names) == SDRAM.data_bits
    assert len(io["ba"].names) == SDRAM.bank_bits
    assert len(io["a"].names) == SDRAM.row_bits
    assert len(io["dqm"].names) == SDRAM.data_bits // 8


def test_platform_is_named():
    module, name = BOARD.platform.split(":")
    assert (module, name) == (ULX3S_85F_Platform.__module__, ULX3S_85F_Platform.__name__)


def _resource(name):
    return next(r for r in ULX3S_85F_Platform.resources if r.name == name)
