# SPDX-License-Identifier: Apache-2.0
"""Bus errors, corrupt packets and cancels under load: runs of ``make faults``, and its judgment."""

import copy
import dataclasses
from functools import cache

import numpy as np
import pytest

from serrano.faults import FaultCode
from serrano_sim.faults import AT_ONCE, CHANCES, Case, Outcome, draw, judge, run_case
from serrano_sim.memory.handle import ErrorBurst
from serrano_sim.top.simulate import JobResult, Options, load_result
from serrano_sim.top.trace import Kind

OPTIONS = Options(timeout=300)
COUNT = 26
SLVERR = FaultCode.BUS_SLVERR.value


@cache
def good() -> tuple[Case, JobResult, Outcome]:
    """A run in which all is as it must be, to be spoiled."""
    case = draw("tiny", 25, COUNT)
    outcome = run_case(case, OPTIONS, keep=True)
    return case, load_result(outcome.folder, case.tape), outcome


def test_everything_that_is_hit_ends_and_nothing_else() -> None:
    outcome = good()[2]
    assert outcome.errors == []
    assert outcome.busiest == AT_ONCE
    assert sum(outcome.injected.values()) >= 10 and outcome.flips >= 4 and outcome.cancels >= 4
    assert outcome.retried >= 3 and outcome.given_up >= 10
    ends = {name.partition("_")[0] for name in outcome.ends}
    assert ends == {"NONE", "BUS", "PACKET", "REQUEST"} and outcome.ends["NONE"] >= 10


@pytest.mark.parametrize(("name", "seed"), [("tiny", 27), ("base", 5)])
def test_another_run(name: str, seed: int) -> None:
    outcome = run_case(draw(name, seed, COUNT), OPTIONS)
    assert outcome.errors == []
    assert sum(outcome.injected.values()) >= 10 and outcome.ends["NONE"] >= 5
    # Between them, all kinds of bursts.
    assert set(outcome.injected) | set(good()[2].injected) == set(CHANCES)


def spoiled(change_events=None, change_beats=None, change_log=None) -> list[str]:
    """What is wrong with the run when something has been changed in it."""
    case, result, _ = good()
    events, log = copy.deepcopy(list(result.events)), list(result.memory.errors())
    beats = result.recording.beats.copy()
    if change_events:
        change_events(events)
    if change_beats:
        change_beats(beats)
    if change_log:
        change_log(log)
    other = dataclasses.replace(result, events=events)
    vars(other)["recording"] = dataclasses.replace(result.recording, beats=beats)
    return judge(case, other, log).errors


def ended(status: int) -> int:
    """The last request that ended so."""
    result = good()[1]
    return max(
        record.id
        for phase in result.phases
        for _, record in phase.completions
        if record.ended and record.status == status
    )


@pytest.mark.parametrize("kind", ["BUS", "PACKET", "REQUEST_CANCELLED"])
def test_a_wrong_code_is_noticed(kind: str) -> None:
    """In the completion record and in the trace, as if the hardware had meant it."""
    code = next(FaultCode[name].value for name in good()[2].ends if name.startswith(kind))
    number, other = ended(code), FaultCode.WATCHDOG.value

    def records(events) -> None:
        for one in events:
            if one["event"] == "completion" and one["record"]["id"] == number and one["record"]["ended"]:
                one["record"]["status"] = other

    def trace(beats) -> None:
        ends = np.flatnonzero((beats["kind"] == Kind.END) & (beats["values"][:, 1] == number))
        beats["values"][ends, 0] = beats["values"][ends, 0] & 0xFFFF | other << 16

    (error, *_) = spoiled(records, trace)
    assert f"request {number} ends with WATCHDOG" in error


def test_a_fault_without_a_cause_is_noticed() -> None:
    result = good()[1]
    for place in range(0, len(result.memory.errors()), 9):
        errors = spoiled(change_log=lambda log, place=place: log.pop(place))
        # One that came while the bus was being silenced had no consequence.
        if errors:
            break
    assert errors


def test_an_error_without_a_consequence_is_noticed() -> None:
    case, result, _ = good()
    step = [step for step in result.recording.steps() if step.committed][-1]
    error = ErrorBurst(step.begin + 50, case.layout.tape_address + 4096, False, "SLVERR")
    (text,) = spoiled(change_log=lambda log: log.append(error))
    assert "was not counted" in text


def test_a_wrong_count_is_noticed() -> None:
    def count(events) -> None:
        [one for one in events if one["event"] == "phase"][1]["registers"]["FAULT_COUNT"] += 7

    (text,) = spoiled(count)
    assert text.startswith("phase 1: FAULT_COUNT is ")


def test_a_request_that_fails_in_the_wrong_way_is_noticed() -> None:
    """Whoever is in the step of a KV fault and ends too."""
    number = ended(0)

    def records(events) -> None:
        last = [one for one in events if one["event"] == "completion" and one["record"]["id"] == number][-1]
        last["record"] |= {"status": SLVERR, "token": None}

    def trace(beats) -> None:
        ends = np.flatnonzero((beats["kind"] == Kind.END) & (beats["values"][:, 1] == number))
        beats["values"][ends, 0] |= SLVERR << 16

    assert spoiled(records, trace)
