# SPDX-License-Identifier: Apache-2.0
"""Whose logits they are, from a trace made by hand."""

import numpy as np
import pytest

from serrano_host.errors import TransportError
from serrano_sim.top.trace import Kind, Recording, record_dtype
from serrano_sim.transport.logits import sampled_rows

LANES = 4


def recording(*beats):
    """Beats of (kind, row, column, values)."""
    made = np.zeros(len(beats), dtype=record_dtype(LANES))
    for beat, (kind, row, column, values) in zip(made, beats, strict=True):
        beat["kind"], beat["row"], beat["column"] = kind, row, column
        beat["values"][: len(values)] = values
    return Recording(np.arange(len(beats)), made)


def span(row, position, count, number, sequence=2):
    return (Kind.SPAN, row, position, [sequence | count << 16, number])


def logits(row, column, base):
    return (Kind.LOGITS, row, column, [base + column + lane for lane in range(LANES)])


def begin(rows, sampled):
    return (Kind.BEGIN, 0, 0, [rows, sampled])


COMMIT = (Kind.COMMIT, 0, 0, [3])


def test_rows_of_a_mixed_step():
    """Two decode rows and the end of a prompt; its logits come in two parts."""
    beats = [
        *(span(0, 7, 1, 5), span(1, 9, 1, 2), span(2, 0, 3, -2), begin(5, 3), (Kind.CODES, 0, 0, [9])),
        *(logits(0, 0, 100), logits(1, 0, 200), logits(2, 0, 300)),
        *(logits(0, 4, 100), logits(1, 4, 200), logits(2, 4, 300), COMMIT),
    ]
    found = list(sampled_rows(recording(*beats)))
    assert [(number, position) for number, position, _ in found] == [(5, 7), (2, 9), (2**32 - 2, 2)]
    for (_, _, row), base in zip(found, (100, 200, 300), strict=True):
        assert row.tolist() == list(range(base, base + 8))


def test_only_what_is_sampled_and_committed():
    beats = [
        # A chunk in the middle of a prompt behind a decode row, and the next step's spans before its commit.
        *(span(0, 7, 1, 5), span(1, 0, 2, 6), begin(3, 1), logits(0, 0, 100), span(0, 8, 1, 5), COMMIT),
        # A step that is given up, and done again.
        *(begin(1, 1), logits(0, 0, 500), span(0, 8, 1, 5), begin(1, 1), logits(0, 0, 600), COMMIT),
        # A chunk alone.
        *(span(0, 2, 4, 6), begin(4, 0), COMMIT),
        # A step that has not ended.
        *(span(0, 9, 1, 5), begin(1, 1), logits(0, 0, 700)),
    ]
    found = [(number, position, row[0]) for number, position, row in sampled_rows(recording(*beats))]
    assert found == [(5, 7, 100), (5, 8, 600)]


def test_a_trace_without_requests():
    with pytest.raises(TransportError, match="does not tell whose logits they are"):
        list(sampled_rows(recording(begin(1, 1), logits(0, 0, 1), COMMIT)))
    assert list(sampled_rows(recording())) == []
