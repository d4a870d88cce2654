# SPDX-License-Identifier: Apache-2.0
"""The behavioural SDRAM: what it answers, and that every rule of it fires."""

from dataclasses import replace

import pytest

from serrano.boards.ulx3s_85f import SDRAM
from serrano_sim.memory.sdram import Sdram, part_fields

PART = replace(SDRAM, t_init=100)
MODE = 1 << 9 | 3 << 4 | 2
COMMANDS = {
    "nop": "",
    "act": "ras",
    "read": "cas",
    "write": "cas we dq_oe",
    "pre": "ras we",
    "all": "ras we",
    "ref": "ras cas",
    "mode": "ras cas we",
    "stop": "we",
}
START = ["nop"] * 10 + ["all", "nop", "nop"] + ["ref", *["nop"] * 6] * 8 + [("mode", 0, MODE), "nop"]


def step(sdram, command="nop", ba=0, a=0, **pins):
    values = dict.fromkeys(("ras", "cas", "we", "dq_oe", "dqm"), 0) | {"clk_en": 1, "cs": 1, "ba": ba}
    values |= dict.fromkeys(COMMANDS[command].split(), 1)
    values["a"] = 1 << 10 if command == "all" else a
    return sdram.edge(values | pins)


def play(commands, part=PART):
    """Commands, one in a cycle: a name, or (name, bank, address[, pins]); the memory and the data bus."""
    sdram = Sdram(part, 100_000_000)
    bus = []
    for command in commands:
        name, *rest = (command,) if isinstance(command, str) else command
        pins = rest.pop() if rest and isinstance(rest[-1], dict) else {}
        bus.append(step(sdram, name, *rest, **pins))
    return sdram, bus


def test_write_and_read():
    write = [("write", 1, 5 + i, {"dq_o": 0x1110 + i, "dqm": mask}) for i, mask in enumerate((0, 1, 2, 0))]
    commands = [("act", 1, 7), "nop", "nop", *write, "nop", ("read", 1, 5), *["nop"] * 8]
    sdram, bus = play(START + commands)
    assert sdram.violation == ""
    base = (7 << 2 | 1) << 10
    assert sdram.memory[base + 10 : base + 18].tobytes().hex() == "1011" + "0011" + "1200" + "1311"
    # Data is there for the third edge after READ, thus after the second one. Columns 5, 6, 7, 4.
    assert bus[-7:-3] == [0x1110, 0x1100, 0x0012, 0]


def test_later_read_cuts_short():
    sdram, _ = play([*START, ("act", 0, 0), "nop", "nop", ("read", 0, 0), ("read", 0, 8), *["nop"] * 8])
    assert sdram.violation == ""
    assert sdram.statistics()["driven"] == 1 + 4


def test_dqm_hides_read_data():
    commands = [("act", 0, 0), "nop", "nop", ("read", 0, 0), ("nop", 0, 0, {"dqm": 3}), *["nop"] * 8]
    sdram, _ = play(START + commands)
    assert sdram.violation == ""
    assert sdram.statistics()["driven"] == 3


OPEN = [("act", 0, 3), "nop", "nop"]
NOPS = ["nop"] * 10


@pytest.mark.parametrize(
    ("rule", "commands"),
    [
        ("tRCD", [*START, ("act", 0, 3), "nop", ("read", 0, 0)]),
        ("tRCD", [*START, ("act", 0, 3), "nop", ("write", 0, 0)]),
        ("tRP", [*START, *OPEN, *NOPS, ("pre", 0), "nop", ("act", 0, 4)]),
        ("tRP", [*START, *OPEN, *NOPS, "all", "nop", "ref"]),
        ("tRAS", [*START, *OPEN, "nop", ("pre", 0)]),
        ("tRAS", [*START, *OPEN, "nop", "all"]),
        ("tRRD", [*START, ("act", 0, 3), ("act", 1, 3)]),
        ("tWR", [*START, *OPEN, *NOPS, ("write", 0, 0), ("pre", 0)]),
        ("tRFC", [*START, "nop", "ref", *["nop"] * 5, ("act", 0, 0)]),
        ("tMRD", [*START[:-1], ("act", 0, 0)]),
        ("tREFI", [*START, *["nop"] * 781 * 10]),
        ("init", ["all"]),
        ("init", [*START[:10], ("act", 0, 0)]),
        ("init", [*START[:10], "ref"]),
        ("init", [*START[:13], ("mode", 0, MODE)]),
        ("open row", [*START, ("read", 2, 0)]),
        ("open row", [*START, *OPEN, *NOPS, ("act", 0, 3)]),
        ("open row", [*START, *OPEN, *NOPS, "ref"]),
        ("bus contention", [*START, *OPEN, ("read", 0, 0), "nop", "nop", ("write", 0, 4)]),
        ("bus contention", [*START, *OPEN, ("read", 0, 0), *["nop"] * 6, ("write", 0, 4)]),
        ("data", [*START, *OPEN, ("write", 0, 0, {"dq_oe": 0})]),
        ("data", [*START, ("nop", 0, 0, {"dq_oe": 1})]),
        ("mode", [*START[:-2], ("mode", 0, 3 << 4 | 2)]),
        ("mode", [*START[:-2], ("mode", 0, MODE | 8)]),
        ("CAS latency", [*START[:-2], ("mode", 0, 1 << 9 | 1 << 4 | 2)]),
        ("row", [*START, ("act", 0, 1 << 13)]),
        ("column", [*START, *OPEN, ("read", 0, 512)]),
        ("command", [*START, *OPEN, ("read", 0, 1 << 10)]),
        ("command", [*START, "nop", "stop"]),
        ("CKE", [*START, ("nop", 0, 0, {"clk_en": 0})]),
    ],
)
def test_rules(rule, commands):
    """The last command is the first wrong one."""
    sdram, _ = play(commands)
    cycle = f": cycle {len(commands) - 1}: "
    if rule == "tREFI":
        cycle = ": cycle "
    assert sdram.violation.startswith(rule + cycle), sdram.violation
    before, _ = play(commands[:-1])
    assert before.violation == "" or rule == "tREFI"


def test_row_cycle():
    """No part at 100 MHz gets here without breaking tRAS or tRP before; this one asks for more."""
    part = replace(PART, t_rc=90)
    commands = [*START, *OPEN, "nop", "nop", ("pre", 0), "nop", "nop"]
    sdram, _ = play([*commands, ("act", 0, 3)], part)
    assert sdram.violation.startswith(f"tRC: cycle {len(commands)}: 80000 ps")
    sdram, _ = play([*commands, "nop", ("act", 0, 3)], part)
    assert sdram.violation == ""


@pytest.mark.parametrize(
    "commands",
    [
        [*OPEN, ("read", 0, 0), *["nop"] * 7, ("write", 0, 4), "nop", ("pre", 0), "nop", "nop", "ref"],
        [("act", 0, 3), "nop", ("act", 1, 3), ("read", 0, 0), *["nop"] * 3, "all", "nop", "nop", "ref"],
        [*OPEN, "nop", "nop", ("pre", 0), "nop", "nop", ("act", 1, 3)],
        ["nop"] * 781 * 8,
    ],
)
def test_just_in_time(commands):
    sdram, _ = play(START + commands)
    assert sdram.violation == ""


def test_refreshes_are_counted():
    """Nine are owed one after another, or few of them at a time."""
    wait = ["nop"] * 774
    sdram, _ = play(START + [*wait, "ref", *["nop"] * 6] * 12)
    assert sdram.violation == ""
    sdram, _ = play(START + wait * 8 + ["ref", *["nop"] * 6] * 7 + wait * 7)
    assert sdram.violation == ""
    sdram, _ = play(START + wait * 8 + ["ref", *["nop"] * 6] * 3 + wait * 7)
    assert sdram.violation.startswith("tREFI: ")


def test_fields():
    fields = part_fields(SDRAM, 133_000_000)
    assert fields["period"] == 7519
    assert fields["rcd"] == 21_000
    assert fields["cas_latencies"] == [2, 3]
    assert fields["cas_periods"] == [10_000, 7_000]


def test_close():
    sdram = Sdram(PART, 100_000_000)
    assert sdram.memory.shape == (32 << 20,)
    sdram.close()
    sdram.close()
