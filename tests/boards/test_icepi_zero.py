# SPDX-License-Identifier: Apache-2.0
"""The Icepi Zero as data."""

from amaranth_boards.icepi_zero import IcepiZero1_3Platform

from serrano.boards.icepi_zero import BOARD
from support.board_data import check_memory, check_platform


def test_pins_fit_the_memory() -> None:
    check_memory(BOARD, IcepiZero1_3Platform)


def test_platform_is_named() -> None:
    check_platform(BOARD, IcepiZero1_3Platform)
