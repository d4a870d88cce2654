# SPDX-License-Identifier: Apache-2.0
"""A test bench that brings every module of a design out of reset, each by itself, from unknown contents.

In a simulator with X every register and memory begins undefined. After two clock edges in reset, with all
other inputs at 0, no output of one bit may be undefined: these are the handshakes, and all else that decides.
"""

import re
from collections.abc import Iterator

__all__ = ["PASSED", "reset_bench"]

PASSED = "RESET: all defined"
# Flags and addresses that go with data: whoever uses them has a valid bit.
_DATA = frozenset("first last normalized_last r_last row slot tile token word".split())
_MODULE = re.compile(r"^module (\w+) ?\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\\\S+|\w+) ?;$", re.MULTILINE)


def _modules(verilog: str) -> Iterator[tuple[str, list[tuple[str, int, str]]]]:
    """Name and ports (direction, width, name) of each module."""
    for module in _MODULE.finditer(verilog):
        ports = _PORT.findall(module[0])
        yield module[1], [(direction, int(high or 0) + 1, name) for direction, high, name in ports]


def reset_bench(verilog: str, name: str = "tb_reset") -> str:
    """A bench around all modules of emitted Verilog that have a clock ``clk`` and a reset ``rst``.

    It prints what is undefined, and :data:`PASSED` in the end if nothing is.
    """
    instances, checks = [], []
    for module, ports in _modules(verilog):
        if not {"clk", "rst"} <= {port for _, _, port in ports}:
            continue
        pins = []
        for direction, width, port in ports:
            if port in ("clk", "rst"):
                pins.append(f".{port}({port})")
            elif direction == "input":
                pins.append(f".{port} ({width}'d0)")
            elif width == 1 and port.rpartition("__")[2] not in _DATA:
                pins.append(f".{port} (o[{len(checks)}])")
                checks.append(f'defined({len(checks)}, "{module}.{port.lstrip(chr(92))}");')
        instances.append(f"{module} i_{len(instances)} ({', '.join(pins)});")
    lines = [
        "`timescale 1ns / 1ps",
        f"module {name};",
        "reg clk, rst;",
        "integer failures;",
        f"wire [{max(0, len(checks) - 1)}:0] o;",
        "task defined(input integer index, input [8*120-1:0] what);",
        '  if (o[index] === 1\'bx) begin $display("%0s is undefined", what); failures = failures + 1; end',
        "endtask",
        *instances,
        "initial begin",
        "  {clk, failures} = 0;",
        "  rst = 1;",
        "  repeat (4) #5 clk = !clk;",
        "  rst = 0;",
        "  repeat (6) #5 clk = !clk;",
        *(f"  {check}" for check in checks),
        f'  if (failures == 0) $display("{PASSED}: {len(checks)} outputs of {len(instances)} modules");',
        "end",
        "endmodule",
    ]
    return "\n".join(lines) + "\n"
