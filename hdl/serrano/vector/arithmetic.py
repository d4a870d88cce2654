# SPDX-License-Identifier: Apache-2.0
"""Rounding shifts, saturation and scales: sections 1 to 3 of ``docs/numerics.md``.

The functions give combinational values. They may mention an operand more than once, so operands had better
be signals. The components are stretches of a pipeline: all their registers load in cycles with ``enable``,
none has a reset, and a result appears ``latency`` enabled cycles after its operands; they take new operands
every cycle. With ``registered`` they have more registers, for targets in which a wide product, a shift or a
carry is a cycle's work; ``latency_of`` tells both latencies, the class's ``latency`` that without."""

from collections.abc import Callable
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from serrano.layouts import PackedScale, Scale
from serrano.primitives.multiplier import Multiplier
from serrano.stream.pipeline import delayed

__all__ = [
    "ZERO_SCALE",
    "HighestBit",
    "ScaleProduct",
    "Scaler",
    "ShiftedProduct",
    "limit",
    "magnitude",
    "msb",
    "multiplied",
    "normalized",
    "pack_scale",
    "product_latency",
    "round_shift",
    "sat32",
    "shift_right",
    "times",
    "unpack_scale",
]

BLOCK_BITS = 18
"""Width of a signed operand of the multipliers that FPGAs have."""

BLOCK_LATENCY = 2
"""Cycles through such a multiplier: registers for the operands, and one for the product."""

FINE_BITS = 4
"""Bits of an amount by which the second half of a shift in two cycles shifts."""

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


def shift_right(
    m: Module,
    x: Value,
    amount: Value,
    width: int,
    *,
    name: str,
    later: Callable[[Value, str], Value] | None = None,
) -> tuple[Value, Value]:
    """The lowest ``width`` bits of ``x >> amount``, and whether one of the others is not as the sign.

    The largest step comes first, and behind each only the bits are kept that can still come that far down:
    less than half of the shifter that gives them all. ``later`` puts a register in front of the last
    ``FINE_BITS`` steps.
    """
    sign = x[-1] if x.shape().signed else Const(0, 1)
    value, beyond = x, Const(0, 1)
    for bit in reversed(range(len(amount))):
        if later is not None and bit == min(FINE_BITS, len(amount)) - 1:
            value, sign, beyond = (
                later(one, f"{name}_{kind}")
                for one, kind in ((value, "coarse"), (sign, "sign"), (beyond, "beyond"))
            )
            amount = later(amount[: bit + 1], f"{name}_fine")
        step = 1 << bit
        moved = Signal(Shape(min(len(value), width + step - 1), value.shape().signed), name=f"{name}_{step}")
        lost, left = (
            (top ^ sign.replicate(len(top))).any()
            for top in (value[len(moved) :], value[len(moved) + step :])
        )
        m.d.comb += moved.eq(Mux(amount[bit], value >> step, value))
        value, beyond = moved, beyond | Mux(amount[bit], left, lost)
    return value[:width], beyond


def limit(x: Value, low: int, high: int) -> Value:
    """The value of ``[low, high]`` nearest to ``x``, in the smallest shape that holds the range."""
    limited = Mux(x > high, high, x)
    if x.shape().signed or low > 0:  # Else nothing is below: linters warn of an unsigned value below 0.
        limited = Mux(x < low, low, limited)
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


def _signed_bits(x: Value) -> int:
    return len(x) + (not x.shape().signed)


def product_latency(a_bits: int, b_bits: int, *, registered: bool) -> int:
    """Cycles that :func:`multiplied` takes for factors of so many bits, with a sign bit in each."""
    if not registered:
        return 1
    if max(a_bits, b_bits) <= BLOCK_BITS:
        return BLOCK_LATENCY
    return 1 + product_latency(max(a_bits, b_bits) - (BLOCK_BITS - 1), min(a_bits, b_bits), registered=True)


def multiplied(m: Module, a: Value, b: Value, *, enable: Any, registered: bool, name: str) -> Value:
    """``a * b``, :func:`product_latency` enabled cycles later.

    With ``registered`` the product is that of a :class:`Multiplier`, whose registers are those of a DSP block
    where there is one: registers in front of the factors are not needed. The wider factor is split until both
    fit; two cycles multiply, each of the others adds.
    """
    if _signed_bits(a) < _signed_bits(b):
        a, b = b, a
    cycles = product_latency(_signed_bits(a), _signed_bits(b), registered=registered)
    product = Signal((a * b).shape(), name=name, reset_less=True)
    if not registered:
        with m.If(enable):
            m.d.sync += product.eq(a * b)
        return product
    if cycles == BLOCK_LATENCY:
        m.submodules[name] = block = Multiplier(_signed_bits(a), _signed_bits(b), latency=BLOCK_LATENCY)
        m.d.comb += [block.en.eq(enable), block.a.eq(a), block.b.eq(b), product.eq(block.p)]
        return product
    low, high = a[: BLOCK_BITS - 1], a[BLOCK_BITS - 1 :]
    if a.shape().signed:
        high = high.as_signed()
    parts = []
    for part, suffix in ((low, "low"), (high, "high")):
        one = multiplied(m, part, b, enable=enable, registered=True, name=f"{name}_{suffix}")
        early = product_latency(_signed_bits(part), _signed_bits(b), registered=True)
        parts.append(delayed(m, one, cycles - 1 - early, enable=enable, name=f"{name}_{suffix}"))
    # The lowest bits of the one product are below the other.
    upper = (parts[0] >> (BLOCK_BITS - 1)) + parts[1]
    with m.If(enable):
        m.d.sync += product.eq(Cat(parts[0][: BLOCK_BITS - 1], upper))
    return product


class HighestBit(wiring.Component):
    """The position of the highest set bit, as :func:`msb`; a stretch of a pipeline.

    Parameters
    ----------
    width : :class:`int`
        Width of ``value``, a multiple of 8.
    registered : :class:`bool`
        In two cycles: first the highest byte that is not zero.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(width)``
        Number.
    position : ``Out(range(width))``
        Of the number of ``latency`` (1, with ``registered`` 2) enabled cycles ago; 0 if there is none.

    Raises
    ------
    ValueError
        If the width is not a multiple of 8.
    """

    def __init__(self, width: int, *, registered: bool = False):
        if width < 8 or width % 8:
            raise ValueError(f"Width must be a multiple of 8, not {width!r}")
        self.width = width
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__({"enable": In(1), "value": In(width), "position": Out(range(width))})

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers."""
        return 1 + int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        position = Signal.like(self.position, reset_less=True)
        m.d.comb += self.position.eq(position)
        following = msb(self.value)
        if self.registered:
            top = Signal(range(self.width // 8), reset_less=True)
            value = delayed(m, self.value, 1, enable=self.enable, name="value")
            with m.If(self.enable):
                m.d.sync += top.eq(
                    msb(Cat(self.value.word_select(k, 8).any() for k in range(self.width // 8)))
                )
            following = Cat(msb(value.word_select(top, 8)), top)
        with m.If(self.enable):
            m.d.sync += position.eq(following)
        return m


class ScaleProduct(wiring.Component):
    """``mul(a, b)``: the product of two scales, its mantissa rounded half up to 16 bits.

    The sum of the exponents, plus one for either carry, must fit signed 8 bits.

    Parameters
    ----------
    registered : :class:`bool`
        Two registers more, in front of the product and behind the rounding.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    a, b : ``In(Scale)``
        Factors.
    product : ``Out(Scale)``
        Product of the factors of ``latency`` (2, with ``registered`` 4) enabled cycles ago.
    """

    enable: In(1)
    a: In(Scale)
    b: In(Scale)
    product: Out(Scale)

    latency = 2

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers."""
        return product_latency(17, 17, registered=registered) + 1 + int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        factors = {"enable": self.enable, "registered": self.registered}
        full = multiplied(m, self.a.mantissa, self.b.mantissa, name="full", **factors)
        exponent = Signal(signed(9), reset_less=True)
        above = Signal(signed(10), reset_less=True)
        raised = Signal(signed(10))
        rounded = Signal(17)
        product = Signal(Scale, reset_less=True)
        more = {"cycles": int(self.registered), "enable": self.enable}
        m.d.comb += [
            rounded.eq(Mux(full[31], round_shift(full, 16), round_shift(full[:31], 15))),
            # With registers the product chooses: there is no carry behind it.
            raised.eq(Mux(full[31], above, exponent) if self.registered else exponent + full[31]),
            self.product.eq(product),
        ]
        exponents = [
            delayed(m, scale.exponent, name=f"exponent_{name}", **more)
            for name, scale in (("a", self.a), ("b", self.b))
        ]
        with m.If(self.enable):
            # Cycle 1: multiply. Cycle 2: bring the mantissa back to 16 bits.
            m.d.sync += [
                exponent.eq(exponents[0] + exponents[1]),
                # One more.
                above.eq(exponents[0] - ~exponents[1]),
                product.eq(
                    normalized(
                        delayed(m, rounded, name="rounded", **more), delayed(m, raised, name="raised", **more)
                    )
                ),
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
    registered : :class:`bool`
        More registers: in the product, within and behind the shift, behind the rounding.

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
        Result of the operands of ``latency`` (3, with ``registered`` at least 7) enabled cycles ago.

    Raises
    ------
    ValueError
        If a width is below 8.
    """

    latency = 3

    def __init__(
        self, width: int = 32, factor_width: int = 16, shift_width: int = 9, *, registered: bool = False
    ):
        for name, value in (("width", width), ("factor_width", factor_width), ("shift_width", shift_width)):
            if value < 8:
                raise ValueError(f"{name} must be at least 8, not {value!r}")
        self.width = width
        self.factor_width = factor_width
        self.shift_width = shift_width
        self.registered = registered
        self.latency = self.latency_of(registered, width, factor_width)
        super().__init__(
            {
                "enable": In(1),
                "value": In(signed(width)),
                "factor": In(factor_width),
                "shift": In(signed(shift_width)),
                "result": Out(signed(32)),
            }
        )

    @staticmethod
    def latency_of(registered: bool, width: int = 32, factor_width: int = 16) -> int:
        """Latency with, and without, more registers, for factors of these widths."""
        return product_latency(width, factor_width + 1, registered=registered) + 2 + 3 * int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.width + self.factor_width
        enable, registered = self.enable, self.registered
        # From a shift of `bits` on, every product rounds to zero.
        high = min(SHIFT_MAX, bits)
        factors = {"enable": enable, "registered": registered}
        product = multiplied(m, self.value, self.factor, name="product", **factors)
        # The amount is there with the product.
        multiply = product_latency(self.width, self.factor_width + 1, registered=registered)
        shift = delayed(m, self.shift, multiply - 1, enable=enable, name="shift")
        amount = Signal(range(high - SHIFT_MIN + 1), reset_less=True)
        kept = Signal(signed(33), reset_less=True)
        negative = Signal(reset_less=True)
        beyond = Signal(reset_less=True)
        rounded = Signal(signed(33))
        result = Signal(signed(32), reset_less=True)

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(registered), enable=enable, name=name)

        final = later(rounded, "rounded")
        saturated = Mux(
            later(negative, "negative"), Const(INT32_MIN, signed(32)), Const(INT32_MAX, signed(32))
        )
        # One bit below the result's lowest is kept for rounding.
        wide = product.shift_left(1 - SHIFT_MIN)
        shifted, lost = shift_right(m, wide, amount, 33, name="shifted", later=later)
        sign = later(product[-1], "sign")
        m.d.comb += [self.result.eq(result), rounded.eq(round_shift(kept, 1))]
        with m.If(enable):
            m.d.sync += [
                # With the product, of cycle 1.
                amount.eq(limit(shift, SHIFT_MIN, high) - SHIFT_MIN),
                # Cycle 2: shift, and notice what does not fit.
                kept.eq(later(shifted, "kept").as_signed()),
                negative.eq(later(sign, "negative")),
                beyond.eq(later(lost | (shifted[32] != sign), "lost")),
                # Cycle 3: round and saturate.
                result.eq(Mux(later(beyond, "beyond") | (final[32] != final[31]), saturated, final)),
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
    registered : :class:`bool`
        More registers, as in :class:`ShiftedProduct`.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    value : ``In(signed(width))``
        Accumulator.
    scale : ``In(Scale)``
        Its scale.
    result : ``Out(signed(32))``
        Result of the operands of ``latency`` (3, with ``registered`` at least 7) enabled cycles ago.
    """

    latency = ShiftedProduct.latency

    def __init__(self, width: int = 32, offset: int = -1, *, registered: bool = False):
        self.width = width
        self.offset = offset
        self.registered = registered
        self.latency = self.latency_of(registered, width)
        super().__init__(
            {
                "enable": In(1),
                "value": In(signed(width)),
                "scale": In(Scale),
                "result": Out(signed(32)),
            }
        )

    latency_of = staticmethod(ShiftedProduct.latency_of)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        shift_width = max(9, abs(self.offset).bit_length() + 2)
        m.submodules.product = product = ShiftedProduct(
            self.width, 16, shift_width, registered=self.registered
        )
        m.d.comb += [
            product.enable.eq(self.enable),
            product.value.eq(self.value),
            product.factor.eq(self.scale.mantissa),
            product.shift.eq(self.offset - self.scale.exponent),
            self.result.eq(product.result),
        ]
        return m
