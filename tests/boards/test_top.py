# SPDX-License-Identifier: Apache-2.0
"""The top of a board: what it refuses, its ports, and its LEDs. tests/board runs it as a whole."""

from dataclasses import replace

import pytest

from serrano.boards import board
from serrano.boards.top import LEDS, BoardTop
from serrano.boards.ulx3s_85f import SDRAM
from serrano.config import preset
from serrano.emit.boundary import Boundary


def top(name="ulx3s", part=SDRAM, **options):
    return BoardTop(preset(name), part, **{"clock_hz": 100_000_000, "baud": 1_000_000, **options})


def test_ports():
    found = board("ulx3s_85f")
    dut = BoardTop(preset(found.preset), found.sdram, clock_hz=found.clock_hz, baud=found.baud)
    names = "clk_en cs ras cas we ba a dqm dq_o dq_oe dq_i".split()
    wanted = ["clk", "rst", *(f"sdram_{name}" for name in names), "uart_rx", "uart_tx", "leds"]
    boundary = Boundary(dut, port_names=dut.port_names, clock="clk", reset="rst", reset_active_low=False)
    assert [port.name for port in boundary.describe()] == wanted
    assert len(dut.leds) == len(LEDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tiny"}, r"The accelerator's port must be as wide as the memory \(16 bits\), not 32 bits"),
        ({"baud": 30_000_000}, "baud must be a part of the clock, at most a quarter of it, not 30000000"),
        ({"baud": 22_000_000}, "baud must be a part of the clock, at most a quarter of it, not 22000000"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        top(**options)


def test_widths():
    assert len(top("tiny", replace(SDRAM, data_bits=32)).sdram.dqm) == 4
    assert top().divisor == 100
