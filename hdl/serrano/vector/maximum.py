# SPDX-License-Identifier: Apache-2.0
"""The largest of several lanes, and of each row."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["LaneMaximum", "RowMaxima"]


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


class RowMaxima(wiring.Component):
    """Keeps the largest value of each row.

    One value per cycle. With ``registered`` a cycle chooses the row's maximum so far, another one compares;
    what the two values before it, of the same row, have made of the maximum goes around the registers.

    Parameters
    ----------
    rows : :class:`int`
        Number of rows.
    width : :class:`int`
        Width of a value.
    registered : :class:`bool`
        More registers.

    Members
    -------
    start : ``In(1)``
        Sets all maxima to zero; not while ``busy``.
    valid : ``In(1)``
        There is a value.
    row : ``In(range(rows))``
        Its row.
    value : ``In(width)``
        See ``valid``.
    maxima : ``Out(ArrayLayout(width, rows))``
        Largest value of each row since ``start``; the last value counts ``latency`` (1, with ``registered``
        3) cycles after it came.
    busy : ``Out(1)``
        A value that came earlier does not count yet.
    """

    def __init__(self, rows: int, width: int, *, registered: bool = False):
        self.rows = rows
        self.width = width
        self.registered = registered
        self.latency = 1 + 2 * int(registered)
        super().__init__(
            {
                "start": In(1),
                "valid": In(1),
                "row": In(ceil_log2(rows)),
                "value": In(width),
                "maxima": Out(data.ArrayLayout(width, rows)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        write, row, value = Signal(), Signal.like(self.row), Signal(self.width)
        if self.registered:
            self._build_comparison(m, write, row, value)
        else:
            m.d.comb += [
                write.eq(self.valid & (self.value > self.maxima[self.row])),
                row.eq(self.row),
                value.eq(self.value),
            ]
        maxima = Signal.like(self.maxima, reset_less=True)
        m.d.comb += self.maxima.eq(maxima)
        with m.If(self.start):
            m.d.sync += Value.cast(maxima).eq(0)
        with m.Elif(write):
            m.d.sync += maxima[row].eq(value)
        return m

    def _build_comparison(self, m: Module, write: Signal, row: Signal, value: Signal) -> None:
        """The row's new maximum, two cycles after the value."""
        valid, follows = Signal(), Signal(reset_less=True)
        chosen, best = Signal.like(self.row, reset_less=True), Signal.like(self.row, reset_less=True)
        new, old, largest = (
            Signal(self.width, name=name, reset_less=True) for name in ("new", "old", "largest")
        )
        earlier = Signal(self.width)
        m.d.comb += [
            earlier.eq(Mux(follows, largest, old)),
            row.eq(best),
            value.eq(largest),
            self.busy.eq(valid | write),
        ]
        m.d.sync += [
            valid.eq(self.valid),
            chosen.eq(self.row),
            new.eq(self.value),
            old.eq(Mux(write & (best == self.row), largest, self.maxima[self.row])),
            follows.eq(valid & (chosen == self.row)),
            write.eq(valid),
            best.eq(chosen),
            # Both comparisons at once: which of them counts has been known for longer than they take.
            largest.eq(Mux(Mux(follows, new > largest, new > old), new, earlier)),
        ]
