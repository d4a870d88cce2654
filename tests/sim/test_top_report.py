# SPDX-License-Identifier: Apache-2.0
"""What people see of a run: the text as it comes, and the summary."""

import io
import re

import pytest
from rich.console import Console

from serrano.config import preset
from serrano_sim.top.display import Display
from serrano_sim.top.figures import ARRAY, PORT, Figures
from serrano_sim.top.prefix import Method
from serrano_sim.top.report import (
    ARRAY_TEXT,
    BYTES_TEXT,
    METHOD_TEXT,
    PORT_TEXT,
    build_report,
    request_report,
    show_summary,
)

FIGURES = Figures(
    tokens=4,
    cycles=4000,
    array_cycles=dict(zip(ARRAY, (2000, 1000, 500, 250, 250, 0), strict=True)),
    port_cycles=dict(zip(PORT, (3000, 500, 100, 1, 399, 0), strict=True)),
    bytes={"weights": 48000, "kv_read": 8000, "kv_write": 320, "other": 1600},
    useful_bytes=51200,
    useful_macs=512000,
    rows_issued=2000,
    n=16,
    port_bytes=16,
)


REQUEST = {
    "prompt": "one",
    "prompt_tokens": 3,
    "tokens": [4, 5, 6, 7],
    "text": " two",
    "figures": FIGURES,
    "blocks_peak": 2,
    "run": {"cycles": 9000, "seconds": 0.1, "cycles_per_second": 90000, "steps": 6},
}
PREFIX = {
    "method": "fork and trim",
    "common_tokens": 41,
    "reused_tokens": 40,
    "blocks_shared": 2,
    "blocks_copied": 1,
    "blocks_allocated": {"shared": 3, "alone": 5, "saved": 2},
    "memory_saved_bytes": 17408,
    "kv_bytes_not_computed": 21760,
    "kv_bytes_copied": 8704,
    "kv_bytes_written": {"shared": 10000, "alone": 40000, "saved": 30000},
    "steps": {"shared": 6, "alone": 46, "saved": 40},
    "cycles": {"shared": 60000, "alone": 460000, "saved": 400000},
    "cycles_to_first_token": {"shared": 12000, "alone": None, "saved": None},
    "host_commands": 30,
    "host_command_cycles": 1200,
    "positions_compared": 6,
    "elements_equal": 12345,
    "logits_equal": 4096,
}


def report(requests=1, **changes):
    values = {
        "model": "jargon",
        "bit_exact": True,
        "errors": [],
        "compared": {"logits_compared": 4096, "elements_compared": 50000, "kv_bytes_compared": 3264},
        "settings": {"latency": 60, "seed": None},
    }
    own = {name: changes.pop(name) for name in REQUEST if name in changes}
    values["requests"] = [request_report(**(REQUEST | own)) for _ in range(requests)]
    return build_report(preset("base"), **(values | changes))


def shown(values):
    console = Console(file=io.StringIO(), width=110)
    show_summary(console, values)
    return console.file.getvalue()


def test_report():
    found = report()
    assert (found["mbu"], found["port_busy"], found["mac_utilization"]) == (0.8, 0.9, 0.5)
    assert (found["cycles"], found["cycles_per_token"], found["generated_tokens"]) == (4000, 1000, 4)
    assert (found["preset"], found["latency"], found["seed"]) == ("base", 60, None)
    assert found["bytes"] == FIGURES.bytes
    assert not {"second", "alone", "prefix"} & set(found)


def test_report_of_two_prompts():
    found = report(3, prefix=PREFIX)
    assert found["prefix"] == PREFIX
    assert found["second"] == found["alone"] == request_report(**REQUEST)
    assert (found["prompt"], found["text"]) == ("one", " two")


def test_summary_of_two_prompts():
    text = shown(report(3, prefix=PREFIX))
    for line in (
        "common prefix, tokens +41",
        "not computed again +40 +by FORK, TRIM, and a copy of the last block",
        "KV blocks shared +2 +17,408 bytes of memory saved",
        "KV commands of the host for it +30 +1,200 cycles",
        "KV blocks copied +1 +8,704 bytes",
        "shared +alone +saved",
        "cycles +60,000 +460,000 +400,000 +87.0%",
        "cycles to the first token +12,000 +\\S* *\n",
        "steps +6 +46 +40 +87.0%",
        "KV blocks taken from the pool +3 +5 +2 +40.0%",
        "bytes written to KV memory +10,000 +40,000 +30,000 +75.0%",
        "^first text: one two$",
        "^second text: one two$",
        "and alone: 4,096 logits and 12,345 elements of 6 positions are equal$",
    ):
        assert re.search(line, text, re.MULTILINE), line
    assert "first text" not in shown(report())


def test_summary():
    text = shown(report())
    for line in (
        "tokens +4 +after a prompt of 3",
        "cycles per token +1,000.0",
        "MBU +80.0%",
        "MAC utilization +50.0%",
        "KV blocks, peak +2",
        "bytes, keys and values written +320",
        "a row entered the array +█{16} +50.0% +2,000",
        "no room for results +█{2} +6.2% +250",
        "no step was running +0.0% +0",
        "no room in a buffer +▏ +0.0% +1 ",
        "weights +█{24} +75.0% +3,000",
        "bit exact: 4,096 logits, 50,000 elements and 3,264 bytes of KV memory equal the golden model's",
    ):
        assert re.search(line, text), line


def test_every_part_has_a_text():
    assert (tuple(ARRAY_TEXT), tuple(PORT_TEXT), set(BYTES_TEXT)) == (ARRAY, PORT, set(FIGURES.bytes))
    assert set(METHOD_TEXT) == {method.value for method in Method}


def test_summary_of_a_failure():
    """Brackets in an error are no markup."""
    values = report(
        bit_exact=False, errors=["step 3: [bold] differs"], figures=None, run={}, blocks_peak=None
    )
    text = shown(values)
    assert values["cycles"] is None and values["array_cycles"] is None
    assert "not bit exact\n  step 3: [bold] differs" in text
    assert "MBU" not in text


def test_lines_where_nobody_watches():
    console = Console(file=io.StringIO(), width=110)
    with Display(console) as display:
        display.begin("prompt", 3)
        display.stage("building")
        display.stage("building")
        display.progress(5, 1.0, None)
        display.token(" [a]", 1000, 50000.0, 2.0)
        display.token("\n", 2000, 50000.0, 1.0)
        display.begin("[other]", 1, "second prompt")
        display.token("b", 3000, 50000.0, 1.0)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "building"
    assert lines[1:] == [
        "   1/3         1,000 cycles     50,000 cycles/s  ' [a]'",
        "   2/3         2,000 cycles     50,000 cycles/s  '\\n'",
        "second prompt: '[other]'",
        "   1/1         3,000 cycles     50,000 cycles/s  'b'",
    ]


@pytest.mark.parametrize(("left", "text"), [(None, "cycles/s"), (7.4, "7 s left"), (125, "2 min 05 s left")])
def test_a_terminal_shows_text_and_progress(left, text):
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None)
    with Display(console) as display:
        display.begin("prompt", 3)
        display.token(" word", 1000, 50000.0, left)
        display._live.refresh()
        display.begin("another", 5, "second")
    out = console.file.getvalue()
    assert "prompt word" in out
    assert re.search(r"prompt word\s+second\s+another", out)
    assert f"1/3 tokens, 1,000 cycles, 50,000 {'cycles/s' if left is None else f'cycles/s, {text}'}" in out
    assert text in out
