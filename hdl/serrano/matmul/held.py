# SPDX-License-Identifier: Apache-2.0
"""Processing elements whose weight in use stays in the multiplier, and the loader that goes with them."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.primitives.held_multiplier import HeldMultiplier

from .payloads import TileUnit
from .pe import OPERAND_BITS, WEIGHT_BITS

__all__ = ["HeldElement", "HeldLoader"]


class HeldElement(wiring.Component):
    """Multiplies an operand by the weight it holds and adds the product to a passing sum.

    ``sum_o = sum_i + operand_i * held``, the sum entering ``multiplier_latency`` cycles after its operand and
    leaving one cycle later. With ``swap_i`` the operand, and those behind it, use the weight that was loaded
    last. Operand and swap go on to the right one cycle later. There is one register for the weight to come;
    the one in use lies in the multiplier, so that nothing has to be chosen in front of it.

    Parameters
    ----------
    in_bits, out_bits : :class:`int`
        Widths of the partial sums.
    multiplier_latency : :class:`int`
        Cycles from operands to product, at least 2.

    Members
    -------
    operand_i, operand_o : ``In(signed(9))``, ``Out(signed(9))``
        Operand.
    swap_i, swap_o : ``In(1)``, ``Out(1)``
        The loaded weight is to be used from this operand on.
    sum_i, sum_o : ``In(signed(in_bits))``, ``Out(signed(out_bits))``
        Partial sum.
    row_weight, column_weight : ``In(signed(8))``
        Weight to be written in a load by row, by column.
    row_load_i, row_load_o : ``In(1)``, ``Out(1)``
        Load by row, which goes on to the right one cycle later.
    column_load_i, column_load_o : ``In(1)``, ``Out(1)``
        Load by column, which goes on downwards one cycle later. Never in the cycle of a load by row.
    """

    def __init__(self, in_bits: int, out_bits: int, multiplier_latency: int):
        self.multiplier_latency = multiplier_latency
        super().__init__(
            {
                "operand_i": In(signed(OPERAND_BITS)),
                "operand_o": Out(signed(OPERAND_BITS)),
                "swap_i": In(1),
                "swap_o": Out(1),
                "sum_i": In(signed(in_bits)),
                "sum_o": Out(signed(out_bits)),
                "row_weight": In(signed(WEIGHT_BITS)),
                "column_weight": In(signed(WEIGHT_BITS)),
                "row_load_i": In(1),
                "row_load_o": Out(1),
                "column_load_i": In(1),
                "column_load_o": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = HeldMultiplier(
            OPERAND_BITS, WEIGHT_BITS, latency=self.multiplier_latency
        )
        weight = Signal(signed(WEIGHT_BITS), reset_less=True)
        operand = Signal(signed(OPERAND_BITS), reset_less=True)
        swap = Signal(reset_less=True)
        total = Signal.like(self.sum_o, name="total", reset_less=True)
        with m.If(self.row_load_i | self.column_load_i):
            m.d.sync += weight.eq(Mux(self.column_load_i, self.column_weight, self.row_weight))
        m.d.comb += [
            multiplier.a.eq(self.operand_i),
            multiplier.b.eq(weight),
            multiplier.b_en.eq(self.swap_i),
            self.operand_o.eq(operand),
            self.swap_o.eq(swap),
            self.sum_o.eq(total),
        ]
        m.d.sync += [
            operand.eq(self.operand_i),
            swap.eq(self.swap_i),
            total.eq(self.sum_i + multiplier.p),
            # With reset: a load under way must not write into the first tile after it.
            self.row_load_o.eq(self.row_load_i),
            self.column_load_o.eq(self.column_load_i),
        ]
        return m


class HeldLoader(wiring.Component):
    """Writes a tile into an array of :class:`HeldElement` while the one before it is in use.

    The elements have one place for the tile to come. It is free again ``reload`` cycles after the first row
    of its tile was taken, when the wave of that row has passed so far that the wave of new weights cannot
    overtake it; with ``config.registered`` one cycle at least. ``loaded`` is set while a tile is in use, or
    lies complete in its place.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.
    reload : :class:`int`
        Cycles from the first row of a tile to the first write of the next one.

    Members
    -------
    tiles : ``In(stream.Signature(TileUnit(config)))``
        Tiles.
    load : ``Out(1)``
        Write ``tile`` into the array.
    unit : ``Out(range(tile_units))``
        Which unit of its tile it is.
    tile : ``Out(TileUnit(config))``
        Unit of the tile.
    loaded : ``Out(1)``
        A row may be taken.
    swap : ``Out(1)``
        It is the first one of its tile.
    taken : ``In(1)``
        It is taken.
    last : ``In(1)``
        It is the last one of its tile.
    """

    def __init__(self, config: AcceleratorConfig, reload: int):
        self.config = config
        self.reload = max(reload, int(config.registered))
        super().__init__(
            {
                "tiles": In(stream.Signature(TileUnit(config))),
                "load": Out(1),
                "unit": Out(range(max(2, config.tile_units))),
                "tile": Out(TileUnit(config)),
                "loaded": Out(1),
                "swap": Out(1),
                "taken": In(1),
                "last": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        in_use, complete = Signal(), Signal()
        # It begins with a complete tile, and ends ``reload`` cycles after one has been swapped in.
        occupied = Signal() if self.reload > 1 else complete
        whole = (self.unit == self.config.tile_units - 1) | self.tiles.payload.ends
        first = self.taken & self.swap
        # Without `reload` the next tile may begin with the row itself; else one cycle passes by itself.
        opens = first if self.reload == 0 else Const(0)
        freed = first
        for cycle in range(max(0, self.reload - 1)):
            following = Signal(name=f"freed_{cycle + 1}")
            m.d.sync += following.eq(freed)
            freed = following
        m.d.comb += [
            self.tiles.ready.eq(~occupied | opens),
            self.load.eq(self.tiles.valid & self.tiles.ready),
            self.tile.eq(self.tiles.payload),
            self.swap.eq(~in_use),
            self.loaded.eq(in_use | complete),
        ]
        with m.If(self.taken):
            m.d.sync += in_use.eq(~self.last)
        with m.If(first):
            m.d.sync += complete.eq(0)
        with m.If(freed):
            m.d.sync += occupied.eq(0)
        with m.If(self.load):
            m.d.sync += self.unit.eq(Mux(whole, 0, self.unit + 1))
            with m.If(whole):
                m.d.sync += [occupied.eq(1), complete.eq(1)]
        return m
