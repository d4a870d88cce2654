# SPDX-License-Identifier: Apache-2.0
"""A long delay, kept in a memory."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.primitives.memory import OnChipMemory

from .pipeline import delayed

__all__ = ["DelayLine", "waited"]

WORDS = 16
"""Words of the small memories that FPGAs make of logic cells."""


class DelayLine(wiring.Component):
    """Gives back what it was given ``latency`` enabled cycles ago.

    The values go round in an on-chip memory, so that a delay costs no registers. Before the first ``latency``
    enabled cycles the output means nothing.

    Parameters
    ----------
    shape : :class:`~amaranth.hdl.ShapeLike`
        Shape of the value.
    latency : :class:`int`
        Enabled cycles, at least 3.

    Members
    -------
    enable : ``In(1)``
        The line moves on.
    i : ``In(shape)``
        Value.
    o : ``Out(shape)``
        Value of ``latency`` enabled cycles ago.

    Raises
    ------
    ValueError
        If ``latency`` is below 3.
    """

    def __init__(self, shape: Any, latency: int):
        if latency < 3:
            raise ValueError(f"Latency must be at least 3, not {latency!r}")
        self.shape = shape
        self.latency = latency
        super().__init__({"enable": In(1), "i": In(shape), "o": Out(shape)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The word at the pointer is read, then replaced; the memory's output register is one more cycle.
        depth = self.latency - 1
        m.submodules.memory = memory = OnChipMemory(self.shape, depth, transparent=False)
        pointer = Signal(ceil_log2(depth))
        m.d.comb += [
            memory.w_en.eq(self.enable),
            memory.w_addr.eq(pointer),
            memory.w_data.eq(self.i),
            memory.r_en.eq(self.enable),
            memory.r_addr.eq(pointer),
            self.o.eq(memory.r_data),
        ]
        with m.If(self.enable):
            m.d.sync += pointer.eq(Mux(pointer == depth - 1, 0, pointer + 1))
        return m


def waited(m: Module, value: Any, cycles: int, *, enable: Any, name: str) -> Any:
    """As :func:`delayed`, through a :class:`DelayLine` as far as a small memory goes, and registers in front.

    Raises
    ------
    ValueError
        If ``cycles`` is below 3.
    """
    m.submodules[f"{name}_line"] = line = DelayLine(value.shape(), min(cycles, WORDS + 1))
    early = delayed(m, value, cycles - line.latency, enable=enable, name=name)
    m.d.comb += [line.enable.eq(enable), Value.cast(line.i).eq(Value.cast(early))]
    return line.o
