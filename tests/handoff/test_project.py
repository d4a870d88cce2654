# SPDX-License-Identifier: Apache-2.0
"""Constraints name every port once; the core names every file."""

import re

from serrano.emit.boundary import Port
from serrano_sim.handoff.project import filelist, fusesoc_core, timing_constraints

PORTS = (
    Port("aclk", "input", 1),
    Port("aresetn", "input", 1),
    Port("data", "input", 8),
    Port("irq", "output", 1),
    Port("trace_values", "output", 32),
)


def test_constraints() -> None:
    text = timing_constraints(PORTS, clock="aclk", period_ns=8)
    assert "set period 8.0\n" in text and "create_clock -name aclk -period $period [get_ports aclk]" in text
    delays = re.findall(
        r"set_(\w+)_delay (-m\w+) (\S+) -clock aclk \[get_ports \{\n(.*?)\}\]", text, re.DOTALL
    )
    assert [(*what, ports.split()) for *what, ports in delays] == [
        (kind, limit, value, names)
        for kind, names, least in (("input", ["aresetn", "data*"], "$least"), ("output", ["irq"], "0"))
        for limit, value in (("-max", "$outside"), ("-min", least))
    ]
    assert text.count("trace_") == 1 and "set_false_path -to [get_ports {trace_*}]" in text
    assert text.count("_delay") == 4 and text.count("[") == text.count("]")


def test_core_and_list() -> None:
    text = fusesoc_core("top_tiny", "1.2.3", ["a.v", "top.v"], ["vectors/v.vh", "vectors/memory.hex"], "top")
    assert "name: serrano:ip:top_tiny:1.2.3\n" in text
    assert "      - a.v\n      - top.v\n" in text
    assert "vectors/memory.hex: {copyto: vectors/memory.hex}" in text and "bench/tb_top.v" in text
    assert filelist(["a.v", "top.v"]) == "a.v\ntop.v\n"
