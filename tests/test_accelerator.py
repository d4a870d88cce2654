# SPDX-License-Identifier: Apache-2.0
"""Accelerator: the emitted Verilog of every preset, its ports, its modules, its sameness."""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from serrano.accelerator import Accelerator
from serrano.config import PRESETS, AcceleratorConfig, preset
from serrano_sim.top.design import TOP, top_design

AXI_READ = {
    "ar": "id addr len size burst lock cache prot valid".split(),
    "r": "id data resp last valid".split(),
}
AXI_WRITE = {
    "aw": "id addr len size burst lock cache prot valid".split(),
    "w": "data strb last valid".split(),
    "b": "id resp valid".split(),
}
AXI_LITE = {
    "aw": "addr prot valid".split(),
    "w": "data strb valid".split(),
    "b": "resp valid".split(),
    "ar": "addr prot valid".split(),
    "r": "data resp valid".split(),
}
WIDTHS = {"id": 4, "len": 8, "size": 3, "burst": 2, "lock": 1, "cache": 4, "prot": 3, "resp": 2}


def channels(prefix: str, names: dict[str, list[str]], manager: bool, address: int, data: int) -> set[tuple]:
    """(name, direction, width) of every port of an AXI interface, from the specification."""
    widths = WIDTHS | {"addr": address, "data": 8 * data, "strb": data, "last": 1, "valid": 1}
    ports = set()
    for channel, fields in names.items():
        outgoing = (channel in ("aw", "w", "ar")) == manager
        direction, other = ("output", "input") if outgoing else ("input", "output")
        ports |= {(f"{prefix}_{channel}{field}", direction, widths[field]) for field in fields}
        ports.add((f"{prefix}_{channel}ready", other, 1))
    return ports


def expected_ports(config: AcceleratorConfig) -> set[tuple]:
    memory = config.address_bits, config.port_bytes
    trace = {"valid": 1, "kind": 4, "packet": 16, "row": 8, "column": 20, "values": 32 * max(2, config.lanes)}
    trace["activity"] = 35
    return (
        channels("m_axi", AXI_READ, True, *memory)
        | channels("m_axi", AXI_WRITE, True, *memory)
        | channels("s_axi", AXI_LITE, False, 12, 4)
        | {("aclk", "input", 1), ("aresetn", "input", 1), ("irq", "output", 1)}
        | {(f"trace_{name}", "output", width) for name, width in trace.items()}
    )


@cache
def modules(name: str) -> dict[str, str]:
    """Text of each module in the emitted files of a preset."""
    found = {}
    for file in top_design(preset(name)).files:
        text = re.sub(r"//.*", "", file.read_text())
        for module, body in re.findall(r"^module (\w+)\b(.*?)^endmodule", text, re.MULTILINE | re.DOTALL):
            assert module not in found, f"{module} is defined twice"
            found[module] = body
    return found


@cache
def instances(name: str) -> dict[str, Counter]:
    """How often each module holds instances of which other."""
    held = {}
    for module, body in modules(name).items():
        kinds = re.findall(r"^ +(serrano_\w+) (?:#\(\n.*?\n +\) )?\S+ +\(", body, re.MULTILINE | re.DOTALL)
        held[module] = Counter(kinds)
    return held


@pytest.fixture(params=PRESETS)
def name(request) -> str:
    return request.param


def test_ports(name: str) -> None:
    ports = [(port.name, port.direction, port.width) for port in top_design(preset(name)).ports]
    assert len(ports) == len(set(ports))
    assert set(ports) == expected_ports(preset(name))
    # The header lists them in the same order.
    header = re.match(r"\((.*?)\);", modules(name)[TOP], re.DOTALL)[1]
    assert [port.strip() for port in header.split(",")] == [port for port, _, _ in ports]


def test_every_module_is_there_once_and_used(name: str) -> None:
    held = instances(name)
    used = {TOP}.union(*held.values())
    assert used == set(held)


def test_equal_blocks_are_one_module(name: str) -> None:
    n, held = preset(name).n, instances(name)
    kind, wrapper = ("processing_element", "serrano_mul")
    versions = 1
    if preset(name).held_weights:
        # Where weights are held, a partial sum is as wide as its row needs: it grows at each power of two.
        kind, wrapper = ("held_element", "serrano_mul_held")
        versions = 2 * (n.bit_length() - 1)
    elements = [module for module in held if kind in module]
    assert len(elements) == versions
    assert sum(held[f"{TOP}_systolic_array"][element] for element in elements) == n * n
    assert all(modules(name)[element].count(f"{wrapper} #(") == 1 for element in elements)
    # Versions of a block differ in their text.
    texts = [re.sub(r"\s+", " ", body) for module, body in modules(name).items() if module != TOP]
    assert len(texts) == len(set(texts))


def test_no_initial_values(name: str) -> None:
    """Except of what starts a process of constants in simulation, \\$start; nothing else reads it."""
    for module, body in modules(name).items():
        assert not re.search(r"\binitial\b", body), module
        text = re.sub(r"^ *(reg \\\$start  = 0;|if \(\\\$start \) begin end)\n", "", body, flags=re.MULTILINE)
        assert "\\$start" not in text, module
        assert not re.search(r"^ *(reg|wire)\b[^;]*=", text, re.MULTILINE), module


def test_memories_are_the_wrapper(name: str) -> None:
    """No array but in the module that a target replaces."""
    arrays = [
        module for module, body in modules(name).items() if re.search(r"\breg\b[^;=]* \[[^\]]+\];", body)
    ]
    assert arrays == ["serrano_mem_1r1w"]


def test_one_clock_one_reset(name: str) -> None:
    """Nothing but the rising clock starts a register, and the reset is synchronous."""
    for module, body in modules(name).items():
        events = set(re.findall(r"@\s*\(?((?:pos|neg)edge \S+?)\)", body))
        assert events <= {"posedge clk", "posedge aclk"}, module
    assert "aresetn" in modules(name)[TOP]


def test_same_bytes_in_another_process() -> None:
    program = (
        "import sys; from serrano.accelerator import Accelerator; from serrano.config import preset\n"
        "from serrano.verilog import emit_verilog\n"
        "accelerator = Accelerator(preset('tiny'))\n"
        "sys.stdout.write(emit_verilog(accelerator, 'serrano_top', clock='aclk', reset='aresetn',"
        " reset_active_low=True))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    there = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout == top_design(preset("tiny")).files[-1].read_text()


def test_names_of_the_ports() -> None:
    names = Accelerator(preset("tiny")).port_names
    assert names["m_axi_read__araddr"] == "m_axi_araddr"
    assert names["s_axi__wstrb"] == "s_axi_wstrb"
    assert len(set(names.values())) == len(names)
