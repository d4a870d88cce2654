# SPDX-License-Identifier: Apache-2.0
"""A figure with its limit, and what a part of the bench gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from serrano.config import AcceleratorConfig

__all__ = ["Figure", "Result", "Scope", "State", "at_least", "at_most", "equal", "told"]


class State(Enum):
    """What a figure is worth."""

    PASS = "pass"
    MISS = "MISS"
    TOLD = ""
    """It has no limit."""
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Figure:
    """A line of the table: what, the value and the limit as text, and whether it is kept."""

    name: str
    value: str
    limit: str = ""
    state: State = State.TOLD
    note: str = ""


def _judged(name: str, value: Any, limit: str, kept: bool, text: str | None, note: str) -> Figure:
    shown = text or f"{value:,}"
    return Figure(name, shown, limit, State.PASS if kept else State.MISS, note)


def at_most(
    name: str, value: Any, limit: Any, text: str | None = None, note: str = "", *, bound: str | None = None
) -> Figure:
    """A figure that must not exceed its limit; ``None`` was not measured and does.

    ``text`` and ``bound`` are value and limit as they are shown, where the numbers do not do.
    """
    kept = value is not None and value <= limit
    shown = "not there" if value is None else text
    return _judged(name, value, f"<= {bound or f'{limit:,}'}", kept, shown, note)


def at_least(
    name: str, value: Any, limit: Any, text: str | None = None, note: str = "", *, bound: str | None = None
) -> Figure:
    """A figure that must reach its limit; ``None`` was not measured and does not."""
    kept = value is not None and value >= limit
    shown = "not there" if value is None else text
    return _judged(name, value, f">= {bound or f'{limit:,}'}", kept, shown, note)


def equal(
    name: str, value: Any, limit: Any, text: str | None = None, note: str = "", *, bound: str | None = None
) -> Figure:
    """A figure with one right value."""
    return _judged(name, value, f"= {bound or f'{limit:,}'}", value == limit, text, note)


def told(name: str, value: str, note: str = "") -> Figure:
    """A figure without a limit."""
    return Figure(name, value, note=note)


@dataclass
class Result:
    """What a part gives.

    Parameters
    ----------
    figures : list of :class:`Figure`
        For the table.
    keys : dict
        Top-level keys of the report.
    details : dict
        All measurements, for the report.
    leaked : int or ``None``
        Blocks held after everything was freed; ``None`` if the part has no pool.
    """

    figures: list[Figure] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    leaked: int | None = None


@dataclass(frozen=True)
class Scope:
    """How much is measured, on what, and where.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    quick : :class:`bool`
        Whether to leave out what takes long.
    commands : :class:`int`
        Random commands.
    seed : :class:`int`
        Of everything that is drawn.
    folder : path
        Where runs are kept.
    reports : path
        Where other targets leave their reports.
    progress : callable
        Called with a text that says what is being done.
    """

    config: AcceleratorConfig
    quick: bool
    commands: int
    seed: int
    folder: Path
    reports: Path
    progress: Callable[[str], None] = lambda text: None
