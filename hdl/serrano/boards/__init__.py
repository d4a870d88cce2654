# SPDX-License-Identifier: Apache-2.0
"""Boards: what they are, a memory controller for their SDRAM, and the top that a board carries."""

from importlib import import_module
from types import MappingProxyType

from .description import Board, SdramPart

__all__ = ["BOARDS", "Board", "SdramPart", "board"]

BOARDS = MappingProxyType(
    {name: f"serrano.boards.{name}" for name in ("ulx3s_85f", "ulx3s_45f", "icepi_zero")}
)
"""Names of the boards, and the module that has the ``BOARD`` of each."""


def board(name: str) -> Board:
    """Return the board called ``name``.

    Raises
    ------
    ValueError
        If there is no such board; the message lists those that exist.
    """
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return import_module(BOARDS[name]).BOARD
