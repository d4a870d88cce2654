# SPDX-License-Identifier: Apache-2.0
"""Icepi Zero 1.3 with an ECP5-25F and 32 MB of SDRAM."""

from .description import Board
from .ulx3s_85f import SDRAM

__all__ = ["BOARD"]

# The SDRAM is of the same kind as the ULX3S's, 16 M x 16 bit in 4 banks; the times are the slowest of those
# parts.
BOARD = Board(
    name="icepi_zero",
    title="Icepi Zero, ECP5-25F",
    platform="amaranth_boards.icepi_zero:IcepiZero1_3Platform",
    preset="lean",
    sdram=SDRAM,
    cas_latency=3,
    clock_hz=40_000_000,
    baud=1_000_000,
)
