# SPDX-License-Identifier: Apache-2.0
"""What the description of a board and its platform have to agree on."""

from typing import Any

from serrano.boards.description import Board


def resource(platform: type, name: str) -> Any:
    """The first resource of a platform with this name."""
    return next(one for one in platform.resources if one.name == name)


def check_memory(board: Board, platform: type) -> None:
    """The platform has as many pins of each kind as the board's memory."""
    io = {sub.name: sub.ios[0] for sub in resource(platform, "sdram").ios}
    part = board.sdram
    widths = {"dq": part.data_bits, "ba": part.bank_bits, "a": part.row_bits, "dqm": part.data_bits // 8}
    assert {name: len(io[name].names) for name in widths} == widths


def check_platform(board: Board, platform: type) -> None:
    """The board names this platform, which has a serial line and a clock."""
    module, name = board.platform.split(":")
    assert (module, name) == (platform.__module__, platform.__name__)
    assert resource(platform, "uart")
    assert resource(platform, platform.default_clk).clock.frequency > 0
