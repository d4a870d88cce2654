# SPDX-License-Identifier: Apache-2.0
"""The same requests alone and in any company, at any time, in any blocks, cut in any way: the same bits.

Each case is one that ``python -m serrano_sim.invariance`` draws as well.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from serrano.config import preset
from serrano_sim.golden.synthetic import write_tape
from serrano_sim.invariance import Case, draw, judge, run_case
from serrano_sim.top.layout import kv_noise
from serrano_sim.top.simulate import JobResult, Options, load_result
from serrano_sim.top.trace import Kind

OPTIONS = Options(timeout=300)


@pytest.mark.parametrize("seed", [2, 3, 6])
def test_tiny(seed: int) -> None:
    case = draw(preset("tiny"), seed)
    outcome = run_case(case, OPTIONS)
    assert outcome.errors == []
    assert outcome.mixed > 10 and outcome.positions > 100
    assert outcome.logits > 0 and outcome.kv_bytes > 0


def test_base() -> None:
    outcome = run_case(draw(preset("base"), 2), OPTIONS)
    assert outcome.errors == []
    assert outcome.mixed > 10 and outcome.positions > 50


def test_what_is_drawn() -> None:
    """All that matters occurs: chunks that end inside a group, waiting, adopting, cancelling, arrivals."""
    cases = [draw(preset("tiny"), seed) for seed in range(1, 7)]
    uses = [use for case in cases for use in case.uses]
    assert {use.request.adopt for use in uses} == {True, False}
    assert {use.request.keep for use in uses} == {True, False}
    assert {use.cancelled for use in uses} == {True, False}
    assert any(len(use.request.prompt) > 32 for use in uses) and any(
        len(use.request.prompt) == 1 for use in uses
    )
    # Some end before they have what they want, by a token that is not the first one.
    early = [
        len(case.tokens[use.text]) for case in cases for use in case.uses
        if len(case.tokens[use.text]) < use.request.max_new
    ]  # fmt: skip
    assert len(early) > 10 and max(early) > 3
    phases = [phase for case in cases for phase in case.phases]
    assert any(phase.arrivals for phase in phases) and any(phase.commands for phase in phases)


@cache
def good() -> tuple[Case, JobResult]:
    """A run that is right, to be spoiled."""
    case = draw(preset("tiny"), 2)
    outcome = run_case(case, OPTIONS, keep=True)
    assert outcome.errors == []
    tape = write_tape(case.model, case.config.n, case.config.tape_align)
    return case, load_result(outcome.folder, tape)


def chosen(case: Case) -> int:
    """A request that is served together with others, and has several tokens."""
    first = next(
        sum(len(before.requests) for before in case.phases[:place])
        for place, phase in enumerate(case.phases)
        if len(phase.requests) > 1
    )
    return next(
        number
        for number, use in enumerate(case.uses)
        if number >= first and not use.cancelled and len(case.tokens[use.text]) > 3
    )


Events = list[dict]


def records(events: Events, number: int) -> Events:
    return [one for one in events if one["event"] == "completion" and one["record"]["id"] == number]


def lose(events: Events, number: int) -> None:
    """No record of it at all."""
    for one in records(events, number):
        events.remove(one)


def shorten(events: Events, number: int) -> None:
    """It ends one token early."""
    *_, before, last = records(events, number)
    before["record"]["ended"] = True
    events.remove(last)


def lengthen(events: Events, number: int) -> None:
    """It goes on for one more token."""
    last = records(events, number)[-1]
    more = copy.deepcopy(last)
    last["record"]["ended"] = False
    events.insert(events.index(last) + 1, more)


def repeat(events: Events, number: int) -> None:
    """Its last record comes twice."""
    last = records(events, number)[-1]
    events.insert(events.index(last) + 1, copy.deepcopy(last))


def mistake(events: Events, number: int) -> None:
    """Another token."""
    records(events, number)[1]["record"]["token"] ^= 1


def exchange(events: Events, number: int) -> None:
    """A record bears the id of a request that there is not."""
    records(events, number)[1]["record"]["id"] = 0xEEEEEEEE


def count(events: Events, number: int) -> None:
    """The accelerator has written a record that nobody has seen."""
    [one for one in events if one["event"] == "phase"][-1]["registers"]["COMPLETE_TAIL"] += 1


def leak(events: Events, number: int) -> None:
    """A block is not given back."""
    [one for one in events if one["event"] == "phase"][-1]["registers"]["KV_USED"] += 1


def fail(events: Events, number: int) -> None:
    """It ends with a fault."""
    records(events, number)[-1]["record"]["status"] = 1


@pytest.mark.parametrize(
    "spoil",
    [lose, shorten, lengthen, repeat, mistake, exchange, count, leak, fail],
    ids=lambda one: one.__name__,
)
def test_wrong_records_are_noticed(spoil: Callable[[Events, int], None]) -> None:
    case, result = good()
    events = copy.deepcopy(list(result.events))
    assert judge(case, dataclasses.replace(result, events=events)).errors == []
    spoil(events, chosen(case))
    assert judge(case, dataclasses.replace(result, events=events)).errors != []


@pytest.mark.parametrize("kind", [Kind.LOGITS, Kind.TOKEN, Kind.HEADS, Kind.RESIDUAL, Kind.CODES])
def test_wrong_results_are_noticed(kind: Kind) -> None:
    """One bit of one result, anywhere in the run."""
    case, result = good()
    rng = np.random.default_rng(kind)
    beats = result.recording.beats.copy()
    spoiled = dataclasses.replace(result)
    place = rng.choice(np.flatnonzero(beats["kind"] == kind))
    beats["values"][place, 0] ^= 1 << int(rng.integers(6))
    vars(spoiled)["recording"] = dataclasses.replace(result.recording, beats=beats)
    assert judge(case, spoiled).errors != []


@pytest.mark.parametrize("place", [0, 3, -3, -1])
def test_wrong_bytes_in_kv_memory_are_noticed(place: int) -> None:
    """One bit of a byte that was written in a phase, at its end."""
    case, result = good()
    layout, rng = result.job.layout, np.random.default_rng(1)
    place %= len(result.phases)
    before = kv_noise(layout.kv_bytes)
    if place:
        before = np.frombuffer(result.phases[place - 1].peeks[0], np.uint8)
    found = np.frombuffer(result.phases[place].peeks[0], np.uint8).copy()
    found[rng.choice(np.flatnonzero(found != before))] ^= 0x10
    events = copy.deepcopy(list(result.events))
    [one for one in events if one["event"] == "phase"][place]["peeks"] = [found.tobytes().hex()]
    errors = judge(case, dataclasses.replace(result, events=events)).errors
    assert [error.partition(":")[0] for error in errors] == [f"phase {place}"] and "KV memory" in errors[0]
