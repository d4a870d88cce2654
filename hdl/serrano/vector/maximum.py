# SPDX-License-Identifier: Apache-2.0
"""The largest of several lanes."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["LaneMaximum"]


class LaneMaximum(wiring.Component):
    """The largest of ``lanes`` unsigned values: a tree with a register behind every two levels.

    A stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`.

    Parameters
    ----------
    lanes : :class:`int`
        Number of values, a power of two.
    width : :class:`int`
        Their width.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    values : ``In(ArrayLayout(width, lanes))``
        Values.
    maximum : ``Out(width)``
        Largest of the values of ``latency`` enabled cycles ago: one cycle for each two levels of the tree.
    """

    def __init__(self, lanes: int, width: int):
        self.lanes = lanes
        self.width = width
        self.latency = self.latency_of(lanes)
        super().__init__(
            {"enable": In(1), "values": In(data.ArrayLayout(width, lanes)), "maximum": Out(width)}
        )

    @staticmethod
    def latency_of(lanes: int) -> int:
        """Latency with so many lanes."""
        return max(1, -(-ceil_log2(lanes) // 2))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        level = [self.values[lane] for lane in range(self.lanes)]
        for stage in range(self.latency):
            for half in range(2):
                if len(level) == 1:
                    break
                larger = []
                for index in range(0, len(level), 2):
                    a, b = level[index : index + 2]
                    value = Signal(self.width, name=f"larger_{stage}_{half}_{index // 2}")
                    m.d.comb += value.eq(Mux(a > b, a, b))
                    larger.append(value)
                level = larger
            registers = [
                Signal(self.width, name=f"stage_{stage}_{index}", reset_less=True)
                for index in range(len(level))
            ]
            with m.If(self.enable):
                m.d.sync += [register.eq(value) for register, value in zip(registers, level, strict=True)]
            level = registers
        m.d.comb += self.maximum.eq(level[0])
        return m
