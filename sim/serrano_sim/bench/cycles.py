# SPDX-License-Identifier: Apache-2.0
"""Where the cycles of a step went: both partitions, packet by packet, and sums of such sections."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..timeline import ARRAY, PORT, Activity
from ..top import figures
from ..top.trace import Step

__all__ = ["BETWEEN", "PartitionError", "Section", "check_activity", "sections_of", "total"]

BETWEEN = -1
"""In the place of a packet: from the end of a step to the begin of the next one."""
SLACK = 4
"""Cycles by which counters and the word of activity may be apart when a step is committed."""


class PartitionError(ValueError):
    """The partitions of the cycles do not add up, or do not agree with the counters."""


@dataclass(frozen=True)
class Section:
    """Some cycles, and what array and port did in them.

    ``packet`` is the packet's index, ``times`` how many of its kind are in it.
    """

    packet: int
    cycles: int
    array: Mapping[str, int] = field(default_factory=dict)
    port: Mapping[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Both partitions must add up.

        Raises
        ------
        PartitionError
            If one does not.
        """
        for kind in ("array", "port"):
            if (found := sum(getattr(self, kind).values())) != self.cycles:
                raise PartitionError(
                    f"packet {self.packet}: {kind} cycles add up to {found:,}, not to {self.cycles:,}"
                )


def total(parts: Iterable[tuple[Section, int]], packet: int = BETWEEN) -> Section:
    """Sections, each so many times, as one."""
    cycles, array, port = 0, dict.fromkeys(figures.ARRAY, 0), dict.fromkeys(figures.PORT, 0)
    for section, times in parts:
        cycles += times * section.cycles
        for name, value in section.array.items():
            array[name] += times * value
        for name, value in section.port.items():
            port[name] += times * value
    found = Section(packet, cycles, array, port)
    found.check()
    return found


def sections_of(activity: Activity, begin: int, end: int) -> list[Section]:
    """The packets of the step that begins in cycle ``begin``, and what is between it and the next one.

    Raises
    ------
    PartitionError
        If a cycle belongs to no part of a partition, or to several.
    """
    starts = _starts(activity, begin, end)
    bounds = [cycle for _, cycle in starts] + [end]
    spent = {}
    for kind, bits in (("array", ARRAY), ("port", PORT)):
        _check_exclusive(activity, bits, begin, end)
        spent[kind] = activity.runs(bits).within(bounds)
    found = []
    for place, (packet, start) in enumerate(starts):
        cycles = bounds[place + 1] - start
        array = dict.fromkeys(figures.ARRAY, 0) | spent["array"][place]
        port = dict.fromkeys(figures.PORT, 0) | spent["port"][place]
        section = Section(packet, cycles, array, port)
        section.check()
        found.append(section)
    return found


def _starts(activity: Activity, begin: int, end: int) -> list[tuple[int, int]]:
    """Each packet of a step with its first cycle, and what is behind the step."""
    packets, stepping = activity.field("packet"), activity.field("stepping")
    states = np.where(stepping != 0, packets, BETWEEN)
    at = int(np.searchsorted(activity.cycles, begin, "right")) - 1
    # Until the first packet has come, that of the step before is shown.
    starts, before, begun = [(0, begin)], int(packets[max(at, 0)]), False
    for place in range(at + 1, int(np.searchsorted(activity.cycles, end))):
        state, cycle = int(states[place]), int(activity.cycles[place])
        if not begun:
            begun = bool(stepping[place]) and packets[place] != before
            if not begun or state == 0:
                continue
        if state != starts[-1][0]:
            starts.append((state, cycle))
        if state == BETWEEN:
            # The next step may be seen some cycles before it is told to begin.
            break
    return starts


def _check_exclusive(activity: Activity, bits: Sequence[str], begin: int, end: int) -> None:
    """In each cycle from ``begin`` to ``end`` just one of some bits is set."""
    count = sum(activity.field(bit) for bit in bits)
    first = max(0, int(np.searchsorted(activity.cycles, begin, "right")) - 1)
    last = int(np.searchsorted(activity.cycles, end))
    wrong = np.flatnonzero(count[first:last] != 1)
    if len(wrong):
        place = first + int(wrong[0])
        names = ", ".join(bit for bit in bits if activity.field(bit)[place])
        raise PartitionError(f"cycle {int(activity.cycles[place]):,}: {names or 'no part of a partition'}")


def check_activity(activity: Activity, steps: Sequence[Step]) -> None:
    """The counters of all committed steps add up, and count what the word of activity shows.

    Raises
    ------
    PartitionError
        If they do not.
    """
    if problems := figures.check_counters([step for step in steps if step.committed]):
        raise PartitionError("; ".join(problems))
    for step in steps:
        if step.counters is None:
            continue
        for bits in (ARRAY, PORT):
            shown: dict[str, Any] = activity.runs(bits).within([0, step.commit])[0]
            for bit in bits:
                found, counted = shown.get(bit.partition("_")[2], 0), step.counters[bit]
                if abs(found - counted) > SLACK:
                    raise PartitionError(
                        f"step {step.index}: {bit} is {counted:,} by the counter, {found:,} by the trace"
                    )
