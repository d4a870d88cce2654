# SPDX-License-Identifier: Apache-2.0
"""What a proof is, as data: which bench, which checks, how, and what must break them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from .patch import Edit

__all__ = ["Broken", "Cover", "Method", "Proof"]


class Method(enum.Enum):
    """How a proof goes."""

    INDUCTION = "induction"
    """k-induction: from reset, and from any ``depth`` cycles in which the checks held."""
    COMMAND = "command"
    """From any state that satisfies the invariants, everything that can happen within ``depth`` cycles, which
    is shown to be enough; together with initialization, an induction over commands."""
    BOUNDED = "bounded"
    """Everything that can happen within ``depth`` cycles of reset."""


@dataclasses.dataclass(frozen=True)
class Broken:
    """A variant of the hardware with an error that ``check`` must find in ``case``.

    ``what`` is wrong, in words; ``depth`` is enough to see it, if it is not the proof's.
    """

    name: str
    check: str
    what: str
    edits: tuple[Edit, ...]
    case: str = ""
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class Cover:
    """Something that must be able to happen within ``depth`` cycles, or a proof would be empty."""

    name: str
    depth: int
    case: str = ""


@dataclasses.dataclass(frozen=True)
class Proof:
    """Checks of one bench.

    Parameters
    ----------
    name
        What it is called on the command line.
    bench
        ``module:function`` in this package; the function is given a :class:`~.bench.Bench` and the case.
    method, depth
        How it is done, and over how many cycles.
    unit, configuration, assumptions
        What it is about, for the report.
    checks
        Each check's name, and what it says; a leading number is that of an invariant of the design.
    cases
        What the bench is run with, one after the other, and the depths that differ.
    broken
        Variants that must fail, at least one for each check.
    covers
        What must be able to happen.
    groups
        Cases whose checks take several runs, with the checks of each: a big case is quicker that way.
    """

    name: str
    bench: str
    method: Method
    depth: int
    unit: str
    configuration: str
    assumptions: str
    checks: Mapping[str, str]
    broken: tuple[Broken, ...]
    cases: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"": 0})
    covers: tuple[Cover, ...] = ()
    groups: Mapping[str, tuple[tuple[str, ...], ...]] = dataclasses.field(default_factory=dict)

    def cycles(self, case: str) -> int:
        """Depth of a case."""
        return self.cases[case] or self.depth
