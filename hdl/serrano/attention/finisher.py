# SPDX-License-Identifier: Apache-2.0
"""What a row's outputs are to be multiplied by, once its denominator is known."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import PipelineControl, delayed
from serrano.vector.arithmetic import SHIFT_MAX, SHIFT_MIN, limit, msb, shift_right
from serrano.vector.tables import Recip

from .payloads import Final, RowTotal

__all__ = ["Finisher"]


class Finisher(wiring.Component):
    """``g = recip(rhu(l, pl - 15))`` and ``n = m + pl - X - 1`` limited to -16 .. 63, with ``pl = msb(l)``.

    One row per cycle, ``latency`` (5). ``l`` is at least 2**22, or 0 for a row that never saw a valid token;
    such a row's outputs are all zero, and what they are multiplied by means nothing.

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

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.control = control = PipelineControl(self.latency)
        m.submodules.recip = recip = Recip()
        enable = control.advance
        i, o = self.totals.payload, self.finals.payload
        total = Signal(40, reset_less=True)
        position = Signal(6, reset_less=True)
        amount = Signal(6)
        difference = Signal.like(i.difference, reset_less=True)
        exact = Signal(signed(len(difference) + 1), reset_less=True)
        operand = Signal(17, reset_less=True)
        m.d.comb += [
            control.i_valid.eq(self.totals.valid),
            self.totals.ready.eq(control.i_ready),
            self.finals.valid.eq(control.o_valid),
            control.o_ready.eq(self.finals.ready),
            amount.eq(position - 15),
            recip.enable.eq(enable),
            recip.operand.eq(operand),
            o.reciprocal.eq(recip.result),
            o.shift.eq(
                delayed(m, limit(exact, SHIFT_MIN, SHIFT_MAX), Recip.latency, enable=enable, name="shift")
            ),
        ]
        kept, _ = shift_right(m, total.shift_left(1), amount, 18, name="kept")
        with m.If(enable):
            m.d.sync += [
                # Cycle 1: the highest bit. Cycle 2: bring it to bit 15. Cycles 3 to 5: reciprocal.
                total.eq(i.total),
                position.eq(msb(i.total)),
                difference.eq(i.difference),
                operand.eq((kept + 1) >> 1),
                exact.eq(difference + position - 1),
            ]
        return m
