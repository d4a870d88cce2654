# SPDX-License-Identifier: Apache-2.0
"""A processing element of the systolic array."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from serrano.primitives.multiplier import Multiplier

__all__ = ["OPERAND_BITS", "WEIGHT_BITS", "LoadEnable", "ProcessingElement"]

OPERAND_BITS = 9
WEIGHT_BITS = 8


class LoadEnable(data.Struct):
    """A weight is to be written into ``plane``."""

    write: unsigned(1)
    plane: unsigned(1)


class ProcessingElement(wiring.Component):
    """Multiplies an operand by one of two resident weights and adds the product to a passing sum.

    ``sum_o = sum_i + operand_i * weight[plane_i]``, the sum entering ``multiplier_latency`` cycles after its
    operand and leaving one cycle later. Operand and plane go on to the right one cycle later.

    Parameters
    ----------
    sum_bits : :class:`int`
        Width of a partial sum.
    multiplier_latency : :class:`int`
        Cycles from operands to product.

    Members
    -------
    operand_i, operand_o : ``In(signed(9))``, ``Out(signed(9))``
        Operand.
    plane_i, plane_o : ``In(1)``, ``Out(1)``
        Weight plane that the operand uses.
    sum_i, sum_o : ``In(signed(sum_bits))``, ``Out(signed(sum_bits))``
        Partial sum.
    row_weight, column_weight : ``In(signed(8))``
        Weight to be written in a load by row, by column.
    row_load_i, row_load_o : ``In(LoadEnable)``, ``Out(LoadEnable)``
        Load by row, which goes on to the right one cycle later.
    column_load_i, column_load_o : ``In(LoadEnable)``, ``Out(LoadEnable)``
        Load by column, which goes on downwards one cycle later.
    """

    def __init__(self, sum_bits: int, multiplier_latency: int):
        self.sum_bits = sum_bits
        self.multiplier_latency = multiplier_latency
        super().__init__(
            {
                "operand_i": In(signed(OPERAND_BITS)),
                "operand_o": Out(signed(OPERAND_BITS)),
                "plane_i": In(1),
                "plane_o": Out(1),
                "sum_i": In(signed(sum_bits)),
                "sum_o": Out(signed(sum_bits)),
                "row_weight": In(signed(WEIGHT_BITS)),
                "column_weight": In(signed(WEIGHT_BITS)),
                "row_load_i": In(LoadEnable),
                "row_load_o": Out(LoadEnable),
                "column_load_i": In(LoadEnable),
                "column_load_o": Out(LoadEnable),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = Multiplier(
            OPERAND_BITS, WEIGHT_BITS, latency=self.multiplier_latency
        )
        weights = [Signal(signed(WEIGHT_BITS), name=f"weight_{plane}", reset_less=True) for plane in range(2)]
        for plane, weight in enumerate(weights):
            with m.If(self.row_load_i.write & (self.row_load_i.plane == plane)):
                m.d.sync += weight.eq(self.row_weight)
            with m.If(self.column_load_i.write & (self.column_load_i.plane == plane)):
                m.d.sync += weight.eq(self.column_weight)
        m.d.comb += [
            multiplier.a.eq(self.operand_i),
            multiplier.b.eq(Mux(self.plane_i, weights[1], weights[0])),
        ]
        operand = Signal(signed(OPERAND_BITS), reset_less=True)
        plane = Signal(reset_less=True)
        total = Signal(signed(self.sum_bits), reset_less=True)
        m.d.sync += [
            operand.eq(self.operand_i),
            plane.eq(self.plane_i),
            total.eq(self.sum_i + multiplier.p),
            # With reset: a load under way must not write into the first tile after it.
            self.row_load_o.eq(self.row_load_i),
            self.column_load_o.eq(self.column_load_i),
        ]
        m.d.comb += [self.operand_o.eq(operand), self.plane_o.eq(plane), self.sum_o.eq(total)]
        return m
