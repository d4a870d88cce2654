# SPDX-License-Identifier: Apache-2.0
"""The scale of RMSNorm: section 5 of ``docs/numerics.md``."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.layouts import PackedScale, Scale
from serrano.stream.delay import waited
from serrano.stream.pipeline import delayed

from .arithmetic import (
    FINE_BITS,
    HighestBit,
    ScaleProduct,
    limit,
    multiplied,
    normalized,
    product_latency,
    shift_right,
    unpack_scale,
)
from .quantizer import NORMALIZED_BITS, Factors
from .tables import Rsqrt

__all__ = ["NormScale", "SquareSum"]


def _squaring(registered: bool) -> int:
    return product_latency(NORMALIZED_BITS, NORMALIZED_BITS, registered=registered)


class SquareSum(wiring.Component):
    """Sum of the squares of a vector's normalized elements, ``lanes`` of them per cycle.

    Parameters
    ----------
    lanes : :class:`int`
        Elements per cycle, a power of two.
    registered : :class:`bool`
        More registers: in front of the squares and of the sum, and within it.

    Members
    -------
    values : ``In(ArrayLayout(signed(18), lanes))``
        Elements, magnitudes up to 2**16.
    valid : ``In(1)``
        Elements are here in this cycle.
    last : ``In(1)``
        They are the last of their vector.
    total : ``Out(64)``
        Sum over a vector.
    done : ``Out(1)``
        ``total`` is that of the vector whose last elements came ``latency`` cycles ago.
    """

    def __init__(self, lanes: int, *, registered: bool = False):
        self.lanes = lanes
        self.registered = registered
        self.latency = self.latency_of(lanes, registered)
        super().__init__(
            {
                "values": In(data.ArrayLayout(signed(NORMALIZED_BITS), lanes)),
                "valid": In(1),
                "last": In(1),
                "total": Out(64),
                "done": Out(1),
            }
        )

    @staticmethod
    def latency_of(lanes: int, registered: bool = False) -> int:
        """Latency with so many lanes: squares, the levels of the tree, and the accumulation."""
        return _squaring(registered) + ceil_log2(lanes) + 1 + 3 * int(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Cycle 1: squares. Then one cycle for each level of the tree, and one to accumulate.
        always = {"enable": Const(1), "registered": self.registered}
        values = [
            delayed(m, self.values[lane], int(self.registered), enable=1, name=f"value_{lane}")
            for lane in range(self.lanes)
        ]
        level = [
            multiplied(m, value, value, name=f"square_{lane}", **always)[:33]
            for lane, value in enumerate(values)
        ]
        depth, stages = 1, self.latency - 1
        while len(level) > 1:
            sums = [
                Signal(33 + depth, name=f"sum_{depth}_{index}", reset_less=True)
                for index in range(len(level) // 2)
            ]
            m.d.sync += [
                following.eq(level[2 * index] + level[2 * index + 1]) for index, following in enumerate(sums)
            ]
            level, depth = sums, depth + 1
        valid, last = Signal(stages), Signal(stages)
        total = Signal(64, reset_less=True)
        fresh = Signal(init=1)
        m.d.sync += [
            valid.eq(Cat(self.valid, valid)),
            last.eq(Cat(self.last, last)),
            self.done.eq(valid[-1] & last[-1]),
        ]
        if self.registered:
            # What is added, which else is nothing, and to what, is known a cycle ahead.
            # The upper half follows a cycle later, with the lower half's carry.
            starts = Signal(2)
            addend = delayed(m, Mux(valid[-3], level[0], 0), 1, enable=1, name="addend")
            upper = delayed(m, addend[32:], 1, enable=1, name="upper")
            low, carried = Signal(32, reset_less=True), Signal(reset_less=True)
            m.d.sync += [
                starts.eq(Cat(valid[-3] & fresh, starts)),
                Cat(low, carried).eq(addend[:32] + Mux(starts[0], 0, low)),
                total[:32].eq(low),
                total[32:].eq(upper + Mux(starts[1], 0, total[32:]) + carried),
            ]
            with m.If(valid[-3]):
                m.d.sync += fresh.eq(last[-3])
        else:
            with m.If(valid[-1]):
                m.d.sync += [total.eq(level[0] + Mux(fresh, 0, total)), fresh.eq(last[-1])]
        m.d.comb += self.total.eq(total)
        return m


class NormScale(wiring.Component):
    """The scale of a row after RMSNorm, from the sum of squares of its normalized elements.

    ``S = squares + eps'``; ``s = mul((a, 15), (rsqrt(w), -1 - k / 2))`` with ``k`` and ``w`` from ``S``. A
    stretch of a pipeline, as those of :mod:`serrano.vector.arithmetic`. The vector must not be zero.

    Parameters
    ----------
    registered : :class:`bool`
        More registers.

    Members
    -------
    enable : ``In(1)``
        Registers load.
    squares : ``In(64)``
        Sum of squares.
    factors : ``In(Factors)``
        Factors of the row.
    eps : ``In(PackedScale)``
        Scale of eps times the dimension.
    scale : ``Out(Scale)``
        Scale of the row of ``latency`` (10, with ``registered`` 20) enabled cycles ago.
    """

    enable: In(1)
    squares: In(64)
    factors: In(Factors)
    eps: In(PackedScale)
    scale: Out(Scale)

    def __init__(self, *, registered: bool = False):
        self.registered = registered
        self.latency = self.latency_of(registered)
        super().__init__()

    @staticmethod
    def latency_of(registered: bool) -> int:
        """Latency with, and without, more registers: to ``S``, to ``k``, to ``w``, and to the scale."""
        before = 3 + 3 * int(registered) + HighestBit.latency_of(registered) + 1 + 2 * int(registered)
        return before + Rsqrt.latency_of(registered) + ScaleProduct.latency_of(registered)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enable, registered = self.enable, self.registered
        m.submodules.rsqrt = rsqrt = Rsqrt(registered=registered)
        m.submodules.scale_product = product = ScaleProduct(registered=registered)
        m.submodules.highest = highest = HighestBit(64, registered=registered)

        def later(value: Value, name: str) -> Value:
            return delayed(m, value, int(registered), enable=enable, name=name)

        eps = Signal(Scale)
        exponent = Signal(signed(9))
        mantissa = Signal(16, reset_less=True)
        amount = Signal(6, reset_less=True)
        kept, total = (Signal(64, name=name, reset_less=True) for name in ("kept", "total"))
        operand = Signal(19, reset_less=True)
        again, even, left = Signal(64), Signal(5), Signal(6)
        coarse = Signal(63)
        near, _ = shift_right(m, again.shift_left(1), left, 20, name="near", later=later)
        wait = waited if registered else delayed
        squares = wait(m, self.squares, 2 + 3 * int(registered), enable=enable, name="squares")
        with m.If(enable):
            m.d.sync += [
                # Cycle 1: eps' is m_eps << t. From t = -17 down nothing is left.
                mantissa.eq(later(eps.mantissa, "mantissa")),
                amount.eq(46 - limit(later(exponent, "exponent"), -17, 46)),
                # Cycle 2: a right shift once 46 bits and one for rounding are appended.
                kept.eq(later(coarse, "coarse") >> later(amount[:FINE_BITS], "fine")),
                # Cycle 3: S. Cycle 4: k, which is even. Cycle 5: w, whose lowest bit is rounded.
                total.eq(squares + later((kept + 1) >> 1, "epsilon")),
                operand.eq((later(near, "near") + 1) >> 1),
            ]
        m.d.comb += [
            coarse.eq(mantissa.shift_left(47) >> Cat(Const(0, FINE_BITS), amount[FINE_BITS:])),
            highest.enable.eq(enable),
            highest.value.eq(total),
            again.eq(delayed(m, total, highest.latency, enable=enable, name="again")),
            even.eq(highest.position[1:]),
            left.eq(Cat(Const(0, 1), even - 8)),
        ]
        top = wait(m, self.factors.top, self.latency - product.latency, enable=enable, name="top")
        half = delayed(m, even, 1 + 2 * int(registered) + rsqrt.latency, enable=enable, name="half")
        root = Signal(Scale)
        m.d.comb += [
            eps.eq(unpack_scale(self.eps)),
            # t = e_eps + 17 - 2 n, n = p - 15.
            exponent.eq(eps.exponent + 47 - (self.factors.position << 1)),
            rsqrt.enable.eq(enable),
            rsqrt.operand.eq(operand),
            root.eq(normalized(rsqrt.result, -1 - half)),
            product.enable.eq(enable),
            product.a.eq(normalized(top, Const(15))),
            product.b.eq(root),
            self.scale.eq(product.product),
        ]
        return m
