# SPDX-License-Identifier: Apache-2.0
"""The 16-bit float in which rows are staged: section 8 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import delayed

from .arithmetic import magnitude, msb

__all__ = ["H16Encoder", "h16_decode", "h16_magnitude"]


def h16_magnitude(code: Value) -> Value:
    """The magnitude that a code stands for, in 32 bits: codes of int32 numbers are at most 2**31."""
    fraction, exponent = code[:10], code[10:15]
    normal = Cat(fraction, Const(1, 1)) << (exponent - 1)[:5]
    return Mux(exponent == 0, fraction, normal)[:32]


def h16_decode(code: Value) -> Value:
    """The integer that a code stands for, signed, 33 bits."""
    value = h16_magnitude(code)
    return Mux(code[15], -value, value)[:33].as_signed()


class H16Encoder(wiring.Component):
    """The h16 code of a number: ``n * 1024 + rhu(|value|, n)`` and the sign, with 11 significant bits.

    A stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(signed(32))``
        Number.
    code : ``Out(16)``
        Its code, ``latency`` (3) enabled cycles later.
    """

    enable: In(1)
    value: In(signed(32))
    code: Out(16)

    latency = 3

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        first, second = (Signal(32, name=f"magnitude_{k}", reset_less=True) for k in (1, 2))
        shift = Signal(5, reset_less=True)
        code = Signal(15, reset_less=True)
        position = msb(first)
        # One bit below the fraction is kept for rounding; a carry moves into the exponent by itself.
        kept = (second.shift_left(1) >> shift)[:12]
        sign = delayed(m, self.value[31], self.latency, enable=self.enable, name="sign")
        with m.If(self.enable):
            m.d.sync += [
                # Cycle 1: magnitude. Cycle 2: exponent. Cycle 3: shift and round.
                first.eq(magnitude(self.value)),
                second.eq(first),
                shift.eq(Mux(position > 10, position - 10, 0)),
                code.eq(Cat(Const(0, 10), shift) + ((kept + 1) >> 1)),
            ]
        m.d.comb += self.code.eq(Cat(code, sign))
        return m
