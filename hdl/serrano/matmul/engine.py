# SPDX-License-Identifier: Apache-2.0
"""The array with its loader, its issue control and its accumulators."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from serrano.config import AcceleratorConfig
from serrano.layouts import ACCUMULATOR_BITS, Half, RowTag
from serrano.stream.delay import DelayLine
from serrano.stream.pipeline import delayed
from serrano.stream.slices import later

from .accumulator import AccumulatorColumn, ColumnTag, results_depth
from .array import SystolicArray
from .held import HeldLoader
from .loader import TileLoader
from .payloads import RowBeat, TileUnit

__all__ = ["Engine"]


class Engine(wiring.Component):
    """Multiplies rows by tiles and accumulates.

    For every row of a tile, ``s[j] = sum_k operand[k] * tile[k][j]`` goes into the accumulators as the
    row's tag says; the values of rows with ``emit`` come out in order. A row waits until its tile is
    loaded, with ``emit`` until there is room for its result (with ``config.registered`` any row does), and
    until its accumulator was last used at least ``AccumulatorColumn.interval_of(config)`` cycles ago.
    Otherwise a row is taken in every cycle. A LOW row follows its HIGH row in the same tile, with no row
    between them.

    Parameters
    ----------
    config : :class:`~serrano.config.AcceleratorConfig`
        The accelerator.

    Members
    -------
    tiles : ``In(stream.Signature(TileUnit(config)))``
        Tiles, ``tile_units`` units each, or as far as they are needed.
    rows : ``In(stream.Signature(RowBeat(config)))``
        Rows of the tiles, in order.
    results : ``Out(stream.Signature(ArrayLayout(signed(40), n)))``
        Emitted values; ``latency`` cycles after their row was taken, at the earliest. One in each cycle, or
        in two with ``config.registered``: whoever handles a result takes as long.
    active, wait_tile, wait_results : ``Out(1)``
        A row is taken; a row waits for its tile; for room among the results, or for an accumulator. All of
        it a cycle ago with ``config.registered``.

    Raises
    ------
    ValueError
        If the load path is wider than a tile.
    """

    def __init__(self, config: AcceleratorConfig):
        self.config = config
        # The last column's sum, accumulation, and the way through the results' memory; with registers there
        # is one for the row to come.
        array = SystolicArray.latency_of(config) + config.n - 1
        self.latency = array + AccumulatorColumn.latency_of(config) + 2 + int(config.registered)
        super().__init__(
            {
                "tiles": In(stream.Signature(TileUnit(config))),
                "rows": In(stream.Signature(RowBeat(config))),
                "results": Out(stream.Signature(data.ArrayLayout(signed(ACCUMULATOR_BITS), config.n))),
                "active": Out(1),
                "wait_tile": Out(1),
                "wait_results": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.array = array = SystolicArray(self.config)
        valid, row, taken = Signal(), Signal.like(self.rows.payload), Signal()
        spaced, room = Signal(), Signal()
        if self.config.registered:
            self._build_head(m, valid, row, taken, spaced)
        else:
            m.d.comb += [valid.eq(self.rows.valid), row.eq(self.rows.payload)]
            self._build_spacing(m, row.tag, taken, spaced)
        loader = self._build_loader(m, array, row.last, taken)
        may = loader.loaded & spaced & room
        m.d.comb += [
            taken.eq(valid & may),
            array.valid.eq(taken),
            array.operand.eq(row.operand),
        ]
        domain = m.d.sync if self.config.registered else m.d.comb
        domain += [
            self.active.eq(taken),
            self.wait_tile.eq(valid & ~loader.loaded),
            self.wait_results.eq(valid & loader.loaded & ~(spaced & room)),
        ]
        m.d.comb += self.rows.ready.eq((~valid | may) if self.config.registered else may)
        self._build_columns(m, array, self._build_edge(m, array, row.tag, taken), row.tag, taken, room)
        return m

    def _build_edge(self, m: Module, array: SystolicArray, tag: Any, taken: Signal) -> Any:
        """The row's tag when its sums come to the bottom edge; with registers the way there is a memory."""
        edge, valid = Signal(ColumnTag(self.config)), Signal(array.latency)
        m.d.sync += valid.eq(Cat(taken, valid))
        m.d.comb += edge.valid.eq(valid[-1])
        if self.config.registered:
            m.submodules.tags = tags = DelayLine(RowTag(self.config), array.latency)
            m.d.comb += [tags.enable.eq(1), tags.i.eq(tag), edge.tag.eq(tags.o)]
        else:
            m.d.comb += edge.tag.eq(delayed(m, tag, array.latency, enable=1, name="tag"))
        return edge

    def _build_loader(self, m: Module, array: SystolicArray, last: Signal, taken: Signal) -> Any:
        """The loader that suits the array's elements, and what passes between both."""
        if self.config.held_weights:
            loader = HeldLoader(self.config, array.reload)
            m.d.comb += [array.swap.eq(loader.swap), loader.taken.eq(taken), loader.last.eq(last)]
        else:
            loader = TileLoader(self.config, array.reload)
            m.d.comb += [
                array.plane.eq(loader.use_plane),
                array.load_plane.eq(loader.load_plane),
                loader.release.eq(taken & last),
            ]
        m.submodules.loader = loader
        wiring.connect(m, wiring.flipped(self.tiles), loader.tiles)
        m.d.comb += [
            array.load.eq(loader.load),
            array.unit.eq(loader.unit),
            array.tile.eq(loader.tile),
        ]
        return loader

    def _uses(self, m: Module, tag: Signal, taken: Signal) -> list[tuple[Any, Any]]:
        """Whether an accumulator was used, and which: in this cycle, in the one before it and so on."""
        address, used = tag.address, taken & (tag.half != Half.HIGH)
        uses = [(used, address)]
        for cycle in range(1, AccumulatorColumn.interval_of(self.config)):
            recent = Signal.like(tag.address, name=f"recent_{cycle}", reset_less=True)
            before = Signal(name=f"used_{cycle}")
            m.d.sync += [recent.eq(address), before.eq(used)]
            address, used = recent, before
            uses.append((used, address))
        return uses

    def _build_spacing(self, m: Module, tag: Signal, taken: Signal, spaced: Signal) -> None:
        """A row waits while the new value of its accumulator is on its way; ``first`` needs no old one."""
        conflict = Cat(used & (recent == tag.address) for used, recent in self._uses(m, tag, taken)[1:]).any()
        m.d.comb += spaced.eq(~conflict | tag.first | (tag.half == Half.HIGH))

    def _build_head(self, m: Module, valid: Signal, row: Signal, taken: Signal, spaced: Signal) -> None:
        """Keeps the row to come, and for how long it waits.

        Bit ``k`` is for uses up to ``k + 1`` cycles ago; the last bit counts.
        """
        following = self.rows.payload.tag
        # The row is taken, if there is one, when the next one comes.
        uses = self._uses(m, row.tag, taken)[:-1]
        uses[0] = (valid & (row.tag.half != Half.HIGH), row.tag.address)
        conflicts, found = Signal(len(uses)), Const(0)
        needs = ~following.first & (following.half != Half.HIGH)
        m.d.comb += spaced.eq(~conflicts[-1])
        m.d.sync += conflicts.eq(conflicts << 1)
        waits = []
        for used, recent in uses:
            found = found | (used & (recent == following.address))
            waits.append(found)
        with m.If(self.rows.ready):
            m.d.sync += [
                valid.eq(self.rows.valid),
                row.eq(self.rows.payload),
                conflicts.eq(Mux(needs, Cat(waits), 0)),
            ]

    def _build_columns(
        self, m: Module, array: SystolicArray, edge: Signal, tag: Signal, taken: Signal, room: Signal
    ) -> None:
        """The columns' results are written one after another and read together."""
        depth = results_depth(self.config)
        stored, claimed = Signal(range(depth + 1)), Signal(range(depth + 1))
        head = Signal(range(depth))
        fetch, leave, emits, free = Signal(), Signal(), Signal(), Signal()
        column_tag = edge
        # With registers nothing goes from `ready` to all of a result: it is fetched when the place is free.
        results = self.results
        for index in range(self.config.n):
            column = AccumulatorColumn(self.config)
            m.submodules[f"column_{index}"] = column
            m.d.comb += [
                column.tag_i.eq(column_tag),
                column.sum.eq(array.sums[index]),
                column.fetch.eq(fetch),
                column.fetch_address.eq(head),
                results.payload[index].eq(column.result),
            ]
            column_tag = column.tag_o
        m.d.comb += [
            leave.eq(results.valid & results.ready),
            emits.eq(tag.emit & (tag.half != Half.HIGH)),
            # With registers whatever the row is: it decides on all of the way in.
            room.eq(free if self.config.registered else free | ~emits),
        ]
        if self.config.registered:
            # Two cycles late, and therefore two short.
            m.d.sync += free.eq(claimed < depth - 2)
            # Found a cycle ahead: nothing is there then, nor on its way.
            there = (stored != 0) | column.written
            m.d.sync += fetch.eq(there & ~fetch & (~results.valid | results.ready))
        else:
            m.d.comb += [
                free.eq(claimed != depth),
                fetch.eq((stored != 0) & (~results.valid | results.ready)),
            ]
        left = later(m, leave, registered=self.config.registered, name="left")
        claims = later(m, taken & emits, registered=self.config.registered, name="claims")
        m.d.sync += [
            stored.eq(stored + column.written - fetch),
            claimed.eq(claimed + claims - left),
            head.eq(head + fetch),
            results.valid.eq(fetch | (results.valid & ~results.ready)),
        ]
