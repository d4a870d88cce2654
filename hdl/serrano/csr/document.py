# SPDX-License-Identifier: Apache-2.0
"""The register page, the C header and the driver's constants, made from the register table.

``python -m serrano.csr.document markdown`` prints the page, ``header`` the header, ``python`` the
driver's module.
"""

import sys

from serrano.csr.table import COUNTER_BASE, COUNTERS, REGISTERS
from serrano.faults import FaultCode

__all__ = ["c_header", "markdown", "python_module"]

DESCRIPTIONS = {
    "NONE": "no fault",
    "BUS_SLVERR": "the memory answered SLVERR",
    "BUS_DECERR": "the memory answered DECERR",
    "WATCHDOG": "a step made no progress for WATCHDOG cycles",
    "DESCRIPTOR_MAGIC": "there is no tape at TAPE_ADDRESS",
    "DESCRIPTOR_VERSION": "the tape has another major version",
    "DESCRIPTOR_CRC": "the model descriptor is corrupt",
    "DESCRIPTOR_GEOMETRY": "the tape was compiled for another array size, alignment, group or block size",
    "DESCRIPTOR_LIMIT": "a dimension of the model exceeds a buffer of this accelerator",
    "PACKET_OPCODE": "a packet's opcode is unknown",
    "PACKET_INDEX": "a packet is not the one that was expected",
    "PACKET_LENGTH": "a payload's length does not follow from opcode, k and n_out",
    "PACKET_DIMENSION": "k or n_out contradicts the model descriptor",
    "PACKET_CRC": "a packet is corrupt",
    "KV_COMMAND": "the KV controller refused a command; its status is in FAULT_DETAIL",
    "KV_MAP": "a KV record was wanted from a block that is not mapped",
    "REQUEST_EMPTY": "a prompt is empty, or no tokens are wanted",
    "REQUEST_LENGTH": "prompt and new tokens exceed the context",
    "REQUEST_TOKEN": "a token id is not in the vocabulary",
    "REQUEST_SPACE": "there are not enough KV blocks",
    "REQUEST_ADDRESS": "the prompt's address is not a multiple of 4",
    "REQUEST_RING": "the completion ring is too small for the request",
    "REQUEST_FLAGS": "a flag that means nothing is set",
    "REQUEST_SEQUENCE": "the adopted sequence is missing, in use, has reserved slots, or all of the prompt",
    "REQUEST_CHANGED": "the sequence of a request was closed or changed by another command between two steps",
    "REQUEST_CANCELLED": "the host has cancelled the request",
}


def _field(name: str, low: int, width: int, doc: str) -> str:
    bits = f"bits {low + width - 1}:{low}" if width > 1 else f"bit {low}"
    return f"<br>{bits} `{name}`" + (f": {doc}" if doc else "")


def markdown() -> str:
    """Return the register page."""
    lines = [
        "# Registers",
        "",
        "Made from `hdl/serrano/csr/table.py` by `python -m serrano.csr.document markdown`; do not edit.",
        "",
        "All registers have 32 bits and are reached over AXI4-Lite; the offsets are in bytes. Addresses",
        "without a register read as 0 and ignore writes. 64-bit values have their lower half first.",
        "",
        "| offset | name | access | |",
        "|---|---|---|---|",
    ]
    for entry in REGISTERS:
        fields = "".join(_field(*field) for field in entry.fields)
        lines.append(
            f"| 0x{entry.offset:03X} | `{entry.name}` | {entry.access.value} | {entry.doc}{fields} |"
        )
    lines += ["", "## Fault codes", "", "| code | name | |", "|---|---|---|"]
    lines += [f"| 0x{code.value:02X} | `{code.name}` | {DESCRIPTIONS[code.name]} |" for code in FaultCode]
    return "\n".join(lines) + "\n"


def c_header() -> str:
    """Return a C header with offsets, field positions and fault codes."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        "/* Made from the register table; do not edit. */",
        "#ifndef SERRANO_REGISTERS_H",
        "#define SERRANO_REGISTERS_H",
        "",
    ]
    for entry in REGISTERS:
        lines.append(f"#define SERRANO_{entry.name} 0x{entry.offset:03X}u /* {entry.doc} */")
        for name, low, width, _ in entry.fields:
            mask = (1 << width) - 1 << low
            lines.append(f"#define SERRANO_{entry.name}_{name}_SHIFT {low}u")
            lines.append(f"#define SERRANO_{entry.name}_{name}_MASK 0x{mask:08X}u")
    lines.append("")
    for code in FaultCode:
        lines.append(f"#define SERRANO_FAULT_{code.name} 0x{code.value:02X}u /* {DESCRIPTIONS[code.name]} */")
    lines += ["", "#endif"]
    return "\n".join(lines) + "\n"


def python_module() -> str:
    """Return the driver's module with offsets, masks of fields, counters and fault codes."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# ruff: noqa: E501",
        '"""Registers, counters and fault codes.',
        "",
        "Made from `hdl/serrano/csr/table.py` by `python -m serrano.csr.document python`; do not edit.",
        '"""',
        "",
        "from enum import IntEnum",
        "",
        "# fmt: off",
        "",
        "",
        "class Register(IntEnum):",
        '    """Offset of each register in bytes."""',
        "",
    ]
    lines += [f"    {entry.name} = 0x{entry.offset:03X}" for entry in REGISTERS]
    lines += ["", "", "# Masks of fields, REGISTER_FIELD."]
    for entry in REGISTERS:
        for name, low, width, _ in entry.fields:
            lines.append(f"{entry.name}_{name} = 0x{(1 << width) - 1 << low:08X}")
    lines += ["", f"COUNTER_BASE = 0x{COUNTER_BASE:03X}", "COUNTERS = ("]
    lines += [f'    "{name}",' for name, _ in COUNTERS]
    lines += [")", "", "", "class FaultCode(IntEnum):", '    """Why something failed."""', ""]
    lines += [f"    {code.name} = 0x{code.value:02X}" for code in FaultCode]
    lines += ["", "", "FAULT_TEXTS = {"]
    lines += [f'    FaultCode.{code.name}: "{DESCRIPTIONS[code.name]}",' for code in FaultCode]
    lines += ["}"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print what is asked for; return the exit status."""
    makers = {"markdown": markdown, "header": c_header, "python": python_module}
    if len(arguments) != 1 or arguments[0] not in makers:
        print(f"usage: python -m serrano.csr.document {{{','.join(makers)}}}", file=sys.stderr)
        return 2
    sys.stdout.write(makers[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
