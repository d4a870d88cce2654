# SPDX-License-Identifier: Apache-2.0
"""A run on a time axis, as Chrome trace JSON for Perfetto or chrome://tracing: docs/simulation.md.

One microsecond in the file is one clock cycle.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serrano.trace import ActivityWord
from serrano_host.tape import DESCRIPTOR_BYTES, NO_LAYER, Descriptor

from .memory.handle import Trace
from .top.job import ACTIVITY
from .top.simulate import JobResult
from .top.trace import Admit, Step

__all__ = ["GRAIN", "Activity", "Runs", "build_timeline", "write_timeline"]

GRAIN = 32
"""Neighbouring slices of fewer cycles than this are shown as one."""

NONE = -1
PID = 1
ARRAY = ("array_busy", "array_wait_tape", "array_wait_kv", "array_epilogue", "array_serial")
PORT = ("port_weights", "port_kv", "port_other", "port_no_space", "port_latency", "port_no_request")
TRACKS = {
    "read port": PORT,
    "array": ARRAY,
    "epilogue": ("quantizing", "residual", "heads", "staged", "logits"),
    "KV gather": ("gathering",),
    "KV append": ("appending",),
}
"""Tracks made of bits of the word of activity; where several are set, the first one is shown."""

STEPS, PACKETS = "scheduler", "packets"

Event = dict[str, Any]


def _name(bit: str) -> str:
    """A bit's name without the part that it belongs to."""
    return bit.removeprefix("array_").removeprefix("port_")


@dataclass(frozen=True)
class Runs:
    """A state over time: ``states[i]`` from cycle ``edges[i]`` to before ``edges[i + 1]``.

    ``names`` has the states' names; state -1 has none and is not shown.
    """

    names: tuple[str, ...]
    states: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], cycles: np.ndarray, states: np.ndarray, end: int) -> "Runs":
        """From a state and the cycle in which it was taken, until ``end``; equal neighbours become one."""
        first = np.flatnonzero(np.diff(states, prepend=states[:1] - 1))
        return cls(tuple(names), states[first], np.append(cycles[first], end).astype(np.int64))

    def within(self, bounds: Sequence[int]) -> list[dict[str, int]]:
        """Cycles in each state between neighbouring bounds; states without any are left out."""
        lengths = np.diff(self.edges)
        spent = []
        for state in range(len(self.names)):
            passed = np.concatenate([[0], np.cumsum(np.where(self.states == state, lengths, 0))])
            spent.append(np.diff(np.interp(bounds, self.edges, passed)).astype(np.int64))
        columns = np.array(spent).T
        return [{name: int(n) for name, n in zip(self.names, column, strict=True) if n} for column in columns]

    def slices(self, grain: int = GRAIN) -> Iterator[tuple[int, int, dict[str, int]]]:
        """Start, end and cycles in each state of what is shown: runs, short neighbours joined.

        A state that is not shown divides, however short, unless it lies between two short runs.
        """
        long = np.diff(self.edges) >= grain
        starts = np.flatnonzero(long | np.append(True, long[:-1]))
        for first, stop in zip(starts, np.append(starts[1:], len(self.states)), strict=True):
            shown = first + np.flatnonzero(self.states[first:stop] != NONE)
            if len(shown):
                first, stop = shown[0], shown[-1] + 1
                cycles: dict[str, int] = {}
                for place in range(first, stop):
                    if self.states[place] != NONE:
                        name = self.names[self.states[place]]
                        length = int(self.edges[place + 1] - self.edges[place])
                        cycles[name] = cycles.get(name, 0) + length
                yield int(self.edges[first]), int(self.edges[stop]), cycles


@dataclass(frozen=True)
class Activity:
    """What each part did in each cycle of a run.

    ``cycles`` are those in which the word of activity changed, ``words`` what it became.
    """

    cycles: np.ndarray
    words: np.ndarray
    end: int

    @classmethod
    def read(cls, end: int, folder: Path | str = ".") -> "Activity":
        """Reads the recording in a run's folder; the run ended in cycle ``end``.

        Raises
        ------
        ValueError
            If nothing was recorded.
        """
        trace = Trace.read(ACTIVITY, folder=folder)
        if not len(trace.cycles):
            raise ValueError("What the parts did was not recorded")
        octets = np.zeros((len(trace.cycles), 8), np.uint8)
        octets[:, : trace.payloads.shape[1]] = trace.payloads
        return cls(trace.cycles.astype(np.int64), octets.view("<u8").reshape(-1), end)

    def field(self, name: str) -> np.ndarray:
        """A field of the word at each change."""
        place = ActivityWord.as_shape()[name]
        return (self.words >> np.uint64(place.offset)).astype(np.int64) & (1 << place.width) - 1

    def runs(self, bits: Sequence[str]) -> Runs:
        """Which of some bits is set over time."""
        states = np.full(len(self.cycles), NONE)
        for state, bit in reversed(list(enumerate(bits))):
            states[self.field(bit) != 0] = state
        return Runs.of([_name(bit) for bit in bits], self.cycles, states, self.end)

    def packets(self) -> Runs:
        """The packet being executed over time, -1 between steps."""
        states = np.where(self.field("stepping") != 0, self.field("packet"), NONE)
        return Runs.of((), self.cycles, states, self.end)


def _slice(track: int, name: str, start: int, end: int, **args: Any) -> Event:
    return {"ph": "X", "pid": PID, "tid": track, "name": name, "ts": start, "dur": end - start, "args": args}


def _named(track: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "pid": PID, "tid": track, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": PID, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}}


def _packet_names(model: Descriptor) -> list[tuple[str, dict[str, Any]]]:
    """Name and description of each packet."""
    named = []
    for packet in model.program():
        layer = None if packet.layer == NO_LAYER else packet.layer
        named.append(
            (
                packet.label if layer is None else f"{packet.label}, layer {layer}",
                {"packet": packet.index, "layer": layer, "k": packet.k, "n_out": packet.n_out},
            )
        )
    return named


def _requests(result: JobResult) -> Iterator[Event]:
    """Each request from the doorbell to its last record, with its tokens, as the host sees them.

    In between, as the trace tells it, when it got its sequence.
    """

    def event(phase: str, number: int, cycle: int, **args: Any) -> Event:
        common = {"pid": PID, "cat": "request", "id": number, "name": f"request {number}"}
        return {"ph": phase, "ts": cycle, **common, "args": args}

    for phase in result.phases:
        seen = set()
        for cycle, record in phase.completions:
            if record.id not in seen:
                yield event("b", record.id, phase.begin)
            seen.add(record.id)
            if record.token is not None:
                yield event("n", record.id, cycle, token=record.token)
            if record.ended:
                yield event("e", record.id, cycle, status=record.status)
    for happened in result.recording.events():
        if isinstance(happened, Admit):
            yield event("n", happened.number, happened.cycle, sequence=happened.sequence)


def _step(step: Step, packets: Runs, tracks: tuple[int, int], model: Descriptor) -> Iterator[Event]:
    """A step and its packets, which follow each other without a gap from its begin to its end.

    Until its first packet has come, the packet of the step before is shown in the recording.
    """
    place = int(np.searchsorted(packets.edges, step.begin, "right")) - 1
    bounds, names = [step.begin], [0]
    while place < len(packets.states) and packets.states[place] != NONE:
        if packets.edges[place] > step.begin and packets.states[place] != names[-1]:
            bounds.append(int(packets.edges[place]))
            names.append(int(packets.states[place]))
        place += 1
    ended = max(step.begin, int(packets.edges[place]))
    commit = ended if step.commit is None else step.commit
    yield _slice(tracks[0], f"step {step.index}", step.begin, commit, **_about(step))
    known = _packet_names(model)
    for number, start, end in zip(names, bounds, [*bounds[1:], ended], strict=True):
        name, args = known[number]
        if end > start:
            yield _slice(tracks[1], name, start, end, **args)
    if commit > ended:
        yield _slice(tracks[1], "COMMIT", ended, commit)


def _about(step: Step) -> dict[str, Any]:
    spans = [
        {"request": span.number, "sequence": span.sequence, "position": span.position, "rows": span.rows}
        for span in step.spans
    ]
    about: dict[str, Any] = {
        "rows": step.rows,
        "sampled": step.sampled,
        "committed": step.committed,
        "spans": spans,
    }
    if step.faults:
        about["faults"] = [f"{code:#04x}" for code, _ in step.faults]
    return about


def _between(steps: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """Gaps between steps."""
    for one, two in itertools.pairwise(steps):
        if two["ts"] > one["ts"] + one["dur"]:
            yield one["ts"] + one["dur"], two["ts"]


def build_timeline(result: JobResult) -> dict[str, Any]:
    """The contents of the file.

    Parameters
    ----------
    result : :class:`~serrano_sim.top.simulate.JobResult`
        A run with ``activity``.

    Raises
    ------
    ValueError
        If it was run without.
    """
    activity = Activity.read(result.cycles, result.folder)
    model = Descriptor.unpack(result.tape[:DESCRIPTOR_BYTES])
    tracks = {name: number for number, name in enumerate((STEPS, PACKETS, *TRACKS), 1)}
    events: list[Event] = [{"ph": "M", "pid": PID, "name": "process_name", "args": {"name": "serrano"}}]
    for name, number in tracks.items():
        events += _named(number, name)
    events += _requests(result)

    packets, pair = activity.packets(), (tracks[STEPS], tracks[PACKETS])
    first = len(events)
    for step in result.recording.steps():
        events += _step(step, packets, pair, model)
    told, parts = events[first:], {name: activity.runs(bits) for name, bits in TRACKS.items()}
    for track in pair:
        _account([event for event in told if event["tid"] == track], parts)
    steps = [event for event in told if event["tid"] == tracks[STEPS]]
    events += [_slice(tracks[STEPS], "between steps", *gap) for gap in _between(steps)]
    for name, runs in parts.items():
        for start, end, cycles in runs.slices():
            events.append(_slice(tracks[name], max(cycles, key=cycles.__getitem__), start, end, **cycles))
    return {
        "displayTimeUnit": "ms",
        "otherData": {"preset": result.job.config.name, "model": model.name, "time": "1 us is one cycle"},
        "traceEvents": events,
    }


def _account(told: Sequence[Event], parts: Mapping[str, Runs]) -> None:
    """Adds to slices of one track, which do not overlap, what array and port did meanwhile."""
    bounds = [bound for event in told for bound in (event["ts"], event["ts"] + event["dur"])]
    if bounds:
        for part in ("array", "read port"):
            for event, cycles in zip(told, parts[part].within(bounds)[::2], strict=True):
                event["args"][part] = cycles


def write_timeline(result: JobResult, file: Path) -> None:
    """Writes the timeline of a run, an event in a line."""
    timeline = build_timeline(result)
    events = ",\n".join(json.dumps(event, separators=(",", ":")) for event in timeline.pop("traceEvents"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{json.dumps(timeline)[:-1]}, "traceEvents": [\n{events}\n]}}\n')
