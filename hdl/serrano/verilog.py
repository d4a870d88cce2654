# SPDX-License-Identifier: Apache-2.0
"""Verilog from a component: ``python -m serrano.verilog PRESET -o DIR``, or :func:`generate` from a program.

Equal blocks are one module. Registers and memories carry no initial values: what must start in a known state
is reset. On-chip memories and multipliers are instances of ``serrano_mem_1r1w`` and ``serrano_mul``, each in
a file of its own beside the design, so that a target can put its own in their place. The same input gives the
same bytes.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amaranth._toolchain.yosys import find_yosys
from amaranth.hdl import ClockSignal, Instance, Value
from amaranth.lib import wiring

from .accelerator import Accelerator
from .config import PRESETS, preset
from .emit.boundary import Boundary, Port, axi_port_names
from .emit.plain import plain_negations, wide_shifts, without_empty_wires
from .emit.rtlil import convert_merged
from .primitives.held_multiplier import HeldMultiplier
from .primitives.memory import OnChipMemory
from .primitives.multiplier import Multiplier

__all__ = ["Emission", "Port", "axi_port_names", "emit", "emit_verilog", "generate", "main"]

_WRAPPERS = Path(__file__).parent / "primitives" / "verilog"
_START = "\\$start "
# A process of one constant, which has nothing to wait for and would never be carried out.
_CONSTANT = re.compile(r"^( *)always @\* *\n? *(\S+ (?:\[[0-9:]+\] )?= \d+'[hd][0-9a-fx]+;)\n", re.MULTILINE)
_TRIGGER = re.compile(r"^ *reg (\\\$auto\$verilog_backend\.cc:\S+ ) = 0;\n", re.MULTILINE)


class _VerilogTarget:
    """Platform of the emission: memories and multipliers become instances of the wrapper modules."""

    def __init__(self):
        self.wrappers: set[str] = set()

    def get_on_chip_memory(self, memory: OnChipMemory) -> Instance:
        self.wrappers.add("serrano_mem_1r1w")
        return Instance(
            "serrano_mem_1r1w",
            p_WIDTH=memory.width,
            p_DEPTH=memory.depth,
            p_ADDR_WIDTH=memory.addr_width,
            p_LANES=memory.lanes,
            p_TRANSPARENT=int(memory.transparent),
            p_COLLIDES=int(memory.collides),
            i_clk=ClockSignal(),
            i_w_en=memory.w_en,
            i_w_addr=memory.w_addr,
            i_w_data=Value.cast(memory.w_data),
            i_r_en=memory.r_en,
            i_r_addr=memory.r_addr,
            o_r_data=Value.cast(memory.r_data),
        )

    def get_multiplier(self, multiplier: Multiplier) -> Instance:
        return self._multiplier("serrano_mul", multiplier, i_en=multiplier.en)

    def get_held_multiplier(self, multiplier: HeldMultiplier) -> Instance:
        return self._multiplier("serrano_mul_held", multiplier, i_b_en=multiplier.b_en)

    def _multiplier(self, name: str, multiplier: Multiplier | HeldMultiplier, **more: Value) -> Instance:
        self.wrappers.add(name)
        return Instance(
            name,
            p_A_WIDTH=multiplier.a_width,
            p_B_WIDTH=multiplier.b_width,
            p_LATENCY=multiplier.latency,
            i_clk=ClockSignal(),
            i_a=multiplier.a,
            i_b=multiplier.b,
            **more,
            o_p=multiplier.p,
        )


@dataclass(frozen=True)
class Emission:
    """A component as Verilog.

    ``text`` holds the design's modules, ``wrappers`` the files with the wrapper modules it needs, ``ports``
    the ports of the outermost module in their order, ``modules`` the number of instances of each module.
    """

    name: str
    text: str
    ports: tuple[Port, ...]
    wrappers: tuple[Path, ...]
    modules: Mapping[str, int] = field(repr=False)

    def write(self, path: Path | str) -> list[Path]:
        """Writes the design and its wrappers into a folder and returns the files, the design last."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for wrapper in self.wrappers:
            files.append(folder / wrapper.name)
            files[-1].write_bytes(wrapper.read_bytes())
        files.append(folder / f"{self.name}.v")
        files[-1].write_text(self.text, encoding="utf-8", newline="\n")
        return files


def _to_verilog(rtlil_text: str, top: str, ports: Sequence[Port]) -> str:
    script = "\n".join(
        [
            f"read_rtlil <<rtlil\n{wide_shifts(rtlil_text)}\nrtlil",
            "proc -nomux -norom",
            "memory_collect",
            "attrmap -remove generator -remove top",
            "attrmap -modattr -remove generator -remove top",
            "write_verilog -norename",
        ]
    )
    previous = os.environ.get("AMARANTH_USE_YOSYS")
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    try:
        yosys = find_yosys(lambda version: version >= (0, 40))
    finally:
        if previous is None:
            del os.environ["AMARANTH_USE_YOSYS"]
        else:
            os.environ["AMARANTH_USE_YOSYS"] = previous
    text = yosys.run(["-q", "-"], script, ignore_warnings=True)
    text = _with_starts(_without_triggers(text[text.index("\nmodule ") + 1 :]))
    text = without_empty_wires(plain_negations(text))
    return _with_ordered_headers(text, {top: [port.name for port in ports]})


def _with_ordered_headers(text: str, known: Mapping[str, Sequence[str]]) -> str:
    """Lists the ports of each module in a fixed order: clock and reset first, then as known, else by name."""

    def order(header: re.Match) -> str:
        names = [name.strip() for name in header[2].split(",")]
        if header[1] in known:
            names.sort(key=list(known[header[1]]).index)
        else:
            names.sort(key=lambda name: (name not in ("clk", "rst"), name))
        listed = "".join(f"  {name} ,\n" if name.startswith("\\") else f"  {name},\n" for name in names)
        return f"module {header[1]}(\n{listed[:-2]}\n);\n"

    return re.sub(r"^module (\S+) ?\(([^)]*)\);\n", order, text, flags=re.MULTILINE)


def _with_sources(text: str, sources: Mapping[str, str]) -> str:
    """Says above each module which class it was made from, and in which file that is."""

    def comment(module: re.Match) -> str:
        lines = sources.get(module[1], "").splitlines()
        return "".join(f"// {line}\n" for line in lines) + module[0]

    return re.sub(r"^module (\S+)\(\n", comment, text, flags=re.MULTILINE)


def _with_starts(text: str) -> str:
    """Lets processes of one constant run once in simulation, as Yosys lets those of several."""
    modules = []
    for module in re.split(r"(?<=^endmodule\n)", text, flags=re.MULTILINE):
        body = _CONSTANT.sub(r"\1always @* begin\n\1  if (\\$start ) begin end\n\1  \2\n\1end\n", module)
        if body != module and f"reg {_START}" not in body:
            body = body.replace(");\n", f");\n  reg {_START} = 0;\n", 1)
        modules.append(body)
    return "".join(modules)


def _without_triggers(text: str) -> str:
    """Drops the register that Yosys adds so that a process of constants alone runs once in simulation.

    It stays where such a process exists, that is one that reads nothing.
    """
    modules = []
    for module in re.split(r"(?<=^endmodule\n)", text, flags=re.MULTILINE):
        declared = _TRIGGER.search(module)
        if declared:
            trigger = re.escape(f"    if ({declared[1]}) begin end\n")
            needed = False
            for block in re.findall(
                rf"always @\* begin\n{trigger}(.*?)^  end\n", module, re.MULTILINE | re.DOTALL
            ):
                reads = re.sub(r"^ *\S+ (\[[\d:]+\] )?= \d+'[hd][0-9a-fx]+;\n", "", block, flags=re.MULTILINE)
                needed = needed or not reads.strip()
            if not needed:
                module = re.sub(trigger, "", module)
                module = module.replace(declared[0], "", 1)
            else:
                module = module.replace(declared[1], _START)
        modules.append(module)
    return "".join(modules)


def generate(
    component: wiring.Component,
    name: str,
    *,
    port_names: Mapping[str, str] | None = None,
    clock: str = "clk",
    reset: str = "rst",
    reset_active_low: bool = False,
) -> Emission:
    """Converts a component to Verilog.

    Parameters
    ----------
    component : :class:`~amaranth.lib.wiring.Component`
        What to convert; it lives in domain ``sync``.
    name : :class:`str`
        Name of the outermost module, and start of the name of every other.
    port_names : mapping of :class:`str` to :class:`str`
        Verilog names for ports, see :class:`~serrano.emit.boundary.Boundary`. Without it, the component's
        attribute ``port_names`` if it has one.
    clock, reset : :class:`str`
        Names of the clock and the synchronous reset.
    reset_active_low : :class:`bool`
        Whether the reset is active low.

    Raises
    ------
    TypeError
        If ``component`` is not a component.
    ValueError
        If a port name is wrong, or a memory is written that is not an
        :class:`~serrano.primitives.memory.OnChipMemory`.
    """
    if port_names is None:
        port_names = getattr(component, "port_names", {})
    boundary = Boundary(
        component, port_names=port_names, clock=clock, reset=reset, reset_active_low=reset_active_low
    )
    ports = boundary.describe()
    target = _VerilogTarget()
    design = convert_merged(boundary, name, boundary.ports, target)
    if design.memories:
        raise ValueError(
            f"Every memory of {name!r} must be an OnChipMemory, but {design.memories} write ports are not"
        )
    header = (
        "// SPDX-License-Identifier: Apache-2.0\n"
        f"// {name}: generated by serrano.verilog from {type(component).__name__},"
        f" {design.instances} blocks in {len(design.modules)} modules. Do not edit.\n\n"
    )
    return Emission(
        name=name,
        text=header + _with_sources(_to_verilog(design.text, name, ports), design.sources),
        ports=ports,
        wrappers=tuple(_WRAPPERS / f"{wrapper}.v" for wrapper in sorted(target.wrappers)),
        modules=design.modules,
    )


def emit_verilog(component: wiring.Component, name: str, **options) -> str:
    """Text of the design's modules, without the wrappers; options as for :func:`generate`."""
    return generate(component, name, **options).text


def emit(component: wiring.Component, name: str, path: Path | str, **options) -> list[Path]:
    """Writes a component as Verilog into a folder and returns the files; options as for :func:`generate`."""
    return generate(component, name, **options).write(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: writes ``serrano_top`` of a preset, with AXI's names for clock and reset."""
    parser = argparse.ArgumentParser(
        prog="python -m serrano.verilog", description="Write the Verilog of a preset."
    )
    parser.add_argument("preset", help=f"hardware configuration: {', '.join(PRESETS)}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--name", default="serrano_top", help="name of the outermost module (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        config = preset(options.preset)
    except ValueError as error:
        raise SystemExit(f"verilog: {error}") from error
    emission = generate(
        Accelerator(config), options.name, clock="aclk", reset="aresetn", reset_active_low=True
    )
    for file in emission.write(options.output):
        print(file)
    print(f"{sum(emission.modules.values())} blocks in {len(emission.modules)} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
