# SPDX-License-Identifier: Apache-2.0
"""The order in which requests are served, and the steps that they are served in."""

import dataclasses

import numpy as np
import pytest

from serrano.faults import FaultCode
from serrano_sim.top.layout import Request
from serrano_sim.top.schedule import Schedule
from serrano_sim.top.trace import Admit, End, Span, Step

ROWS, SEQUENCES = 4, 4
SPACE, CHANGED = FaultCode.REQUEST_SPACE.value, FaultCode.REQUEST_CHANGED.value
CANCELLED, CRC = FaultCode.REQUEST_CANCELLED.value, FaultCode.PACKET_CRC.value


def step(*spans, sampled, index=0, committed=True):
    """A step from (sequence, request, rows, position)."""
    found, row = [], 0
    for sequence, number, rows, position in spans:
        found.append(Span(sequence, number, row, rows, position))
        row += rows
    return Step(
        index=index,
        spans=tuple(found),
        rows=row,
        sampled=sampled,
        begin=0,
        commit=1 if committed else None,
        counters=None,
        faults=(),
        beats=np.zeros(0),
    )


def admit(number, sequence):
    return Admit(0, sequence, number)


def end(number, sequence, status=0):
    return End(0, sequence, number, status)


def problems(
    requests, events, *, waits=lambda request: False, held=(), lengths=None, records=1000, sequences=SEQUENCES
):
    """What is said of events of one phase. ``held`` are sequences that the host has."""
    schedule = Schedule(ROWS, sequences, records)
    schedule.submit(requests)
    taken = set(held)
    for place, event in enumerate(events):
        match event:
            case Admit():
                schedule.admit(event, (lengths or {}).get(event.number, 0), taken)
                taken.add(event.sequence)
            case End():
                schedule.end(event, waits)
                taken -= {event.sequence} - set(held)
            case Step():
                schedule.step(event, events[place + 1 :], waits)
    schedule.finish()
    return schedule.problems


# Three requests: prompts of 6, 3 and 2 tokens, of which 2, 3 and 1 are wanted.
THREE = (Request(range(6), 2), Request(range(3), 3), Request(range(2), 1))
SERVED = (
    admit(0, 0),
    admit(1, 1),
    admit(2, 2),
    step((0, 0, 4, 0), sampled=0),
    step((0, 0, 2, 4), sampled=1, index=1),
    step((0, 0, 1, 6), (1, 1, 3, 0), sampled=2, index=2),
    end(0, 0),
    step((1, 1, 1, 3), (2, 2, 2, 0), sampled=2, index=3),
    end(2, 2),
    step((1, 1, 1, 4), sampled=1, index=4),
    end(1, 1),
)


def test_right():
    assert problems(THREE, SERVED) == []


def altered(place, *spans, **values):
    """The above with another step in this place."""
    old = SERVED[place]
    new = step(*spans, sampled=values.pop("sampled", old.sampled), index=old.index)
    return [*SERVED[:place], dataclasses.replace(new, **values), *SERVED[place + 1 :]]


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (
            altered(3, (0, 0, 3, 0)),
            "step 0: rows 0 to 2 with positions 0 to 2 of request 0 (sequence 0), it must have"
            " rows 0 to 3 with positions 0 to 3 of request 0 (sequence 0)",
        ),
        (
            altered(3, (0, 0, 5, 0)),
            "step 0: rows 0 to 4 with positions 0 to 4 of request 0 (sequence 0), it must have"
            " rows 0 to 3 with positions 0 to 3 of request 0 (sequence 0)",
        ),
        # Only one chunk, though two rows are left.
        (
            altered(4, (0, 0, 2, 4), (1, 1, 2, 0)),
            "step 1: rows 2 to 3 with positions 0 to 1 of request 1 (sequence 1), it must have no rows",
        ),
        # Positions once more, and one left out.
        (
            altered(4, (0, 0, 2, 3)),
            "step 1: rows 0 to 1 with positions 3 to 4 of request 0 (sequence 0), it must have"
            " rows 0 to 1 with positions 4 to 5 of request 0 (sequence 0)",
        ),
        (
            altered(4, (0, 0, 1, 5)),
            "step 1: rows 0 to 0 with positions 5 to 5 of request 0 (sequence 0), it must have"
            " rows 0 to 1 with positions 4 to 5 of request 0 (sequence 0)",
        ),
        # A younger prompt first; nobody decodes; the prompt first; the prompt not at all.
        (
            altered(5, (0, 0, 1, 6), (2, 2, 2, 0)),
            "step 2: rows 1 to 2 with positions 0 to 1 of request 2 (sequence 2), it must have"
            " rows 1 to 3 with positions 0 to 2 of request 1 (sequence 1)",
        ),
        (
            altered(5, (1, 1, 3, 0)),
            "step 2: rows 0 to 2 with positions 0 to 2 of request 1 (sequence 1), it must have"
            " rows 0 to 0 with positions 6 to 6 of request 0 (sequence 0)",
        ),
        (
            altered(5, (1, 1, 3, 0), (0, 0, 1, 6)),
            "step 2: rows 0 to 2 with positions 0 to 2 of request 1 (sequence 1), it must have"
            " rows 0 to 0 with positions 6 to 6 of request 0 (sequence 0)",
        ),
        (
            altered(5, (0, 0, 1, 6)),
            "step 2: no rows, it must have rows 1 to 3 with positions 0 to 2 of request 1 (sequence 1)",
        ),
        # Two rows of a sequence that decodes; a row behind the last token.
        (
            altered(9, (1, 1, 2, 4)),
            "step 4: rows 0 to 1 with positions 4 to 5 of request 1 (sequence 1), it must have"
            " rows 0 to 0 with positions 4 to 4 of request 1 (sequence 1)",
        ),
        (
            [*SERVED[:-1], step((1, 1, 1, 5), sampled=1, index=5), SERVED[-1]],
            "step 5: rows 0 to 0 with positions 5 to 5 of request 1 (sequence 1), it must have no rows",
        ),
        (
            altered(5, (3, 0, 1, 6), (1, 1, 3, 0)),
            "step 2: rows 0 to 0 with positions 6 to 6 of request 0 (sequence 3), it must have"
            " rows 0 to 0 with positions 6 to 6 of request 0 (sequence 0)",
        ),
        (
            altered(3, (0, 0, 4, 0), sampled=1),
            "step 0: 4 rows and 1 of them sampled, it must have 4 and 0",
        ),
        (
            altered(3, (0, 0, 4, 0), rows=3),
            "step 0: 3 rows and 0 of them sampled, it must have 4 and 0",
        ),
        # Admissions and ends.
        (SERVED[1:], "request 1, admission: request 0 comes before it"),
        ([SERVED[0], *SERVED], "request 0, admission: it does not wait"),
        ([SERVED[0], admit(1, 0)], "request 1, admission: sequence 0 is in use"),
        ([SERVED[0], admit(1, 2)], "request 1, admission: sequence 2, the next one is 1"),
        ([SERVED[0], end(1, 0)], "request 1, end: sequence 0 is not its own"),
        ([SERVED[0], end(0, 0)], "request 0, end: without a token"),
        (SERVED[:-1], "request 1: it has not ended"),
        (SERVED[:2], "request 2: neither admitted nor refused"),
    ],
)
def test_wrong(events, problem):
    assert problem in problems(THREE, events)


def test_only_the_first_wrong_step_is_told():
    found = problems(THREE, altered(3, (0, 0, 3, 0)))
    assert len(found) == 1


# Six sequences that decode and four rows. Where one row is left a prompt of two tokens takes two steps.
SIX = tuple(Request((1, 2), 9) for _ in range(6))
PROMPTS = [
    *(admit(number, number) for number in range(6)),
    step((0, 0, 2, 0), sampled=1),
    step((0, 0, 1, 2), (1, 1, 2, 0), sampled=2),
    step((0, 0, 1, 3), (1, 1, 1, 2), (2, 2, 2, 0), sampled=3),
    step((0, 0, 1, 4), (1, 1, 1, 3), (2, 2, 1, 2), (3, 3, 1, 0), sampled=3),
    # Four that decode, one of them at the last token of its prompt, but a prompt waits: 3 is first next time.
    step((0, 0, 1, 5), (1, 1, 1, 4), (2, 2, 1, 3), (4, 4, 1, 0), sampled=3),
    step((3, 3, 1, 1), (4, 4, 1, 1), (0, 0, 1, 6), (5, 5, 1, 0), sampled=3),
]
TURNS = [
    step((1, 1, 1, 5), (2, 2, 1, 4), (3, 3, 1, 2), (4, 4, 1, 2), sampled=4, index=6),
    step((5, 5, 1, 1), (0, 0, 1, 7), (1, 1, 1, 6), (2, 2, 1, 5), sampled=4, index=7),
    step((3, 3, 1, 3), (4, 4, 1, 3), (5, 5, 1, 2), (0, 0, 1, 8), sampled=4, index=8),
]


def steps_wrong(requests, events, **values):
    """As above, of a run that has not come to its end."""
    return [text for text in problems(requests, events, **values) if "it has not ended" not in text]


def test_turns():
    assert steps_wrong(SIX, [*PROMPTS, *TURNS], sequences=8) == []


def test_out_of_turn():
    """The same four again."""
    events = [*PROMPTS, TURNS[0], step((1, 1, 1, 6), (2, 2, 1, 5), (3, 3, 1, 3), (4, 4, 1, 3), sampled=4)]
    assert steps_wrong(SIX, events, sequences=8) == [
        "step 0: rows 0 to 0 with positions 6 to 6 of request 1 (sequence 1), it must have"
        " rows 0 to 0 with positions 1 to 1 of request 5 (sequence 5)"
    ]


def test_a_prompt_that_is_left_without_a_row():
    events = [*PROMPTS[:-2], step((0, 0, 1, 5), (1, 1, 1, 4), (2, 2, 1, 3), (3, 3, 1, 1), sampled=4, index=4)]
    assert steps_wrong(SIX, events, sequences=8) == [
        "step 4: rows 3 to 3 with positions 1 to 1 of request 3 (sequence 3), it must have"
        " rows 3 to 3 with positions 0 to 0 of request 4 (sequence 4)"
    ]


def test_a_step_given_up_does_not_count():
    """It comes again as it was: the turn has not gone on."""
    dropped = dataclasses.replace(TURNS[0], commit=None)
    assert steps_wrong(SIX, [*PROMPTS, dropped, *TURNS], sequences=8) == []
    found = steps_wrong(SIX, [*PROMPTS, dropped, *TURNS[1:]], sequences=8)
    assert len(found) == 1 and found[0].startswith("step 7: ")


def test_all_of_a_step_fail():
    events = [
        *SERVED[:5],
        step((0, 0, 1, 6), (1, 1, 3, 0), sampled=2, index=2, committed=False),
        step((0, 0, 1, 6), (1, 1, 3, 0), sampled=2, index=3, committed=False),
        end(0, 0, CRC),
        end(1, 1, CRC),
        step((2, 2, 2, 0), sampled=1, index=4),
        end(2, 2),
    ]
    assert problems(THREE, events) == []


def test_one_of_a_step_fails():
    events = [
        *SERVED[:5],
        step((0, 0, 1, 6), (1, 1, 3, 0), sampled=2, index=2, committed=False),
        end(0, 0, FaultCode.BUS_SLVERR.value),
        step((1, 1, 3, 0), sampled=1, index=3),
        step((1, 1, 1, 3), (2, 2, 2, 0), sampled=2, index=4),
        end(2, 2),
        step((1, 1, 1, 4), sampled=1, index=5),
        end(1, 1),
    ]
    assert problems(THREE, events) == []


@pytest.mark.parametrize("status", [CHANGED, CRC])
def test_a_request_that_fails_while_a_step_is_formed(status):
    """The step goes without it, if the reason is one that is found then."""
    events = [*SERVED[:5], step((1, 1, 3, 0), sampled=1, index=2), end(0, 0, status)]
    events += [step((1, 1, 1, 3), (2, 2, 2, 0), sampled=2, index=3), end(2, 2)]
    events += [step((1, 1, 1, 4), sampled=1, index=4), end(1, 1)]
    found = problems(THREE, events)
    assert (found == []) == (status == CHANGED)


def test_a_prompt_that_fails_while_a_step_is_formed():
    """Its rows stay empty; those that decode leave them one."""
    events = [*SERVED[:5], step((0, 0, 1, 6), sampled=1, index=2), end(0, 0), end(1, 1, CHANGED)]
    events += [step((2, 2, 2, 0), sampled=1, index=3), end(2, 2)]
    assert problems(THREE, events) == []


def test_one_that_does_not_fail_before_the_next_step():
    events = [*SERVED[:5], step((1, 1, 3, 0), sampled=1, index=2), SERVED[7], end(0, 0, CHANGED)]
    assert problems(THREE, events)[0].startswith("step 2: rows 0 to 2 with positions 0 to 2 of request 1")


def test_cancelled():
    """One that waits, before it has a sequence; one that runs; one whose prompt was half way."""
    requests = (*THREE, Request((1, 2), 1))
    events = [
        admit(0, 0),
        end(1, None, CANCELLED),
        admit(2, 1),
        admit(3, 2),
        step((0, 0, 4, 0), sampled=0),
        end(0, 0, CANCELLED),
        step((1, 2, 2, 0), sampled=1),
        end(2, 1),
        step((2, 3, 2, 0), sampled=1),
        end(3, 2),
    ]
    assert problems(requests, events) == []


# Waiting


def alone(number, sequence, index):
    """A request of one token, by itself."""
    return [
        admit(number, sequence),
        step((sequence, number, 1, 0), sampled=1, index=index),
        end(number, sequence),
    ]


ONES = (Request((1,), 1),) * 3


def test_without_a_reason_to_wait():
    """One step is not too many."""
    two = (Request((1,), 3), Request((1,), 1))
    events = [admit(0, 0), *(step((0, 0, 1, position), sampled=1, index=position) for position in range(3))]
    rest = [end(0, 0), *alone(1, 1, 3)]
    assert problems(two, [*events, *rest]) == [
        "step 1: request 1 could be admitted, and waits",
        "step 2: request 1 could be admitted, and waits",
    ]
    assert problems(two, [*events, *rest], waits=lambda request: request is two[1]) == []
    late = [*events[:2], admit(1, 1), step((0, 0, 1, 1), (1, 1, 1, 0), sampled=2, index=1), end(1, 1)]
    assert problems(two, [*late, step((0, 0, 1, 2), sampled=1, index=2), end(0, 0)]) == []


def test_no_records():
    """With a claim of two for each the ring has room for two."""
    two = (Request((1,), 2), Request((1,), 2), Request((1,), 2))
    events = [
        admit(0, 0),
        admit(1, 1),
        step((0, 0, 1, 0), (1, 1, 1, 0), sampled=2),
        step((0, 0, 1, 1), (1, 1, 1, 1), sampled=2),
        end(0, 0),
        end(1, 1),
    ]
    # Never are so many free that a third one finds three.
    assert problems(two[:2], events, records=6) == []
    assert problems(two, events, records=6) == ["request 2: neither admitted nor refused"]
    assert problems(two, [*events[:2], admit(2, 2)], records=8)[0] == (
        "request 2, admission: 2 completion records are free, it needs 3"
    )
    # The claim on a last record without a token is given back at the end.
    assert problems(two[:2], events, records=5)[0] == (
        "request 1, admission: 2 completion records are free, it needs 3"
    )


def test_records_are_free_again_at_the_next_visit():
    schedule = Schedule(ROWS, SEQUENCES, 2)
    for number in range(3):
        schedule.consume()
        schedule.submit([Request((1,), 1)])
        begin, one, over = alone(number, number, number)
        schedule.admit(begin, 0, ())
        schedule.step(one, [over], lambda request: False)
        schedule.end(over, lambda request: False)
        schedule.finish()
    assert schedule.problems == []


@pytest.mark.parametrize("status", [SPACE, FaultCode.KV_COMMAND.value])
def test_refused_though_it_only_had_to_wait(status):
    events = [admit(0, 0), end(1, None, status)]
    found = problems(ONES[:2], events, waits=lambda request: True)
    assert found[0] == "request 1, end: it is refused, though it only has to wait"
    # It never fits; nobody is there to give anything back.
    assert "though" not in str(problems(ONES[:2], events))
    events = [end(0, None, status)]
    assert problems(ONES[:1], events, waits=lambda request: True) == []


def test_refused_out_of_order():
    events = [*alone(0, 0, 0), end(2, None, SPACE), *alone(1, 1, 1)]
    assert problems(ONES, events) == ["request 2, end: request 1 comes before it"]


# Sequences


def test_sequences_go_round():
    """Also from phase to phase, and past those that the host has; with ADOPT they do not."""
    requests = (*ONES, Request((1, 2), 1, adopt=True, sequence=3), *ONES)
    events = [*alone(0, 0, 0), *alone(1, 2, 1), *alone(2, 0, 2)]
    events += [admit(3, 3), step((3, 3, 1, 1), sampled=1, index=3), end(3, 3)]
    events += [*alone(4, 2, 4), *alone(5, 0, 5), *alone(6, 2, 6)]
    values = {"held": (1, 3), "lengths": {3: 1}, "waits": lambda request: True}
    assert problems(requests, events, **values) == []
    events[-9:] = [*alone(4, 0, 4), *alone(5, 2, 5), *alone(6, 0, 6)]
    assert problems(requests, events, **values)[0] == "request 4, admission: sequence 0, the next one is 2"
