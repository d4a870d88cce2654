# SPDX-License-Identifier: Apache-2.0
"""What people see of a run: the text as it comes, and the summary."""

import io
import re

import pytest
from rich.console import Console

from serrano.config import preset
from serrano_sim.top.display import Display
from serrano_sim.top.figures import ARRAY, PORT, Figures
from serrano_sim.top.report import ARRAY_TEXT, BYTES_TEXT, PORT_TEXT, build_report, show_summary

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


def report(**changes):
    values = {
        "model": "jargon",
        "prompt": "one",
        "prompt_tokens": 3,
        "tokens": [4, 5, 6, 7],
        "text": " two",
        "bit_exact": True,
        "errors": [],
        "figures": FIGURES,
        "compared": {"logits_compared": 4096, "elements_compared": 50000, "kv_bytes_compared": 3264},
        "blocks_peak": 2,
        "settings": {"latency": 60, "seed": None},
        "run": {"cycles": 9000, "seconds": 0.1, "cycles_per_second": 90000, "steps": 6},
    }
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
    with Display(console, "prompt", 3) as display:
        display.stage("building")
        display.stage("building")
        display.progress(5, 1.0, None)
        display.token(" [a]", 1000, 50000.0, 2.0)
        display.token("\n", 2000, 50000.0, 1.0)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "building"
    assert lines[1:] == [
        "   1/3         1,000 cycles     50,000 cycles/s  ' [a]'",
        "   2/3         2,000 cycles     50,000 cycles/s  '\\n'",
    ]


@pytest.mark.parametrize(("left", "text"), [(None, "cycles/s"), (7.4, "7 s left"), (125, "2 min 05 s left")])
def test_a_terminal_shows_text_and_progress(left, text):
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None)
    with Display(console, "prompt", 3) as display:
        display.token(" word", 1000, 50000.0, left)
        display._live.refresh()
    out = console.file.getvalue()
    assert "prompt word" in out
    assert f"1/3 tokens, 1,000 cycles, 50,000 {'cycles/s' if left is None else f'cycles/s, {text}'}" in out
    assert text in out
