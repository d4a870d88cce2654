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

    An operand row that enters in cycle ``u`` gives ``sum_k operand[k] * weight[k][j]`` at ``sums[j]`` in
    cycle ``u + latency + j``: the sums leave as a diagonal wave, as everything moves inside. What leaves in
    cycles to which no row belongs means nothing.

    ``load`` writes ``load_vectors`` rows (or columns) of a plane: rows ``unit * load_vectors`` and on.
    Weights move as the same wave. Element (k, j) reads its weight in cycle ``u + 1 + k + j``, at the
    multiplier's input, whatever the multiplier's latency; a unit that enters in cycle ``w`` is written into
    it at the end of cycle ``w + 1 + j`` (by column: ``w + 1 + k``), with ``w`` later by ``k // load_vectors``
    (``j // load_vectors``) than the tile's first unit. So a plane may be used from the cycle after its last
    unit, and written again from cycle ``u + reload`` on, where ``u`` is the cycle of the last row that uses
    it and ``reload`` the largest ``k - k // load_vectors``: 0 for one vector a cycle, ``n / 2`` for two.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    valid : ``In(1)``
        A row enters.
    operand : ``In(ArrayLayout(signed(9), n))``
        Its operands.
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

    Raises
    ------
    ValueError
        If the load path is wider than a tile.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        n, vectors = config.n, config.load_vectors
        self.latency = self.latency_of(config)
        # Row k is written k // vectors cycles after row 0, and used k cycles after it.
        self.reload = max(k - k // vectors for k in range(n))
        super().__init__(
            {
                "valid": In(1),
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
        return 1 + config.n + config.multiplier_latency

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
        # Cycle 0: rows and weights enter together, so that the distance between them stays.
        operand = Signal.like(self.operand, reset_less=True)
        plane, load_plane = Signal(reset_less=True), Signal(reset_less=True)
        tile = Signal.like(self.tile.vectors, reset_less=True)
        with m.If(self.valid):
            m.d.sync += [operand.eq(self.operand), plane.eq(self.plane)]
        with m.If(self.load):
            m.d.sync += [tile.eq(self.tile.vectors), load_plane.eq(self.load_plane)]
        # Cycle 1 and on: row k, and vector element k, go k cycles later.
        weights = [
            [self._delay(m, tile[v][e], e, f"weight_{v}_{e}") for e in range(n)] for v in range(vectors)
        ]
        for k in range(n):
            chosen = self.load & (self.unit == k // vectors)
            for by_column, target in ((0, elements[k][0].row_load_i), (1, elements[0][k].column_load_i)):
                write = Signal(name=f"write_{'column' if by_column else 'row'}_{k}")
                m.d.sync += write.eq(chosen & (self.tile.by_column == by_column))
                m.d.comb += [target.write.eq(write), target.plane.eq(load_plane)]
            m.d.comb += [
                elements[k][0].operand_i.eq(self._delay(m, operand[k], k, f"operand_{k}")),
                elements[k][0].plane_i.eq(plane),
                self.sums[k].eq(elements[n - 1][k].sum_o),
            ]
            plane = self._delay(m, plane, 1, f"plane_{k + 1}")
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
