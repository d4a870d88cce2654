# SPDX-License-Identifier: Apache-2.0
"""Rounding shifts, saturation and scales: sections 1 to 3 of ``docs/numerics.md``.

The functions give combinational values. They may mention an operand more than once, so operands had better
be signals. The components are stretches of a pipeline: all their registers load in cycles with ``enable``,
none has a reset, and a result appears ``latency`` enabled cycles after its operands; they take new operands
every cycle."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.layouts import PackedScale, Scale

__all__ = [
    "ZERO_SCALE",
    "ScaleProduct",
    "Scaler",
    "ShiftedProduct",
    "limit",
    "magnitude",
    "msb",
    "normalized",
    "pack_scale",
    "round_shift",
    "sat32",
    "times",
    "unpack_scale",
]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

SHIFT_MIN = -16
"""Lower limit of the right shift of a product: beyond it, everything but zero saturates."""

SHIFT_MAX = 63
"""Upper limit of a right shift."""

EXPONENT_BIAS = 40
"""Bias of the exponent of a packed scale."""

ZERO_SCALE = {"mantissa": 1 << 15, "exponent": -EXPONENT_BIAS}
"""The scale of all-zero data."""


def round_shift(x: Value, amount: Value | int) -> Value:
    """``rhu(x, amount)`` for an unsigned ``amount``: ``x / 2**amount``, rounded half up.

    A variable amount takes one shifter, which keeps the bit below the result's lowest, and one increment.

    Raises
    ------
    ValueError
        If ``amount`` is an integer that is negative or larger than the width of ``x``.
    TypeError
        If ``amount`` is a signed value.
    """
    if isinstance(amount, int):
        if amount < 0:
            raise ValueError(f"Amount must not be negative, not {amount!r}")
        if amount == 0:
            return x
        if amount > len(x):
            raise ValueError(f"Amount must be at most the width of x, {len(x)}, not {amount!r}")
        return (x >> amount) + x[amount - 1]
    if amount.shape().signed:
        raise TypeError(f"Amount must be unsigned, not {amount.shape()!r}")
    return ((x.shift_left(1) >> amount) + 1) >> 1


def limit(x: Value, low: int, high: int) -> Value:
    """The value of ``[low, high]`` nearest to ``x``, in the smallest shape that holds the range."""
    limited = Mux(x < low, low, Mux(x > high, high, x))
    width = Shape.cast(range(low, high + 1)).width
    return limited[:width].as_signed() if low < 0 else limited[:width]


def sat32(x: Value) -> Value:
    """``x``, signed and wider than 32 bits, limited to the range of int32."""
    fits = x[31:].all() | ~x[31:].any()
    return Mux(
        fits, x[:32].as_signed(), Mux(x[-1], Const(INT32_MIN, signed(32)), Const(INT32_MAX, signed(32)))
    )


def times(x: Value, factor: int) -> Value:
    """``x * factor`` by additions where few of the factor's bits are set: addresses need no multiplier.

    Raises
    ------
    ValueError
        If ``factor`` is negative.
    """
    if factor < 0:
        raise ValueError(f"Factor must not be negative, not {factor!r}")
    shifts = [bit for bit in range(factor.bit_length()) if factor >> bit & 1]
    if not 1 <= len(shifts) <= 3:
        return x * factor
    total = x << shifts[0]
    for shift in shifts[1:]:
        total = total + (x << shift)
    return total


def magnitude(x: Value) -> Value:
    """``|x|`` of a signed ``x``, unsigned and as wide, so that the lowest value is right as well."""
    return (Mux(x < 0, -x, x))[: len(x)]


def msb(x: Value) -> Value:
    """Position of the highest set bit of an unsigned ``x``; 0 if there is none."""
    if len(x) <= 1:
        return Const(0, 1)
    half = 1 << ((len(x) - 1).bit_length() - 1)
    upper, lower = x[half:], x[:half]
    if half == 1:
        return upper
    bits = half.bit_length() - 1
    low, high = msb(lower), msb(upper)
    high = Cat(high, Const(0, max(0, bits - len(high))))[:bits]
    return Mux(upper != 0, Cat(high, Const(1, 1)), Cat(low, Const(0, 1)))


def normalized(mantissa: Value, exponent: Value) -> Any:
    """The :class:`Scale` of a mantissa in ``[2**15, 2**16]``, where 2**16 carries into the exponent."""
    # Bit 15 is set in every mantissa below 2**16, and is to be set in the one that carried.
    wide = exponent + mantissa[16] + Const(0, signed(8))
    return Scale(Cat(mantissa[:15], Const(1, 1), wide[:8]))


def unpack_scale(packed: Any) -> Any:
    """The :class:`Scale` that a :class:`PackedScale` stands for."""
    exponent = packed.exponent - EXPONENT_BIAS
    return Scale(Cat(Const(0, 5), packed.fraction, Const(1, 1), Cat(exponent, exponent[-1])[:8]))


def pack_scale(scale: Any) -> Any:
    """The :class:`PackedScale` of a :class:`Scale` with an 11-bit mantissa and an exponent of -40 .. 23."""
    return PackedScale(Cat(scale.mantissa[5:15], (scale.exponent + EXPONENT_BIAS)[:6]))


class ScaleProduct(wiring.Component):
    """``mul(a, b)``: the product of two scales, its mantissa rounded half up to 16 bits.

    The sum of the exponents, plus one for either carry, must fit signed 8 bits.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    a, b : ``In(Scale)``
        Factors.
    product : ``Out(Scale)``
        Product of the factors of ``latency`` (2) enabled cycles ago.
    """

    enable: In(1)
    a: In(Scale)
    b: In(Scale)
    product: Out(Scale)

    latency = 2

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        full = Signal(32, reset_less=True)
        exponent = Signal(signed(9), reset_less=True)
        rounded = Signal(17)
        product = Signal(Scale, reset_less=True)
        m.d.comb += [
            rounded.eq(Mux(full[31], round_shift(full, 16), round_shift(full[:31], 15))),
            self.product.eq(product),
        ]
        with m.If(self.enable):
            # Cycle 1: multiply. Cycle 2: bring the mantissa back to 16 bits.
            m.d.sync += [
                full.eq(self.a.mantissa * self.b.mantissa),
                exponent.eq(self.a.exponent + self.b.exponent),
                product.eq(normalized(rounded, exponent + full[31])),
            ]
        return m


class ShiftedProduct(wiring.Component):
    """``sat32(rhu(value * factor, n))`` with ``n`` = ``shift`` limited to [-16, 63]; rounds once.

    Parameters
    ----------
    width : :class:`int`
        Width of ``value``, signed.
    factor_width : :class:`int`
        Width of ``factor``, unsigned.
    shift_width : :class:`int`
        Width of ``shift``, signed.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(signed(width))``
        First factor.
    factor : ``In(factor_width)``
        Second factor.
    shift : ``In(signed(shift_width))``
        Right shift of the product, before the limit.
    result : ``Out(signed(32))``
        Result of the operands of ``latency`` (3) enabled cycles ago.

    Raises
    ------
    ValueError
        If a width is below 8.
    """

    latency = 3

    def __init__(self, width: int = 32, factor_width: int = 16, shift_width: int = 9):
        for name, value in (("width", width), ("factor_width", factor_width), ("shift_width", shift_width)):
            if value < 8:
                raise ValueError(f"{name} must be at least 8, not {value!r}")
        self.width = width
        self.factor_width = factor_width
        self.shift_width = shift_width
        super().__init__(
            {
                "enable": In(1),
                "value": In(signed(width)),
                "factor": In(factor_width),
                "shift": In(signed(shift_width)),
                "result": Out(signed(32)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.width + self.factor_width
        # From a shift of `bits` on, every product rounds to zero.
        high = min(SHIFT_MAX, bits)
        product = Signal(signed(bits), reset_less=True)
        amount = Signal(range(high - SHIFT_MIN + 1), reset_less=True)
        shifted = Signal(signed(bits + 1 - SHIFT_MIN))
        kept = Signal(signed(33), reset_less=True)
        negative = Signal(reset_less=True)
        beyond = Signal(reset_less=True)
        rounded = Signal(signed(33))
        result = Signal(signed(32), reset_less=True)
        saturated = Mux(negative, Const(INT32_MIN, signed(32)), Const(INT32_MAX, signed(32)))
        m.d.comb += [
            self.result.eq(result),
            # One bit below the result's lowest is kept for rounding.
            shifted.eq(product.shift_left(1 - SHIFT_MIN) >> amount),
            rounded.eq(round_shift(kept, 1)),
        ]
        with m.If(self.enable):
            m.d.sync += [
                # Cycle 1: multiply.
                product.eq(self.value * self.factor),
                amount.eq(limit(self.shift, SHIFT_MIN, high) - SHIFT_MIN),
                # Cycle 2: shift, and notice what does not fit.
                kept.eq(shifted[:33].as_signed()),
                negative.eq(shifted[-1]),
                beyond.eq(shifted[32:].any() & ~shifted[32:].all()),
                # Cycle 3: round and saturate.
                result.eq(Mux(beyond | (rounded[32] != rounded[31]), saturated, rounded)),
            ]
        return m


class Scaler(wiring.Component):
    """``sat32(rhu(value * m, n))`` for a scale ``(m, e)``, ``n = offset - e`` limited to [-16, 63].

    With ``offset`` -1 this is ``dequantize``, whose result is Q16; with 3 the score of a token.

    Parameters
    ----------
    width : :class:`int`
        Width of ``value``, signed.
    offset : :class:`int`
        Right shift of the product for an exponent of 0.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(signed(width))``
        Accumulator.
    scale : ``In(Scale)``
        Its scale.
    result : ``Out(signed(32))``
        Result of the operands of ``latency`` (3) enabled cycles ago.
    """

    latency = ShiftedProduct.latency

    def __init__(self, width: int = 32, offset: int = -1):
        self.width = width
        self.offset = offset
        super().__init__(
            {
                "enable": In(1),
                "value": In(signed(width)),
                "scale": In(Scale),
                "result": Out(signed(32)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        shift_width = max(9, abs(self.offset).bit_length() + 2)
        m.submodules.product = product = ShiftedProduct(self.width, 16, shift_width)
        m.d.comb += [
            product.enable.eq(self.enable),
            product.value.eq(self.value),
            product.factor.eq(self.scale.mantissa),
            product.shift.eq(self.offset - self.scale.exponent),
            self.result.eq(product.result),
        ]
        return m
