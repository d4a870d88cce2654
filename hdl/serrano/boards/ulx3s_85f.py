# SPDX-License-Identifier: Apache-2.0
"""Radiona ULX3S with an ECP5-85F and 32 MB of SDRAM."""

from .description import Board, SdramPart

__all__ = ["BOARD", "SDRAM"]

# The board was sold with parts of ISSI (IS42S16160G-7), Alliance (AS4C16M16SA-7), Micron (MT48LC16M16A2-6A,
# -75) and Winbond (W9825G6KH-6): all 16 M x 16 bit in 4 banks. Each value is that of the slowest of them.
SDRAM = SdramPart(
    name="256 Mbit SDR SDRAM, 16 M x 16, speed grade -7 or better",
    data_bits=16,
    bank_bits=2,
    row_bits=13,
    column_bits=9,
    t_rcd=21,
    t_rp=21,
    t_ras=45,
    t_rc=66,
    t_rrd=15,
    t_rfc=70,
    t_wr=15,
    t_refi=7812.5,
    t_init=200_000,
    cas_latencies=((2, 10.0), (3, 7.0)),
)

BOARD = Board(
    name="ulx3s_85f",
    title="Radiona ULX3S, ECP5-85F",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    preset="small",
    sdram=SDRAM,
    cas_latency=3,
    clock_hz=100_000_000,
    baud=1_000_000,
)
