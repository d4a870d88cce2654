# SPDX-License-Identifier: Apache-2.0
"""State machines with a flip-flop for each state: which one it is in is known without decoding.

Yosys recodes them, but forgets in which state they begin. Boards have no reset, so it is told.
"""

import re
from pathlib import Path

__all__ = ["recoding", "with_beginnings", "write_recoded"]

_COMMANDS = """
    read_rtlil {top}.il
    read_verilog -lib -specify +/ecp5/cells_sim.v +/ecp5/cells_bb.v
    hierarchy -top {top}
    proc
    flatten
    opt_expr
    opt_clean
    opt -nodffe -nosdff
    select {top}
    write_rtlil -selected binary.il
    setattr -set fsm_encoding "one-hot" w:*fsm_state w:*scheduler_state
    fsm -encfile states.txt
    select {top}
    write_rtlil -selected one_hot.il
"""
BEGINNING = re.compile(r"  attribute \\init \d+'([01]+)\n(?:  attribute .*\n)*  wire width \d+ \\(\S+)\n")
WIRE = re.compile(r"^  wire width \d+ \\(\S+)$", re.MULTILINE)


def recoding(top: str) -> str:
    """Commands for Yosys: from ``{top}.il`` to the design before and after, and the codes of its states."""
    return "; ".join(line.strip() for line in _COMMANDS.format(top=top).strip().splitlines())


def with_beginnings(one_hot: str, binary: str, states: str) -> str:
    """``one_hot``, with state machines that begin as in ``binary``.

    Parameters
    ----------
    one_hot, binary : :class:`str`
        RTLIL of the design with new codes of states, and before.
    states : :class:`str`
        The codes as Yosys writes them: lines ``.fsm`` with module and register, each followed by lines
        ``.map`` with the old and the new code of a state; ``-`` stands for 0.

    Raises
    ------
    ValueError
        If that is not known of a state machine, or it is not to be found.
    """
    beginnings = {name: code for code, name in BEGINNING.findall(binary)}
    machines: dict[str, dict[str, str]] = {}
    for kind, first, second in (line.split() for line in states.splitlines()):
        if kind == ".fsm":
            machines[second] = codes = {}
        else:
            codes[first] = second.replace("-", "0")
    for name, codes in machines.items():
        if beginnings.get(name) not in codes:
            raise ValueError(f"State machine {name} must begin in one of its states")
    left = set(machines)

    def begin(wire: re.Match[str]) -> str:
        name = wire[1]
        if name not in left:
            return wire[0]
        left.remove(name)
        code = machines[name][beginnings[name]]
        return f"  attribute \\init {len(code)}'{code}\n{wire[0]}"

    found = WIRE.sub(begin, one_hot)
    if left:
        raise ValueError(f"State machines must have a register, not so {', '.join(sorted(left))}")
    return found


def write_recoded(folder: Path) -> Path:
    """Writes RTLIL of the design from what the commands of :func:`recoding` left in a folder.

    Raises
    ------
    ValueError
        As :func:`with_beginnings`.
    """
    files = (folder / name for name in ("one_hot.il", "binary.il", "states.txt"))
    text = with_beginnings(*(file.read_text(encoding="utf-8") for file in files))
    recoded = folder / "recoded.il"
    recoded.write_text(text, encoding="utf-8")
    return recoded
