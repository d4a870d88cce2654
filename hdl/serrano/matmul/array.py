# SPDX-License-Identifier: Apache-2.0
"""The array of processing elements."""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from serrano.config import AcceleratorConfig

from .held import HeldElement
from .payloads import TileUnit
from .pe import OPERAND_BITS, ProcessingElement

__all__ = ["SystolicArray", "sum_bits"]


def _bits_of(rows: int) -> int:
    """Width of a sum of so many products of a byte and a signed byte."""
    return 16 + ceil_log2(rows)


def sum_bits(config: AcceleratorConfig) -> int:
    """Width of a sum at the bottom edge."""
    return _bits_of(config.n)


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

    With ``config.held_weights`` there is one plane and the multipliers' own registers: the first row of a
    tile takes the loaded weights there with ``swap``, and the plane is free for the next tile from cycle
    ``u + reload`` on, where ``u`` is the cycle of this row. A partial sum is as wide as its row needs.

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
        Weight plane that it uses. Without held weights only.
    swap : ``In(1)``
        It is the first row of its tile. With held weights only.
    load : ``In(1)``
        Write ``tile`` into plane ``load_plane``.
    load_plane : ``In(1)``
        See ``load``. Without held weights only.
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
                **({"swap": In(1)} if config.held_weights else {"plane": In(1), "load_plane": In(1)}),
                "load": In(1),
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
        n, held = self.config.n, self.config.held_weights
        elements = [[self._element(row) for _ in range(n)] for row in range(n)]
        for row in range(n):
            for column in range(n):
                m.submodules[f"pe_{row}_{column}"] = elements[row][column]
        # Cycle 0: rows and weights enter together, so that the distance between them stays.
        operand, chosen = Signal.like(self.operand, reset_less=True), Signal(reset_less=True)
        if held:
            # With registers there are swaps without a row too: that of the next row comes behind them.
            valid = self.valid | int(self.config.registered)
            m.d.sync += [operand.eq(self.operand), chosen.eq(valid & self.swap)]
        else:
            with m.If(self.valid):
                m.d.sync += [operand.eq(self.operand), chosen.eq(self.plane)]
        # Cycle 1 and on: row k goes k cycles later.
        for k in range(n):
            first, last = elements[k][0], elements[n - 1][k]
            m.d.comb += [
                first.operand_i.eq(self._delay(m, operand[k], k, f"operand_{k}")),
                (first.swap_i if held else first.plane_i).eq(chosen),
                self.sums[k].eq(last.sum_o),
            ]
            chosen = self._delay(m, chosen, 1, f"chosen_{k + 1}")
            for j in range(n):
                pe = elements[k][j]
                if j:
                    left = elements[k][j - 1]
                    m.d.comb += [
                        pe.operand_i.eq(left.operand_o),
                        (pe.swap_i if held else pe.plane_i).eq(left.swap_o if held else left.plane_o),
                        pe.row_load_i.eq(left.row_load_o),
                    ]
                if k:
                    above = elements[k - 1][j]
                    m.d.comb += [pe.sum_i.eq(above.sum_o), pe.column_load_i.eq(above.column_load_o)]
        self._build_loading(m, elements)
        return m

    def _element(self, row: int) -> Any:
        bits, latency = sum_bits(self.config), self.config.multiplier_latency
        if self.config.held_weights:
            return HeldElement(_bits_of(max(1, row)), _bits_of(row + 1), latency)
        return ProcessingElement(bits, latency)

    def _build_loading(self, m: Module, elements: list[list[Any]]) -> None:
        """Vectors of a tile enter at the left and at the upper edge; element k goes k cycles later."""
        config, n, vectors = self.config, self.config.n, self.config.load_vectors
        tile = Signal.like(self.tile.vectors, reset_less=True)
        load_plane = Signal(reset_less=True)
        # What is not to be loaded is not written either.
        m.d.sync += tile.eq(self.tile.vectors)
        if not config.held_weights:
            m.d.sync += load_plane.eq(self.load_plane)
        weights = [
            [self._delay(m, tile[v][e], e, f"weight_{v}_{e}") for e in range(n)] for v in range(vectors)
        ]
        for k in range(n):
            chosen = self.load & (self.unit == k // vectors)
            for by_column, target in ((0, elements[k][0].row_load_i), (1, elements[0][k].column_load_i)):
                write = Signal(name=f"write_{'column' if by_column else 'row'}_{k}")
                m.d.sync += write.eq(chosen & (self.tile.by_column == by_column))
                if config.held_weights:
                    m.d.comb += target.eq(write)
                else:
                    m.d.comb += [target.write.eq(write), target.plane.eq(load_plane)]
            for j in range(n):
                m.d.comb += [
                    elements[k][j].row_weight.eq(weights[k % vectors][j]),
                    elements[k][j].column_weight.eq(weights[j % vectors][k]),
                ]

    def _delay(self, m: Module, value: Value, cycles: int, name: str) -> Value:
        for cycle in range(cycles):
            register = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
            m.d.sync += register.eq(value)
            value = register
        return value
