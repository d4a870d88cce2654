# SPDX-License-Identifier: Apache-2.0
"""Radiona ULX3S with an ECP5-45F and 32 MB of SDRAM."""

from .description import Board
from .ulx3s_85f import SDRAM

__all__ = ["BOARD"]

BOARD = Board(
    name="ulx3s_45f",
    title="Radiona ULX3S, ECP5-45F",
    platform="amaranth_boards.ulx3s:ULX3S_45F_Platform",
    preset="lean",
    sdram=SDRAM,
    cas_latency=3,
    clock_hz=40_000_000,
    baud=1_000_000,
    cells_per_block=60,
)
