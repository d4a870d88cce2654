# SPDX-License-Identifier: Apache-2.0
"""The 16-bit float in which rows are staged: section 8 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import delayed

from .arithmetic import HighestBit, magnitude, shift_right

__all__ = ["H16Encoder", "h16_decode", "h16_magnitude", "h16_parts"]


def h16_parts(code: Value) -> tuple[Value, Value]:
    """The significand of a code's magnitude, 11 bits, and by how much it is shifted to the left, 5 bits."""
    normal = code[10:15].any()
    return Cat(code[:10], normal), Mux(normal, code[10:15] - 1, 0)[:5]


def h16_magnitude(code: Value) -> Value:
    """The magnitude that a code stands for, in 32 bits: codes of int32 numbers are at most 2**31."""
    significand, shift = h16_parts(code)
    return (significand << shift)[:32]


def h16_decode(code: Value) -> Value:
    """The integer that a code stands for, signed, 33 bits."""
    value = h16_magnitude(code)
    return Mux(code[15], -value, value)[:33].as_signed()


class H16Encoder(wiring.Component):
    """The h16 code of a number: ``n * 1024 + rhu(|value|, n)`` and the sign, with 11 significant bits.

    A stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`.

    Parameters
    ----------
    registered : :class:`bool`
        More registers.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(signed(32))``
        Number.
    code : ``Out(16)``
        Its code, ``latency`` (3, with ``registered`` 6) enabled cycles later.
    """

    enable: In(1)
    value: In(signed(32))
    code: Out(16)

    latency = 3

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers."""
        return 1 + HighestBit.latency_of(registered) + 1 + 2 * int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enable, registered = self.enable, self.registered
        m.submodules.highest = highest = HighestBit(32, registered=registered)
        first = Signal(32, reset_less=True)
        code = Signal(15, reset_less=True)
        shift, above = Signal(5), Signal(5)

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(registered), enable=enable, name=name)

        position = highest.position
        second = later(delayed(m, first, highest.latency, enable=enable, name="second"), "second")
        m.d.comb += [
            highest.enable.eq(enable),
            highest.value.eq(first),
            above.eq(position - 10),
            shift.eq(later(Mux(position > 10, above, 0), "shift")),
        ]
        # One bit below the fraction is kept for rounding; a carry moves into the exponent by itself.
        kept, _ = shift_right(m, second.shift_left(1), shift, 12, name="kept")
        sign = delayed(m, self.value[31], self.latency, enable=enable, name="sign")
        with m.If(enable):
            m.d.sync += [
                # Cycle 1: magnitude. Cycle 2: exponent. Cycle 3: shift and round.
                first.eq(magnitude(self.value)),
                code.eq(Cat(Const(0, 10), later(shift, "exponent")) + ((later(kept, "kept") + 1) >> 1)),
            ]
        m.d.comb += self.code.eq(Cat(code, sign))
        return m
