# SPDX-License-Identifier: Apache-2.0
"""Reciprocal, reciprocal square root and power of two: section 4 of ``docs/numerics.md``.

Like the components of :mod:`serrano.vector.arithmetic` these are stretches of a pipeline: registers load in
cycles with ``enable``, and new operands may come every cycle.
"""

import itertools
from collections.abc import Sequence
from math import isqrt
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.stream.pipeline import delayed

from .arithmetic import multiplied, product_latency, round_shift

__all__ = ["EXP2_TABLE", "RECIP_TABLE", "RSQRT_TABLE", "Exp2", "Interpolator", "Recip", "Rsqrt"]

RECIP_TABLE = tuple(((1 << 31) + (d >> 1)) // d for d in range(1 << 15, (1 << 16) + 1, 128))
RSQRT_TABLE = tuple((isqrt((1 << 50) // d) + 1) // 2 for d in range(1 << 16, (1 << 18) + 1, 512))
EXP2_TABLE = tuple(round(2.0 ** (16 + j / 256)) for j in range(257))


class Interpolator(wiring.Component):
    """A table over equal steps, with linear interpolation between its entries.

    For ``offset = i * 2**fraction_bits + f``: ``T[i] - rhu((T[i] - T[i + 1]) * f, fraction_bits)`` for a
    falling table, ``T[i] + rhu((T[i + 1] - T[i]) * f, fraction_bits)`` for a rising one; at the last entry
    ``f`` must be 0. The table is a case statement, which names every index so that tools can make a ROM of
    it; it has no initial values. What is beyond the last entry means nothing.

    Parameters
    ----------
    table : sequence of :class:`int`
        Entries, all rising or all falling.
    fraction_bits : :class:`int`
        Position of the binary point in ``offset``.
    registered : :class:`bool`
        More registers: in front of the table, behind it, and within the product.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    offset : ``In(range)``
        Distance from the first entry, up to the last one.
    result : ``Out(width)``
        Value for the offset of ``latency`` (3, with ``registered`` 6) enabled cycles ago, as wide as the
        largest entry.

    Raises
    ------
    ValueError
        If the table has fewer than two entries, or neither rises nor falls throughout.
    """

    latency = 3

    def __init__(self, table: Sequence[int], fraction_bits: int, *, registered: bool = False):
        steps = [after - before for before, after in itertools.pairwise(table)]
        self.rising = bool(steps) and min(steps) >= 0
        if not steps or not (self.rising or max(steps) <= 0):
            raise ValueError(
                f"A table must have two entries and rise or fall throughout, not {list(table)!r}"
            )
        self.table = tuple(table)
        self.steps = (*(abs(step) for step in steps), 0)
        self.fraction_bits = fraction_bits
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__(
            {
                "enable": In(1),
                "offset": In(range(((len(table) - 1) << fraction_bits) + 1)),
                "result": Out(max(table).bit_length()),
            }
        )

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers."""
        return 1 + 2 * int(registered) + product_latency(9, 9, registered=registered) + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value_width, step_width = len(self.result), max(self.steps).bit_length()
        word = Signal(value_width + step_width)

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(self.registered), enable=self.enable, name=name)

        offset = later(self.offset, "offset")
        index = offset[self.fraction_bits :]
        entries = [value | step << value_width for value, step in zip(self.table, self.steps, strict=True)]
        entries += entries[-1:] * ((1 << len(index)) - len(entries))
        with m.Switch(index):
            for place, entry in enumerate(entries):
                with m.Case(place):
                    m.d.comb += word.eq(entry)
        fraction = Signal(self.fraction_bits, reset_less=True)
        step = Signal(step_width, reset_less=True)
        base, start = (Signal(value_width, name=name, reset_less=True) for name in ("base", "start"))
        # A word comes late from a block RAM, unless a register of the block follows; the block of a product,
        # which has none in front of its own, may be far away.
        held, slope, within = (
            later(value, f"{name}_held")
            for name, value in (("base", base), ("step", step), ("within", fraction))
        )
        # Cycle 2: multiply.
        factors = {"enable": self.enable, "registered": self.registered}
        product = multiplied(m, slope, within, name="product", **factors)
        part = round_shift(product, self.fraction_bits)
        result = Signal.like(self.result, reset_less=True)
        m.d.comb += self.result.eq(result)
        with m.If(self.enable):
            m.d.sync += [
                # Cycle 1: look up.
                Cat(base, step).eq(word),
                fraction.eq(offset[: self.fraction_bits]),
                start.eq(later(held, "base")),
                # Cycle 3: add.
                result.eq(start + part if self.rising else start - part),
            ]
        return m


class Recip(wiring.Component):
    """``recip(operand)``, about ``2**31 / operand``.

    Parameters
    ----------
    registered : :class:`bool`
        More registers, as in :class:`Interpolator`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    operand : ``In(17)``
        In ``[2**15, 2**16]``, both ends included.
    result : ``Out(17)``
        In ``[2**15, 2**16]``, for the operand of ``latency`` (3, or 6) enabled cycles ago.
    """

    enable: In(1)
    operand: In(17)
    result: Out(17)

    latency = Interpolator.latency

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    latency_of = staticmethod(Interpolator.latency_of)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.interpolator = table = Interpolator(RECIP_TABLE, 7, registered=self.registered)
        m.d.comb += [
            table.enable.eq(self.enable),
            table.offset.eq(self.operand - (1 << 15)),
            self.result.eq(table.result),
        ]
        return m


class Rsqrt(wiring.Component):
    """``rsqrt(operand)``, about ``2**24 / sqrt(operand)``.

    Parameters
    ----------
    registered : :class:`bool`
        More registers, as in :class:`Interpolator`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    operand : ``In(19)``
        In ``[2**16, 2**18]``, both ends included.
    result : ``Out(17)``
        In ``[2**15, 2**16]``, for the operand of ``latency`` (3, or 6) enabled cycles ago.
    """

    enable: In(1)
    operand: In(19)
    result: Out(17)

    latency = Interpolator.latency

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    latency_of = staticmethod(Interpolator.latency_of)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.interpolator = table = Interpolator(RSQRT_TABLE, 9, registered=self.registered)
        m.d.comb += [
            table.enable.eq(self.enable),
            table.offset.eq(self.operand - (1 << 16)),
            self.result.eq(table.result),
        ]
        return m


class Exp2(wiring.Component):
    """``exp2(operand)``: ``2 ** (operand / 2**12)`` as ``mantissa * 2 ** (exponent - 16)``.

    Parameters
    ----------
    registered : :class:`bool`
        More registers, as in :class:`Interpolator`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    operand : ``In(signed(32))``
        12 fraction bits.
    mantissa : ``Out(17)``
        In ``[2**16, 2**17)``, for the operand of ``latency`` (3, or 6) enabled cycles ago.
    exponent : ``Out(signed(20))``
        Integer part of that operand.
    """

    enable: In(1)
    operand: In(signed(32))
    mantissa: Out(17)
    exponent: Out(signed(20))

    latency = Interpolator.latency

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    latency_of = staticmethod(Interpolator.latency_of)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.interpolator = table = Interpolator(EXP2_TABLE, 4, registered=self.registered)
        m.d.comb += [
            table.enable.eq(self.enable),
            table.offset.eq(self.operand[:12]),
            self.mantissa.eq(table.result),
        ]
        exponent = self.operand[12:].as_signed()
        m.d.comb += self.exponent.eq(delayed(m, exponent, self.latency, enable=self.enable, name="exponent"))
        return m
