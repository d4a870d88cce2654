# SPDX-License-Identifier: Apache-2.0
"""The performance counters."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.csr.table import COUNTERS

__all__ = ["CounterValue", "Counters"]

INCREMENT_BITS = 12


class CounterValue(data.Struct):
    """A counter, by its place in the counter table, and its value."""

    index: unsigned(ceil_log2(len(COUNTERS)))
    value: unsigned(64)


class Counters(wiring.Component):
    """64-bit counters of :data:`~serrano.csr.table.COUNTERS`, read as a whole.

    Every cycle each counter grows by its increment. ``snapshot`` copies all of them at once to ``values``.
    ``report`` gives all of them out, one after another, as they were in the cycle of ``report``, without
    touching ``values``.

    Parameters
    ----------
    registered : :class:`bool`
        Everything that comes in counts a cycle later.

    Members
    -------
    increments : ``In(INCREMENT_BITS).array(len(COUNTERS))``
        What to add in this cycle.
    clear : ``In(1)``
        Set all counters to zero; wins over increments.
    snapshot : ``In(1)``
        Copy the counters to ``values``.
    values : ``Out(64).array(len(COUNTERS))``
        The counters at the last ``snapshot``.
    report : ``In(1)``
        Give out all counters; ignored while doing so.
    reported : ``Out(stream.Signature(CounterValue))``
        The counters, in order.
    """

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        super().__init__(
            {
                "increments": In(INCREMENT_BITS).array(len(COUNTERS)),
                "clear": In(1),
                "snapshot": In(1),
                "values": Out(64).array(len(COUNTERS)),
                "report": In(1),
                "reported": Out(stream.Signature(CounterValue)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        counters = [Signal(64, name=name) for name, _ in COUNTERS]
        line = [Signal(64, name=f"{name}_line", reset_less=True) for name, _ in COUNTERS]
        left = Signal(range(len(COUNTERS) + 1))
        increments = [self._taken(m, increment) for increment in self.increments]
        snapshot, clear, report = (
            self._taken(m, pulse) for pulse in (self.snapshot, self.clear, self.report)
        )
        for index, counter in enumerate(counters):
            m.d.sync += counter.eq(counter + increments[index])
            with m.If(snapshot):
                m.d.sync += self.values[index].eq(counter)
            # The values to report move along a shift register.
            with m.If(report & (left == 0)):
                m.d.sync += line[index].eq(counter)
            with m.Elif(self.reported.valid & self.reported.ready):
                m.d.sync += line[index].eq(line[index + 1] if index + 1 < len(line) else 0)
            with m.If(clear):
                m.d.sync += counter.eq(0)
        with m.If(left != 0):
            m.d.sync += left.eq(left - self.reported.ready)
        with m.Elif(report):
            m.d.sync += left.eq(len(COUNTERS))
        m.d.comb += [
            self.reported.valid.eq(left != 0),
            self.reported.payload.index.eq(len(COUNTERS) - left),
            self.reported.payload.value.eq(line[0]),
        ]
        return m

    def _taken(self, m: Module, value: Signal) -> Signal:
        """The value, with registers that of the cycle before."""
        if not self.registered:
            return value
        late = Signal.like(value, name="late")
        m.d.sync += late.eq(value)
        return late
