# SPDX-License-Identifier: Apache-2.0
"""What a row's outputs are to be multiplied by, once its denominator is known."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import PipelineControl, delayed
from serrano.vector.arithmetic import SHIFT_MAX, SHIFT_MIN, HighestBit, limit, round_shift, shift_right
from serrano.vector.tables import Recip

from .payloads import Final, RowTotal

__all__ = ["Finisher"]


class Finisher(wiring.Component):
    """``g = recip(rhu(l, pl - 15))`` and ``n = m + pl - X - 1`` limited to -16 .. 63, with ``pl = msb(l)``.

    One row per cycle, ``latency`` (5, with ``registered`` 10). ``l`` is at least 2**22, or 0 for a row that
    never saw a valid token; such a row's outputs are all zero, and what they are multiplied by means nothing.

    Parameters
    ----------
    registered : :class:`bool`
        More registers, as those of :mod:`serrano.vector.arithmetic`.

    Members
    -------
    totals : ``In(stream.Signature(RowTotal))``
        Denominator and ``m - X``.
    finals : ``Out(stream.Signature(Final))``
        ``g`` and ``n``.
    """

    totals: In(stream.Signature(RowTotal))
    finals: Out(stream.Signature(Final))

    latency = Recip.latency + 2

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers: the highest bit, the shift, the reciprocal."""
        return HighestBit.latency_of(registered) + 1 + 2 * int(registered) + Recip.latency_of(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.control = control = PipelineControl(self.latency)
        m.submodules.recip = recip = Recip(registered=self.registered)
        m.submodules.highest = highest = HighestBit(40, registered=self.registered)
        enable = control.advance
        i, o = self.totals.payload, self.finals.payload
        late = {"cycles": int(self.registered), "enable": enable}
        total = delayed(m, i.total, highest.latency + late["cycles"], enable=enable, name="total")
        difference = delayed(m, i.difference - 1, highest.latency, enable=enable, name="difference")
        position, amount = highest.position, Signal(6)
        exact = Signal(signed(len(difference)), reset_less=True)
        operand = Signal(17, reset_less=True)
        later = delayed(m, exact, 2 * late["cycles"], enable=enable, name="exact")
        m.d.comb += [
            control.i_valid.eq(self.totals.valid),
            self.totals.ready.eq(control.i_ready),
            self.finals.valid.eq(control.o_valid),
            control.o_ready.eq(self.finals.ready),
            highest.enable.eq(enable),
            highest.value.eq(i.total),
            amount.eq(position - 15),
            recip.enable.eq(enable),
            recip.operand.eq(operand),
            o.reciprocal.eq(recip.result),
            o.shift.eq(
                delayed(m, limit(later, SHIFT_MIN, SHIFT_MAX), recip.latency, enable=enable, name="shift")
            ),
        ]
        # One bit below the result's lowest is kept for rounding.
        by = delayed(m, amount, name="amount", **late)
        shifted, _ = shift_right(m, total.shift_left(1), by, len(operand) + 1, name="shifted")
        with m.If(enable):
            m.d.sync += [
                # Cycle 1: the highest bit. Cycle 2: bring it to bit 15. Cycles 3 to 5: reciprocal.
                operand.eq(round_shift(delayed(m, shifted, name="shifted", **late), 1)),
                exact.eq(difference + position),
            ]
        return m
