# SPDX-License-Identifier: Apache-2.0
"""Files for other tools: the list of sources, timing constraints, a FuseSoC core."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from serrano.emit.boundary import Port

__all__ = ["filelist", "fusesoc_core", "timing_constraints"]

PERIOD_NS = 10.0
IO_SHARE = 0.4
LEAST_SHARE = 0.05
TRACE = "trace_"


def filelist(files: Sequence[str]) -> str:
    """One source in a line, as Verilator, Icarus Verilog and others take with ``-f`` or ``-c``."""
    return "".join(f"{file}\n" for file in files)


def timing_constraints(ports: Sequence[Port], *, clock: str, period_ns: float = PERIOD_NS) -> str:
    """Constraints in SDC: the clock, and a share of its period for whatever lies outside of each port.

    What is outside of inputs takes a small share at least, and outputs may change at once: so hold is
    checked. Ports of the trace, which designs leave open, decide nothing.
    """
    inputs = [port for port in ports if port.direction == "input" and port.name != clock]
    outputs = [port for port in ports if port.direction == "output"]

    def delays(direction: str, chosen: Sequence[Port], least: str) -> list[str]:
        names = [f"  {port.name}{'*' * (port.width > 1)}" for port in chosen]
        return [
            line
            for limit, value in (("max", "$outside"), ("min", least))
            for line in (f"set_{direction}_delay -{limit} {value} -clock {clock} [get_ports {{", *names, "}]")
        ]

    return "\n".join(
        [
            "# SPDX-License-Identifier: Apache-2.0",
            "# One clock; all ports are synchronous to it, the reset included. There are no paths of several",
            "# cycles, and no false ones but those to the trace. The period is a place to start from: set it",
            "# to what you want.",
            f"set period {period_ns:.1f}",
            f"set outside [expr {{{IO_SHARE} * $period}}]",
            f"set least [expr {{{LEAST_SHARE} * $period}}]",
            f"create_clock -name {clock} -period $period [get_ports {clock}]",
            f"set_clock_uncertainty -setup [expr {{0.02 * $period}}] [get_clocks {clock}]",
            *delays("input", inputs, "$least"),
            *delays("output", [port for port in outputs if not port.name.startswith(TRACE)], "0"),
            "# For benches: a design around the accelerator leaves them open, and their logic goes.",
            f"set_false_path -to [get_ports {{{TRACE}*}}]",
            "",
        ]
    )


def fusesoc_core(name: str, version: str, files: Sequence[str], vectors: Sequence[str], top: str) -> str:
    """A CAPI2 core with the targets ``default``, ``lint`` and ``sim``."""
    rtl = "".join(f"      - {file}\n" for file in files)
    data = "".join(
        f"      - {file}: {{copyto: {file}}}\n" for file in vectors if PurePosixPath(file).suffix == ".hex"
    )
    return f"""CAPI=2:
# SPDX-License-Identifier: Apache-2.0
name: serrano:ip:{name}:{version}
description: An accelerator for language models of the Llama family, behind AXI4 and AXI4-Lite

filesets:
  rtl:
    files:
{rtl}    file_type: verilogSource-2005
  waivers:
    files:
      - waivers.vlt
    file_type: vlt
  constraints:
    files:
      - serrano.sdc
    file_type: SDC
  bench:
    files:
      - vectors/vectors.vh: {{is_include_file: true, include_path: vectors}}
      - bench/axi_memory_model.v
      - bench/tb_{top}.v
    file_type: verilogSource-2005
  vectors:
    files:
{data}    file_type: user

targets:
  default:
    filesets: [rtl, constraints]
    toplevel: {top}
  lint:
    filesets: [waivers, rtl]
    default_tool: verilator
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wall]
    toplevel: {top}
  sim:
    filesets: [rtl, bench, vectors]
    default_tool: icarus
    tools:
      icarus:
        iverilog_options: [-g2005]
    toplevel: tb_{top}
"""
