# SPDX-License-Identifier: Apache-2.0
"""Reading a recorded trace stream: docs/trace.md."""

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serrano.csr.table import COUNTERS

from ..memory.handle import Trace
from .job import TRACE
from .layout import NO_SEQUENCE

__all__ = [
    "Admit",
    "End",
    "Event",
    "Kind",
    "Recording",
    "Span",
    "Step",
    "StepWatch",
    "last_beat",
    "record_bits",
    "record_dtype",
    "trace_length",
]


class Kind(enum.IntEnum):
    """What a beat shows."""

    RESIDUAL = 1
    CODES = 2
    HEADS = 3
    LOGITS = 4
    TOKEN = 5
    BEGIN = 6
    COMMIT = 7
    COUNTER = 8
    FAULT = 9
    SPAN = 10
    ADMIT = 11
    END = 12


RESULTS = (Kind.RESIDUAL, Kind.CODES, Kind.HEADS, Kind.LOGITS, Kind.TOKEN)
SAMPLED = (Kind.LOGITS, Kind.TOKEN)
"""Results whose row counts the rows that are sampled."""
FIELDS = (("kind", 8), ("row", 8), ("packet", 16), ("column", 32))
"""Fields of a record before the values, lowest first, with the bits that each is padded to."""

_COUNT_OFFSET = 32
_HEADER_BYTES = 64


def record_dtype(lanes: int) -> np.dtype:
    """A record of the trace sink, as the bench packs it. It has room for two values even with one lane."""
    fields = [(name, f"<u{bits // 8}") for name, bits in FIELDS]
    return np.dtype([*fields, ("values", "<i4", (max(2, lanes),))])


def record_bits(lanes: int) -> int:
    """Width of a record."""
    return 8 * record_dtype(lanes).itemsize


def trace_length(name: str = TRACE, folder: Path | str = ".") -> int:
    """Beats recorded so far."""
    with (Path(folder) / f"{name}.trace").open("rb") as file:
        file.seek(_COUNT_OFFSET)
        return int.from_bytes(file.read(8), "little")


class StepWatch:
    """Looks through a recording that is being made for steps.

    Parameters
    ----------
    lanes : :class:`int`
        Lanes of the accelerator.
    rows, sampled, steps : :class:`int`
        What is waited for: that ``steps`` steps with ``rows`` rows, ``sampled`` of them sampled, have been
        executed, one after another.
    """

    def __init__(
        self,
        lanes: int,
        rows: int,
        sampled: int,
        steps: int,
        name: str = TRACE,
        folder: Path | str = ".",
    ):
        self._dtype = np.dtype([("cycle", "<u8"), ("beat", record_dtype(lanes))])
        self._file = Path(folder) / f"{name}.trace"
        self._form, self._steps = [rows, sampled], steps
        self._read = self._found = 0

    def seen(self, length: int) -> bool:
        """Whether the step behind them has begun in the first ``length`` beats."""
        pad = -self._dtype["beat"].itemsize % 8
        size = self._dtype.itemsize + pad
        with self._file.open("rb") as file:
            file.seek(_HEADER_BYTES + self._read * size)
            raw = np.frombuffer(file.read((length - self._read) * size), np.uint8).reshape(-1, size)
        self._read += len(raw)
        beats = np.ascontiguousarray(raw[:, : size - pad]).view(self._dtype).reshape(-1)["beat"]
        for beat in beats[beats["kind"] == Kind.BEGIN]:
            if self._found == self._steps:
                return True
            self._found = self._found + 1 if list(beat["values"][:2]) == self._form else 0
        return False


def describe(beat: np.void) -> str:
    """A beat for people."""
    kind = int(beat["kind"])
    name = Kind(kind).name if kind in list(Kind) else f"kind {kind}"
    place = f"packet {beat['packet']}, row {beat['row']}, column {beat['column']}"
    return f"{name}, {place}, values {', '.join(str(value) for value in beat['values'][:4])} ..."


def last_beat(lanes: int, name: str = TRACE, folder: Path | str = ".") -> str:
    """The last beat recorded, for people."""
    trace = Trace.read(name, folder=folder)
    if not len(trace.cycles):
        return "none"
    return f"cycle {trace.cycles[-1]}, {describe(trace.fields(record_dtype(lanes))[-1])}"


@dataclass(frozen=True)
class Span:
    """Rows of a step that are consecutive tokens of one sequence.

    Parameters
    ----------
    sequence : :class:`int`
        The sequence.
    number : :class:`int`
        The request: number of its entry in the submission ring.
    row, rows : :class:`int`
        The first of the rows, and how many there are.
    position : :class:`int`
        Position of the first one.
    """

    sequence: int
    number: int
    row: int
    rows: int
    position: int

    @property
    def end(self) -> int:
        """The sequence's length behind these rows."""
        return self.position + self.rows


@dataclass(frozen=True)
class Admit:
    """A request got its sequence and its blocks, in this cycle."""

    cycle: int
    sequence: int
    number: int


@dataclass(frozen=True)
class End:
    """A request has ended, in this cycle. ``sequence`` is ``None`` if it never got one."""

    cycle: int
    sequence: int | None
    number: int
    status: int


@dataclass(frozen=True)
class Step:
    """One execution of a step, whether it was committed or not.

    Parameters
    ----------
    index : :class:`int`
        Number of the execution in the recording.
    spans : tuple of :class:`Span`
        Its rows.
    rows : :class:`int`
        How many there are.
    sampled : :class:`int`
        How many of them are sampled: the last row of so many spans, the first ones.
    begin : :class:`int`
        Cycle of BEGIN.
    commit : :class:`int` or ``None``
        Cycle of COMMIT; ``None`` if it was not committed.
    counters : dict or ``None``
        The counters at the commit.
    faults : tuple of (code, packet)
        Faults recorded while it ran.
    beats : structured array
        Its results.
    """

    index: int
    spans: tuple[Span, ...]
    rows: int
    sampled: int
    begin: int
    commit: int | None
    counters: dict[str, int] | None
    faults: tuple[tuple[int, int], ...]
    beats: np.ndarray

    @property
    def committed(self) -> bool:
        """Whether it was committed."""
        return self.commit is not None

    @property
    def cycle(self) -> int:
        """When it ended as far as its sequences are concerned, or began if it was given up."""
        return self.begin if self.commit is None else self.commit

    @property
    def numbers(self) -> tuple[int, ...]:
        """The requests that have rows in it."""
        return tuple(span.number for span in self.spans)

    @property
    def sampled_rows(self) -> tuple[int, ...]:
        """The rows that are sampled, in the order in which LOGITS and TOKEN count them."""
        return tuple(span.row + span.rows - 1 for span in self.spans[: self.sampled])

    def span(self, number: int) -> Span:
        """The span of a request that has rows in it."""
        return self.spans[self.numbers.index(number)]

    def part(self, number: int) -> "Step":
        """The step as it would look with the rows of one request alone; counters stay those of all."""
        place = self.numbers.index(number)
        span, sampled = self.spans[place], int(place < self.sampled)
        beats = self.beats.copy()
        heads = np.isin(beats["kind"], SAMPLED)
        row = beats["row"].astype(np.int64)
        first = np.where(heads, place, span.row)
        own = (row >= first) & (row < first + np.where(heads, sampled, span.rows))
        beats["row"] = row - first
        spans = (dataclasses.replace(span, row=0),)
        return dataclasses.replace(self, spans=spans, rows=span.rows, sampled=sampled, beats=beats[own])

    def packets(self) -> Iterator[tuple[int, np.ndarray]]:
        """Packets with results, in the order in which they came, each with its beats."""
        edges = np.flatnonzero(np.diff(self.beats["packet"])) + 1
        for run in np.split(self.beats, edges):
            if len(run):
                yield int(run["packet"][0]), run


Event = Admit | End | Step


@dataclass(frozen=True)
class Recording:
    """A recorded trace: the cycle of each beat, and the beats."""

    cycles: np.ndarray
    beats: np.ndarray

    @classmethod
    def read(cls, lanes: int, name: str = TRACE, folder: Path | str = ".") -> "Recording":
        """Reads the recording of an accelerator with so many lanes."""
        trace = Trace.read(name, folder=folder)
        return cls(trace.cycles, trace.fields(record_dtype(lanes)))

    def steps(self) -> list[Step]:
        """All executions of steps.

        Raises
        ------
        ValueError
            If events are not where they belong.
        """
        return [step for _, step in self._steps()]

    def events(self) -> list[Event]:
        """What became of requests and sequences, in order: admissions, ends, and steps.

        A committed step is in the place of its COMMIT, one that was given up in that of its BEGIN.

        Raises
        ------
        ValueError
            If events are not where they belong.
        """
        found: list[tuple[int, Event]] = list(self._steps())
        kinds = self.beats["kind"]
        for place in np.flatnonzero((kinds == Kind.ADMIT) | (kinds == Kind.END)):
            first, number = (int(value) & 0xFFFFFFFF for value in self.beats["values"][place, :2])
            cycle = int(self.cycles[place])
            if kinds[place] == Kind.ADMIT:
                found.append((int(place), Admit(cycle, first, number)))
            else:
                sequence = None if first & 0xFFFF == NO_SEQUENCE else first & 0xFFFF
                found.append((int(place), End(cycle, sequence, number, first >> 16)))
        return [event for _, event in sorted(found, key=lambda pair: pair[0])]

    def _steps(self) -> Iterator[tuple[int, Step]]:
        """Each execution of a step with its place in the recording."""
        kinds = self.beats["kind"]
        begins = np.flatnonzero(kinds == Kind.BEGIN)
        first = begins[0] if len(begins) else len(kinds)
        stray = np.flatnonzero(np.isin(kinds[:first], [*RESULTS, Kind.COMMIT]))
        if len(stray):
            raise ValueError(f"Trace has a beat before the first step: {describe(self.beats[stray[0]])}")
        counters = self._counters()
        ends = [*begins, len(kinds)][1:]
        before = 0
        for index, (start, end) in enumerate(zip(begins, ends, strict=True)):
            beats, cycles = self.beats[start:end], self.cycles[start:end]
            commits = np.flatnonzero(beats["kind"] == Kind.COMMIT)
            if len(commits) > 1:
                raise ValueError(f"Trace commits step {index} twice")
            commit = int(commits[0]) if len(commits) else None
            results = np.isin(beats["kind"], RESULTS)
            if commit is not None and results[commit:].any():
                late = beats[commit + int(np.argmax(results[commit:]))]
                raise ValueError(f"Trace has a result of step {index} after its commit: {describe(late)}")
            faults = beats[beats["kind"] == Kind.FAULT]["values"]
            step = Step(
                index=index,
                spans=_spans(self.beats[before:start]),
                rows=int(beats["values"][0, 0]),
                sampled=int(beats["values"][0, 1]),
                begin=int(cycles[0]),
                commit=None if commit is None else int(cycles[commit]),
                counters=None if commit is None else next(counters, None),
                faults=tuple((int(fault[0]), int(fault[1])) for fault in faults),
                beats=beats[results],
            )
            yield int(start) + (commit or 0), step
            before = start

    def _counters(self) -> Iterator[dict[str, int]]:
        """The counters of each commit in turn. Their beats wait for free cycles, so may come much later."""
        beats = self.beats[self.beats["kind"] == Kind.COUNTER]
        names = [name for name, _ in COUNTERS]
        halves = beats["values"][:, :2].astype(np.int64) & 0xFFFFFFFF
        for start in range(0, len(beats) - len(names) + 1, len(names)):
            columns = beats["column"][start : start + len(names)]
            if not np.array_equal(columns, np.arange(len(names))):
                raise ValueError(f"Trace has the counters {columns.tolist()} in a row, not all in order")
            values = halves[start : start + len(names)]
            yield {name: int(low) | int(high) << 32 for name, (low, high) in zip(names, values, strict=True)}


def _spans(beats: np.ndarray) -> tuple[Span, ...]:
    """The spans that some beats tell of."""
    found = []
    for beat in beats[beats["kind"] == Kind.SPAN]:
        first, number = (int(value) & 0xFFFFFFFF for value in beat["values"][:2])
        found.append(Span(first & 0xFFFF, number, int(beat["row"]), first >> 16, int(beat["column"])))
    return tuple(found)
