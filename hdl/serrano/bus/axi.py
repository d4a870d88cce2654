# SPDX-License-Identifier: Apache-2.0
"""AXI4 and AXI4-Lite signatures, with the port names of the AMBA AXI specification (ARM IHI 0022)."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AXI4Lite", "AXI4Read", "AXI4Write"]

INCR = 1
"""Burst type of an incrementing burst."""

ID_BITS = 4


class AXI4Read(wiring.Signature):
    """Read channels AR and R of an AXI4 manager.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of ``araddr``.
    data_bytes : :class:`int`
        Bytes per beat.
    """

    def __init__(self, address_bits: int, data_bytes: int):
        super().__init__(
            {
                "arid": Out(ID_BITS),
                "araddr": Out(address_bits),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(2),
                "arlock": Out(1),
                "arcache": Out(4),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rid": In(ID_BITS),
                "rdata": In(8 * data_bytes),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AXI4Write(wiring.Signature):
    """Write channels AW, W and B of an AXI4 manager.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of ``awaddr``.
    data_bytes : :class:`int`
        Bytes per beat.
    """

    def __init__(self, address_bits: int, data_bytes: int):
        super().__init__(
            {
                "awid": Out(ID_BITS),
                "awaddr": Out(address_bits),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(2),
                "awlock": Out(1),
                "awcache": Out(4),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(8 * data_bytes),
                "wstrb": Out(data_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(ID_BITS),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class AXI4Lite(wiring.Signature):
    """AXI4-Lite with 32-bit data, as seen by its manager.

    Parameters
    ----------
    address_bits : :class:`int`
        Width of the byte addresses.
    """

    def __init__(self, address_bits: int):
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
