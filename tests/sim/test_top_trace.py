# SPDX-License-Identifier: Apache-2.0
"""Recordings of the trace, and the shim that makes them."""

import re

import numpy as np
import pytest

from serrano.csr.table import COUNTERS
from serrano.emit.boundary import Port
from serrano.trace import TraceKind
from serrano_sim.top.design import shim, source_key
from serrano_sim.top.trace import Kind, Recording, last_beat, record_bits, record_dtype, trace_length
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


def test_steps():
    """A failed step, its repetition, and a step whose counters wait until the next one runs."""
    found = recording(
        beat(6, 0, 0, 0, [4, 0]),
        beat(1, 0, 0, 0, [1]),
        beat(9, 3, 0, 0, [0x24, 3]),
        beat(6, 0, 0, 0, [4, 1]),
        beat(1, 0, 0, 0, [1]),
        beat(1, 0, 0, 8, [1]),
        beat(2, 1, 0, 0, [1]),
        beat(7, 0, 0, 0, [5]),
        beat(6, 0, 0, 0, [5, 1]),
        *counters(100),
        beat(1, 0, 0, 0, [1]),
        beat(7, 0, 0, 0, [6]),
        *counters(200),
    ).steps()
    assert [(s.index, s.position, s.sample, s.length, s.rows) for s in found] == [
        (0, 4, False, None, 0),
        (1, 4, True, 5, 1),
        (2, 5, True, 6, 1),
    ]
    assert found[0].faults == ((0x24, 3),)
    assert [(s.begin, s.commit) for s in found] == [(10, None), (13, 17), (18, 20 + len(NAMES))]
    assert [packet for packet, _ in found[1].packets()] == [0, 1]
    assert [len(beats) for _, beats in found[1].packets()] == [2, 1]
    assert found[0].counters is None
    assert found[1].counters == {name: 100 + i + (1 << 32) for i, name in enumerate(NAMES)}
    assert found[2].counters["cycles"] == 200 + (1 << 32)


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
