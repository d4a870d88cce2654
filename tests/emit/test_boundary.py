# SPDX-License-Identifier: Apache-2.0
"""Port names of the outermost module."""

import pytest
from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.bus.axi import AXI4Read
from serrano.emit.boundary import Boundary, Port, axi_port_names


class Unit(wiring.Component):
    def __init__(self):
        address = data.StructLayout({"addr": 12, "len": 8})
        super().__init__(
            {
                "bus": Out(AXI4Read(32, 4)),
                "link": Out(
                    wiring.Signature(
                        {"ar": Out(stream.Signature(address)), "r": In(stream.Signature(signed(16)))}
                    )
                ),
                "irq": Out(1),
                "begin": In(1),
                "nothing": In(0),
            }
        )

    def elaborate(self, platform):
        return Module()


def boundary(**options):
    settings = {"port_names": {}, "clock": "clk", "reset": "rst", "reset_active_low": False}
    return Boundary(Unit(), **{**settings, **options})


def test_names_without_a_map():
    ports = boundary().describe()
    assert ports[:2] == (Port("clk", "input", 1), Port("rst", "input", 1))
    assert Port("bus__araddr", "output", 32) in ports
    assert Port("link__ar__payload", "output", 20) in ports
    assert Port("link__r__payload", "input", 16) in ports
    assert Port("irq", "output", 1) in ports
    assert Port("begin_", "input", 1) in ports
    assert "nothing" not in [port.name for port in ports]


def test_axi_names():
    unit = Unit()
    names = axi_port_names(unit, "bus", "m_axi") | axi_port_names(unit, "link", "l")
    assert names["bus__araddr"] == "m_axi_araddr"
    assert names["bus__rlast"] == "m_axi_rlast"
    ports = boundary(port_names=names, clock="aclk", reset="aresetn").describe()
    assert ports[:2] == (Port("aclk", "input", 1), Port("aresetn", "input", 1))
    for port in (
        Port("m_axi_araddr", "output", 32),
        Port("m_axi_rdata", "input", 32),
        Port("l_araddr", "output", 12),
        Port("l_arlen", "output", 8),
        Port("l_arvalid", "output", 1),
        Port("l_rdata", "input", 16),
        Port("l_rready", "output", 1),
    ):
        assert port in ports
    with pytest.raises(ValueError, match=r"has no interface named 'dma'$"):
        axi_port_names(unit, "dma", "m_axi")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port_names": {"irq": "clk"}}, r"Port name 'clk' is used twice"),
        ({"port_names": {"irq": "event"}}, r"Port name must be a Verilog identifier, not 'event'"),
        ({"port_names": {"irq": "i r q"}}, r"Port name must be a Verilog identifier, not 'i r q'"),
        ({"port_names": {"iqr": "x"}}, r"Name map speaks of 'iqr', which is no port of .*"),
        (
            {"port_names": {"link__ar__payload__size": "x"}},
            r"Name map speaks of 'link__ar__payload__size', .*",
        ),
    ],
)
def test_bad_names(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        boundary(**options)


def test_only_components():
    with pytest.raises(TypeError, match=r"^Only a component can be emitted, not <.*Module.*>$"):
        Boundary(Module(), port_names={}, clock="clk", reset="rst", reset_active_low=False)
