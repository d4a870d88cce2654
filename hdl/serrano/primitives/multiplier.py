# SPDX-License-Identifier: Apache-2.0
"""The one signed multiplier of the project."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Multiplier"]


def checked(name: str, value: Any, least: int) -> int:
    """The value, if it is an integer and at least so large."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return value


class Multiplier(wiring.Component):
    """Signed product with a declared latency: the wrapper around every multiplier that a target may replace.

    ``p[t + latency] = a[t] * b[t]``, exact, where ``t`` counts cycles with ``en``; a new pair of operands in
    each of them. In other cycles all registers keep what they have, the product stays with them. There is no
    reset, so what comes out in the first ``latency`` enabled cycles is undefined.

    For a platform that has a method ``get_multiplier(multiplier)``, elaboration is what that method returns;
    a target uses this to supply its DSP block with internal registers, and :mod:`serrano.verilog` to refer to
    the module ``serrano_mul``.

    Parameters
    ----------
    a_width : :class:`int`
        Width of the first operand, in bits.
    b_width : :class:`int`
        Width of the second operand, in bits.
    latency : :class:`int`
        Cycles from the operands to the product, at least 1.

    Members
    -------
    en : ``In(1)``
        Registers load. If it is left unconnected, they always do.
    a : ``In(signed(a_width))``
        First operand.
    b : ``In(signed(b_width))``
        Second operand.
    p : ``Out(signed(a_width + b_width))``
        Product of the operands of ``latency`` enabled cycles ago.

    Raises
    ------
    TypeError
        If a parameter is not an integer.
    ValueError
        If a parameter is below 1.
    """

    def __init__(self, a_width: int, b_width: int, *, latency: int = 1):
        self.a_width = checked("Operand width", a_width, 1)
        self.b_width = checked("Operand width", b_width, 1)
        self.latency = checked("Latency", latency, 1)
        super().__init__(
            {
                "en": In(1, init=1),
                "a": In(signed(a_width)),
                "b": In(signed(b_width)),
                "p": Out(signed(a_width + b_width)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        if hasattr(platform, "get_multiplier"):
            return platform.get_multiplier(self)
        return self.describe()

    def describe(self) -> Module:
        """The multiplier as registers and a product, for any target."""
        m = Module()
        product = self.a * self.b
        for stage in range(self.latency):
            register = Signal(self.p.shape(), name=f"stage_{stage}", reset_less=True)
            with m.If(self.en):
                m.d.sync += register.eq(product)
            product = register
        m.d.comb += self.p.eq(product)
        return m
