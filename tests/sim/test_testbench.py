# SPDX-License-Identifier: Apache-2.0
"""The text of generated benches; tests/sim/test_memory.py runs one."""

import pytest

from serrano.emit.boundary import Port
from serrano_sim.cocotb.testbench import axi_testbench

CLOCK = (Port("aclk", "input", 1), Port("aresetn", "input", 1))
READ = (
    Port("m_axi_arvalid", "output", 1),
    Port("m_axi_arready", "input", 1),
    Port("m_axi_araddr", "output", 40),
    Port("m_axi_arlen", "output", 8),
    Port("m_axi_arcache", "output", 4),
    Port("m_axi_rvalid", "input", 1),
    Port("m_axi_rready", "output", 1),
    Port("m_axi_rdata", "input", 128),
    Port("m_axi_rlast", "input", 1),
)
REST = (
    Port("irq", "output", 1),
    Port("mode", "input", 3),
    Port("go", "input", 1),
    Port("t_valid", "output", 1),
    Port("t_data", "output", 70),
)


def bench(**options):
    settings = {"clock": "aclk", "reset": "aresetn", "reset_active_low": True}
    return axi_testbench("unit", [*CLOCK, *READ, *REST], **{**settings, **options})


def test_ports_and_parameters():
    made = bench(memories={"m_axi": "dram"}, traces={"log": ("t_valid", "t_data")}, ties={"mode": 5})
    assert made.top == "tb_unit"
    assert made.inputs == ("go",)
    assert made.outputs == ("dram_event", "dram_alarm", "irq")
    assert 'axi_memory #(.NAME("dram"), .DATA_BYTES(16), .ADDR_WIDTH(40), .ID_WIDTH(1))' in made.text
    assert 'trace_sink #(.NAME("log"), .WIDTH(70))' in made.text
    assert ".mode(3'd5)" in made.text
    assert ".aresetn(~rst)" in made.text
    # A read-only manager without burst size: full beats, incrementing, and a quiet write side.
    assert ".arsize(3'd4)" in made.text
    assert ".arburst(2'b01)" in made.text
    assert ".wvalid('0)" in made.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memories": {"x": "m"}}, r"Module 'unit' has no AXI manager with prefix 'x'"),
        ({"traces": {"t": ("t_valid", "none")}}, r"Module 'unit' has no free port 'none' to trace"),
        ({"ties": {"none": 0}}, r"Module 'unit' has no free port 'none' to tie"),
        ({"reset": "rst"}, r"Module 'unit' has no port 'rst'"),
    ],
)
def test_missing_ports(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        bench(**options)
