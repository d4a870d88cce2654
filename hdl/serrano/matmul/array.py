# SPDX-License-Identifier: Apache-2.0
"""The array of processing elements."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig

from .payloads import TileUnit
from .pe import OPERAND_BITS, ProcessingElement

__all__ = ["SystolicArray", "sum_bits"]


def sum_bits(config: AcceleratorConfig) -> int:
    """Width of a partial sum: ``n`` products of a byte and a signed byte."""
    return 16 + ceil_log2(config.n)


class SystolicArray(wiring.Component):
    """``n * n`` processing elements, weight-stationary, that never stand still.

    An operand row that is at the input in cycle ``u`` gives ``sum_k operand[k] * weight[k][j]`` at
    ``sums[j]`` in cycle ``u + latency + j``: the sums leave as a diagonal wave, as everything moves inside.

    ``load`` writes ``load_vectors`` rows (or columns) of a plane: rows ``unit * load_vectors`` and on.
    Weights move as the same wave, so a plane may be used from the cycle after its last unit, and written
    again from cycle ``u + reload`` on, where ``u`` is the cycle of the last row that uses it.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    operand : ``In(ArrayLayout(signed(9), n))``
        A row of operands; zeros where there is none.
    plane : ``In(1)``
        Weight plane that it uses.
    load : ``In(1)``
        Write ``tile`` into plane ``load_plane``.
    load_plane : ``In(1)``
        See ``load``.
    unit : ``In(range(tile_units))``
        Which unit of the tile it is.
    tile : ``In(TileUnit(config))``
        Weights.
    sums : ``Out(ArrayLayout(signed(16 + log2(n)), n))``
        Sums at the bottom edge.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        n, vectors = config.n, config.load_vectors
        self.latency = self.latency_of(config)
        # Row k is written k // vectors cycles after row 0, and used k cycles after it.
        self.reload = max(k - k // vectors for k in range(n))
        super().__init__(
            {
                "operand": In(data.ArrayLayout(signed(OPERAND_BITS), n)),
                "plane": In(1),
                "load": In(1),
                "load_plane": In(1),
                "unit": In(range(max(2, config.tile_units))),
                "tile": In(TileUnit(config)),
                "sums": Out(data.ArrayLayout(signed(sum_bits(config)), n)),
            }
        )

    @staticmethod
    def latency_of(config: AcceleratorConfig) -> int:
        """Cycles from an operand row to its sum in column 0."""
        return config.n + config.multiplier_latency

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, n, vectors = self.config, self.config.n, self.config.load_vectors
        elements = [
            [ProcessingElement(sum_bits(config), config.multiplier_latency) for _ in range(n)]
            for _ in range(n)
        ]
        for row in range(n):
            for column in range(n):
                m.submodules[f"pe_{row}_{column}"] = elements[row][column]
        weights = [
            [self._delay(m, self.tile.vectors[v][e], e, f"weight_{v}_{e}") for e in range(n)]
            for v in range(vectors)
        ]
        for k in range(n):
            chosen = self.load & (self.unit == k // vectors)
            for by_column, target in ((0, elements[k][0].row_load_i), (1, elements[0][k].column_load_i)):
                m.d.comb += [
                    target.write.eq(chosen & (self.tile.by_column == by_column)),
                    target.plane.eq(self.load_plane),
                ]
            m.d.comb += [
                elements[k][0].operand_i.eq(self._delay(m, self.operand[k], k, f"operand_{k}")),
                elements[k][0].plane_i.eq(self._delay(m, self.plane, k, f"plane_{k}")),
                self.sums[k].eq(elements[n - 1][k].sum_o),
            ]
        for k in range(n):
            for j in range(n):
                pe = elements[k][j]
                m.d.comb += [
                    pe.row_weight.eq(weights[k % vectors][j]),
                    pe.column_weight.eq(weights[j % vectors][k]),
                ]
                if j:
                    left = elements[k][j - 1]
                    m.d.comb += [
                        pe.operand_i.eq(left.operand_o),
                        pe.plane_i.eq(left.plane_o),
                        pe.row_load_i.eq(left.row_load_o),
                    ]
                if k:
                    above = elements[k - 1][j]
                    m.d.comb += [pe.sum_i.eq(above.sum_o), pe.column_load_i.eq(above.column_load_o)]
        return m

    def _delay(self, m: Module, value: Value, cycles: int, name: str) -> Value:
        for cycle in range(cycles):
            register = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        return value
