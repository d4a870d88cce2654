# SPDX-License-Identifier: Apache-2.0
"""Rounding shifts, saturation and scales against the golden model."""

import random
import re

import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from serrano.layouts import PackedScale, Scale
from serrano.vector import arithmetic
from serrano.vector.arithmetic import (
    HighestBit,
    ScaleProduct,
    Scaler,
    ShiftedProduct,
    multiplied,
    product_latency,
)
from serrano_sim.golden import fixed, linear, scale
from support.pipelines import run_stretch
from support.streams import STALLS, simulate

INT32 = (-(1 << 31), (1 << 31) - 1)


def evaluate(function, shape, values, *more) -> list:
    """``function`` of a signal of ``shape``, and of more signals, at ``values``."""
    dut = Module()
    operands = [Signal(shape), *(Signal(other) for other, _ in more)]
    result = function(*operands)
    output = Signal(result.shape())
    dut.d.comb += output.eq(result)
    found = []

    async def bench(ctx) -> None:
        for tupled in zip(values, *(column for _, column in more), strict=True):
            for operand, value in zip(operands, tupled, strict=True):
                ctx.set(operand, value)
            found.append(ctx.get(output))
            await ctx.tick()

    dut.d.sync += Signal().eq(1)
    simulate(dut, bench)
    return found


def spread(rng: random.Random, bits: int, count: int) -> list[int]:
    """Values of ``bits`` bits signed: the limits, and others of all magnitudes."""
    top = 1 << (bits - 1)
    small = [rng.randint(-(1 << k), (1 << k) - 1) for k in (rng.randrange(bits) for _ in range(count))]
    return [-top, 1 - top, top - 1, top - 2, -1, 0, 1, *small]


@pytest.mark.parametrize("amount", [0, 1, 7, 15, 40])
def test_round_shift_fixed(amount: int) -> None:
    values = spread(random.Random(1), 40, 60)
    found = evaluate(lambda x: arithmetic.round_shift(x, amount), signed(40), values)
    assert found == fixed.rhu(values, amount).tolist()


def test_round_shift_variable() -> None:
    rng = random.Random(2)
    values = spread(rng, 40, 200)
    amounts = [rng.randrange(64) for _ in values]
    found = evaluate(arithmetic.round_shift, signed(40), values, (unsigned(6), amounts))
    assert found == fixed.rhu(values, amounts).tolist()


def test_round_shift_refused() -> None:
    for amount, message in (
        (-1, "Amount must not be negative, not -1"),
        (9, "Amount must be at most the width of x, 8, not 9"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            arithmetic.round_shift(Signal(8), amount)
    with pytest.raises(TypeError, match=f"^{re.escape('Amount must be unsigned, not signed(4)')}$"):
        arithmetic.round_shift(Signal(8), Signal(signed(4)))


def test_sat32_limit_magnitude() -> None:
    values = spread(random.Random(3), 40, 200)
    assert evaluate(arithmetic.sat32, signed(40), values) == fixed.sat32(values).tolist()
    found = evaluate(lambda x: arithmetic.limit(x, -16, 63), signed(40), values)
    assert found == fixed.limit(values, -16, 63).tolist()
    found = evaluate(lambda x: arithmetic.limit(x, 0, 63), signed(40), values)
    assert found == fixed.limit(values, 0, 63).tolist()
    assert evaluate(arithmetic.magnitude, signed(40), values) == np.abs(values).tolist()


@pytest.mark.parametrize("width", [1, 2, 3, 16, 33, 64])
def test_msb(width: int) -> None:
    rng = random.Random(4)
    values = [1 << k for k in range(width)] + [(1 << k) - 1 for k in range(1, width + 1)]
    values += [rng.randint(1, (1 << width) - 1) for _ in range(50)]
    found = evaluate(arithmetic.msb, unsigned(width), values)
    assert found == [value.bit_length() - 1 for value in values]
    assert evaluate(arithmetic.msb, unsigned(width), [0]) == [0]


def test_packed_scales() -> None:
    codes = [0, 1, 0x3FF, 0x400, 0xFFFF, 0xFC00, *random.Random(5).sample(range(1 << 16), 100)]
    packed = [{"fraction": code & 1023, "exponent": code >> 10} for code in codes]
    unpacked = evaluate(arithmetic.unpack_scale, PackedScale, packed)
    wanted = scale.unpack(codes)
    assert [(s.mantissa, s.exponent) for s in unpacked] == list(
        zip(wanted.m.tolist(), wanted.e.tolist(), strict=True)
    )
    back = evaluate(
        arithmetic.pack_scale, Scale, [{"mantissa": s.mantissa, "exponent": s.exponent} for s in unpacked]
    )
    assert [s.exponent << 10 | s.fraction for s in back] == codes


def random_scales(rng: random.Random, count: int, low: int, high: int) -> scale.Scale:
    ends = [1 << 15, (1 << 16) - 1, 46341, 46340, 0xB505]
    mantissas = [
        rng.choice(ends) if rng.random() < 0.3 else rng.randrange(1 << 15, 1 << 16) for _ in range(count)
    ]
    return scale.Scale(mantissas, [rng.randint(low, high) for _ in range(count)])


def as_inputs(scales: scale.Scale) -> list[dict]:
    return [{"mantissa": int(m), "exponent": int(e)} for m, e in zip(scales.m, scales.e, strict=True)]


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_scale_product(stall: float, registered: bool) -> None:
    rng = random.Random(6)
    a, b = random_scales(rng, 300, -60, 60), random_scales(rng, 300, -60, 60)
    # 32769 * 65534 rounds up to 2^16.
    a = scale.Scale(np.append(a.m, [32769, 65535]), np.append(a.e, [0, -127]))
    b = scale.Scale(np.append(b.m, [65534, 65535]), np.append(b.e, [5, 0]))
    operands = [{"a": x, "b": y} for x, y in zip(as_inputs(a), as_inputs(b), strict=True)]
    results = run_stretch(ScaleProduct(registered=registered), operands, ["product"], stall)
    wanted = scale.mul(a, b)
    assert (wanted.m == 1 << 15).any()
    assert [(p.mantissa, p.exponent) for (p,) in results] == list(
        zip(wanted.m.tolist(), wanted.e.tolist(), strict=True)
    )


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize(("width", "offset"), [(32, -1), (32, 3), (8, -1)])
def test_scaler(width: int, offset: int, stall: float, registered: bool) -> None:
    rng = random.Random(7)
    values = spread(rng, width, 500)
    scales = random_scales(rng, len(values), -127, 127)
    # Every shift near the range that matters, and the corners of the saturation.
    scales = scale.Scale(scales.m, np.where(np.arange(len(values)) % 3 > 0, scales.e % 70 - 50, scales.e))
    corners = [
        (acc, m, e)
        for acc in (-1, 1, *INT32)
        for m in (1 << 15, 65535)
        for e in (15, 14, 16, -48, -49, -50, -1)
    ]
    corners = [corner for corner in corners if -(1 << (width - 1)) <= corner[0] < 1 << (width - 1)]
    values += [acc for acc, _, _ in corners]
    scales = scale.Scale(
        np.append(scales.m, [m for _, m, _ in corners]), np.append(scales.e, [e for _, _, e in corners])
    )
    operands = [{"value": v, "scale": s} for v, s in zip(values, as_inputs(scales), strict=True)]
    results = run_stretch(Scaler(width, offset, registered=registered), operands, ["result"], stall)
    wanted = fixed.rhu_sat32(np.array(values) * scales.m, fixed.limit(offset - scales.e, -16, 63))
    assert [r for (r,) in results] == wanted.tolist()
    if offset == -1:
        assert wanted.tolist() == linear.dequantize(values, scales).tolist()


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
def test_shifted_product(stall: float, registered: bool) -> None:
    rng = random.Random(8)
    values = spread(rng, 40, 500)
    factors = [rng.choice([1 << 16, 1 << 15, rng.randint(1 << 15, 1 << 16)]) for _ in values]
    shifts = [rng.choice([rng.randint(-20, 70), rng.randint(-2000, 2000)]) for _ in values]
    operands = [
        {"value": v, "factor": f, "shift": n} for v, f, n in zip(values, factors, shifts, strict=True)
    ]
    results = run_stretch(ShiftedProduct(40, 17, 12, registered=registered), operands, ["result"], stall)
    wanted = fixed.rhu_sat32(np.array(values) * np.array(factors), fixed.limit(shifts, -16, 63))
    assert [r for (r,) in results] == wanted.tolist()


@pytest.mark.parametrize(
    ("a", "b"), [(signed(32), signed(32)), (signed(40), unsigned(17)), (unsigned(16), unsigned(16))]
)
@pytest.mark.parametrize("stall", STALLS)
def test_multiplied(a, b, stall: float) -> None:
    class Product(wiring.Component):
        latency = product_latency(a.width + (not a.signed), b.width + (not b.signed), registered=True)

        def __init__(self) -> None:
            super().__init__(
                {"enable": In(1), "a": In(a), "b": In(b), "p": Out(signed(a.width + b.width + 1))}
            )

        def elaborate(self, platform) -> Module:
            m = Module()
            more = {"enable": self.enable, "registered": True, "name": "p"}
            m.d.comb += self.p.eq(multiplied(m, self.a, self.b, **more))
            return m

    rng = random.Random(9)
    both = []
    for shape in (a, b):
        values = spread(rng, shape.width, 200)
        rng.shuffle(values)
        both.append([value if shape.signed else value % (1 << shape.width) for value in values])
    operands = [{"a": x, "b": y} for x, y in zip(*both, strict=True)]
    operands += [{"a": x, "b": y} for x in (min(both[0]), max(both[0])) for y in (min(both[1]), max(both[1]))]
    results = run_stretch(Product(), operands, ["p"], stall)
    assert [p for (p,) in results] == [o["a"] * o["b"] for o in operands]


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("width", [8, 32, 64])
def test_highest_bit(width: int, stall: float, registered: bool) -> None:
    rng = random.Random(10)
    values = [0, *(1 << k for k in range(width)), *(rng.getrandbits(width) for _ in range(50))]
    results = run_stretch(
        HighestBit(width, registered=registered), [{"value": v} for v in values], ["position"], stall
    )
    assert [p for (p,) in results] == [max(0, v.bit_length() - 1) for v in values]


def test_width_refused() -> None:
    with pytest.raises(ValueError, match=r"^Width must be a multiple of 8, not 12$"):
        HighestBit(12)
    with pytest.raises(ValueError, match=f"^{re.escape('factor_width must be at least 8, not 4')}$"):
        ShiftedProduct(32, 4)


@pytest.mark.parametrize("factor", [0, 1, 8, 192, 768, 7, 255])
def test_times(factor: int) -> None:
    x, product = Signal(5), Signal(16)
    m = Module()
    m.d.comb += product.eq(arithmetic.times(x, factor))

    async def bench(ctx) -> None:
        for value in range(32):
            ctx.set(x, value)
            assert ctx.get(product) == value * factor

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    with pytest.raises(ValueError, match=r"^Factor must not be negative, not -1$"):
        arithmetic.times(x, -1)


@pytest.mark.parametrize("signed_input", [False, True])
@pytest.mark.parametrize(("bits", "steps", "width"), [(65, 7, 33), (49, 5, 19), (33, 5, 12), (20, 3, 4)])
def test_shift_right(signed_input: bool, bits: int, steps: int, width: int) -> None:
    """The lowest bits, and whether what is above them is more than the sign."""
    rng = random.Random(f"{bits} {signed_input}")
    values = spread(rng, bits, 300)
    amounts = [rng.randrange(1 << steps) for _ in values]
    if not signed_input:
        values = [value & ((1 << bits) - 1) for value in values]
    dut = Module()
    x = Signal(Shape(bits, signed_input))
    amount = Signal(steps)
    shifted, beyond = arithmetic.shift_right(dut, x, amount, width, name="shifted")
    low, high = Signal(width), Signal()
    dut.d.comb += [low.eq(shifted), high.eq(beyond)]
    dut.d.sync += Signal().eq(1)
    seen = set()

    async def bench(ctx) -> None:
        for value, by in zip(values, amounts, strict=True):
            ctx.set(x, value)
            ctx.set(amount, by)
            whole = value >> by
            assert ctx.get(low) == whole & ((1 << width) - 1)
            assert ctx.get(high) == (whole >> width != (-1 if value < 0 else 0))
            seen.add(ctx.get(high))
            await ctx.tick()

    simulate(dut, bench)
    assert seen == {0, 1}
