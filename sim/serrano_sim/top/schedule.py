# SPDX-License-Identifier: Apache-2.0
"""Whether requests were served in the order and in the steps that docs/rings.md promises."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from serrano.faults import FaultCode

from .layout import Request
from .trace import Admit, End, Event, Span, Step

__all__ = ["Schedule"]

WAITABLE = (FaultCode.REQUEST_SPACE.value, FaultCode.KV_COMMAND.value)
"""Refusals that may be for want of something that other requests will give back."""
UNFORMED = {
    code.value
    for code in (
        FaultCode.BUS_SLVERR,
        FaultCode.REQUEST_CHANGED,
        FaultCode.REQUEST_SPACE,
        FaultCode.REQUEST_TOKEN,
        FaultCode.KV_COMMAND,
    )
}
"""What a request may fail with while a step is formed, which then goes without it."""
PATIENCE = 1
"""Steps that may begin without a request that could be admitted: ends are noticed between two steps."""


@dataclass
class _Running:
    """A request that has a sequence. ``position`` tokens are committed, ``made`` of its own are there."""

    number: int
    prompt: int
    max_new: int
    sequence: int
    position: int
    made: int = 0

    @property
    def decoding(self) -> bool:
        """Its next step is one row: it is behind its prompt, or at the last token of it."""
        return self.position + 1 >= self.prompt

    @property
    def claim(self) -> int:
        """Completion records that it has been promised and not used."""
        return self.max_new + 1 - self.made


def _text(span: Span | None) -> str:
    """A span for people."""
    if span is None:
        return "no rows"
    return (
        f"rows {span.row} to {span.row + span.rows - 1} with positions {span.position} to {span.end - 1}"
        f" of request {span.number} (sequence {span.sequence})"
    )


class Schedule:
    """What must happen next, from what has happened so far.

    It is told of the events of a trace in their order and knows nothing of results: every step must have one
    row of each sequence that decodes, in turn, and then a chunk of the oldest prompt that has all other rows.
    So each position is fed once and in order, and nobody is left out for longer than a round takes. Requests
    must be decided on in the order of their submission, and as soon as they can be.

    Parameters
    ----------
    rows_max : :class:`int`
        Rows of a step.
    sequences_max : :class:`int`
        Sequences.
    records : :class:`int`
        Size of the completion ring.

    Attributes
    ----------
    problems : list of :class:`str`
        What is wrong. Nothing follows the first step that is.
    """

    def __init__(self, rows_max: int, sequences_max: int, records: int):
        self.rows_max, self.sequences_max, self.records = rows_max, sequences_max, records
        self.problems: list[str] = []
        self._lost = False
        self._waiting: dict[int, Request] = {}
        self._running: dict[int, _Running] = {}
        self._submitted = self._issued = 0
        # The sequence that comes next, and who is first of those that decode.
        self._next = self._turn = 0
        # Steps that the first one of those that wait has been passed over by; the last step was given up.
        self._passed = 0
        self._dropped = False

    def consume(self) -> None:
        """The host has consumed all records."""
        self._issued = 0

    def submit(self, requests: Iterable[Request]) -> None:
        """The host submits requests."""
        for request in requests:
            self._waiting[self._submitted] = request
            self._submitted += 1

    def admit(self, event: Admit, length: int, taken: Collection[int]) -> None:
        """A request gets its sequence.

        Parameters
        ----------
        event : :class:`~serrano_sim.top.trace.Admit`
            The event.
        length : :class:`int`
            Tokens that the sequence has.
        taken : collection of :class:`int`
            Sequences that are open before it.
        """
        where = f"request {event.number}, admission"
        request = self._decide(event.number, where)
        if request is None:
            return
        if event.sequence in self._running:
            self._lose(f"{where}: sequence {event.sequence} is in use")
            return
        if not request.adopt:
            order = [(self._next + place) % self.sequences_max for place in range(self.sequences_max)]
            wanted = next((number for number in order if number not in taken), None)
            if event.sequence != wanted:
                self._tell(f"{where}: sequence {event.sequence}, the next one is {wanted}")
            self._next = (event.sequence + 1) % self.sequences_max
        if request.max_new >= self._room:
            self._tell(f"{where}: {self._room} completion records are free, it needs {request.max_new + 1}")
        self._running[event.sequence] = _Running(
            event.number, len(request.prompt), request.max_new, event.sequence, length
        )

    def end(self, event: End, must_wait: Callable[[Request], bool]) -> None:
        """A request ends, or is refused.

        Parameters
        ----------
        event : :class:`~serrano_sim.top.trace.End`
            The event.
        must_wait : callable
            Whether a request lacks a sequence or blocks now that other requests will give back.
        """
        where = f"request {event.number}, end"
        if event.sequence is None:
            request = self._decide(event.number, where)
            if request is not None:
                self._issued += 1
                if event.status in WAITABLE and self._running and must_wait(request):
                    self._tell(f"{where}: it is refused, though it only has to wait")
            return
        running = self._running.get(event.sequence)
        if running is None or running.number != event.number:
            self._lose(f"{where}: sequence {event.sequence} is not its own")
            return
        del self._running[event.sequence]
        # The last token's record tells of the end too.
        self._issued += event.status != 0
        if event.status == 0 and running.made == 0:
            self._tell(f"{where}: without a token")

    def step(self, step: Step, later: Iterable[Event], must_wait: Callable[[Request], bool]) -> None:
        """A step, committed or given up.

        Parameters
        ----------
        step : :class:`~serrano_sim.top.trace.Step`
            The step.
        later : iterable of events
            What comes after it, in which those are that failed while it was formed.
        must_wait : callable
            As for :meth:`end`.
        """
        if self._lost:
            return
        until = itertools.takewhile(lambda event: not isinstance(event, Step), later)
        failed = {
            event.number
            for event in until
            if isinstance(event, End) and event.status in UNFORMED and event.number not in step.numbers
        }
        self._admissions(step, must_wait)
        wanted, turn = self._spans(failed)
        for found, span in itertools.zip_longest(step.spans, wanted):
            if found != span:
                self._lose(f"step {step.index}: {_text(found)}, it must have {_text(span)}")
                return
        rows = sum(span.rows for span in wanted)
        sampled = sum(span.end >= self._running[span.sequence].prompt for span in wanted)
        if (step.rows, step.sampled) != (rows, sampled):
            self._lose(
                f"step {step.index}: {step.rows} rows and {step.sampled} of them sampled,"
                f" it must have {rows} and {sampled}"
            )
            return
        self._dropped = not step.committed
        if step.committed:
            self._turn = turn
            self._commit(wanted)

    def finish(self) -> None:
        """All that was submitted must be over."""
        if self._lost:
            return
        for number in self._waiting:
            self._tell(f"request {number}: neither admitted nor refused")
        for running in self._running.values():
            self._tell(f"request {running.number}: it has not ended")

    @property
    def _room(self) -> int:
        """Completion records that nobody has a claim on."""
        return self.records - self._issued - sum(running.claim for running in self._running.values())

    def _tell(self, problem: str) -> None:
        if not self._lost:
            self.problems.append(problem)

    def _lose(self, problem: str) -> None:
        """What must come next is not known any more."""
        self._tell(problem)
        self._lost = True

    def _decide(self, number: int, where: str) -> Request | None:
        """A request is decided on: the first one of those that wait."""
        if number not in self._waiting:
            self._lose(f"{where}: it does not wait")
            return None
        first = next(iter(self._waiting))
        if number != first:
            self._tell(f"{where}: request {first} comes before it")
        self._passed = 0
        return self._waiting.pop(number)

    def _admissions(self, step: Step, must_wait: Callable[[Request], bool]) -> None:
        """Nobody waits who could be served. A step that is tried again has nobody new."""
        if not self._waiting or self._dropped:
            return
        number, request = next(iter(self._waiting.items()))
        if request.max_new >= self._room or must_wait(request):
            self._passed = 0
            return
        self._passed += 1
        if self._passed > PATIENCE:
            self._tell(f"step {step.index}: request {number} could be admitted, and waits")

    def _spans(self, failed: Collection[int]) -> tuple[Sequence[Span], int]:
        """Spans of the next step, and who is first in the one after it."""
        live = [running for running in self._running.values() if running.made < running.max_new]
        prompts = sorted((one for one in live if not one.decoding), key=lambda one: one.number)
        decoding = [one for one in live if one.decoding and one.number not in failed]
        decoding.sort(key=lambda one: (one.sequence - self._turn) % self.sequences_max)
        limit = self.rows_max - bool(prompts)
        turn = decoding[limit].sequence if len(decoding) > limit else self._turn
        spans = [
            Span(one.sequence, one.number, row, 1, one.position) for row, one in enumerate(decoding[:limit])
        ]
        # The prompt of one that fails has its turn all the same.
        if prompts and prompts[0].number not in failed:
            one, row = prompts[0], len(spans)
            rows = min(one.prompt - one.position, self.rows_max - row)
            spans.append(Span(one.sequence, one.number, row, rows, one.position))
        return spans, turn

    def _commit(self, spans: Sequence[Span]) -> None:
        for span in spans:
            running = self._running[span.sequence]
            running.position = span.end
            if running.position >= running.prompt:
                running.made += 1
                self._issued += 1
