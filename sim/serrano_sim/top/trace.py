# SPDX-License-Identifier: Apache-2.0
"""Reading a recorded trace stream: docs/trace.md."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serrano.csr.table import COUNTERS

from ..memory.handle import Trace
from .job import TRACE

__all__ = ["Kind", "Recording", "Step", "last_beat", "record_bits", "record_dtype", "trace_length"]


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


RESULTS = (Kind.RESIDUAL, Kind.CODES, Kind.HEADS, Kind.LOGITS, Kind.TOKEN)
FIELDS = (("kind", 8), ("row", 8), ("packet", 16), ("column", 32))
"""Fields of a record before the values, lowest first, with the bits that each is padded to."""

_COUNT_OFFSET = 32


def record_dtype(lanes: int) -> np.dtype:
    """A record of the trace sink, as the bench packs it."""
    fields = [(name, f"<u{bits // 8}") for name, bits in FIELDS]
    return np.dtype([*fields, ("values", "<i4", (lanes,))])


def record_bits(lanes: int) -> int:
    """Width of a record."""
    return 8 * record_dtype(lanes).itemsize


def trace_length(name: str = TRACE, folder: Path | str = ".") -> int:
    """Beats recorded so far."""
    with (Path(folder) / f"{name}.trace").open("rb") as file:
        file.seek(_COUNT_OFFSET)
        return int.from_bytes(file.read(8), "little")


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
class Step:
    """One execution of a step, whether it was committed or not.

    Parameters
    ----------
    index : :class:`int`
        Number of the execution in the recording.
    position : :class:`int`
        Position of row 0.
    sample : :class:`bool`
        Whether it samples.
    begin : :class:`int`
        Cycle of BEGIN.
    commit : :class:`int` or ``None``
        Cycle of COMMIT; ``None`` if it was not committed.
    length : :class:`int` or ``None``
        The sequence's length after it.
    counters : dict or ``None``
        The counters at the commit.
    faults : tuple of (code, packet)
        Faults recorded while it ran.
    beats : structured array
        Its results.
    """

    index: int
    position: int
    sample: bool
    begin: int
    commit: int | None
    length: int | None
    counters: dict[str, int] | None
    faults: tuple[tuple[int, int], ...]
    beats: np.ndarray

    @property
    def rows(self) -> int:
        """Rows of a committed step."""
        return 0 if self.length is None else self.length - self.position

    def packets(self) -> Iterator[tuple[int, np.ndarray]]:
        """Packets with results, in the order in which they came, each with its beats."""
        edges = np.flatnonzero(np.diff(self.beats["packet"])) + 1
        for run in np.split(self.beats, edges):
            if len(run):
                yield int(run["packet"][0]), run


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
        kinds = self.beats["kind"]
        begins = np.flatnonzero(kinds == Kind.BEGIN)
        first = begins[0] if len(begins) else len(kinds)
        stray = np.flatnonzero(np.isin(kinds[:first], [*RESULTS, Kind.COMMIT]))
        if len(stray):
            raise ValueError(f"Trace has a beat before the first step: {describe(self.beats[stray[0]])}")
        counters = self._counters()
        ends = [*begins, len(kinds)][1:]
        steps = []
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
            steps.append(
                Step(
                    index=index,
                    position=int(beats["values"][0, 0]),
                    sample=bool(beats["values"][0, 1]),
                    begin=int(cycles[0]),
                    commit=None if commit is None else int(cycles[commit]),
                    length=None if commit is None else int(beats["values"][commit, 0]),
                    counters=None if commit is None else next(counters, None),
                    faults=tuple((int(fault[0]), int(fault[1])) for fault in faults),
                    beats=beats[results],
                )
            )
        return steps

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
