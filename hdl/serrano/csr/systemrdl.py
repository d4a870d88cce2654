# SPDX-License-Identifier: Apache-2.0
"""The register table as SystemRDL 2.0, for PeakRDL and other tools."""

from collections.abc import Mapping

from serrano.csr.document import DESCRIPTIONS
from serrano.csr.table import REGISTERS, Access, Register
from serrano.faults import FaultCode

__all__ = ["system_rdl"]

_PROPERTIES = {
    Access.CONSTANT: "sw = r; hw = na;",
    Access.READ_ONLY: "sw = r; hw = w;",
    Access.READ_WRITE: "sw = rw; hw = r;",
    Access.COMMAND: "sw = rw; hw = r; swmod;",
    Access.CLEAR: "sw = rw; onwrite = woclr; hw = r; hwset;",
}


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _register(entry: Register, value: int) -> list[str]:
    lines = ["    reg {", f"        name = {_text(entry.name)};", f"        desc = {_text(entry.doc)};"]
    for name, low, width, doc in entry.fields or (("VALUE", 0, 32, ""),):
        properties = [_PROPERTIES[entry.access]]
        if doc:
            properties.append(f"desc = {_text(doc)};")
        if entry.name == "FAULT_CODE":
            properties.append("encode = fault_code;")
        bits = f"[{low + width - 1}:{low}]"
        # What the hardware shows of its state has no value of its own after reset.
        reset = "" if entry.access is Access.READ_ONLY else f" = 0x{value >> low & (1 << width) - 1:x}"
        lines.append(f"        field {{ {' '.join(properties)} }} {name}{bits}{reset};")
    return [*lines, f"    }} {entry.name} @ 0x{entry.offset:03X};"]


def system_rdl(constants: Mapping[str, int] | None = None) -> str:
    """Return the address map ``serrano``.

    Parameters
    ----------
    constants : mapping of :class:`str` to :class:`int`
        Values of the constant registers of one accelerator; without it they are 0.
    """
    values = dict(constants or {})
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        "// Made from the register table; do not edit.",
        "enum fault_code {",
        *(
            f"    {code.name} = 32'h{code.value:02x} {{ desc = {_text(DESCRIPTIONS[code.name])}; }};"
            for code in FaultCode
        ),
        "};",
        "",
        "addrmap serrano {",
        '    name = "Serrano";',
        '    desc = "Registers behind the AXI4-Lite port s_axi.";',
        "    default regwidth = 32;",
        "    default accesswidth = 32;",
        "    littleendian;",
        "    lsb0;",
    ]
    for entry in REGISTERS:
        lines += _register(entry, values.get(entry.name, 0))
    return "\n".join([*lines, "};"]) + "\n"
