# SPDX-License-Identifier: Apache-2.0
"""SystemVerilog benches around an emitted design, with clock, memories and trace sinks outside Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..memory.handle import CPP_SOURCES, VERILOG_SOURCES

__all__ = ["Testbench", "axi_testbench"]

_CHANNEL_PORTS = (
    "arvalid arready araddr arid arlen arsize arburst rvalid rready rdata rid rresp rlast"
    " awvalid awready awaddr awid awlen awsize awburst wvalid wready wdata wstrb wlast"
    " bvalid bready bid bresp"
).split()
_IGNORED_PORTS = "arlock arcache arprot arqos arregion awlock awcache awprot awqos awregion".split()
# What the memory drives; the rest comes from the manager.
_FROM_MEMORY = "arready rvalid rdata rid rresp rlast awready wready bvalid bid bresp".split()
_TIED = {"arburst": "2'b01", "awburst": "2'b01"}


@dataclass(frozen=True)
class Testbench:
    """A bench: its module's name and text, and what it is built with.

    ``inputs`` and ``outputs`` are the names that cocotb sees beside ``clk`` and ``rst``.
    """

    __test__ = False

    top: str
    text: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    verilog_sources: tuple[Path, ...] = field(default=VERILOG_SOURCES)
    cpp_sources: tuple[Path, ...] = field(default=CPP_SOURCES)

    def write(self, folder: Path | str) -> list[Path]:
        """Writes the bench into a folder and returns all Verilog files it needs beside the design."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        file = path / f"{self.top}.sv"
        file.write_text(self.text, encoding="utf-8", newline="\n")
        return [*self.verilog_sources, file]


class _Writer:
    def __init__(self, module: str, ports: Sequence[Any], clock: str, reset: str, reset_active_low: bool):
        self.module = module
        self.ports = {port.name: port for port in ports}
        self.free = [port.name for port in ports if port.name not in (clock, reset)]
        self.wires: list[str] = []
        self.body: list[str] = []
        self.outputs: list[str] = []
        self.connections = [f".{clock}(clk)", f".{reset}({'~rst' if reset_active_low else 'rst'})"]
        for name in (clock, reset):
            if name not in self.ports:
                raise ValueError(f"Module {module!r} has no port {name!r}")

    def take(self, name: str) -> bool:
        """Gives a port of the design a wire of its name, once; False if there is no such port."""
        if name not in self.free:
            return False
        self.free.remove(name)
        self.wires.append(f"    wire {_span(self.ports[name].width)}{name};")
        self.connections.append(f".{name}({name})")
        return True

    def memory(self, prefix: str, name: str) -> None:
        widths = {
            signal: self.ports[f"{prefix}_{signal}"].width
            for signal in ("rdata", "araddr", "wdata", "awaddr")
            if f"{prefix}_{signal}" in self.ports
        }
        if "rdata" not in widths and "wdata" not in widths:
            raise ValueError(f"Module {self.module!r} has no AXI manager with prefix {prefix!r}")
        ids = [
            self.ports[f"{prefix}_{signal}"].width
            for signal in ("arid", "awid", "rid", "bid")
            if f"{prefix}_{signal}" in self.ports
        ]
        data_width = widths.get("rdata", widths.get("wdata"))
        full_size = (data_width // 8).bit_length() - 1
        wired = []
        for signal in _CHANNEL_PORTS:
            port = f"{prefix}_{signal}"
            if self.take(port):
                wired.append(f".{signal}({port})")
            elif signal in _FROM_MEMORY:
                wired.append(f".{signal}()")
            else:
                tied = {**_TIED, "arsize": f"3'd{full_size}", "awsize": f"3'd{full_size}", "wstrb": "'1"}
                wired.append(f".{signal}({tied.get(signal, chr(39) + '0')})")
        for signal in _IGNORED_PORTS:
            self.take(f"{prefix}_{signal}")
        self.outputs += [f"{name}_event", f"{name}_alarm"]
        wired += [f".event_toggle({name}_event)", f".alarm_toggle({name}_alarm)"]
        address_width = max(widths.get("araddr", 1), widths.get("awaddr", 1))
        self.body.append(
            f'    axi_memory #(.NAME("{name}"), .DATA_BYTES({data_width // 8}),'
            f" .ADDR_WIDTH({address_width}), .ID_WIDTH({max(ids, default=1)})) {name}_model (\n"
            f"        .clk(clk), .aresetn(~rst),\n        {', '.join(wired)});"
        )

    def trace(self, name: str, valid: str, payload: str) -> None:
        for port in (valid, payload):
            if not self.take(port):
                raise ValueError(f"Module {self.module!r} has no free port {port!r} to trace")
        self.body.append(
            f'    trace_sink #(.NAME("{name}"), .WIDTH({self.ports[payload].width})) {name}_sink'
            f" (.clk(clk), .aresetn(~rst), .valid({valid}), .payload({payload}));"
        )

    def tie(self, name: str, value: int) -> None:
        if name not in self.free:
            raise ValueError(f"Module {self.module!r} has no free port {name!r} to tie")
        self.free.remove(name)
        self.connections.append(f".{name}({self.ports[name].width}'d{value})")


def _span(width: int) -> str:
    return f"[{width - 1}:0] " if width > 1 else ""


def axi_testbench(
    module: str,
    ports: Sequence[Any],
    *,
    name: str | None = None,
    memories: Mapping[str, str] | None = None,
    traces: Mapping[str, tuple[str, str]] | None = None,
    ties: Mapping[str, int] | None = None,
    clock: str = "clk",
    reset: str = "rst",
    reset_active_low: bool = False,
) -> Testbench:
    """Writes a bench around a design.

    It makes the clock (period 2 ns), connects memories and trace sinks, and leaves every other port to
    cocotb: as inputs and outputs of the bench under the same names, ``clk`` (an output) and ``rst`` (an
    input, active high) beside them. Each memory gives two outputs, ``<memory>_event`` and ``<memory>_alarm``,
    that change as :class:`~serrano_sim.memory.handle.AxiMemory` describes: waiting for their edges costs the
    simulation nothing.

    Parameters
    ----------
    module : :class:`str`
        Name of the design's module.
    ports : sequence
        Its ports, each with ``name``, ``direction`` and ``width``: ``serrano.verilog.Emission.ports``.
    name : :class:`str`
        Name of the bench's module, ``tb_<module>`` if not given.
    memories : mapping of :class:`str` to :class:`str`
        For each AXI manager's prefix (``m_axi``) the name of the memory on it (``memory``). Identifiers,
        qualities of service and other optional signals may be missing.
    traces : mapping of :class:`str` to (:class:`str`, :class:`str`)
        For each trace sink's name the design's outputs for valid and payload.
    ties : mapping of :class:`str` to :class:`int`
        Inputs of the design with a constant value.
    clock, reset, reset_active_low
        As they were given to :func:`serrano.verilog.generate`.

    Raises
    ------
    ValueError
        If the design lacks a port that is spoken of.
    """
    writer = _Writer(module, ports, clock, reset, reset_active_low)
    for port, value in (ties or {}).items():
        writer.tie(port, value)
    for prefix, memory in (memories or {}).items():
        writer.memory(prefix, memory)
    for trace, (valid, payload) in (traces or {}).items():
        writer.trace(trace, valid, payload)
    header = ["    output reg clk", "    input wire rst"]
    header += [f"    output wire {output}" for output in writer.outputs]
    inputs, outputs = [], list(writer.outputs)
    for port in writer.free:
        direction, width = writer.ports[port].direction, writer.ports[port].width
        (inputs if direction == "input" else outputs).append(port)
        header.append(f"    {direction} wire {_span(width)}{port}")
        writer.connections.append(f".{port}({port})")
    top = name or f"tb_{module}"
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        f"// Bench around {module}.",
        "`timescale 1ns / 1ps",
        f"module {top} (",
        ",\n".join(header),
        ");",
        "    initial clk = 1'b0;",
        "    always #1 clk = ~clk;",
        *writer.wires,
        f"    {module} dut (\n        {', '.join(writer.connections)});",
        *writer.body,
        "endmodule",
        "",
    ]
    return Testbench(top, "\n".join(lines), tuple(inputs), tuple(outputs))
