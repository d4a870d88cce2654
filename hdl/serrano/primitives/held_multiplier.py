# SPDX-License-Identifier: Apache-2.0
"""A signed multiplier that keeps one of its operands."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .multiplier import checked

__all__ = ["HeldMultiplier"]


class HeldMultiplier(wiring.Component):
    """Signed product whose second operand stays until it is replaced; a wrapper that a target may replace.

    ``p[t + latency] = a[t] * b[s]``, exact, where ``s`` is the last cycle up to ``t`` with ``b_en``. A new
    first operand every cycle. Before the first ``b_en`` the product is undefined; there is no reset.

    DSP blocks have registers at their operands: the second one is where ``b`` stays. For a platform that has
    a method ``get_held_multiplier(multiplier)``, elaboration is what that method returns, as for
    :class:`~serrano.primitives.multiplier.Multiplier`.

    Parameters
    ----------
    a_width : :class:`int`
        Width of the first operand, in bits.
    b_width : :class:`int`
        Width of the second operand, in bits.
    latency : :class:`int`
        Cycles from the operands to the product, at least 2.

    Members
    -------
    a : ``In(signed(a_width))``
        First operand.
    b : ``In(signed(b_width))``
        Second operand.
    b_en : ``In(1)``
        ``b`` is taken.
    p : ``Out(signed(a_width + b_width))``
        Product of the operand of ``latency`` cycles ago and the second operand of that cycle.

    Raises
    ------
    TypeError
        If a parameter is not an integer.
    ValueError
        If a width is below 1 or ``latency`` below 2.
    """

    def __init__(self, a_width: int, b_width: int, *, latency: int = 2):
        self.a_width = checked("Operand width", a_width, 1)
        self.b_width = checked("Operand width", b_width, 1)
        self.latency = checked("Latency", latency, 2)
        super().__init__(
            {
                "a": In(signed(a_width)),
                "b": In(signed(b_width)),
                "b_en": In(1),
                "p": Out(signed(a_width + b_width)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        if hasattr(platform, "get_held_multiplier"):
            return platform.get_held_multiplier(self)
        return self.describe()

    def describe(self) -> Module:
        """The multiplier as registers and a product, for any target."""
        m = Module()
        a, b = (
            Signal.like(operand, name=name, reset_less=True)
            for name, operand in zip("ab", (self.a, self.b), strict=True)
        )
        m.d.sync += a.eq(self.a)
        with m.If(self.b_en):
            m.d.sync += b.eq(self.b)
        product = a * b
        for stage in range(1, self.latency):
            register = Signal(self.p.shape(), name=f"stage_{stage}", reset_less=True)
            m.d.sync += register.eq(product)
            product = register
        m.d.comb += self.p.eq(product)
        return m
