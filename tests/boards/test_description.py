# SPDX-License-Identifier: Apache-2.0
"""Boards as data."""

from dataclasses import replace

import pytest

from serrano.boards import BOARDS, board
from serrano.boards.ulx3s_85f import BOARD, SDRAM
from serrano.config import PRESETS


@pytest.mark.parametrize("name", BOARDS)
def test_boards_fit_their_preset(name):
    found = board(name)
    assert found.name == name
    config = PRESETS[found.preset]
    assert config.port_bytes * 8 == found.sdram.data_bits
    assert found.sdram.capacity <= 1 << config.address_bits


def test_capacity():
    assert SDRAM.capacity == 32 << 20
    assert SDRAM.reachable(32) == SDRAM.reachable(25) == 32 << 20
    assert replace(SDRAM, column_bits=10).reachable(25) == 32 << 20
    assert replace(SDRAM, column_bits=10).reachable(26) == 64 << 20


def test_unknown_board():
    with pytest.raises(ValueError, match=r"^board must be one of ulx3s_85f.*, not 'versa'$"):
        board("versa")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_bits": 12}, "data_bits must be a multiple of 8, not 12"),
        ({"row_bits": 14}, "row_bits must be from 8 to 13, not 14"),
        ({"column_bits": 11}, "column_bits must be from 5 to 10, not 11"),
        ({"bank_bits": 3}, "bank_bits must be from 1 to 2, not 3"),
        ({"t_rp": 0}, "t_rp must be positive, not 0"),
    ],
)
def test_part_refuses(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(SDRAM, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baud": 50_000_000}, "baud must be at most a quarter of the clock, not 50000000"),
        ({"cas_latency": 4}, r"cas_latency must be one of \[2, 3\], not 4"),
        (
            {"cas_latency": 2, "clock_hz": 133_000_000},
            "clock_hz must be at most 100000000 at CAS latency 2, not 133000000",
        ),
    ],
)
def test_board_refuses(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(BOARD, **change)
