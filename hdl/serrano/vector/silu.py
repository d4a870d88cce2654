# SPDX-License-Identifier: Apache-2.0
"""SiLU times up, in one pipeline: section 8 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.delay import DelayLine
from serrano.stream.pipeline import delayed

from .arithmetic import magnitude, round_shift, sat32
from .tables import Exp2, Recip

__all__ = ["SiluUp"]

LOG2_E = 47274
"""``log2(e)`` over 2**15, as it is multiplied to a gate's magnitude."""


class SiluUp(wiring.Component):
    """``h = sat32(rhu(rhu(g * sig, 16) * u, 16))`` with ``sig`` the sigmoid of ``g``; all in Q16.

    ``2**(-|g| log2 e)`` comes from :class:`Exp2`, the sigmoid of ``|g|`` from :class:`Recip` of one plus
    that; of a negative ``g`` it is one minus this. A stretch of a pipeline, as those of
    :mod:`serrano.vector.arithmetic`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    gate, up : ``In(signed(32))``
        ``g`` and ``u``.
    result : ``Out(signed(32))``
        ``h`` of the operands of ``latency`` (16) enabled cycles ago.
    """

    enable: In(1)
    gate: In(signed(32))
    up: In(signed(32))
    result: Out(signed(32))

    # |g|, times log2 e, rounded; exp2; shifted, averaged with one; recip; sigmoid; two products of two
    # cycles.
    latency = 3 + Exp2.latency + 2 + Recip.latency + 1 + 4

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.exp2 = exp2 = Exp2()
        m.submodules.recip = recip = Recip()
        to_sigmoid = self.latency - 4
        m.submodules.gates = gates = DelayLine(signed(32), to_sigmoid)
        m.submodules.ups = ups = DelayLine(signed(32), to_sigmoid + 2)
        size = Signal(32, reset_less=True)
        scaled = Signal(48, reset_less=True)
        exponent = Signal(28, reset_less=True)
        kept = Signal(18, reset_less=True)
        operand = Signal(17, reset_less=True)
        sigmoid = Signal(17, reset_less=True)
        silu_full = Signal(signed(49), reset_less=True)
        silu = Signal(signed(32), reset_less=True)
        full = Signal(signed(64), reset_less=True)
        rounded = Signal(signed(49))
        result = Signal(signed(32), reset_less=True)
        negative = delayed(m, self.gate[31], to_sigmoid - 1, enable=self.enable, name="negative")
        # A shift of 18 or more leaves nothing of 17 bits, so that 31 does for any larger one.
        distance = Signal(20)
        amount = Signal(5)
        m.d.comb += [
            exp2.enable.eq(self.enable),
            exp2.operand.eq(-exponent),
            distance.eq(-exp2.exponent),
            amount.eq(Mux(distance > 31, 31, distance)),
            recip.enable.eq(self.enable),
            recip.operand.eq(operand),
            gates.enable.eq(self.enable),
            gates.i.eq(self.gate),
            ups.enable.eq(self.enable),
            ups.i.eq(self.up),
            rounded.eq(round_shift(full, 16)),
            self.result.eq(result),
        ]
        with m.If(self.enable):
            m.d.sync += [
                # Cycles 1 to 3: the exponent of two, 12 fraction bits.
                size.eq(magnitude(self.gate)),
                scaled.eq(size * LOG2_E),
                exponent.eq(round_shift(scaled, 19)),
                # Cycles 7 and 8: the power of two, then (1 + that) / 2.
                kept.eq(exp2.mantissa.shift_left(1) >> amount),
                operand.eq(((1 << 16) + ((kept + 1) >> 1) + 1) >> 1),
                # Cycle 12: the sigmoid. Cycles 13 to 16: times gate, times up.
                sigmoid.eq(Mux(negative, (1 << 16) - recip.result, recip.result)),
                silu_full.eq(gates.o * sigmoid),
                silu.eq(round_shift(silu_full, 16)),
                full.eq(silu * ups.o),
                result.eq(sat32(rounded)),
            ]
        return m
