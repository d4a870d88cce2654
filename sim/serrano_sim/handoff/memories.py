# SPDX-License-Identifier: Apache-2.0
"""Every instance of the wrapper modules in emitted Verilog: where it is, and its parameters."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["CONTRACT", "MULTIPLIERS", "instances_of", "memory_list"]

MEMORY = "serrano_mem_1r1w"
CONTRACT = {
    "clock": "one clock for both ports; no reset, no initial contents",
    "read": "one cycle: with r_en the word at r_addr is sampled; r_data has it from the next cycle on, and"
    " keeps it while r_en is low",
    "write": "with w_en[i] lane i of the word at w_addr takes lane i of w_data, width / lanes bits wide",
    "collision": "a read of the word that is being written gives the old word; where transparent is true, the"
    " lanes that are being written are new; where collides is false no such read is used, and it may give"
    " anything",
    "range": "addresses from depth up are not used",
}
"""What a module that takes the place of the memories' wrapper has to do."""

MULTIPLIERS = {
    "serrano_mul": "p = a * b, signed, latency cycles with en after the operands; a pair of operands in each"
    " of them, in others all stays as it is; no reset",
    "serrano_mul_held": "p = a * b, signed, latency cycles after a; b as it was in the last cycle with b_en;"
    " an operand in every cycle; no enable, no reset",
}
"""The same for the wrappers of multipliers."""

_NAME = r"(?:\\\S+ |\w+)"
_MODULE = re.compile(rf"^module ({_NAME}) ?\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(rf"^  (\w+) (?:#\(\n((?:    \.\w+\([^\n]*\n)*)  \) )?({_NAME}) ?\($", re.MULTILINE)
_PARAMETER = re.compile(r"\.(\w+)\(\d*'?d?(\d+)\)")


def instances_of(verilog: str, top: str, wrapper: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Path and parameters of each instance of a module, in the order of the text."""
    children = {
        module[1].strip(): [(kind, name.strip(), text) for kind, text, name in _INSTANCE.findall(module[0])]
        for module in _MODULE.finditer(verilog)
    }

    def below(module: str, path: str) -> Iterator[tuple[str, dict[str, int]]]:
        for kind, name, parameters in children.get(module, ()):
            place = f"{path}.{name}" + (" " if name.startswith("\\") else "")
            if kind == wrapper:
                yield place, {key: int(value) for key, value in _PARAMETER.findall(parameters)}
            elif kind in children:
                yield from below(kind, place)

    return below(top, top)


def memory_list(verilog: str, top: str) -> Mapping[str, Any]:
    """The contents of ``memories.json``."""
    memories = []
    for path, parameters in instances_of(verilog, top, MEMORY):
        width, depth = parameters["WIDTH"], parameters["DEPTH"]
        memories.append(
            {
                "path": path,
                "width": width,
                "depth": depth,
                "lanes": parameters["LANES"],
                "transparent": bool(parameters["TRANSPARENT"]),
                "collides": bool(parameters["COLLIDES"]),
                "bits": width * depth,
            }
        )
    return {
        "module": MEMORY,
        "contract": CONTRACT,
        "count": len(memories),
        "total_bits": sum(memory["bits"] for memory in memories),
        "memories": memories,
        "multipliers": [_multipliers(verilog, top, module) for module in MULTIPLIERS],
    }


def _multipliers(verilog: str, top: str, module: str) -> Mapping[str, Any]:
    names = {"A_WIDTH": "a_width", "B_WIDTH": "b_width", "LATENCY": "latency"}
    found = [
        {"path": path} | {name: parameters[key] for key, name in names.items()}
        for path, parameters in instances_of(verilog, top, module)
    ]
    return {"module": module, "contract": MULTIPLIERS[module], "count": len(found), "instances": found}
