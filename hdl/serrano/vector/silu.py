# SPDX-License-Identifier: Apache-2.0
"""SiLU times up, in one pipeline: section 8 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.delay import DelayLine
from serrano.stream.pipeline import delayed

from .arithmetic import magnitude, multiplied, product_latency, round_shift, sat32
from .tables import Exp2, Recip

__all__ = ["SiluUp"]

LOG2_E = 47274
"""``log2(e)`` over 2**15, as it is multiplied to a gate's magnitude."""


class SiluUp(wiring.Component):
    """``h = sat32(rhu(rhu(g * sig, 16) * u, 16))`` with ``sig`` the sigmoid of ``g``; all in Q16.

    ``2**(-|g| log2 e)`` comes from :class:`Exp2`, the sigmoid of ``|g|`` from :class:`Recip` of one plus
    that; of a negative ``g`` it is one minus this. A stretch of a pipeline, as those of
    :mod:`serrano.vector.arithmetic`.

    Parameters
    ----------
    registered : :class:`bool`
        More registers.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    gate, up : ``In(signed(32))``
        ``g`` and ``u``.
    result : ``Out(signed(32))``
        ``h`` of the operands of ``latency`` (16, with ``registered`` 29) enabled cycles ago.
    """

    enable: In(1)
    gate: In(signed(32))
    up: In(signed(32))
    result: Out(signed(32))

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def _sigmoid_latency(registered: bool) -> int:
        """|g|, times log2 e, rounded; exp2; shifted, averaged with one; recip; sigmoid."""
        exponent = 2 + product_latency(33, 17, registered=registered) + Exp2.latency_of(registered)
        return exponent + int(registered) + 2 + Recip.latency_of(registered) + 1

    @classmethod
    def latency_of(cls, registered: bool) -> int:
        """Latency with, and without, more registers: the sigmoid, then two products, which are rounded."""
        products = (
            product_latency(32, 18, registered=registered),
            product_latency(32, 32, registered=registered),
        )
        return cls._sigmoid_latency(registered) + sum(products) + 2 + int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enable, registered = self.enable, self.registered
        m.submodules.exp2 = exp2 = Exp2(registered=registered)
        m.submodules.recip = recip = Recip(registered=registered)
        sizes = {"enable": enable, "registered": registered}

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(registered), enable=enable, name=name)

        def line(name: str, value: Value, cycles: int) -> Value:
            m.submodules[name] = one = DelayLine(signed(32), cycles)
            m.d.comb += [one.enable.eq(enable), one.i.eq(value)]
            return one.o

        to_sigmoid = self._sigmoid_latency(registered)
        to_silu = to_sigmoid + product_latency(32, 18, registered=registered) + 1
        size = Signal(32, reset_less=True)
        exponent = Signal(28, reset_less=True)
        kept = Signal(18, reset_less=True)
        operand = Signal(17, reset_less=True)
        sigmoid = Signal(17, reset_less=True)
        silu = Signal(signed(32), reset_less=True)
        rounded = Signal(signed(49))
        result = Signal(signed(32), reset_less=True)
        negative = delayed(m, self.gate[31], to_sigmoid - 1, enable=enable, name="negative")
        # A shift of 18 or more leaves nothing of 17 bits, so that 31 does for any larger one.
        distance = Signal(20)
        amount = Signal(5)
        scaled = multiplied(m, size, Const(LOG2_E, 16), name="scaled", **sizes)
        silu_full = multiplied(m, line("gates", self.gate, to_sigmoid), sigmoid, name="silu_full", **sizes)
        full = multiplied(m, silu, line("ups", self.up, to_silu), name="full", **sizes)
        m.d.comb += [
            exp2.enable.eq(enable),
            exp2.operand.eq(-exponent),
            distance.eq(-exp2.exponent),
            amount.eq(Mux(distance > 31, 31, distance)),
            recip.enable.eq(enable),
            recip.operand.eq(operand),
            rounded.eq(round_shift(full, 16)),
            self.result.eq(result),
        ]
        with m.If(enable):
            m.d.sync += [
                # The exponent of two, 12 fraction bits.
                size.eq(magnitude(self.gate)),
                exponent.eq(round_shift(scaled, 19)),
                # The power of two, then (1 + that) / 2.
                kept.eq(later(exp2.mantissa, "mantissa").shift_left(1) >> later(amount, "amount")),
                operand.eq(((1 << 16) + ((kept + 1) >> 1) + 1) >> 1),
                # The sigmoid. Times gate, times up.
                sigmoid.eq(Mux(negative, (1 << 16) - recip.result, recip.result)),
                silu.eq(round_shift(silu_full, 16)),
                result.eq(sat32(later(rounded, "rounded"))),
            ]
        return m
