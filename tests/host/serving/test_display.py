# SPDX-License-Identifier: Apache-2.0
"""Texts on a terminal, and elsewhere."""

import io

import pytest
from rich.console import Console

from serrano_host.driver import Event, Handle
from serrano_host.serving.display import Display, visible
from serrano_host.serving.prompts import Wanted
from serrano_host.serving.session import Served


def console(terminal, width=110, height=20):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, color_system=None)


def some(count):
    made = []
    for i in range(count):
        served = Served(i, Wanted((1, 2), f"prompt {i}:", 8), 0)
        made.append(served)
    return made


def give(display, served, tokens, *, ended=False, status=0):
    served.handle = served.handle or Handle(served.index, 2, 8)
    for token in tokens:
        served.handle.tokens.append(token)
        event = Event(served.handle, token, False, 1000 + token)
        display.event(served, event, served.push(event))
    if ended:
        served.handle.ended, served.handle.status = True, status
        event = Event(served.handle, None, True, 2000)
        display.event(served, event, served.push(event))


def test_plain_lines():
    display = Display(console(False))
    all_served = some(2)
    with display:
        display.stage("building")
        display.stage("building")
        display.begin(all_served, 1000)
        give(display, all_served[0], [5, 6])
        give(display, all_served[1], [7], ended=True, status=0x24)
        all_served[0].problem = "too long"
        display.submitted(all_served[0])
        display.idle(1500)
    lines = display.console.file.getvalue().splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "building",
        "[0] 2 tokens: 'prompt 0:'",
        "[1] 2 tokens: 'prompt 1:'",
        "5 [0] 1/8 '5 '",
        "6 [0] 2/8 '6 '",
        "7 [1] 1/8 '7 '",
        "1,000 [1] ended: PACKET_CRC: a packet is corrupt",
        "[0] too long",
        "[0] prompt 0:5 6 (too long)",
        "[1] prompt 1:7 (PACKET_CRC: a packet is corrupt)",
    ]


def test_ids_where_there_is_no_text():
    display = Display(console(False))
    display.begin([Served(0, Wanted((31, 41), None, 8), 0)], 0)
    assert "2 tokens: '31 41 '" in display.console.file.getvalue()


def shown(display, width, height=20):
    target = console(True, width, height)
    target.print(display.render())
    return target.file.getvalue()


def test_panels_side_by_side():
    display = Display(console(True, 120))
    all_served = some(3)
    display.begin(all_served, 0)
    give(display, all_served[0], [5] * 300)
    give(display, all_served[1], [6], ended=True)
    text = shown(display, 120)
    first = text.splitlines()[0]
    assert "0: 300/8 running" in first and "1: 1/8 done" in first and "2: 0/8 to come" in first
    assert "prompt 1:6" in text and "prompt 2:" in text
    assert "prompt 0:" not in text  # Only the end of a long text.
    assert len(text.splitlines()) <= 15


@pytest.mark.parametrize("height", [10, 40])
def test_a_line_each_where_there_are_many(height):
    display = Display(console(True, 100, height))
    all_served = some(20)
    display.begin(all_served, 0)
    for served in all_served[:8]:
        give(display, served, [5], ended=True)
    give(display, all_served[9], [5, 4])
    text = shown(display, 100, height)
    assert "prompt 9:5 4" in text and "running" in text
    assert ("prompt 1:5" in text) == (height == 40)
    assert ("and 15 more" in text) == (height == 10)
    assert len(text.splitlines()) <= height


def test_a_terminal_ends_with_all_texts():
    display = Display(console(True, 60))
    all_served = some(4)
    with display:
        display.stage("loading")
        display.begin(all_served, 0)
        display.idle(None)
        give(display, all_served[3], [5, 4], ended=True)
        display.idle(77)
        assert str(display._status.text) == "1/4 requests, 2 tokens, 77 cycles"
    text = display.console.file.getvalue()
    assert "[3] prompt 3:5 4" in text.splitlines()[-1]


def test_texts_give_a_terminal_no_commands():
    assert visible("a\x1b[2Jb\x00\x7f\x9b\n\tä") == "a\u241b[2Jb\u2400\ufffd\ufffd\n\tä"
