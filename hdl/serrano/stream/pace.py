# SPDX-License-Identifier: Apache-2.0
"""Time for memories and sums between the steps of a state machine, where FPGAs need it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amaranth import *

from serrano.config import AcceleratorConfig

from .slices import later

__all__ = ["PACE", "pace", "paced", "settled", "take_turns"]

PACE = 4
"""Cycles of a state with registers everywhere: what it decided, the address, the word read, what follows."""


def pace(config: AcceleratorConfig) -> int:
    """Cycles that a state takes: ``PACE`` if the accelerator is ``registered``, else 1."""
    return PACE if config.registered else 1


def settled(m: Module, config: AcceleratorConfig, value: Any, name: str = "settled") -> Any:
    """``value``, through a register if the accelerator is ``registered``: a cycle later."""
    return later(m, value, registered=config.registered, name=name)


def take_turns(m: Module, config: AcceleratorConfig, name: str = "acts") -> Signal:
    """Set in one of ``pace`` cycles: that in which a state acts."""
    acts, cycles = Signal(name=name), pace(config)
    if cycles == 1:
        m.d.comb += acts.eq(1)
    else:
        turn = Signal(range(cycles), name=f"{name}_turn")
        m.d.sync += [turn.eq(turn + 1), acts.eq(turn == 0)]
    return acts


@contextmanager
def paced(m: Module, name: str, acts: Value) -> Iterator[None]:
    """A state that does what it does, and leaves, in the cycles with ``acts`` alone."""
    with m.State(name), m.If(acts):
        yield
