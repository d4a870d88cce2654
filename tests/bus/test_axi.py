# SPDX-License-Identifier: Apache-2.0
"""AXI signatures: the names and widths that an integrator expects."""

from amaranth.lib.wiring import In, Out

from serrano.bus import AXI4Lite, AXI4Read, AXI4Write


def test_read_channels() -> None:
    members = AXI4Read(40, 16).members
    assert members["araddr"] == Out(40) and members["arlen"] == Out(8)
    assert members["rdata"] == In(128) and members["rready"] == Out(1)


def test_write_channels() -> None:
    members = AXI4Write(32, 4).members
    assert members["wdata"] == Out(32) and members["wstrb"] == Out(4) and members["bresp"] == In(2)


def test_lite() -> None:
    members = AXI4Lite(12).members
    assert members["awaddr"] == Out(12) and members["wdata"] == Out(32) and members["rdata"] == In(32)
