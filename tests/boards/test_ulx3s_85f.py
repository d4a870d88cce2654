# SPDX-License-Identifier: Apache-2.0
"""The ULX3S as data."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from serrano.boards.ulx3s_85f import BOARD
from support.board_data import check_memory, check_platform


def test_pins_fit_the_memory() -> None:
    check_memory(BOARD, ULX3S_85F_Platform)


def test_platform_is_named() -> None:
    check_platform(BOARD, ULX3S_85F_Platform)
