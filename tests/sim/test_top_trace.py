# SPDX-License-Identifier: Apache-2.0
"""Recordings of the trace, and the shim that makes them."""

import dataclasses
import re

import numpy as np
import pytest

from serrano.csr.table import COUNTERS
from serrano.emit.boundary import Port
from serrano.trace import TraceKind
from serrano_sim.top.design import shim, source_key
from serrano_sim.top.trace import (
    Admit,
    End,
    Kind,
    Recording,
    Span,
    last_beat,
    record_bits,
    record_dtype,
    trace_length,
)
from support.playback import beat, fake_design, write_recording

NAMES = [name for name, _ in COUNTERS]


def recording(*beats):
    return Recording(np.arange(10, 10 + len(beats), dtype=np.uint64), np.array(beats))


def counters(start):
    return [beat(8, 0, 0, index, [start + index, 1]) for index in range(len(NAMES))]


def test_kinds_are_those_of_the_hardware():
    assert {kind.name: kind.value for kind in Kind} == {kind.name: kind.value for kind in TraceKind}


def test_a_record_has_no_gaps():
    assert record_bits(8) == 64 + 256
    dtype = record_dtype(2)
    assert [(name, dtype.fields[name][1]) for name in dtype.names] == [
        ("kind", 0),
        ("row", 1),
        ("packet", 2),
        ("column", 4),
        ("values", 8),
    ]


def test_reading_a_file(tmp_path):
    beats = [beat(1, 7, 2, 96, [-1, 5]), beat(4, 300, 0, 1 << 19, [-(2**31)])]
    write_recording(tmp_path, [5, 9], beats, 8)
    assert trace_length(folder=tmp_path) == 2
    found = Recording.read(8, folder=tmp_path)
    assert found.cycles.tolist() == [5, 9]
    assert found.beats["values"][0].tolist() == [-1, 5, 0, 0, 0, 0, 0, 0]
    assert found.beats["column"][1] == 1 << 19
    assert last_beat(8, folder=tmp_path).startswith("cycle 9, LOGITS, packet 300, row 0, column 524288, ")


def span(sequence, number, row, rows, position):
    return beat(10, 0, row, position, [sequence | rows << 16, number])


def test_steps():
    """A failed step, its repetition, and a step whose counters wait until the next one runs."""
    found = recording(
        span(3, 7, 0, 1, 4),
        span(0, 8, 1, 2, 9),
        beat(6, 0, 0, 0, [3, 2]),
        beat(1, 0, 0, 0, [1]),
        beat(9, 3, 0, 0, [0x24, 3]),
        span(3, 7, 0, 1, 4),
        beat(6, 0, 0, 0, [1, 1]),
        beat(1, 0, 0, 0, [1]),
        beat(1, 0, 0, 8, [1]),
        beat(2, 1, 0, 0, [1]),
        beat(7, 0, 0, 0, [1]),
        span(3, 1 << 31 | 7, 0, 2, 5),
        beat(6, 0, 0, 0, [2, 0]),
        *counters(100),
        beat(1, 0, 0, 0, [1]),
        beat(7, 0, 0, 0, [2]),
        *counters(200),
    ).steps()
    assert [(s.index, s.rows, s.sampled, s.committed) for s in found] == [
        (0, 3, 2, False),
        (1, 1, 1, True),
        (2, 2, 0, True),
    ]
    assert [s.spans for s in found] == [
        (Span(3, 7, 0, 1, 4), Span(0, 8, 1, 2, 9)),
        (Span(3, 7, 0, 1, 4),),
        (Span(3, 1 << 31 | 7, 0, 2, 5),),
    ]
    assert found[0].numbers == (7, 8) and found[0].sampled_rows == (0, 2)
    assert found[0].span(8).end == 11
    assert found[0].faults == ((0x24, 3),)
    last = 23 + len(NAMES)
    assert [(s.begin, s.commit, s.cycle) for s in found] == [
        (12, None, 12),
        (16, 20, 20),
        (22, last + 1, last + 1),
    ]
    assert [packet for packet, _ in found[1].packets()] == [0, 1]
    assert [len(beats) for _, beats in found[1].packets()] == [2, 1]
    assert found[0].counters is None
    assert found[1].counters == {name: 100 + i + (1 << 32) for i, name in enumerate(NAMES)}
    assert found[2].counters["cycles"] == 200 + (1 << 32)


def test_events():
    """In order: a step that was given up is where it began, another where it was committed."""
    found = recording(
        beat(11, 0, 0, 0, [2, 5]),
        span(2, 5, 0, 1, 0),
        beat(6, 0, 0, 0, [1, 0]),
        span(2, 5, 0, 1, 0),
        beat(12, 0, 0, 0, [0x40FFFF, 1 << 31]),
        beat(6, 0, 0, 0, [1, 1]),
        beat(1, 0, 0, 0, [1]),
        beat(12, 0, 0, 0, [0x490000 | 31, 4]),
        beat(7, 0, 0, 0, [1]),
        beat(12, 0, 0, 0, [2, 5]),
    )
    steps = found.steps()
    assert found.events()[1].index == 0
    told = [event if isinstance(event, Admit | End) else event.index for event in found.events()]
    assert told == [
        Admit(10, 2, 5),
        0,
        End(14, None, 1 << 31, 0x40),
        End(17, 31, 4, 0x49),
        1,
        End(19, 2, 5, 0),
    ]
    assert [step.committed for step in steps] == [False, True]


def test_a_part_of_a_step():
    """Rows are counted from the part's first one; LOGITS and TOKEN count sampled rows."""
    (step,) = recording(
        span(0, 4, 0, 1, 30),
        span(1, 5, 1, 2, 7),
        beat(6, 0, 0, 0, [3, 2]),
        *(beat(1, 0, row, 0, [row]) for row in range(3)),
        *(beat(4, 9, row, 0, [10 + row]) for row in range(2)),
        *(beat(5, 10, row, 0, [20 + row]) for row in range(2)),
        beat(7, 0, 0, 0, [3]),
    ).steps()

    def told(part):
        return [(int(b["kind"]), int(b["row"]), int(b["values"][0])) for b in part.beats]

    assert told(step.part(4)) == [(1, 0, 0), (4, 0, 10), (5, 0, 20)]
    assert told(step.part(5)) == [(1, 0, 1), (1, 1, 2), (4, 0, 11), (5, 0, 21)]
    part = step.part(5)
    assert (part.rows, part.sampled, part.spans) == (2, 1, (Span(1, 5, 0, 2, 7),))
    unsampled = dataclasses.replace(step, sampled=1).part(5)
    assert told(unsampled) == [(1, 0, 1), (1, 1, 2)] and unsampled.sampled == 0


@pytest.mark.parametrize(
    ("beats", "message"),
    [
        ([beat(1, 2, 0, 0, [3])], "Trace has a beat before the first step: RESIDUAL, packet 2, row 0, .*"),
        ([beat(6, 0, 0, 0, [0, 0]), *2 * [beat(7, 0, 0, 0, [1])]], "Trace commits step 0 twice"),
        (
            [beat(6, 0, 0, 0, [0, 0]), beat(7, 0, 0, 0, [1]), beat(2, 5, 0, 0, [1])],
            "Trace has a result of step 0 after its commit: CODES, packet 5, .*",
        ),
        (
            [beat(6, 0, 0, 0, [0, 0]), beat(7, 0, 0, 0, [1]), *counters(0)[1:], beat(8, 0, 0, 0, [1])],
            r"Trace has the counters \[1, 2, .* 0\] in a row, not all in order",
        ),
    ],
)
def test_events_where_they_do_not_belong(beats, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        recording(*beats).steps()


def ports(tmp_path, **changes):
    made = {port.name: port for port in fake_design(tmp_path).ports}
    for name, width in changes.items():
        if width is None:
            del made[name]
        else:
            made[name] = Port(name, "output", width)
    return list(made.values())


def test_the_shim_passes_everything_else_on(tmp_path):
    inside = ports(tmp_path)
    text, outside = shim(inside)
    names = {port.name for port in outside}
    trace = {"trace_kind", "trace_packet", "trace_row", "trace_column", "trace_values", "trace_activity"}
    added = {"trace_record", "axil_handshakes", "activity_enable", "activity_valid", "activity_record"}
    assert names == {port.name for port in inside} - trace | added
    for port in inside:
        assert f".{port.name}({port.name})" in text
    packed = re.search(r"trace_record = \{(.*)\};", text)[1].split(", ")
    widths = {port.name: port.width for port in inside}
    bits = sum(widths[part] if part in widths else int(part.partition("'")[0]) for part in packed)
    assert bits == record_bits(8) == next(port.width for port in outside if port.name == "trace_record")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"irq": None}, "The accelerator has no port 'irq'"),
        ({"trace_row": 9}, "Port 'trace_row' has at most 8 bits, not 9"),
        ({"trace_values": 32 * 32}, "A trace record has at most 1024 bits, not 1088"),
    ],
)
def test_unusable_accelerators(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        shim(ports(tmp_path, **changes))


def test_keys_cover_sources():
    assert source_key("serrano") == source_key("serrano")
    assert len({source_key("serrano"), source_key("serrano_host"), source_key("serrano", parts=("a",))}) == 3
